//! Finishing what a sender left undone: checksums filled in, long segments cut, tags put in place.

use super::headers::{Headers, TCP, UDP, add};
use super::{Checksum, Frame};

/// What a receiver takes unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Takes {
    /// Partial checksums over IPv4 and IPv6.
    pub checksum_v4: bool,
    pub checksum_v6: bool,
    /// TCP segments to be cut, over IPv4 and IPv6. Their checksums are partial, so one who does not
    /// take those takes none of these either.
    pub segment_v4: bool,
    pub segment_v6: bool,
    /// VLAN tags beside the frame.
    pub vlan: bool,
}

impl Takes {
    /// Whether a partial checksum may stay.
    fn partial(&self, v6: bool) -> bool {
        if v6 {
            self.checksum_v6
        } else {
            self.checksum_v4
        }
    }

    /// Whether a segment may stay uncut.
    fn segment(&self, v6: bool) -> bool {
        let segment = if v6 { self.segment_v6 } else { self.segment_v4 };
        segment && self.partial(v6)
    }
}

/// The frame as a receiver takes it: one, or several where a segment had to be cut. A frame
/// whose headers do not bear out what is to be done to it stays as it is.
pub fn finish(mut frame: Frame, takes: Takes) -> Vec<Frame> {
    if !takes.vlan
        && let Some(tag) = frame.vlan.take()
        && frame.bytes.len() >= 12
    {
        let [high, low] = tag.to_be_bytes();
        frame.bytes.splice(12..12, [0x81, 0, high, low]);
        if let Checksum::Partial { start, .. } = &mut frame.checksum {
            *start += 4;
        }
    }
    let mut frames = match frame.segment {
        Some(segment) if !takes.segment(segment.v6) => cut(&frame).unwrap_or_else(|| vec![frame]),
        _ => vec![frame],
    };
    for frame in &mut frames {
        let v6 = Headers::find(&frame.bytes).is_some_and(|headers| headers.v6);
        let whole = frame.segment.is_none();
        if whole && !takes.partial(v6) {
            fill(frame);
        }
    }
    frames
}

/// Fills a partial checksum in, over what is there.
fn fill(frame: &mut Frame) {
    let Checksum::Partial { start, offset } = frame.checksum else {
        return;
    };
    let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
    let end = match Headers::find(&frame.bytes) {
        Some(headers) => headers.end.min(frame.bytes.len()),
        None => frame.bytes.len(),
    };
    if start > end || at + 2 > end {
        return;
    }
    let mut sum = !add(0, &frame.bytes[start..end]);
    // A UDP checksum of zero would say that there is none.
    if sum == 0 && offset == 6 {
        sum = 0xffff;
    }
    frame.bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    frame.checksum = Checksum::Verified;
}

/// Cuts a TCP segment; every packet gets a partial checksum. `None` if it is not one.
fn cut(frame: &Frame) -> Option<Vec<Frame>> {
    let segment = frame.segment?;
    let headers = Headers::find(&frame.bytes)?;
    let tcp = headers.transport;
    let words = usize::from(*frame.bytes.get(tcp + 12)? >> 4);
    let payload = tcp + words * 4;
    if headers.protocol != TCP || headers.v6 != segment.v6 || words < 5 || segment.mss == 0 {
        return None;
    }
    // LSO on Hyper-V leaves the IP length zero: what is in the frame counts.
    let data = frame.bytes.get(payload..)?;
    let seq = u32::from_be_bytes(frame.bytes.get(tcp + 4..tcp + 8)?.try_into().ok()?);
    let mss = usize::from(segment.mss);
    let pieces = data.len().div_ceil(mss).max(1);
    let mut frames = Vec::new();
    for n in 0..pieces {
        let piece = &data[n * mss..data.len().min((n + 1) * mss)];
        let mut bytes = [&frame.bytes[..payload], piece].concat();
        let transport_len = bytes.len() - tcp;
        let ip = headers.ip;
        if headers.v6 {
            let len = (bytes.len() - ip - 40) as u16;
            bytes[ip + 4..ip + 6].copy_from_slice(&len.to_be_bytes());
        } else {
            let len = (bytes.len() - ip) as u16;
            let id = u16::from_be_bytes([bytes[ip + 4], bytes[ip + 5]]).wrapping_add(n as u16);
            bytes[ip + 2..ip + 4].copy_from_slice(&len.to_be_bytes());
            bytes[ip + 4..ip + 6].copy_from_slice(&id.to_be_bytes());
            bytes[ip + 10..ip + 12].fill(0);
            let sum = !add(0, &bytes[ip..tcp]);
            bytes[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let seq = seq.wrapping_add((n * mss) as u32);
        bytes[tcp + 4..tcp + 8].copy_from_slice(&seq.to_be_bytes());
        // FIN and PSH are the last packet's, CWR is the first's.
        if n + 1 < pieces {
            bytes[tcp + 13] &= !0x09;
        }
        if n > 0 {
            bytes[tcp + 13] &= !0x80;
        }
        let pseudo = headers.pseudo(&bytes, transport_len);
        bytes[tcp + 16..tcp + 18].copy_from_slice(&pseudo.to_be_bytes());
        frames.push(Frame {
            bytes,
            checksum: Checksum::Partial {
                start: tcp as u16,
                offset: 16,
            },
            segment: None,
            vlan: frame.vlan,
            hash: frame.hash,
        });
    }
    Some(frames)
}

/// Why a partial checksum, or a segment, is not what its sender says; `None` if it is.
pub fn fault(frame: &Frame) -> Option<&'static str> {
    let Checksum::Partial { start, offset } = frame.checksum else {
        return frame
            .segment
            .map(|_| "a segment to be cut without a partial checksum");
    };
    let Some(headers) = Headers::find(&frame.bytes) else {
        return Some("a partial checksum in no IP packet");
    };
    let tcp = headers.protocol == TCP;
    if !tcp && headers.protocol != UDP {
        return Some("a partial checksum in neither TCP nor UDP");
    }
    if headers.transport != usize::from(start)
        || headers.checksum() != Some(usize::from(start) + usize::from(offset))
    {
        return Some("a partial checksum where there is none");
    }
    let header = if tcp { 20 } else { 8 };
    if headers.transport + header > frame.bytes.len() {
        return Some("a partial checksum, and the transport header is cut off");
    }
    if let Some(segment) = frame.segment {
        if !tcp || headers.v6 != segment.v6 {
            return Some("a segment that is not TCP over the version of IP it says");
        }
        return (segment.mss == 0).then_some("a segment to be cut into nothing");
    }
    if headers.end > frame.bytes.len() || headers.end < headers.transport + header {
        return Some("a partial checksum over a length that is not the packet's");
    }
    let at = headers.transport + usize::from(offset);
    let field = u16::from_be_bytes([frame.bytes[at], frame.bytes[at + 1]]);
    let pseudo = headers.pseudo(&frame.bytes, headers.end - headers.transport);
    // Two zeros: 0 and 0xffff are the same sum.
    (field % 0xffff != pseudo % 0xffff)
        .then_some("the checksum field does not hold the pseudo-header's sum")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::headers::checksum_is_right;
    use crate::net::samples::{Flow, pattern};

    fn flows() -> Vec<Flow> {
        let all = [(false, true), (true, true), (false, false), (true, false)];
        all.map(|(v6, tcp)| Flow {
            v6,
            tcp,
            ..Flow::tcp4()
        })
        .to_vec()
    }

    #[test]
    fn checksums_are_filled_in_and_nothing_else_changes() {
        for flow in flows() {
            for len in [0, 1, 2, 7, 1000] {
                let frame = flow.partial(&pattern(len, len as u64));
                assert_eq!(fault(&frame), None);
                assert_eq!(checksum_is_right(&frame.bytes), Some(false));
                let done = finish(frame.clone(), Takes::default());
                assert_eq!(done.len(), 1);
                assert_eq!(checksum_is_right(&done[0].bytes), Some(true));
                let at = Headers::find(&frame.bytes).unwrap().checksum().unwrap();
                assert_eq!(done[0].bytes[..at], frame.bytes[..at]);
                assert_eq!(done[0].bytes[at + 2..], frame.bytes[at + 2..]);
                // Bytes behind the packet, as short frames have them, count for nothing.
                let mut padded = frame.clone();
                padded.bytes.extend([0xee; 9]);
                let done = finish(padded, Takes::default());
                assert_eq!(checksum_is_right(&done[0].bytes), Some(true));
            }
        }
    }

    #[test]
    fn a_udp_checksum_that_comes_to_zero_is_sent_as_its_complement() {
        let flow = Flow {
            tcp: false,
            ..Flow::tcp4()
        };
        let sum = |a: u8, b: u8| {
            let frame = flow.partial(&[a, b]);
            u16::from_be_bytes([frame.bytes[40], frame.bytes[41]])
                .checked_add(add(0, &frame.bytes[34..40]))
                .map(|sum| add(sum, &[a, b]))
        };
        let zero = (0..=u16::MAX)
            .map(u16::to_be_bytes)
            .find(|&[a, b]| sum(a, b) == Some(0xffff));
        let frame = flow.partial(&zero.unwrap());
        let done = finish(frame, Takes::default());
        assert_eq!(done[0].bytes[40..42], [0xff, 0xff]);
        assert_eq!(checksum_is_right(&done[0].bytes), Some(true));
    }

    #[test]
    fn segments_are_cut_into_packets_that_make_the_whole() {
        for flow in flows().into_iter().filter(|flow| flow.tcp) {
            for (len, mss) in [(1, 1000), (1000, 1000), (1001, 1000), (65_000, 1448)] {
                let data = pattern(len, 7);
                let mut frame = flow.long(&data, mss);
                // FIN, PSH, ACK and CWR.
                let flags = flow.headers() - 20 + 13;
                frame.bytes[flags] = 0x99;
                let packets = finish(frame.clone(), Takes::default());
                assert_eq!(packets.len(), len.div_ceil(usize::from(mss)));
                let mut whole: Vec<u8> = Vec::new();
                for (n, packet) in packets.iter().enumerate() {
                    let bytes = &packet.bytes;
                    assert_eq!(checksum_is_right(bytes), Some(true));
                    let seq = bytes[flags - 9..flags - 5].try_into().unwrap();
                    let seq = u32::from_be_bytes(seq) - 0x1000;
                    assert_eq!(seq as usize, whole.len());
                    let last = n + 1 == packets.len();
                    let expected =
                        0x10 | if last { 0x09 } else { 0 } | if n == 0 { 0x80 } else { 0 };
                    assert_eq!(bytes[flags], expected);
                    if !flow.v6 {
                        assert_eq!(add(0, &bytes[14..34]), 0xffff);
                        let id = u16::from_be_bytes([bytes[18], bytes[19]]);
                        assert_eq!(id, 0x1234 + n as u16);
                    }
                    let headers = Headers::find(bytes).unwrap();
                    assert_eq!(headers.end, bytes.len());
                    whole.extend(&bytes[flow.headers()..]);
                }
                assert!(whole == data);
            }
        }
    }

    #[test]
    fn what_a_receiver_takes_stays() {
        let frame = Flow::tcp4().long(&pattern(3000, 1), 1000);
        let takes = Takes {
            checksum_v4: true,
            segment_v4: true,
            ..Takes::default()
        };
        let whole = finish(frame.clone(), takes);
        assert_eq!(whole.first(), Some(&frame));
        let pieces = finish(
            frame,
            Takes {
                segment_v4: false,
                ..takes
            },
        );
        assert!(
            pieces
                .iter()
                .all(|piece| matches!(piece.checksum, Checksum::Partial { .. }))
        );
    }

    #[test]
    fn nonsense_is_found_and_left_alone() {
        let good = Flow::tcp4().long(&pattern(3000, 1), 1000);
        let change: [fn(&mut Frame); 5] = [
            |f| f.segment = Some(super::super::Segment { v6: true, mss: 9 }),
            |f| f.segment = Some(super::super::Segment { v6: false, mss: 0 }),
            |f| f.bytes.truncate(40),
            |f| f.bytes[23] = UDP,
            |f| f.bytes[12] = 0,
        ];
        for change in change {
            let mut frame = good.clone();
            change(&mut frame);
            assert!(fault(&frame).is_some());
            let same = finish(frame.clone(), Takes::default());
            assert_eq!(same, [frame]);
        }
        let mut wrong = Flow::tcp4().partial(b"data");
        wrong.bytes[50] ^= 1;
        assert!(fault(&wrong).is_some());
    }
}
