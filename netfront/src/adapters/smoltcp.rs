//! [`smoltcp`]'s [`phy::Device`] over a queue.
//!
//! ```text
//! let mut device = Device::new(queue, vec![0; MAX_FRAME], vec![0; MAX_FRAME]);
//! let mut stack = Interface::new(config, &mut device, now);
//! loop {
//!     stack.poll(now, &mut device, &mut sockets);
//!     // … sockets …
//!     device.queue_mut().pause(until);
//! }
//! ```
//!
//! Of segmentation, smoltcp 0.14 has the sending of TCP over IPv4: then it hands over segments of up
//! to 64 KiB, which the host cuts. Over IPv6 it drops them on the way, so that is not offered to it.
//! It does not join what it receives; a host that hands over joined segments is welcome to, where the
//! receive buffer is as long as [`MAX_FRAME`](super::MAX_FRAME).

use super::queue::{Buffered, Dropped, LeaveAlone, Out};
use crate::net::NetQueue;
use crate::offload::{Ip, Protocol};
use core::num::NonZeroUsize;
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;

/// A queue as smoltcp sees it.
#[derive(Debug)]
pub struct Device<Q, B> {
    inner: Buffered<Q, B>,
    burst: Option<usize>,
}

impl<Q: NetQueue, B: AsMut<[u8]>> Device<Q, B> {
    /// A device over `queue` that copies received frames to `rx` and has frames made in `tx`. Shorter
    /// buffers than the interface's frames make frames shorter; one of
    /// [`MAX_FRAME`](super::MAX_FRAME) lets segmentation be used in its direction.
    pub fn new(queue: Q, rx: B, tx: B) -> Self {
        Self {
            inner: Buffered::new(queue, rx, tx),
            burst: None,
        }
    }

    /// The same, telling the stack to expect no more than `frames` at once. Without it there is no
    /// limit: a queue that is full has no token.
    #[must_use]
    pub fn with_burst(mut self, frames: usize) -> Self {
        self.burst = Some(frames);
        self
    }

    /// The queue.
    pub fn queue(&self) -> &Q {
        &self.inner.queue
    }

    /// The queue, to wait on it or to ask for events.
    pub fn queue_mut(&mut self) -> &mut Q {
        &mut self.inner.queue
    }

    /// Frames that did not get through.
    pub fn dropped(&self) -> Dropped {
        self.inner.dropped
    }

    fn longest(&self) -> usize {
        let longest = self.inner.max_segmented(Ip::V4);
        longest.unwrap_or_else(|| self.inner.max_frame())
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

impl<Q: NetQueue, B: AsMut<[u8]>> phy::Device for Device<Q, B> {
    type RxToken<'a>
        = RxToken<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = TxToken<'a, Q>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_>, TxToken<'_, Q>)> {
        // Answers are no longer than what they answer.
        let parts = self.inner.receive(self.inner.max_frame())?;
        Some((RxToken(parts.rx), TxToken(parts.out)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_, Q>> {
        self.inner.transmit(self.longest()).map(TxToken)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.inner.max_frame();
        capabilities.max_burst_size = self.burst;
        capabilities.checksum.tcp = self.checksum(Protocol::Tcp);
        capabilities.checksum.udp = self.checksum(Protocol::Udp);
        let segmented = self.inner.max_segmented(Ip::V4);
        capabilities.segmentation.tcpv4 = segmented.and_then(NonZeroUsize::new);
        capabilities
    }
}

/// A received frame, already copied out.
#[derive(Debug)]
pub struct RxToken<'a>(&'a [u8]);

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for one frame.
#[derive(Debug)]
pub struct TxToken<'a, Q>(Out<'a, Q>);

impl<Q: NetQueue> phy::TxToken for TxToken<'_, Q> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.0.send(len, f)
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        if let Some(mss) = meta.segmentation_offload_size {
            self.0.segment(mss.get());
        }
    }
}
