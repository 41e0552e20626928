//! A run of shared bytes whose length is known at run time.

use super::record::{read_record, write_record};
use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An access would have left its [`Span`]; nothing was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfSpan;

impl fmt::Display for OutOfSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("access beyond the end of a shared region")
    }
}

impl core::error::Error for OutOfSpan {}

/// A view of `N` shared bytes, for records that a host puts at any place. Offsets are checked when
/// the program is compiled, so an access is one instruction.
#[derive(Clone, Copy)]
pub struct Start<'a, const N: usize> {
    at: NonNull<u8>,
    life: PhantomData<&'a ()>,
}

impl<const N: usize> fmt::Debug for Start<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Start({:p}, {N} bytes)", self.at)
    }
}

impl<const N: usize> Start<'_, N> {
    /// Copies a word out.
    #[inline(always)]
    pub fn word<const OFFSET: usize>(self) -> u64 {
        const { assert!(OFFSET + 8 <= N) };
        // SAFETY: the assertion keeps the word inside the bytes.
        unsafe { crate::arch::load::<OFFSET>(self.at.as_ptr()) }
    }

    /// Copies a word in.
    #[inline(always)]
    pub fn put<const OFFSET: usize>(self, word: u64) {
        const { assert!(OFFSET + 8 <= N) };
        // SAFETY: the assertion keeps the word inside the bytes.
        unsafe { crate::arch::store::<OFFSET>(self.at.as_ptr(), word) };
    }
}

/// A view of shared bytes. Every access is checked against its length.
#[derive(Clone, Copy)]
pub struct Span<'a> {
    at: NonNull<u8>,
    len: usize,
    life: PhantomData<&'a ()>,
}

// SAFETY: the view gives only atomic and opaque accesses, which may come from any thread.
unsafe impl Send for Span<'_> {}
// SAFETY: as above.
unsafe impl Sync for Span<'_> {}

impl fmt::Debug for Span<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Span({:p}, {} bytes)", self.at, self.len)
    }
}

impl<'a> Span<'a> {
    /// # Safety
    /// For `'a`, `at` is readable and writable for `len` bytes, and no Rust reference to any of
    /// them exists.
    pub(super) unsafe fn new(at: NonNull<u8>, len: usize) -> Self {
        Self {
            at,
            len,
            life: PhantomData,
        }
    }

    /// Length in bytes.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether it holds no bytes.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The `len` bytes from `offset` on.
    ///
    /// # Errors
    /// [`OutOfSpan`] when they are not all inside.
    pub fn part(self, offset: usize, len: usize) -> Result<Span<'a>, OutOfSpan> {
        let at = self.check(offset, len)?;
        Ok(Self {
            at,
            len,
            life: PhantomData,
        })
    }

    #[inline]
    fn check(self, offset: usize, len: usize) -> Result<NonNull<u8>, OutOfSpan> {
        match offset.checked_add(len) {
            // SAFETY: `offset <= self.len`, so the result stays inside the region.
            Some(end) if end <= self.len => Ok(unsafe { self.at.add(offset) }),
            _ => Err(OutOfSpan),
        }
    }

    #[inline]
    fn word<T>(self, offset: usize) -> Result<*mut T, OutOfSpan> {
        let at = self.check(offset, size_of::<T>())?.cast::<T>();
        if at.is_aligned() {
            Ok(at.as_ptr())
        } else {
            Err(OutOfSpan)
        }
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// [`OutOfSpan`].
    #[inline]
    pub fn copy_out(self, offset: usize, into: &mut [u8]) -> Result<(), OutOfSpan> {
        let from = self.check(offset, into.len())?;
        // SAFETY: `check` vouches for the source, the slice for the target; shared memory and a
        // Rust slice never overlap.
        unsafe { crate::arch::copy_out(into.as_mut_ptr(), from.as_ptr(), into.len()) };
        Ok(())
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// [`OutOfSpan`].
    #[inline]
    pub fn copy_in(self, offset: usize, from: &[u8]) -> Result<(), OutOfSpan> {
        let to = self.check(offset, from.len())?;
        // SAFETY: as in `copy_out`, the other way round.
        unsafe { crate::arch::copy_in(to.as_ptr(), from.as_ptr(), from.len()) };
        Ok(())
    }

    /// Sets every byte.
    pub fn fill(self, byte: u8) {
        let word = u64::from_ne_bytes([byte; 8]);
        let words = self.len / 8;
        for i in 0..words {
            // An unaligned part has no words and is filled by bytes.
            if let Ok(at) = self.word::<u64>(i.wrapping_mul(8)) {
                // SAFETY: in range and aligned by `word`; an atomic may be raced by the host.
                unsafe { AtomicU64::from_ptr(at) }.store(word, Ordering::Relaxed);
            } else {
                return self.fill_bytes(0, byte);
            }
        }
        self.fill_bytes(words.wrapping_mul(8), byte);
    }

    fn fill_bytes(self, from: usize, byte: u8) {
        for i in from..self.len {
            if let Ok(at) = self.word::<u8>(i) {
                // SAFETY: in range by `word`; an atomic may be raced by the host.
                unsafe { AtomicU8::from_ptr(at) }.store(byte, Ordering::Relaxed);
            }
        }
    }

    /// Copies one record out, word by word where its place allows.
    ///
    /// # Errors
    /// [`OutOfSpan`].
    #[inline]
    pub fn read<T: FromBytes>(self, offset: usize) -> Result<T, OutOfSpan> {
        let at = self.check(offset, size_of::<T>())?;
        // SAFETY: `check` vouches for `size_of::<T>()` bytes, and any bytes make a `T`.
        Ok(unsafe { read_record(at) })
    }

    /// Copies words out, wherever they start: an instruction each. For records that a host puts at
    /// any place.
    ///
    /// # Errors
    /// [`OutOfSpan`].
    #[inline(always)]
    pub fn read_anywhere<const N: usize>(self, offset: usize) -> Result<[u64; N], OutOfSpan> {
        let at = self.check(offset, const { N * 8 })?.as_ptr().cast_const();
        let mut words = [0; N];
        for (i, word) in words.iter_mut().enumerate() {
            // SAFETY: word `i` of `N`, which `check` vouches for.
            *word = unsafe { crate::arch::load::<0>(at.add(i.wrapping_mul(8))) };
        }
        Ok(words)
    }

    /// Its first `N` bytes, if there are so many, wherever they start.
    #[inline(always)]
    pub fn start<const N: usize>(self) -> Option<Start<'a, N>> {
        (self.len >= N).then_some(Start {
            at: self.at,
            life: PhantomData,
        })
    }

    /// Copies one record in, word by word where its place allows.
    ///
    /// # Errors
    /// [`OutOfSpan`].
    #[inline]
    pub fn write<T: IntoBytes + Immutable>(
        self,
        offset: usize,
        record: &T,
    ) -> Result<(), OutOfSpan> {
        let at = self.check(offset, size_of::<T>())?;
        // SAFETY: `check` vouches for `size_of::<T>()` bytes.
        unsafe { write_record(at, record) };
        Ok(())
    }

    /// Loads an aligned word, acquiring what the host published before it.
    ///
    /// # Errors
    /// [`OutOfSpan`], also for an unaligned place.
    #[inline]
    pub fn load_u32(self, offset: usize) -> Result<u32, OutOfSpan> {
        // SAFETY: in range and aligned by `word`; an atomic may be raced by the host.
        Ok(unsafe { AtomicU32::from_ptr(self.word(offset)?) }.load(Ordering::Acquire))
    }

    /// Stores an aligned word, publishing what was written before it.
    ///
    /// # Errors
    /// [`OutOfSpan`], also for an unaligned place.
    #[inline]
    pub fn store_u32(self, offset: usize, value: u32) -> Result<(), OutOfSpan> {
        // SAFETY: as in `load_u32`.
        unsafe { AtomicU32::from_ptr(self.word(offset)?) }.store(value, Ordering::Release);
        Ok(())
    }

    /// Loads an aligned word, acquiring what the host published before it.
    ///
    /// # Errors
    /// [`OutOfSpan`], also for an unaligned place.
    #[inline]
    pub fn load_u64(self, offset: usize) -> Result<u64, OutOfSpan> {
        // SAFETY: as in `load_u32`.
        Ok(unsafe { AtomicU64::from_ptr(self.word(offset)?) }.load(Ordering::Acquire))
    }

    /// Stores an aligned word, publishing what was written before it.
    ///
    /// # Errors
    /// [`OutOfSpan`], also for an unaligned place.
    #[inline]
    pub fn store_u64(self, offset: usize, value: u64) -> Result<(), OutOfSpan> {
        // SAFETY: as in `load_u32`.
        unsafe { AtomicU64::from_ptr(self.word(offset)?) }.store(value, Ordering::Release);
        Ok(())
    }

    /// Exchanges an aligned word in one step.
    ///
    /// # Errors
    /// [`OutOfSpan`], also for an unaligned place.
    #[inline]
    pub fn swap_u64(self, offset: usize, value: u64) -> Result<u64, OutOfSpan> {
        // SAFETY: as in `load_u32`.
        Ok(unsafe { AtomicU64::from_ptr(self.word(offset)?) }.swap(value, Ordering::AcqRel))
    }

    /// Clears bits of an aligned word in one step; returns the word as it was.
    ///
    /// # Errors
    /// [`OutOfSpan`], also for an unaligned place.
    #[inline]
    pub fn clear_u64(self, offset: usize, bits: u64) -> Result<u64, OutOfSpan> {
        // SAFETY: as in `load_u32`.
        Ok(unsafe { AtomicU64::from_ptr(self.word(offset)?) }.fetch_and(!bits, Ordering::AcqRel))
    }

    /// Sets bits of an aligned word in one step; returns the word as it was.
    ///
    /// # Errors
    /// [`OutOfSpan`], also for an unaligned place.
    #[inline]
    pub fn set_u64(self, offset: usize, bits: u64) -> Result<u64, OutOfSpan> {
        // SAFETY: as in `load_u32`.
        Ok(unsafe { AtomicU64::from_ptr(self.word(offset)?) }.fetch_or(bits, Ordering::AcqRel))
    }

    /// Sets bits of an aligned word in one step; returns the word as it was.
    ///
    /// # Errors
    /// [`OutOfSpan`], also for an unaligned place.
    #[inline]
    pub fn set_u32(self, offset: usize, bits: u32) -> Result<u32, OutOfSpan> {
        // SAFETY: as in `load_u32`.
        Ok(unsafe { AtomicU32::from_ptr(self.word(offset)?) }.fetch_or(bits, Ordering::AcqRel))
    }

    /// Stores `new` if the aligned word is `old`: `Ok(Ok(()))` when it was, else what it is.
    ///
    /// # Errors
    /// [`OutOfSpan`], also for an unaligned place.
    #[inline]
    pub fn exchange_u32(
        self,
        offset: usize,
        old: u32,
        new: u32,
    ) -> Result<Result<(), u32>, OutOfSpan> {
        // SAFETY: as in `load_u32`.
        let word = unsafe { AtomicU32::from_ptr(self.word(offset)?) };
        Ok(word
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ()))
    }

    /// Loads an aligned half-word.
    ///
    /// # Errors
    /// [`OutOfSpan`], also for an unaligned place.
    #[inline]
    pub fn load_u16(self, offset: usize) -> Result<u16, OutOfSpan> {
        // SAFETY: as in `load_u32`.
        Ok(unsafe { AtomicU16::from_ptr(self.word(offset)?) }.load(Ordering::Acquire))
    }

    /// Stores an aligned half-word, publishing what was written before it.
    ///
    /// # Errors
    /// [`OutOfSpan`], also for an unaligned place.
    #[inline]
    pub fn store_u16(self, offset: usize, value: u16) -> Result<(), OutOfSpan> {
        // SAFETY: as in `load_u32`.
        unsafe { AtomicU16::from_ptr(self.word(offset)?) }.store(value, Ordering::Release);
        Ok(())
    }

    /// Stores `new` if the aligned half-word is `old`: `Ok(Ok(()))` when it was, else what it is.
    ///
    /// # Errors
    /// [`OutOfSpan`], also for an unaligned place.
    #[inline]
    pub fn exchange_u16(
        self,
        offset: usize,
        old: u16,
        new: u16,
    ) -> Result<Result<(), u16>, OutOfSpan> {
        // SAFETY: as in `load_u32`.
        let word = unsafe { AtomicU16::from_ptr(self.word(offset)?) };
        Ok(word
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ()))
    }

    /// Loads a byte.
    ///
    /// # Errors
    /// [`OutOfSpan`].
    #[inline]
    pub fn load_u8(self, offset: usize) -> Result<u8, OutOfSpan> {
        // SAFETY: as in `load_u32`.
        Ok(unsafe { AtomicU8::from_ptr(self.word(offset)?) }.load(Ordering::Acquire))
    }

    /// Stores a byte, publishing what was written before it.
    ///
    /// # Errors
    /// [`OutOfSpan`].
    #[inline]
    pub fn store_u8(self, offset: usize, value: u8) -> Result<(), OutOfSpan> {
        // SAFETY: as in `load_u32`.
        unsafe { AtomicU8::from_ptr(self.word(offset)?) }.store(value, Ordering::Release);
        Ok(())
    }
}
