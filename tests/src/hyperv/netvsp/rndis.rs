//! Numbers and wire structures of RNDIS and of the NDIS objects in it.
//!
//! Sources: OpenVMM `netvsp/src/rndisprot.rs`; Microsoft's RNDIS and NDIS references for what the
//! fields mean. Offsets inside a message count from the byte behind its header, that is from byte
//! 8. Everything is little-endian.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Message types.
pub mod message {
    pub const PACKET: u32 = 1;
    pub const INITIALIZE: u32 = 2;
    pub const HALT: u32 = 3;
    pub const QUERY: u32 = 4;
    pub const SET: u32 = 5;
    pub const RESET: u32 = 6;
    pub const INDICATE_STATUS: u32 = 7;
    pub const KEEPALIVE: u32 = 8;
    /// Of an answer: this and the type of what it answers.
    pub const COMPLETE: u32 = 0x8000_0000;
}

/// NDIS status codes.
pub mod status {
    pub const SUCCESS: u32 = 0;
    pub const MEDIA_CONNECT: u32 = 0x4001_000b;
    pub const MEDIA_DISCONNECT: u32 = 0x4001_000c;
    pub const LINK_SPEED_CHANGE: u32 = 0x4001_0013;
    pub const NETWORK_CHANGE: u32 = 0x4001_0018;
    pub const OFFLOAD_CURRENT_CONFIG: u32 = 0x4002_0006;
    pub const NOT_SUPPORTED: u32 = 0xc000_00bb;
    pub const BAD_VERSION: u32 = 0xc001_0004;
    pub const INVALID_LENGTH: u32 = 0xc001_0014;
    pub const INVALID_DATA: u32 = 0xc001_0015;
}

/// Types of per-packet information.
pub mod ppi {
    pub const CHECKSUM: u32 = 0;
    pub const LARGE_SEND: u32 = 2;
    pub const VLAN: u32 = 6;
    pub const HASH_VALUE: u32 = 8;
}

/// Bits of per-packet checksum information, guest to host.
pub mod tx_checksum {
    pub const V4: u32 = 1 << 0;
    pub const V6: u32 = 1 << 1;
    pub const TCP: u32 = 1 << 2;
    pub const UDP: u32 = 1 << 3;
    pub const IP_HEADER: u32 = 1 << 4;
    /// The transport header's offset in the frame lies from this bit on, 10 bits wide.
    pub const OFFSET_SHIFT: u32 = 16;
}

/// Bits of per-packet checksum information, host to guest.
pub mod rx_checksum {
    pub const TCP_FAILED: u32 = 1 << 0;
    pub const UDP_FAILED: u32 = 1 << 1;
    pub const IP_FAILED: u32 = 1 << 2;
    pub const TCP_SUCCEEDED: u32 = 1 << 3;
    pub const UDP_SUCCEEDED: u32 = 1 << 4;
    pub const IP_SUCCEEDED: u32 = 1 << 5;
    /// The field's value was never filled in, though the data is good.
    pub const TCP_VALUE_INVALID: u32 = 1 << 7;
}

/// The start of every message.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    pub kind: u32,
    /// Bytes of the whole message.
    pub length: u32,
}
/// Bytes of [`Header`].
pub const HEADER: usize = size_of::<Header>();
const _: () = assert!(HEADER == 8);

/// PACKET after its header.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Packet {
    pub data_offset: u32,
    pub data_length: u32,
    pub oob_offset: u32,
    pub oob_length: u32,
    pub oob_elements: u32,
    pub ppi_offset: u32,
    pub ppi_length: u32,
    pub vc_handle: u32,
    pub reserved: u32,
}
const _: () = assert!(size_of::<Packet>() == 36);

/// The start of one piece of per-packet information.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PpiHeader {
    /// Bytes of the whole piece.
    pub size: u32,
    pub kind: u32,
    /// Bytes from its start to its data.
    pub offset: u32,
}
const _: () = assert!(size_of::<PpiHeader>() == 12);

/// INITIALIZE after its header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Initialize {
    pub request: u32,
    pub major: u32,
    pub minor: u32,
    pub max_transfer: u32,
}
const _: () = assert!(size_of::<Initialize>() == 16);

/// INITIALIZE's answer after its header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitializeComplete {
    pub request: u32,
    pub status: u32,
    pub major: u32,
    pub minor: u32,
    pub device_flags: u32,
    pub medium: u32,
    pub max_packets: u32,
    pub max_transfer: u32,
    /// Packets in one message start at multiples of two to this power.
    pub alignment: u32,
    pub af_offset: u32,
    pub af_size: u32,
}
const _: () = assert!(size_of::<InitializeComplete>() == 44);

/// QUERY and SET after their header; the information follows.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    pub request: u32,
    pub oid: u32,
    pub length: u32,
    pub offset: u32,
    pub vc_handle: u32,
}
const _: () = assert!(size_of::<Request>() == 20);

/// QUERY's answer after its header; the information follows.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QueryComplete {
    pub request: u32,
    pub status: u32,
    pub length: u32,
    pub offset: u32,
}
const _: () = assert!(size_of::<QueryComplete>() == 16);

/// The answer to SET and KEEPALIVE after its header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Complete {
    pub request: u32,
    pub status: u32,
}
const _: () = assert!(size_of::<Complete>() == 8);

/// RESET's answer after its header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResetComplete {
    pub status: u32,
    /// Whether filter and addresses have to be set again.
    pub addressing_reset: u32,
}
const _: () = assert!(size_of::<ResetComplete>() == 8);

/// INDICATE_STATUS after its header; what belongs to it follows.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IndicateStatus {
    pub status: u32,
    pub length: u32,
    pub offset: u32,
}
const _: () = assert!(size_of::<IndicateStatus>() == 12);

/// A message: header, body, and what follows.
pub fn build(kind: u32, body: &(impl IntoBytes + Immutable), rest: &[u8]) -> Vec<u8> {
    let length = (HEADER + size_of_val(body) + rest.len()) as u32;
    let header = Header { kind, length };
    [header.as_bytes(), body.as_bytes(), rest].concat()
}

/// One piece of per-packet information with 32 bits in it.
pub fn ppi(kind: u32, value: u32) -> Vec<u8> {
    let header = PpiHeader {
        size: (size_of::<PpiHeader>() + 4) as u32,
        kind,
        offset: size_of::<PpiHeader>() as u32,
    };
    [header.as_bytes(), &value.to_le_bytes()].concat()
}
