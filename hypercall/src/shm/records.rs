//! What is known of a pool's pages: records in pages of their own, reached by atomics and by the
//! owners of pages.

use super::PAGE_SIZE;
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// No page: the end of a chain.
pub(super) const NONE: u16 = u16::MAX;

/// What is known of one page of a pool. A buffer is a pointer to that of its first page.
#[repr(C)]
pub(super) struct Meta {
    /// What names the page to the host; never changes.
    token: u64,
    /// The page's place in the buffer that owns it.
    pub(super) link: UnsafeCell<Link>,
    /// Of a buffer's first page: bytes in the whole buffer.
    pub(super) bytes: UnsafeCell<u32>,
    /// Which page of the pool it is; never changes.
    index: u16,
    /// Where the word with its bit is, in bytes from the records on; never changes.
    word: u16,
    /// The pool's; never changes.
    records: Records,
}

/// A page's place in a buffer, and which of its bytes belong to it: next page, where the bytes
/// start in the page, of a buffer's first page how many it has, and how many bytes there are (16
/// bits each). One word, so that one look tells a buffer that is a whole page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Link(u64);

impl Link {
    /// Of a page that is a whole buffer by itself.
    pub(super) const WHOLE: Self = Self::alone(PAGE_SIZE as u16);

    /// Of the only page of a buffer of `len` bytes.
    #[inline(always)]
    pub(super) const fn alone(len: u16) -> Self {
        Self(NONE as u64 | 1 << 32 | (len as u64) << 48)
    }

    /// Of the only page of a buffer of the `len` bytes from `offset` on.
    #[inline(always)]
    pub(super) const fn placed(offset: u16, len: u16) -> Self {
        Self(Self::alone(len).0 | (offset as u64) << 16)
    }

    /// Whether the buffer has all bytes of the page.
    #[inline(always)]
    pub(super) fn is_whole_page(self) -> bool {
        const PLACE: u64 = 0xffff_0000_ffff_0000;
        self.0 & PLACE == Self::WHOLE.0 & PLACE
    }

    /// The next page of the buffer, or [`NONE`].
    #[inline(always)]
    pub(super) fn next(self) -> u16 {
        self.0 as u16
    }

    /// Where the buffer's bytes start in the page.
    #[inline(always)]
    pub(super) fn offset(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// How many there are; `offset + len <= 4096`.
    #[inline(always)]
    pub(super) fn len(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Of a buffer's first page: how many it has.
    #[inline(always)]
    pub(super) fn pages(self) -> u16 {
        (self.0 >> 32) as u16
    }

    #[inline(always)]
    pub(super) fn with_next(self, next: u16) -> Self {
        Self(self.0 & !0xffff | u64::from(next))
    }

    #[inline(always)]
    pub(super) fn with_bytes(self, offset: u16, len: u16) -> Self {
        let bytes = u64::from(offset) << 16 | u64::from(len) << 48;
        Self(self.0 & !0xffff_0000_ffff_0000 | bytes)
    }

    #[inline(always)]
    pub(super) fn with_pages(self, pages: u16) -> Self {
        Self(self.0 & !0xffff_0000_0000 | u64::from(pages) << 32)
    }
}

/// What buffers need of their pool, whatever platform it came from. It is followed by bits,
/// [`words`](Self::words) words of them twice: one for each free page, and one for each page that
/// was withdrawn from the host and is not used any more.
pub(super) struct Header {
    data: NonNull<u8>,
    meta: NonNull<Meta>,
    words: usize,
    pub(super) count: usize,
    /// The word where a page was last found.
    hint: AtomicUsize,
    pub(super) copied: AtomicU64,
    /// Stocks that may draw pages.
    pub(super) stocks: AtomicUsize,
}

/// Where the bits start behind the header.
const FREE: usize = size_of::<Header>();

/// A pool's records, for whoever owns a page of it, a stock of it, or the pool.
///
/// They are there as long as any page is owned: a pool frees them only when all pages are free and
/// no stock may draw any. So setting a page's bit is the last thing its owner does to them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Records(NonNull<Header>);

impl Records {
    /// Of no pool: only to be compared.
    pub(super) const NONE: Self = Self(NonNull::dangling());

    /// Bytes that the records of so many pages take from where they start, which is aligned to 64.
    pub(super) fn size(count: usize) -> usize {
        // None of this overflows: there are fewer than 2^16 pages.
        Self::meta_at(count).wrapping_add(count.wrapping_mul(size_of::<Meta>()))
    }

    fn meta_at(count: usize) -> usize {
        FREE.wrapping_add(count.div_ceil(64).wrapping_mul(16))
            .next_multiple_of(64)
    }

    /// Writes the records of `count` pages that start at `data`, all of them free.
    ///
    /// # Safety
    /// `at` is aligned to 64 and the start of [`size`](Self::size) bytes that are nobody else's,
    /// until the pool frees them.
    pub(super) unsafe fn write(
        at: NonNull<u8>,
        data: NonNull<u8>,
        count: usize,
        token: impl Fn(usize) -> u64,
    ) -> Self {
        const { assert!(align_of::<Header>() <= 64 && align_of::<Meta>() <= 64) };
        let words = count.div_ceil(64);
        let records = Self(at.cast());
        // SAFETY: the caller's promise: header, bits and pages' records are inside `size` bytes.
        let meta = unsafe { at.add(Self::meta_at(count)).cast::<Meta>() };
        let header = Header {
            data,
            meta,
            words,
            count,
            hint: AtomicUsize::new(0),
            copied: AtomicU64::new(0),
            stocks: AtomicUsize::new(0),
        };
        // SAFETY: as above.
        unsafe { at.cast().write(header) };
        for w in 0..words {
            let rest = count.wrapping_sub(w.wrapping_mul(64));
            let bits = if rest >= 64 {
                u64::MAX
            } else {
                (1u64 << rest).wrapping_sub(1)
            };
            // SAFETY: word `w` of `words`, of both kinds.
            unsafe {
                let word = at.add(FREE).cast::<AtomicU64>().add(w);
                word.write(bits.into());
                word.add(words).write(0.into());
            }
        }
        for i in 0..count {
            // SAFETY: entry `i` of `count`.
            unsafe {
                meta.add(i).write(Meta {
                    token: token(i),
                    link: UnsafeCell::new(Link::alone(0)),
                    bytes: UnsafeCell::new(0),
                    index: i as u16,
                    word: FREE.wrapping_add((i >> 6).wrapping_mul(8)) as u16,
                    records,
                });
            }
        }
        records
    }

    /// # Safety
    /// The caller owns a page, a stock, or the pool, for longer than the reference.
    #[inline(always)]
    pub(super) unsafe fn header<'a>(self) -> &'a Header {
        // SAFETY: the caller's promise; a header is only ever borrowed shared.
        unsafe { self.0.as_ref() }
    }

    /// # Safety
    /// As for [`header`](Self::header), and `index` is below twice the number of words.
    #[inline(always)]
    unsafe fn word<'a>(self, index: usize) -> &'a AtomicU64 {
        // SAFETY: the caller's promise: the bits follow the header.
        unsafe { self.0.byte_add(FREE).cast().add(index).as_ref() }
    }

    /// How many bits are set in the words from `first` on, as many as there are of a kind.
    ///
    /// # Safety
    /// As for [`header`](Self::header); `first` is 0 or the number of words.
    unsafe fn count(self, first: usize) -> usize {
        // SAFETY: the caller's promise.
        let words = unsafe { self.header() }.words;
        (0..words)
            .map(|w| {
                // SAFETY: below twice the number of words.
                let word = unsafe { self.word(first.wrapping_add(w)) };
                word.load(Ordering::Acquire).count_ones() as usize
            })
            .fold(0, usize::wrapping_add)
    }

    /// How many pages are free.
    ///
    /// # Safety
    /// As for [`header`](Self::header).
    pub(super) unsafe fn free(self) -> usize {
        // SAFETY: the caller's promise.
        unsafe { self.count(0) }
    }

    /// How many pages were withdrawn and are not used any more.
    ///
    /// # Safety
    /// As for [`header`](Self::header).
    pub(super) unsafe fn returned(self) -> usize {
        // SAFETY: the caller's promise.
        unsafe { self.count(self.header().words) }
    }

    /// Shows `each` the pages that were withdrawn and are not used any more, until it says of one
    /// that it is not to be had; the others are free from then on. Returns how many those are.
    ///
    /// # Safety
    /// As for [`header`](Self::header).
    #[cfg(feature = "xen")]
    pub(super) unsafe fn free_returned(self, mut each: impl FnMut(u16) -> bool) -> usize {
        // SAFETY: the caller's promise.
        let words = unsafe { self.header() }.words;
        let mut freed = 0usize;
        for w in 0..words {
            // SAFETY: below the number of words, and below twice that.
            let (free, returned) = unsafe { (self.word(w), self.word(words.wrapping_add(w))) };
            if returned.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut pages = returned.swap(0, Ordering::Acquire);
            let mut good = 0;
            while pages != 0 {
                let bit = pages & pages.wrapping_neg();
                let page = w
                    .wrapping_mul(64)
                    .wrapping_add(bit.trailing_zeros() as usize);
                if !each(page as u16) {
                    returned.fetch_or(pages, Ordering::Release);
                    free.fetch_or(good, Ordering::Release);
                    return freed;
                }
                good |= bit;
                freed = freed.wrapping_add(1);
                pages &= !bit;
            }
            free.fetch_or(good, Ordering::Release);
        }
        freed
    }

    /// Takes what `take` finds in some word that is not empty, looking at all of them from the
    /// last fruitful one on: what it returns, with the number of the word's first page.
    ///
    /// # Safety
    /// As for [`header`](Self::header).
    #[inline]
    unsafe fn find<T>(self, take: impl Fn(&AtomicU64) -> Option<T>) -> Option<(u16, T)> {
        // SAFETY: the caller's promise.
        let header = unsafe { self.header() };
        let mut w = header.hint.load(Ordering::Relaxed);
        for _ in 0..header.words {
            // SAFETY: the hint is below the number of words, and so is what follows.
            let word = unsafe { self.word(w) };
            if let Some(found) = take(word) {
                header.hint.store(w, Ordering::Relaxed);
                return Some((w.wrapping_mul(64) as u16, found));
            }
            w = w.wrapping_add(1);
            if w >= header.words {
                w = 0;
            }
        }
        None
    }

    /// Takes a free page.
    ///
    /// # Safety
    /// As for [`header`](Self::header).
    #[inline]
    pub(super) unsafe fn claim(self) -> Option<u16> {
        let take = |word: &AtomicU64| {
            let mut free = word.load(Ordering::Relaxed);
            while free != 0 {
                let bit = free & free.wrapping_neg();
                let was = word.fetch_and(!bit, Ordering::Acquire);
                if was & bit != 0 {
                    return Some(bit.trailing_zeros() as u16);
                }
                free = was;
            }
            None
        };
        // SAFETY: the caller's promise.
        let (base, page) = unsafe { self.find(take) }?;
        Some(base.wrapping_add(page))
    }

    /// Takes free pages that follow each other, at most `most` of them, which is not 0, and as many
    /// as some word has in a row: the first, and how many.
    ///
    /// # Safety
    /// As for [`header`](Self::header).
    pub(super) unsafe fn claim_row(self, most: usize) -> Option<(u16, u16)> {
        let take = |word: &AtomicU64| {
            let mut free = word.load(Ordering::Relaxed);
            while free != 0 {
                let first = free.trailing_zeros();
                let row = (free >> first).trailing_ones().min(most as u32);
                let pages = (u64::MAX >> 64u32.wrapping_sub(row)) << first;
                let rest = free & !pages;
                // All of them or none: nobody sees pages missing that go back at once.
                let (got, lost) = (Ordering::Acquire, Ordering::Relaxed);
                match word.compare_exchange_weak(free, rest, got, lost) {
                    Ok(_) => return Some((first as u16, row as u16)),
                    Err(now) => free = now,
                }
            }
            None
        };
        // SAFETY: the caller's promise.
        let (base, (first, row)) = unsafe { self.find(take) }?;
        Some((base.wrapping_add(first), row))
    }

    /// Takes all free pages of some word: the first page they are counted from, and a bit for each.
    ///
    /// # Safety
    /// As for [`header`](Self::header).
    pub(super) unsafe fn claim_many(self) -> Option<(u16, u64)> {
        let take = |word: &AtomicU64| match word.load(Ordering::Relaxed) {
            0 => None,
            _ => Some(word.swap(0, Ordering::Acquire)).filter(|pages| *pages != 0),
        };
        // SAFETY: the caller's promise.
        unsafe { self.find(take) }
    }

    /// Gives back the pages whose bits these are, in the word that is so many bytes from here. The
    /// records may be gone afterwards.
    ///
    /// # Safety
    /// The caller owns the pages and uses them no more; `word` is that of a page.
    #[inline(always)]
    unsafe fn give_back(self, word: u16, bits: u64) {
        // SAFETY: the caller's promise: `word` is where a word of the bits is.
        let word: &AtomicU64 = unsafe { self.0.byte_add(word.into()).cast().as_ref() };
        word.fetch_or(bits, Ordering::Release);
    }

    /// The record of a page, from which those of other pages are reached.
    ///
    /// # Safety
    /// The caller owns a page, a stock, or the pool, and the page is one of the pool's.
    #[inline(always)]
    pub(super) unsafe fn meta(self, page: u16) -> NonNull<Meta> {
        // SAFETY: the caller's promise.
        unsafe { self.header().meta.add(usize::from(page)) }
    }

    /// Where a page's bytes are.
    ///
    /// # Safety
    /// As for [`meta`](Self::meta).
    #[inline]
    pub(super) unsafe fn data(self, page: u16) -> NonNull<u8> {
        // SAFETY: the caller's promise; `data` is a run of `count` pages.
        unsafe {
            self.header()
                .data
                .add(usize::from(page).wrapping_mul(PAGE_SIZE))
        }
    }
}

impl Meta {
    #[inline(always)]
    pub(super) fn token(&self) -> u64 {
        self.token
    }

    #[inline(always)]
    pub(super) fn index(&self) -> u16 {
        self.index
    }

    #[inline(always)]
    pub(super) fn records(&self) -> Records {
        self.records
    }

    /// Gives the page back. The records may be gone afterwards.
    ///
    /// # Safety
    /// The caller owns the page and uses it no more, and `at` is its record.
    #[inline(always)]
    pub(super) unsafe fn give_back(at: NonNull<Self>) {
        // SAFETY: the page is owned until its bit is set, in its word.
        unsafe {
            let meta = at.as_ref();
            meta.records.give_back(meta.word, meta.bit());
        }
    }

    /// Its bit in its word.
    #[inline(always)]
    fn bit(&self) -> u64 {
        1u64.wrapping_shl(self.index.into())
    }

    /// Gives back the pages that are linked to this one, a word's at a time. This one stays the
    /// caller's, and keeps the records.
    ///
    /// # Safety
    /// They are the caller's, who uses them no more.
    #[cold]
    pub(super) unsafe fn give_back_linked(&self) {
        let records = self.records;
        let (mut word, mut bits) = (self.word, 0);
        // SAFETY: the caller's promise; what is linked is owned until its bit is set, and its link
        // is read before.
        unsafe {
            let mut next = (*self.link.get()).next();
            while next != NONE {
                let meta = records.meta(next).as_ref();
                if meta.word != word {
                    records.give_back(word, bits);
                    (word, bits) = (meta.word, 0);
                }
                bits |= meta.bit();
                next = (*meta.link.get()).next();
            }
            records.give_back(word, bits);
        }
    }

    /// The same of a page that was withdrawn from the host.
    ///
    /// # Safety
    /// As for [`give_back`](Self::give_back).
    pub(super) unsafe fn give_back_withdrawn(at: NonNull<Self>) {
        // SAFETY: the page is owned until its bit is set, and its word is one of `words`; the
        // second kind follows the first.
        let (word, bit) = unsafe {
            let meta = at.as_ref();
            let words = meta.records.header().words;
            let word = words.wrapping_add((meta.index >> 6).into());
            (meta.records.word(word), meta.bit())
        };
        word.fetch_or(bit, Ordering::Release);
    }
}
