//! Xen's network interface, netif: the front end.
//!
//! `abi` is the wire, `words` how it is written, `ring` a shared page; `tx` and `rx` are the two
//! ways, with `accept` to say what can be sent, `places` to know what is in flight, and `chain` to
//! put received frames together; `features` is what both ends offer each other,
//! `news` what changes later, `connect` the hand-shake through xenstore. [`Queue`] joins them to
//! one queue pair, and [`Netif`] queues to an interface.
//!
//! No frame costs a grant: pools are granted once, what is sent to be read only, and stay so.
//! Received frames are pages of the pool; a dropped one is posted again by the next
//! [`rx`](crate::NetQueue::rx).

pub mod abi;
mod accept;
mod chain;
mod connect;
mod features;
mod news;
mod places;
mod queue;
pub mod ring;
mod rx;
mod tx;
mod words;

use crate::capabilities::{Capabilities, Config};
use crate::line::Line;
use crate::net::{Net, NetQueue};
pub use connect::ConnectError;
use core::fmt;
use hypercall::host::Hypervisor;
use hypercall::shm::Pool;
use hypercall::xen::Xen;
use hypercall::{Gate, HostFault, Platform};
pub use queue::Queue;
use xenbus::{Frontend, FrontendError};

/// Queue pairs of one interface at most.
pub const QUEUES: usize = 8;

/// A Xen virtual network interface. Dropping it leaves its memory lent: [`close`](Net::close) and
/// [`release`](Self::release) it.
pub struct Netif<'b, 'h, P: Platform, G: Gate> {
    frontend: Frontend<'b, 'h, P, G>,
    xen: &'h Xen<P, G>,
    config: Config,
    /// The domain the pools are granted to.
    peer: u16,
    /// What was agreed on last.
    can: Capabilities,
    /// While there are queues.
    line: Option<Line<P>>,
    queues: heapless::Vec<Queue<'b, 'h, P, G>, QUEUES>,
    /// How many of them are connected.
    active: usize,
    /// The back end may have rings.
    connected: bool,
}

impl<P: Platform, G: Gate> fmt::Debug for Netif<'_, '_, P, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netif")
            .field("device", self.frontend.device())
            .field("queues", &self.queues)
            .finish()
    }
}

impl<'b, 'h, P: Platform, G: Gate> Netif<'b, 'h, P, G> {
    /// All queue pairs at once, each to be sent to its own processor. Empty before the first
    /// connection.
    pub fn queues(&mut self) -> &mut [Queue<'b, 'h, P, G>] {
        let active = self.active;
        self.queues.get_mut(..active).unwrap_or_default()
    }

    /// Gives the pools' pages back to the platform, after [`close`](Net::close). `false` while
    /// frames are out or the back end still maps a page; nothing is lost then, and it may be tried
    /// again.
    pub fn release(&mut self) -> bool {
        let mut all = !self.connected;
        for queue in &mut self.queues {
            for pool in [queue.tx.pool_mut(), queue.rx.pool_mut()] {
                all &= release_pool(self.xen, pool);
            }
        }
        if all {
            self.queues.clear();
            self.line = None;
            self.active = 0;
        }
        all
    }
}

fn release_pool<P: Platform, G: Gate>(xen: &Xen<P, G>, place: &mut Option<Pool<P>>) -> bool {
    let Some(pool) = place.take() else {
        return true;
    };
    match pool.close() {
        // A run that is still mapped is leaked by its drop, which is the safe thing.
        Ok(lent) => xen.unshare(lent).is_ok(),
        Err(pool) => {
            *place = Some(pool);
            false
        }
    }
}

impl<P: Platform, G: Gate> Net for Netif<'_, '_, P, G> {
    fn capabilities(&self) -> &Capabilities {
        self.queues.first().map_or(&self.can, |queue| &queue.can)
    }

    fn queue(&mut self, index: usize) -> Option<&mut dyn NetQueue> {
        match self.queues().get_mut(index) {
            Some(queue) => Some(queue),
            None => None,
        }
    }

    fn each_queue<'a>(&'a mut self, each: &mut dyn FnMut(&'a mut dyn NetQueue)) {
        for queue in self.queues() {
            each(queue);
        }
    }

    /// Which queue a back end answers by is its own affair; that a flow keeps to one queue is what
    /// can be had.
    fn queue_for(&self, hash: u32) -> usize {
        (hash as usize).checked_rem(self.active).unwrap_or(0)
    }

    fn fault(&self) -> Option<HostFault> {
        let queues = self.queues.iter().take(self.active);
        let mut faults = queues.filter_map(|queue| queue.fault);
        faults.next()
    }

    fn buffers_out(&mut self) -> usize {
        let mut out = 0usize;
        for queue in &mut self.queues {
            let _ = queue.in_flight();
            for pool in [queue.tx.pool(), queue.rx.pool()].into_iter().flatten() {
                let back = pool.free_pages().wrapping_add(pool.returned_pages());
                out = out.wrapping_add(pool.pages().wrapping_sub(back));
            }
            out = out.wrapping_sub(queue.rx.free());
            out = out.wrapping_sub(queue.tx.spare());
        }
        out
    }

    fn close(&mut self) -> Result<(), HostFault> {
        self.close_link()
    }

    fn reconnect(&mut self) -> Result<(), HostFault> {
        self.close_link()?;
        self.open_link().map_err(|why| {
            log::warn!("{}: {why}", self.frontend.device());
            match why {
                ConnectError::Frontend(FrontendError::Gone) => HostFault::Withdrawn,
                ConnectError::MemoryHeld => HostFault::MemoryHeld,
                _ => HostFault::NoAnswer,
            }
        })?;
        if let Some(first) = self.queues.first_mut() {
            first.news.tell_moved();
        }
        Ok(())
    }
}
