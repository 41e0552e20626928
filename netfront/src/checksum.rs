//! The checksums of TCP and UDP in software: for what the host leaves undone, or is not to be
//! believed about (RFC 1071; pseudo-headers: RFC 9293 and RFC 768 for IPv4, RFC 8200 section 8.1 for
//! IPv6).
//!
//! Frames here are private copies. What their headers say is checked against their length before it
//! is used.

use crate::ETHERNET_HEADER;
use crate::offload::{Ip, Protocol, Transport};

/// VLAN tags that are passed over at most.
const MOST_TAGS: usize = 2;
/// IPv6 extension headers that are passed over at most.
const MOST_EXTENSIONS: usize = 8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q and 802.1ad.
const ETHERTYPE_TAGS: [u16; 2] = [0x8100, 0x88a8];

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Hop-by-hop options, routing, and destination options: each with its length in units of 8 bytes,
/// the first not counted (RFC 8200, section 4).
const EXTENSIONS: [u8; 3] = [0, 43, 60];
const FRAGMENT: u8 = 44;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// A whole TCP segment or UDP datagram.
    Transport(Packet),
    /// A part of one, whose checksum is over all of its parts.
    Fragment,
    /// Anything else: it has no such checksum.
    Other,
    /// Headers that contradict each other or the frame's length.
    Malformed,
}

/// A TCP segment or UDP datagram in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Where its header is, and what it is.
    pub transport: Transport,
    /// The sum of its pseudo-header, not complemented.
    pub pseudo_header: u16,
    /// Where its data ends, in bytes: before what fills short frames up.
    end: usize,
}

impl Contents {
    /// Reads the headers of a frame.
    pub fn of(frame: &[u8]) -> Self {
        match read(frame) {
            Some(contents) => contents,
            None => Self::Malformed,
        }
    }

    /// The packet, if it is a whole one.
    pub fn packet(self) -> Option<Packet> {
        match self {
            Self::Transport(packet) => Some(packet),
            _ => None,
        }
    }
}

impl Packet {
    /// The checksum's place in the frame, in bytes.
    fn field(&self) -> usize {
        usize::from(self.transport.start)
            .saturating_add(usize::from(self.transport.protocol.checksum_offset()))
    }

    fn sum(&self, frame: &[u8]) -> Option<u32> {
        let bytes = frame.get(usize::from(self.transport.start)..self.end)?;
        Some(sum(0, bytes))
    }

    fn write(&self, frame: &mut [u8], value: u16) -> Option<()> {
        let at = self.field();
        let field = frame.get_mut(at..at.saturating_add(2))?;
        field.copy_from_slice(&value.to_be_bytes());
        Some(())
    }

    /// Puts the sum of the pseudo-header into the field, as hardware and hosts expect of a checksum
    /// that they are to finish. `None` when it is another frame, and too short.
    pub fn prepare(&self, frame: &mut [u8]) -> Option<()> {
        self.write(frame, self.pseudo_header)
    }

    /// Fills the checksum in, whatever is in the field. `None` when it is another frame, and too
    /// short.
    pub fn fill(&self, frame: &mut [u8]) -> Option<()> {
        self.prepare(frame)?;
        self.finish(frame)
    }

    /// Finishes a checksum whose field holds the sum of the pseudo-header. `None` when it is another
    /// frame, and too short.
    pub fn finish(&self, frame: &mut [u8]) -> Option<()> {
        // No checksum at all is said by a zero, and a sum of zero by its other form (RFC 768).
        let value = match !fold(self.sum(frame)?) {
            0 if self.transport.protocol == Protocol::Udp => 0xffff,
            value => value,
        };
        self.write(frame, value)
    }

    /// Whether the checksum is right. A UDP datagram over IPv4 may come without one.
    pub fn verify(&self, frame: &[u8]) -> bool {
        let at = self.field();
        let absent = frame.get(at..at.saturating_add(2)) == Some(&[0, 0]);
        if absent && self.transport.protocol == Protocol::Udp {
            return self.transport.ip == Ip::V4;
        }
        let Some(data) = self.sum(frame) else {
            return false;
        };
        fold(data.wrapping_add(u32::from(self.pseudo_header))) == 0xffff
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*bytes))
}

fn byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// Adds the 16-bit words of `bytes`, the last one filled up with a zero. Of up to 64 KiB the sum
/// of words of four bytes, each half of it, cannot overflow what it is kept in.
fn sum(start: u32, bytes: &[u8]) -> u32 {
    let mut wide = u64::from(start);
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        wide = wide.wrapping_add(u64::from(u32::from_be_bytes(*word)));
    }
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    wide = wide.wrapping_add(u64::from(u32::from_be_bytes(last)));
    // 2^32 is 1 modulo 2^16 - 1, and so is 2^16.
    let folded = (wide & 0xffff)
        .wrapping_add(wide >> 16 & 0xffff)
        .wrapping_add(wide >> 32 & 0xffff)
        .wrapping_add(wide >> 48);
    folded as u32
}

/// Folds a sum to 16 bits, carries added back in.
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff).wrapping_add(sum >> 16);
    (once & 0xffff).wrapping_add(once >> 16) as u16
}

fn read(frame: &[u8]) -> Option<Contents> {
    let mut kind = word(frame, 12)?;
    let mut at = ETHERNET_HEADER;
    for _ in 0..MOST_TAGS {
        if ETHERTYPE_TAGS.contains(&kind) {
            kind = word(frame, at.wrapping_add(2))?;
            at = at.wrapping_add(4);
        }
    }
    match kind {
        ETHERTYPE_IPV4 => ipv4(frame, at),
        ETHERTYPE_IPV6 => ipv6(frame, at),
        _ => Some(Contents::Other),
    }
}

fn ipv4(frame: &[u8], at: usize) -> Option<Contents> {
    let ip = frame.get(at..)?;
    let first = byte(ip, 0)?;
    let header = usize::from(first & 0xf).wrapping_mul(4);
    let total = usize::from(word(ip, 2)?);
    if first >> 4 != 4 || header < 20 || total < header || total > ip.len() {
        return None;
    }
    let protocol = byte(ip, 9)?;
    // More fragments, or not the first.
    if word(ip, 6)? & 0x3fff != 0 {
        return Some(fragment(protocol));
    }
    let addresses = sum(0, ip.get(12..20)?);
    let start = at.wrapping_add(header);
    packet(
        frame,
        Ip::V4,
        protocol,
        start..at.wrapping_add(total),
        addresses,
    )
}

fn ipv6(frame: &[u8], at: usize) -> Option<Contents> {
    const HEADER: usize = 40;
    let ip = frame.get(at..)?;
    let end = HEADER.wrapping_add(usize::from(word(ip, 4)?));
    if byte(ip, 0)? >> 4 != 6 || end > ip.len() {
        return None;
    }
    let addresses = sum(0, ip.get(8..40)?);
    let (mut next, mut start) = (byte(ip, 6)?, HEADER);
    for _ in 0..MOST_EXTENSIONS {
        if next == FRAGMENT {
            let inner = byte(ip.get(..end)?, start)?;
            return Some(fragment(inner));
        }
        if !EXTENSIONS.contains(&next) {
            break;
        }
        let extension = ip.get(..end)?.get(start..)?;
        next = byte(extension, 0)?;
        let units = usize::from(byte(extension, 1)?).wrapping_add(1);
        start = start.wrapping_add(units.wrapping_mul(8));
    }
    let place = at.wrapping_add(start)..at.wrapping_add(end);
    packet(frame, Ip::V6, next, place, addresses)
}

fn fragment(protocol: u8) -> Contents {
    match protocol {
        TCP | UDP => Contents::Fragment,
        _ => Contents::Other,
    }
}

/// The packet at a place in the frame.
fn packet(
    frame: &[u8],
    ip: Ip,
    number: u8,
    place: core::ops::Range<usize>,
    addresses: u32,
) -> Option<Contents> {
    let (protocol, least) = match number {
        TCP => (Protocol::Tcp, 20),
        UDP => (Protocol::Udp, 8),
        _ => return Some(Contents::Other),
    };
    let bytes = frame.get(place.clone())?;
    if bytes.len() < least {
        return None;
    }
    let mut end = place.end;
    if protocol == Protocol::Udp {
        let length = usize::from(word(bytes, 4)?);
        if length < least || length > bytes.len() {
            return None;
        }
        end = place.start.wrapping_add(length);
    }
    let length = u32::try_from(end.wrapping_sub(place.start)).ok()?;
    let header = addresses
        .wrapping_add(u32::from(number))
        .wrapping_add(length >> 16)
        .wrapping_add(length & 0xffff);
    Some(Contents::Transport(Packet {
        transport: Transport {
            ip,
            protocol,
            start: u16::try_from(place.start).ok()?,
        },
        pseudo_header: fold(header),
        end,
    }))
}
