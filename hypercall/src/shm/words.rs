//! A run of shared 8-byte words.

use super::span::OutOfSpan;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use zerocopy::{Immutable, IntoBytes};

/// A view of shared memory by aligned words, for rings made of them. Places and lengths are in
/// words of 8 bytes; every access is checked against the number of words.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    at: NonNull<u64>,
    count: usize,
    life: PhantomData<&'a ()>,
}

// SAFETY: the view gives only atomic accesses, which may come from any thread.
unsafe impl Send for Words<'_> {}
// SAFETY: as above.
unsafe impl Sync for Words<'_> {}

impl fmt::Debug for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Words({:p}, {})", self.at, self.count)
    }
}

impl<'a> Words<'a> {
    /// # Safety
    /// For `'a`, `at` is aligned, readable and writable for `count` words, and no Rust reference
    /// to any of them exists.
    #[inline]
    pub(super) unsafe fn new(at: NonNull<u64>, count: usize) -> Self {
        Self {
            at,
            count,
            life: PhantomData,
        }
    }

    /// How many words.
    pub fn count(self) -> usize {
        self.count
    }

    #[inline]
    fn check(self, index: usize, count: usize) -> Result<NonNull<u64>, OutOfSpan> {
        match index.checked_add(count) {
            // SAFETY: `index <= self.count`, so the result stays inside the region.
            Some(end) if end <= self.count => Ok(unsafe { self.at.add(index) }),
            _ => Err(OutOfSpan),
        }
    }

    /// The `count` words from `index` on.
    ///
    /// # Errors
    /// [`OutOfSpan`] when they are not all inside.
    #[inline]
    pub fn part(self, index: usize, count: usize) -> Result<Words<'a>, OutOfSpan> {
        let at = self.check(index, count)?;
        Ok(Self {
            at,
            count,
            life: PhantomData,
        })
    }

    /// The first `count` words, and those behind them; `None` when there are fewer.
    #[inline(always)]
    pub fn split(self, count: usize) -> Option<(Words<'a>, Words<'a>)> {
        let rest = self.count.checked_sub(count)?;
        // SAFETY: `count <= self.count`, so the result stays inside the region.
        let behind = unsafe { self.at.add(count) };
        Some((
            Self { count, ..self },
            Self {
                at: behind,
                count: rest,
                life: PhantomData,
            },
        ))
    }

    /// Copies a word out.
    ///
    /// # Errors
    /// [`OutOfSpan`].
    #[inline]
    pub fn load(self, index: usize) -> Result<u64, OutOfSpan> {
        let at = self.check(index, 1)?;
        // SAFETY: in range by `check`, aligned by the view; an atomic may be raced by the host.
        Ok(unsafe { AtomicU64::from_ptr(at.as_ptr()) }.load(Ordering::Relaxed))
    }

    /// Copies a word in.
    ///
    /// # Errors
    /// [`OutOfSpan`].
    #[inline]
    pub fn store(self, index: usize, word: u64) -> Result<(), OutOfSpan> {
        let at = self.check(index, 1)?;
        // SAFETY: as in `load`.
        unsafe { AtomicU64::from_ptr(at.as_ptr()) }.store(word, Ordering::Relaxed);
        Ok(())
    }

    /// Copies words in, `count` of them or as many as there are, one after another; returns how
    /// many.
    ///
    /// # Errors
    /// [`OutOfSpan`] when there is no place for `count`; nothing is copied then.
    #[inline(always)]
    pub fn write_each(
        self,
        index: usize,
        count: usize,
        words: impl Iterator<Item = u64>,
    ) -> Result<usize, OutOfSpan> {
        let at = self.check(index, count)?;
        let mut written = 0usize;
        for word in words.take(count) {
            // SAFETY: fewer than `count` were written, and `check` vouches for so many; as in
            // `load`.
            unsafe { AtomicU64::from_ptr(at.add(written).as_ptr()) }.store(word, Ordering::Relaxed);
            written = written.wrapping_add(1);
        }
        Ok(written)
    }

    /// Copies words out; all or none.
    ///
    /// # Errors
    /// [`OutOfSpan`].
    #[inline]
    pub fn read<const N: usize>(self, index: usize, into: &mut [u64; N]) -> Result<(), OutOfSpan> {
        let at = self.check(index, N)?;
        for (i, word) in into.iter_mut().enumerate() {
            // SAFETY: `i < N`, and `check` vouches for `N` words; as in `load`.
            *word = unsafe { AtomicU64::from_ptr(at.add(i).as_ptr()) }.load(Ordering::Relaxed);
        }
        Ok(())
    }

    /// Copies a record in, its last word filled up with zeroes; all or nothing.
    ///
    /// # Errors
    /// [`OutOfSpan`].
    #[inline]
    pub fn write<T: IntoBytes + Immutable>(
        self,
        index: usize,
        record: &T,
    ) -> Result<(), OutOfSpan> {
        let size = const { size_of::<T>() };
        let at = self.check(index, const { size_of::<T>().div_ceil(8) })?;
        let from = record.as_bytes().as_ptr();
        for i in 0..size / 8 {
            // SAFETY: word `i` lies inside the record and inside what `check` vouches for.
            unsafe {
                let word = from.cast::<u64>().add(i).read_unaligned();
                AtomicU64::from_ptr(at.add(i).as_ptr()).store(word, Ordering::Relaxed);
            }
        }
        if !size.is_multiple_of(8) {
            let mut last = [0; 8];
            let rest = record.as_bytes().chunks_exact(8).remainder();
            for (to, from) in last.iter_mut().zip(rest) {
                *to = *from;
            }
            // SAFETY: `check` vouches for this last word, too.
            unsafe { AtomicU64::from_ptr(at.add(size / 8).as_ptr()) }
                .store(u64::from_ne_bytes(last), Ordering::Relaxed);
        }
        Ok(())
    }
}
