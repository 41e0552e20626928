//! Lent pages cut into buffers.

use super::PAGE_SIZE;
use super::buf::Buf;
use super::lent::Lent;
use super::pages::Pages;
use super::records::{Header, NONE, Records};
use crate::platform::Platform;
use core::fmt;
use core::mem::ManuallyDrop;
use core::sync::atomic::Ordering;

/// A pool could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolError {
    /// The platform has no pages for the pool's own records.
    OutOfPages,
    /// A pool has at most 65,534 pages.
    TooLarge,
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfPages => "no pages for the pool's records",
            Self::TooLarge => "a pool has at most 65534 pages",
        })
    }
}

impl core::error::Error for PoolError {}

/// Which pool: equal for whatever came from the same one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PoolId(pub(super) Records);

// SAFETY: what it names is not reached by it.
unsafe impl Send for PoolId {}
// SAFETY: as above.
unsafe impl Sync for PoolId {}

impl PoolId {
    /// Of no pool.
    pub const NONE: Self = Self(Records::NONE);
}

impl fmt::Debug for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PoolId")
    }
}

/// Lent pages, handed out as [`Buf`]s of whole pages.
///
/// Buffers are plain owned values: they may cross threads, outlive the pool's handle, and return
/// their pages by being dropped. Allocation takes no lock.
pub struct Pool<P: Platform> {
    records: Records,
    lent: ManuallyDrop<Lent<P>>,
    own: ManuallyDrop<Pages<P>>,
}

// SAFETY: the records are reached by atomics, and by links that only the owner of a buffer touches.
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
        let pages = Records::size(count).div_ceil(PAGE_SIZE);
        let Ok(own) = Pages::alloc(lent.platform(), pages) else {
            return Err((PoolError::OutOfPages, lent));
        };
        let token = |page| lent.token(page).unwrap_or(u64::MAX);
        // SAFETY: pages are aligned to more than 64 bytes; these are large enough, and are kept
        // until no page is owned any more.
        let records = unsafe { Records::write(own.start(), lent.start(), count, token) };
        Ok(Self {
            records,
            lent: ManuallyDrop::new(lent),
            own: ManuallyDrop::new(own),
        })
    }

    fn header(&self) -> &Header {
        // SAFETY: this is the pool.
        unsafe { self.records.header() }
    }

    /// A buffer of `len` bytes in as many pages as that takes, or one page for 0 bytes. `None`
    /// while too few pages are free. The bytes are whatever was there.
    #[inline]
    pub fn alloc(&self, len: usize) -> Option<Buf> {
        if len > self.pages().wrapping_mul(PAGE_SIZE) {
            return None;
        }
        if len > PAGE_SIZE {
            return self.alloc_rows(len);
        }
        // SAFETY: this is the pool.
        let page = unsafe { self.records.claim() }?;
        // SAFETY: the page was just claimed.
        Some(unsafe { Buf::placed(self.records.meta(page), 0, len as u16) })
    }

    /// A buffer of several pages, not more than there are: rows of them, as long as they are found.
    fn alloc_rows(&self, len: usize) -> Option<Buf> {
        let records = self.records;
        // SAFETY: this is the pool.
        let claim = |most| unsafe { records.claim_row(most) };
        let pages = len.div_ceil(PAGE_SIZE);
        let (first, count) = claim(pages)?;
        // SAFETY: the pages were just claimed.
        let mut buf = unsafe { Buf::row(records, first, count) };
        let mut missing = pages.wrapping_sub(count.into());
        let mut last = first.wrapping_add(count).wrapping_sub(1);
        while missing != 0 {
            let (first, count) = claim(missing)?;
            // SAFETY: as above.
            buf.push_row(last, unsafe { Buf::row(records, first, count) });
            missing = missing.wrapping_sub(count.into());
            last = first.wrapping_add(count).wrapping_sub(1);
        }
        buf.set_whole(last, pages as u16, len as u32);
        Some(buf)
    }

    /// What is known of its pages.
    #[inline(always)]
    pub(super) fn records(&self) -> Records {
        self.records
    }

    /// What tells this pool from others.
    pub fn id(&self) -> PoolId {
        PoolId(self.records)
    }

    /// Pages in all.
    pub fn pages(&self) -> usize {
        self.header().count
    }

    /// Pages free now.
    pub fn free_pages(&self) -> usize {
        // SAFETY: this is the pool.
        unsafe { self.records.free() }
    }

    /// Pages that were [withdrawn](super::Withdrawn) from the host and are not used any more.
    pub fn returned_pages(&self) -> usize {
        // SAFETY: this is the pool.
        unsafe { self.records.returned() }
    }

    /// The run that was cut up.
    #[cfg(feature = "xen")]
    pub(crate) fn lent(&self) -> &Lent<P> {
        &self.lent
    }

    /// Shows `lend` the pages that were withdrawn and are not used any more: those that it lends
    /// again are free. Returns how many.
    #[cfg(feature = "xen")]
    pub(crate) fn lend_returned(&self, lend: impl FnMut(u16) -> bool) -> usize {
        // SAFETY: this is the pool.
        unsafe { self.records.free_returned(lend) }
    }

    /// Bytes copied in and out of this pool's buffers so far.
    pub fn copied(&self) -> u64 {
        self.header().copied.load(Ordering::Relaxed)
    }

    /// Whether nobody but this handle reaches the records, now and from now on.
    fn is_alone(&self) -> bool {
        // Without a stock no page is claimed but through this handle. What the last owners of
        // pages did happened before their bits were set.
        let back = self.free_pages().wrapping_add(self.returned_pages());
        self.header().stocks.load(Ordering::Acquire) == 0 && back == self.pages()
    }

    /// Gives the run back when all buffers have returned.
    ///
    /// # Errors
    /// The pool, while buffers are out.
    pub fn close(self) -> Result<Lent<P>, Self> {
        if !self.is_alone() {
            return Err(self);
        }
        let mut pool = ManuallyDrop::new(self);
        // SAFETY: the pool is used no more, and nobody else reaches its records.
        unsafe {
            ManuallyDrop::drop(&mut pool.own);
            Ok(ManuallyDrop::take(&mut pool.lent))
        }
    }
}

impl<P: Platform> Drop for Pool<P> {
    /// Leaks the run: without its lender nobody can tell whether the host has let go. The records
    /// go, unless buffers are out, which need them.
    fn drop(&mut self) {
        log::warn!(
            "a pool was dropped unclosed; its {} pages stay lent",
            self.pages()
        );
        if self.is_alone() {
            // SAFETY: the pool is used no more, and nobody else reaches its records.
            unsafe { ManuallyDrop::drop(&mut self.own) };
        }
    }
}
