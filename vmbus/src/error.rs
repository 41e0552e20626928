//! What can go wrong on the bus.

use crate::abi::version::Version;
use core::fmt;
use hypercall::HostFault;
use hypercall::hyperv::PostError;

/// Nanoseconds in a millisecond.
const MILLISECOND: u64 = 1_000_000;

/// Why there is no VMBus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// The host has no connection for messages: its Hyper-V interface comes without VMBus.
    NoConnection,
    /// The host did not answer version negotiation within that many nanoseconds.
    NoAnswer(u64),
    /// The host speaks no version from this one down.
    NoVersion(Version),
    /// The host agreed on a version and refused the connection, for a reason of its own.
    Refused(u8),
    /// The host refused a message.
    Post(PostError),
    /// The host broke the protocol.
    Fault(HostFault),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no VMBus here: ")?;
        match self {
            Self::NoConnection => f.write_str("the host has no connection for messages"),
            Self::NoAnswer(timeout) => {
                f.write_str("the host did not answer version negotiation within ")?;
                write_time(f, *timeout)
            }
            Self::NoVersion(highest) => write!(
                f,
                "the host speaks no version from {highest} down to {}",
                Version::V2_4
            ),
            Self::Refused(state) => write!(f, "the host refused the connection (state {state})"),
            Self::Post(error) => error.fmt(f),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for ConnectError {}

/// Writes a time of so many nanoseconds in seconds, or milliseconds where those are not whole.
fn write_time(f: &mut fmt::Formatter<'_>, time: u64) -> fmt::Result {
    let milliseconds = time / MILLISECOND;
    if milliseconds.is_multiple_of(1000) {
        write!(f, "{} s", milliseconds / 1000)
    } else {
        write!(f, "{milliseconds} ms")
    }
}

/// Why a channel was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// The device is gone.
    Gone,
    /// The channel is open already.
    InUse,
    /// A ring has 1 to 4094 data pages, and a device gets at most 120 bytes.
    TooLarge,
    /// The platform has no pages left.
    OutOfPages,
    /// The host refused, with its own status.
    Refused(u32),
    /// Too many operations wait for their answers.
    Busy,
    /// The host did not answer, broke the protocol, or withdrew the device.
    Fault(HostFault),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the device is gone"),
            Self::InUse => f.write_str("the channel is open already"),
            Self::TooLarge => f.write_str("the rings or the device's parameters are too large"),
            Self::OutOfPages => f.write_str("the platform has no pages left"),
            Self::Refused(status) => write!(f, "the host refused (status {status:#x})"),
            Self::Busy => f.write_str("too many operations wait for their answers"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for OpenError {}

impl From<HostFault> for OpenError {
    fn from(fault: HostFault) -> Self {
        Self::Fault(fault)
    }
}

/// Why a question to the host has no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskError {
    /// Too many questions.
    Busy,
    /// It could not be sent.
    Post(PostError),
    /// No reply before the deadline.
    NoAnswer,
    /// The channel that it is about was rescinded meanwhile.
    Withdrawn,
    /// The bus is beyond use.
    Fault(HostFault),
}

impl From<AskError> for HostFault {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Busy | AskError::Post(_) | AskError::NoAnswer => Self::NoAnswer,
            AskError::Withdrawn => Self::Withdrawn,
            AskError::Fault(fault) => fault,
        }
    }
}

impl From<AskError> for OpenError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Busy => Self::Busy,
            other => Self::Fault(other.into()),
        }
    }
}
