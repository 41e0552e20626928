//! `struct virtio_net_hdr`, which goes before each frame.

use pv_tests::net::headers::{Headers, add};
use pv_tests::net::{Checksum, Frame, Segment};

/// Its bytes.
pub const HEADER: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// The sender takes part in congestion notification; nothing follows from it here.
const GSO_ECN: u8 = 0x80;

/// The frame behind a header; none where it is cut short, or of a kind nobody asked for.
pub fn parse(bytes: &[u8]) -> Option<Frame> {
    let (header, frame) = bytes.split_at_checked(HEADER)?;
    let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let checksum = match header[0] {
        flags if flags & NEEDS_CSUM != 0 => Checksum::Partial {
            start: word(6),
            offset: word(8),
        },
        flags if flags & DATA_VALID != 0 => Checksum::Verified,
        _ => Checksum::InFrame,
    };
    let segment = match header[1] & !GSO_ECN {
        GSO_NONE => None,
        kind @ (GSO_TCPV4 | GSO_TCPV6) => Some(Segment {
            v6: kind == GSO_TCPV6,
            mss: word(4),
        }),
        _ => return None,
    };
    Some(Frame {
        checksum,
        segment,
        ..Frame::new(frame)
    })
}

/// Header and frame in one piece. The frame is the guest's: whatever it says is passed on as it is, and
/// the kernel refuses what does not fit.
pub fn write(frame: Frame) -> Vec<u8> {
    let mut bytes = frame.bytes;
    let mut checksum = frame.checksum;
    if let Some(tag) = frame.vlan
        && bytes.len() >= 12
    {
        let [high, low] = tag.to_be_bytes();
        bytes.splice(12..12, [0x81, 0x00, high, low]);
        if let Checksum::Partial { start, .. } = &mut checksum {
            *start = start.saturating_add(4);
        }
    }
    let (mut flags, mut start, mut offset) = (0, 0, 0);
    if let Checksum::Partial {
        start: s,
        offset: o,
    } = checksum
    {
        (flags, start, offset) = (NEEDS_CSUM, s, o);
    }
    let (kind, length, mss) = match frame.segment {
        None => (GSO_NONE, 0, 0),
        Some(segment) => {
            complete(&mut bytes);
            // The TCP header says in its thirteenth byte how many words it has.
            let words = bytes.get(usize::from(start) + 12).map_or(5, |b| b >> 4);
            let kind = if segment.v6 { GSO_TCPV6 } else { GSO_TCPV4 };
            let length = start.saturating_add(u16::from(words) * 4);
            (kind, length, segment.mss)
        }
    };
    let mut header = vec![flags, kind];
    for word in [length, mss, start, offset] {
        header.extend(word.to_ne_bytes());
    }
    header.extend(bytes);
    header
}

/// Fills in what a sender may leave open in a segment to be cut (Hyper-V's large send wants it so) and the
/// kernel wants to see: the IP header's length and checksum, and the length in the pseudo-header's sum.
fn complete(bytes: &mut [u8]) {
    let Some(headers) = Headers::find(bytes) else {
        return;
    };
    let (ip, end) = (headers.ip, bytes.len());
    let Some(at) = headers.checksum().filter(|at| at + 2 <= end) else {
        return;
    };
    let pseudo = headers.pseudo(bytes, end - headers.transport);
    bytes[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    if headers.v6 {
        let length = u16::try_from(end - ip - 40).unwrap_or(0);
        bytes[ip + 4..ip + 6].copy_from_slice(&length.to_be_bytes());
    } else {
        let length = u16::try_from(end - ip).unwrap_or(0);
        bytes[ip + 2..ip + 4].copy_from_slice(&length.to_be_bytes());
        bytes[ip + 10..ip + 12].fill(0);
        let sum = !add(0, &bytes[ip..headers.transport]);
        bytes[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_done_to_a_frame_goes_both_ways() {
        let mut bytes = vec![0; 100];
        bytes[34 + 12] = 8 << 4;
        let frame = Frame {
            checksum: Checksum::Partial {
                start: 34,
                offset: 16,
            },
            segment: Some(Segment {
                v6: false,
                mss: 1460,
            }),
            ..Frame::new(bytes)
        };
        let written = write(frame.clone());
        assert_eq!(written[..2], [NEEDS_CSUM, GSO_TCPV4]);
        assert_eq!(u16::from_ne_bytes([written[2], written[3]]), 34 + 32);
        assert_eq!(parse(&written), Some(frame));
    }

    #[test]
    fn lengths_left_open_are_filled_in() {
        let mut bytes = vec![0; 14 + 20 + 20 + 3000];
        bytes[12] = 8;
        bytes[14] = 0x45;
        bytes[14 + 9] = 6;
        bytes[14 + 12..14 + 20].copy_from_slice(&[10, 0, 2, 15, 10, 0, 2, 2]);
        bytes[34 + 12] = 5 << 4;
        complete(&mut bytes);
        assert_eq!(bytes[16..18], 3040u16.to_be_bytes());
        assert_eq!(
            add(0, &bytes[14..34]),
            0xffff,
            "the IP header's sum is right"
        );
        let headers = Headers::find(&bytes).unwrap();
        assert_eq!(bytes[50..52], headers.pseudo(&bytes, 3020).to_be_bytes());
        let mut short = [0x45; 16];
        complete(&mut short);
    }

    #[test]
    fn a_tag_beside_the_bytes_is_put_among_them() {
        let frame = Frame {
            vlan: Some(5),
            checksum: Checksum::Partial {
                start: 34,
                offset: 6,
            },
            ..Frame::new(vec![7; 60])
        };
        let back = parse(&write(frame)).unwrap();
        assert_eq!(back.bytes[10..18], [7, 7, 0x81, 0, 0, 5, 7, 7]);
        assert!(matches!(back.checksum, Checksum::Partial { start: 38, .. }));
    }

    #[test]
    fn what_is_no_frame_is_left_out() {
        assert_eq!(parse(&[0; HEADER - 1]), None);
        let mut other = [0; HEADER + 4];
        other[1] = 3;
        assert_eq!(parse(&other), None, "UDP fragmentation was not asked for");
        assert_eq!(parse(&[0; HEADER]), Some(Frame::new([])));
    }
}
