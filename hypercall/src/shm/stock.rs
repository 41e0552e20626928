//! Pages of a pool one by one, drawn many at a time.

use super::piece::PoolPage;
use super::pool::Pool;
use super::records::{Meta, Records};
use crate::platform::Platform;
use core::fmt;
use core::num::NonZeroU64;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

/// Pages drawn from a [`Pool`] ahead of their use, for one owner who needs them one by one: up to
/// 64 are claimed at once, so that most of its buffers need no atomic. Dropping it gives back what
/// was not used.
pub struct Stock {
    /// Pages that are here, from `base` on.
    pages: u64,
    /// Dangling until the first pages were drawn.
    base: NonNull<Meta>,
    /// The pool's, which counts this stock.
    records: Option<Records>,
}

// SAFETY: a stock owns its pages, and the pool is reached by atomics.
unsafe impl Send for Stock {}
// SAFETY: through a shared reference nothing but the set of pages is read.
unsafe impl Sync for Stock {}

impl fmt::Debug for Stock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stock({} pages)", self.len())
    }
}

impl Default for Stock {
    fn default() -> Self {
        Self::none()
    }
}

impl<P: Platform> Pool<P> {
    /// An empty stock of this pool. The pool cannot be closed before it is dropped.
    pub fn stock(&self) -> Stock {
        let records = self.records();
        // SAFETY: `self` is the pool.
        let header = unsafe { records.header() };
        header.stocks.fetch_add(1, Ordering::Relaxed);
        Stock {
            records: Some(records),
            ..Stock::none()
        }
    }
}

impl Stock {
    /// Of no pool: it stays empty.
    pub const fn none() -> Self {
        Self {
            pages: 0,
            base: NonNull::dangling(),
            records: None,
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
        self.pages &= self.pages.wrapping_sub(1);
        // SAFETY: the page was this stock's, and is passed on; records of pages are one array, in
        // which `base` and the pages counted from it are.
        Some(unsafe { PoolPage::new(self.base.add(first as usize)) })
    }

    #[cold]
    fn draw(&mut self) {
        // SAFETY: this is a stock that the pool counts.
        let claim = |records: Records| unsafe { records.claim_many() };
        if let Some(records) = self.records
            && let Some((base, pages)) = claim(records)
        {
            self.pages = pages;
            // SAFETY: the first page of a word of the pool's bits, which exists.
            self.base = unsafe { records.meta(base) };
        }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        while !self.is_empty() {
            drop(self.page());
        }
        if let Some(records) = self.records {
            // SAFETY: the pool counts this stock until here.
            let header = unsafe { records.header() };
            header.stocks.fetch_sub(1, Ordering::Release);
        }
    }
}
