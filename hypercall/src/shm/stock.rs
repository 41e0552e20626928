//! Pages of a pool one by one, drawn many at a time.

use super::PAGE_SIZE;
use super::buf::Buf;
use super::pool::{Header, Meta, Pool};
use crate::platform::Platform;
use core::fmt;
use core::mem::ManuallyDrop;
use core::num::NonZeroU64;
use core::ptr::NonNull;

/// A page of a pool that is no buffer yet, or none any more: for tables of what the host may
/// write, and of what it is to write next. It returns by itself when dropped, as a [`Buf`] does.
pub struct PoolPage {
    at: NonNull<Meta>,
}

// SAFETY: a page has one owner, and the pool is reached by atomics.
unsafe impl Send for PoolPage {}
// SAFETY: through a shared reference only its name is read, which never changes.
unsafe impl Sync for PoolPage {}

impl fmt::Debug for PoolPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolPage({})", self.token())
    }
}

impl PoolPage {
    /// # Safety
    /// The page is the caller's, who passes it on together with one count of its header.
    #[inline(always)]
    pub(super) unsafe fn new(at: NonNull<Meta>) -> Self {
        Self { at }
    }

    /// What names it to the host: grant reference or frame number.
    #[inline(always)]
    pub fn token(&self) -> u64 {
        // SAFETY: this page's count keeps the header alive, and with it the records of pages.
        unsafe { self.at.as_ref() }.token()
    }

    /// A buffer of its `len` bytes from byte `offset` on.
    ///
    /// # Errors
    /// The page, when the bytes leave it.
    #[inline(always)]
    pub fn into_buf(self, offset: u16, len: u16) -> Result<Buf, Self> {
        let end = u32::from(offset).wrapping_add(u32::from(len));
        if end > PAGE_SIZE as u32 {
            return Err(self);
        }
        let at = ManuallyDrop::new(self).at;
        // SAFETY: the page and its count are passed on, and the bytes are inside it.
        Ok(unsafe { Buf::placed(at, offset, len) })
    }
}

impl Drop for PoolPage {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the page and its count are passed on; `self` is not used again.
        drop(unsafe { Buf::placed(self.at, 0, 0) });
    }
}

/// Pages drawn from a [`Pool`] ahead of their use, for one owner who needs them one by one: up to
/// 64 are claimed at once, so that most of its buffers need no atomic. Dropping it gives back what
/// was not used.
#[derive(Default)]
pub struct Stock {
    /// Pages that are here, from `base` on. Each has a count of the header.
    pages: u64,
    base: Option<NonNull<Meta>>,
    /// The stock has a count of it.
    header: Option<NonNull<Header>>,
}

// SAFETY: a stock owns its pages and counts, and the pool is reached by atomics.
unsafe impl Send for Stock {}
// SAFETY: through a shared reference nothing but the set of pages is read.
unsafe impl Sync for Stock {}

impl fmt::Debug for Stock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stock({} pages)", self.len())
    }
}

impl<P: Platform> Pool<P> {
    /// An empty stock of this pool. The pool cannot be closed before it is dropped.
    pub fn stock(&self) -> Stock {
        let header = self.at();
        // SAFETY: the pool keeps its header alive.
        unsafe { header.as_ref() }.add_counts(1);
        Stock {
            header: Some(header),
            ..Stock::none()
        }
    }
}

impl Stock {
    /// Of no pool: it stays empty.
    pub const fn none() -> Self {
        Self {
            pages: 0,
            base: None,
            header: None,
        }
    }

    /// How many pages are here.
    pub fn len(&self) -> usize {
        self.pages.count_ones() as usize
    }

    /// Whether no page is here; the pool may have some.
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// A page. `None` while none is free.
    #[inline(always)]
    pub fn page(&mut self) -> Option<PoolPage> {
        if self.pages == 0 {
            self.draw();
        }
        let first = NonZeroU64::new(self.pages)?.trailing_zeros();
        let base = self.base?;
        self.pages &= self.pages.wrapping_sub(1);
        // SAFETY: the page was this stock's, and is passed on with its count; records of pages are
        // one array, in which `base` and the pages counted from it are.
        Some(unsafe { PoolPage::new(base.add(first as usize)) })
    }

    #[cold]
    fn draw(&mut self) {
        // SAFETY: this stock's count keeps the header alive.
        let header = self
            .header
            .as_ref()
            .map(|header| unsafe { header.as_ref() });
        if let Some(header) = header
            && let Some((base, pages)) = header.claim_many()
        {
            header.add_counts(pages.count_ones() as usize);
            self.pages = pages;
            // SAFETY: the first page of a word of the pool's bits, which exists.
            self.base = Some(unsafe { header.records(base) });
        }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        while !self.is_empty() {
            drop(self.page());
        }
        if let Some(header) = self.header {
            // SAFETY: this stock's own count, given up last.
            unsafe { Header::drop_count(header) }
        }
    }
}
