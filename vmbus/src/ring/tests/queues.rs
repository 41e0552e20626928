//! Both rings against queues, and against hosts that write anything.

use super::receiver::arm;
use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

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
