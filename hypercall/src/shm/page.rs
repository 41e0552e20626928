//! One shared page, whose bounds are checked when the program is compiled.

use super::PAGE_SIZE;
use super::record::{
    read_halves, read_record, read_words, write_halves, write_record, write_words,
};
use super::span::Span;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering, fence};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A view of one 4 KiB page. Offsets are constants and checked at compile time, so an access is
/// one instruction.
#[derive(Clone, Copy)]
pub struct Page<'a> {
    at: NonNull<u8>,
    life: PhantomData<&'a ()>,
}

// SAFETY: the view gives only atomic accesses, which may come from any thread.
unsafe impl Send for Page<'_> {}
// SAFETY: as above.
unsafe impl Sync for Page<'_> {}

impl fmt::Debug for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({:p})", self.at)
    }
}

impl<'a> Page<'a> {
    /// # Safety
    /// For `'a`, `at` is the start of a readable and writable page, and no Rust reference to any
    /// of its bytes exists.
    pub(super) unsafe fn new(at: NonNull<u8>) -> Self {
        Self {
            at,
            life: PhantomData,
        }
    }

    /// The page as a run of 4096 bytes.
    pub fn span(self) -> Span<'a> {
        // SAFETY: a page is a readable and writable run of `PAGE_SIZE` bytes for `'a`.
        unsafe { Span::new(self.at, PAGE_SIZE) }
    }

    #[inline(always)]
    fn word<T, const OFFSET: usize>(self) -> *mut T {
        const { assert!(OFFSET.is_multiple_of(align_of::<T>()) && OFFSET + size_of::<T>() <= PAGE_SIZE) };
        // SAFETY: the assertion keeps the offset inside the page.
        unsafe { self.at.add(OFFSET) }.cast().as_ptr()
    }

    /// Loads a word, acquiring what the host published before it.
    #[inline(always)]
    pub fn load_u32<const OFFSET: usize>(self) -> u32 {
        // SAFETY: in bounds and aligned by `word`; an atomic may be raced by the host.
        unsafe { AtomicU32::from_ptr(self.word::<u32, OFFSET>()) }.load(Ordering::Acquire)
    }

    /// Stores a word, publishing what was written before it.
    #[inline(always)]
    pub fn store_u32<const OFFSET: usize>(self, value: u32) {
        // SAFETY: as in `load_u32`.
        unsafe { AtomicU32::from_ptr(self.word::<u32, OFFSET>()) }.store(value, Ordering::Release);
    }

    /// Loads a half-word, acquiring what the host published before it.
    #[inline(always)]
    pub fn load_u16<const OFFSET: usize>(self) -> u16 {
        // SAFETY: as in `load_u32`.
        unsafe { AtomicU16::from_ptr(self.word::<u16, OFFSET>()) }.load(Ordering::Acquire)
    }

    /// Stores a half-word, publishing what was written before it.
    #[inline(always)]
    pub fn store_u16<const OFFSET: usize>(self, value: u16) {
        // SAFETY: as in `load_u32`.
        unsafe { AtomicU16::from_ptr(self.word::<u16, OFFSET>()) }.store(value, Ordering::Release);
    }

    /// Loads a byte, acquiring what the host published before it.
    #[inline(always)]
    pub fn load_u8<const OFFSET: usize>(self) -> u8 {
        // SAFETY: as in `load_u32`.
        unsafe { AtomicU8::from_ptr(self.word::<u8, OFFSET>()) }.load(Ordering::Acquire)
    }

    /// Stores a byte, publishing what was written before it.
    #[inline(always)]
    pub fn store_u8<const OFFSET: usize>(self, value: u8) {
        // SAFETY: as in `load_u32`.
        unsafe { AtomicU8::from_ptr(self.word::<u8, OFFSET>()) }.store(value, Ordering::Release);
    }

    /// Copies a record out.
    #[inline(always)]
    pub fn read<T: FromBytes, const OFFSET: usize>(self) -> T {
        const { assert!(OFFSET + size_of::<T>() <= PAGE_SIZE) };
        // SAFETY: the assertion keeps the record inside the page; any bytes make a `T`.
        unsafe { read_record(self.at.add(OFFSET)) }
    }

    /// Copies a record in.
    #[inline(always)]
    pub fn write<T: IntoBytes + Immutable, const OFFSET: usize>(self, record: &T) {
        const { assert!(OFFSET + size_of::<T>() <= PAGE_SIZE) };
        // SAFETY: the assertion keeps the record inside the page.
        unsafe { write_record(self.at.add(OFFSET), record) };
    }

    /// Slot `index % COUNT` of an array of `COUNT` records that starts at `BASE`. `COUNT` is a
    /// power of two, so a free-running index is always inside.
    #[inline(always)]
    pub fn slot<T, const BASE: usize, const COUNT: u32>(self, index: u32) -> Slot<'a, T> {
        const {
            assert!(COUNT.is_power_of_two());
            assert!(BASE.is_multiple_of(8) && BASE + COUNT as usize * size_of::<T>() <= PAGE_SIZE);
        };
        let index = (index & const { COUNT - 1 }) as usize;
        Slot {
            // SAFETY: the masked index is below `COUNT`, and `COUNT` records fit the page.
            at: unsafe { self.at.add(BASE).cast::<T>().add(index).cast() },
            life: PhantomData,
        }
    }
}

/// A view of one record in an array, from [`Page::slot`].
pub struct Slot<'a, T> {
    at: NonNull<u8>,
    life: PhantomData<&'a fn() -> T>,
}

impl<T> Clone for Slot<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slot<'_, T> {}

impl<T> fmt::Debug for Slot<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({:p})", self.at)
    }
}

impl<T> Slot<'_, T> {
    /// Copies the record out, once.
    #[inline(always)]
    pub fn read(self) -> T
    where
        T: FromBytes,
    {
        // SAFETY: the slot is `size_of::<T>()` bytes inside a page; any bytes make a `T`.
        unsafe { read_record(self.at) }
    }

    /// Copies the record in.
    #[inline(always)]
    pub fn write(self, record: &T)
    where
        T: IntoBytes + Immutable,
    {
        // SAFETY: the slot is `size_of::<T>()` bytes inside a page.
        unsafe { write_record(self.at, record) };
    }

    /// Copies a part of the record out, from byte `OFFSET` of it.
    #[inline(always)]
    pub fn read_part<U: FromBytes, const OFFSET: usize>(self) -> U {
        const { assert!(OFFSET + size_of::<U>() <= size_of::<T>()) };
        // SAFETY: the assertion keeps the part inside the slot; any bytes make a `U`. A slot whose
        // size is a multiple of eight (or four) is aligned to eight (or four), because its array
        // is aligned to eight.
        unsafe {
            if const { words::<T, U>(OFFSET, 8) } {
                read_words(self.at.add(OFFSET))
            } else if const { words::<T, U>(OFFSET, 4) } {
                read_halves(self.at.add(OFFSET))
            } else {
                read_record(self.at.add(OFFSET))
            }
        }
    }

    /// Copies a part of the record in, at byte `OFFSET` of it.
    #[inline(always)]
    pub fn write_part<U: IntoBytes + Immutable, const OFFSET: usize>(self, part: &U) {
        const { assert!(OFFSET + size_of::<U>() <= size_of::<T>()) };
        // SAFETY: the assertion keeps the part inside the slot, which is aligned as in `read_part`.
        unsafe {
            if const { words::<T, U>(OFFSET, 8) } {
                write_words(self.at.add(OFFSET), part);
            } else if const { words::<T, U>(OFFSET, 4) } {
                write_halves(self.at.add(OFFSET), part);
            } else {
                write_record(self.at.add(OFFSET), part);
            }
        }
    }

    /// Copies in element `index` of an array of `COUNT` elements at byte `OFFSET` of the record;
    /// returns whether there is such an element.
    #[inline(always)]
    pub fn write_element<U: IntoBytes + Immutable, const OFFSET: usize, const COUNT: usize>(
        self,
        index: usize,
        element: &U,
    ) -> bool {
        const { assert!(OFFSET + COUNT * size_of::<U>() <= size_of::<T>()) };
        if index >= COUNT {
            return false;
        }
        let offset = OFFSET.wrapping_add(index.wrapping_mul(size_of::<U>()));
        // SAFETY: the index is below `COUNT`, and `COUNT` elements fit the slot, which is aligned
        // as in `read_part`.
        unsafe {
            if const { words::<T, U>(OFFSET, 8) } {
                write_words(self.at.add(offset), element);
            } else {
                write_record(self.at.add(offset), element);
            }
        }
        true
    }
}

/// Whether a `U` at `offset` of every `T` in an array is words of `bytes` bytes.
const fn words<T, U>(offset: usize, bytes: usize) -> bool {
    size_of::<T>().is_multiple_of(bytes)
        && size_of::<U>().is_multiple_of(bytes)
        && offset.is_multiple_of(bytes)
}

/// A full barrier: what was stored before is visible to the host before what is loaded after.
/// Needed between publishing an index and reading whether the other side wants to be told.
#[inline(always)]
pub fn full_barrier() {
    fence(Ordering::SeqCst);
}
