//! Numbers and wire structures of the host side: hypercalls, VMBus messages, ring packets, storvsp.
//!
//! Sources: Hypervisor Top-Level Functional Specification (TLFS) 6.0b for hypercalls and the SynIC;
//! Linux `include/linux/hyperv.h` and OpenVMM `vmbus_core/src/protocol.rs` for VMBus messages;
//! OpenVMM `storvsp_protocol/src/lib.rs` for storvsp. Every structure is little-endian.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The page size of every Hyper-V interface, in bytes, whatever the guest's own is.
pub const PAGE: u64 = 4096;

/// Status codes of hypercalls (TLFS appendix B).
pub mod status {
    pub const SUCCESS: u16 = 0x0000;
    pub const INVALID_HYPERCALL_CODE: u16 = 0x0002;
    pub const INVALID_HYPERCALL_INPUT: u16 = 0x0003;
    pub const INVALID_ALIGNMENT: u16 = 0x0004;
    pub const INVALID_PARAMETER: u16 = 0x0005;
    pub const INSUFFICIENT_MEMORY: u16 = 0x000b;
    pub const INVALID_CONNECTION_ID: u16 = 0x0012;
    pub const INSUFFICIENT_BUFFERS: u16 = 0x0013;
}

/// Hypercall codes (TLFS appendix A).
pub mod call {
    pub const POST_MESSAGE: u16 = 0x005c;
    pub const SIGNAL_EVENT: u16 = 0x005d;
}

/// `HV_INPUT_POST_MESSAGE` without its 240 bytes of payload (TLFS 11.10).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PostMessageInput {
    pub connection_id: u32,
    pub reserved: u32,
    pub message_type: u32,
    /// Bytes of payload, at most 240.
    pub payload_size: u32,
}
const _: () = assert!(size_of::<PostMessageInput>() == 16);

/// Bytes a SynIC message can carry.
pub const MESSAGE_PAYLOAD: usize = 240;

/// VMBus protocol versions, `major << 16 | minor`.
pub mod version {
    pub const V2_4: u32 = 2 << 16 | 4;
    pub const V3_0: u32 = 3 << 16;
    pub const V4_0: u32 = 4 << 16;
    pub const V4_1: u32 = 4 << 16 | 1;
    pub const V5_0: u32 = 5 << 16;
    pub const V5_1: u32 = 5 << 16 | 1;
    pub const V5_2: u32 = 5 << 16 | 2;
    pub const V5_3: u32 = 5 << 16 | 3;
    pub const V6_0: u32 = 6 << 16;
    /// What the model can speak, newest first.
    pub const ALL: [u32; 9] = [V6_0, V5_3, V5_2, V5_1, V5_0, V4_1, V4_0, V3_0, V2_4];
}

/// Message types of the VMBus control protocol.
pub mod message {
    pub const OFFER_CHANNEL: u32 = 1;
    pub const RESCIND_OFFER: u32 = 2;
    pub const REQUEST_OFFERS: u32 = 3;
    pub const ALL_OFFERS_DELIVERED: u32 = 4;
    pub const OPEN_CHANNEL: u32 = 5;
    pub const OPEN_RESULT: u32 = 6;
    pub const CLOSE_CHANNEL: u32 = 7;
    pub const GPADL_HEADER: u32 = 8;
    pub const GPADL_BODY: u32 = 9;
    pub const GPADL_CREATED: u32 = 10;
    pub const GPADL_TEARDOWN: u32 = 11;
    pub const GPADL_TORNDOWN: u32 = 12;
    pub const RELID_RELEASED: u32 = 13;
    pub const INITIATE_CONTACT: u32 = 14;
    pub const VERSION_RESPONSE: u32 = 15;
    pub const UNLOAD: u32 = 16;
    pub const UNLOAD_COMPLETE: u32 = 17;
    pub const MODIFY_CHANNEL: u32 = 22;
    pub const MODIFY_CHANNEL_RESPONSE: u32 = 24;
}

/// What a channel message answers when all went well, and when not (NTSTATUS).
pub const NT_SUCCESS: u32 = 0;
pub const NT_UNSUCCESSFUL: u32 = 0xc000_0001;

/// The start of every VMBus message.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MessageHeader {
    pub kind: u32,
    pub padding: u32,
}

/// INITIATE_CONTACT after its header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitiateContact {
    pub version: u32,
    /// Processor that gets the host's messages, from version 3.0 on (before: always 0).
    pub target_vp: u32,
    /// From 5.0 on the SINT for messages; before, part of the interrupt page's address.
    pub sint: u8,
    pub vtl: u8,
    pub reserved: u16,
    /// From 6.0 on, features the guest asks for.
    pub features: u32,
    /// Both monitor pages, or neither; guest-physical addresses.
    pub monitor_pages: [u64; 2],
}
const _: () = assert!(size_of::<InitiateContact>() == 32);

/// VERSION_RESPONSE after its header; `features` only from 6.0 on.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VersionResponse {
    pub supported: u8,
    pub connection_state: u8,
    pub padding: u16,
    /// From 5.0 on, the connection id for every further message.
    pub message_connection_id: u32,
    pub features: u32,
}
const _: () = assert!(size_of::<VersionResponse>() == 12);

/// A GUID as it lies in memory.
pub type Guid = [u8; 16];

/// OFFER_CHANNEL after its header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OfferChannel {
    pub interface: Guid,
    pub instance: Guid,
    pub reserved: [u32; 4],
    pub flags: u16,
    pub mmio_megabytes: u16,
    pub user_defined: [u8; 120],
    pub subchannel_index: u16,
    pub mmio_megabytes_optional: u16,
    pub relid: u32,
    pub monitor_id: u8,
    pub monitor_allocated: u8,
    pub is_dedicated: u16,
    pub connection_id: u32,
}
const _: () = assert!(size_of::<OfferChannel>() == 188);

/// OPEN_CHANNEL after its header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OpenChannel {
    pub relid: u32,
    pub open_id: u32,
    pub ring_gpadl: u32,
    /// `0xffff_ffff`: never interrupt.
    pub target_vp: u32,
    /// Pages from the start of the GPADL to the host-to-guest ring.
    pub downstream_page: u32,
    pub user_data: [u8; 120],
}
const _: () = assert!(size_of::<OpenChannel>() == 140);

/// OPEN_RESULT after its header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OpenResult {
    pub relid: u32,
    pub open_id: u32,
    pub status: u32,
}

/// GPADL_HEADER after its header; ranges follow.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GpadlHeader {
    pub relid: u32,
    pub gpadl: u32,
    /// Bytes of all ranges, in this message and the GPADL_BODY ones.
    pub range_bytes: u16,
    pub range_count: u16,
}
const _: () = assert!(size_of::<GpadlHeader>() == 12);

/// GPADL_BODY after its header; page frame numbers follow.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GpadlBody {
    pub message_number: u32,
    pub gpadl: u32,
}

/// GPADL_CREATED after its header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GpadlCreated {
    pub relid: u32,
    pub gpadl: u32,
    pub status: u32,
}

/// GPADL_TEARDOWN after its header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GpadlTeardown {
    pub relid: u32,
    pub gpadl: u32,
}

/// MODIFY_CHANNEL after its header: the processor for a channel's interrupts.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ModifyChannel {
    pub relid: u32,
    pub target_vp: u32,
}

/// MODIFY_CHANNEL_RESPONSE after its header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ModifyChannelResponse {
    pub relid: u32,
    pub status: u32,
}

/// Packet types in the rings (`enum vmbus_packet_type`).
pub mod packet {
    pub const IN_BAND: u16 = 6;
    pub const TRANSFER_PAGES: u16 = 7;
    pub const GPA_DIRECT: u16 = 9;
    pub const COMPLETION: u16 = 11;
    pub const COMPLETION_REQUESTED: u16 = 1;
}

/// `struct vmpacket_descriptor`: the start of every packet in a ring.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PacketDescriptor {
    pub kind: u16,
    /// Start of the payload, in 8-byte units from the descriptor.
    pub offset8: u16,
    /// Whole packet without its footer, in 8-byte units.
    pub length8: u16,
    pub flags: u16,
    pub transaction_id: u64,
}
const _: () = assert!(size_of::<PacketDescriptor>() == 16);

/// Operations of a storvsp packet.
pub mod operation {
    pub const COMPLETE_IO: u32 = 1;
    pub const EXECUTE_SRB: u32 = 3;
    pub const RESET_LUN: u32 = 4;
    pub const RESET_ADAPTER: u32 = 5;
    pub const RESET_BUS: u32 = 6;
    pub const BEGIN_INITIALIZATION: u32 = 7;
    pub const END_INITIALIZATION: u32 = 8;
    pub const QUERY_PROTOCOL_VERSION: u32 = 9;
    pub const QUERY_PROPERTIES: u32 = 10;
    pub const ENUMERATE_BUS: u32 = 11;
    pub const CREATE_SUB_CHANNELS: u32 = 13;
}

/// The start of every storvsp packet.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StorvspHeader {
    pub operation: u32,
    pub flags: u32,
    /// NTSTATUS, meaningful from host to guest.
    pub status: u32,
}
const _: () = assert!(size_of::<StorvspHeader>() == 12);

/// `vmscsi_request`: a SCSI command and, on the way back, its outcome. 0x24 bytes before storvsp 5.1.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ScsiRequest {
    pub length: u16,
    pub srb_status: u8,
    pub scsi_status: u8,
    pub port: u8,
    pub path: u8,
    pub target: u8,
    pub lun: u8,
    pub cdb_length: u8,
    pub sense_length: u8,
    /// 0: guest to device, 1: device to guest.
    pub data_in: u8,
    pub reserved: u8,
    /// Bytes of the data buffer; on the way back, bytes moved.
    pub transfer_length: u32,
    /// The CDB (16 bytes); on the way back, sense data (20 bytes).
    pub cdb_or_sense: [u8; 20],
    pub reserved2: u16,
    pub queue_tag: u8,
    pub queue_action: u8,
    pub srb_flags: u32,
    pub timeout_seconds: u32,
    pub queue_sort_key: u32,
}
const _: () = assert!(size_of::<ScsiRequest>() == 0x34);

/// Bytes of `ScsiRequest` that exist before storvsp 5.1.
pub const SCSI_REQUEST_OLD: usize = 0x24;

/// storvsp protocol versions, `major << 8 | minor`, newest first.
pub const STORVSP_VERSIONS: [u16; 5] = [0x0602, 0x0600, 0x0501, 0x0402, 0x0200];

/// QUERY_PROPERTIES' answer.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ChannelProperties {
    pub reserved: u32,
    pub max_subchannels: u16,
    pub reserved2: u16,
    pub flags: u32,
    pub max_transfer_bytes: u32,
    pub reserved3: [u32; 2],
}
const _: () = assert!(size_of::<ChannelProperties>() == 24);

/// Interface GUIDs of offers.
pub mod interface {
    use super::Guid;

    /// A GUID from its printed form's three numbers and eight bytes.
    const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> Guid {
        let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
        [
            a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5],
            d[6], d[7],
        ]
    }

    /// ba6163d9-04a1-4d29-b605-72e2ffb1dc7f
    pub const SCSI: Guid = guid(
        0xba61_63d9,
        0x04a1,
        0x4d29,
        [0xb6, 0x05, 0x72, 0xe2, 0xff, 0xb1, 0xdc, 0x7f],
    );
    /// f8615163-df3e-46c5-913f-f2d2f965ed0e
    pub const NETWORK: Guid = guid(
        0xf861_5163,
        0xdf3e,
        0x46c5,
        [0x91, 0x3f, 0xf2, 0xd2, 0xf9, 0x65, 0xed, 0x0e],
    );
    /// 0e0b6031-5213-4934-818b-38d90ced39db
    pub const SHUTDOWN: Guid = guid(
        0x0e0b_6031,
        0x5213,
        0x4934,
        [0x81, 0x8b, 0x38, 0xd9, 0x0c, 0xed, 0x39, 0xdb],
    );
    /// 9527e630-d0ae-497b-adce-e80ab0175caf
    pub const TIMESYNC: Guid = guid(
        0x9527_e630,
        0xd0ae,
        0x497b,
        [0xad, 0xce, 0xe8, 0x0a, 0xb0, 0x17, 0x5c, 0xaf],
    );
    /// a9a0f4e7-5a45-4d96-b827-8a841e8c03e6
    pub const KVP: Guid = guid(
        0xa9a0_f4e7,
        0x5a45,
        0x4d96,
        [0xb8, 0x27, 0x8a, 0x84, 0x1e, 0x8c, 0x03, 0xe6],
    );
}
