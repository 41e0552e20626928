//! Requests to the host, with the wait for its answer.

use super::super::live::Live;
use super::super::nvsp;
use super::super::rndis::{self, Request};
use super::{Answer, Control, NVSP_ID, NVSP_WORDS, READ_TIMEOUT, Waiting, accepted};
use hypercall::{Gate, HostFault, Platform};
use vmbus::Outgoing;
use zerocopy::IntoBytes;

/// The fixed part of a query or set, without its number.
pub(super) fn query(oid: u32, information: &[u8]) -> [u8; 16] {
    let offset = match information.len() {
        0 => 0,
        _ => size_of::<Request>() as u32,
    };
    let mut bytes = [0; 16];
    let words = [oid, information.len() as u32, offset, 0];
    bytes.copy_from_slice(words.as_bytes());
    bytes
}

/// Requests, of which the first queue is asked while it connects or closes.
impl<P: Platform, G: Gate> Live<'_, '_, P, G> {
    fn control(&mut self) -> Result<&mut Control<P>, HostFault> {
        self.control.as_mut().ok_or(HostFault::WrongOperation)
    }

    /// Sends a request. With `answered` waits for its answer, else only till the host has read it.
    fn request(
        &mut self,
        platform: &P,
        timeout: u64,
        kind: u32,
        fixed: &[u8],
        information: &[u8],
        answered: bool,
    ) -> Result<Option<Answer>, HostFault> {
        // An answer that another request waits for is not waited for.
        self.wait(platform, timeout, |live| match &live.control {
            Some(control) => (!control.busy).then_some(()),
            None => Some(()),
        })?;
        self.control()?.answer = None;
        let number = self.control()?.next;
        self.wait(platform, timeout, |live| {
            let control = live.control.as_mut()?;
            match control.post(&mut live.channel, kind, fixed, information) {
                Ok(false) => None,
                Ok(true) => Some(Ok(())),
                Err(fault) => Some(Err(fault)),
            }
        })??;
        self.control()?.waiting = match answered {
            true => Waiting::Caller(number),
            false => Waiting::Nobody,
        };
        self.wait(platform, timeout, |live| {
            let control = live.control.as_mut()?;
            let done = !control.busy && (!answered || control.answer.is_some());
            done.then(|| control.answer.take())
        })
    }

    fn answer(
        &mut self,
        platform: &P,
        timeout: u64,
        kind: u32,
        fixed: &[u8],
        information: &[u8],
    ) -> Result<Answer, HostFault> {
        let answer = self.request(platform, timeout, kind, fixed, information, true)?;
        match answer {
            Some(answer) if answer.kind == kind | rndis::kind::COMPLETE => Ok(answer),
            _ => Err(HostFault::WrongOperation),
        }
    }

    /// INITIALIZE.
    pub(in super::super) fn initialize(
        &mut self,
        platform: &P,
        timeout: u64,
    ) -> Result<Answer, HostFault> {
        const VERSION: [u32; 2] = [1, 0];
        const MAX_TRANSFER: u32 = 0x4000;
        let fixed = [VERSION[0], VERSION[1], MAX_TRANSFER];
        self.answer(
            platform,
            timeout,
            rndis::kind::INITIALIZE,
            fixed.as_bytes(),
            &[],
        )
    }

    /// QUERY, with the information that goes with it.
    pub(in super::super) fn query(
        &mut self,
        platform: &P,
        timeout: u64,
        oid: u32,
        information: &[u8],
    ) -> Result<Answer, HostFault> {
        let fixed = query(oid, information);
        self.answer(platform, timeout, rndis::kind::QUERY, &fixed, information)
    }

    /// SET: 0, or why the host refused.
    pub(in super::super) fn set(
        &mut self,
        platform: &P,
        timeout: u64,
        oid: u32,
        information: &[u8],
    ) -> Result<u32, HostFault> {
        let fixed = query(oid, information);
        self.answer(platform, timeout, rndis::kind::SET, &fixed, information)?
            .status()
    }

    /// HALT, which has no answer.
    pub(in super::super) fn halt(&mut self, platform: &P, timeout: u64) -> Result<(), HostFault> {
        self.request(platform, timeout, rndis::kind::HALT, &[], &[], false)?;
        Ok(())
    }

    /// Sends an NVSP message; with `answered` waits for its answer, else till the host has read it.
    pub(in super::super) fn nvsp(
        &mut self,
        platform: &P,
        timeout: u64,
        message: &[u64; nvsp::WORDS],
        answered: bool,
    ) -> Result<[u64; NVSP_WORDS], HostFault> {
        let words = self.control()?.version.words();
        self.wait(platform, timeout, |live| {
            let [a, b, c, d, _] = *message;
            let short = [a, b, c, d];
            let sent = match (words == nvsp::WORDS, answered) {
                (true, true) => live
                    .channel
                    .send(Outgoing::in_band(NVSP_ID, message).ask_completion()),
                (true, false) => live.channel.send(Outgoing::in_band(NVSP_ID, message)),
                (false, true) => live
                    .channel
                    .send(Outgoing::in_band(NVSP_ID, &short).ask_completion()),
                (false, false) => live.channel.send(Outgoing::in_band(NVSP_ID, &short)),
            };
            match accepted(sent) {
                Ok(false) => None,
                Ok(true) => Some(Ok(())),
                Err(fault) => Some(Err(fault)),
            }
        })??;
        if !answered {
            self.channel.flush();
            // Some hosts read nothing any more after the first of these.
            self.wait(platform, timeout.min(READ_TIMEOUT), |live| {
                live.channel.is_read().unwrap_or(true).then_some(())
            })?;
            return Ok([0; NVSP_WORDS]);
        }
        self.control()?.asked = true;
        self.wait(platform, timeout, |live| live.control.as_mut()?.told.take())
    }
}
