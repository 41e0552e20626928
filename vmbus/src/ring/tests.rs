//! Both ends of both rings: ours, and a host's written here, word by word, against a queue.

use super::*;
use crate::abi::packet::{COMPLETION_REQUESTED, PacketKind};
use hypercall::HostFault;
use hypercall::shm::hosted::{Alone, Hosted, Ram, lend};
use hypercall::shm::{Pages, Span};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

type Memory = Lent<Hosted<Alone>>;

/// Loans without a lender are never taken back; what they are of stays known here, so that Miri
/// does not take them for lost.
static KEPT: std::sync::Mutex<Vec<Hosted<Alone>>> = std::sync::Mutex::new(Vec::new());

fn memory(pages: usize) -> Memory {
    let platform = Hosted::new(Ram::new(pages, 1), Alone::default());
    KEPT.lock().unwrap().push(platform.clone());
    lend(Pages::alloc(&platform, pages).unwrap())
}

/// A host's end: indices in the control page, words behind it.
struct HostEnd<'a> {
    span: Span<'a>,
    size: u32,
}

impl<'a> HostEnd<'a> {
    fn new(memory: &'a Memory) -> Self {
        let span = memory.span();
        let size = span.len() as u32 - 4096;
        Self { span, size }
    }
    fn get(&self, at: usize) -> u32 {
        self.span.load_u32(at).unwrap()
    }
    fn set(&self, at: usize, value: u32) {
        self.span.store_u32(at, value).unwrap();
    }
    fn word(&self, index: u32) -> u64 {
        let at = 4096 + index % self.size;
        self.span.load_u64(at as usize).unwrap()
    }
    fn set_word(&self, index: u32, word: u64) {
        let at = 4096 + index % self.size;
        self.span.store_u64(at as usize, word).unwrap();
    }

    /// Takes the next packet's words, footer included.
    fn take(&self) -> Option<Vec<u64>> {
        let (write, read) = (self.get(0), self.get(4));
        if write == read {
            return None;
        }
        let words = (self.word(read) >> 32 & 0xffff) as u32 + 1;
        let packet = (0..words).map(|i| self.word(read + i * 8)).collect();
        self.set(4, (read + words * 8) % self.size);
        Some(packet)
    }

    /// Puts a packet; false when there is no room.
    fn put(&self, words: &[u64]) -> bool {
        let (write, read) = (self.get(0), self.get(4));
        let total = words.len() as u32 * 8 + 8;
        let used = (write + self.size - read) % self.size;
        if total + 8 > self.size - used {
            return false;
        }
        for (i, word) in (0..).zip(words) {
            self.set_word(write + i * 8, *word);
        }
        self.set_word(write + total - 8, u64::from(write) << 32);
        self.set(0, (write + total) % self.size);
        true
    }
}

/// The first word of a packet.
fn first(kind: u16, offset8: u64, length8: u64, flags: u64) -> u64 {
    u64::from(kind) | offset8 << 16 | length8 << 32 | flags << 48
}

#[test]
fn packets_lie_as_the_protocol_says() {
    let mut ring = Sender::new(memory(2)).unwrap();
    let payload = [0x0807_0605_0403_0201u64, 9];
    ring.send(Outgoing::in_band(5, &payload)).unwrap();
    let frames = [0x111, 0x222].into_iter();
    ring.send(Outgoing::gpa_direct(6, &payload, 4000, 200, frames))
        .unwrap();
    // Twelve bytes are padded to two words.
    let odd = [0xffu8; 12];
    ring.send(Outgoing::in_band(7, &odd).ask_completion())
        .unwrap();
    ring.send(Outgoing::completion(8, &payload)).unwrap();
    let memory = ring.memory().span();
    assert_eq!(memory.load_u32(0), Ok(0));
    assert_eq!(memory.load_u32(64), Ok(1));
    assert!(ring.publish());
    assert!(!ring.publish());
    let host = HostEnd::new(ring.memory());
    assert_eq!(
        host.take().unwrap(),
        [first(6, 2, 4, 0), 5, payload[0], 9, 0]
    );
    assert_eq!(
        host.take().unwrap(),
        [
            first(9, 6, 8, 1),
            6,
            1 << 32,
            200 | 4000 << 32,
            0x111,
            0x222,
            payload[0],
            9,
            40 << 32
        ]
    );
    let padded = [first(6, 2, 4, 1), 7, u64::MAX, 0xffff_ffff, 112 << 32];
    assert_eq!(host.take().unwrap(), padded);
    assert_eq!(host.take().unwrap()[0], first(11, 2, 4, 0));
    assert_eq!(host.take(), None);
}

#[test]
fn a_signal_is_for_an_empty_and_unmasked_ring() {
    let mut ring = Sender::new(memory(2)).unwrap();
    let mut send = |mask: u32, drain: bool| {
        HostEnd::new(ring.memory()).set(8, mask);
        if drain {
            while HostEnd::new(ring.memory()).take().is_some() {}
        }
        ring.send(Outgoing::in_band(1, &0u64)).unwrap();
        ring.publish()
    };
    assert!(send(0, false));
    assert!(!send(0, false));
    assert!(send(0, true));
    assert!(!send(1, true));
    assert!(send(0, true));
}

#[test]
fn a_full_ring_asks_for_room() {
    let mut ring = Sender::new(memory(2)).unwrap();
    let payload = [1u64; 64];
    // 4096 - 8 bytes hold seven packets of 536 bytes.
    for _ in 0..7 {
        ring.send(Outgoing::in_band(1, &payload)).unwrap();
    }
    assert_eq!(ring.free_bytes(), Ok(4088 - 7 * 536));
    assert_eq!(
        ring.send(Outgoing::in_band(1, &payload)),
        Err(SendError::Full)
    );
    let host_asked = |ring: &Sender<Hosted<Alone>>| HostEnd::new(ring.memory()).get(12);
    assert_eq!(host_asked(&ring), 536);
    ring.publish();
    assert!(HostEnd::new(ring.memory()).take().is_some());
    ring.send(Outgoing::in_band(1, &payload)).unwrap();
    assert_eq!(host_asked(&ring), 0);
    // What never fits is said so, and asks for nothing.
    let large = [0u64; 512];
    assert_eq!(
        ring.send(Outgoing::in_band(1, &large)),
        Err(SendError::TooLarge)
    );
    assert_eq!(host_asked(&ring), 0);
    let all = Outgoing::gpa_direct(1, &0u64, 0, u32::MAX, core::iter::repeat(1));
    assert_eq!(ring.send(all), Err(SendError::TooLarge));
}

#[test]
fn frames_must_fit_their_range() {
    let mut ring = Sender::new(memory(2)).unwrap();
    let send = |ring: &mut Sender<_>, offset, bytes, frames: &[u64]| {
        let frames = frames.iter().copied();
        ring.send(Outgoing::gpa_direct(1, &0u64, offset, bytes, frames))
    };
    assert_eq!(send(&mut ring, 4096, 1, &[1]), Err(SendError::BadRange));
    assert_eq!(send(&mut ring, 4095, 2, &[1]), Err(SendError::BadRange));
    assert!(!ring.publish());
    assert_eq!(send(&mut ring, 4095, 2, &[1, 2]), Ok(()));
    assert!(ring.publish());
}

#[test]
#[cfg_attr(miri, ignore = "half a megabyte of frames takes minutes")]
fn a_packet_can_be_as_long_as_its_length_says() {
    // 1 MiB of ring: room is no reason to write a length that does not fit its 16 bits.
    let mut ring = Sender::new(memory(257)).unwrap();
    let longest = 65535 - 2;
    let frames = || core::iter::repeat(1);
    let bytes = |pages: u32| pages * 4096;
    let fits = Outgoing::gpa_direct(1, &0u64, 0, bytes(longest - 3), frames());
    assert_eq!(ring.send(fits), Ok(()));
    let over = Outgoing::gpa_direct(1, &0u64, 0, bytes(longest - 2), frames());
    assert_eq!(ring.send(over), Err(SendError::TooLarge));
    assert_eq!(ring.send(Outgoing::in_band(2, &0u64)), Ok(()));
}

#[test]
fn wild_read_indices_are_faults() {
    for (wild, sent) in [(4096, 1), (4, 1), (u32::MAX, 1), (64, 1), (4088, 0)] {
        let mut ring = Sender::new(memory(2)).unwrap();
        for _ in 0..sent {
            ring.send(Outgoing::in_band(1, &0u64)).unwrap();
        }
        ring.publish();
        HostEnd::new(ring.memory()).set(4, wild);
        assert_eq!(ring.free_bytes(), Err(HostFault::RingIndex), "{wild}");
        // Latched: a good index does not heal it.
        HostEnd::new(ring.memory()).set(4, 0);
        let refused = Err(SendError::Fault(HostFault::RingIndex));
        assert_eq!(ring.send(Outgoing::in_band(1, &0u64)), refused);
    }
}

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
fn arm(ring: &mut Receiver<impl Platform>) -> Result<bool, HostFault> {
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

#[derive(Debug, Clone)]
enum Step {
    Send { id: u64, size: usize, pages: u32 },
    Publish,
    HostTakes(usize),
    HostMasks(bool),
    HostPuts { words: usize, id: u64 },
    Receive(usize),
    Done,
    Arm,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<u64>(), 0..4usize, 0..6u32)
            .prop_map(|(id, size, pages)| Step::Send { id, size, pages }),
        2 => Just(Step::Publish),
        3 => (0..9usize).prop_map(Step::HostTakes),
        1 => any::<bool>().prop_map(Step::HostMasks),
        6 => (2..80usize, any::<u64>()).prop_map(|(words, id)| Step::HostPuts { words, id }),
        3 => (0..9usize).prop_map(Step::Receive),
        2 => Just(Step::Done),
        1 => Just(Step::Arm),
    ]
}

/// Sends a packet of one of four sizes; returns the words it must have.
fn send(
    ring: &mut Sender<Hosted<Alone>>,
    id: u64,
    size: usize,
    pages: u32,
) -> Result<Vec<u64>, SendError> {
    fn one<T: zerocopy::IntoBytes + zerocopy::Immutable>(
        ring: &mut Sender<Hosted<Alone>>,
        id: u64,
        payload: &T,
        pages: u32,
    ) -> Result<Vec<u64>, SendError> {
        let mut words = std::vec![0, id];
        if pages == 0 {
            ring.send(Outgoing::in_band(id, payload))?;
        } else {
            let frames: Vec<u64> = (0..u64::from(pages)).map(|i| id ^ i).collect();
            let bytes = pages * 4096 - 100;
            ring.send(Outgoing::gpa_direct(
                id,
                payload,
                100,
                bytes,
                frames.iter().copied(),
            ))?;
            words.extend([1 << 32, u64::from(bytes) | 100 << 32]);
            words.extend(frames);
        }
        let header = words.len() as u64;
        for chunk in payload.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            words.push(u64::from_le_bytes(word));
        }
        let (kind, flags) = if pages == 0 { (6, 0) } else { (9, 1) };
        words[0] = first(kind, header, words.len() as u64, flags);
        Ok(words)
    }
    match size {
        0 => one(ring, id, &[0x11u8; 5], pages),
        1 => one(ring, id, &[0x22u64; 8], pages),
        2 => one(ring, id, &[0x33u32; 13], pages),
        _ => one(ring, id, &[0x44u64; 100], pages),
    }
}

fn run(steps: Vec<Step>) {
    let mut tx = Sender::new(memory(2)).unwrap();
    let mut rx = Receiver::new(memory(2)).unwrap();
    // Packets on their way: sent but not shown, shown, and from the host.
    let mut unseen = VecDeque::new();
    let mut shown: VecDeque<Vec<u64>> = VecDeque::new();
    let mut coming: VecDeque<Vec<u64>> = VecDeque::new();
    let mut masked = false;
    for step in steps {
        match step {
            Step::Send { id, size, pages } => match send(&mut tx, id, size, pages) {
                Ok(words) => unseen.push_back(words),
                Err(SendError::Full) => assert!(!(unseen.is_empty() && shown.is_empty())),
                Err(other) => panic!("{other}"),
            },
            Step::Publish => {
                let expected = !unseen.is_empty() && shown.is_empty() && !masked;
                assert_eq!(tx.publish(), expected);
                shown.append(&mut unseen);
            }
            Step::HostTakes(count) => {
                let host = HostEnd::new(tx.memory());
                for _ in 0..count {
                    let packet = host.take();
                    let expected = shown.pop_front();
                    assert_eq!(
                        packet.as_deref().map(|p| &p[..p.len() - 1]),
                        expected.as_deref()
                    );
                }
            }
            Step::HostMasks(mask) => {
                masked = mask;
                HostEnd::new(tx.memory()).set(8, mask.into());
            }
            Step::HostPuts { words, id } => {
                let mut packet = std::vec![id; words];
                packet[0] = first(11, 2, words as u64, 0);
                if HostEnd::new(rx.memory()).put(&packet) {
                    coming.push_back(packet);
                }
            }
            Step::Receive(count) => {
                for _ in 0..count {
                    let mut into = [0; 20];
                    let got = rx.receive(&mut into).unwrap();
                    let expected = coming.pop_front();
                    assert_eq!(got.is_some(), expected.is_some());
                    if let (Some(got), Some(expected)) = (got, expected) {
                        assert_eq!(got.transaction_id, expected[1]);
                        assert_eq!(got.len, (expected.len() - 2) * 8);
                        let n = (expected.len() - 2).min(20);
                        assert_eq!(into[..n], expected[2..2 + n]);
                        assert!(into[n..].iter().all(|w| *w == 0));
                    }
                }
            }
            Step::Done => {
                assert!(!rx.done());
            }
            Step::Arm => {
                assert_eq!(arm(&mut rx), Ok(!coming.is_empty()));
                let masked = HostEnd::new(rx.memory()).get(8);
                assert_eq!(masked == 1, !coming.is_empty());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 1 } else { 200 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn rings_behave_like_queues(steps in prop::collection::vec(step(), 1..200)) {
        run(steps);
    }

    /// Whatever a host writes, there is an answer or a fault.
    #[test]
    fn nothing_a_host_writes_hurts(
        words in prop::collection::vec(any::<u64>(), 512),
        lengths in prop::collection::vec((0u64..8, 0u64..40), 64),
        write in 0u32..5000,
    ) {
        let mut ring = Receiver::new(memory(2)).unwrap();
        let host = HostEnd::new(ring.memory());
        for (i, word) in (0..).zip(&words) {
            host.set_word(i * 8, *word);
        }
        for (i, (offset8, length8)) in (0..).zip(lengths) {
            host.set_word(i * 64, first(11, offset8, length8, 0));
        }
        host.set(0, write);
        let mut packets = 0;
        while let Ok(Some(_)) = ring.receive(&mut [0; 8]) {
            ring.done();
            packets += 1;
            prop_assert!(packets <= 4096 / 24);
        }
    }
}

#[test]
fn requests_and_answers_of_fixed_length_are_the_same_packets() {
    let mut ring = Sender::new(memory(2)).unwrap();
    let host_memory = ring.memory().span().len();
    assert_eq!(host_memory, 8192);
    for round in 0..40u64 {
        let payload = [round, 2, 3, 4];
        // Across the end it takes the long way.
        if !ring.send_request(round + 1, &payload) {
            let packet = Outgoing::in_band(round + 1, &payload).ask_completion();
            ring.send(packet).unwrap();
        }
        let mut put = false;
        ring.send_answers(|answers| put = answers.put(99, &[round]));
        if !put {
            ring.send(Outgoing::completion(99, &[round])).unwrap();
        }
        assert_eq!(ring.is_read(), Ok(true), "nothing was published");
        ring.publish();
        assert_eq!(ring.is_read(), Ok(false));
        let host = HostEnd::new(ring.memory());
        let request = host.take().unwrap();
        assert_eq!(request[..6], [first(6, 2, 6, 1), round + 1, round, 2, 3, 4]);
        let answer = host.take().unwrap();
        assert_eq!(answer[..3], [first(11, 2, 3, 0), 99, round]);
        assert_eq!(ring.is_read(), Ok(true));
    }
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
