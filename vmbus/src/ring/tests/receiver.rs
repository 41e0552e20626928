//! The host-to-guest ring, written from the host's end.

use super::*;
use std::vec;

#[test]
fn packets_are_received_whole_or_in_part() {
    let mut ring = Receiver::new(memory(2)).unwrap();
    let host = |ring: &Receiver<_>, words: &[u64]| {
        assert!(HostEnd::new(ring.memory()).put(words));
    };
    let mut into = [7; 2];
    assert_eq!(ring.receive(&mut into), Ok(None));
    host(&ring, &[first(11, 2, 4, 0), 42, 1, 2]);
    let got = ring.receive(&mut into).unwrap().unwrap();
    assert_eq!((got.kind, got.transaction_id), (PacketKind::COMPLETION, 42));
    assert_eq!((got.len, got.header, into), (16, 0, [1, 2]));
    // Longer than asked for: the rest is left out.
    host(&ring, &[first(6, 2, 5, 1), 0, 3, 4, 5]);
    let got = ring.receive(&mut into).unwrap().unwrap();
    assert_eq!(
        (got.len, got.flags, into),
        (24, COMPLETION_REQUESTED, [3, 4])
    );
    // Shorter: what is behind stays.
    host(&ring, &[first(6, 2, 3, 0), 0, 6]);
    let got = ring.receive(&mut into).unwrap().unwrap();
    assert_eq!((got.len, into), (8, [6, 4]));
    // In-band with a longer header than we know of: the payload is what counts.
    host(&ring, &[first(6, 3, 4, 0), 0, 99, 8]);
    assert_eq!(ring.receive(&mut into).unwrap().unwrap().len, 8);
    assert_eq!(into, [8, 4]);
    // Transfer pages: the ranges come along.
    host(&ring, &[first(7, 3, 4, 1), 9, 0x10, 0x20]);
    let got = ring.receive(&mut into).unwrap().unwrap();
    assert_eq!((got.header, got.len, into), (8, 16, [0x10, 0x20]));
}

#[test]
fn bad_packets_are_faults() {
    let cases: [(&[u64], u32, HostFault); 6] = [
        // Payload before the end of the descriptor, behind the end of the packet, and a packet
        // longer than what was written.
        (&[first(11, 1, 4, 0), 1, 1, 2], 40, HostFault::Length),
        (&[first(11, 5, 4, 0), 1, 1, 2], 40, HostFault::Length),
        (&[first(11, 2, 5, 0), 1, 1, 2], 40, HostFault::Length),
        (&[first(11, 2, 0xffff, 0), 1, 1, 2], 40, HostFault::Length),
        // Half a descriptor.
        (&[first(11, 2, 2, 0)], 16, HostFault::Length),
        (&[first(11, 2, 2, 0)], 8, HostFault::Length),
    ];
    for (words, write, fault) in cases {
        let mut ring = Receiver::new(memory(2)).unwrap();
        let host = HostEnd::new(ring.memory());
        for (i, word) in (0..).zip(words) {
            host.set_word(i * 8, *word);
        }
        host.set(0, write);
        assert_eq!(ring.receive(&mut [0; 4]), Err(fault));
        assert_eq!(ring.receive(&mut [0; 4]), Err(fault));
    }
    for wild in [4096, 4, u32::MAX] {
        let mut ring = Receiver::new(memory(2)).unwrap();
        HostEnd::new(ring.memory()).set(0, wild);
        assert_eq!(ring.receive(&mut [0; 4]), Err(HostFault::RingIndex));
        assert_eq!(ring.arm(), Err(HostFault::RingIndex));
        assert_eq!(ring.arm(), Err(HostFault::RingIndex));
    }
}

/// Whether there is a packet, by a host that waits for no room.
pub(super) fn arm(ring: &mut Receiver<impl Platform>) -> Result<bool, HostFault> {
    let Armed { more, signal } = ring.arm()?;
    assert!(!signal);
    Ok(more)
}

#[test]
fn signals_are_masked_while_there_is_work() {
    let mut ring = Receiver::new(memory(2)).unwrap();
    let mask = |ring: &Receiver<_>| HostEnd::new(ring.memory()).get(8);
    let packet = [first(11, 2, 2, 0), 1];
    assert_eq!(arm(&mut ring), Ok(false));
    assert_eq!(mask(&ring), 0);
    HostEnd::new(ring.memory()).put(&packet);
    HostEnd::new(ring.memory()).put(&packet);
    ring.receive(&mut [0; 1]).unwrap().unwrap();
    assert_eq!(mask(&ring), 1);
    // One is left: arming says so and leaves the mask.
    assert_eq!(arm(&mut ring), Ok(true));
    assert_eq!(mask(&ring), 1);
    ring.receive(&mut [0; 1]).unwrap().unwrap();
    assert_eq!(arm(&mut ring), Ok(false));
    assert_eq!(mask(&ring), 0);
}

#[test]
fn a_waiting_host_is_told_of_room_once() {
    let mut ring = Receiver::new(memory(2)).unwrap();
    let packet = [first(11, 2, 62, 0); 62];
    while HostEnd::new(ring.memory()).put(&packet) {}
    // Eight packets of 504 bytes; 4088 - 4032 = 56 are free. It asks for all but one byte of
    // the ring, as some do, which means: when it is empty.
    HostEnd::new(ring.memory()).set(12, 4095);
    let mut signals = 0;
    while ring.receive(&mut [0; 1]).unwrap().is_some() {
        signals += u32::from(ring.done());
    }
    assert_eq!(signals, 1);
    while HostEnd::new(ring.memory()).put(&packet) {}
    HostEnd::new(ring.memory()).set(12, 504);
    ring.receive(&mut [0; 1]).unwrap().unwrap();
    ring.receive(&mut [0; 1]).unwrap().unwrap();
    assert!(ring.done());
    assert!(!ring.done());
    ring.receive(&mut [0; 1]).unwrap().unwrap();
    assert!(!ring.done());
    // Arming tells it as well.
    while ring.receive(&mut [0; 1]).unwrap().is_some() {}
    HostEnd::new(ring.memory()).set(12, 4088);
    let armed = |more, signal| Ok(Armed { more, signal });
    assert_eq!(ring.arm(), armed(false, true));
    assert_eq!(ring.arm(), armed(false, false));
    HostEnd::new(ring.memory()).set(12, 0);
}

#[test]
fn the_start_of_a_packet_decides_and_any_length_is_received() {
    let mut ring = Receiver::new(memory(2)).unwrap();
    let private = memory(1);
    let words = private.words().part(0, 200).unwrap();
    for round in 0..60u64 {
        let ranges = round as usize % 7 + 1;
        // A packet with ranges, as network adapters send it.
        let header = 3 + ranges as u64;
        let mut packet = vec![first(7, header, header + 2, 1), round];
        packet.push(0xcafe | (ranges as u64) << 32);
        packet.extend((0..ranges as u64).map(|i| i << 32 | 100));
        packet.extend([107, round]);
        assert!(HostEnd::new(ring.memory()).put(&packet));
        assert_eq!(ring.is_ready(), Ok(true));
        let look = |first: u64, id: u64, [set]: [u64; 1]| (first as u16, id, set >> 32);
        let mut seen = None;
        let left = ring.receive_short(|first, id, words| {
            seen = Some(look(first, id, words));
            None::<()>
        });
        assert_eq!(left, None);
        if let Some(seen) = seen {
            assert_eq!(seen, (7, round, ranges as u64));
        }
        let taken = (round % 2 == 0)
            .then(|| ring.receive_short(|first, id, words| Some(look(first, id, words))))
            .flatten();
        if let Some(taken) = taken {
            assert_eq!(taken, (7, round, ranges as u64));
        } else {
            let incoming = ring.receive_to(words).unwrap().unwrap();
            assert_eq!(incoming.kind, PacketKind::TRANSFER_PAGES);
            assert_eq!(incoming.flags, COMPLETION_REQUESTED);
            assert_eq!(incoming.header, (1 + ranges) * 8);
            assert_eq!(incoming.len, (3 + ranges) * 8);
            for (i, word) in packet[2..].iter().enumerate() {
                assert_eq!(words.load(i), Ok(*word));
            }
        }
        assert_eq!(ring.receive_to(words), Ok(None));
        ring.done();
    }
    // One that there is no room for, and one that is longer than what was written.
    assert!(HostEnd::new(ring.memory()).put(&[
        first(6, 2, 12, 0),
        1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0
    ]));
    let few = private.words().part(0, 9).unwrap();
    assert_eq!(ring.receive_to(few), Err(HostFault::Length));
    let mut ring = Receiver::new(memory(2)).unwrap();
    assert!(HostEnd::new(ring.memory()).put(&[first(11, 2, 900, 0), 1, 0]));
    assert_eq!(ring.is_ready(), Ok(true));
    assert_eq!(ring.receive_short(|_, _, [_]: [u64; 1]| Some(())), None);
    assert_eq!(ring.receive_to(words), Err(HostFault::Length));
}
