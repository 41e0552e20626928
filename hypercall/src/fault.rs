//! What a host may do wrong.

use core::fmt;

/// The host broke a protocol. A driver that sees one latches it, stops using that device and
/// refuses further work with it, until the device is connected anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HostFault {
    /// A ring index moved by more than the ring holds, or points outside it.
    RingIndex,
    /// An answer names a request that does not exist, is not in flight or was answered already.
    UnknownId,
    /// A length or offset exceeds what was lent or what its message holds.
    Length,
    /// A message or record is not of the form the protocol gives it.
    Malformed,
    /// The host answered a request with another operation's answer.
    WrongOperation,
    /// The host let a deadline pass.
    NoAnswer,
    /// The host holds on to memory that it must give back.
    MemoryHeld,
    /// The host withdrew the device while it was in use.
    Withdrawn,
}

impl fmt::Display for HostFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RingIndex => "the host moved a ring index out of bounds",
            Self::UnknownId => "the host answered a request that is not in flight",
            Self::Length => "the host gave a length beyond what was lent",
            Self::Malformed => "the host sent a malformed record",
            Self::WrongOperation => "the host answered with the wrong operation",
            Self::NoAnswer => "the host did not answer in time",
            Self::MemoryHeld => "the host holds on to lent memory",
            Self::Withdrawn => "the host withdrew the device",
        })
    }
}

impl core::error::Error for HostFault {}

/// An offset or length that leaves a shared region came from the host.
impl From<crate::shm::OutOfSpan> for HostFault {
    fn from(_: crate::shm::OutOfSpan) -> Self {
        Self::Length
    }
}
