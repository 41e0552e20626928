//! The two entry points and the image's own addresses.

use core::arch::global_asm;

global_asm!(include_str!("entry.S"), options(att_syntax));

unsafe extern "C" {
    fn pvh_start32() -> !;
    static kernel_start: u8;
    static kernel_end: u8;
    static boot_pd: u8;
    static boot_stack_guard: u8;
}

pvh::xen_elfnote_phys32_entry!(pvh_start32);

/// First byte of the image and the first one past it, physical and virtual alike.
pub fn image() -> core::ops::Range<u64> {
    let start = (&raw const kernel_start).addr();
    let end = (&raw const kernel_end).addr();
    start as u64..end as u64
}

/// The page below the kernel's stack, which no one may touch.
pub fn stack_guard() -> u64 {
    (&raw const boot_stack_guard).addr() as u64
}

/// The entry of the first page tables that maps the 2 MiB around an address below 4 GiB.
pub fn large_page_entry(at: u64) -> *mut u64 {
    let index = (at & 0xffff_ffff) >> 21;
    (&raw const boot_pd)
        .cast::<u64>()
        .cast_mut()
        .wrapping_add(index as usize)
}
