use super::{lent, platform};
use crate::platform::Platform as _;
use crate::shm::{HostPage, OutOfPages, OutOfSpan, PAGE_SIZE, Pages};
use std::vec;
use std::vec::Vec;

#[test]
fn runs_are_zeroed_named_and_given_back() {
    let platform = platform(8);
    let run = Pages::alloc(&platform, 3).unwrap();
    assert_eq!((run.count(), run.span().len()), (3, 3 * PAGE_SIZE));
    assert_eq!(
        (run.gfn(0), run.gfn(2), run.gfn(3)),
        (Some(0x40), Some(0x42), None)
    );
    assert_eq!(run.first_gfn(), 0x40);
    assert!(run.page(3).is_none());
    let mut bytes = vec![1; 3 * PAGE_SIZE];
    run.span().copy_out(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|b| *b == 0));
    run.span().fill(0xff);
    drop(run);
    assert_eq!(platform.ram().used_pages(), 0);
    // What is allocated again is zeroed again.
    let run = Pages::alloc(&platform, 8).unwrap();
    assert_eq!(run.page(1).unwrap().load_u32::<8>(), 0);
    assert!(matches!(Pages::alloc(&platform, 1), Err(OutOfPages)));
    assert!(matches!(Pages::alloc(&platform, 0), Err(OutOfPages)));
    assert!(matches!(
        Pages::alloc(&platform, usize::MAX),
        Err(OutOfPages)
    ));
}

#[test]
fn a_loan_that_is_dropped_is_leaked_and_one_taken_back_is_not() {
    let platform = platform(8);
    {
        let _loan = lent(&platform, 2, None);
    }
    assert_eq!(
        platform.ram().used_pages(),
        2,
        "the host might still write there"
    );
    let loan = lent(&platform, 2, Some(7));
    assert_eq!(
        (loan.token(0), loan.token(1), loan.token(2)),
        (Some(7), Some(8), None)
    );
    drop(loan.into_pages());
    assert_eq!(platform.ram().used_pages(), 2);
    let loan = lent(&platform, 1, None);
    assert_eq!((loan.token(0), loan.token(1)), (loan.gfn(0), None));
    // The last reference there is has no next one.
    let loan = lent(&platform, 2, Some(u32::MAX));
    assert_eq!(loan.token(1), Some(1 << 32));
}

#[test]
fn a_span_never_leaves_itself() {
    let platform = platform(2);
    let run = Pages::alloc(&platform, 2).unwrap();
    let part = run.span().part(4090, 100).unwrap();
    assert_eq!(part.len(), 100);
    let mut byte = [0];
    assert_eq!(part.copy_out(99, &mut byte), Ok(()));
    assert_eq!(part.copy_out(100, &mut byte), Err(OutOfSpan));
    assert_eq!(part.copy_out(100, &mut []), Ok(()));
    assert_eq!(part.copy_out(usize::MAX, &mut byte), Err(OutOfSpan));
    assert_eq!(part.copy_in(98, &[1, 2, 3]), Err(OutOfSpan));
    assert!(part.part(50, 51).is_err() && part.part(usize::MAX, 2).is_err());
    assert!(part.part(100, 0).unwrap().is_empty());
    let whole = run.span();
    for offset in [8185, 8189, 8191, 8192, usize::MAX] {
        assert_eq!(whole.load_u64(offset), Err(OutOfSpan));
        assert_eq!(whole.read::<[u64; 1]>(offset), Err(OutOfSpan));
    }
    // Words want their alignment, records do not.
    assert_eq!(whole.load_u32(2), Err(OutOfSpan));
    assert_eq!(whole.store_u16(1, 1), Err(OutOfSpan));
    assert_eq!(whole.write(1, &0x0102_0304u32), Ok(()));
    assert_eq!(whole.read::<u32>(1), Ok(0x0102_0304));
    assert_eq!(whole.load_u8(1), Ok(4));
}

#[test]
fn words_are_words() {
    let platform = platform(1);
    let run = Pages::alloc(&platform, 1).unwrap();
    let span = run.span();
    assert_eq!(span.set_u64(8, 0xf0), Ok(0));
    assert_eq!(span.clear_u64(8, 0x30), Ok(0xf0));
    assert_eq!(span.swap_u64(8, 5), Ok(0xc0));
    assert_eq!(span.load_u64(8), Ok(5));
    assert_eq!(span.exchange_u16(8, 4, 9), Ok(Err(5)));
    assert_eq!(span.exchange_u16(8, 5, 9), Ok(Ok(())));
    assert_eq!(span.exchange_u32(8, 9, 0x1_0000), Ok(Ok(())));
    assert_eq!(span.exchange_u32(8, 9, 1), Ok(Err(0x1_0000)));
    assert_eq!(span.set_u32(8, 2), Ok(0x1_0000));
    assert_eq!((span.load_u16(8), span.load_u16(10)), (Ok(2), Ok(1)));
    let page = run.first();
    page.store_u16::<12>(0xabcd);
    page.store_u8::<14>(7);
    assert_eq!(page.load_u32::<12>(), 0x0007_abcd);
    page.write::<[u32; 3], 100>(&[1, 2, 3]);
    assert_eq!(page.read::<[u32; 3], 100>(), [1, 2, 3]);
    page.write::<[u8; 5], 201>(b"bytes");
    assert_eq!(&page.read::<[u8; 5], 201>(), b"bytes");
}

#[test]
fn words_are_written_one_after_another() {
    let platform = platform(1);
    let run = lent(&platform, 1, None);
    let words = run.words();
    let last = words.count() - 3;
    assert_eq!(words.write_each(last, 4, 1..), Err(OutOfSpan));
    assert_eq!(words.load(last), Ok(0));
    assert_eq!(words.write_each(last, 3, 1..), Ok(3));
    assert_eq!(words.write_each(last - 2, 4, 7..9), Ok(2));
    assert_eq!(words.write_each(0, 0, 1..), Ok(0));
    let mut there = [0; 5];
    words.read(last - 2, &mut there).unwrap();
    assert_eq!(there, [7, 8, 1, 2, 3]);
    assert_eq!(words.load(0), Ok(0));
}

#[test]
fn slots_wrap_and_parts_stay_inside() {
    let platform = platform(1);
    let run = Pages::alloc(&platform, 1).unwrap();
    let page = run.first();
    for index in [0u32, 5, 31, 32, u32::MAX] {
        page.slot::<[u64; 14], 64, 32>(index)
            .write(&[u64::from(index); 14]);
    }
    assert_eq!(page.slot::<[u64; 14], 64, 32>(0).read()[3], 32);
    let last = page.slot::<[u64; 14], 64, 32>(31);
    assert_eq!(last.read()[0], u64::from(u32::MAX));
    last.write_part::<u32, 8>(&77);
    assert!(last.write_element::<u16, 16, 4>(3, &5));
    assert!(!last.write_element::<u16, 16, 4>(4, &5));
    let now = last.read();
    assert_eq!((now[1] as u32, now[2] >> 48), (77, 5));
    // Slots of which every other one is aligned to four bytes only.
    for index in [0u32, 3, 255] {
        let slot = page.slot::<[u32; 3], 64, 256>(index);
        slot.write_part::<[u32; 3], 0>(&[index, 2, 3]);
        slot.write_part::<u32, 8>(&9);
        assert_eq!(slot.read_part::<[u32; 2], 4>(), [2, 9]);
        assert_eq!(page.slot::<[u32; 3], 64, 256>(index).read()[0], index);
    }
}

#[test]
fn filling_covers_every_byte_of_any_part() {
    let platform = platform(1);
    let run = Pages::alloc(&platform, 1).unwrap();
    for (start, len) in [(0, 64), (3, 7), (8, 9), (5, 30), (64, 0)] {
        run.span().fill(0);
        run.span().part(start, len).unwrap().fill(0xa5);
        let mut bytes = [0u8; 128];
        run.span().copy_out(0, &mut bytes).unwrap();
        let set: Vec<_> = (0..128).filter(|i| bytes[*i] == 0xa5).collect();
        assert_eq!(set, (start..start + len).collect::<Vec<_>>());
    }
}

#[test]
fn copies_of_every_length_and_alignment() {
    let platform = platform(1);
    let run = Pages::alloc(&platform, 1).unwrap();
    let from: Vec<u8> = (1..=40).collect();
    for at in 0..9 {
        for len in 0..=24 {
            run.span().fill(0);
            run.span().copy_in(at, &from[..len]).unwrap();
            let mut back = [0; 64];
            run.span().copy_out(0, &mut back).unwrap();
            assert_eq!(&back[at..at + len], &from[..len]);
            assert!(back[..at].iter().chain(&back[at + len..]).all(|b| *b == 0));
        }
    }
}

#[test]
fn a_frame_the_host_named_is_mapped_if_the_kernel_agrees() {
    let platform = platform(4);
    let page = HostPage::map(&platform, 0x42).unwrap();
    page.page().store_u32::<0>(9);
    assert_eq!(
        (page.gfn(), platform.ram().span().load_u32(8192)),
        (0x42, Ok(9))
    );
    assert!(HostPage::map(&platform, 0x41).is_none(), "refused");
    assert!(HostPage::map(&platform, 0x44).is_none(), "no such frame");
    assert!(HostPage::map(&platform, 0).is_none());
    assert_eq!(platform.cpu(), 0);
}

#[test]
fn a_host_writes_while_the_guest_reads() {
    let platform = platform(1);
    let run = Pages::alloc(&platform, 1).unwrap();
    let ram = platform.ram().clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for i in 0..if cfg!(miri) { 30 } else { 10_000u32 } {
                ram.span().copy_in(64, &[i as u8; 32]).unwrap();
                ram.span().store_u32(0, i).unwrap();
            }
        });
        let mut last = 0;
        for _ in 0..if cfg!(miri) { 30 } else { 10_000 } {
            let now = run.first().load_u32::<0>();
            assert!(now >= last);
            last = now;
            // Miri takes races of accesses of different sizes for errors; processors do not.
            if !cfg!(miri) {
                let _ = run.first().read::<[u8; 32], 64>();
            }
            let mut bytes = [0; 17];
            run.span().copy_out(65, &mut bytes).unwrap();
        }
    });
}

#[test]
fn words_are_read_wherever_they_start() {
    let platform = platform(2);
    let pages = Pages::alloc(&platform, 1).unwrap();
    let span = pages.span();
    for i in 0..64 {
        span.store_u8(i, i as u8).unwrap();
    }
    for offset in 0..8u8 {
        let word = |from: u8| u64::from_ne_bytes(core::array::from_fn(|i| from + i as u8));
        let at = usize::from(offset);
        assert_eq!(span.read_anywhere(at), Ok([word(offset), word(offset + 8)]));
    }
    assert!(span.read_anywhere::<2>(4080).is_ok());
    assert!(span.read_anywhere::<2>(4081).is_err());
    assert!(span.read_anywhere::<1>(usize::MAX).is_err());
}
