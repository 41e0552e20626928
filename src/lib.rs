//! One kernel, two hypervisors.
//!
//! A guest kernel links this crate once; the same image then uses the paravirtual devices of
//! whichever host it wakes up on: **Xen** (hypercalls, grant tables, event channels, xenstore,
//! blkif, netif) or **Hyper-V** (hypercalls, SynIC, VMBus, storvsc,
//! netvsc). The kernel's own code names neither:
//!
//! 1. it implements [`Platform`] (pages, frames, time, waiting: eight methods);
//! 2. it finds its [`Host`], and calls [`Hypervisor::on_interrupt`] from the handler of one vector;
//! 3. it brings the [`Bus`] up and opens what the bus offers.
//!
//! [`first_disk`] shows all of it; `examples/guest` is a kernel that boots on both hosts.
//!
//! The host is not trusted: nothing it does makes this library panic, hang or touch memory it
//! should not. Misuse by the kernel is a compile error where that is possible, and otherwise a
//! typed error that gives the buffer back.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(not(any(feature = "xen", feature = "hyperv")))]
compile_error!("pv-drivers needs a host: enable the feature `xen`, `hyperv` or both");

mod block;
mod bus;
mod host;
mod net;

pub use blkfront::{self, Block, Buf, Completion, IoError, Limits, Op, Request, SubmitError, Tag};
pub use block::BlockQueue;
pub use bus::{Bus, BusError, Device, OpenError};
pub use host::{Host, HostUnknown};
pub use hypercall::{self, Gate, HostFault, Hypervisor, Platform, arch, host::Shutdown};
pub use net::NetDevice;
pub use netfront::{self, Net, NetQueue};

#[doc = include_str!("../docs/first-disk.md")]
pub mod first_disk {}

#[doc = include_str!("../docs/first-nic.md")]
pub mod first_nic {}
