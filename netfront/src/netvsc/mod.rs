//! Hyper-V's network interface: the guest side of a synthetic NIC.
//!
//! `nvsp`, `rndis`, `ndis` and `rss` are the wire; `opening` and `connect` are the hand-shake; a
//! [`Queue`] that is connected (`live`) joins `rx` and `tx` over a VMBus channel, and `control` is
//! what the first of them has beside frames.
//!
//! ```text
//! Netvsc ── receive buffer, send buffer (lent to the host for as long as the first channel is open)
//!   └─ Queue 0..n ── Channel ── Receive: frames lie in the receive buffer
//!                            └─ Transmit: frames lie in the send buffer, or in pages of a pool
//! ```

mod connect;
mod control;
mod live;
pub mod ndis;
pub mod nvsp;
mod opening;
mod pieces;
mod queue;
pub mod rndis;
pub mod rss;
mod rx;
mod tx;

use crate::ETHERNET_HEADER;
use crate::capabilities::{Capabilities, Config, Mac};
use crate::net::{Net, NetQueue};
pub use connect::ConnectError;
use core::fmt;
use heapless::Vec;
use hypercall::host::Hypervisor;
use hypercall::hyperv::HyperV;
use hypercall::shm::{Lent, Sections};
use hypercall::{Gate, HostFault, Platform};
use live::Live;
pub use queue::Queue;
use vmbus::{Offer, VmBus};

/// The most queue pairs of one interface.
pub const QUEUES: usize = 8;

/// No IPv4 network has smaller packets.
const LEAST_MTU: u16 = 68;

/// Buffers of earlier connections of which the caller has frames still.
const RETIRED: usize = 8;

/// Bytes of the longest frame, without a VLAN tag in it.
fn longest(mtu: u16) -> u32 {
    u32::from(mtu).wrapping_add(ETHERNET_HEADER as u32)
}

/// A Hyper-V network interface.
///
/// Dropping it closes it.
pub struct Netvsc<'b, 'h, P: Platform, G: Gate> {
    bus: &'b VmBus<'h, P, G>,
    hv: &'h HyperV<P, G>,
    offer: Offer,
    config: Config,
    version: nvsp::Version,
    queues: Vec<Queue<'b, 'h, P, G>, QUEUES>,
    /// Tickets of the receive buffer for each queue.
    tickets: u16,
    /// Bytes of a section of the send buffer, 0 without one.
    section_size: u32,
    /// The receive buffer.
    rx: Option<Sections<P>>,
    /// The send buffer, once it is divided among the queues.
    tx: Option<Sections<P>>,
    /// Before.
    undivided: Option<Lent<P>>,
    retired: Vec<Sections<P>, RETIRED>,
}

impl<P: Platform, G: Gate> fmt::Debug for Netvsc<'_, '_, P, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netvsc")
            .field("offer", &self.offer)
            .field("version", &self.version)
            .field("queues", &self.queues)
            .finish()
    }
}

impl<'b, 'h, P: Platform, G: Gate> Netvsc<'b, 'h, P, G> {
    /// Opens an interface.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(
        bus: &'b VmBus<'h, P, G>,
        offer: &Offer,
        config: Config,
    ) -> Result<Self, ConnectError> {
        let hv = bus.hypervisor();
        let mut queues = Vec::new();
        let first = Queue::new(hv, Capabilities::new(Mac([0; 6]), config.mtu));
        // There is room for one.
        let _ = queues.push(first);
        let mut net = Self {
            bus,
            hv,
            offer: offer.clone(),
            config,
            version: nvsp::Version::V1,
            queues,
            tickets: 0,
            section_size: 0,
            rx: None,
            tx: None,
            undivided: None,
            retired: Vec::new(),
        };
        net.open()?;
        Ok(net)
    }

    /// The version of NVSP that was agreed on.
    pub fn version(&self) -> nvsp::Version {
        self.version
    }

    /// All queue pairs at once, each to be sent to its own processor.
    pub fn queues(&mut self) -> &mut [Queue<'b, 'h, P, G>] {
        let count = usize::from(self.capabilities().queues);
        self.queues.get_mut(..count).unwrap_or_default()
    }

    fn first(&mut self) -> Option<&mut Live<'b, 'h, P, G>> {
        self.queues.first_mut()?.live.as_mut()
    }

    /// Says good-bye over the first channel, as far as the host listens.
    fn farewell(&mut self) -> Result<(), HostFault> {
        let (platform, timeout) = (self.hv.platform(), self.config.timeout);
        let faulty = self.queues.first().is_none_or(|q| q.fault.is_some());
        let (rx, tx) = (
            self.rx.is_some(),
            self.tx.is_some() || self.undivided.is_some(),
        );
        let Some(live) = self.first() else {
            return Ok(());
        };
        if live.channel.is_rescinded() || live.control.is_none() {
            return Ok(());
        }
        if !faulty {
            // Some hosts have the next connection receive nothing otherwise.
            live.set(platform, timeout, ndis::oid::CURRENT_PACKET_FILTER, &[0; 4])?;
            live.halt(platform, timeout)?;
        }
        let mut revoke = |kind, id| {
            let message = nvsp::message(kind, &nvsp::RevokeBuffer { id });
            live.nvsp(platform, timeout, &message, false).map(drop)
        };
        let (mut first, mut second) = (Ok(()), Ok(()));
        if tx {
            first = revoke(nvsp::kind::REVOKE_SEND_BUFFER, nvsp::SEND_BUFFER_ID);
        }
        if rx {
            second = revoke(nvsp::kind::REVOKE_RECEIVE_BUFFER, nvsp::RECEIVE_BUFFER_ID);
        }
        first.and(second)
    }

    /// Ends the connection, and takes back what the host has let go of.
    fn disconnect(&mut self) -> Result<(), HostFault> {
        if let Err(why) = self.farewell() {
            log::debug!("{}: saying good-bye: {why}", self.offer);
        }
        let mut held = None;
        // The first channel last: the others go with it.
        for queue in self.queues.iter_mut().rev() {
            let Some(live) = queue.detach() else {
                continue;
            };
            let Live {
                channel,
                rx,
                tx,
                control,
                ..
            } = live;
            if let Err(why) = channel.close() {
                log::warn!("{}: closing: {why}", self.offer);
                held = Some(HostFault::MemoryHeld);
            }
            if held.is_some() {
                // The host may write all of this still. Frames of the caller's stay valid.
                continue;
            }
            drop(rx);
            queue.pool = Some(tx.into_pool());
            if let Some(control) = control {
                let _ = self.hv.unshare(control.into_page());
            }
        }
        for sections in [self.rx.take(), self.tx.take()].into_iter().flatten() {
            if held.is_none()
                && let Err(sections) = Self::give_back(self.hv, sections)
                && let Err(sections) = self.retired.push(sections)
            {
                log::warn!("{}: frames keep {sections:?}, which is leaked", self.offer);
            }
        }
        if let Some(lent) = self.undivided.take()
            && held.is_none()
        {
            let _ = self.hv.unshare(lent);
        }
        held.map_or(Ok(()), Err)
    }

    fn give_back(hv: &HyperV<P, G>, sections: Sections<P>) -> Result<(), Sections<P>> {
        let lent = sections.close()?;
        // Cannot fail on Hyper-V; if it did, the loan would be leaked.
        let _ = hv.unshare(lent);
        Ok(())
    }

    /// Gives pages back to the platform that no connection uses and no frame; whether there is
    /// nothing left to give back.
    pub fn release(&mut self) -> bool {
        for sections in core::mem::take(&mut self.retired) {
            if let Err(sections) = Self::give_back(self.hv, sections) {
                // There was room for all of them.
                let _ = self.retired.push(sections);
            }
        }
        let mut all = self.retired.is_empty();
        for queue in self.queues.iter_mut().filter(|q| q.live.is_none()) {
            all &= queue.release_pool();
        }
        all
    }
}

impl<P: Platform, G: Gate> Net for Netvsc<'_, '_, P, G> {
    fn capabilities(&self) -> &Capabilities {
        const NONE: Capabilities = Capabilities::new(Mac([0; 6]), 0);
        self.queues.first().map_or(&NONE, |q| &q.capabilities)
    }

    fn queue(&mut self, index: usize) -> Option<&mut dyn NetQueue> {
        let queue = self.queues().get_mut(index)?;
        Some(queue)
    }

    fn each_queue<'a>(&'a mut self, each: &mut dyn FnMut(&'a mut dyn NetQueue)) {
        for queue in self.queues() {
            each(queue);
        }
    }

    fn queue_for(&self, hash: u32) -> usize {
        let queues = usize::from(self.capabilities().queues);
        let live = self.queues.first().and_then(|q| q.live.as_ref());
        let control = live.and_then(|live| live.control.as_ref());
        let said = control
            .and_then(|control| control.table)
            .and_then(|table| table.get(hash as usize % nvsp::TABLE_ENTRIES).copied());
        let queue = match said {
            Some(queue) => queue as usize,
            None => hash as usize % rss::ENTRIES,
        };
        queue.checked_rem(queues).unwrap_or(0)
    }

    fn fault(&self) -> Option<HostFault> {
        self.queues.iter().find_map(|queue| queue.fault)
    }

    fn buffers_out(&mut self) -> usize {
        self.release();
        let retired = self.retired.iter().map(Sections::out);
        let out = retired.fold(0, usize::saturating_add);
        self.queues
            .iter_mut()
            .map(Queue::out)
            .fold(out, usize::saturating_add)
    }

    fn close(&mut self) -> Result<(), HostFault> {
        let closed = self.disconnect();
        for queue in &mut self.queues {
            queue.fail(HostFault::Withdrawn);
        }
        self.release();
        closed
    }

    fn reconnect(&mut self) -> Result<(), HostFault> {
        self.close()?;
        let before = *self.capabilities();
        for queue in &mut self.queues {
            queue.fault = None;
        }
        let opened = self.open().map_err(|why| {
            log::warn!("{}: {why}", self.offer);
            HostFault::from(why)
        });
        if let Err(fault) = opened {
            for queue in &mut self.queues {
                queue.fail(fault);
            }
            return Err(fault);
        }
        if let Some(control) = self.first().and_then(|live| live.control.as_mut()) {
            control.compare(&before);
        }
        Ok(())
    }
}

impl<P: Platform, G: Gate> Drop for Netvsc<'_, '_, P, G> {
    fn drop(&mut self) {
        // What went wrong was logged.
        let _ = self.close();
    }
}
