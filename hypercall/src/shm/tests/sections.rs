use super::*;
use crate::shm::{Section, Sections, Tickets};
use core::num::NonZeroU64;
use std::vec;
use std::vec::Vec;

fn sections(platform: &Platform, pages: usize, blocks: u16) -> Sections<Platform> {
    Sections::new(lent(platform, pages, None), blocks).unwrap()
}

/// The notes of tickets that are settled.
fn settled(tickets: &mut Tickets) -> Vec<u64> {
    let mut notes = Vec::new();
    tickets.settle(|note| {
        notes.push(note);
        true
    });
    notes
}

/// A section with a note, if there are such bytes.
fn take(tickets: &mut Tickets, note: u64, offset: u32, len: u32) -> Option<Section> {
    let place = tickets.place(offset, len)?;
    tickets.take(note, place)
}

/// Holds a section under a word.
fn hold(tickets: &mut Tickets, section: Section, note: u64) -> Result<(), Section> {
    tickets.hold(section, |_, _| NonZeroU64::new(note))
}

fn any(tickets: &mut Tickets) -> Option<Section> {
    assert!(tickets.cut(0, 8));
    tickets.reserve(8)
}

#[test]
fn a_ticket_settles_when_its_last_section_is_dropped() {
    let platform = platform(8);
    let run = sections(&platform, 2, 2);
    let mut tickets = run.tickets(0, 70).unwrap();
    let many = tickets.take_many(7, 2).unwrap();
    let first = tickets.open(many, 0, 100).unwrap();
    let second = tickets.open(many, 50, 100).unwrap();
    assert!(tickets.open(many, 50, 100).is_none());
    let other = take(&mut tickets, 9, 4096, 60).unwrap();
    assert_eq!(tickets.out(), 2);
    assert_eq!(settled(&mut tickets), []);
    drop(first);
    assert_eq!(settled(&mut tickets), []);
    drop(other);
    // Whoever cannot use a note now is told of it again.
    let mut told = Vec::new();
    tickets.settle(|note| {
        told.push(note);
        false
    });
    assert_eq!((told, settled(&mut tickets)), (vec![9], vec![9]));
    assert_eq!(settled(&mut tickets), []);
    drop(second);
    assert_eq!(settled(&mut tickets), [7]);
    assert_eq!(settled(&mut tickets), []);
    assert_eq!((tickets.out(), tickets.noted()), (0, 0));
}

#[test]
fn a_ticket_with_a_note_is_not_used_again() {
    let platform = platform(8);
    let run = sections(&platform, 1, 1);
    let mut tickets = run.tickets(0, 2).unwrap();
    drop(take(&mut tickets, 1, 0, 8).unwrap());
    drop(take(&mut tickets, 2, 0, 8).unwrap());
    assert!(take(&mut tickets, 3, 0, 8).is_none());
    let mut told = 0;
    tickets.settle(|note| {
        told += 1;
        note == 1
    });
    assert_eq!(told, 2);
    let third = take(&mut tickets, 3, 0, 8).unwrap();
    assert!(take(&mut tickets, 4, 0, 8).is_none());
    assert_eq!(settled(&mut tickets), [2]);
    drop(third);
    assert_eq!(settled(&mut tickets), [3]);
}

#[test]
fn every_ticket_can_be_had_once() {
    let platform = platform(8);
    let run = sections(&platform, 1, 3);
    let mut tickets = run.tickets(1, 65).unwrap();
    let all: Vec<_> = core::iter::from_fn(|| any(&mut tickets)).collect();
    assert_eq!(all.len(), 65);
    for (i, section) in all.iter().enumerate() {
        assert_eq!(tickets.index(section), Some(i as u16));
    }
    assert_eq!(tickets.out(), 65);
    drop(all);
    assert_eq!(tickets.out(), 0);
    let again: Vec<_> = core::iter::from_fn(|| any(&mut tickets)).collect();
    assert_eq!(again.len(), 65);
}

#[test]
fn owners_do_not_share_blocks() {
    let platform = platform(8);
    let run = sections(&platform, 1, 3);
    let mut first = run.tickets(0, 64).unwrap();
    assert!(run.tickets(0, 1).is_none());
    assert!(run.tickets(2, 65).is_none());
    assert!(run.tickets(3, 1).is_none());
    assert!(run.tickets(1, 0).is_none());
    let mut second = run.tickets(1, 128).unwrap();
    let (a, b) = (any(&mut first).unwrap(), any(&mut second).unwrap());
    assert_eq!((second.index(&a), first.index(&b)), (None, None));
    let a = hold(&mut second, a, 1).unwrap_err();
    assert!(hold(&mut first, a, 1).is_ok());
    drop(first);
    // What it held went with it; what is open stays counted.
    assert!(run.tickets(1, 1).is_none());
    assert_eq!(run.tickets(0, 64).unwrap().out(), 0);
    drop(second);
    assert_eq!(run.tickets(1, 64).unwrap().out(), 1);
    drop(b);
    assert!(run.close().is_ok());
}

#[test]
fn what_is_held_is_released_by_its_note_and_once() {
    let platform = platform(8);
    let run = sections(&platform, 1, 2);
    let mut tickets = run.tickets(0, 128).unwrap();
    let mut held = Vec::new();
    for note in 1..=128 {
        let section = any(&mut tickets).unwrap();
        held.push(tickets.index(&section).unwrap());
        hold(&mut tickets, section, note).unwrap();
    }
    assert!(any(&mut tickets).is_none());
    for (index, note) in held.iter().zip(1..) {
        assert!(!tickets.release((*index).into(), note + 1));
        assert!(tickets.release((*index).into(), note));
        assert!(!tickets.release((*index).into(), note));
    }
    for index in [128, 1 << 16, u32::MAX] {
        assert!(!tickets.release(index, 0) && !tickets.release(index, 1));
    }
    assert_eq!(tickets.out(), 0);
    // One that the caller has is not the host's to release.
    let section = any(&mut tickets).unwrap();
    let index = tickets.index(&section).unwrap();
    assert!((0..200).all(|note| !tickets.release(index.into(), note)));
}

#[test]
fn no_section_leaves_the_run() {
    let platform = platform(8);
    let run = sections(&platform, 2, 1);
    let mut tickets = run.tickets(0, 1).unwrap();
    assert!(take(&mut tickets, 0, 8192, 1).is_none());
    assert!(take(&mut tickets, 0, u32::MAX, u32::MAX).is_none());
    for (origin, size) in [(8000, 193), (u32::MAX, u32::MAX), (0, 8193)] {
        assert!(!tickets.cut(origin, size) && tickets.reserve(1).is_none());
    }
    assert!(tickets.cut(8000, 192) && tickets.reserve(193).is_none());
    let many = tickets.take_many(0, 2).unwrap();
    assert!(tickets.open(many, 8191, 2).is_none());
    assert!(tickets.open(many, 8192, 0).is_some());
    assert!(tickets.open(many, 8000, 192).is_some());
    assert!(tickets.open(many + 1, 0, 1).is_none());
}

#[test]
fn bytes_go_in_and_out_and_are_counted() {
    let platform = platform(8);
    let run = sections(&platform, 2, 2);
    let mut tickets = run.tickets(1, 2).unwrap();
    assert!(tickets.cut(4090, 21));
    let mut section = tickets.reserve(20).unwrap();
    section.write_at(0, b"across the page end!").unwrap();
    assert!(section.write_at(1, &[0; 20]).is_err());
    assert!(section.is_uncut());
    section.advance(0);
    assert!(section.is_uncut());
    section.advance(7);
    assert!(!section.is_uncut());
    section.truncate(8);
    assert_eq!((section.offset(), section.len()), (4097, 8));
    let mut bytes = [0; 8];
    section.read_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"the page");
    // A view is for headers, which are no copies.
    assert_eq!(section.span().load_u8(4), Ok(b'p'));
    let place = tickets.place(4097, 3).unwrap();
    let view = tickets.view(place).unwrap();
    assert_eq!((view.load_u8(0), view.len()), (Ok(b't'), 3));
    assert_eq!((tickets.copied(), run.copied()), (28, 28));
}

#[test]
fn a_run_comes_back_when_nothing_is_out() {
    let platform = platform(8);
    let run = sections(&platform, 2, 2);
    let mut tickets = run.tickets(0, 2).unwrap();
    let run = run.close().unwrap_err();
    let section = any(&mut tickets).unwrap();
    drop(tickets);
    let run = run.close().unwrap_err();
    drop(section);
    assert_eq!(run.close().unwrap().count(), 2);
}

#[test]
fn sections_and_tickets_outlive_a_run_that_was_dropped() {
    let platform = platform(8);
    let run = sections(&platform, 1, 1);
    let mut tickets = run.tickets(0, 2).unwrap();
    drop(run);
    let mut section = any(&mut tickets).unwrap();
    let held = any(&mut tickets).unwrap();
    hold(&mut tickets, held, 3).unwrap();
    drop(tickets);
    section.write_at(0, &[1, 2, 3, 4]).unwrap();
}

#[test]
fn threads_may_drop_what_another_opened() {
    let platform = platform(8);
    let run = sections(&platform, 1, 1);
    let mut tickets = run.tickets(0, 3).unwrap();
    for round in 0..20 {
        let many = tickets.take_many(round, 2).unwrap();
        let other = tickets.open(many, 0, 8).unwrap();
        let last = tickets.open(many, 8, 8).unwrap();
        let thread = std::thread::spawn(move || drop(other));
        drop(last);
        thread.join().unwrap();
        assert_eq!(settled(&mut tickets), [round]);
    }
    // The owner, too, may move, and be the last to go.
    let section = any(&mut tickets).unwrap();
    let thread = std::thread::spawn(move || drop(tickets));
    drop(section);
    thread.join().unwrap();
    assert!(run.close().is_ok());
}

#[test]
fn a_place_is_inside_its_run() {
    let platform = platform(8);
    let (run, other) = (sections(&platform, 1, 1), sections(&platform, 1, 1));
    let (mut tickets, mut others) = (run.tickets(0, 2).unwrap(), other.tickets(0, 2).unwrap());
    for (offset, len) in [(4097, 0), (4096, 1), (0, 4097), (u32::MAX, u32::MAX)] {
        assert!(tickets.place(offset, len).is_none());
    }
    let place = tickets.place(1000, 96).unwrap();
    for (offset, len) in [(97, 0), (96, 1), (u64::MAX, 1), (1 << 32, 1), (1, u32::MAX)] {
        assert!(place.part(offset, len).is_none());
    }
    let part = place.part(6, 90).unwrap();
    assert!(part.len() == 90 && place.part(96, 0).unwrap().is_empty());
    // Another run's place is none here.
    assert!(others.view(part).is_none() && others.take(1, part).is_none());
    assert_eq!(others.out(), 0);
    let section = tickets.take(1, part).unwrap();
    assert_eq!((section.offset(), section.len()), (1006, 90));
}

#[test]
fn a_section_without_a_word_comes_back() {
    let platform = platform(8);
    let run = sections(&platform, 1, 1);
    let mut tickets = run.tickets(0, 2).unwrap();
    let section = any(&mut tickets).unwrap();
    let index = tickets.index(&section).unwrap();
    let mut asked = None;
    let refused = tickets.hold(section, |index, section| {
        asked = Some((index, section.len()));
        None
    });
    assert_eq!(asked, Some((index, 8)));
    assert!(!tickets.release(index.into(), 0));
    drop(refused.unwrap_err());
    assert_eq!(tickets.out(), 0);
}

#[test]
fn one_of_many_sections_is_not_held() {
    let platform = platform(8);
    let run = sections(&platform, 1, 1);
    let mut tickets = run.tickets(0, 2).unwrap();
    let many = tickets.take_many(5, 2).unwrap();
    let (one, two) = (
        tickets.open(many, 0, 8).unwrap(),
        tickets.open(many, 8, 8).unwrap(),
    );
    let one = hold(&mut tickets, one, 6).unwrap_err();
    assert!(!tickets.release(many.into(), 5) && !tickets.release(many.into(), 6));
    drop(two);
    assert_eq!(settled(&mut tickets), []);
    drop(one);
    assert_eq!(settled(&mut tickets), [5]);
    // One that is held cannot be opened again.
    let section = any(&mut tickets).unwrap();
    let index = tickets.index(&section).unwrap();
    hold(&mut tickets, section, 9).unwrap();
    assert!(tickets.open(index, 0, 8).is_none() && !tickets.skip(index));
    assert!(tickets.release(index.into(), 9));
}
