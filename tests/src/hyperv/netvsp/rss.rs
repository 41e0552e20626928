//! Receive-side scaling: the hash of a frame's flow, and the queue it leads to.
//!
//! Sources: NDIS_RECEIVE_SCALE_PARAMETERS as in OpenVMM `netvsp/src/rndisprot.rs`; Microsoft,
//! "RSS Hashing Functions" for the Toeplitz hash.

use super::offload::{ObjectHeader, object};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a secret key.
const KEY: usize = 40;
/// Entries of an indirection table.
pub const ENTRIES: usize = 128;

const TOEPLITZ: u32 = 1;
/// Types of hashes, in the guest's parameters.
mod hash_type {
    pub const V4: u32 = 0x100;
    pub const TCP_V4: u32 = 0x200;
    pub const V6: u32 = 0x400;
    pub const TCP_V6: u32 = 0x1000;
}
const FLAG_DISABLE: u16 = 0x10;

/// The fixed part of NDIS_RECEIVE_SCALE_PARAMETERS, revision 2.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Parameters {
    header: ObjectHeader,
    flags: u16,
    base_cpu: u16,
    hash: u32,
    table_bytes: u16,
    padding: u16,
    table_offset: u32,
    key_bytes: u16,
    padding2: u16,
    key_offset: u32,
    masks_offset: u32,
    masks: u32,
    mask_bytes: u32,
}
const _: () = assert!(size_of::<Parameters>() == 40);

/// What the guest configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rss {
    pub key: [u8; KEY],
    /// Channel indexes.
    pub table: Vec<u16>,
    hash: u32,
}

/// NDIS_RECEIVE_SCALE_CAPABILITIES, revision 2, for so many queues.
pub fn capabilities(queues: u16) -> Vec<u8> {
    let header = ObjectHeader {
        kind: object::RSS_CAPABILITIES,
        revision: 2,
        size: 18,
    };
    // Toeplitz over TCP and IPv4, TCP and IPv6; interrupt messages; queues; table entries.
    let mut bytes = header.as_bytes().to_vec();
    for word in [TOEPLITZ | 0x100 | 0x200, 1, queues.into()] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&(ENTRIES as u16).to_le_bytes());
    bytes
}

impl Rss {
    /// What the guest's parameters say: `None` for no scaling. An error is a complaint.
    pub fn parse(bytes: &[u8], queues: u16) -> Result<Option<Rss>, &'static str> {
        let (parameters, _) =
            Parameters::read_from_prefix(bytes).map_err(|_| "parameters cut off")?;
        if parameters.flags & FLAG_DISABLE != 0 || parameters.hash & 0xff == 0 {
            return Ok(None);
        }
        if parameters.header.kind != object::RSS_PARAMETERS {
            return Err("not parameters of receive-side scaling");
        }
        if parameters.hash & 0xff != TOEPLITZ {
            return Err("a hash function nobody offered");
        }
        let part = |offset: u32, bytes_wanted: u16| {
            let start = offset as usize;
            let end = start.checked_add(bytes_wanted.into())?;
            bytes.get(start..end)
        };
        let key = part(parameters.key_offset, parameters.key_bytes).ok_or("a key outside")?;
        let key = key.try_into().map_err(|_| "a key that is not 40 bytes")?;
        let table =
            part(parameters.table_offset, parameters.table_bytes).ok_or("a table outside")?;
        if table.is_empty() || !table.len().is_multiple_of(4) || table.len() > ENTRIES * 4 {
            return Err("a table that is not 32-bit entries, or not up to 128");
        }
        let entries = table
            .chunks_exact(4)
            .map(|entry| u32::from_le_bytes(entry.try_into().expect("4 bytes")));
        let table: Option<Vec<u16>> = entries
            .map(|entry| u16::try_from(entry).ok().filter(|&entry| entry < queues))
            .collect();
        Ok(Some(Rss {
            key,
            table: table.ok_or("a table that names queues nobody offered")?,
            hash: parameters.hash,
        }))
    }

    /// The hash of a frame, if it has a flow of a type the guest wants hashed.
    pub fn hash(&self, frame: &[u8]) -> Option<u32> {
        let kind = u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?);
        let ip = frame.get(14..)?;
        let (addresses, protocol, transport, types) = match kind {
            0x0800 => {
                let length = usize::from(ip.first()? & 0xf) * 4;
                // Fragments have no ports to look at.
                let fragment = u16::from_be_bytes(ip.get(6..8)?.try_into().ok()?) & 0x3fff != 0;
                let protocol = if fragment { 0 } else { *ip.get(9)? };
                let types = (hash_type::V4, hash_type::TCP_V4);
                (ip.get(12..20)?, protocol, ip.get(length..), types)
            }
            0x86dd => {
                let types = (hash_type::V6, hash_type::TCP_V6);
                (ip.get(8..40)?, *ip.get(6)?, ip.get(40..), types)
            }
            _ => return None,
        };
        const TCP: u8 = 6;
        let ports = transport.and_then(|transport| transport.get(..4));
        let mut input = addresses.to_vec();
        match ports {
            Some(ports) if protocol == TCP && self.hash & types.1 != 0 => input.extend(ports),
            _ if self.hash & types.0 != 0 => {}
            _ => return None,
        }
        Some(toeplitz(&self.key, &input))
    }

    /// The channel for frames with this hash.
    pub fn channel(&self, hash: u32) -> u16 {
        self.table[hash as usize % self.table.len()]
    }
}

/// The Toeplitz hash: for each bit of the input that is set, the 32 bits of the key from there on.
pub fn toeplitz(key: &[u8; KEY], input: &[u8]) -> u32 {
    let mut hash = 0;
    for (bit, _) in input
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte << bit & 0x80 != 0))
        .enumerate()
        .filter(|&(bit, set)| set && bit + 32 <= KEY * 8)
    {
        let bytes = (0..5).map(|i| key.get(bit / 8 + i).copied().unwrap_or(0));
        let window = bytes.fold(0u64, |window, byte| window << 8 | u64::from(byte));
        hash ^= (window >> (8 - bit % 8)) as u32;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and two examples of Microsoft's "Verifying the RSS Hash Calculation".
    const EXAMPLE: [u8; KEY] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    #[test]
    fn the_published_examples_hold() {
        let with_ports = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
        assert_eq!(toeplitz(&EXAMPLE, &with_ports), 0x51cc_c178);
        assert_eq!(toeplitz(&EXAMPLE, &with_ports[..8]), 0x323e_8fc2);
    }

    #[test]
    fn parameters_are_taken_apart() {
        let mut bytes = vec![0x89, 2, 40, 0, 0, 0, 0, 0];
        for word in [TOEPLITZ | 0x200, 8, 40, 40, 48, 0, 0, 0, 1, 0] {
            bytes.extend_from_slice(&u32::to_le_bytes(word));
        }
        bytes.extend_from_slice(&EXAMPLE);
        let rss = Rss::parse(&bytes, 2).unwrap().unwrap();
        assert_eq!((rss.table.as_slice(), rss.key), (&[1, 0][..], EXAMPLE));
        assert_eq!((rss.channel(0), rss.channel(1)), (1, 0));
        assert!(Rss::parse(&bytes, 1).is_err(), "queue 1 of one");
        assert!(Rss::parse(&bytes[..87], 2).is_err(), "the key is cut off");
        bytes[4] = 0x10;
        assert_eq!(Rss::parse(&bytes, 1), Ok(None));
    }
}
