//! The ground floor of `pv-drivers`: what a guest kernel must give, the memory it shares with its
//! host, and each hypervisor's bare interface.
//!
//! * [`platform`] is the trait a kernel implements: pages, frames, time, waiting.
//! * [`shm`] is the only home of `unsafe` besides [`arch`]: memory the host can write is reached
//!   through it alone, by atomic words and copies, never by a Rust reference.
//! * [`gate`] is the instruction seam: CPUID, hypercalls and registers, served by the processor
//!   on a real host and by a model in a test.
//! * [`host`] is the common [`Hypervisor`] trait that code above is written to.
//! * [`detect`] tells where a kernel woke up; [`xen`] and [`hyperv`] speak to that host.
//!
//! The host is not trusted: what it writes is copied out once and then checked, and what breaks
//! the protocol becomes a latched [`fault::HostFault`], never a panic and never a hang.
#![no_std]
#![deny(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(test)]
extern crate std;

#[expect(
    unsafe_code,
    reason = "instructions: hypercalls, registers, bulk copies"
)]
pub mod arch;
pub mod bus;
pub mod detect;
pub mod fault;
pub mod gate;
pub mod host;
#[cfg(feature = "hyperv")]
pub mod hyperv;
#[expect(unsafe_code, reason = "the trait makes promises about memory")]
pub mod platform;
#[expect(unsafe_code, reason = "the shared-memory module")]
pub mod shm;
pub mod signals;
#[cfg(feature = "xen")]
pub mod xen;

pub use fault::HostFault;
pub use gate::Gate;
pub use host::{Hypervisor, Port};
pub use platform::Platform;
