//! The block ring: `io/blkif.h` and the index header of `io/ring.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub const OP_READ: u8 = 0;
pub const OP_WRITE: u8 = 1;
pub const OP_WRITE_BARRIER: u8 = 2;
pub const OP_FLUSH: u8 = 3;
pub const OP_DISCARD: u8 = 5;
pub const OP_INDIRECT: u8 = 6;

pub const RSP_OKAY: i16 = 0;
pub const RSP_ERROR: i16 = -1;
pub const RSP_EOPNOTSUPP: i16 = -2;

/// Segments a request carries itself.
pub const MAX_SEGMENTS: usize = 11;

/// Bits of the back end's `info` key.
pub const VDISK_CDROM: u32 = 1;
pub const VDISK_REMOVABLE: u32 = 2;
pub const VDISK_READONLY: u32 = 4;

/// `struct blkif_request_segment`; sectors are 512 bytes within the granted page, both inclusive.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Segment {
    pub gref: u32,
    pub first_sect: u8,
    pub last_sect: u8,
    pub pad: u16,
}
const _: () = assert!(size_of::<Segment>() == 8);

/// `struct blkif_request`; `sector_number` counts 512-byte sectors.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Request {
    pub operation: u8,
    pub nr_segments: u8,
    pub handle: u16,
    pub pad: u32,
    pub id: u64,
    pub sector_number: u64,
    pub seg: [Segment; MAX_SEGMENTS],
}
const _: () = assert!(size_of::<Request>() == 112);

/// `struct blkif_request_discard`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Discard {
    pub operation: u8,
    pub flag: u8,
    pub handle: u16,
    pub pad: u32,
    pub id: u64,
    pub sector_number: u64,
    pub nr_sectors: u64,
}
const _: () = assert!(size_of::<Discard>() == 32);

/// `struct blkif_response`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Response {
    pub id: u64,
    pub operation: u8,
    pub pad0: u8,
    pub status: i16,
    pub pad1: u32,
}
const _: () = assert!(size_of::<Response>() == 16);

/// `struct blkif_sring` without its entries (`DEFINE_RING_TYPES`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RingHeader {
    pub req_prod: u32,
    pub req_event: u32,
    pub rsp_prod: u32,
    pub rsp_event: u32,
    pub pad: [u8; 48],
}
const _: () = assert!(size_of::<RingHeader>() == 64);

/// Bytes of a ring entry: a request or a response.
pub const ENTRY: u64 = 112;
