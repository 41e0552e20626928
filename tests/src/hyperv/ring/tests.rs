//! The guest's side here is bytes written by hand.

use super::*;
use crate::hyperv::flat::FlatMemory;

/// A guest-to-host ring in pages 0 (control), 1 and 2, and the guest's own write index.
struct GuestSide {
    memory: FlatMemory,
    write: u64,
}

impl GuestSide {
    fn put(&mut self, words: &[u64]) {
        for &word in words {
            self.memory.store_u64(4096 + self.write, word).unwrap();
            self.write = (self.write + 8) % 8192;
        }
        self.memory.store_u32(0, self.write as u32).unwrap();
    }

    /// An in-band packet: kind 6, payload from word 2 on, footer.
    fn in_band(&mut self, id: u64, payload: &[u64]) {
        let began = self.write;
        let length8 = 2 + payload.len() as u64;
        self.put(&[6 | 2 << 16 | length8 << 32 | 1 << 48, id]);
        self.put(payload);
        self.put(&[began << 32]);
    }
}

fn guest() -> (GuestSide, Incoming) {
    let memory = FlatMemory::new(8);
    let ring = Incoming::new(&memory, &[0, 1, 2]).unwrap();
    (GuestSide { memory, write: 0 }, ring)
}

#[test]
fn packets_survive_many_turns_of_the_ring() {
    let (mut guest, mut ring) = guest();
    for id in 0..if cfg!(miri) { 300 } else { 1000 } {
        guest.in_band(id, &[id, !id, 3]);
        let (packet, wakes) = ring.take(&guest.memory).unwrap().unwrap();
        assert_eq!(packet.transaction_id, id);
        assert_eq!(packet.payload[8..16], (!id).to_le_bytes());
        assert!(packet.completion_requested && !wakes);
        assert_eq!(guest.memory.load_u32(4).unwrap(), guest.write as u32);
    }
    assert_eq!(ring.take(&guest.memory), Ok(None));
}

#[test]
fn gpa_direct_packets_bring_their_ranges() {
    let (mut guest, mut ring) = guest();
    // kind 9, payload at word 7, 8 words long; two ranges: 8192 bytes of pages 5, 6; 16 of page 7.
    guest.put(&[
        9 | 8 << 16 | 9 << 32,
        42,
        2 << 32,
        8192,
        5,
        6,
        16 | 8 << 32,
        7,
        0xabc,
        0,
    ]);
    let (packet, _) = ring.take(&guest.memory).unwrap().unwrap();
    let first = GpaRange {
        offset: 0,
        bytes: 8192,
        frames: vec![5, 6],
    };
    let second = GpaRange {
        offset: 8,
        bytes: 16,
        frames: vec![7],
    };
    assert_eq!(packet.kind, Kind::GpaDirect(vec![first, second]));
    assert_eq!(packet.payload, 0xabcu64.to_le_bytes());
}

#[test]
fn what_no_host_can_read_is_a_fault() {
    let spoilt = |words: &[u64]| {
        let (mut guest, mut ring) = guest();
        guest.put(words);
        ring.take(&guest.memory).unwrap_err()
    };
    let word = |kind: u64, offset: u64, length: u64| kind | offset << 16 | length << 32;
    assert!(matches!(
        spoilt(&[word(6, 2, 3), 1, 2]),
        RingFault::Length(_)
    ));
    assert!(matches!(
        spoilt(&[word(6, 1, 2), 1, 0]),
        RingFault::Length(_)
    ));
    assert!(matches!(
        spoilt(&[word(6, 3, 2), 1, 0]),
        RingFault::Length(_)
    ));
    assert_eq!(spoilt(&[word(8, 2, 2), 1, 0]), RingFault::Kind(8));
    assert_eq!(
        spoilt(&[word(6, 2, 2), 1, 7 << 32]),
        RingFault::Footer {
            said: 7 << 32,
            began: 0
        }
    );
    assert_eq!(
        spoilt(&[word(9, 4, 4), 1, 1 << 32, 99, 0]),
        RingFault::Ranges
    );
    assert_eq!(spoilt(&[word(9, 3, 3), 1, 0, 0]), RingFault::Ranges);
    let (guest, mut ring) = guest();
    for index in [4, 8192, u32::MAX] {
        guest.memory.store_u32(0, index).unwrap();
        assert_eq!(ring.take(&guest.memory), Err(RingFault::Index(index)));
    }
    assert!(Incoming::new(&guest.memory, &[0]).is_err());
    assert!(Incoming::new(&guest.memory, &[u64::MAX, 1]).is_err());
}

#[test]
fn the_writer_is_woken_when_its_space_appears_and_only_then() {
    let (mut guest, mut ring) = guest();
    for id in 0..250 {
        guest.in_band(id, &[0]);
    }
    // 250 packets of 32 bytes leave 192; the guest wants 192 + 48.
    guest.memory.store_u32(12, 240).unwrap();
    let woken: Vec<bool> = (0..4)
        .map(|_| ring.take(&guest.memory).unwrap().unwrap().1)
        .collect();
    assert_eq!(woken, [false, true, false, false]);
}

#[test]
fn interrupts_follow_emptiness_and_mask() {
    let memory = FlatMemory::new(3);
    let mut ring = Outgoing::new(&memory, &[0, 1], true).unwrap();
    assert_eq!(memory.load_u32(64).unwrap(), 1);
    let packet = Packet {
        kind: Kind::Completion,
        transaction_id: 9,
        completion_requested: false,
        payload: vec![1; 13],
    };
    assert_eq!(ring.put(&memory, &packet), Ok(true));
    assert_eq!(ring.put(&memory, &packet), Ok(false), "not empty any more");
    memory.store_u32(4, 80).unwrap(); // the guest has read both
    memory.store_u32(8, 1).unwrap(); // and masks
    assert_eq!(ring.put(&memory, &packet), Ok(false));
    assert_eq!(memory.load_u64(4096).unwrap(), 11 | 2 << 16 | 4 << 32);
    assert_eq!(
        memory.load_u64(4096 + 40 + 32).unwrap(),
        40 << 32,
        "the second one's footer"
    );
    memory.store_u32(4, 120).unwrap();
    let mut written = 0;
    while ring
        .has_room(&memory, Outgoing::space_for(&packet))
        .unwrap()
    {
        ring.put(&memory, &packet).unwrap();
        written += 1;
    }
    assert_eq!(written, 4095 / 40, "the ring never fills to the last byte");
}
