//! What a frame that is sent says of itself: pieces of per-packet information.

use super::rndis::{large_send, ppi, tx_checksum, vlan_value};
use super::tx::HEADROOM;
use crate::ETHERNET_HEADER;
use crate::capabilities::{Capabilities, Offloads};
use crate::net::SendError;
use crate::offload::{Ip, Protocol, Transport, TxMeta};
use hypercall::shm::{OutOfSpan, Span};

/// What is to be done to a frame, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pieces: [(u32, u32); 2],
    count: usize,
    /// It is to be cut.
    pub(super) cut: Option<Cut>,
    /// It has a VLAN tag in it.
    pub(super) tagged: bool,
}

/// A TCP segment to be cut. Places are in bytes of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    ip: Ip,
    ip_at: u32,
    tcp_at: u32,
    /// Bytes from the TCP header on.
    tcp_bytes: u32,
}

/// Transport headers start before this byte: the field for it is 10 bits.
const DEEPEST: u16 = 1 << 10;

const TAG: u16 = 0x8100;

/// Where a byte of the frame is in its body.
fn at(byte: u32) -> usize {
    byte.wrapping_add(HEADROOM.into()) as usize
}

fn offload(transport: Transport) -> Offloads {
    match (transport.ip, transport.protocol) {
        (Ip::V4, Protocol::Tcp) => Offloads::CHECKSUM_TCP_V4,
        (Ip::V4, Protocol::Udp) => Offloads::CHECKSUM_UDP_V4,
        (Ip::V6, Protocol::Tcp) => Offloads::CHECKSUM_TCP_V6,
        (Ip::V6, Protocol::Udp) => Offloads::CHECKSUM_UDP_V6,
    }
}

impl Wanted {
    /// For a frame of `len` bytes, of which `head` holds the headroom and the headers.
    pub(super) fn new(
        meta: &TxMeta,
        capabilities: &Capabilities,
        head: Span<'_>,
        len: usize,
    ) -> Result<Self, SendError> {
        if len < ETHERNET_HEADER {
            return Err(SendError::BadLength);
        }
        let mut wanted = Self {
            pieces: [(0, 0); 2],
            count: 0,
            cut: None,
            tagged: word(head, 12)? == TAG,
        };
        let offers = |what| match capabilities.tx.contains(what) {
            true => Ok(()),
            false => Err(SendError::Unsupported),
        };
        if let Some(tag) = meta.vlan {
            offers(Offloads::VLAN)?;
            wanted.push(ppi::VLAN, vlan_value(tag));
        }
        let Some(transport) = meta.checksum else {
            return match meta.segmentation {
                None => Ok(wanted),
                Some(_) => Err(SendError::Unsupported),
            };
        };
        offers(offload(transport))?;
        let ip_at = if wanted.tagged { 18 } else { 14u16 };
        let (shortest, tcp) = match transport.ip {
            Ip::V4 => (20, tx_checksum::IPV4),
            Ip::V6 => (40, tx_checksum::IPV6),
        };
        let (bytes, kind) = match transport.protocol {
            Protocol::Tcp => (20, tx_checksum::TCP),
            Protocol::Udp => (8, tx_checksum::UDP),
        };
        let start = transport.start;
        let end = usize::from(start).saturating_add(bytes);
        if start < ip_at.saturating_add(shortest) || start >= DEEPEST || end > len {
            return Err(SendError::Unsupported);
        }
        let plain = tcp | kind | u32::from(start) << tx_checksum::OFFSET_SHIFT;
        let Some(segmentation) = meta.segmentation else {
            wanted.push(ppi::CHECKSUM, plain);
            return Ok(wanted);
        };
        let (what, ip) = match segmentation.ip {
            Ip::V4 => (Offloads::SEGMENT_V4, 0),
            Ip::V6 => (Offloads::SEGMENT_V6, large_send::IPV6),
        };
        offers(what)?;
        if transport.protocol != Protocol::Tcp
            || transport.ip != segmentation.ip
            || segmentation.mss == 0
        {
            return Err(SendError::Unsupported);
        }
        let words = head
            .read::<u8>(at(u32::from(start).wrapping_add(12)))
            .map_err(|_| SendError::Unsupported)?;
        let headers = usize::from(start).saturating_add(usize::from(words >> 4).saturating_mul(4));
        let payload = len.checked_sub(headers).ok_or(SendError::Unsupported)?;
        if payload <= usize::from(segmentation.mss) {
            // Hosts cut nothing that makes one packet.
            wanted.push(ppi::CHECKSUM, plain);
            return Ok(wanted);
        }
        let cut = Cut {
            ip: segmentation.ip,
            ip_at: ip_at.into(),
            tcp_at: start.into(),
            tcp_bytes: len.saturating_sub(start.into()) as u32,
        };
        // What is edited is there.
        word(head, u32::from(start).wrapping_add(16))?;
        wanted.cut = Some(cut);
        wanted.push(
            ppi::LARGE_SEND,
            u32::from(segmentation.mss)
                | u32::from(start) << large_send::OFFSET_SHIFT
                | large_send::VERSION_2
                | ip,
        );
        Ok(wanted)
    }

    fn push(&mut self, kind: u32, value: u32) {
        if let Some(piece) = self.pieces.get_mut(self.count) {
            *piece = (kind, value);
            self.count = self.count.wrapping_add(1);
        }
    }

    /// Kinds and values, and how many there are.
    #[inline]
    pub(super) fn pieces(&self) -> ([(u32, u32); 2], u32) {
        (self.pieces, self.count as u32)
    }
}

/// A big-endian half-word of the frame.
fn word(head: Span<'_>, byte: u32) -> Result<u16, SendError> {
    let bytes = head.read(at(byte)).map_err(|_| SendError::BadLength)?;
    Ok(u16::from_be_bytes(bytes))
}

impl Cut {
    /// Makes the headers what the host wants: it fills in lengths and the checksum of IP for each
    /// packet, and adds each one's length to the sum of the pseudo-header.
    pub(super) fn edit(self, head: Span<'_>) -> Result<(), OutOfSpan> {
        let sum_at = at(self.tcp_at.wrapping_add(16));
        let sum = u16::from_be_bytes(head.read(sum_at)?);
        let sum = without(sum, self.tcp_bytes);
        head.write(sum_at, &sum.to_be_bytes())?;
        let zero = |byte: u32| head.write(at(self.ip_at.wrapping_add(byte)), &[0u8; 2]);
        match self.ip {
            Ip::V4 => {
                zero(2)?;
                zero(10)
            }
            Ip::V6 => zero(4),
        }
    }
}

/// A ones' complement sum without a length that was added to it.
fn without(sum: u16, length: u32) -> u16 {
    let fold = |sum: u32| (sum & 0xffff).wrapping_add(sum >> 16);
    let length = fold(fold(length)) as u16;
    fold(fold(u32::from(sum).wrapping_add(u32::from(!length)))) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_taken_out_of_a_sum() {
        let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
        for (rest, length) in [
            (0x1234u32, 40u32),
            (0xfff0, 65_000),
            (1, 65_535),
            (0xffff, 20),
        ] {
            let sum = fold(fold(rest + length)) as u16;
            // Both zeroes of ones' complement are the same.
            assert_eq!(without(sum, length) % 0xffff, (rest % 0xffff) as u16);
        }
    }
}
