//! Frames in both directions.

use super::hand::{NetGuest, ppi, rndis_packet, take_apart};
use crate::hyperv::hand_guest::words;
use crate::hyperv::netvsp::{NetvspConfig, NoRoom, nvsp};
use crate::net::samples::Flow;
use crate::net::{Checksum, Frame, Headers, Port};

const V6_1: u32 = nvsp::version::V6_1;

fn defaults(_: &mut NetvspConfig) {}

/// A broadcast frame of `length` bytes that is no packet of any kind.
fn broadcast(length: usize, seed: u8) -> Vec<u8> {
    let byte = |i: usize| (i as u8).wrapping_mul(31).wrapping_add(seed);
    (0..length)
        .map(|i| if i < 6 { 0xff } else { byte(i) })
        .collect()
}

#[test]
fn frames_go_out_in_sections_and_in_pages() {
    let mut guest = NetGuest::ready(V6_1, defaults);
    for length in [14, 60, 1513, 1514] {
        let frame = broadcast(length, 1);
        let packet = rndis_packet(&[], &frame);
        assert_eq!(guest.send(&packet), Some(1));
        assert_eq!(guest.line.receive(), Some(Frame::new(frame.clone())));
        assert_eq!(guest.send_in_section(9, &packet), Some(1));
        assert_eq!(guest.line.receive(), Some(Frame::new(frame)));
    }
    // Two packets in one section, the first padded to a multiple of eight bytes.
    let (one, other) = (broadcast(60, 2), broadcast(61, 3));
    let both = [rndis_packet(&[], &one), rndis_packet(&[], &other)].concat();
    assert_eq!(guest.send_in_section(0, &both), Some(1));
    assert_eq!(guest.line.receive(), Some(Frame::new(one)));
    assert_eq!(guest.line.receive(), Some(Frame::new(other)));
    let stats = guest.netvsp().stats();
    assert_eq!(
        (stats.sent, stats.sent_packets, stats.sent_in_sections),
        (10, 9, 5)
    );
    assert_eq!(guest.violations(), [""; 0]);
}

#[test]
fn a_frame_may_begin_in_a_section_and_go_on_in_pages() {
    let mut guest = NetGuest::ready(V6_1, defaults);
    let frame = broadcast(1200, 4);
    let packet = rndis_packet(&[], &frame);
    for at in [44, 45, 300] {
        assert_eq!(guest.send_split(3, &packet, at), Some(1));
        assert_eq!(guest.line.receive(), Some(Frame::new(frame.clone())));
    }
    assert_eq!(guest.violations(), [""; 0]);
    assert_eq!(guest.send_split(3, &packet, 43), Some(2));
    assert_eq!(guest.violations().len(), 1);
}

#[test]
fn a_header_split_over_two_ranges_is_refused() {
    let mut guest = NetGuest::ready(V6_1, defaults);
    let packet = rndis_packet(&[], &broadcast(100, 1));
    assert_eq!(guest.send_ranges(0, &packet, &[40, 104]), Some(2));
    assert_eq!(guest.line.receive(), None);
    assert_eq!(guest.violations().len(), 1);
    assert_eq!(guest.send_ranges(0, &packet, &[44, 100]), Some(1));
    assert!(guest.line.receive().is_some());
    let packet = rndis_packet(&ppi(6, 0), &broadcast(100, 1));
    assert_eq!(guest.send_ranges(0, &packet, &[44, 116]), Some(2));
}

#[test]
fn what_is_to_be_done_to_a_frame_comes_with_it() {
    let mut guest = NetGuest::ready(V6_1, defaults);
    // Priority 5, number 0x123.
    let tag = 5 | 0x123 << 4;
    for v6 in [false, true] {
        let tcp = Flow { v6, ..Flow::tcp4() };
        let udp = Flow { tcp: false, ..tcp };
        let start = if v6 { 54 } else { 34 };
        let version = if v6 { 2 } else { 1 };
        for (flow, what) in [(tcp, 4), (udp, 8)] {
            let frame = flow.partial(&[7; 200]);
            let information = [ppi(6, tag), ppi(0, version | what | start << 16)].concat();
            let packet = rndis_packet(&information, &frame.bytes);
            assert_eq!(guest.send(&packet), Some(1));
            let want = Frame {
                vlan: Some(5 << 13 | 0x123),
                ..frame
            };
            assert_eq!(guest.line.receive(), Some(want));
        }
    }
    assert_eq!(guest.violations(), [""; 0]);
    // A sum that is not the pseudo-header's is noted.
    let mut frame = Flow::tcp4().partial(&[7; 200]).bytes;
    frame[50] ^= 1;
    assert_eq!(
        guest.send(&rndis_packet(&ppi(0, 5 | 34 << 16), &frame)),
        Some(1)
    );
    assert_eq!(guest.violations().len(), 1);
}

#[test]
fn large_sends_get_their_lengths() {
    let mut guest = NetGuest::ready(V6_1, defaults);
    for v6 in [false, true] {
        let flow = Flow { v6, ..Flow::tcp4() };
        let want = flow.long(&[9; 3000], 1000);
        let (ip_length, start) = if v6 { (18, 54) } else { (16, 34) };
        let large = 1000 | start << 20 | 1 << 30 | u32::from(v6) << 31;
        let mut frame = want.bytes.clone();
        frame[ip_length..ip_length + 2].fill(0);
        let packet = rndis_packet(&ppi(2, large), &frame);
        assert_eq!(guest.send(&packet), Some(1));
        assert_eq!(guest.violations().len(), 1, "the sum has a length in it");
        guest.line.receive();
        let headers = Headers::find(&want.bytes).unwrap();
        let at = start as usize + 16;
        let sum = headers.pseudo(&want.bytes, 0);
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let packet = rndis_packet(&ppi(2, large), &frame);
        assert_eq!(guest.send(&packet), Some(1));
        assert_eq!(guest.line.receive(), Some(want));
        assert_eq!(guest.violations().len(), 1);
        guest.forgive();
    }
}

#[test]
fn work_that_was_never_offered_is_noted_or_refused() {
    let mut guest = NetGuest::ready(V6_1, |config| config.offloads = Default::default());
    let frame = Flow::tcp4().partial(&[3; 46]).bytes;
    let packet = rndis_packet(&ppi(0, 0b101 | 34 << 16), &frame);
    assert_eq!(guest.send(&packet), Some(1));
    assert_eq!(guest.violations().len(), 1, "{:?}", guest.violations());
    for (information, status) in [
        (words(&[0, 0, 12, 0]), 2),
        (words(&[20, 0, 12, 0]), 2),
        (words(&[16, 0, 16, 0]), 2),
        (words(&[16, 0, 8, 0]), 2),
        (ppi(0, 0b101 | 90 << 16), 2),
        (ppi(2, 34 << 20 | 1 << 30), 2),
        (ppi(99, 7), 1),
    ] {
        let packet = rndis_packet(&information, &frame);
        assert_eq!(guest.send(&packet), Some(status), "{information:?}");
    }
    // Data beyond the message, or nothing of it.
    for (word, value) in [
        (2, 37),
        (3, 101),
        (3, 0),
        (2, u32::MAX),
        (1, 200),
        (6, 1),
        (9, 1),
    ] {
        let mut packet = rndis_packet(&[], &frame);
        packet[word * 4..word * 4 + 4].copy_from_slice(&u32::to_le_bytes(value));
        assert_eq!(guest.send(&packet), Some(2), "word {word}");
    }
    assert_eq!(
        guest.send_in_section(10, &rndis_packet(&[], &frame)),
        Some(1)
    );
    assert_eq!(
        guest.send_in_section(11, &rndis_packet(&[], &frame)),
        Some(2),
        "no such section"
    );
}

#[test]
fn frames_come_in_with_what_is_known_of_them() {
    let mut guest = NetGuest::ready(V6_1, defaults);
    let frame = broadcast(1514, 1);
    guest.line.send(Frame::new(frame.clone()));
    assert_eq!(guest.frame(0), Some((frame, vec![(0, 0)])));
    let mut packet = broadcast(100, 2);
    packet[12..15].copy_from_slice(&[8, 0, 0x45]);
    packet[23] = 6;
    guest.line.send(Frame {
        checksum: Checksum::Verified,
        vlan: Some(3 << 13 | 7),
        ..Frame::new(packet.clone())
    });
    let information = vec![(0, 0b101000), (6, 3 | 7 << 4)];
    assert_eq!(guest.frame(0), Some((packet, information)));
    assert_eq!(guest.violations(), [""; 0]);
    assert_eq!(guest.netvsp().stats().sections_out, 0);
}

#[test]
fn frames_come_in_finished_but_for_what_is_taken() {
    let mut guest = NetGuest::ready(V6_1, |config| config.blank_checksums = true);
    let flow = Flow {
        to: [0x00, 0x15, 0x5d, 0x70, 0x76, 0x01],
        ..Flow::tcp4()
    };
    // TCP, IP, and that nobody filled the field in.
    let blank = vec![(0, 1 << 3 | 1 << 5 | 1 << 7)];
    guest.line.send(flow.partial(&[7; 100]));
    assert_eq!(guest.frame(0), Some((flow.partial(&[7; 100]).bytes, blank)));
    let udp = Flow { tcp: false, ..flow };
    guest.line.send(udp.partial(&[7; 100]));
    let good = vec![(0, 1 << 4 | 1 << 5)];
    assert_eq!(guest.frame(0), Some((udp.frame(&[7; 100]).bytes, good)));
    guest.line.send(flow.long(&[8; 2500], 1000));
    let transfer = guest.transfer(0).unwrap();
    let lengths: Vec<usize> = transfer
        .messages
        .iter()
        .map(|message| take_apart(message).0.len() - flow.headers())
        .collect();
    assert_eq!(lengths, [1000, 1000, 500]);
    assert_eq!(guest.violations(), [""; 0]);
}

#[test]
fn the_filter_keeps_frames_away() {
    let mut guest = NetGuest::ready(V6_1, defaults);
    let mut to_other = broadcast(60, 1);
    to_other[0] = 2;
    guest.line.send(Frame::new(to_other.clone()));
    assert_eq!(guest.frame(0), None);
    guest.set(0x0001_010e, &words(&[0x20]));
    guest.line.send(Frame::new(to_other.clone()));
    assert_eq!(guest.frame(0).unwrap().0, to_other);
    guest.set(0x0001_010e, &words(&[0]));
    guest.line.send(Frame::new(broadcast(60, 1)));
    assert_eq!(guest.frame(0), None);
    assert_eq!(guest.netvsp().stats().filtered, 2);
}

#[test]
fn frames_wait_for_sections_or_are_lost() {
    for no_room in [NoRoom::Wait, NoRoom::Drop] {
        let mut guest = NetGuest::ready(V6_1, |config| {
            config.no_room = no_room;
            config.section_bytes = Some(16384);
            config.batch = 4;
        });
        for n in 0..20 {
            guest.line.send(Frame::new(broadcast(60, n)));
        }
        // Eight sections, of which two are kept for answers.
        let mut got = Vec::new();
        let (first, second) = (guest.transfer(0).unwrap(), guest.transfer(0).unwrap());
        assert_eq!((first.messages.len(), second.messages.len()), (4, 2));
        assert!(guest.transfer(0).is_none());
        for transfer in [first, second] {
            guest.give_back(0, transfer.id);
            got.extend(transfer.messages);
        }
        while let Some(transfer) = guest.transfer(0) {
            guest.give_back(0, transfer.id);
            got.extend(transfer.messages);
        }
        for (n, message) in got.iter().enumerate() {
            assert_eq!(take_apart(message).0, broadcast(60, n as u8));
        }
        let all = if no_room == NoRoom::Wait { 20 } else { 6 };
        assert_eq!(got.len(), all);
        assert_eq!(guest.netvsp().stats().dropped, 20 - all as u64);
        assert_eq!(guest.violations(), [""; 0]);
    }
}

#[test]
fn only_what_was_given_away_comes_back() {
    let mut guest = NetGuest::ready(V6_1, defaults);
    guest.line.send(Frame::new(broadcast(60, 1)));
    let transfer = guest.transfer(0).unwrap();
    guest.give_back(0, transfer.id + 1);
    assert_eq!(guest.violations().len(), 1);
    guest.give_back(0, transfer.id);
    guest.give_back(0, transfer.id);
    assert_eq!(guest.violations().len(), 2);
    guest.hand.put(11, transfer.id, &[], &words(&[99, 1]));
    guest.hand.signal(guest.relid);
    guest.hand.settle();
    assert_eq!(guest.violations().len(), 4);
}

#[test]
fn a_stalled_adapter_keeps_what_it_was_given() {
    let mut guest = NetGuest::ready(V6_1, defaults);
    guest.netvsp().stall(true);
    let packet = rndis_packet(&[], &broadcast(60, 1));
    assert_eq!(guest.send(&packet), None);
    assert_eq!(
        (guest.netvsp().in_flight(), guest.line.receive()),
        (1, None)
    );
    guest.netvsp().stall(false);
    guest.hand.settle();
    assert!(guest.line.receive().is_some() && guest.hand.get().is_some());
    assert_eq!(guest.netvsp().in_flight(), 0);
}

#[test]
fn flows_are_spread_over_channels() {
    let mut guest = NetGuest::ready(V6_1, defaults);
    guest.nvsp(&[133, 1, 1]).unwrap();
    guest.hand.expect(1);
    guest.hand.turn_to(1);
    guest.hand.open(guest.relid + 1);
    guest.hand.settle();
    guest.hand.turn_to(0);
    guest.hand.get().expect("the table");
    let mut parameters = vec![0x89, 2, 40, 0, 0, 0, 0, 0];
    let hash = 1 | 0x200;
    parameters.extend(words(&[hash, 8, 40, 40, 48, 0, 0, 0, 0, 1]));
    parameters.extend((0..40u8).map(|i| i.wrapping_mul(0x1d) ^ 0x6d));
    assert_eq!(guest.set(0x0001_0204, &parameters), 0);
    let mut counts = [0, 0];
    for port in 0..if cfg!(miri) { 4 } else { 16 } {
        let mut frame = broadcast(64, 0);
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[20..22].fill(0);
        frame[23] = 6;
        frame[35] = port;
        guest.line.send(Frame::new(frame.clone()));
        let channel = usize::from(guest.netvsp().rss().unwrap().hash(&frame).unwrap() % 2 == 1);
        let (got, information) = guest.frame(channel).expect("a frame on its channel");
        assert_eq!((got, information[1].0), (frame, 8));
        counts[channel] += 1;
    }
    assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
    assert_eq!(guest.violations(), [""; 0]);
}
