//! Guest memory inside an ordinary process, for simulated hosts and benchmarks.

use super::{OutOfSpan, PAGE_SIZE, Span};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use core::cell::UnsafeCell;
use core::fmt;
use core::ptr::NonNull;
use spin::Mutex;

#[repr(C, align(4096))]
struct PageOfRam(UnsafeCell<[u8; PAGE_SIZE]>);

/// The memory of a simulated guest: pages, a guest-physical address for each, and an allocator.
///
/// The guest side takes pages through [`Hosted`]; the host side sees all of it through
/// [`Ram::span`], and must write only where the guest told it to, as a host does that lets its
/// guest live. Handles are clones of one memory.
#[derive(Clone)]
pub struct Ram {
    inner: Arc<Inner>,
}

struct Inner {
    /// A leaked box, freed with the last handle.
    pages: NonNull<PageOfRam>,
    count: usize,
    first_gfn: u64,
    used: Mutex<Box<[bool]>>,
}

// SAFETY: the pages are reached only by the atomic and opaque accesses of `Span` and `Page`.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl fmt::Debug for Ram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Ram({} pages from gfn {:#x})",
            self.inner.count, self.inner.first_gfn
        )
    }
}

impl Ram {
    /// `count` zeroed pages at guest frames `first_gfn` and up.
    pub fn new(count: usize, first_gfn: u64) -> Self {
        let pages: Box<[PageOfRam]> = (0..count)
            .map(|_| PageOfRam(UnsafeCell::new([0; PAGE_SIZE])))
            .collect();
        let pages = NonNull::from(Box::leak(pages)).cast::<PageOfRam>();
        Self {
            inner: Arc::new(Inner {
                pages,
                count,
                first_gfn,
                used: Mutex::new(vec![false; count].into_boxed_slice()),
            }),
        }
    }

    /// How many pages.
    pub fn pages(&self) -> usize {
        self.inner.count
    }

    /// How many pages are allocated: what a test for leaks compares.
    pub fn used_pages(&self) -> usize {
        self.inner.used.lock().iter().filter(|u| **u).count()
    }

    /// The guest-physical address of the first byte.
    pub fn base(&self) -> u64 {
        self.inner.first_gfn << 12
    }

    /// The host's view of everything; byte 0 is at [`base`](Self::base).
    pub fn span(&self) -> Span<'_> {
        let len = self.inner.count.wrapping_mul(PAGE_SIZE);
        // SAFETY: the pages live as long as this handle and are never borrowed as references.
        unsafe { Span::new(self.inner.pages.cast(), len) }
    }

    /// A run of free pages, zeroed.
    fn alloc_pages(&self, count: usize) -> Option<NonNull<u8>> {
        let mut used = self.inner.used.lock();
        let first = used.windows(count).position(|w| w.iter().all(|u| !*u))?;
        let end = first.checked_add(count)?;
        used.get_mut(first..end)?.fill(true);
        drop(used);
        let offset = first.checked_mul(PAGE_SIZE)?;
        let run = self
            .span()
            .part(offset, count.checked_mul(PAGE_SIZE)?)
            .ok()?;
        run.fill(0);
        // SAFETY: the part was just checked to be inside.
        Some(unsafe { self.inner.pages.cast::<u8>().add(offset) })
    }

    /// Frees a run.
    ///
    /// # Errors
    /// [`OutOfSpan`] when it is not a run of allocated pages.
    fn free_pages(&self, at: NonNull<u8>, count: usize) -> Result<(), OutOfSpan> {
        let first = self.index(at).ok_or(OutOfSpan)?;
        let end = first.checked_add(count).ok_or(OutOfSpan)?;
        let mut used = self.inner.used.lock();
        let run = used.get_mut(first..end).ok_or(OutOfSpan)?;
        if run.iter().any(|u| !*u) {
            return Err(OutOfSpan);
        }
        run.fill(false);
        Ok(())
    }

    /// The guest frame number of a page of this memory.
    pub fn gfn(&self, at: NonNull<u8>) -> Option<u64> {
        self.inner
            .first_gfn
            .checked_add(u64::try_from(self.index(at)?).ok()?)
    }

    /// The page at a guest frame number.
    pub fn address(&self, gfn: u64) -> Option<NonNull<u8>> {
        let index = usize::try_from(gfn.checked_sub(self.inner.first_gfn)?).ok()?;
        if index >= self.inner.count {
            return None;
        }
        // SAFETY: the index is below the count.
        Some(unsafe { self.inner.pages.add(index) }.cast())
    }

    fn index(&self, at: NonNull<u8>) -> Option<usize> {
        let offset = at.addr().get().checked_sub(self.inner.pages.addr().get())?;
        let index = offset / PAGE_SIZE;
        (index < self.inner.count).then_some(index)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let slice = NonNull::slice_from_raw_parts(self.pages, self.count);
        // SAFETY: the slice was leaked from a box of this length by `Ram::new`, and this is its
        // last user: spans borrow a handle, and a platform over it owns one.
        drop(unsafe { Box::from_raw(slice.as_ptr()) });
    }
}

/// What a simulated machine adds to [`Ram`] to make a platform of it.
pub trait Machine: Clone + Send + Sync {
    /// Simulated time, in nanoseconds.
    fn now(&self) -> u64;
    /// Interrupts taken so far.
    fn wait_token(&self) -> u64;
    /// Lets the host go on until the count differs or the time is reached.
    fn wait(&self, token: u64, until: u64);
    /// Whether the platform may map this frame for the guest; a test can refuse.
    fn may_map(&self, gfn: u64) -> bool {
        let _ = gfn;
        true
    }
}

/// A platform over simulated memory. It keeps the memory alive.
#[derive(Debug, Clone)]
pub struct Hosted<M> {
    ram: Ram,
    machine: M,
}

impl<M: Machine> Hosted<M> {
    /// A platform whose pages come from `ram` and whose time is `machine`'s.
    pub fn new(ram: Ram, machine: M) -> Self {
        Self { ram, machine }
    }

    /// The memory.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }
}

// SAFETY: `Ram` hands out zeroed, page-aligned runs of its own pages, marks them used until they
// are freed, and names the frames of its own mapping; every clone holds the memory alive. Frames
// mapped by `map_frame` are pages of the same memory that the host model named.
unsafe impl<M: Machine> crate::platform::Platform for Hosted<M> {
    fn alloc_pages(&self, count: usize) -> Option<NonNull<u8>> {
        self.ram.alloc_pages(count)
    }
    unsafe fn free_pages(&self, at: NonNull<u8>, count: usize) {
        // A run that is not allocated was freed twice: a bug of this library that tests must see.
        let freed = self.ram.free_pages(at, count);
        debug_assert!(freed.is_ok(), "freed a run that is not allocated");
    }
    fn gfn(&self, at: NonNull<u8>) -> u64 {
        self.ram.gfn(at).unwrap_or(u64::MAX)
    }
    fn map_frame(&self, gfn: u64) -> Option<NonNull<u8>> {
        if !self.machine.may_map(gfn) {
            return None;
        }
        self.ram.address(gfn)
    }
    fn now(&self) -> u64 {
        self.machine.now()
    }
    fn wait_token(&self) -> u64 {
        self.machine.wait_token()
    }
    fn wait(&self, token: u64, until: u64) {
        self.machine.wait(token, until);
    }
    fn cpu(&self) -> u32 {
        0
    }
}

/// A loan without a lender, for tests of what is built on loans.
pub fn lend<P: crate::platform::Platform>(pages: super::Pages<P>) -> super::Lent<P> {
    super::Lent::new(pages, None)
}

/// A machine without a host: time passes only while it waits.
#[derive(Debug, Clone, Default)]
pub struct Alone {
    now: Arc<core::sync::atomic::AtomicU64>,
}

impl Machine for Alone {
    fn now(&self) -> u64 {
        self.now.load(core::sync::atomic::Ordering::Relaxed)
    }
    fn wait_token(&self) -> u64 {
        0
    }
    fn wait(&self, _token: u64, until: u64) {
        self.now
            .fetch_max(until, core::sync::atomic::Ordering::Relaxed);
    }
}
