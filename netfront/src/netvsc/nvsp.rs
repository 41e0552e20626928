//! NVSP on the wire: what carries RNDIS over a channel, and sets the buffers up.
//!
//! Source: OpenVMM, `netvsp/src/protocol.rs`; Linux, `drivers/net/hyperv/hyperv_net.h`,
//! `struct nvsp_message`. A message is its type and a structure, padded with zeroes to
//! [`Version::words`]; everything is little-endian.

use core::fmt;
use core::mem::offset_of;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// A version of NVSP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32);

impl Version {
    /// Server 2008.
    pub const V1: Self = Self(0x0000_0002);
    /// Server 2008 R2: the longest frame can be chosen.
    pub const V2: Self = Self(0x0003_0002);
    /// Server 2012.
    pub const V4: Self = Self(0x0004_0000);
    /// Server 2012 R2: sub-channels.
    pub const V5: Self = Self(0x0005_0000);
    /// Server 2016.
    pub const V6: Self = Self(0x0006_0000);
    /// Server 2019: longer messages.
    pub const V6_1: Self = Self(0x0006_0001);
    /// What this library speaks, newest first.
    pub const ALL: [Self; 6] = [Self::V6_1, Self::V6, Self::V5, Self::V4, Self::V2, Self::V1];

    /// Words of 8 bytes in a message to the host: 0x28 bytes from 6.1 on, and before 0x1c, which
    /// are padded because hosts never answer less than 32.
    pub const fn words(self) -> usize {
        if self.0 >= Self::V6_1.0 { 5 } else { 4 }
    }

    /// The NDIS version that goes with it, major and minor.
    pub const fn ndis(self) -> (u32, u32) {
        if self.0 >= Self::V5.0 {
            (6, 30)
        } else {
            (6, 1)
        }
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// Types of messages.
#[expect(missing_docs, reason = "the names are the protocol's")]
pub mod kind {
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
    pub const SUB_CHANNEL: u32 = 133;
    pub const SEND_INDIRECTION_TABLE: u32 = 134;
}

/// Status: it was done.
pub const SUCCESS: u32 = 1;

/// What [`ShareBuffer::id`] is of the receive buffer.
pub const RECEIVE_BUFFER_ID: u16 = 0xcafe;
/// What it is of the send buffer.
pub const SEND_BUFFER_ID: u16 = 0;

/// [`RndisPacket::channel_type`]: frames.
pub const DATA: u32 = 0;
/// [`RndisPacket::channel_type`]: anything else.
pub const CONTROL: u32 = 1;
/// [`RndisPacket::section`]: not in the send buffer.
pub const NO_SECTION: u32 = u32::MAX;

/// Bit of [`NdisConfig::capabilities`]: VLAN tags may come beside frames.
pub const CAPABILITY_8021Q: u64 = 1 << 3;

/// The operation of [`SubChannel`] that asks for them.
pub const ALLOCATE: u32 = 1;

/// Entries of the send-indirection table.
pub const TABLE_ENTRIES: usize = 16;

/// Where a table lies that is not right behind its message's fields: behind a message of 6.1.
pub const TABLE_APART: usize = 0x28;

/// Words of the longest message to the host.
pub const WORDS: usize = 5;

/// A message, of which [`Version::words`] are sent.
pub fn message<T: IntoBytes + Immutable>(kind: u32, body: &T) -> [u64; WORDS] {
    const { assert!(4 + size_of::<T>() <= WORDS * 8) };
    let mut words = [0u64; WORDS];
    let bytes = words.as_mut_bytes();
    for (to, from) in bytes
        .iter_mut()
        .zip(kind.to_le_bytes().iter().chain(body.as_bytes()))
    {
        *to = *from;
    }
    words
}

/// The type of a message that was received, and its structure; fields that are missing are zero.
pub fn parse<T: FromBytes + FromZeros + IntoBytes>(words: &[u64]) -> (u32, T) {
    let mut body = T::new_zeroed();
    let bytes = words.as_bytes();
    for (to, from) in body.as_mut_bytes().iter_mut().zip(bytes.iter().skip(4)) {
        *to = *from;
    }
    (words.first().map_or(0, |word| *word as u32), body)
}

/// INIT: let us speak this version.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Init {
    /// The lowest version wanted.
    pub lowest: u32,
    /// The highest; the same.
    pub highest: u32,
}
const _: () = assert!(size_of::<Init>() == 8);

/// INIT_COMPLETE.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitComplete {
    /// Only the oldest version is said here.
    pub version: u32,
    /// Ranges that a packet may have.
    pub max_mdl_chain: u32,
    /// [`SUCCESS`], or the host does not speak it.
    pub status: u32,
}
const _: () = assert!(offset_of!(InitComplete, status) == 8);

/// SEND_NDIS_VERSION.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NdisVersion {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}
const _: () = assert!(size_of::<NdisVersion>() == 8);

/// SEND_NDIS_CONFIG.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed(4))]
pub struct NdisConfig {
    /// Bytes of the longest frame, Ethernet header included.
    pub mtu: u32,
    /// Zero.
    pub reserved: u32,
    /// What the guest can do.
    pub capabilities: u64,
}
const _: () = assert!(size_of::<NdisConfig>() == 16);

/// SEND_RECEIVE_BUFFER and SEND_SEND_BUFFER.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShareBuffer {
    /// The buffer's GPADL.
    pub gpadl: u32,
    /// What it is called from now on.
    pub id: u16,
    /// Zero.
    pub reserved: u16,
}
const _: () = assert!(size_of::<ShareBuffer>() == 8);

/// SEND_RECEIVE_BUFFER_COMPLETE, with the one section that every host sends.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReceiveBufferComplete {
    /// [`SUCCESS`].
    pub status: u32,
    /// How many sections; 1.
    pub sections: u32,
    /// Where it starts, in bytes.
    pub offset: u32,
    /// Bytes of each part of it.
    pub size: u32,
    /// How many parts.
    pub count: u32,
    /// Where it ends, in bytes.
    pub end: u32,
}
const _: () = assert!(size_of::<ReceiveBufferComplete>() == 24);

/// SEND_SEND_BUFFER_COMPLETE.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SendBufferComplete {
    /// [`SUCCESS`].
    pub status: u32,
    /// Bytes of each section.
    pub section_size: u32,
}
const _: () = assert!(size_of::<SendBufferComplete>() == 8);

/// REVOKE_RECEIVE_BUFFER and REVOKE_SEND_BUFFER.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RevokeBuffer {
    /// As in [`ShareBuffer::id`].
    pub id: u16,
}
const _: () = assert!(size_of::<RevokeBuffer>() == 2);

/// SEND_RNDIS_PACKET, in both directions.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RndisPacket {
    /// [`DATA`] or [`CONTROL`].
    pub channel_type: u32,
    /// Which section of the send buffer, or [`NO_SECTION`].
    pub section: u32,
    /// Bytes in that section.
    pub section_bytes: u32,
}
const _: () = assert!(size_of::<RndisPacket>() == 12);

/// SUB_CHANNEL, and its answer.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SubChannel {
    /// [`ALLOCATE`]; in the answer [`SUCCESS`].
    pub operation: u32,
    /// How many.
    pub count: u32,
}
const _: () = assert!(size_of::<SubChannel>() == 8);

/// SEND_INDIRECTION_TABLE, without the table.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IndirectionTable {
    /// How many entries of 4 bytes.
    pub count: u32,
    /// Where they are, in bytes from the start of the message.
    pub offset: u32,
}
const _: () = assert!(size_of::<IndirectionTable>() == 8);

/// Takes the send-indirection table out of a message: for each value of the hash the channel to
/// send by. `None` when it is not all there.
pub fn table(version: Version, words: &[u64]) -> Option<[u32; TABLE_ENTRIES]> {
    let (_, head) = parse::<IndirectionTable>(words);
    let bytes = words.as_bytes();
    const BYTES: usize = TABLE_ENTRIES * 4;
    // Up to 6.0 some hosts say too small an offset of a table that lies apart.
    let apart = version <= Version::V6 && bytes.len() >= TABLE_APART.saturating_add(BYTES);
    let at = if apart {
        TABLE_APART
    } else {
        head.offset as usize
    };
    if head.count as usize != TABLE_ENTRIES {
        return None;
    }
    <[u32; TABLE_ENTRIES]>::read_from_bytes(bytes.get(at..at.checked_add(BYTES)?)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn messages_are_a_type_and_a_structure() {
        let config = NdisConfig {
            mtu: 1514,
            reserved: 0,
            capabilities: CAPABILITY_8021Q,
        };
        let words = message(kind::SEND_NDIS_CONFIG, &config);
        assert_eq!(words, [125 | 1514 << 32, 8 << 32, 0, 0, 0]);
        assert_eq!((Version::V6.words(), Version::V6_1.words()), (4, 5));
        assert!(Version::ALL.is_sorted_by(|a, b| a > b));
        assert_eq!((Version::V4.ndis(), Version::V5.ndis()), ((6, 1), (6, 30)));
        let (kind, answer) = parse::<ReceiveBufferComplete>(&[102 | 1 << 32, 1]);
        assert_eq!(
            (kind, answer.status, answer.sections, answer.size),
            (102, 1, 1, 0)
        );
        assert_eq!(parse::<InitComplete>(&[]).0, 0);
    }

    fn table_message(at: usize, said: u32, padded: usize) -> Vec<u64> {
        let mut bytes = vec![0u8; padded];
        bytes[..4].copy_from_slice(&134u32.to_le_bytes());
        bytes[4..8].copy_from_slice(&16u32.to_le_bytes());
        bytes[8..12].copy_from_slice(&said.to_le_bytes());
        for (i, entry) in (0..16).zip(bytes[at..].chunks_mut(4)) {
            entry[0] = i;
        }
        bytes
            .chunks(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn a_table_is_found_where_it_is_whatever_the_host_says() {
        let good = core::array::from_fn(|i| i as u32);
        for version in [Version::V5, Version::V6, Version::V6_1] {
            assert_eq!(table(version, &table_message(12, 12, 80)), Some(good));
            assert_eq!(table(version, &table_message(40, 40, 104)), Some(good));
            let misplaced = table_message(40, 28, 104);
            assert_eq!(
                table(version, &misplaced) == Some(good),
                version <= Version::V6
            );
            assert_eq!(table(version, &table_message(12, 17, 80)), None);
            assert_eq!(table(version, &table_message(12, u32::MAX, 80)), None);
        }
        assert_eq!(table(Version::V6_1, &[134 | 15 << 32, 12, 0, 0]), None);
        assert_eq!(table(Version::V6_1, &[]), None);
    }
}
