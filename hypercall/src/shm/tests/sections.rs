use super::*;
use crate::shm::Sections;
use std::vec::Vec;

fn sections(platform: &Platform, pages: usize, tickets: u16) -> Sections<Platform> {
    Sections::new(lent(platform, pages, None), tickets).unwrap()
}

#[test]
fn a_ticket_is_idle_again_when_its_last_section_is_dropped() {
    let platform = platform(8);
    let run = sections(&platform, 2, 70);
    assert_eq!(run.idle(), 70);
    let ticket = run.take_idle().unwrap();
    let first = ticket.open(0, 100).unwrap();
    let second = ticket.into_section(50, 100).unwrap();
    assert_eq!(run.idle(), 69);
    drop(first);
    assert_eq!(run.idle(), 69);
    drop(second);
    assert_eq!(run.idle(), 70);
}

#[test]
fn every_ticket_can_be_taken_once() {
    let platform = platform(8);
    let run = sections(&platform, 1, 65);
    let all: Vec<_> = core::iter::from_fn(|| run.take_idle()).collect();
    assert_eq!(all.len(), 65);
    assert!(
        all.iter()
            .enumerate()
            .all(|(i, t)| usize::from(t.index()) == i)
    );
    drop(all);
    assert_eq!(run.idle(), 65);
}

#[test]
fn no_section_leaves_the_run() {
    let platform = platform(8);
    let run = sections(&platform, 2, 1);
    let ticket = run.take_idle().unwrap();
    assert!(ticket.open(8192, 0).is_some());
    assert!(ticket.open(8192, 1).is_none());
    assert!(ticket.open(u32::MAX, u32::MAX).is_none());
    let ticket = ticket.into_section(8000, 200).unwrap_err();
    assert!(ticket.into_section(8000, 192).is_ok());
}

#[test]
fn bytes_go_in_and_out_and_are_counted() {
    let platform = platform(8);
    let run = sections(&platform, 2, 2);
    let mut section = run.take_idle().unwrap().into_section(4090, 20).unwrap();
    section.write_at(0, b"across the page end!").unwrap();
    assert!(section.write_at(1, &[0; 20]).is_err());
    section.advance(7);
    section.truncate(8);
    assert_eq!((section.offset(), section.len()), (4097, 8));
    let mut bytes = [0; 8];
    section.read_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"the page");
    assert_eq!(run.copied(), 28);
}

#[test]
fn a_run_comes_back_when_nothing_is_out() {
    let platform = platform(8);
    let run = sections(&platform, 2, 2);
    let ticket = run.take_idle().unwrap();
    let run = run.close().unwrap_err();
    let section = ticket.into_section(0, 1).unwrap();
    let run = run.close().unwrap_err();
    drop(section);
    assert_eq!(run.close().unwrap().count(), 2);
}

#[test]
fn a_section_outlives_a_run_that_was_dropped() {
    let platform = platform(8);
    let run = sections(&platform, 1, 1);
    let mut section = run.take_idle().unwrap().into_section(0, 4).unwrap();
    drop(run);
    section.write_at(0, &[1, 2, 3, 4]).unwrap();
}

#[test]
fn threads_may_drop_what_another_opened() {
    let platform = platform(8);
    let run = sections(&platform, 1, 3);
    for _ in 0..20 {
        let ticket = run.take_idle().unwrap();
        let other = ticket.open(0, 8).unwrap();
        let last = ticket.into_section(8, 8).unwrap();
        let thread = std::thread::spawn(move || drop(other));
        drop(last);
        thread.join().unwrap();
    }
    assert_eq!(run.idle(), 3);
    assert!(run.close().is_ok());
}
