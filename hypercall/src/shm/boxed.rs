//! A private value in pages of its own.

use super::PAGE_SIZE;
use super::pages::{OutOfPages, Pages};
use crate::platform::Platform;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

/// A value in pages from the platform: what a box is where there is no allocator. For tables that
/// are too large to be moved about. The host never sees these pages.
pub struct Boxed<T, P: Platform> {
    pages: Pages<P>,
    value: PhantomData<T>,
}

impl<T: fmt::Debug, P: Platform> fmt::Debug for Boxed<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}

impl<T, P: Platform> Boxed<T, P> {
    /// Moves a value to pages of its own.
    ///
    /// # Errors
    /// [`OutOfPages`]; the value is dropped then.
    pub fn new(platform: &P, value: T) -> Result<Self, OutOfPages> {
        const { assert!(align_of::<T>() <= PAGE_SIZE) };
        let pages = Pages::alloc(platform, size_of::<T>().div_ceil(PAGE_SIZE).max(1))?;
        // SAFETY: the run is large enough, aligned to pages, and nobody else's.
        unsafe { pages.start().cast::<T>().write(value) };
        Ok(Self {
            pages,
            value: PhantomData,
        })
    }

    #[inline(always)]
    fn at(&self) -> NonNull<T> {
        self.pages.start().cast()
    }
}

impl<T, P: Platform> Deref for Boxed<T, P> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: `new` put a value there, which only this box reaches; the pages are never lent
        // and never viewed as shared memory.
        unsafe { self.at().as_ref() }
    }
}

impl<T, P: Platform> DerefMut for Boxed<T, P> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `&mut self` excludes every other reference.
        unsafe { self.at().as_mut() }
    }
}

impl<T, P: Platform> Drop for Boxed<T, P> {
    fn drop(&mut self) {
        // SAFETY: the value is dropped once, here; its pages go after it.
        unsafe { self.at().drop_in_place() };
    }
}
