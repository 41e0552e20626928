use super::{lent, platform, pool};
use crate::shm::{
    AppendError, Boxed, Buf, InPage, Joint, OutOfSpan, PAGE_SIZE, Piece, PoolError, Segment, Shared,
};
use core::sync::atomic::{AtomicU32, Ordering};
use std::vec;
use std::vec::Vec;

fn bytes(buf: &Buf) -> Vec<u8> {
    let mut bytes = vec![0; buf.len()];
    buf.read_at(0, &mut bytes).unwrap();
    bytes
}

fn segments(buf: &Buf) -> Vec<(u64, u16, u16)> {
    buf.segments()
        .map(|Segment { token, offset, len }| (token, offset, len))
        .collect()
}

#[test]
fn buffers_take_pages_and_give_them_back() {
    let platform = platform(64);
    let pool = pool(&platform, 5);
    assert_eq!((pool.pages(), pool.free_pages()), (5, 5));
    let one = pool.alloc(1).unwrap();
    let empty = pool.alloc(0).unwrap();
    assert!(empty.is_empty() && empty.pages() == 1);
    assert_eq!(segments(&empty), []);
    let two = pool.alloc(PAGE_SIZE + 1).unwrap();
    assert_eq!((two.len(), two.pages()), (PAGE_SIZE + 1, 2));
    assert_eq!(pool.free_pages(), 1);
    assert!(pool.alloc(PAGE_SIZE + 1).is_none());
    // A failed allocation keeps nothing.
    assert_eq!(pool.free_pages(), 1);
    let last = pool.alloc(PAGE_SIZE).unwrap();
    assert!(pool.alloc(0).is_none());
    assert!(pool.alloc(6 * PAGE_SIZE).is_none() && pool.alloc(usize::MAX).is_none());
    let mut tokens: Vec<_> = [&one, &two, &last]
        .iter()
        .flat_map(|buf| segments(buf))
        .map(|s| s.0)
        .collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 4);
    assert!(tokens.iter().all(|t| (100..105).contains(t)));
    drop((one, two, empty, last));
    assert_eq!(pool.free_pages(), 5);
}

#[test]
fn bytes_come_back_as_they_went_in() {
    let platform = platform(64);
    let pool = pool(&platform, 4);
    let mut buf = pool.alloc(3 * PAGE_SIZE - 7).unwrap();
    let pattern: Vec<u8> = (0..buf.len()).map(|i| (i * 7 % 251) as u8).collect();
    buf.write_at(0, &pattern).unwrap();
    assert_eq!(bytes(&buf), pattern);
    // Across a page's end.
    let mut some = [0; 10];
    buf.read_at(PAGE_SIZE - 5, &mut some).unwrap();
    assert_eq!(some, pattern[PAGE_SIZE - 5..PAGE_SIZE + 5]);
    buf.write_at(2 * PAGE_SIZE - 1, b"xyz").unwrap();
    assert_eq!(&bytes(&buf)[2 * PAGE_SIZE - 1..2 * PAGE_SIZE + 2], b"xyz");
    // At and beyond the end.
    assert_eq!(buf.read_at(buf.len() - 1, &mut some[..1]), Ok(()));
    assert_eq!(buf.read_at(buf.len(), &mut []), Ok(()));
    assert_eq!(buf.read_at(buf.len(), &mut some[..1]), Err(OutOfSpan));
    assert_eq!(buf.write_at(buf.len() - 2, b"xyz"), Err(OutOfSpan));
    assert_eq!(buf.write_at(usize::MAX, b"x"), Err(OutOfSpan));
    buf.fill(0x5a);
    assert!(bytes(&buf).iter().all(|b| *b == 0x5a));
    assert!(pool.copied() > 4 * PAGE_SIZE as u64);
}

#[test]
fn truncating_and_advancing_keep_the_pages() {
    let platform = platform(64);
    let pool = pool(&platform, 4);
    let mut buf = pool.alloc(3 * PAGE_SIZE).unwrap();
    let pattern: Vec<u8> = (0..buf.len()).map(|i| (i / 16 % 255) as u8).collect();
    buf.write_at(0, &pattern).unwrap();
    buf.advance(PAGE_SIZE + 100);
    assert_eq!(buf.len(), 2 * PAGE_SIZE - 100);
    assert_eq!(bytes(&buf), pattern[PAGE_SIZE + 100..]);
    assert_eq!(
        segments(&buf).len(),
        2,
        "the piece without bytes is passed over"
    );
    assert_eq!(segments(&buf)[0].1, 100);
    buf.truncate(PAGE_SIZE);
    assert_eq!(bytes(&buf), pattern[PAGE_SIZE + 100..2 * PAGE_SIZE + 100]);
    buf.truncate(usize::MAX);
    assert_eq!((buf.len(), buf.pages()), (PAGE_SIZE, 3));
    buf.truncate(3);
    assert_eq!(bytes(&buf), pattern[PAGE_SIZE + 100..PAGE_SIZE + 103]);
    buf.advance(2);
    assert_eq!(buf.len(), 1);
    buf.advance(usize::MAX);
    assert!(buf.is_empty() && segments(&buf).is_empty());
    buf.advance(1);
    buf.truncate(0);
    assert_eq!(buf.read_at(0, &mut [0]), Err(OutOfSpan));
    assert_eq!(pool.free_pages(), 1);
    drop(buf);
    assert_eq!(pool.free_pages(), 4);
}

#[test]
fn joined_buffers_are_one() {
    let platform = platform(64);
    let pool = pool(&platform, 6);
    let mut whole = pool.alloc(10).unwrap();
    whole.write_at(0, b"0123456789").unwrap();
    let mut more = pool.alloc(PAGE_SIZE + 4).unwrap();
    more.fill(b'm');
    let mut cut = pool.alloc(8).unwrap();
    cut.write_at(0, b"abcdefgh").unwrap();
    cut.advance(3);
    whole.append(more).unwrap();
    whole.append(cut).unwrap();
    whole.append(pool.alloc(0).unwrap()).unwrap();
    assert_eq!((whole.len(), whole.pages()), (10 + PAGE_SIZE + 4 + 5, 5));
    let all = bytes(&whole);
    assert_eq!(&all[..11], b"0123456789m");
    assert_eq!(&all[all.len() - 6..], b"mdefgh");
    // To the joint, over it, and from it.
    let mut some = [0; 4];
    whole.read_at(8, &mut some).unwrap();
    assert_eq!(&some, b"89mm");
    whole.write_at(9, b"XY").unwrap();
    whole.read_at(8, &mut some).unwrap();
    assert_eq!(&some, b"8XYm");
    whole.advance(10 + PAGE_SIZE + 4);
    assert_eq!(bytes(&whole), b"defgh");
    assert_eq!(pool.free_pages(), 1);
    drop(whole);
    assert_eq!(pool.free_pages(), 6);
}

#[test]
fn another_pools_buffer_is_refused_and_given_back() {
    let platform = platform(64);
    let (one, two) = (pool(&platform, 2), pool(&platform, 2));
    let mut buf = one.alloc(5).unwrap();
    let (why, back) = buf.append(two.alloc(6).unwrap()).unwrap_err();
    assert_eq!((why, back.len(), buf.len()), (AppendError::OtherPool, 6, 5));
    drop(buf);
    drop(back);
    assert_eq!((one.free_pages(), two.free_pages()), (2, 2));
}

#[test]
fn a_pool_closes_when_its_buffers_are_back() {
    let platform = platform(64);
    let pool = pool(&platform, 3);
    let used = platform.ram().used_pages();
    let buf = pool.alloc(1).unwrap();
    let pool = pool.close().expect_err("a buffer is out");
    drop(buf);
    let loan = pool.close().expect("all are back");
    assert_eq!(loan.count(), 3);
    assert!(
        platform.ram().used_pages() < used,
        "the pool's own pages are free"
    );
    drop(loan.into_pages());
    assert_eq!(platform.ram().used_pages(), 0);
}

#[test]
fn buffers_outlive_their_pool() {
    let platform = platform(64);
    let pool = pool(&platform, 3);
    let used = platform.ram().used_pages();
    let mut early = pool.alloc(1).unwrap();
    let mut late = pool.alloc(PAGE_SIZE * 2).unwrap();
    drop(pool);
    early.write_at(0, b"!").unwrap();
    assert_eq!(bytes(&early), b"!");
    late.append(early).unwrap();
    late.fill(1);
    assert_eq!(segments(&late).len(), 3);
    drop(late);
    assert_eq!(platform.ram().used_pages(), used, "who would free them?");
}

#[test]
fn of_a_pool_dropped_unclosed_only_the_loan_is_leaked() {
    let platform = platform(64);
    let pool = pool(&platform, 3);
    drop(pool.alloc(PAGE_SIZE * 2));
    drop(pool);
    assert_eq!(
        platform.ram().used_pages(),
        3,
        "nobody knows whether the host let go"
    );
}

#[test]
fn the_loan_comes_back_when_there_is_no_pool_to_be_made() {
    let platform = platform(3);
    let loan = lent(&platform, 3, Some(9));
    let Err((why, loan)) = crate::shm::Pool::new(loan) else {
        panic!("there are no pages for its records");
    };
    assert_eq!((why, loan.count()), (PoolError::OutOfPages, 3));
    drop(loan.into_pages());
    assert_eq!(platform.ram().used_pages(), 0);
}

#[test]
fn more_than_a_word_of_pages() {
    let platform = platform(200);
    let pool = pool(&platform, 130);
    let all: Vec<_> = (0..130).map(|_| pool.alloc(1).unwrap()).collect();
    assert!(pool.alloc(1).is_none());
    let mut tokens: Vec<_> = all.iter().map(|b| segments(b)[0].0).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (100..230).collect::<Vec<_>>());
    drop(all);
    assert_eq!(pool.free_pages(), 130);
    let whole = pool.alloc(130 * PAGE_SIZE).unwrap();
    assert_eq!(whole.pages(), 130);
}

#[test]
fn rows_of_pages_are_taken_around_those_that_are_not_free() {
    let platform = platform(80);
    let pool = pool(&platform, 70);
    // Free are 0, 2 to 4, 62 to 65, and 69.
    let free = [0, 2, 3, 4, 62, 63, 64, 65, 69];
    let mut all: Vec<_> = (0..70).map(|_| pool.alloc(1)).collect();
    for page in free {
        all[page] = None;
    }
    assert!(pool.alloc(9 * PAGE_SIZE + 1).is_none());
    assert_eq!(pool.free_pages(), 9);
    for len in [2 * PAGE_SIZE, 9 * PAGE_SIZE, 8 * PAGE_SIZE + 1] {
        let mut buf = pool.alloc(len).unwrap();
        assert_eq!((buf.len(), buf.pages()), (len, len.div_ceil(PAGE_SIZE)));
        let starts = || (0..len).step_by(PAGE_SIZE).zip(1u8..);
        for (at, page) in starts() {
            buf.write_at(at, &[page]).unwrap();
        }
        for (at, page) in starts() {
            let mut byte = [0];
            buf.read_at(at, &mut byte).unwrap();
            assert_eq!(byte, [page]);
        }
        let mut tokens: Vec<_> = segments(&buf).iter().map(|s| s.0).collect();
        assert_eq!(buf.one_range().collect::<Vec<_>>(), tokens);
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), buf.pages());
        assert!(tokens.iter().all(|t| free.contains(&(*t as usize - 100))));
        drop(buf);
        assert_eq!(pool.free_pages(), 9);
    }
    drop(all);
    assert_eq!(pool.free_pages(), 70);
    assert!(pool.close().is_ok());
}

#[test]
fn a_range_ends_at_the_first_gap() {
    let platform = platform(64);
    let pool = pool(&platform, 4);
    let places = [(0u16, 4096u16), (10, 4086), (0, 100), (10, 20), (7, 0)];
    let page = |(offset, len): (u16, u16)| {
        let mut buf = pool.alloc(PAGE_SIZE).unwrap();
        buf.advance(offset.into());
        buf.truncate(len.into());
        buf
    };
    let all = places.iter().flat_map(|a| {
        let two = places.iter().map(move |b| (a, b));
        two.flat_map(|(a, b)| places.iter().map(move |c| [*a, *b, *c]))
    });
    for three in all {
        let mut buf = page(three[0]);
        buf.append(page(three[1])).unwrap();
        buf.append(page(three[2])).unwrap();
        // As it is defined, of the pieces that are there.
        let pieces = segments(&buf);
        let follows = |i: usize| {
            let (_, offset, len) = pieces[i - 1];
            offset + len == 4096 && pieces[i].1 == 0
        };
        let gap = (1..pieces.len()).find(|i| !follows(*i));
        let range: Vec<_> = pieces.iter().map(|s| s.0).collect();
        let mut found = buf.one_range();
        let tokens: Vec<_> = found.by_ref().collect();
        assert_eq!(tokens, range[..gap.unwrap_or(range.len())], "{three:?}");
        assert_eq!(found.next(), None);
    }
}

#[test]
fn threads_share_a_pool() {
    let platform = platform(100);
    let pool = pool(&platform, 70);
    let rounds = if cfg!(miri) { 2 } else { 2000 };
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..rounds {
                    let len = 1 + (round * 977 + usize::from(thread) * 4099) % (5 * PAGE_SIZE);
                    let len = if cfg!(miri) { len % 64 } else { len };
                    let Some(mut buf) = pool.alloc(len) else {
                        continue;
                    };
                    buf.fill(thread);
                    assert!(
                        bytes(&buf).iter().all(|b| *b == thread),
                        "nobody else's page"
                    );
                }
            });
        }
    });
    assert_eq!(pool.free_pages(), 70);
    assert!(pool.close().is_ok());
}

#[test]
fn buffers_cross_threads() {
    let platform = platform(20);
    let pool = pool(&platform, 4);
    let mut buf = pool.alloc(100).unwrap();
    let pool = std::thread::spawn(move || {
        buf.fill(9);
        drop(pool);
        buf
    })
    .join()
    .unwrap();
    assert_eq!(bytes(&pool), [9; 100]);
}

#[test]
fn a_boxed_value_lives_in_pages_and_is_dropped_once() {
    let platform = platform(8);
    let pool = pool(&platform, 1);
    let before = platform.ram().used_pages();
    let mut table = Boxed::new(&platform, [const { None::<Buf> }; 600]).unwrap();
    assert_eq!(platform.ram().used_pages(), before + 2);
    table[599] = pool.alloc(10);
    assert_eq!(
        (table[599].as_ref().map(Buf::len), pool.free_pages()),
        (Some(10), 0)
    );
    drop(table);
    assert_eq!(
        (pool.free_pages(), platform.ram().used_pages()),
        (1, before)
    );
    assert!(Boxed::new(&platform, [0u8; 7 * PAGE_SIZE]).is_err());
    assert_eq!(*Boxed::new(&platform, ()).unwrap(), ());
}

#[test]
fn a_shared_value_goes_with_its_last_owner() {
    let platform = platform(8);
    let pool = pool(&platform, 1);
    let before = platform.ram().used_pages();
    let shared = Shared::new(&platform, (AtomicU32::new(7), pool.alloc(10))).unwrap();
    assert_eq!(platform.ram().used_pages(), before + 1);
    let other = shared.clone();
    let thread = std::thread::spawn(move || other.0.store(8, Ordering::Relaxed));
    thread.join().unwrap();
    assert_eq!(shared.0.load(Ordering::Relaxed), 8);
    let last = shared.clone();
    drop(shared);
    assert_eq!((last.0.load(Ordering::Relaxed), pool.free_pages()), (8, 0));
    drop(last);
    assert_eq!(
        (pool.free_pages(), platform.ram().used_pages()),
        (1, before)
    );
    assert!(Shared::new(&platform, [0u8; 7 * PAGE_SIZE]).is_err());
}

#[test]
fn a_stock_draws_many_pages_and_gives_back_the_rest() {
    let platform = platform(200);
    let pool = pool(&platform, 130);
    let held = pool.alloc(3 * PAGE_SIZE).unwrap();
    let mut stock = pool.stock();
    assert!(stock.is_empty() && pool.free_pages() == 127);
    let first = stock.page().unwrap();
    assert_eq!(stock.len() + 1 + pool.free_pages(), 127);
    let mut bufs = vec![first];
    bufs.extend(std::iter::from_fn(|| stock.page()));
    assert_eq!((bufs.len(), stock.len(), pool.free_pages()), (127, 0, 0));
    let mut tokens: Vec<_> = bufs.iter().map(|page| page.token()).collect();
    tokens.extend(segments(&held).iter().map(|s| s.0));
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 130);
    bufs.truncate(50);
    let again = stock.page().unwrap();
    drop((stock, bufs));
    assert_eq!(pool.free_pages(), 126);
    let pool = pool.close().unwrap_err();
    drop((again, held));
    assert_eq!(pool.free_pages(), 130);
    let mut stock = pool.stock();
    let page = stock.page();
    let pool = pool.close().unwrap_err();
    drop((page, stock));
    assert!(pool.close().is_ok());
}

#[test]
fn bytes_in_a_page_are_no_more_than_it_holds() {
    for (bytes, here) in [(0, 0), (1, 1), (4095, 4095), (4096, 4096), (4097, 4096)] {
        assert_eq!(InPage::clamped(bytes).get(), here);
    }
    assert_eq!(InPage::clamped(usize::MAX), InPage::WHOLE);
    let most = InPage::clamped(1514);
    let some = |bytes| InPage::some(bytes, most).map(InPage::get);
    assert_eq!([some(1), some(1514)], [Some(1), Some(1514)]);
    assert_eq!([some(0), some(1515), some(usize::MAX)], [None; 3]);
    assert_eq!(InPage::some(1, InPage::default()), None);
    assert_eq!(InPage::some(1 << 16 | 9, InPage::WHOLE), None);
}

#[test]
fn a_piece_is_some_bytes_of_a_page() {
    let platform = platform(64);
    let (pool, other) = (pool(&platform, 3), super::pool(&platform, 1));
    let page = pool.stock().page().unwrap();
    let token = page.token();
    let page = Piece::new(page, 4000, 97).unwrap_err();
    let page = Piece::new(page, u16::MAX, 2).unwrap_err();
    let page = Piece::new(page, u16::MAX, u16::MAX).unwrap_err();
    let mut piece = Piece::new(page, 4000, 96).unwrap();
    assert!(piece.pool() == pool.id() && piece.pool() != other.id());
    assert!(!piece.is_empty());
    assert_eq!(
        (piece.token(), piece.offset(), piece.len()),
        (token, 4000, 96)
    );
    piece.write_at(88, b"at the end").unwrap_err();
    piece.write_at(86, b"at the end").unwrap();
    let mut end = [0; 10];
    piece.read_at(87, &mut end).unwrap_err();
    piece.read_at(86, &mut end).unwrap();
    assert_eq!((&end, pool.copied()), (b"at the end", 20));
    assert_eq!(piece.span().load_u8(86), Ok(b'a'));
    piece.truncate(97);
    piece.truncate(usize::MAX);
    assert_eq!(piece.len(), 96);
    piece.truncate(88);
    // As a buffer it is the same bytes.
    let buf = Buf::from(piece);
    assert_eq!((buf.len(), segments(&buf)), (88, vec![(token, 4000, 88)]));
    assert_eq!(bytes(&buf)[86..], *b"at");
    let piece = buf.into_pieces().next().unwrap();
    assert_eq!((piece.offset(), piece.len()), (4000, 88));
    let piece = Piece::start(piece.into_page(), InPage::clamped(3));
    assert_eq!((piece.token(), piece.offset(), piece.len()), (token, 0, 3));
    assert_eq!(pool.free_pages(), 2);
    drop(piece);
    assert_eq!(pool.free_pages(), 3);
}

#[test]
fn a_buffer_is_taken_apart_and_put_together() {
    let platform = platform(64);
    let (pool, other) = (pool(&platform, 6), super::pool(&platform, 1));
    let mut buf = pool.alloc(3 * PAGE_SIZE - 7).unwrap();
    let pattern: Vec<u8> = (0..buf.len()).map(|i| (i * 7 % 251) as u8).collect();
    buf.write_at(0, &pattern).unwrap();
    buf.advance(PAGE_SIZE + 10);
    let mut joint = Joint::new();
    assert!(Joint::new().finish().is_none());
    for (piece, place) in buf.into_pieces().zip([(4096, 0), (10, 4086), (0, 4089)]) {
        assert_eq!((piece.offset(), piece.len()), place);
        joint.push(piece).unwrap();
    }
    let foreign = other.alloc(1).unwrap().into_pieces().next().unwrap();
    let (why, foreign) = joint.push(foreign).unwrap_err();
    assert_eq!((why, foreign.len()), (AppendError::OtherPool, 1));
    let mut again = joint.finish().unwrap();
    assert_eq!((again.pages(), pool.free_pages()), (3, 3));
    assert_eq!(bytes(&again), pattern[PAGE_SIZE + 10..]);
    again.append(pool.alloc(5).unwrap()).unwrap();
    assert_eq!((again.pages(), again.len()), (4, 2 * PAGE_SIZE - 17 + 5));
    // What is not taken goes back.
    let mut pieces = again.into_pieces();
    let first = pieces.next().unwrap();
    drop(pieces);
    assert_eq!(pool.free_pages(), 5);
    drop(first);
    let mut joint = Joint::new();
    let more = pool.alloc(2 * PAGE_SIZE).unwrap();
    more.into_pieces()
        .for_each(|piece| joint.push(piece).unwrap());
    drop(joint);
    assert_eq!(pool.free_pages(), 6);
}
