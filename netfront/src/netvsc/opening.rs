//! The first words over a channel: the version of NVSP, and the buffers.

use super::connect::ConnectError;
use super::control::READ_TIMEOUT;
use super::longest;
use super::nvsp::{
    self, Init, InitComplete, NdisConfig, NdisVersion, ReceiveBufferComplete, SendBufferComplete,
    ShareBuffer, Version, kind,
};
use crate::capabilities::Offloads;
use hypercall::platform::{deadline, wait_for};
use hypercall::shm::Lent;
use hypercall::{Gate, HostFault, Platform};
use vmbus::abi::packet::PacketKind;
use vmbus::{Channel, Outgoing, SendError};
use zerocopy::{FromBytes, IntoBytes};

/// The id of every packet before the first queue is there; never 0.
const ID: u64 = 1;

/// A channel whose buffers are not shared yet, or not all.
pub(super) struct Opening<'b, 'h, P: Platform, G: Gate> {
    pub(super) channel: Channel<'b, 'h, P, G>,
    pub(super) platform: P,
    pub(super) timeout: u64,
    pub(super) version: Version,
    /// Buffers that the host knows, and by which name.
    pub(super) shared: heapless::Vec<(u32, u16), 2>,
}

impl<P: Platform, G: Gate> Opening<'_, '_, P, G> {
    fn put(&mut self, message: &[u64; nvsp::WORDS], answered: bool) -> Result<(), HostFault> {
        let [a, b, c, d, _] = *message;
        let short = [a, b, c, d];
        let (long, channel) = (self.version.words() == nvsp::WORDS, &mut self.channel);
        let sent = match (long, answered) {
            (true, true) => channel.send(Outgoing::in_band(ID, message).ask_completion()),
            (true, false) => channel.send(Outgoing::in_band(ID, message)),
            (false, true) => channel.send(Outgoing::in_band(ID, &short).ask_completion()),
            (false, false) => channel.send(Outgoing::in_band(ID, &short)),
        };
        channel.flush();
        // The ring is as good as empty.
        sent.map_err(|why| match why {
            SendError::Fault(fault) => fault,
            _ => HostFault::NoAnswer,
        })
    }

    fn exchange(&mut self, message: &[u64; nvsp::WORDS]) -> Result<[u64; 4], HostFault> {
        self.put(message, true)?;
        let until = deadline(&self.platform, self.timeout);
        let channel = &mut self.channel;
        wait_for(&self.platform, until, || {
            loop {
                let mut words = [0; 4];
                let found = channel.receive(&mut words);
                channel.done();
                match found {
                    Err(fault) => return Some(Err(fault)),
                    Ok(Some(packet)) => match (packet.kind, packet.transaction_id) {
                        (PacketKind::COMPLETION, ID) => return Some(Ok(words)),
                        (PacketKind::COMPLETION, _) => return Some(Err(HostFault::UnknownId)),
                        (PacketKind::TRANSFER_PAGES, _) => {
                            return Some(Err(HostFault::WrongOperation));
                        }
                        _ => {}
                    },
                    Ok(None) => match channel.arm() {
                        Ok(true) => {}
                        Ok(false) => return None,
                        Err(fault) => return Some(Err(fault)),
                    },
                }
            }
        })
        .unwrap_or(Err(HostFault::NoAnswer))
    }

    fn ask<T: FromBytes + IntoBytes>(
        &mut self,
        message: &[u64; nvsp::WORDS],
        answer: u32,
    ) -> Result<T, ConnectError> {
        let words = self.exchange(message)?;
        match nvsp::parse(&words) {
            (kind, body) if kind == answer => Ok(body),
            _ => Err(HostFault::WrongOperation.into()),
        }
    }

    pub(super) fn negotiate(&mut self) -> Result<(), ConnectError> {
        for version in Version::ALL {
            // The proposal itself has the size that the proposed version has.
            self.version = version;
            let init = Init {
                lowest: version.0,
                highest: version.0,
            };
            let message = nvsp::message(kind::INIT, &init);
            let answer: InitComplete = self.ask(&message, kind::INIT_COMPLETE)?;
            if answer.status == nvsp::SUCCESS {
                return Ok(());
            }
        }
        Err(ConnectError::NoVersion)
    }

    pub(super) fn configure(&mut self, mtu: u16, offloads: Offloads) -> Result<(), ConnectError> {
        if self.version >= Version::V2 {
            let config = NdisConfig {
                mtu: longest(mtu),
                reserved: 0,
                capabilities: match offloads.contains(Offloads::VLAN) {
                    true => nvsp::CAPABILITY_8021Q,
                    false => 0,
                },
            };
            self.put(&nvsp::message(kind::SEND_NDIS_CONFIG, &config), false)?;
        }
        let (major, minor) = self.version.ndis();
        let ndis = NdisVersion { major, minor };
        self.put(&nvsp::message(kind::SEND_NDIS_VERSION, &ndis), false)?;
        Ok(())
    }

    /// Lends the host a buffer and tells it what it is.
    fn share<T: FromBytes + IntoBytes>(
        &mut self,
        memory: &Lent<P>,
        (kind, id): (u32, u16),
        answer: u32,
    ) -> Result<T, ConnectError> {
        let gpadl = self.channel.lend(memory).map_err(ConnectError::Channel)?;
        let share = ShareBuffer {
            gpadl,
            id,
            reserved: 0,
        };
        // Whatever it answers, it may know it from now on.
        let _ = self.shared.push((kind, id));
        self.ask(&nvsp::message(kind, &share), answer)
    }

    pub(super) fn share_rx(
        &mut self,
        memory: &Lent<P>,
    ) -> Result<ReceiveBufferComplete, ConnectError> {
        const WHAT: (u32, u16) = (kind::SEND_RECEIVE_BUFFER, nvsp::RECEIVE_BUFFER_ID);
        let answer: ReceiveBufferComplete =
            self.share(memory, WHAT, kind::SEND_RECEIVE_BUFFER_COMPLETE)?;
        if answer.status != nvsp::SUCCESS {
            return Err(ConnectError::Nvsp(WHAT.0, answer.status));
        }
        let bytes = u64::from(answer.size).saturating_mul(answer.count.into());
        let end = bytes.saturating_add(answer.offset.into());
        let good = answer.sections == 1 && answer.size != 0 && answer.count != 0;
        if !good || end > memory.span().len() as u64 {
            return Err(HostFault::Length.into());
        }
        Ok(answer)
    }

    /// Bytes of a section; 0 when the host does without a send buffer.
    pub(super) fn share_tx(&mut self, memory: &Lent<P>) -> Result<u32, ConnectError> {
        const WHAT: (u32, u16) = (kind::SEND_SEND_BUFFER, nvsp::SEND_BUFFER_ID);
        let answer: SendBufferComplete =
            self.share(memory, WHAT, kind::SEND_SEND_BUFFER_COMPLETE)?;
        if answer.status != nvsp::SUCCESS {
            log::debug!("netvsc: no send buffer, status {}", answer.status);
            self.shared.pop();
            return Ok(0);
        }
        Ok(answer.section_size)
    }

    /// Takes everything back. `false` when the host does not let go.
    pub(super) fn abort(mut self) -> bool {
        for (kind, id) in core::mem::take(&mut self.shared) {
            let kind = match kind {
                kind::SEND_RECEIVE_BUFFER => kind::REVOKE_RECEIVE_BUFFER,
                _ => kind::REVOKE_SEND_BUFFER,
            };
            let message = nvsp::message(kind, &nvsp::RevokeBuffer { id });
            let _ = self.put(&message, false);
        }
        // The host is to read these before it is told of the end.
        let until = deadline(&self.platform, self.timeout.min(READ_TIMEOUT));
        let channel = &mut self.channel;
        let _ = wait_for(&self.platform, until, || {
            channel.is_read().unwrap_or(true).then_some(())
        });
        self.channel.close().is_ok()
    }
}
