//! Numbers and wire structures of NVSP, the protocol that carries RNDIS over a channel.
//!
//! Source: OpenVMM `netvsp/src/protocol.rs`. Every message starts with its type (32 bits); all
//! fields are little-endian.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Protocol versions, `major << 16 | minor`.
pub mod version {
    pub const V1: u32 = 0x0000_0002;
    pub const V2: u32 = 0x0003_0002;
    pub const V4: u32 = 0x0004_0000;
    pub const V5: u32 = 0x0005_0000;
    pub const V6: u32 = 0x0006_0000;
    pub const V6_1: u32 = 0x0006_0001;
    /// All of them, oldest first.
    pub const ALL: [u32; 6] = [V1, V2, V4, V5, V6, V6_1];
}

/// Message types.
pub mod message {
    pub const INIT: u32 = 1;
    pub const INIT_COMPLETE: u32 = 2;
    pub const SEND_NDIS_VERSION: u32 = 100;
    pub const SEND_RECEIVE_BUFFER: u32 = 101;
    pub const SEND_RECEIVE_BUFFER_COMPLETE: u32 = 102;
    pub const REVOKE_RECEIVE_BUFFER: u32 = 103;
    pub const SEND_SEND_BUFFER: u32 = 104;
    pub const SEND_SEND_BUFFER_COMPLETE: u32 = 105;
    pub const REVOKE_SEND_BUFFER: u32 = 106;
    pub const SEND_RNDIS_PACKET: u32 = 107;
    pub const SEND_RNDIS_PACKET_COMPLETE: u32 = 108;
    pub const SEND_NDIS_CONFIG: u32 = 125;
    pub const SWITCH_DATA_PATH: u32 = 129;
    pub const OID_QUERY_EX: u32 = 131;
    pub const OID_QUERY_EX_COMPLETE: u32 = 132;
    pub const SUB_CHANNEL: u32 = 133;
    pub const SEND_INDIRECTION_TABLE: u32 = 134;
}

/// What completions say.
pub mod status {
    pub const NONE: u32 = 0;
    pub const SUCCESS: u32 = 1;
    pub const FAILURE: u32 = 2;
}

/// Bytes of a message up to version 6.0; on the wire 32 with their padding.
pub const SIZE: usize = 0x1c;
/// Bytes of a message from version 6.1 on.
pub const SIZE_6_1: usize = 0x28;
/// Shorter messages than this a real host throws away without a word.
pub const SIZE_MIN: usize = 32;

/// Channel types of SEND_RNDIS_PACKET.
pub const DATA: u32 = 0;
pub const CONTROL: u32 = 1;
/// The section index that says: not in the send buffer.
pub const NO_SECTION: u32 = u32::MAX;
/// Entries of a send-indirection table.
pub const TABLE_ENTRIES: usize = 16;
/// Pages or ranges a packet may consist of.
pub const MAX_MDL_CHAIN: u32 = 34;
/// Transfer ranges in one packet.
pub const MAX_RANGES: usize = 375;
/// The capability in SEND_NDIS_CONFIG to have VLAN tags beside the frames.
pub const CONFIG_VLAN: u64 = 1 << 3;

/// Bytes of a whole message in this version.
pub fn size(version: u32) -> usize {
    if version >= version::V6_1 {
        SIZE_6_1
    } else {
        SIZE
    }
}

/// A message of this version: type, body, zeroes up to its size.
pub fn build(version: u32, kind: u32, body: &impl BodyBytes) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend_from_slice(body.bytes());
    bytes.resize(bytes.len().max(size(version)), 0);
    bytes
}

/// What can be the body of a message.
pub trait BodyBytes {
    fn bytes(&self) -> &[u8];
}

impl<T: IntoBytes + Immutable> BodyBytes for T {
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// INIT: the version wanted, twice (lowest and highest).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Init {
    pub lowest: u32,
    pub highest: u32,
}
const _: () = assert!(size_of::<Init>() == 8);

/// INIT_COMPLETE.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitComplete {
    /// Only version 1 is said here.
    pub version: u32,
    pub max_mdl_chain: u32,
    pub status: u32,
}
const _: () = assert!(size_of::<InitComplete>() == 12);

/// SEND_NDIS_VERSION.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NdisVersion {
    pub major: u32,
    pub minor: u32,
}
const _: () = assert!(size_of::<NdisVersion>() == 8);

/// SEND_NDIS_CONFIG.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NdisConfig {
    /// Bytes of the longest frame, Ethernet header included.
    pub mtu: u32,
    pub reserved: u32,
    pub capabilities: u64,
}
const _: () = assert!(size_of::<NdisConfig>() == 16);

/// SEND_RECEIVE_BUFFER and SEND_SEND_BUFFER.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShareBuffer {
    pub gpadl: u32,
    pub id: u16,
    pub reserved: u16,
}
const _: () = assert!(size_of::<ShareBuffer>() == 8);

/// SEND_RECEIVE_BUFFER_COMPLETE with the one section that hosts send.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReceiveBufferComplete {
    pub status: u32,
    pub sections: u32,
    pub offset: u32,
    /// Bytes of each sub-allocation.
    pub size: u32,
    pub count: u32,
    pub end: u32,
}
const _: () = assert!(size_of::<ReceiveBufferComplete>() == 24);

/// SEND_SEND_BUFFER_COMPLETE.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SendBufferComplete {
    pub status: u32,
    /// Bytes of each section.
    pub section_size: u32,
}
const _: () = assert!(size_of::<SendBufferComplete>() == 8);

/// SEND_RNDIS_PACKET.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RndisPacket {
    pub channel_type: u32,
    pub section: u32,
    pub section_bytes: u32,
}
const _: () = assert!(size_of::<RndisPacket>() == 12);

/// SUB_CHANNEL and its answer: an operation or a status, and a number of sub-channels.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SubChannel {
    pub operation: u32,
    pub count: u32,
}
const _: () = assert!(size_of::<SubChannel>() == 8);

/// The operation that asks for sub-channels.
pub const ALLOCATE: u32 = 1;

/// SEND_INDIRECTION_TABLE, without the table.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IndirectionTable {
    pub entries: u32,
    /// Bytes from the start of the message to the table.
    pub offset: u32,
}
const _: () = assert!(size_of::<IndirectionTable>() == 8);

/// OID_QUERY_EX_COMPLETE.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OidQueryExComplete {
    /// An NDIS status.
    pub status: u32,
    pub bytes: u32,
}
const _: () = assert!(size_of::<OidQueryExComplete>() == 8);
