//! The block interface on the wire: `xen/include/public/io/blkif.h` and `io/ring.h`, in the
//! layout of 64-bit x86 (protocol `x86_64-abi`).

use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `BLKIF_OP_READ`.
pub const OP_READ: u8 = 0;
/// `BLKIF_OP_WRITE`.
pub const OP_WRITE: u8 = 1;
/// `BLKIF_OP_WRITE_BARRIER`: a write that is ordered, or without data a flush.
pub const OP_WRITE_BARRIER: u8 = 2;
/// `BLKIF_OP_FLUSH_DISKCACHE`.
pub const OP_FLUSH_DISKCACHE: u8 = 3;
/// `BLKIF_OP_DISCARD`.
pub const OP_DISCARD: u8 = 5;

/// `BLKIF_RSP_OKAY`.
pub const RSP_OKAY: i16 = 0;
/// `BLKIF_RSP_ERROR`.
pub const RSP_ERROR: i16 = -1;
/// `BLKIF_RSP_EOPNOTSUPP`.
pub const RSP_EOPNOTSUPP: i16 = -2;

/// `BLKIF_MAX_SEGMENTS_PER_REQUEST`: 44 KiB.
pub const MAX_SEGMENTS: usize = 11;

/// `VDISK_CDROM`, `VDISK_REMOVABLE`, `VDISK_READONLY`: bits of the back end's `info` key.
pub const INFO_CDROM: u32 = 1;
/// See [`INFO_CDROM`].
pub const INFO_REMOVABLE: u32 = 2;
/// See [`INFO_CDROM`].
pub const INFO_READONLY: u32 = 4;

/// `blkif_request_segment`: sectors of one granted page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// Grant reference of the page.
    pub gref: u32,
    /// First 512-byte sector of the page, 0 to 7.
    pub first_sect: u8,
    /// Last 512-byte sector of the page, itself included.
    pub last_sect: u8,
    /// Padding.
    pub pad: u16,
}

/// The fixed part of `blkif_request`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestHeader {
    /// `BLKIF_OP_*`.
    pub operation: u8,
    /// How many segments.
    pub nr_segments: u8,
    /// The virtual device, as in the `virtual-device` key.
    pub handle: u16,
    /// Padding.
    pub pad: u32,
    /// Echoed in the response.
    pub id: u64,
    /// First sector, in 512-byte units whatever the disk's sector size.
    pub sector_number: u64,
}

/// `blkif_request`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    /// The fixed part.
    pub header: RequestHeader,
    /// Where the data is.
    pub seg: [Segment; MAX_SEGMENTS],
}

/// `blkif_request_discard`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestDiscard {
    /// [`OP_DISCARD`].
    pub operation: u8,
    /// Bit 0: securely.
    pub flag: u8,
    /// The virtual device.
    pub handle: u16,
    /// Padding.
    pub pad: u32,
    /// Echoed in the response.
    pub id: u64,
    /// First 512-byte sector.
    pub sector_number: u64,
    /// How many 512-byte sectors.
    pub nr_sectors: u64,
}

/// `blkif_response`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Response {
    /// The request's.
    pub id: u64,
    /// The request's.
    pub operation: u8,
    /// Padding.
    pub pad: u8,
    /// `BLKIF_RSP_*`.
    pub status: i16,
    /// Padding.
    pub pad2: u32,
}

/// Where things are in a ring page (`DEFINE_RING_TYPES`): `req_prod`, `req_event`, `rsp_prod`,
/// `rsp_event`, then the ring.
pub const REQ_PROD: usize = 0;
/// See [`REQ_PROD`].
pub const REQ_EVENT: usize = 4;
/// See [`REQ_PROD`].
pub const RSP_PROD: usize = 8;
/// See [`REQ_PROD`].
pub const RSP_EVENT: usize = 12;
/// See [`REQ_PROD`].
pub const RING: usize = 64;
/// `__CONST_RING_SIZE(blkif, 4096)`: entries in a ring of one page.
pub const RING_SIZE: u32 = 32;

const _: () = {
    assert!(size_of::<Segment>() == 8);
    assert!(offset_of!(Segment, first_sect) == 4);
    assert!(offset_of!(Segment, last_sect) == 5);
    assert!(size_of::<Request>() == 112);
    assert!(size_of::<RequestHeader>() == 24);
    assert!(offset_of!(RequestHeader, handle) == 2);
    assert!(offset_of!(RequestHeader, id) == 8);
    assert!(offset_of!(RequestHeader, sector_number) == 16);
    assert!(offset_of!(Request, seg) == 24);
    assert!(size_of::<RequestDiscard>() == 32);
    assert!(offset_of!(RequestDiscard, nr_sectors) == 24);
    assert!(size_of::<Response>() == 16);
    assert!(offset_of!(Response, operation) == 8);
    assert!(offset_of!(Response, status) == 10);
};
