//! A run of pages that the program owns.

use super::PAGE_SIZE;
use super::page::Page;
use super::span::Span;
use super::words::Words;
use crate::platform::Platform;
use core::fmt;
use core::ptr::NonNull;

/// The platform has no pages left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfPages;

impl fmt::Display for OutOfPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the platform has no pages left")
    }
}

impl core::error::Error for OutOfPages {}

/// A run of at least one page from [`Platform::alloc_pages`], given back when dropped.
pub struct Pages<P: Platform> {
    at: NonNull<u8>,
    count: usize,
    platform: P,
}

// SAFETY: the run is owned, and its accessors give only atomic accesses.
unsafe impl<P: Platform> Send for Pages<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for Pages<P> {}

impl<P: Platform> fmt::Debug for Pages<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pages({:p}, {})", self.at, self.count)
    }
}

impl<P: Platform> Pages<P> {
    /// Allocates `count` zeroed pages; at least one.
    ///
    /// # Errors
    /// [`OutOfPages`], also for `count` 0 or one whose bytes overflow.
    pub fn alloc(platform: &P, count: usize) -> Result<Self, OutOfPages> {
        if count == 0 || count.checked_mul(PAGE_SIZE).is_none() {
            return Err(OutOfPages);
        }
        let at = platform.alloc_pages(count).ok_or(OutOfPages)?;
        Ok(Self {
            at,
            count,
            platform: platform.clone(),
        })
    }

    /// How many pages.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The platform they came from.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// The guest frame number of page `index`.
    pub fn gfn(&self, index: usize) -> Option<u64> {
        self.address(index).map(|at| self.platform.gfn(at))
    }

    /// The guest frame number of the first page.
    pub fn first_gfn(&self) -> u64 {
        self.platform.gfn(self.at)
    }

    /// A view of page `index`.
    pub fn page(&self, index: usize) -> Option<Page<'_>> {
        // SAFETY: the page is inside the run, which lives as long as `self`.
        self.address(index).map(|at| unsafe { Page::new(at) })
    }

    /// A view of the first page.
    #[inline]
    pub fn first(&self) -> Page<'_> {
        // SAFETY: a run has at least one page and lives as long as `self`.
        unsafe { Page::new(self.at) }
    }

    /// A view of the whole run.
    #[inline]
    pub fn span(&self) -> Span<'_> {
        // SAFETY: the run is that long (the product was checked) and lives as long as `self`.
        unsafe { Span::new(self.at, self.count.wrapping_mul(PAGE_SIZE)) }
    }

    /// A view of the whole run by words.
    #[inline]
    pub fn words(&self) -> Words<'_> {
        // SAFETY: the run is page-aligned, that long (the product was checked) and lives as long
        // as `self`.
        unsafe { Words::new(self.at.cast(), self.count.wrapping_mul(PAGE_SIZE / 8)) }
    }

    fn address(&self, index: usize) -> Option<NonNull<u8>> {
        // SAFETY: the index is below the count, so the result is inside the run.
        (index < self.count).then(|| unsafe { self.at.add(index.wrapping_mul(PAGE_SIZE)) })
    }

    /// Where the run starts, for code of this module that cuts it up.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.at
    }

    /// The virtual address of the run, for the instruction that enters a hypercall page.
    #[cfg(feature = "hyperv")]
    pub(crate) fn entry(&self) -> usize {
        self.at.as_ptr().expose_provenance()
    }
}

impl<P: Platform> Drop for Pages<P> {
    fn drop(&mut self) {
        // SAFETY: the run came from this platform with this count, and `self`, its only owner, is
        // going; a run that the host may still write is inside a `Lent`, which never drops it.
        unsafe { self.platform.free_pages(self.at, self.count) }
    }
}

/// A page that the host named and the platform mapped for good, such as Xen's xenstore ring.
pub struct HostPage<P: Platform> {
    at: NonNull<u8>,
    gfn: u64,
    _platform: P,
}

// SAFETY: the page is reached only by the atomic accesses of `Page`.
unsafe impl<P: Platform> Send for HostPage<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for HostPage<P> {}

impl<P: Platform> fmt::Debug for HostPage<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostPage({:p}, gfn {:#x})", self.at, self.gfn)
    }
}

impl<P: Platform> HostPage<P> {
    /// Maps the frame; `None` when the platform refuses.
    pub fn map(platform: &P, gfn: u64) -> Option<Self> {
        let at = platform.map_frame(gfn)?;
        Some(Self {
            at,
            gfn,
            _platform: platform.clone(),
        })
    }

    /// The guest frame number.
    pub fn gfn(&self) -> u64 {
        self.gfn
    }

    /// A view of the page.
    #[inline]
    pub fn page(&self) -> Page<'_> {
        // SAFETY: the platform, of which a clone is kept, promises a readable and writable mapping
        // of a frame that holds no Rust object and is never unmapped.
        unsafe { Page::new(self.at) }
    }
}
