//! Memory that the host is lent by name: a GPADL, for as long as its channel is open.

use crate::abi::message::GpadlTeardown;
use crate::bus::VmBus;
use crate::channel::Channel;
use crate::error::{AskError, OpenError};
use crate::proto::awaited::{Question, Reply};
use crate::proto::gpadl;
use crate::proto::outgoing::Outgoing as Message;
use hypercall::platform::deadline;
use hypercall::shm::Lent;
use hypercall::{Gate, HostFault, Hypervisor, Platform};

/// Runs of memory that a channel's host can be lent beside the rings.
pub const LOANS: usize = 4;

impl<P: Platform, G: Gate> VmBus<'_, P, G> {
    /// Names pages to the host. With the error comes whether the host may have them.
    pub(crate) fn name(
        &self,
        relid: u32,
        gpadl: u32,
        pages: usize,
        frames: impl Iterator<Item = u64>,
    ) -> Result<(), (OpenError, bool)> {
        let messages = gpadl::Messages::new(relid, gpadl, pages, frames)
            .ok_or((OpenError::TooLarge, false))?;
        let created = self.ask(
            Question::Created { relid, gpadl },
            Some(relid),
            deadline(self.hypervisor().platform(), self.timeout()),
            |bus| messages.into_iter().try_for_each(|m| bus.post(&m)),
        );
        match created {
            Ok(Reply::Status(0)) => Ok(()),
            Ok(Reply::Status(status)) => Err((OpenError::Refused(status), false)),
            Ok(Reply::Version(_)) => Err((HostFault::WrongOperation.into(), true)),
            Err(AskError::Busy) => Err((OpenError::Busy, false)),
            Err(error) => Err((error.into(), true)),
        }
    }

    /// Has the host let go of a GPADL's pages.
    pub(crate) fn teardown(&self, relid: u32, gpadl: u32) -> Result<(), HostFault> {
        let until = deadline(self.hypervisor().platform(), self.timeout());
        let torndown = self.ask(Question::Torndown { gpadl }, None, until, |bus| {
            bus.post(&Message::new(&GpadlTeardown { relid, gpadl }))
        });
        match torndown {
            Ok(_) => Ok(()),
            Err(error) => {
                log::warn!("channel {relid}: the host keeps GPADL {gpadl:#x}, which is leaked");
                Err(match HostFault::from(error) {
                    HostFault::NoAnswer => HostFault::MemoryHeld,
                    fault => fault,
                })
            }
        }
    }
}

/// The frames of a run.
pub(crate) fn frames<P: Platform>(lent: &Lent<P>) -> impl Iterator<Item = u64> {
    (0..lent.count()).filter_map(|page| lent.gfn(page))
}

impl<P: Platform, G: Gate> Channel<'_, '_, P, G> {
    /// Lends the host memory beside the rings, for as long as the channel is open: up to
    /// [`LOANS`] runs of at most 8190 pages. Returns the number that the device knows it by (its
    /// GPADL). The host may use it until [`close`](Self::close) has returned `Ok`: keep it lent
    /// until then.
    ///
    /// # Errors
    /// [`OpenError`]. The host may have the memory all the same.
    pub fn lend(&mut self, memory: &Lent<P>) -> Result<u32, OpenError> {
        let gpadl = self.bus.next_gpadl();
        if !self.is_open() || self.loans.is_full() {
            return Err(OpenError::TooLarge);
        }
        let named = self
            .bus
            .name(self.relid, gpadl, memory.count(), frames(memory));
        if !matches!(named, Err((_, false))) {
            // There is room for it.
            let _ = self.loans.push(gpadl);
        }
        named.map(|()| gpadl).map_err(|(error, _)| error)
    }
}
