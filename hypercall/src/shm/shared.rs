//! A private value in a page of its own, for several owners.

use super::PAGE_SIZE;
use super::pages::{OutOfPages, Pages};
use crate::platform::Platform;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

/// A value that several owners share: what an `Arc` is where there is no allocator. It takes whole
/// pages, so it is for what few share. The host never sees these pages.
pub struct Shared<T, P: Platform> {
    at: NonNull<Counted<T, P>>,
}

struct Counted<T, P: Platform> {
    owners: AtomicUsize,
    /// Those this is in.
    pages: ManuallyDrop<Pages<P>>,
    value: T,
}

// SAFETY: owners only get shared references to the value, and the last of them drops it.
unsafe impl<T: Send + Sync, P: Platform> Send for Shared<T, P> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync, P: Platform> Sync for Shared<T, P> {}

impl<T: fmt::Debug, P: Platform> fmt::Debug for Shared<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}

impl<T, P: Platform> Shared<T, P> {
    /// Moves a value to pages of its own.
    ///
    /// # Errors
    /// [`OutOfPages`]; the value is dropped then.
    pub fn new(platform: &P, value: T) -> Result<Self, OutOfPages> {
        const { assert!(align_of::<Counted<T, P>>() <= PAGE_SIZE) };
        let size = const { size_of::<Counted<T, P>>().div_ceil(PAGE_SIZE) };
        let pages = Pages::alloc(platform, size)?;
        let at = pages.start().cast::<Counted<T, P>>();
        let counted = Counted {
            owners: AtomicUsize::new(1),
            pages: ManuallyDrop::new(pages),
            value,
        };
        // SAFETY: the run is large enough, aligned to pages, and nobody else's.
        unsafe { at.write(counted) };
        Ok(Self { at })
    }

    fn counted(&self) -> &Counted<T, P> {
        // SAFETY: it is there as long as it has an owner, and is never viewed as shared memory.
        unsafe { self.at.as_ref() }
    }
}

impl<T, P: Platform> Clone for Shared<T, P> {
    fn clone(&self) -> Self {
        // Owners are values in memory, so there are fewer than a counter can count.
        self.counted().owners.fetch_add(1, Ordering::Relaxed);
        Self { at: self.at }
    }
}

impl<T, P: Platform> Deref for Shared<T, P> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T, P: Platform> Drop for Shared<T, P> {
    fn drop(&mut self) {
        if self.counted().owners.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: that was the last owner. The value is moved out once, and its pages go after
            // it.
            let Counted { pages, value, .. } = unsafe { self.at.read() };
            drop(value);
            drop(ManuallyDrop::into_inner(pages));
        }
    }
}
