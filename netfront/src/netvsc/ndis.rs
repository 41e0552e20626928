//! NDIS objects in RNDIS queries and sets: what a NIC offloads.
//!
//! Source: Microsoft, "NDIS_OFFLOAD", "NDIS_OFFLOAD_PARAMETERS"; OpenVMM,
//! `netvsp/src/rndisprot.rs`.

use super::nvsp::Version;
use crate::capabilities::Offloads;
use core::mem::offset_of;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Object identifiers.
#[expect(missing_docs, reason = "the names are the specification's")]
pub mod oid {
    pub const MAXIMUM_FRAME_SIZE: u32 = 0x0001_0106;
    pub const CURRENT_PACKET_FILTER: u32 = 0x0001_010e;
    pub const MEDIA_CONNECT_STATUS: u32 = 0x0001_0114;
    pub const RECEIVE_SCALE_CAPABILITIES: u32 = 0x0001_0203;
    pub const RECEIVE_SCALE_PARAMETERS: u32 = 0x0001_0204;
    pub const PERMANENT_ADDRESS: u32 = 0x0101_0101;
    pub const CURRENT_ADDRESS: u32 = 0x0101_0102;
    pub const OFFLOAD_PARAMETERS: u32 = 0xfc01_020c;
    pub const OFFLOAD_HARDWARE_CAPABILITIES: u32 = 0xfc01_020d;
}

/// Bits of [`oid::CURRENT_PACKET_FILTER`].
#[expect(missing_docs, reason = "the names are the specification's")]
pub mod filter {
    pub const DIRECTED: u32 = 0x01;
    pub const ALL_MULTICAST: u32 = 0x04;
    pub const BROADCAST: u32 = 0x08;
    pub const PROMISCUOUS: u32 = 0x20;
}

/// Types of objects.
#[expect(missing_docs, reason = "the names are the specification's")]
pub mod object {
    pub const DEFAULT: u8 = 0x80;
    pub const RSS_CAPABILITIES: u8 = 0x88;
    pub const RSS_PARAMETERS: u8 = 0x89;
    pub const OFFLOAD: u8 = 0xa7;
}

/// The start of every object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ObjectHeader {
    /// One of [`object`].
    pub kind: u8,
    /// Which form of it.
    pub revision: u8,
    /// Bytes of the object, this header included.
    pub size: u16,
}
const _: () = assert!(size_of::<ObjectHeader>() == 4);

/// NDIS_OFFLOAD, as far as it matters here: revision 1.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Offload {
    /// An object of type [`object::OFFLOAD`].
    pub header: ObjectHeader,
    /// Checksums of IPv4 frames that are sent: encapsulation, flags.
    pub tx_v4: [u32; 2],
    /// Of those received.
    pub rx_v4: [u32; 2],
    /// Of IPv6 frames that are sent.
    pub tx_v6: [u32; 2],
    /// Of those received.
    pub rx_v6: [u32; 2],
    /// Not used.
    pub lso_v1: [u32; 4],
    /// Not used.
    pub ipsec_v1: [u32; 7],
    /// Large send over IPv4: encapsulation, most bytes of payload, fewest segments.
    pub lso_v4: [u32; 3],
    /// Over IPv6: the same and flags.
    pub lso_v6: [u32; 4],
    /// Not used.
    pub flags: u32,
}
const _: () = assert!(size_of::<Offload>() == 112);
const _: () = assert!(offset_of!(Offload, lso_v4) == 80);

/// Flags in [`Offload`]'s checksum fields: two bits each.
const TCP: u32 = 3 << 4;
const UDP: u32 = 3 << 6;

/// Bytes of revision 3, and of revision 2.
const REVISION_3: u16 = 156;
const REVISION_2: u16 = 144;

/// What a host's hardware offloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hardware {
    /// For frames that are sent, `CHECKSUM_*` and `SEGMENT_*`.
    pub tx: u32,
    /// For frames that are received, `CHECKSUM_*`.
    pub rx: u32,
    /// Bytes of the longest segment to be cut.
    pub most: u32,
}

impl Hardware {
    /// See `tx`.
    pub fn tx(&self) -> Offloads {
        Offloads::from_bits_truncate(self.tx)
    }

    /// See `rx`.
    pub fn rx(&self) -> Offloads {
        Offloads::from_bits_truncate(self.rx)
    }

    /// Reads an answer; nothing is offloaded when it is no such object.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut offload = Offload::new_zeroed();
        for (to, from) in offload.as_mut_bytes().iter_mut().zip(bytes) {
            *to = *from;
        }
        let header = offload.header;
        let whole = usize::from(header.size) <= bytes.len()
            && usize::from(header.size) >= size_of::<Offload>();
        if header.kind != object::OFFLOAD || header.revision == 0 || !whole {
            return Self::default();
        }
        let checksums = |v4: u32, v6: u32| {
            let flag = |set: u32, offload: Offloads| match set {
                0 => Offloads::empty(),
                _ => offload,
            };
            flag(v4 & TCP, Offloads::CHECKSUM_TCP_V4)
                | flag(v4 & UDP, Offloads::CHECKSUM_UDP_V4)
                | flag(v6 & TCP, Offloads::CHECKSUM_TCP_V6)
                | flag(v6 & UDP, Offloads::CHECKSUM_UDP_V6)
        };
        let [.., tx_v4] = offload.tx_v4;
        let [.., tx_v6] = offload.tx_v6;
        let [.., rx_v4] = offload.rx_v4;
        let [.., rx_v6] = offload.rx_v6;
        let [kind_v4, most_v4, _] = offload.lso_v4;
        let [kind_v6, most_v6, ..] = offload.lso_v6;
        let mut tx = checksums(tx_v4, tx_v6);
        let mut most = u32::MAX;
        if kind_v4 != 0 && most_v4 != 0 {
            tx |= Offloads::SEGMENT_V4;
            most = most.min(most_v4);
        }
        if kind_v6 != 0 && most_v6 != 0 {
            tx |= Offloads::SEGMENT_V6;
            most = most.min(most_v6);
        }
        Self {
            tx: tx.bits(),
            rx: checksums(rx_v4, rx_v6).bits(),
            most,
        }
    }
}

/// The object that goes with the query for the hardware's offloads: which form is wanted.
pub fn capabilities_query(version: Version) -> [u8; REVISION_3 as usize] {
    let (revision, size) = match version.ndis() {
        (6, 30..) => (3, REVISION_3),
        _ => (2, REVISION_2),
    };
    let header = ObjectHeader {
        kind: object::OFFLOAD,
        revision,
        size,
    };
    let mut bytes = [0; REVISION_3 as usize];
    for (to, from) in bytes.iter_mut().zip(header.as_bytes()) {
        *to = *from;
    }
    bytes
}

/// NDIS_OFFLOAD_PARAMETERS, revision 3.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OffloadParameters {
    /// An object of type [`object::DEFAULT`].
    pub header: ObjectHeader,
    /// IPv4 headers.
    pub ip_v4: u8,
    /// TCP over IPv4: [`checksum_mode`].
    pub tcp_v4: u8,
    /// UDP over IPv4.
    pub udp_v4: u8,
    /// TCP over IPv6.
    pub tcp_v6: u8,
    /// UDP over IPv6.
    pub udp_v6: u8,
    /// Not used.
    pub lso_v1: u8,
    /// Not used.
    pub ipsec_v1: u8,
    /// 1 off, 2 on.
    pub lso_v4: u8,
    /// 1 off, 2 on.
    pub lso_v6: u8,
    /// Not used.
    pub connections: [u8; 3],
    /// Zero.
    pub flags: u32,
    /// Joined segments and tunnels: no change, but no joined segments.
    pub rest: [u8; 8],
}
const _: () = assert!(size_of::<OffloadParameters>() == 28);
const _: () = assert!(offset_of!(OffloadParameters, flags) == 16);

/// How a checksum is set: 1 off, 2 sent only, 3 received only, 4 both.
pub fn checksum_mode(tx: bool, rx: bool) -> u8 {
    match (tx, rx) {
        (false, false) => 1,
        (true, false) => 2,
        (false, true) => 3,
        (true, true) => 4,
    }
}

impl OffloadParameters {
    /// Those that set exactly these.
    pub fn new(version: Version, tx: Offloads, rx: Offloads) -> Self {
        let mode = |offload| checksum_mode(tx.contains(offload), rx.contains(offload));
        let large = |offload| if tx.contains(offload) { 2 } else { 1 };
        let (revision, size) = match version.ndis() {
            (6, 30..) => (3, size_of::<Self>() as u16),
            _ => (2, 24),
        };
        Self {
            header: ObjectHeader {
                kind: object::DEFAULT,
                revision,
                size,
            },
            ip_v4: 1,
            tcp_v4: mode(Offloads::CHECKSUM_TCP_V4),
            udp_v4: mode(Offloads::CHECKSUM_UDP_V4),
            tcp_v6: mode(Offloads::CHECKSUM_TCP_V6),
            udp_v6: mode(Offloads::CHECKSUM_UDP_V6),
            lso_v1: 0,
            ipsec_v1: 0,
            lso_v4: large(Offloads::SEGMENT_V4),
            lso_v6: large(Offloads::SEGMENT_V6),
            connections: [0; 3],
            flags: 0,
            rest: [0, 0, 1, 1, 0, 0, 0, 0],
        }
    }
}
