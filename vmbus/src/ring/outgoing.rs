//! Packets to be written.

use crate::abi::packet::{COMPLETION_REQUESTED, PacketKind};
use core::fmt;
use core::iter::Empty;
use hypercall::HostFault;
use hypercall::shm::OutOfSpan;

/// A packet to be written. `T` is a wire structure; `I` yields frame numbers.
#[derive(Debug, Clone)]
pub struct Outgoing<'a, T, I = Empty<u64>> {
    pub(super) kind: PacketKind,
    pub(super) flags: u16,
    pub(super) transaction_id: u64,
    pub(super) payload: &'a T,
    pub(super) range: Option<Range<I>>,
}

#[derive(Debug, Clone)]
pub(super) struct Range<I> {
    pub(super) offset: u32,
    pub(super) bytes: u32,
    pub(super) frames: I,
}

impl<I> Range<I> {
    /// The word that holds its length and place.
    #[inline]
    pub(super) fn word(&self) -> u64 {
        u64::from(self.bytes) | u64::from(self.offset) << 32
    }
}

impl<'a, T> Outgoing<'a, T> {
    /// A packet whose data is all in the ring.
    pub fn in_band(transaction_id: u64, payload: &'a T) -> Self {
        Self {
            kind: PacketKind::IN_BAND,
            flags: 0,
            transaction_id,
            payload,
            range: None,
        }
    }

    /// The answer to a packet of the host's that asked for one.
    pub fn completion(transaction_id: u64, payload: &'a T) -> Self {
        Self {
            kind: PacketKind::COMPLETION,
            ..Self::in_band(transaction_id, payload)
        }
    }
}

impl<'a, T, I> Outgoing<'a, T, I> {
    /// A packet with one range of memory: `bytes` bytes from byte `offset` of the first frame
    /// on. `frames` yields as many frame numbers as that touches. It asks for a completion.
    ///
    /// The host reads and writes what the frames name: they must be lent for as long as the
    /// request lasts.
    #[inline]
    pub fn gpa_direct(
        transaction_id: u64,
        payload: &'a T,
        offset: u32,
        bytes: u32,
        frames: I,
    ) -> Self {
        Self {
            kind: PacketKind::GPA_DIRECT,
            flags: COMPLETION_REQUESTED,
            transaction_id,
            payload,
            range: Some(Range {
                offset,
                bytes,
                frames,
            }),
        }
    }

    /// Asks the host to answer. It does not answer transaction id 0.
    #[inline]
    pub fn ask_completion(mut self) -> Self {
        self.flags = COMPLETION_REQUESTED;
        self
    }
}

/// Why a packet was not written. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// No room now. The host will signal when there is, once what was sent is flushed.
    Full,
    /// Such a packet never fits the ring.
    TooLarge,
    /// The frames are fewer than the range touches, or it starts behind its first page.
    BadRange,
    /// The host broke the protocol, or withdrew the device.
    Fault(HostFault),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the ring is full"),
            Self::TooLarge => f.write_str("the packet is larger than the ring"),
            Self::BadRange => f.write_str("the packet's frames do not fit its range"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for SendError {}

impl From<HostFault> for SendError {
    fn from(fault: HostFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<OutOfSpan> for SendError {
    fn from(_: OutOfSpan) -> Self {
        Self::TooLarge
    }
}
