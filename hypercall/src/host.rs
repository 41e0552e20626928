//! The common trait of both hypervisors: generic code above it names neither.

use crate::platform::Platform;
use crate::shm::{Access, Lent, Pages};
use crate::signals::NoWaker;
use core::fmt;
use core::task::Waker;

/// Which hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HostKind {
    /// Xen, or an emulation of it.
    Xen,
    /// Hyper-V, or an emulation of it.
    HyperV,
}

impl fmt::Display for HostKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xen => "Xen",
            Self::HyperV => "Hyper-V",
        })
    }
}

/// Who the host says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Which hypervisor.
    pub kind: HostKind,
    /// Its major version; 0 when it does not say.
    pub major: u32,
    /// Its minor version.
    pub minor: u32,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.{}", self.kind, self.major, self.minor)
    }
}

/// A line to the host: what to signal, and which signal comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Port {
    /// What [`Hypervisor::signal`] raises: an event channel, or a connection id.
    pub to: u32,
    /// What [`Hypervisor::take_pending`] reads: an event channel, or an event flag.
    pub from: u32,
}

/// How the machine should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Shutdown {
    /// Power off.
    PowerOff,
    /// Start again.
    Reboot,
    /// Suspend, where the host can (Xen); returns after resumption.
    Suspend,
    /// The kernel crashed: have the host note it.
    Crash,
}

/// Something the host does not offer, or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HostError {
    /// The host has no such service.
    Unsupported,
    /// The host refused, with its own status: a negative errno (Xen), a hypercall status (Hyper-V).
    Refused(i64),
    /// No grant references, pages or other resource left.
    Exhausted,
    /// The platform could not map or allocate what is needed.
    OutOfPages,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported => f.write_str("the host has no such service"),
            Self::Refused(status) => write!(f, "the host refused (status {status})"),
            Self::Exhausted => f.write_str("no grant references or channels left"),
            Self::OutOfPages => f.write_str("the platform has no pages left"),
        }
    }
}

impl core::error::Error for HostError {}

/// The host still holds on to a lent run (a Xen back end has it mapped). Try again later; until
/// then the run stays lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StillInUse;

impl fmt::Display for StillInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the host still holds on to lent memory")
    }
}

impl core::error::Error for StillInUse {}

/// What a driver did so far, for benchmarks and tests. All count up from zero and wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Hypercalls of every kind, signals among them.
    pub hypercalls: u64,
    /// Signals sent to the host.
    pub signals: u64,
    /// Interrupts taken.
    pub interrupts: u64,
    /// Pages lent.
    pub pages_lent: u64,
    /// Pages taken back.
    pub pages_reclaimed: u64,
    /// Pages the host would not give back when asked.
    pub reclaims_refused: u64,
}

/// What lending a run comes to: the loan, or why not and the run.
pub type Shared<P> = Result<Lent<P>, (HostError, Pages<P>)>;

/// What taking a run back comes to: the run, or the loan that still stands.
pub type Unshared<P> = Result<Pages<P>, (StillInUse, Lent<P>)>;

/// A hypervisor, as the code above it sees it.
///
/// Every method takes `&self` and may be called from any thread. Only
/// [`on_interrupt`](Self::on_interrupt) is meant for an interrupt handler.
pub trait Hypervisor: Send + Sync {
    /// The kernel below.
    type Platform: Platform;

    /// The kernel below.
    fn platform(&self) -> &Self::Platform;

    /// Who the host says it is.
    fn identity(&self) -> Identity;

    /// Nanoseconds since the host started this machine, or some other fixed moment; never goes
    /// back on one CPU.
    fn clock(&self) -> u64;

    /// Nanoseconds since 1970-01-01 00:00 UTC, where the host tells.
    fn wall_clock(&self) -> Option<u64>;

    /// Has the host interrupt when [`clock`](Self::clock) reaches `at`; replaces an earlier
    /// setting. A moment that has passed interrupts at once.
    ///
    /// # Errors
    /// [`HostError`] when the host has no timer or refuses.
    fn set_timer(&self, at: u64) -> Result<(), HostError>;

    /// Cancels the timer.
    fn stop_timer(&self);

    /// Whether the timer has fired since this was last asked.
    fn take_timer(&self) -> bool;

    /// Has the other end of a line look at its rings.
    fn signal(&self, port: Port);

    /// Whether the other end has signalled since this was last asked.
    fn take_pending(&self, port: Port) -> bool;

    /// Has `waker` woken when the other end next signals.
    ///
    /// # Errors
    /// [`NoWaker`] when too many lines are waited on.
    fn register_waker(&self, port: Port, waker: &Waker) -> Result<(), NoWaker>;

    /// To be called by the kernel's handler for the vector it chose, before it acknowledges the
    /// interrupt to its controller. A kernel that polls may call it in its loop instead.
    fn on_interrupt(&self);

    /// Lends a run of pages to the domain `peer` (Xen), or to the host (Hyper-V, where `peer`
    /// means nothing and lending is only book-keeping).
    ///
    /// # Errors
    /// [`HostError`], with the run.
    fn share(
        &self,
        pages: Pages<Self::Platform>,
        peer: u16,
        access: Access,
    ) -> Shared<Self::Platform>;

    /// Takes a run back.
    ///
    /// # Errors
    /// [`StillInUse`], with the run, while the other end holds on to it. Nothing is lost: ask
    /// again later, or drop the run, which leaks it.
    fn unshare(&self, lent: Lent<Self::Platform>) -> Unshared<Self::Platform>;

    /// Writes to the host's console as much as there is room for; returns how many bytes.
    fn console_write(&self, bytes: &[u8]) -> usize;

    /// Ends the machine. Returns only when that failed or, for [`Shutdown::Suspend`], afterwards.
    ///
    /// # Errors
    /// [`HostError`] when the host cannot or will not.
    fn shutdown(&self, how: Shutdown) -> Result<(), HostError>;

    /// Tells the host why the kernel crashed, as far as it listens. It need not be the end.
    fn report_crash(&self, parameters: [u64; 5], message: &str);

    /// What was done so far.
    fn counters(&self) -> Counters;
}

/// A reference to a hypervisor is the same hypervisor.
macro_rules! forward {
    ($($reference:ty),*) => {$(
        impl<T: Hypervisor + ?Sized> Hypervisor for $reference {
            type Platform = T::Platform;
            fn platform(&self) -> &Self::Platform { (**self).platform() }
            fn identity(&self) -> Identity { (**self).identity() }
            fn clock(&self) -> u64 { (**self).clock() }
            fn wall_clock(&self) -> Option<u64> { (**self).wall_clock() }
            fn set_timer(&self, at: u64) -> Result<(), HostError> { (**self).set_timer(at) }
            fn stop_timer(&self) { (**self).stop_timer() }
            fn take_timer(&self) -> bool { (**self).take_timer() }
            fn signal(&self, port: Port) { (**self).signal(port) }
            fn take_pending(&self, port: Port) -> bool { (**self).take_pending(port) }
            fn register_waker(&self, port: Port, waker: &Waker) -> Result<(), NoWaker> {
                (**self).register_waker(port, waker)
            }
            fn on_interrupt(&self) { (**self).on_interrupt() }
            fn share(&self, pages: Pages<T::Platform>, peer: u16, access: Access)
                -> Shared<T::Platform> {
                (**self).share(pages, peer, access)
            }
            fn unshare(&self, lent: Lent<T::Platform>)
                -> Unshared<T::Platform> {
                (**self).unshare(lent)
            }
            fn console_write(&self, bytes: &[u8]) -> usize { (**self).console_write(bytes) }
            fn shutdown(&self, how: Shutdown) -> Result<(), HostError> { (**self).shutdown(how) }
            fn report_crash(&self, parameters: [u64; 5], message: &str) {
                (**self).report_crash(parameters, message)
            }
            fn counters(&self) -> Counters { (**self).counters() }
        }
    )*};
}

forward!(&T);
#[cfg(feature = "alloc")]
forward!(alloc::sync::Arc<T>);
