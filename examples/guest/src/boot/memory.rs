//! RAM: one heap over the largest run of it, pages out of the heap, and the one-to-one page tables.

use core::alloc::{GlobalAlloc, Layout};
use core::ops::Range;
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap;
use spin::Mutex;
use x86_64::instructions::tlb;
use x86_64::registers::control::Cr3;
use x86_64::structures::paging::mapper::MapToError;
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, PageTable, PageTableFlags, PhysFrame, Size2MiB,
    Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

use super::entry;
use super::handover::Ram;

/// Bytes in a page.
pub const PAGE: usize = 4096;
/// What the first page tables map, one to one.
const LOW: u64 = 1 << 32;
const MEGABYTE: u64 = 1 << 20;

struct LockedHeap(Mutex<Heap>);

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(Mutex::new(Heap::empty()));

// SAFETY: the heap hands out disjoint, aligned blocks from memory nothing else uses; interrupt handlers do
// not allocate, so on this one processor the lock is never found held.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0
            .lock()
            .allocate_first_fit(layout)
            .map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if let Some(at) = NonNull::new(at) {
            // SAFETY: the caller passes a block of this heap and the layout it was made with.
            unsafe { self.0.lock().deallocate(at, layout) }
        }
    }
}

/// Gives the heap the largest run of RAM below 4 GiB that is neither the image nor the first megabyte.
/// Returns its bounds, or `None` when the map has no such run.
pub fn start(ram: &[Ram]) -> Option<Range<u64>> {
    let image = entry::image();
    let mut best = 0_u64..0;
    for run in ram {
        let end = run.end.min(LOW);
        // The image splits the run it lies in.
        for piece in [
            run.start.max(MEGABYTE)..end.min(image.start),
            run.start.max(MEGABYTE).max(image.end)..end,
        ] {
            let piece = piece.start.next_multiple_of(PAGE as u64)
                ..piece.end & !(PAGE as u64).wrapping_sub(1);
            if piece.end.saturating_sub(piece.start) > best.end.saturating_sub(best.start) {
                best = piece;
            }
        }
    }
    let bytes = best
        .end
        .checked_sub(best.start)
        .filter(|&bytes| bytes > 0)?;
    // SAFETY: the loader's map calls this RAM, the image is cut out of it, everything the loader left in it
    // has been copied, it is mapped one to one, and it is given away only here, once.
    unsafe {
        HEAP.0
            .lock()
            .init(best.start as usize as *mut u8, bytes as usize)
    };
    Some(best)
}

/// A heap for a kernel that was given no map: what must be RAM right behind the image for the loader to have put it
/// there with room to run. [`grow`] makes it larger once someone tells.
pub fn start_without_map() -> Option<Range<u64>> {
    const ASSUMED: u64 = 8 << 20;
    let image = entry::image();
    start(&[Ram {
        start: image.start,
        end: image.end.saturating_add(ASSUMED),
    }])
}

/// Extends the heap to the end of the run of RAM that it ends in, if that is this one.
pub fn grow(run: Ram) {
    let mut heap = HEAP.0.lock();
    let top = heap.top().addr() as u64;
    let by = run.end.min(LOW).checked_sub(top);
    let Some(by) = by.filter(|_| run.start <= top) else {
        return;
    };
    // SAFETY: the host calls what follows the heap RAM, it is mapped one to one, and nobody else uses it: the image
    // and the heap are all there is.
    unsafe { heap.extend(by as usize) };
}

/// Whether an address is in the heap.
pub fn is_heap(at: u64) -> bool {
    let heap = HEAP.0.lock();
    (heap.bottom().addr()..heap.top().addr()).contains(&(at as usize))
}

/// Zeroed, contiguous, page-aligned pages.
pub fn pages(count: usize) -> Option<NonNull<u8>> {
    let layout = page_layout(count)?;
    let at = HEAP.0.lock().allocate_first_fit(layout).ok()?;
    // SAFETY: the block just allocated is that long and nobody else's.
    unsafe { at.write_bytes(0, layout.size()) };
    Some(at)
}

/// Takes pages back.
///
/// # Safety
/// They came from [`pages`] with the same count and nobody, the host included, uses them any more.
pub unsafe fn free_pages(at: NonNull<u8>, count: usize) {
    if let Some(layout) = page_layout(count) {
        // SAFETY: the caller's promise is the heap's condition.
        unsafe { HEAP.0.lock().deallocate(at, layout) }
    }
}

fn page_layout(count: usize) -> Option<Layout> {
    let bytes = count.checked_mul(PAGE).filter(|&bytes| bytes > 0)?;
    Layout::from_size_align(bytes, PAGE).ok()
}

/// Reads a value at a physical address in the low 4 GiB; `None` beyond.
pub fn physical<T: zerocopy::FromBytes>(at: u64) -> Option<T> {
    let end = at.checked_add(size_of::<T>() as u64)?;
    if at == 0 || end > LOW {
        return None;
    }
    // SAFETY: the low 4 GiB are mapped one to one for the kernel's whole life, reading RAM or a table has no
    // effect, any bytes make a `T`, and the read needs no alignment.
    Some(unsafe { ptr::read_unaligned(at as usize as *const T) })
}

/// Takes the page below the stack out of the page tables, so that a stack that grows too deep faults instead of
/// overwriting what lies below. Returns whether there was memory to do it.
pub fn guard_stack() -> bool {
    const LARGE: u64 = 2 << 20;
    const PRESENT_WRITABLE: u64 = 3;
    let guard = entry::stack_guard();
    let Some(table) = pages(1) else { return false };
    let table = table.cast::<u64>();
    for (index, page) in (guard & !(LARGE - 1)..).step_by(PAGE).take(512).enumerate() {
        let flags = if page == guard { 0 } else { PRESENT_WRITABLE };
        // SAFETY: the page just allocated has room for 512 entries, and is nobody else's.
        unsafe { table.add(index).write(page | flags) };
    }
    let entry = entry::large_page_entry(guard);
    // SAFETY: this is the live entry for the guard's surroundings; the table it now leads to maps all of them as
    // before but the guard, which nothing uses.
    unsafe { entry.write_volatile(table.addr().get() as u64 | PRESENT_WRITABLE) };
    tlb::flush_all();
    true
}

struct TableFrames;

// SAFETY: every frame is a fresh page of the heap, never given back.
unsafe impl FrameAllocator<Size4KiB> for TableFrames {
    fn allocate_frame(&mut self) -> Option<PhysFrame<Size4KiB>> {
        let at = pages(1)?;
        PhysFrame::from_start_address(PhysAddr::new(at.addr().get() as u64)).ok()
    }
}

/// Maps the 2 MiB around a physical address one to one, if it is not mapped yet.
pub fn map_around(at: u64) -> Option<()> {
    if at < LOW {
        return Some(());
    }
    let frame = PhysFrame::<Size2MiB>::containing_address(PhysAddr::try_new(at).ok()?);
    let (root, _) = Cr3::read();
    let root = root.start_address().as_u64() as usize as *mut PageTable;
    // SAFETY: CR3 holds our own tables, which are mapped one to one, and no other reference to them exists:
    // only this function makes one, and it is not reached from interrupt handlers.
    let mut tables = unsafe { OffsetPageTable::new(&mut *root, VirtAddr::zero()) };
    let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
    // SAFETY: above 4 GiB only this function maps, always one to one, so no address gets a second meaning.
    match unsafe { tables.identity_map(frame, flags, &mut TableFrames) } {
        Ok(flush) => {
            flush.flush();
            Some(())
        }
        Err(MapToError::PageAlreadyMapped(_)) => Some(()),
        Err(_) => None,
    }
}
