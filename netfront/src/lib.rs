//! Network interfaces of either hypervisor behind one trait.
//!
//! A [`Net`] is an interface; each of its queue pairs is a [`NetQueue`]. Received frames and frames
//! to be sent live in memory that stays lent to the host; dropping a [`RxFrame`] gives its memory
//! back to be received into again, and a sent [`TxFrame`] returns by itself when the host has sent
//! it. Two back ends: `netif` on Xen, `netvsc` on Hyper-V. The traits name neither.
//!
//! ```text
//! rx ─▶ RxFrame ─▶ drop                     tx_reserve ─▶ TxFrame ─▶ send ─▶ (the host's) ─▶ free
//!                                                           └── refused: it comes back
//! ```
//!
//! A queue is polled, waited on, or used by tasks ([`future`]).
//!
//! Lengths and offsets are in **bytes** from the first byte of the Ethernet header; the frame check
//! sequence is never part of a frame.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

#[cfg(any(feature = "embassy-net-driver", feature = "smoltcp"))]
pub mod adapters;
pub mod capabilities;
pub mod checksum;
pub mod frame;
pub mod future;
#[cfg(any(feature = "xen", feature = "hyperv"))]
mod line;
pub mod net;
#[cfg(feature = "xen")]
pub mod netif;
#[cfg(feature = "hyperv")]
pub mod netvsc;
pub mod offload;
pub mod toeplitz;

pub use capabilities::{Capabilities, Config, Event, Mac, Offloads, Stats};
pub use frame::{Body, Claimed, RxFrame, TxFrame};
pub use net::{ClaimError, Net, NetQueue, ReserveError, SendError};
pub use offload::{Ip, Protocol, RxChecksum, RxMeta, Segmentation, Transport, TxMeta, Vlan};

/// Bytes of an Ethernet header without a VLAN tag.
pub const ETHERNET_HEADER: usize = 14;
