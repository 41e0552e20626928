//! The net trait of `pv-drivers`: what a network interface of either hypervisor will look like.
//!
//! This version holds the trait alone; no back end implements it yet.
#![no_std]
#![forbid(unsafe_code)]

use core::task::Waker;
use hypercall::HostFault;

/// What an interface can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The address the host gave it.
    pub mac: [u8; 6],
    /// The largest packet, without the Ethernet header, in bytes.
    pub mtu: u16,
    /// Whether the line is up.
    pub link: bool,
}

/// One queue pair of a network interface. Frames live in pages that stay lent to the host; a frame
/// that is dropped goes back to its pool.
pub trait Net {
    /// A received frame.
    type Rx: Frame;
    /// Room for a frame to be sent.
    type Tx: FrameMut;

    /// What the interface can do now; link and MTU change.
    fn capabilities(&self) -> Capabilities;

    /// The next received frame, if there is one.
    ///
    /// # Errors
    /// A latched [`HostFault`].
    fn rx(&mut self) -> Result<Option<Self::Rx>, HostFault>;

    /// Room for a frame of `len` bytes, Ethernet header included; `None` while the ring or the
    /// pool is full, or for a frame larger than the interface takes.
    fn tx_reserve(&mut self, len: usize) -> Option<Self::Tx>;

    /// Queues a frame. It leaves at the next [`publish`](Self::publish) or [`rx`](Self::rx), so
    /// that a batch costs one notification. Its completion needs no attention.
    ///
    /// # Errors
    /// The latched [`HostFault`], with the frame.
    fn send(&mut self, frame: Self::Tx) -> Result<(), (HostFault, Self::Tx)>;

    /// Has the host start on what was sent.
    fn publish(&mut self);

    /// Has `waker` woken when there may be a frame, room to send, or a change of the link.
    fn register_waker(&mut self, waker: &Waker);
}

/// Bytes of a frame in memory the host may still write: copied out, never borrowed.
pub trait Frame {
    /// Length in bytes.
    fn len(&self) -> usize;

    /// Whether it holds no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `into.len()` bytes out from `offset` on; whether the frame was long enough.
    #[must_use]
    fn read_at(&self, offset: usize, into: &mut [u8]) -> bool;
}

/// A frame that can be written.
pub trait FrameMut: Frame {
    /// Copies `from` in from `offset` on; whether the frame was long enough.
    #[must_use]
    fn write_at(&mut self, offset: usize, from: &[u8]) -> bool;
}
