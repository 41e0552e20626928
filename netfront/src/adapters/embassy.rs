//! [`embassy_net_driver`]'s [`Driver`] over a queue.
//!
//! The queue keeps the waker, and wakes it on a frame, on room to send and on news of the line, so one
//! serves all three. Segmentation is unknown to this trait.

use super::queue::{Buffered, Dropped, LeaveAlone, Out};
use crate::capabilities::{Event, Mac};
use crate::net::NetQueue;
use crate::offload::Protocol;
use core::task::Context;
use embassy_net_driver::{
    Capabilities, Checksum, ChecksumCapabilities, Driver, HardwareAddress, LinkState,
};

/// A queue as embassy-net sees it.
#[derive(Debug)]
pub struct Device<Q, B> {
    inner: Buffered<Q, B>,
    moved: bool,
}

impl<Q: NetQueue, B: AsMut<[u8]>> Device<Q, B> {
    /// A driver over `queue` that copies received frames to `rx` and has frames made in `tx`.
    pub fn new(queue: Q, rx: B, tx: B) -> Self {
        Self {
            inner: Buffered::new(queue, rx, tx),
            moved: false,
        }
    }

    /// The queue.
    pub fn queue(&self) -> &Q {
        &self.inner.queue
    }

    /// The queue, to reconnect it. News of the line is taken by [`Driver::link_state`].
    pub fn queue_mut(&mut self) -> &mut Q {
        &mut self.inner.queue
    }

    /// Frames that did not get through.
    pub fn dropped(&self) -> Dropped {
        self.inner.dropped
    }

    fn checksum(&self, protocol: Protocol) -> Checksum {
        let leave = LeaveAlone::of(self.inner.queue.capabilities(), protocol);
        match (leave.tx, leave.rx) {
            (false, false) => Checksum::Both,
            (false, true) => Checksum::Tx,
            (true, false) => Checksum::Rx,
            (true, true) => Checksum::None,
        }
    }
}

impl<Q: NetQueue, B: AsMut<[u8]>> Driver for Device<Q, B> {
    type RxToken<'a>
        = RxToken<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = TxToken<'a, Q>
    where
        Self: 'a;

    fn receive(&mut self, context: &mut Context<'_>) -> Option<(RxToken<'_>, TxToken<'_, Q>)> {
        // Before the look: what comes after it wakes.
        self.inner.queue.register_waker(context.waker());
        let parts = self.inner.receive(self.inner.max_frame())?;
        Some((RxToken(parts.rx), TxToken(parts.out)))
    }

    fn transmit(&mut self, context: &mut Context<'_>) -> Option<TxToken<'_, Q>> {
        self.inner.queue.register_waker(context.waker());
        self.inner.transmit(self.inner.max_frame()).map(TxToken)
    }

    /// An interface that may have been moved to another network is said to be down once, so that the
    /// stack asks for an address again.
    fn link_state(&mut self, context: &mut Context<'_>) -> LinkState {
        self.inner.queue.register_waker(context.waker());
        while let Some(event) = self.inner.queue.event() {
            if event == Event::Moved {
                self.moved = true;
                break;
            }
        }
        if core::mem::take(&mut self.moved) {
            context.waker().wake_by_ref();
            return LinkState::Down;
        }
        match self.inner.queue.capabilities().link && self.inner.queue.fault().is_none() {
            true => LinkState::Up,
            false => LinkState::Down,
        }
    }

    fn capabilities(&self) -> Capabilities {
        let mut checksum = ChecksumCapabilities::default();
        checksum.tcp = self.checksum(Protocol::Tcp);
        checksum.udp = self.checksum(Protocol::Udp);
        let mut capabilities = Capabilities::default();
        capabilities.max_transmission_unit = self.inner.max_frame();
        capabilities.checksum = checksum;
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        let Mac(address) = self.inner.queue.capabilities().mac;
        HardwareAddress::Ethernet(address)
    }
}

/// A received frame, already copied out.
#[derive(Debug)]
pub struct RxToken<'a>(&'a mut [u8]);

impl embassy_net_driver::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for one frame.
#[derive(Debug)]
pub struct TxToken<'a, Q>(Out<'a, Q>);

impl<Q: NetQueue> embassy_net_driver::TxToken for TxToken<'_, Q> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.0.send(len, f)
    }
}
