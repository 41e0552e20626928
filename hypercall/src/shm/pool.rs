//! Lent pages cut into buffers.

use super::PAGE_SIZE;
use super::buf::Buf;
use super::lent::Lent;
use super::pages::Pages;
use crate::platform::Platform;
use core::cell::UnsafeCell;
use core::fmt;
use core::mem::{ManuallyDrop, offset_of};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// No page: the end of a chain.
pub(super) const NONE: u16 = u16::MAX;

/// A pool could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolError {
    /// The platform has no pages for the pool's own records.
    OutOfPages,
    /// A pool has at most 65,535 pages.
    TooLarge,
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfPages => "no pages for the pool's records",
            Self::TooLarge => "a pool has at most 65535 pages",
        })
    }
}

impl core::error::Error for PoolError {}

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
    /// The pool; never changes.
    header: NonNull<Header>,
}

/// A page's place in a buffer, and which of its bytes belong to it: next page, where the bytes
/// start in the page, how many there are (16 bits each), and of a buffer's first page how many
/// pages it has. One word, so that one look tells a buffer that is a whole page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Link(u64);

impl Link {
    /// Of a page that is a whole buffer by itself.
    pub(super) const WHOLE: Self = Self::alone(PAGE_SIZE as u16);

    /// Of the only page of a buffer of `len` bytes.
    #[inline(always)]
    pub(super) const fn alone(len: u16) -> Self {
        Self(NONE as u64 | (len as u64) << 32 | 1 << 48)
    }

    /// Of the only page of a buffer of the `len` bytes from `offset` on.
    #[inline(always)]
    pub(super) const fn placed(offset: u16, len: u16) -> Self {
        Self(Self::alone(len).0 | (offset as u64) << 16)
    }

    /// Whether it is of the only page of a buffer, which holds `least` to `most` bytes.
    #[inline(always)]
    pub(super) const fn is_alone(self, least: u16, most: u16) -> bool {
        let pages_and_len = (self.0 >> 32) as u32;
        pages_and_len >= 1 << 16 | least as u32 && pages_and_len <= 1 << 16 | most as u32
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
        (self.0 >> 32) as u16
    }

    /// Of a buffer's first page: how many it has.
    #[inline(always)]
    pub(super) fn pages(self) -> u16 {
        (self.0 >> 48) as u16
    }

    #[inline(always)]
    pub(super) fn with_next(self, next: u16) -> Self {
        Self(self.0 & !0xffff | u64::from(next))
    }

    #[inline(always)]
    pub(super) fn with_bytes(self, offset: u16, len: u16) -> Self {
        let bytes = u64::from(offset) << 16 | u64::from(len) << 32;
        Self(self.0 & !0xffff_ffff_0000 | bytes)
    }

    #[inline(always)]
    pub(super) fn with_pages(self, pages: u16) -> Self {
        Self(self.0 & 0xffff_ffff_ffff | u64::from(pages) << 48)
    }
}

/// What buffers need of their pool, whatever platform it came from. It lives in pages of its own
/// until the pool and all its buffers are gone.
pub(super) struct Header {
    /// One for the pool, one for each buffer.
    live: AtomicUsize,
    release: unsafe fn(NonNull<Header>),
    data: NonNull<u8>,
    meta: NonNull<Meta>,
    free: NonNull<AtomicU64>,
    words: usize,
    count: usize,
    /// The word where a page was last freed or found.
    hint: AtomicUsize,
    copied: AtomicU64,
}

#[repr(C)]
struct Block<P: Platform> {
    header: Header,
    lent: ManuallyDrop<Lent<P>>,
    own: ManuallyDrop<Pages<P>>,
}

/// Lent pages, handed out as [`Buf`]s of whole pages.
///
/// Buffers are plain owned values: they may cross threads, outlive the pool's handle, and return
/// their pages by being dropped. Allocation takes no lock.
pub struct Pool<P: Platform> {
    block: NonNull<Block<P>>,
}

// SAFETY: the block is reached by atomics, and by links that only the owner of a buffer touches.
unsafe impl<P: Platform> Send for Pool<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for Pool<P> {}

impl<P: Platform> fmt::Debug for Pool<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Pool({} of {} pages free)",
            self.free_pages(),
            self.pages()
        )
    }
}

impl<P: Platform> Pool<P> {
    /// Cuts up a lent run.
    ///
    /// # Errors
    /// [`PoolError`], with the run.
    pub fn new(lent: Lent<P>) -> Result<Self, (PoolError, Lent<P>)> {
        let count = lent.count();
        if count >= usize::from(NONE) {
            return Err((PoolError::TooLarge, lent));
        }
        // None of this overflows: there are fewer than 2^16 pages.
        let words = count.div_ceil(64);
        let free_at = size_of::<Block<P>>().next_multiple_of(64);
        let meta_at = free_at
            .wrapping_add(words.wrapping_mul(8))
            .next_multiple_of(64);
        let bytes = meta_at.wrapping_add(count.wrapping_mul(size_of::<Meta>()));
        const {
            assert!(align_of::<Block<P>>() <= PAGE_SIZE && align_of::<Meta>() <= 64);
            assert!(offset_of!(Block<P>, header) == 0);
        };
        let Ok(own) = Pages::alloc(lent.platform(), bytes.div_ceil(PAGE_SIZE)) else {
            return Err((PoolError::OutOfPages, lent));
        };
        let base = own.start();
        // SAFETY: all three offsets, with what follows them, are inside the `bytes` allocated.
        let (free, meta) = unsafe {
            (
                base.add(free_at).cast::<AtomicU64>(),
                base.add(meta_at).cast::<Meta>(),
            )
        };
        for w in 0..words {
            let rest = count.wrapping_sub(w.wrapping_mul(64));
            let bits = if rest >= 64 {
                u64::MAX
            } else {
                (1u64 << rest).wrapping_sub(1)
            };
            // SAFETY: word `w` of `words`.
            unsafe { free.add(w).write(AtomicU64::new(bits)) };
        }
        for i in 0..count {
            let token = lent.token(i).unwrap_or(u64::MAX);
            // SAFETY: entry `i` of `count`.
            unsafe {
                meta.add(i).write(Meta {
                    token,
                    link: UnsafeCell::new(Link::alone(0)),
                    bytes: UnsafeCell::new(0),
                    index: i as u16,
                    header: base.cast(),
                });
            }
        }
        let header = Header {
            live: AtomicUsize::new(1),
            release: release::<P>,
            data: lent.start(),
            meta,
            free,
            words,
            count,
            hint: AtomicUsize::new(0),
            copied: AtomicU64::new(0),
        };
        let block = base.cast::<Block<P>>();
        // SAFETY: the start of the run, large and aligned enough (asserted), and nobody else's.
        unsafe {
            block.write(Block {
                header,
                lent: ManuallyDrop::new(lent),
                own: ManuallyDrop::new(own),
            });
        }
        Ok(Self { block })
    }

    fn header(&self) -> &Header {
        // SAFETY: the block lives while this handle does, and is only ever borrowed shared.
        unsafe { &self.block.as_ref().header }
    }

    /// A buffer of `len` bytes in as many pages as that takes, or one page for 0 bytes. `None`
    /// while too few pages are free. The bytes are whatever was there.
    #[inline]
    pub fn alloc(&self, len: usize) -> Option<Buf> {
        let header = self.header();
        if len > header.count.wrapping_mul(PAGE_SIZE) {
            return None;
        }
        let mut rest = len.saturating_sub(PAGE_SIZE);
        let first = header.claim()?;
        header.live.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the page was just claimed, and the count taken above is the buffer's own.
        let mut buf = unsafe { Buf::new(header.meta(first), len.wrapping_sub(rest) as u16) };
        let mut tail = first;
        while rest != 0 {
            let page = header.claim()?;
            let here = rest.min(PAGE_SIZE);
            // SAFETY: the page was just claimed for this buffer, whose last page is `tail`.
            unsafe { buf.push(tail, page, here as u16) };
            tail = page;
            rest = rest.wrapping_sub(here);
        }
        Some(buf)
    }

    /// What tells this pool from others.
    #[inline(always)]
    pub(super) fn at(&self) -> NonNull<Header> {
        self.block.cast()
    }

    /// Pages in all.
    pub fn pages(&self) -> usize {
        self.header().count
    }

    /// Pages free now.
    pub fn free_pages(&self) -> usize {
        let header = self.header();
        (0..header.words)
            .map(|w| header.word(w).load(Ordering::Relaxed).count_ones() as usize)
            .fold(0, usize::wrapping_add)
    }

    /// Bytes copied in and out of this pool's buffers so far.
    pub fn copied(&self) -> u64 {
        self.header().copied.load(Ordering::Relaxed)
    }

    /// Gives the run back when all buffers have returned.
    ///
    /// # Errors
    /// The pool, while buffers are out.
    pub fn close(self) -> Result<Lent<P>, Self> {
        if self.header().live.load(Ordering::Acquire) != 1 {
            return Err(self);
        }
        let block = ManuallyDrop::new(self).block;
        // SAFETY: the only handle is `self`, so the block is ours alone; it is read out once and
        // its memory then freed by dropping the pages it lived in.
        let Block { lent, own, .. } = unsafe { block.read() };
        drop(ManuallyDrop::into_inner(own));
        Ok(ManuallyDrop::into_inner(lent))
    }
}

impl<P: Platform> Drop for Pool<P> {
    fn drop(&mut self) {
        // SAFETY: this handle's own count.
        unsafe { Header::drop_count(self.block.cast()) }
    }
}

/// Frees a block that nothing refers to any more. The lent run itself is leaked: without its
/// lender nobody can tell whether the host has let go.
unsafe fn release<P: Platform>(header: NonNull<Header>) {
    // SAFETY: `header` is the first field of a `Block<P>`, which its last user gives up here.
    let Block { lent, own, .. } = unsafe { header.cast::<Block<P>>().read() };
    log::warn!(
        "a pool was dropped unclosed; its {} pages stay lent",
        lent.count()
    );
    drop(ManuallyDrop::into_inner(own));
}

impl Header {
    fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: callers pass an index below `words`, and the words live as long as the header.
        unsafe { self.free.add(index).as_ref() }
    }

    /// Takes a free page.
    #[inline]
    fn claim(&self) -> Option<u16> {
        let mut w = self.hint.load(Ordering::Relaxed);
        for _ in 0..self.words {
            let word = self.word(w);
            let mut free = word.load(Ordering::Relaxed);
            while free != 0 {
                let bit = free & free.wrapping_neg();
                let was = word.fetch_and(!bit, Ordering::Acquire);
                if was & bit != 0 {
                    self.hint.store(w, Ordering::Relaxed);
                    return Some(
                        w.wrapping_mul(64)
                            .wrapping_add(bit.trailing_zeros() as usize)
                            as u16,
                    );
                }
                free = was;
            }
            w = w.wrapping_add(1);
            if w >= self.words {
                w = 0;
            }
        }
        None
    }

    /// Takes all free pages of some word: the first page they are counted from, and a bit for each.
    pub(super) fn claim_many(&self) -> Option<(u16, u64)> {
        let mut w = self.hint.load(Ordering::Relaxed);
        for _ in 0..self.words {
            let word = self.word(w);
            if word.load(Ordering::Relaxed) != 0 {
                let pages = word.swap(0, Ordering::Acquire);
                if pages != 0 {
                    return Some((w.wrapping_mul(64) as u16, pages));
                }
            }
            w = w.wrapping_add(1);
            if w >= self.words {
                w = 0;
            }
        }
        None
    }

    /// Adds to what keeps the block alive: one for each buffer that is to come.
    pub(super) fn add_counts(&self, count: usize) {
        self.live.fetch_add(count, Ordering::Relaxed);
    }

    /// Gives a page back.
    ///
    /// # Safety
    /// The caller owns the page and uses it no more.
    #[inline]
    pub(super) unsafe fn give_back(&self, page: u16) {
        let w = usize::from(page >> 6);
        self.word(w).fetch_or(1 << (page & 63), Ordering::Release);
        self.hint.store(w, Ordering::Relaxed);
    }

    /// # Safety
    /// The page belongs to the caller's buffer, so it is below `count`.
    #[inline]
    pub(super) unsafe fn meta(&self, page: u16) -> &Meta {
        // SAFETY: the caller's promise; the entries live as long as the header.
        unsafe { self.meta.add(usize::from(page)).as_ref() }
    }

    /// Where the record of the first of so many pages is: a place from which theirs are reached,
    /// as they are not from a reference to one of them.
    ///
    /// # Safety
    /// The page exists.
    pub(super) unsafe fn records(&self, first: u16) -> NonNull<Meta> {
        // SAFETY: the caller's promise: the record is one of the pool's.
        unsafe { self.meta.add(usize::from(first)) }
    }

    /// # Safety
    /// The page belongs to the caller's buffer, so it is below `count`.
    #[inline]
    pub(super) unsafe fn data(&self, page: u16) -> NonNull<u8> {
        // SAFETY: the caller's promise; `data` is a run of `count` pages.
        unsafe { self.data.add(usize::from(page).wrapping_mul(PAGE_SIZE)) }
    }

    #[inline]
    pub(super) fn count_copied(&self, bytes: usize) {
        self.copied.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Gives up one count, and with the last the block.
    ///
    /// # Safety
    /// The caller owns the count and uses `header` no more.
    #[inline]
    pub(super) unsafe fn drop_count(header: NonNull<Header>) {
        // SAFETY: the caller's count keeps the header alive until here.
        let (was, release) = unsafe {
            let h = header.as_ref();
            (h.live.fetch_sub(1, Ordering::AcqRel), h.release)
        };
        if was == 1 {
            // SAFETY: that was the last count, so nothing else refers to the block.
            unsafe { release(header) }
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
    pub(super) fn header(&self) -> NonNull<Header> {
        self.header
    }
}
