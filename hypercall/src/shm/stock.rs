//! Pages of a pool, drawn many at a time.

use super::PAGE_SIZE;
use super::buf::Buf;
use super::pool::{Header, Pool};
use crate::platform::Platform;
use core::fmt;
use core::ptr::NonNull;

/// Pages drawn from a [`Pool`] ahead of their use, for one owner who needs them one by one: up to
/// 64 are claimed at once, so that most of its buffers need no atomic. Dropping it gives back what
/// was not used.
pub struct Stock {
    header: NonNull<Header>,
    /// Pages that are here, from `base` on. Each has a count of the header, and so has the stock.
    pages: u64,
    base: u16,
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
            header,
            pages: 0,
            base: 0,
        }
    }
}

impl Stock {
    /// How many pages are here.
    pub fn len(&self) -> usize {
        self.pages.count_ones() as usize
    }

    /// Whether no page is here; the pool may have some.
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// A buffer of one whole page. `None` while none is free.
    #[inline(always)]
    pub fn page(&mut self) -> Option<Buf> {
        if self.pages == 0 && !self.draw() {
            return None;
        }
        let page = self.base.wrapping_add(self.pages.trailing_zeros() as u16);
        self.pages &= self.pages.wrapping_sub(1);
        // SAFETY: the page was this stock's, and is passed on with its count.
        Some(unsafe { Buf::new(self.header.as_ref().meta(page), PAGE_SIZE as u16) })
    }

    #[cold]
    fn draw(&mut self) -> bool {
        // SAFETY: this stock's count keeps the header alive.
        let header = unsafe { self.header.as_ref() };
        let Some((base, pages)) = header.claim_many() else {
            return false;
        };
        header.add_counts(pages.count_ones() as usize);
        (self.base, self.pages) = (base, pages);
        true
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        while let Some(page) = (self.pages != 0).then(|| self.page()) {
            drop(page);
        }
        // SAFETY: this stock's own count, given up last.
        unsafe { Header::drop_count(self.header) }
    }
}
