//! The kernel as the driver library sees it.

use core::ptr::NonNull;

use pv_drivers::Platform;

use super::{clock, entry, memory, traps};

/// This kernel: one processor, all memory mapped one to one.
#[derive(Clone, Copy)]
pub struct Kernel;

// SAFETY: pages come zeroed and aligned out of the heap, which gives each to one owner; memory is mapped one to one
// for good, so an address names its frame; `map_frame` maps without touching what it maps; there is one kernel.
unsafe impl Platform for Kernel {
    fn alloc_pages(&self, count: usize) -> Option<NonNull<u8>> {
        memory::pages(count)
    }

    unsafe fn free_pages(&self, at: NonNull<u8>, count: usize) {
        // SAFETY: the caller's promise is the allocator's condition.
        unsafe { memory::free_pages(at, count) }
    }

    fn gfn(&self, at: NonNull<u8>) -> u64 {
        at.addr().get() as u64 >> 12
    }

    fn map_frame(&self, gfn: u64) -> Option<NonNull<u8>> {
        let address = gfn.checked_mul(memory::PAGE as u64)?;
        // A host that names the kernel's own memory is not to have it.
        if entry::image().contains(&address) || memory::is_heap(address) {
            return None;
        }
        memory::map_around(address)?;
        NonNull::new(address as usize as *mut u8)
    }

    fn now(&self) -> u64 {
        clock::now()
    }

    fn wait_token(&self) -> u64 {
        traps::taken()
    }

    fn wait(&self, token: u64, until: u64) {
        traps::wait(token, until);
    }

    fn cpu(&self) -> u32 {
        0
    }
}
