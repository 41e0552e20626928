//! Property tests of the byte rings and of the book-keeping of messages.

use crate::proto::{Complete, Receiver, Requests, Room, Route, SLOTS, header};
use crate::ring::Ring;
use crate::watch::{WATCHES, Watches};
use crate::wire::{HEADER, MessageType, PAYLOAD_MAX, RING};
use hypercall::HostFault;
use hypercall::shm::hosted::{Hosted, Machine, Ram};
use hypercall::shm::{Pages, Span};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

/// Bytes of the longest payload: Miri is slow.
const LONG: usize = if cfg!(miri) { 60 } else { 5000 };

/// A machine on which nothing happens.
#[derive(Clone)]
struct Still;

impl Machine for Still {
    fn now(&self) -> u64 {
        0
    }
    fn wait_token(&self) -> u64 {
        0
    }
    fn wait(&self, _: u64, _: u64) {}
}

fn page() -> Pages<Hosted<Still>> {
    Pages::alloc(&Hosted::new(Ram::new(1, 0), Still), 1).unwrap()
}

fn cases() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 256 })
    }
}

/// The host's side of a ring, written for these tests: bytes one at a time.
fn host_take(span: Span<'_>, limit: usize) -> Vec<u8> {
    let mut cons = span.load_u32(2048).unwrap();
    let prod = span.load_u32(2052).unwrap();
    let mut bytes = Vec::new();
    while cons != prod && bytes.len() < limit {
        bytes.push(span.load_u8(cons as usize % 1024).unwrap());
        cons = cons.wrapping_add(1);
    }
    span.store_u32(2048, cons).unwrap();
    bytes
}

fn host_give(span: Span<'_>, bytes: &mut VecDeque<u8>, limit: usize) {
    let cons = span.load_u32(2056).unwrap();
    let mut prod = span.load_u32(2060).unwrap();
    for _ in 0..limit {
        if prod.wrapping_sub(cons) == 1024 {
            break;
        }
        let Some(byte) = bytes.pop_front() else { break };
        span.store_u8(1024 + prod as usize % 1024, byte).unwrap();
        prod = prod.wrapping_add(1);
    }
    span.store_u32(2060, prod).unwrap();
}

fn indices(span: Span<'_>, start: u32) {
    for at in [2048, 2052, 2056, 2060] {
        span.store_u32(at, start).unwrap();
    }
}

proptest! {
    #![proptest_config(cases())]

    /// Whatever the sizes of the pieces and wherever the indices start, bytes come out as they
    /// went in, both ways.
    #[test]
    fn rings_carry_bytes_in_order(
        start in any::<u32>(),
        payload in proptest::collection::vec(any::<u8>(), 0..LONG),
        pieces in proptest::collection::vec((0..1500usize, 0..1500usize), 1..200),
    ) {
        let page = page();
        let (view, span) = (page.first(), page.span());
        indices(span, start);
        let mut ring = Ring::new(view);
        let (mut sent, mut out) = (0, Vec::new());
        let mut coming: VecDeque<u8> = payload.iter().copied().collect();
        let mut got: Vec<u8> = Vec::new();
        for (one, other) in pieces.iter().cycle().take(if cfg!(miri) { 20 } else { 4000 }) {
            let end = (sent + one).min(payload.len());
            sent += ring.send(view, &payload[sent..end]).unwrap();
            out.extend(host_take(span, *other));
            host_give(span, &mut coming, *one);
            let mut into = vec![0; *other];
            let count = ring.receive(view, &mut into).unwrap();
            got.extend(&into[..count]);
            prop_assert!(out.len() <= sent);
        }
        while ring.send(view, &payload[sent..]).map(|n| sent += n).is_ok() && sent < payload.len() {
            out.extend(host_take(span, 1024));
        }
        out.extend(host_take(span, 1024));
        let mut into = vec![0; 1024];
        loop {
            host_give(span, &mut coming, 1024);
            match ring.receive(view, &mut into).unwrap() {
                0 => break,
                count => got.extend(&into[..count]),
            }
        }
        prop_assert_eq!(&out, &payload);
        prop_assert_eq!(&got, &payload);
    }

    /// Host indices that cannot be are told as such, and nothing is copied by them.
    #[test]
    fn impossible_indices_are_faults(start in any::<u32>(), cons in any::<u32>(), prod in any::<u32>()) {
        let page = page();
        let (view, span) = (page.first(), page.span());
        indices(span, start);
        let mut ring = Ring::new(view);
        span.store_u32(2048, cons).unwrap();
        span.store_u32(2060, prod).unwrap();
        let used = start.wrapping_sub(cons) as usize;
        match ring.send(view, &[1; 2000]) {
            Ok(count) => prop_assert_eq!(count, RING - used),
            Err(fault) => prop_assert!(used > RING && fault == HostFault::RingIndex),
        }
        let there = prod.wrapping_sub(start) as usize;
        match ring.receive(view, &mut [0; 2000]) {
            Ok(count) => prop_assert_eq!(count, there),
            Err(fault) => prop_assert!(there > RING && fault == HostFault::RingIndex),
        }
    }

    /// A stream of answers and events, cut anywhere, is put together again.
    #[test]
    fn messages_survive_any_cut(
        order in Just((0..SLOTS).collect::<Vec<_>>()).prop_shuffle(),
        lens in proptest::collection::vec(0..=LONG.min(PAYLOAD_MAX), SLOTS),
        events in proptest::collection::vec(0..40usize, 0..8),
        cuts in proptest::collection::vec(1..700usize, 1..50),
    ) {
        let mut requests = Requests::new(7);
        let tickets: Vec<_> = (0..SLOTS)
            .map(|_| requests.begin(MessageType::READ).unwrap())
            .collect();
        prop_assert!(requests.begin(MessageType::READ).is_none());
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (n, index) in order.iter().enumerate() {
            let error = n % 5 == 4;
            let kind = if error { MessageType::ERROR } else { MessageType::READ };
            stream.extend(header(kind, tickets[*index].id(), 0, lens[*index] as u32));
            stream.extend(vec![*index as u8; lens[*index]]);
            expected.push(Complete { route: Route::Slot(*index), len: lens[*index] });
            if let Some(len) = events.get(n) {
                stream.extend(header(MessageType::WATCH_EVENT, 0, 0, *len as u32));
                stream.extend(vec![0xee; *len]);
                expected.push(Complete { route: Route::Event, len: *len });
            }
        }
        let mut receiver = Receiver::new();
        let mut bodies: Vec<Vec<u8>> = vec![Vec::new(); SLOTS];
        let (mut at, mut seen) = (0, Vec::new());
        let mut cuts = cuts.iter().cycle();
        while at < stream.len() {
            let cut = *cuts.next().unwrap();
            let count = match receiver.room() {
                Room::Header(into) => {
                    let count = into.len().min(cut);
                    into[..count].copy_from_slice(&stream[at..at + count]);
                    count
                }
                Room::Body { route, at: from, left } => {
                    let count = left.min(cut);
                    prop_assert!(count > 0);
                    if let Route::Slot(slot) = route {
                        prop_assert_eq!(bodies[slot].len(), from);
                        bodies[slot].extend(&stream[at..at + count]);
                    }
                    count
                }
            };
            at += count;
            seen.extend(receiver.filled(count, &mut requests).unwrap());
        }
        prop_assert_eq!(seen, expected);
        for (n, index) in order.iter().enumerate() {
            let done = requests.done(tickets[*index]).unwrap();
            prop_assert_eq!((done.len, done.error), (lens[*index], n % 5 == 4));
            prop_assert_eq!(&bodies[*index], &vec![*index as u8; lens[*index]]);
            requests.release(tickets[*index]);
            prop_assert!(requests.done(tickets[*index]).is_none());
        }
    }

    /// No header makes the book-keeping panic, loop or answer a request that was not asked.
    #[test]
    fn any_header_is_borne(bytes in proptest::array::uniform16(any::<u8>()), small in any::<bool>()) {
        let mut requests = Requests::new(1);
        let ticket = requests.begin(MessageType::READ).unwrap();
        let mut receiver = Receiver::new();
        let Room::Header(into) = receiver.room() else { panic!("another part of a message") };
        into.copy_from_slice(&bytes);
        if small {
            // Lengths that can be.
            into[14..].copy_from_slice(&[0, 0]);
        }
        let outcome = receiver.filled(HEADER, &mut requests);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        if word(4) != ticket.id() {
            prop_assert!(requests.done(ticket).is_none());
        }
        if let Ok(None) = outcome {
            let Room::Body { left, .. } = receiver.room() else { panic!("another part of a message") };
            prop_assert!(left <= PAYLOAD_MAX);
        }
    }

    /// No token fires a watch that is not set.
    #[test]
    fn any_token_is_borne(token in proptest::collection::vec(any::<u8>(), 0..20)) {
        let watches = Watches::new();
        let id = watches.begin().unwrap();
        watches.fire(&token);
        prop_assert_eq!(watches.is_fired(id), token == id.token().as_bytes());
    }
}

fn answer(
    receiver: &mut Receiver,
    requests: &mut Requests,
    kind: MessageType,
    id: u32,
    len: u32,
) -> Result<Option<Complete>, HostFault> {
    let Room::Header(into) = receiver.room() else {
        panic!("another part of a message")
    };
    into.copy_from_slice(&header(kind, id, 0, len));
    receiver.filled(HEADER, requests)
}

#[test]
fn answers_that_break_the_protocol_are_faults() {
    let mut requests = Requests::new(0);
    let ticket = requests.begin(MessageType::READ).unwrap();
    let ask = |requests: &mut Requests, kind, id, len| {
        answer(&mut Receiver::new(), requests, kind, id, len)
    };
    let id = ticket.id();
    assert_eq!(
        ask(&mut requests, MessageType::WRITE, id, 0),
        Err(HostFault::WrongOperation)
    );
    assert_eq!(
        ask(&mut requests, MessageType::READ, id, 4097),
        Err(HostFault::Length)
    );
    // To nobody: another generation of the same slot, and another slot.
    for stray in [id + 16 * 2, id + 1, 0, u32::MAX] {
        let nobody = Complete {
            route: Route::Nobody,
            len: 0,
        };
        assert_eq!(
            ask(&mut requests, MessageType::READ, stray, 0),
            Ok(Some(nobody))
        );
    }
    assert!(requests.done(ticket).is_none());
    assert!(
        ask(&mut requests, MessageType::READ, id, 0)
            .unwrap()
            .is_some()
    );
    assert!(requests.done(ticket).is_some());
    assert_eq!(
        ask(&mut requests, MessageType::READ, id, 0),
        Err(HostFault::UnknownId),
        "answered twice"
    );
}

#[test]
fn an_abandoned_slot_is_free_once_its_answer_has_come() {
    let mut requests = Requests::new(0);
    let tickets: Vec<_> = (0..SLOTS)
        .map(|_| requests.begin(MessageType::READ).unwrap())
        .collect();
    requests.release(tickets[3]);
    assert!(requests.begin(MessageType::READ).is_none());
    let id = tickets[3].id();
    assert!(
        answer(
            &mut Receiver::new(),
            &mut requests,
            MessageType::READ,
            id,
            0
        )
        .is_ok()
    );
    let again = requests.begin(MessageType::WRITE).unwrap();
    assert_eq!((again.slot(), again.id() == id), (3, false));
    // The old ticket has no power over the new request.
    requests.release(tickets[3]);
    requests.cancel(tickets[3]);
    assert!(requests.begin(MessageType::READ).is_none());
    requests.cancel(again);
    assert!(requests.begin(MessageType::READ).is_some());
}

#[test]
fn watches_have_an_end_and_generations() {
    let watches = Watches::new();
    let all: Vec<_> = std::iter::from_fn(|| watches.begin()).collect();
    assert_eq!(all.len(), WATCHES);
    let token = all[5].token();
    watches.end(all[5]);
    let again = watches.begin().unwrap();
    watches.fire(token.as_bytes());
    assert!(!watches.take(again) && !watches.take(all[5]));
    watches.fire(again.token().as_bytes());
    assert!(watches.take(again) && !watches.take(again));
}

#[test]
fn a_host_that_filled_the_ring_is_told_of_room() {
    let page = page();
    let (view, span) = (page.first(), page.span());
    indices(span, 0u32.wrapping_sub(5));
    let mut ring = Ring::new(view);
    let mut bytes: VecDeque<u8> = vec![1; 3000].into();
    host_give(span, &mut bytes, 1000);
    assert_eq!(ring.receive(view, &mut [0; 10]), Ok(10));
    assert!(!ring.take_was_full());
    host_give(span, &mut bytes, 1024);
    assert_eq!(ring.receive(view, &mut [0; 10]), Ok(10));
    assert!(ring.take_was_full());
    assert!(!ring.take_was_full());
}
