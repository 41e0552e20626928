use super::{platform, pool};
use crate::shm::{PAGE_SIZE, Withdrawn};
use std::vec;
use std::vec::Vec;

#[test]
fn withdrawn_pages_are_borrowed_and_lent_again() {
    let platform = platform(80);
    let pool = pool(&platform, 70);
    let mut buf = pool.alloc(2 * PAGE_SIZE + 3).unwrap();
    buf.advance(PAGE_SIZE - 2);
    buf.fill(b'x');
    let mut memory = Withdrawn::new(buf);
    let lens: Vec<_> = memory.pieces().map(<[u8]>::len).collect();
    assert_eq!((memory.len(), lens), (PAGE_SIZE + 5, vec![2, PAGE_SIZE, 3]));
    assert!(memory.as_slice().is_none() && memory.pool() == pool.id());
    // All pieces at once, and changed.
    let mut pieces: Vec<&mut [u8]> = memory.pieces_mut().collect();
    pieces.iter_mut().for_each(|piece| piece.fill(b'y'));
    assert!(memory.pieces().flatten().all(|byte| *byte == b'y'));
    let one = Withdrawn::new(pool.alloc(9).unwrap());
    assert_eq!(one.as_slice().map(<[u8]>::len), Some(9));
    let empty = Withdrawn::new(pool.alloc(0).unwrap());
    assert_eq!((empty.as_slice(), empty.is_empty()), (Some(&[][..]), true));
    assert_eq!((pool.free_pages(), pool.returned_pages()), (65, 0));
    let pool = pool.close().unwrap_err();
    drop((memory, one, empty));
    assert_eq!((pool.free_pages(), pool.returned_pages()), (65, 5));
    // Nobody gets them before they are lent again.
    let all: Vec<_> = core::iter::from_fn(|| pool.alloc(1)).collect();
    assert_eq!(all.len(), 65);
    let mut seen = Vec::new();
    let lent = pool.lend_returned(|page| {
        seen.push(page);
        seen.len() < 3
    });
    assert_eq!((lent, pool.free_pages(), pool.returned_pages()), (2, 2, 3));
    assert_eq!(pool.lend_returned(|_| true), 3);
    assert_eq!(pool.lend_returned(|_| true), 0);
    assert_eq!((pool.free_pages(), pool.returned_pages()), (5, 0));
    drop(all);
    // A pool closes while pages wait to be lent again: its run is taken back as a whole.
    drop(Withdrawn::new(pool.alloc(1).unwrap()));
    assert_eq!((pool.free_pages(), pool.returned_pages()), (69, 1));
    assert!(pool.close().is_ok());
}

#[test]
fn withdrawn_pages_come_back_from_other_threads() {
    let platform = platform(80);
    let pool = pool(&platform, 66);
    let rounds = if cfg!(miri) { 3 } else { 1000 };
    std::thread::scope(|scope| {
        for thread in 0..3u8 {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..rounds {
                    let Some(buf) = pool.alloc(5) else { continue };
                    let mut memory = Withdrawn::new(buf);
                    memory.pieces_mut().for_each(|piece| piece.fill(thread));
                    let bytes = memory.as_slice().unwrap();
                    assert_eq!(bytes, [thread; 5]);
                }
            });
        }
        for _ in 0..rounds {
            pool.lend_returned(|_| true);
        }
    });
    pool.lend_returned(|_| true);
    assert_eq!((pool.free_pages(), pool.returned_pages()), (66, 0));
}
