//! Receive-side scaling: how the host spreads frames over channels.
//!
//! Source: Microsoft, "NDIS_RECEIVE_SCALE_PARAMETERS", "NDIS_RECEIVE_SCALE_CAPABILITIES"; OpenVMM,
//! `netvsp/src/rndisprot.rs`.

use super::ndis::{ObjectHeader, object};
use crate::toeplitz::KEY_BYTES;
use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Entries of the table that the host is given.
pub const ENTRIES: usize = 128;

/// The key of the Toeplitz hash, Microsoft's own example: other guests have the same, and nothing
/// here relies on its being secret.
pub const KEY: [u8; KEY_BYTES] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// The Toeplitz hash, over addresses, and over ports where there is TCP.
const HASH: u32 = TOEPLITZ | V4 | TCP_V4 | V6 | TCP_V6;
const TOEPLITZ: u32 = 1;
const V4: u32 = 0x100;
const TCP_V4: u32 = 0x200;
const V6: u32 = 0x400;
const TCP_V6: u32 = 0x1000;

/// NDIS_RECEIVE_SCALE_PARAMETERS, revision 2, with table and key.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Parameters {
    /// An object of type [`object::RSS_PARAMETERS`].
    pub header: ObjectHeader,
    /// What stays unchanged; nothing.
    pub flags: u16,
    /// Not used.
    pub base_cpu: u16,
    /// Function and types of the hash.
    pub hash: u32,
    /// Bytes of the table.
    pub table_bytes: u16,
    /// Zero.
    pub padding: u16,
    /// Where the table is.
    pub table_offset: u32,
    /// Bytes of the key.
    pub key_bytes: u16,
    /// Zero.
    pub padding2: u16,
    /// Where the key is.
    pub key_offset: u32,
    /// No masks of processors.
    pub masks: [u32; 3],
    /// By the lowest bits of the hash: channels.
    pub table: [u32; ENTRIES],
    /// The key.
    pub key: [u8; KEY_BYTES],
}
const _: () = assert!(offset_of!(Parameters, table) == 40);
const _: () = assert!(offset_of!(Parameters, key_offset) == 24);
const _: () = assert!(size_of::<Parameters>() == 40 + 4 * ENTRIES + KEY_BYTES);

impl Parameters {
    /// Those that spread over so many channels, at least one.
    pub fn new(channels: u32) -> Self {
        Self {
            header: ObjectHeader {
                kind: object::RSS_PARAMETERS,
                revision: 2,
                size: offset_of!(Self, table) as u16,
            },
            flags: 0,
            base_cpu: 0,
            hash: HASH,
            table_bytes: const { 4 * ENTRIES as u16 },
            padding: 0,
            table_offset: offset_of!(Self, table) as u32,
            key_bytes: KEY_BYTES as u16,
            padding2: 0,
            key_offset: offset_of!(Self, key) as u32,
            masks: [0; 3],
            table: core::array::from_fn(|entry| (entry as u32).checked_rem(channels).unwrap_or(0)),
            key: KEY,
        }
    }
}

/// The start of NDIS_RECEIVE_SCALE_CAPABILITIES.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Capabilities {
    /// An object of type [`object::RSS_CAPABILITIES`].
    pub header: ObjectHeader,
    /// What it can do.
    pub flags: u32,
    /// Interrupts.
    pub messages: u32,
    /// Queues, the first one's included.
    pub queues: u32,
}
const _: () = assert!(size_of::<Capabilities>() == 16);

/// How many queues the host spreads over; 1 when the answer is no such object.
pub fn queues(answer: &[u8]) -> u32 {
    match Capabilities::read_from_prefix(answer) {
        Ok((capabilities, _)) if capabilities.header.kind == object::RSS_CAPABILITIES => {
            capabilities.queues.max(1)
        }
        _ => 1,
    }
}
