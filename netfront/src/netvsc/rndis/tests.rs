//! Messages of every form a host may write, in a buffer of which every byte is known.

use super::*;
use hypercall::shm::Pages;
use hypercall::shm::hosted::{Alone, Hosted, Ram};
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const BUFFER: usize = 8192;

fn buffer() -> Pages<Hosted<Alone>> {
    let platform = Hosted::new(Ram::new(2, 1), Alone::default());
    Pages::alloc(&platform, 2).unwrap()
}

/// A message with a frame: pieces of information of which each is size, kind, offset and what else
/// there is of it, in words of four bytes.
fn message(data_at: u32, data: u32, info: &[u32]) -> Vec<u32> {
    let info_bytes = info.len() as u32 * 4;
    let mut words = vec![1, data_at.max(44 + info_bytes) + data, data_at - 8, data];
    let info_at = if info.is_empty() { 0 } else { 36 };
    words.extend([0, 0, 0, info_at, info_bytes, 0, 0]);
    words.extend(info);
    words
}

/// Finds what is in `len` bytes at `offset`, where the words were written.
fn look(words: &[u32], offset: u32, len: u32) -> Result<Message, HostFault> {
    let pages = buffer();
    let span = pages.span();
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    span.copy_in(offset as usize, &bytes).unwrap();
    find_at(span, offset, len)
}

/// What is in a range of a buffer; places are those of the buffer.
fn find_at(buffer: Span<'_>, offset: u32, len: u32) -> Result<Message, HostFault> {
    let range = buffer.part(offset as usize, len as usize)?;
    let found = find(range);
    // The short way says the same, or nothing.
    if let Some(usual) = usual(range)
        && usual.offset + u64::from(usual.len) <= len.into()
    {
        let meta = RxMeta {
            checksum: usual.checksum,
            ..RxMeta::default()
        };
        let (offset, len) = (usual.offset as u32, usual.len);
        assert_eq!(found, Ok(Message::Frame(Found { offset, len, meta })));
    }
    found.map(|message| match message {
        Message::Frame(found) => Message::Frame(Found {
            offset: found.offset + offset,
            ..found
        }),
        Message::Control => Message::Control,
    })
}

/// Whether a message in a range of so many bytes goes the short way.
fn is_usual(words: &[u32], len: u32) -> bool {
    let pages = buffer();
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    pages.span().copy_in(0, &bytes).unwrap();
    usual(pages.span().part(0, len as usize).unwrap()).is_some()
}

#[test]
fn what_is_unusual_goes_the_long_way() {
    let checksum = [16, ppi::CHECKSUM, 12, rx_checksum::TCP_SUCCEEDED];
    let good = message(200, 60, &checksum);
    assert!(is_usual(&good, 260) && is_usual(&message(44, 60, &[]), 104));
    // It fills its range, and that is longer than what is looked at.
    assert!(!is_usual(&good, 264) && !is_usual(&message(44, 19, &[]), 63));
    // Each word that is looked at, and what it may not be.
    for (at, value) in [
        (0, 2),
        (1, 259),
        (7, 40),
        (8, 20),
        (8, 32),
        (11, 20),
        (12, 6),
        (13, 16),
    ] {
        let mut odd = good.clone();
        odd[at] = value;
        assert!(!is_usual(&odd, 260), "word {at} is {value}");
    }
    let vlan = [16, ppi::VLAN, 12, 1];
    assert!(!is_usual(&message(200, 60, &vlan), 260));
    assert!(!is_usual(
        &message(200, 60, &[checksum, vlan].concat()),
        260
    ));
}

fn frame(message: Result<Message, HostFault>) -> Found {
    match message {
        Ok(Message::Frame(found)) => found,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_frame_is_found_wherever_it_lies() {
    for (offset, data_at) in [(0, 44), (1, 45), (1806, 256), (4090, 100)] {
        let found = frame(look(&message(data_at, 60, &[]), offset, data_at + 60));
        assert_eq!((found.offset, found.len), (offset + data_at, 60));
        assert_eq!(found.meta, RxMeta::default());
        // A host may say that the range is longer than its message.
        assert_eq!(frame(look(&message(data_at, 60, &[]), offset, 2000)), found);
        let cut = look(&message(data_at, 60, &[]), offset, data_at + 59);
        assert_eq!(cut, Err(HostFault::Length));
    }
    let end = look(&message(44, 60, &[]), (BUFFER - 104) as u32, 104);
    assert_eq!(frame(end).offset as usize, BUFFER - 60);
    let beyond = look(&message(44, 60, &[]), (BUFFER - 104) as u32, 105);
    assert_eq!(beyond, Err(HostFault::Length));
}

#[test]
fn what_is_said_of_a_frame_is_read() {
    let checksum = |bits| [16, ppi::CHECKSUM, 12, bits];
    for (bits, meaning) in [
        (0, RxChecksum::Unchecked),
        (rx_checksum::TCP_SUCCEEDED, RxChecksum::Good),
        (rx_checksum::UDP_SUCCEEDED, RxChecksum::Good),
        (rx_checksum::TCP_FAILED, RxChecksum::Bad),
        (
            rx_checksum::UDP_FAILED | rx_checksum::TCP_SUCCEEDED,
            RxChecksum::Bad,
        ),
        (
            rx_checksum::TCP_SUCCEEDED | rx_checksum::TCP_VALUE_INVALID,
            RxChecksum::Blank,
        ),
    ] {
        let found = frame(look(&message(200, 60, &checksum(bits)), 3, 300));
        assert_eq!(found.meta.checksum, meaning);
    }
    // One that is unknown, one whose value lies apart, one of usual form.
    let info = [
        20,
        77,
        12,
        1,
        2,
        24,
        ppi::VLAN,
        20,
        0,
        0,
        0xb | 0x123 << 4,
        16,
        ppi::HASH,
        12,
        0xabcd,
    ];
    let meta = frame(look(&message(200, 60, &info), 8, 300)).meta;
    assert_eq!((meta.vlan, meta.hash), (Some(Vlan(0x7123)), Some(0xabcd)));
    for tag in [0, 0xffff, 0x6123, 0x1001] {
        assert_eq!(vlan_tag(vlan_value(Vlan(tag))), Vlan(tag));
    }
}

#[test]
fn information_that_is_none_is_a_fault() {
    let wrong = |info: &[u32]| look(&message(200, 60, info), 0, 300);
    for info in [
        &[0, 0, 12, 0][..],
        &[11, 0, 12, 0],
        &[17, 0, 12, 0],
        &[u32::MAX, 0, 12, 0],
        &[16, ppi::CHECKSUM, 13, 0],
        &[16, ppi::CHECKSUM, 8, 0],
        &[16, ppi::VLAN, u32::MAX, 0],
        &[12, ppi::HASH, 12],
    ] {
        assert_eq!(wrong(info), Err(HostFault::Malformed), "{info:?}");
    }
    // Pieces without end.
    let many: Vec<u32> = (0..17).flat_map(|_| [16, 99, 12, 0]).collect();
    assert_eq!(
        look(&message(400, 60, &many), 0, 500),
        Err(HostFault::Malformed)
    );
    let mut outside = message(200, 60, &[16, 0, 12, 0]);
    outside[8] = 1000;
    assert_eq!(look(&outside, 0, 300), Err(HostFault::Length));
    outside[8] = u32::MAX;
    assert_eq!(look(&outside, 0, 300), Err(HostFault::Length));
    outside[7] = u32::MAX;
    assert_eq!(look(&outside, 0, 300), Err(HostFault::Length));
}

#[test]
fn other_messages_are_told_from_frames() {
    for len in [8, 12, 47, 48, 300] {
        assert_eq!(
            look(&[kind::KEEPALIVE, 12, 5], 0, len),
            Ok(Message::Control)
        );
    }
    assert_eq!(look(&[kind::KEEPALIVE], 0, 7), Err(HostFault::Malformed));
    assert_eq!(look(&[], 0, 0), Err(HostFault::Length));
    assert_eq!(look(&[kind::PACKET, 20], 0, 20), Err(HostFault::Malformed));
    let pages = buffer();
    for (offset, len) in [(BUFFER as u32, 1), (u32::MAX, 1), (1, u32::MAX), (8190, 8)] {
        assert_eq!(find_at(pages.span(), offset, len), Err(HostFault::Length));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 16 } else { 2000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever a host writes, a frame that is found lies inside its range.
    #[test]
    fn no_frame_leaves_its_range(
        words in prop::collection::vec(
            prop_oneof![Just(1u32), Just(12), Just(16), Just(36), 0..300u32, any::<u32>()], 12..80,
        ),
        offset in 0..7000u32,
        len in prop_oneof![0..400u32, any::<u32>()],
    ) {
        let mut words = words;
        words[0] = 1;
        if let Ok(Message::Frame(found)) = look(&words, offset, len) {
            prop_assert!(found.offset >= offset);
            prop_assert!(found.offset + found.len <= offset + len);
            prop_assert!((offset + len) as usize <= BUFFER);
        }
    }
}
