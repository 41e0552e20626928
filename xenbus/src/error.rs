//! What can go wrong with a request.

use core::fmt;
use hypercall::HostFault;
use hypercall::platform::TimedOut;
use hypercall::shm::OutOfSpan;

/// Errors cross the wire as names (`xsd_errors` in `io/xs_wire.h`).
macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why xenstore refused a request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum XsError {
            $($(#[$doc])* $variant,)*
            /// A name that this library does not know.
            Other,
        }

        impl XsError {
            /// The error of a name, without its final NUL.
            pub fn from_name(name: &[u8]) -> Self {
                $(if name == $name.as_bytes() {
                    return Self::$variant;
                })*
                Self::Other
            }

            /// The error's name on the wire.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Other => "an error of unknown name",
                }
            }
        }
    };
}

errors! {
    /// The request is malformed.
    Invalid = "EINVAL",
    /// Not allowed to this domain.
    Access = "EACCES",
    /// There is one already.
    Exists = "EEXIST",
    /// Not for a directory.
    IsDirectory = "EISDIR",
    /// There is no such node, watch or transaction.
    NotFound = "ENOENT",
    /// The daemon is out of memory.
    NoMemory = "ENOMEM",
    /// A quota is used up.
    NoSpace = "ENOSPC",
    /// The daemon could not read or write.
    Io = "EIO",
    /// The directory is not empty.
    NotEmpty = "ENOTEMPTY",
    /// The daemon does not know the request.
    NotImplemented = "ENOSYS",
    /// The node cannot be written.
    ReadOnly = "EROFS",
    /// Too many transactions at once.
    Busy = "EBUSY",
    /// Another's change conflicts with the transaction: do it again.
    Again = "EAGAIN",
    /// Connected already.
    Connected = "EISCONN",
    /// The answer is too long for a message.
    TooBig = "E2BIG",
    /// Not permitted.
    NotPermitted = "EPERM",
}

impl fmt::Display for XsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a request to xenstore failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreError {
    /// Xenstore said no.
    Refused(XsError),
    /// The request, or the answer for the place it goes to, is too long.
    TooLong,
    /// The value is not what it should be: not text, or not a number.
    BadValue,
    /// The platform has no pages left.
    OutOfPages,
    /// All watches are taken.
    NoWatch,
    /// The host did not answer in time ([`HostFault::NoAnswer`]), or broke the protocol, which
    /// ends the connection to xenstore.
    Fault(HostFault),
}

impl StoreError {
    /// Whether a node is not there. Xenstore says so of a node whose directory this domain may
    /// read; below any other it only denies access, as to a back end that was removed.
    pub fn is_not_found(self) -> bool {
        matches!(self, Self::Refused(XsError::NotFound | XsError::Access))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "xenstore refused: {error}"),
            Self::TooLong => f.write_str("too long for xenstore, or for the place it goes to"),
            Self::BadValue => f.write_str("a value in xenstore is not of the expected form"),
            Self::OutOfPages => f.write_str("the platform has no pages left"),
            Self::NoWatch => f.write_str("no watches left"),
            Self::Fault(fault) => write!(f, "xenstore: {fault}"),
        }
    }
}

impl core::error::Error for StoreError {}

impl From<HostFault> for StoreError {
    fn from(fault: HostFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<TimedOut> for StoreError {
    fn from(_: TimedOut) -> Self {
        Self::Fault(HostFault::NoAnswer)
    }
}

impl From<OutOfSpan> for StoreError {
    fn from(_: OutOfSpan) -> Self {
        Self::TooLong
    }
}
