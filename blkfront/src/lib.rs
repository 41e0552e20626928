//! Disks of either hypervisor behind one queue.
//!
//! A [`Queue`] is one ring of one device. It takes [`Request`]s, owns their buffers while they
//! are in flight, and gives them back with their [`Completion`]s. Two back ends carry it: `blkif`
//! on Xen, `storvsc` on Hyper-V. The [`Block`] trait names neither.
//!
//! ```text
//! alloc ─▶ Buf ─▶ submit ─▶ (the host's) ─▶ poll ─▶ Completion { buf, result }
//!                   └── refused: the request comes back with the reason
//! ```
//!
//! Positions and counts are in **512-byte sectors** everywhere, whatever the disk's own sector
//! size; on a disk with 4096-byte sectors they must be multiples of eight.
//!
//! Blocking ([`blocking`]) and async ([`future`]) use are thin adaptors over `submit` and `poll`.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(
    feature = "block-device-driver",
    feature = "embedded-sdmmc",
    feature = "gpt_disk_io"
))]
pub mod adapters;
#[cfg(feature = "xen")]
pub mod blkif;
pub mod block;
pub mod blocking;
pub mod future;
pub mod limits;
#[cfg(any(feature = "xen", feature = "hyperv"))]
mod places;
pub mod queue;
pub mod request;
mod slots;
#[cfg(feature = "hyperv")]
pub mod storvsc;
pub mod transport;

pub use block::Block;
pub use hypercall::shm::Buf;
pub use limits::{Limits, SECTOR};
pub use queue::Queue;
pub use request::{Completion, IoError, Op, Request, SubmitError, Tag};
