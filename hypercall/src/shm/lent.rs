//! A run of pages that the host was given access to.

use super::page::Page;
use super::pages::Pages;
use super::span::Span;
use super::words::Words;
use crate::platform::Platform;
use core::fmt;
use core::mem::ManuallyDrop;

/// What the host may do with a lent page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The host only reads.
    ReadOnly,
    /// The host reads and writes.
    ReadWrite,
}

/// A lent run, from [`Hypervisor::share`](crate::host::Hypervisor::share). It goes back by
/// [`Hypervisor::unshare`](crate::host::Hypervisor::unshare), which may fail while the host holds
/// on to it. Dropping it leaks the pages: the host might still write them.
pub struct Lent<P: Platform> {
    pages: ManuallyDrop<Pages<P>>,
    grant: Option<u32>,
}

impl<P: Platform> fmt::Debug for Lent<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lent({:?}, grant {:?})", *self.pages, self.grant)
    }
}

impl<P: Platform> Lent<P> {
    /// `grant` is the first of the run's consecutive grant references, where the host has them.
    #[cfg(any(feature = "xen", feature = "hyperv", feature = "hosted"))]
    pub(crate) fn new(pages: Pages<P>, grant: Option<u32>) -> Self {
        Self {
            pages: ManuallyDrop::new(pages),
            grant,
        }
    }

    /// Ends the loan. Only a lender that has seen the host let go may call it.
    #[cfg(any(feature = "xen", feature = "hyperv"))]
    pub(crate) fn into_pages(self) -> Pages<P> {
        ManuallyDrop::into_inner(self.pages)
    }

    /// The first of the run's consecutive grant references, if it has them.
    pub fn grant(&self) -> Option<u32> {
        self.grant
    }

    /// What names page `index` to the host: its grant reference on Xen, its frame number on
    /// Hyper-V.
    pub fn token(&self, index: usize) -> Option<u64> {
        match self.grant {
            Some(first) if index < self.pages.count() => {
                u64::from(first).checked_add(u64::try_from(index).ok()?)
            }
            Some(_) => None,
            None => self.pages.gfn(index),
        }
    }

    /// How many pages.
    pub fn count(&self) -> usize {
        self.pages.count()
    }

    /// The platform they came from.
    pub fn platform(&self) -> &P {
        self.pages.platform()
    }

    /// The guest frame number of page `index`.
    pub fn gfn(&self, index: usize) -> Option<u64> {
        self.pages.gfn(index)
    }

    /// A view of page `index`.
    pub fn page(&self, index: usize) -> Option<Page<'_>> {
        self.pages.page(index)
    }

    /// A view of the first page.
    #[inline]
    pub fn first(&self) -> Page<'_> {
        self.pages.first()
    }

    /// A view of the whole run.
    #[inline]
    pub fn span(&self) -> Span<'_> {
        self.pages.span()
    }

    /// A view of the whole run by words.
    #[inline]
    pub fn words(&self) -> Words<'_> {
        self.pages.words()
    }

    /// Where the run starts, for code of this module that cuts it up.
    pub(super) fn start(&self) -> core::ptr::NonNull<u8> {
        self.pages.start()
    }
}
