//! Records copied out of shared memory and in, by words as wide as may be.

use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Copies a record out of shared memory by words of eight bytes.
///
/// # Safety
/// `at` is 8-byte aligned and readable for `size_of::<T>()` bytes, a multiple of eight, and no Rust
/// reference to them exists.
#[inline(always)]
pub(super) unsafe fn read_words<T: FromBytes>(at: NonNull<u8>) -> T {
    let mut record = MaybeUninit::<T>::uninit();
    let to = record.as_mut_ptr().cast::<u64>();
    let from = at.as_ptr().cast::<u64>();
    // SAFETY: every offset is below the size, which the caller vouches for on one side and the type
    // on the other; any bytes make a `T`.
    unsafe {
        for i in 0..const { size_of::<T>() / 8 } {
            let word = AtomicU64::from_ptr(from.add(i)).load(Ordering::Relaxed);
            to.add(i).write_unaligned(word);
        }
        record.assume_init()
    }
}

/// Copies a record into shared memory by words of eight bytes.
///
/// # Safety
/// As for [`read_words`], and writable.
#[inline(always)]
pub(super) unsafe fn write_words<T: IntoBytes + Immutable>(at: NonNull<u8>, record: &T) {
    let from = record.as_bytes().as_ptr().cast::<u64>();
    let to = at.as_ptr().cast::<u64>();
    // SAFETY: as in `read_words`, the other way round.
    unsafe {
        for i in 0..const { size_of::<T>() / 8 } {
            let word = from.add(i).read_unaligned();
            AtomicU64::from_ptr(to.add(i)).store(word, Ordering::Relaxed);
        }
    }
}

/// Copies a record out of shared memory by words of four bytes.
///
/// # Safety
/// `at` is 4-byte aligned and readable for `size_of::<T>()` bytes, a multiple of four, and no Rust
/// reference to them exists.
#[inline(always)]
pub(super) unsafe fn read_halves<T: FromBytes>(at: NonNull<u8>) -> T {
    let mut record = MaybeUninit::<T>::uninit();
    let to = record.as_mut_ptr().cast::<u32>();
    let from = at.as_ptr().cast::<u32>();
    // SAFETY: as in `read_words`.
    unsafe {
        for i in 0..const { size_of::<T>() / 4 } {
            let word = AtomicU32::from_ptr(from.add(i)).load(Ordering::Relaxed);
            to.add(i).write_unaligned(word);
        }
        record.assume_init()
    }
}

/// Copies a record into shared memory by words of four bytes.
///
/// # Safety
/// As for [`read_halves`], and writable.
#[inline(always)]
pub(super) unsafe fn write_halves<T: IntoBytes + Immutable>(at: NonNull<u8>, record: &T) {
    let from = record.as_bytes().as_ptr().cast::<u32>();
    let to = at.as_ptr().cast::<u32>();
    // SAFETY: as in `read_words`, the other way round.
    unsafe {
        for i in 0..const { size_of::<T>() / 4 } {
            let word = from.add(i).read_unaligned();
            AtomicU32::from_ptr(to.add(i)).store(word, Ordering::Relaxed);
        }
    }
}

/// Copies a record out of shared memory by the widest words its place and size allow.
///
/// # Safety
/// `at` is readable for `size_of::<T>()` bytes, and no Rust reference to them exists.
#[inline]
pub(super) unsafe fn read_record<T: FromBytes>(at: NonNull<u8>) -> T {
    let mut record = MaybeUninit::<T>::uninit();
    let to = record.as_mut_ptr().cast::<u8>();
    let size = size_of::<T>();
    let from = at.as_ptr();
    // SAFETY: every offset is below `size`, which the caller vouches for on one side and the type
    // on the other; words are used only where the address is aligned; any bytes make a `T`.
    unsafe {
        if size.is_multiple_of(8) && from.cast::<u64>().is_aligned() {
            for i in 0..size / 8 {
                let word = AtomicU64::from_ptr(from.cast::<u64>().add(i)).load(Ordering::Relaxed);
                to.cast::<u64>().add(i).write_unaligned(word);
            }
        } else if size.is_multiple_of(4) && from.cast::<u32>().is_aligned() {
            for i in 0..size / 4 {
                let word = AtomicU32::from_ptr(from.cast::<u32>().add(i)).load(Ordering::Relaxed);
                to.cast::<u32>().add(i).write_unaligned(word);
            }
        } else {
            crate::arch::copy_out(to, from, size);
        }
        record.assume_init()
    }
}

/// Copies a record into shared memory by the widest words its place and size allow.
///
/// # Safety
/// `at` is writable for `size_of::<T>()` bytes, and no Rust reference to them exists.
#[inline]
pub(super) unsafe fn write_record<T: IntoBytes + Immutable>(at: NonNull<u8>, record: &T) {
    let from = record.as_bytes().as_ptr();
    let size = size_of::<T>();
    let to = at.as_ptr();
    // SAFETY: as in `read_record`, the other way round.
    unsafe {
        if size.is_multiple_of(8) && to.cast::<u64>().is_aligned() {
            for i in 0..size / 8 {
                let word = from.cast::<u64>().add(i).read_unaligned();
                AtomicU64::from_ptr(to.cast::<u64>().add(i)).store(word, Ordering::Relaxed);
            }
        } else if size.is_multiple_of(4) && to.cast::<u32>().is_aligned() {
            for i in 0..size / 4 {
                let word = from.cast::<u32>().add(i).read_unaligned();
                AtomicU32::from_ptr(to.cast::<u32>().add(i)).store(word, Ordering::Relaxed);
            }
        } else {
            crate::arch::copy_in(to, from, size);
        }
    }
}
