//! RNDIS on the wire: frames with what is known of them, and control messages.
//!
//! Source: Microsoft, [MS-RNDIS]; OpenVMM, `netvsp/src/rndisprot.rs`. Offsets in a message count
//! from the byte behind its [`Header`]; everything is little-endian.

use crate::offload::{RxChecksum, RxMeta, Vlan};
use core::mem::offset_of;
use hypercall::HostFault;
use hypercall::shm::Span;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Types of messages.
#[expect(missing_docs, reason = "the names are the protocol's")]
pub mod kind {
    pub const PACKET: u32 = 1;
    pub const INITIALIZE: u32 = 2;
    pub const HALT: u32 = 3;
    pub const QUERY: u32 = 4;
    pub const SET: u32 = 5;
    pub const INDICATE_STATUS: u32 = 7;
    pub const KEEPALIVE: u32 = 8;
    /// In the type of an answer.
    pub const COMPLETE: u32 = 0x8000_0000;
}

/// Status codes.
#[expect(missing_docs, reason = "the names are the protocol's")]
pub mod status {
    pub const SUCCESS: u32 = 0;
    pub const MEDIA_CONNECT: u32 = 0x4001_000b;
    pub const MEDIA_DISCONNECT: u32 = 0x4001_000c;
    pub const NETWORK_CHANGE: u32 = 0x4001_0018;
}

/// Types of per-packet information.
#[expect(missing_docs, reason = "the names are the protocol's")]
pub mod ppi {
    pub const CHECKSUM: u32 = 0;
    pub const LARGE_SEND: u32 = 2;
    pub const VLAN: u32 = 6;
    pub const HASH: u32 = 8;
}

/// Bits of [`ppi::CHECKSUM`] of a frame that is sent.
#[expect(missing_docs, reason = "the names are the protocol's")]
pub mod tx_checksum {
    pub const IPV4: u32 = 1;
    pub const IPV6: u32 = 1 << 1;
    pub const TCP: u32 = 1 << 2;
    pub const UDP: u32 = 1 << 3;
    /// Where the transport header starts, 10 bits.
    pub const OFFSET_SHIFT: u32 = 16;
}

/// Bits of [`ppi::CHECKSUM`] of a frame that was received.
#[expect(missing_docs, reason = "the names are the protocol's")]
pub mod rx_checksum {
    pub const TCP_FAILED: u32 = 1;
    pub const UDP_FAILED: u32 = 1 << 1;
    pub const TCP_SUCCEEDED: u32 = 1 << 3;
    pub const UDP_SUCCEEDED: u32 = 1 << 4;
    pub const TCP_VALUE_INVALID: u32 = 1 << 7;
}

/// Fields of [`ppi::LARGE_SEND`]: segment size in 20 bits, where TCP starts in 10, version 2, IPv6.
#[expect(missing_docs, reason = "the names are the protocol's")]
pub mod large_send {
    pub const OFFSET_SHIFT: u32 = 20;
    pub const VERSION_2: u32 = 1 << 30;
    pub const IPV6: u32 = 1 << 31;
}

/// The start of every message.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// What it is.
    pub kind: u32,
    /// Bytes of the message, this header included.
    pub length: u32,
}
const _: () = assert!(size_of::<Header>() == 8);

/// [`kind::PACKET`]: one frame.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Packet {
    /// Where the frame is.
    pub data_offset: u32,
    /// Its bytes.
    pub data_length: u32,
    /// Where out-of-band data is; there is none.
    pub oob_offset: u32,
    /// Its bytes.
    pub oob_length: u32,
    /// Its elements.
    pub oob_elements: u32,
    /// Where the per-packet information is.
    pub ppi_offset: u32,
    /// Its bytes.
    pub ppi_length: u32,
    /// Zero.
    pub vc_handle: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Packet>() == 36);
const _: () = assert!(offset_of!(Packet, ppi_offset) == 20);

/// Bytes of a packet's fixed part.
pub const PACKET_BYTES: u32 = 44;
const _: () = assert!(size_of::<Header>() + size_of::<Packet>() == PACKET_BYTES as usize);

/// A piece of per-packet information; its value follows.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PpiHeader {
    /// Bytes of the piece, this header included.
    pub size: u32,
    /// One of [`ppi`], or unknown.
    pub kind: u32,
    /// Where the value is, in bytes from here.
    pub offset: u32,
}
const _: () = assert!(size_of::<PpiHeader>() == 12);

/// [`kind::INITIALIZE`].
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Initialize {
    /// Comes back in the answer.
    pub request: u32,
    /// 1.
    pub major: u32,
    /// 0.
    pub minor: u32,
    /// Bytes of the longest message the guest takes.
    pub max_transfer: u32,
}
const _: () = assert!(size_of::<Initialize>() == 16);

/// [`kind::QUERY`] and [`kind::SET`].
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    /// Comes back in the answer.
    pub request: u32,
    /// Of what.
    pub oid: u32,
    /// Bytes of information that follow.
    pub length: u32,
    /// Where they are: right behind this structure.
    pub offset: u32,
    /// Zero.
    pub vc_handle: u32,
}
const _: () = assert!(size_of::<Request>() == 20);

/// The answer to [`kind::QUERY`]. Other answers end behind the status.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QueryComplete {
    /// From the request.
    pub request: u32,
    /// How it went.
    pub status: u32,
    /// Bytes of information.
    pub length: u32,
    /// Where they are.
    pub offset: u32,
}
const _: () = assert!(size_of::<QueryComplete>() == 16);

/// [`kind::KEEPALIVE`]'s answer.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KeepaliveComplete {
    /// From the request.
    pub request: u32,
    /// [`status::SUCCESS`].
    pub status: u32,
}
const _: () = assert!(size_of::<KeepaliveComplete>() == 8);

/// Pieces of information that a frame has at most.
const MOST_PIECES: u32 = 16;

/// A frame that was found in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Where it starts, in bytes of the range.
    pub offset: u32,
    /// Its length.
    pub len: u32,
    /// What the host says of it.
    pub meta: RxMeta,
}

/// What a range of the receive buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// A frame.
    Frame(Found),
    /// A control message.
    Control,
}

/// Finds the frame in a range of the receive buffer. Every field is read once. All of it is inside
/// the message, which is inside the range.
///
/// # Errors
/// [`HostFault`] when it is not.
pub fn find(range: Span<'_>) -> Result<Message, HostFault> {
    let len = range.len();
    // The fixed part and four bytes more; a frame is longer than those.
    let Ok([head, data, _, info, info_length, _]) = range.read_anywhere::<6>(0) else {
        return short(range);
    };
    if head as u32 != kind::PACKET {
        return Ok(Message::Control);
    }
    let length = head >> 32;
    let (data_offset, data_length) = (u64::from(data as u32), data >> 32);
    let data_end = data_offset.wrapping_add(data_length).wrapping_add(8);
    let info_length = u64::from(info_length as u32);
    let info_offset = (info >> 32).wrapping_add(8);
    let info_end = info_offset.wrapping_add(info_length);
    if length > len as u64 || data_end > length || (info_length != 0 && info_end > length) {
        return Err(HostFault::Length);
    }
    let mut found = Found {
        // Inside the message, so no overflow.
        offset: 8u32.wrapping_add(data_offset as u32),
        len: data_length as u32,
        meta: RxMeta::default(),
    };
    if info_length != 0 {
        pieces(
            range,
            info_offset as usize,
            info_end as usize,
            &mut found.meta,
        )?;
    }
    Ok(Message::Frame(found))
}

/// A frame as most are, and where it is in its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usual {
    /// Where it starts, in bytes of the message.
    pub offset: u64,
    /// Its length.
    pub len: u32,
    /// What the host says of it.
    pub checksum: RxChecksum,
}

/// Where the first piece of information is, in bytes behind the message's header, if it follows the
/// fixed part.
const INFO_OFFSET: u32 = PACKET_BYTES - 8;

/// Finds the frame in a message that fills its range and says no more of the frame than how its
/// checksum was. `None` says nothing. Every field is read once; where the frame is, is not checked.
#[inline(always)]
pub fn usual(range: Span<'_>) -> Option<Usual> {
    // A frame is longer than the four bytes behind the piece.
    let message = range.start::<64>()?;
    if message.word::<0>() != u64::from(kind::PACKET) | (range.len() as u64) << 32 {
        return None;
    }
    let data = message.word::<8>();
    let checksum = match message.word::<32>() as u32 {
        0 => RxChecksum::Unchecked,
        16 => {
            // Where it is, its size, its kind, and where its value is.
            let is_checksum = message.word::<28>() == u64::from(INFO_OFFSET) | 16 << 32
                && message.word::<44>() == 16 | u64::from(ppi::CHECKSUM) << 32
                && message.word::<52>() as u32 == 12;
            if !is_checksum {
                return None;
            }
            checksum(message.word::<56>() as u32)
        }
        _ => return None,
    };
    Some(Usual {
        offset: u64::from(data as u32).wrapping_add(8),
        len: (data >> 32) as u32,
        checksum,
    })
}

/// What a range holds that is too short for a frame.
#[cold]
fn short(range: Span<'_>) -> Result<Message, HostFault> {
    let kind: u32 = range.read(0).map_err(|_| HostFault::Length)?;
    if range.len() < 8 || kind == kind::PACKET {
        return Err(HostFault::Malformed);
    }
    Ok(Message::Control)
}

/// Walks over the per-packet information from `at` to `end`, which is inside the message.
#[inline(always)]
fn pieces(range: Span<'_>, at: usize, end: usize, meta: &mut RxMeta) -> Result<(), HostFault> {
    let mut at = at;
    for _ in 0..MOST_PIECES {
        if at == end {
            return Ok(());
        }
        // Every piece that matters has a value of four bytes, most of them right behind the header.
        let [first, second] = range.read_anywhere::<2>(at)?;
        let (size, kind) = (first as u32 as usize, (first >> 32) as u32);
        let left = end.wrapping_sub(at);
        if size < 12 || size > left {
            return Err(HostFault::Malformed);
        }
        if matches!(kind, ppi::CHECKSUM | ppi::VLAN | ppi::HASH) {
            let offset = second as u32 as usize;
            let value = if offset == 12 && size >= 16 {
                (second >> 32) as u32
            } else {
                value(range, at, size, offset)?
            };
            apply(meta, kind, value);
        }
        at = at.wrapping_add(size);
    }
    if at == end {
        Ok(())
    } else {
        Err(HostFault::Malformed)
    }
}

/// The value of a piece that does not lie where it usually does.
#[cold]
fn value(range: Span<'_>, at: usize, size: usize, offset: usize) -> Result<u32, HostFault> {
    if offset < 12 || offset > size.wrapping_sub(4) {
        return Err(HostFault::Malformed);
    }
    Ok(range.read::<u32>(at.wrapping_add(offset))?)
}

/// What the value of [`ppi::CHECKSUM`] says.
#[inline(always)]
fn checksum(value: u32) -> RxChecksum {
    const FAILED: u32 = rx_checksum::TCP_FAILED | rx_checksum::UDP_FAILED;
    const SUCCEEDED: u32 = rx_checksum::TCP_SUCCEEDED | rx_checksum::UDP_SUCCEEDED;
    if value & FAILED != 0 {
        RxChecksum::Bad
    } else if value & rx_checksum::TCP_VALUE_INVALID != 0 {
        // The data is good, but its sender's host never filled the field in.
        RxChecksum::Blank
    } else if value & SUCCEEDED != 0 {
        RxChecksum::Good
    } else {
        RxChecksum::Unchecked
    }
}

#[inline(always)]
fn apply(meta: &mut RxMeta, kind: u32, value: u32) {
    match kind {
        ppi::CHECKSUM => meta.checksum = checksum(value),
        ppi::VLAN => meta.vlan = Some(vlan_tag(value)),
        _ => meta.hash = Some(value),
    }
}

/// The value of [`ppi::VLAN`]: priority in 3 bits, drop eligibility in one, number in 12.
pub fn vlan_value(tag: Vlan) -> u32 {
    let tag = u32::from(tag.0);
    tag >> 13 | (tag >> 12 & 1) << 3 | (tag & 0xfff) << 4
}

fn vlan_tag(value: u32) -> Vlan {
    Vlan(((value & 7) << 13 | (value >> 3 & 1) << 12 | (value >> 4 & 0xfff)) as u16)
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows fails"
)]
mod tests;
