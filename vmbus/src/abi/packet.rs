//! Packets in a ring, and the ring's control page.
//!
//! Source: OpenVMM, `vmbus_ring/src/lib.rs`; Linux, `include/linux/hyperv.h`,
//! `struct vmpacket_descriptor` and `struct hv_ring_buffer`.

use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The type of a packet. Unknown values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct PacketKind(pub u16);

impl PacketKind {
    /// All data is in the ring.
    pub const IN_BAND: Self = Self(6);
    /// Data is in ranges of a buffer that was named before.
    pub const TRANSFER_PAGES: Self = Self(7);
    /// Data is in pages that the packet names.
    pub const GPA_DIRECT: Self = Self(9);
    /// The answer to a packet that asked for one.
    pub const COMPLETION: Self = Self(11);
}

/// Flag of a packet: the other end is to answer.
pub const COMPLETION_REQUESTED: u16 = 1;

/// The start of every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Descriptor {
    /// What it is.
    pub kind: PacketKind,
    /// Where the payload starts, in units of 8 bytes from here.
    pub offset8: u16,
    /// Length without the footer, in units of 8 bytes.
    pub length8: u16,
    /// [`COMPLETION_REQUESTED`].
    pub flags: u16,
    /// Comes back in the completion; 0 is never answered.
    pub transaction_id: u64,
}
const _: () = assert!(size_of::<Descriptor>() == 16);
const _: () = assert!(offset_of!(Descriptor, transaction_id) == 8);

/// Follows the descriptor of a GPA-direct packet; ranges follow it.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GpaDirect {
    /// Zero.
    pub reserved: u32,
    /// How many ranges.
    pub range_count: u32,
}
const _: () = assert!(size_of::<GpaDirect>() == 8);

/// A run of bytes in pages; the frame numbers follow, 8 bytes each.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GpaRange {
    /// Length in bytes.
    pub bytes: u32,
    /// Where it starts in the first page, in bytes.
    pub offset: u32,
}
const _: () = assert!(size_of::<GpaRange>() == 8);
const _: () = assert!(offset_of!(GpaRange, offset) == 4);

/// Bytes behind every packet: four zero bytes, then where the packet started.
pub const FOOTER_BYTES: u32 = 8;

/// Where the control page holds the producer's index, in bytes of the data area.
pub const WRITE_INDEX: usize = 0;
/// Where it holds the consumer's index.
pub const READ_INDEX: usize = 4;
/// Where the consumer says, by anything but 0, that it wants no signal.
pub const INTERRUPT_MASK: usize = 8;
/// Where the producer says how many bytes it waits for; 0 when it does not wait.
pub const PENDING_SEND_SIZE: usize = 12;
/// Where the producer says what it knows of.
pub const FEATURE_BITS: usize = 64;
/// Feature: [`PENDING_SEND_SIZE`] is honoured.
pub const FEATURE_PENDING_SEND_SIZE: u32 = 1;
