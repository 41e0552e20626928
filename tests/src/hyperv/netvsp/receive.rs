//! From frames to RNDIS packets: what the guest receives.

use super::rndis::{self, message, ppi, rx_checksum};
use crate::net::headers::checksum_is_right;
use crate::net::{Checksum, Frame};
use zerocopy::IntoBytes;

/// Bytes kept for the headers before the frame in a section.
pub const HEADERS: u32 = 256;
/// Bytes at a section's end that some guests scribble over.
pub const FOOTER: u32 = 36;

/// Bytes of a section that holds a frame of so many.
pub fn section_bytes(longest: u32) -> u32 {
    HEADERS + longest + FOOTER
}

/// How packets are made.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// Where the frame starts in the message, in bytes; at least what the headers need.
    pub data_at: u32,
    /// Say that the packet is as long as its section.
    pub whole_section: Option<u32>,
    /// Tell which checksums were found right.
    pub checksums: bool,
    /// Look at those that nobody looked at, and tell which are wrong.
    pub verify: bool,
}

/// Headers and frame as they lie in a section; the frame fits.
pub fn packet(frame: &Frame, form: &Form) -> Vec<u8> {
    let mut information = Vec::new();
    if form.checksums {
        information.extend(rndis::ppi(ppi::CHECKSUM, checksum_bits(frame, form.verify)));
    }
    if let Some(tag) = frame.vlan.map(u32::from) {
        let value = tag >> 13 | (tag >> 12 & 1) << 3 | (tag & 0xfff) << 4;
        information.extend(rndis::ppi(ppi::VLAN, value));
    }
    if let Some(hash) = frame.hash {
        information.extend(rndis::ppi(ppi::HASH_VALUE, hash));
    }
    let fixed = size_of::<rndis::Packet>();
    let data_offset = (fixed + information.len()).max(form.data_at as usize - rndis::HEADER);
    let packet = rndis::Packet {
        data_offset: data_offset as u32,
        data_length: frame.bytes.len() as u32,
        ppi_offset: if information.is_empty() {
            0
        } else {
            fixed as u32
        },
        ppi_length: information.len() as u32,
        ..rndis::Packet::default()
    };
    let mut rest = information;
    rest.resize(data_offset - fixed, 0);
    rest.extend_from_slice(&frame.bytes);
    if let Some(section) = form.whole_section {
        rest.resize(section as usize - rndis::HEADER - fixed, 0);
    }
    debug_assert_eq!(packet.as_bytes().len(), fixed);
    rndis::build(message::PACKET, &packet, &rest)
}

/// What the host says of the checksums.
fn checksum_bits(frame: &Frame, verify: bool) -> u32 {
    let looked_at = verify
        .then(|| checksum_is_right(&frame.bytes))
        .flatten()
        .filter(|_| frame.checksum == Checksum::InFrame);
    let blank = match frame.checksum {
        Checksum::InFrame if looked_at.is_none() => return 0,
        Checksum::InFrame => 0,
        Checksum::Verified => 0,
        // The field was never filled in: the data did not leave this machine.
        Checksum::Partial { .. } => rx_checksum::TCP_VALUE_INVALID,
    };
    let protocol = match frame.bytes.get(12..14) {
        Some([8, 0]) => frame.bytes.get(23),
        Some([0x86, 0xdd]) => frame.bytes.get(20),
        _ => None,
    };
    let v4 = frame.bytes.get(12..14) == Some(&[8, 0]);
    let ip = if v4 { rx_checksum::IP_SUCCEEDED } else { 0 };
    match protocol {
        Some(6) if looked_at == Some(false) => ip | rx_checksum::TCP_FAILED,
        Some(17) if looked_at == Some(false) => ip | rx_checksum::UDP_FAILED,
        Some(6) => ip | rx_checksum::TCP_SUCCEEDED | blank,
        Some(17) => ip | rx_checksum::UDP_SUCCEEDED,
        _ => ip,
    }
}
