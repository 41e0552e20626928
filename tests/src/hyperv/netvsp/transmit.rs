//! From RNDIS packets to frames: what the guest sends.
//!
//! Source: OpenVMM `netvsp/src/lib.rs` (`handle_rndis_packet_message`) for what a host refuses.

use super::offload::{LARGE_SEND_MAX, Offloads};
use super::rndis::{self, message, ppi, tx_checksum};
use crate::net::headers::{TCP, add};
use crate::net::{Checksum, Frame, Headers, Segment, fault};
use zerocopy::FromBytes;

/// Packets that one message may hold.
pub const MAX_PACKETS: usize = 8;
/// Where the network header is: a tag beside the frame leaves it there, too.
const ETHERNET: usize = 14;
const TCP_HEADER: usize = 20;

/// What has been agreed on.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Bytes of the longest frame, Ethernet header included.
    pub longest: u32,
    /// Whether tags may come beside frames.
    pub vlan: bool,
    pub offloads: Offloads,
}

/// Takes the frames out of a message. `first` is how many bytes of it lie in its first range,
/// where every header has to be. An error is a packet that no host would take; `complain` is told
/// of what a host may let pass.
pub fn frames(
    whole: &[u8],
    first: usize,
    rules: &Rules,
    complain: &mut impl FnMut(String),
) -> Result<Vec<Frame>, String> {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < whole.len() || frames.is_empty() {
        let rest = &whole[at..];
        let (header, _) = rndis::Header::read_from_prefix(rest)
            .map_err(|_| format!("{} bytes are no RNDIS message", rest.len()))?;
        let length = header.length as usize;
        if header.kind != message::PACKET {
            return Err(format!("message {} among packets", header.kind));
        }
        let message = rest
            .get(..length)
            .ok_or_else(|| format!("a packet of {length} bytes in {}", rest.len()))?;
        let headers = first.saturating_sub(at).min(length);
        frames.push(frame(message, headers, rules, complain)?);
        at += length;
        if at < whole.len() && !at.is_multiple_of(8) {
            complain(format!("the next packet starts at byte {at}"));
        }
    }
    if frames.len() > MAX_PACKETS {
        complain(format!("{} packets in one message", frames.len()));
    }
    Ok(frames)
}

/// A part of a message whose place is told as the offset from the byte behind the header.
fn part(message: &[u8], offset: u32, length: u32) -> Option<&[u8]> {
    let start = rndis::HEADER.checked_add(offset as usize)?;
    message.get(start..start.checked_add(length as usize)?)
}

fn frame(
    message: &[u8],
    headers: usize,
    rules: &Rules,
    complain: &mut impl FnMut(String),
) -> Result<Frame, String> {
    const FIXED: usize = rndis::HEADER + size_of::<rndis::Packet>();
    let in_first = message.get(..headers).unwrap_or(&[]);
    let body = in_first.get(rndis::HEADER..FIXED);
    let Some(Ok(packet)) = body.map(rndis::Packet::read_from_bytes) else {
        return Err(format!(
            "the header does not lie in the first range, {headers} bytes"
        ));
    };
    if packet.oob_elements != 0 || packet.oob_length != 0 || packet.oob_offset != 0 {
        return Err("out-of-band data".into());
    }
    if packet.vc_handle != 0 || packet.reserved != 0 {
        return Err("fields that have to be zero are not".into());
    }
    let data = part(message, packet.data_offset, packet.data_length)
        .filter(|data| !data.is_empty())
        .ok_or_else(|| {
            let (offset, length) = (packet.data_offset, packet.data_length);
            format!("{length} bytes of data at {offset} in {}", message.len())
        })?;
    let information = match packet.ppi_length {
        0 => &[],
        length => part(in_first, packet.ppi_offset, length)
            .ok_or("per-packet information outside the first range")?,
    };
    let fixed = FIXED as u32 - rndis::HEADER as u32;
    if packet.data_offset < fixed + packet.ppi_length
        || (packet.ppi_length != 0 && packet.ppi_offset != fixed)
    {
        complain("header, information and data overlap, or have gaps".into());
    }
    let mut frame = Frame::new(data);
    each_piece(information, |kind, value| {
        apply(&mut frame, kind, value, rules, complain)
    })?;
    check_length(&frame, rules, complain);
    if let Some(what) = fault(&frame) {
        complain(what.into());
    }
    Ok(frame)
}

/// Walks over per-packet information.
fn each_piece(
    mut rest: &[u8],
    mut take: impl FnMut(u32, u32) -> Result<(), String>,
) -> Result<(), String> {
    while !rest.is_empty() {
        let (header, _) = rndis::PpiHeader::read_from_prefix(rest)
            .map_err(|_| "per-packet information cut off")?;
        let (size, offset) = (header.size as usize, header.offset as usize);
        let piece = rest.get(..size).filter(|piece| !piece.is_empty());
        let piece = piece.ok_or_else(|| format!("a piece of information of {size} bytes"))?;
        let value = offset
            .checked_add(4)
            .and_then(|end| piece.get(offset..end))
            .filter(|_| offset >= size_of::<rndis::PpiHeader>() && size.is_multiple_of(4))
            .ok_or_else(|| format!("information at {offset} in a piece of {size} bytes"))?;
        take(
            header.kind,
            u32::from_le_bytes(value.try_into().expect("4 bytes")),
        )?;
        rest = &rest[size..];
    }
    Ok(())
}

fn apply(
    frame: &mut Frame,
    kind: u32,
    value: u32,
    rules: &Rules,
    complain: &mut impl FnMut(String),
) -> Result<(), String> {
    match kind {
        ppi::CHECKSUM => checksum(frame, value, rules, complain),
        ppi::LARGE_SEND => large_send(frame, value, rules, complain),
        ppi::VLAN => {
            if !rules.vlan {
                complain("a VLAN tag beside the frame, never agreed on".into());
            }
            if value >> 16 != 0 {
                complain(format!("VLAN information {value:#x}"));
            }
            // Priority in bits 0 to 2, drop eligibility in 3, the number from 4 on.
            let (priority, eligible, number) = (value & 7, value >> 3 & 1, value >> 4 & 0xfff);
            frame.vlan = Some((priority << 13 | eligible << 12 | number) as u16);
            Ok(())
        }
        ppi::HASH_VALUE => {
            frame.hash = Some(value);
            Ok(())
        }
        // Others a host does not know, it passes over.
        _ => Ok(()),
    }
}

fn checksum(
    frame: &mut Frame,
    value: u32,
    rules: &Rules,
    complain: &mut impl FnMut(String),
) -> Result<(), String> {
    let has = |bit: u32| value & bit != 0;
    let v6 = has(tx_checksum::V6);
    let (tcp, udp, ip) = (
        has(tx_checksum::TCP),
        has(tx_checksum::UDP),
        has(tx_checksum::IP_HEADER),
    );
    if has(tx_checksum::V4) == v6 || (tcp && udp) || (ip && v6) {
        complain(format!("checksum information {value:#x}"));
    }
    let on = rules.offloads.tx;
    let agreed = match (v6, tcp, udp) {
        (false, true, _) => on.tcp4,
        (false, _, true) => on.udp4,
        (true, true, _) => on.tcp6,
        (true, _, true) => on.udp6,
        _ => true,
    };
    if !agreed || (ip && !on.ip) {
        complain(format!(
            "checksum {value:#x} left to the host, never agreed on"
        ));
    }
    if ip {
        fill_ip_header(&mut frame.bytes);
    }
    if !tcp && !udp {
        return Ok(());
    }
    let header = if v6 { 40 } else { 20 };
    let start = match value >> tx_checksum::OFFSET_SHIFT & 0x3ff {
        // Hosts then look for it themselves, where there are no options.
        0 => ETHERNET + header,
        start => start as usize,
    };
    let (field, length) = if tcp { (16, TCP_HEADER) } else { (6, 8) };
    if start < ETHERNET + header || start + length > frame.bytes.len() {
        let bytes = frame.bytes.len();
        return Err(format!("a transport header at {start} of {bytes} bytes"));
    }
    frame.checksum = Checksum::Partial {
        start: start as u16,
        offset: field,
    };
    Ok(())
}

fn large_send(
    frame: &mut Frame,
    value: u32,
    rules: &Rules,
    complain: &mut impl FnMut(String),
) -> Result<(), String> {
    const VERSION_2: u32 = 1 << 30;
    let (mss, v6) = (value & 0xf_ffff, value >> 31 != 0);
    let start = (value >> 20 & 0x3ff) as usize;
    if value & VERSION_2 == 0 {
        complain("large send that is not of version 2".into());
    }
    let agreed = if v6 {
        rules.offloads.large_send_v6
    } else {
        rules.offloads.large_send_v4
    };
    if !agreed {
        complain("large send, never agreed on".into());
    }
    let header = if v6 { 40 } else { 20 };
    let words = frame.bytes.get(start + 12).map_or(0, |byte| byte >> 4);
    let end = start + usize::from(words) * 4;
    if start < ETHERNET + header || words < 5 || end >= frame.bytes.len() {
        let bytes = frame.bytes.len();
        return Err(format!("large send of {bytes} bytes with TCP at {start}"));
    }
    let Some(mss) = u16::try_from(mss).ok().filter(|&mss| mss != 0) else {
        return Err(format!("large send in pieces of {mss} bytes"));
    };
    frame.segment = Some(Segment { v6, mss });
    complete_headers(&mut frame.bytes, v6, start, complain);
    frame.checksum = Checksum::Partial {
        start: start as u16,
        offset: 16,
    };
    Ok(())
}

/// Fills the IPv4 header's own checksum in.
fn fill_ip_header(bytes: &mut [u8]) {
    let length = bytes.get(ETHERNET).map_or(0, |b| usize::from(b & 0xf) * 4);
    let Some(header) = bytes.get_mut(ETHERNET..ETHERNET + length) else {
        return;
    };
    if length < 20 {
        return;
    }
    header[10..12].fill(0);
    let sum = !add(0, header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// A large send comes without lengths: not in the IP header (or any there), not in the sum of the
/// pseudo-header. The line has them.
fn complete_headers(bytes: &mut [u8], v6: bool, start: usize, complain: &mut impl FnMut(String)) {
    let headers = Headers::find(bytes)
        .filter(|found| (found.v6, found.transport, found.protocol) == (v6, start, TCP));
    let Some(headers) = headers else {
        complain("large send of what is not TCP where it says".into());
        return;
    };
    let at = start + 16;
    let field = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    // Two zeros: 0 and 0xffff are the same sum.
    if field % 0xffff != headers.pseudo(bytes, 0) % 0xffff {
        complain("large send, and its checksum is not the pseudo-header's without a length".into());
    }
    let (place, length) = if v6 {
        (headers.ip + 4, bytes.len() - headers.ip - 40)
    } else {
        (headers.ip + 2, bytes.len() - headers.ip)
    };
    bytes[place..place + 2].copy_from_slice(&(length as u16).to_be_bytes());
    if !v6 {
        fill_ip_header(bytes);
    }
    let sum = headers.pseudo(bytes, bytes.len() - start);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn check_length(frame: &Frame, rules: &Rules, complain: &mut impl FnMut(String)) {
    let bytes = frame.bytes.len();
    let tagged = frame.bytes.get(12..14) == Some(&[0x81, 0]);
    let most = if frame.segment.is_some() {
        LARGE_SEND_MAX
    } else {
        rules.longest + if tagged { 4 } else { 0 }
    };
    if bytes < ETHERNET || bytes > most as usize {
        complain(format!("a frame of {bytes} bytes"));
    }
}
