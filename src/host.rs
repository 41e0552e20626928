//! Where the kernel woke up.

use core::fmt;
use core::task::Waker;
use hypercall::detect::{Detected, Other, detect};
use hypercall::host::{
    Counters, HostError, Hypervisor, Identity, Port, Shared, Shutdown, Unshared,
};
#[cfg(feature = "hyperv")]
use hypercall::hyperv::HyperV;
use hypercall::shm::{Access, Lent, Pages};
use hypercall::signals::NoWaker;
#[cfg(feature = "xen")]
use hypercall::xen::Xen;
use hypercall::{Gate, Platform};

/// The hypervisor this kernel runs on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Host<P: Platform, G: Gate> {
    /// Xen.
    #[cfg(feature = "xen")]
    Xen(Xen<P, G>),
    /// Hyper-V.
    #[cfg(feature = "hyperv")]
    HyperV(HyperV<P, G>),
}

/// Why there is no [`Host`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostUnknown {
    /// No hypervisor shows itself.
    BareMetal,
    /// A hypervisor this build has no drivers for.
    Other(Other),
    /// The hypervisor is known, but does not do what it must.
    Failed(HostError),
}

impl fmt::Display for HostUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BareMetal => f.write_str("no hypervisor here"),
            Self::Other(other) if other.partial_hyperv => write!(
                f,
                "the hypervisor \"{other}\" offers Hyper-V's interface without what VMBus needs"
            ),
            Self::Other(other) => write!(f, "no drivers for the hypervisor \"{other}\""),
            Self::Failed(why) => write!(f, "the hypervisor is unusable: {why}"),
        }
    }
}

impl core::error::Error for HostUnknown {}

impl<P: Platform, G: Gate> Host<P, G> {
    /// Finds the host and sets its bare interface up. The host will interrupt by `vector`, whose
    /// handler calls [`Hypervisor::on_interrupt`].
    ///
    /// # Errors
    /// [`HostUnknown`].
    pub fn find(platform: P, gate: G, vector: u8) -> Result<Self, HostUnknown> {
        match detect(&gate) {
            #[cfg(feature = "xen")]
            Detected::Xen(leaves) => Xen::new(platform, gate, leaves, vector)
                .map(Self::Xen)
                .map_err(HostUnknown::Failed),
            #[cfg(feature = "hyperv")]
            Detected::HyperV(leaves) => HyperV::new(platform, gate, leaves, vector)
                .map(Self::HyperV)
                .map_err(HostUnknown::Failed),
            Detected::Other(other) => Err(HostUnknown::Other(other)),
            _ => Err(HostUnknown::BareMetal),
        }
    }
}

/// Calls a method of whichever hypervisor it is.
macro_rules! either {
    ($self:ident, $host:ident => $call:expr) => {
        match $self {
            #[cfg(feature = "xen")]
            Host::Xen($host) => $call,
            #[cfg(feature = "hyperv")]
            Host::HyperV($host) => $call,
        }
    };
}

impl<P: Platform, G: Gate> Hypervisor for Host<P, G> {
    type Platform = P;
    fn platform(&self) -> &P {
        either!(self, h => h.platform())
    }
    fn identity(&self) -> Identity {
        either!(self, h => h.identity())
    }
    fn clock(&self) -> u64 {
        either!(self, h => h.clock())
    }
    fn wall_clock(&self) -> Option<u64> {
        either!(self, h => h.wall_clock())
    }
    fn set_timer(&self, at: u64) -> Result<(), HostError> {
        either!(self, h => h.set_timer(at))
    }
    fn stop_timer(&self) {
        either!(self, h => h.stop_timer());
    }
    fn take_timer(&self) -> bool {
        either!(self, h => h.take_timer())
    }
    fn signal(&self, port: Port) {
        either!(self, h => h.signal(port));
    }
    fn take_pending(&self, port: Port) -> bool {
        either!(self, h => h.take_pending(port))
    }
    fn register_waker(&self, port: Port, waker: &Waker) -> Result<(), NoWaker> {
        either!(self, h => h.register_waker(port, waker))
    }
    fn on_interrupt(&self) {
        either!(self, h => h.on_interrupt());
    }
    fn share(&self, pages: Pages<P>, peer: u16, access: Access) -> Shared<P> {
        either!(self, h => h.share(pages, peer, access))
    }
    fn unshare(&self, lent: Lent<P>) -> Unshared<P> {
        either!(self, h => h.unshare(lent))
    }
    fn console_write(&self, bytes: &[u8]) -> usize {
        either!(self, h => h.console_write(bytes))
    }
    fn shutdown(&self, how: Shutdown) -> Result<(), HostError> {
        either!(self, h => h.shutdown(how))
    }
    fn report_crash(&self, parameters: [u64; 5], message: &str) {
        either!(self, h => h.report_crash(parameters, message));
    }
    fn counters(&self) -> Counters {
        either!(self, h => h.counters())
    }
}
