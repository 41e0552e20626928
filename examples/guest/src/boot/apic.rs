//! The local APIC, in whichever mode it has, its one-shot timer, and the old PICs kept silent.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

use super::{clock, cpu};

/// The one-shot timer's vector.
pub const TIMER: u8 = 0x40;
/// Where the hypervisor's events arrive.
pub const UPCALL: u8 = 0x50;
/// Interrupts the APIC withdrew.
pub const SPURIOUS: u8 = 0xff;

const APIC_BASE: u32 = 0x1b;
const ENABLED: u64 = 1 << 11;
const X2APIC: u64 = 1 << 10;
const MASKED: u32 = 1 << 16;

/// Register offsets in the xAPIC page; an x2APIC has the same ones at MSR 0x800 + offset / 16.
mod register {
    pub const TASK_PRIORITY: u32 = 0x080;
    pub const END_OF_INTERRUPT: u32 = 0x0b0;
    pub const SPURIOUS_VECTOR: u32 = 0x0f0;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_LINT0: u32 = 0x350;
    pub const LVT_LINT1: u32 = 0x360;
    pub const LVT_ERROR: u32 = 0x370;
    pub const INITIAL_COUNT: u32 = 0x380;
    pub const CURRENT_COUNT: u32 = 0x390;
    pub const DIVIDE: u32 = 0x3e0;
}

static PRESENT: AtomicBool = AtomicBool::new(false);
/// The xAPIC page's address, or 0 in x2APIC mode.
static PAGE: AtomicU64 = AtomicU64::new(0);
/// Timer ticks in a second, divided by 16; 0 until measured.
static HERTZ: AtomicU64 = AtomicU64::new(0);

fn write(register: u32, value: u32) {
    match PAGE.load(Ordering::Relaxed) {
        0 => {
            let msr = (register >> 4).wrapping_add(0x800);
            // SAFETY: the APIC is in x2APIC mode, where this register exists; it affects interrupts only.
            unsafe { Msr::new(msr).write(u64::from(value)) }
        }
        page => {
            let at = page.wrapping_add(u64::from(register)) as usize as *mut u32;
            // SAFETY: APIC_BASE names this page as the APIC's registers, below 4 GiB and mapped one to one.
            unsafe { at.write_volatile(value) }
        }
    }
}

fn read(register: u32) -> u32 {
    match PAGE.load(Ordering::Relaxed) {
        0 => cpu::read_msr((register >> 4).wrapping_add(0x800)) as u32,
        page => {
            let at = page.wrapping_add(u64::from(register)) as usize as *const u32;
            // SAFETY: as in `write`.
            unsafe { at.read_volatile() }
        }
    }
}

/// Masks both PICs and switches the local APIC on, with everything but its own interrupts masked.
/// Returns the mode, or `None` where there is no APIC.
pub fn start() -> Option<&'static str> {
    for port in [0x21, 0xa1] {
        // SAFETY: the PICs' mask registers; a machine without PICs ignores the write.
        unsafe { Port::<u8>::new(port).write(0xff) };
    }
    let features = cpu::leaf(1);
    if features.edx & (1 << 9) == 0 {
        return None;
    }
    let mut base = cpu::read_msr(APIC_BASE) | ENABLED;
    if features.ecx & (1 << 21) != 0 {
        base |= X2APIC;
    }
    // SAFETY: switches the APIC on where it is, in the best mode CPUID states; from disabled or xAPIC mode this
    // is an allowed step, and no interrupt is expected yet.
    unsafe { Msr::new(APIC_BASE).write(base) };
    let x2apic = base & X2APIC != 0;
    PAGE.store(
        if x2apic { 0 } else { base & 0xffff_f000 },
        Ordering::Relaxed,
    );
    PRESENT.store(true, Ordering::Relaxed);
    write(register::TASK_PRIORITY, 0);
    write(register::SPURIOUS_VECTOR, 0x100 | u32::from(SPURIOUS));
    for entry in [
        register::LVT_TIMER,
        register::LVT_LINT0,
        register::LVT_LINT1,
        register::LVT_ERROR,
    ] {
        write(entry, MASKED);
    }
    Some(if x2apic { "x2APIC" } else { "xAPIC" })
}

/// Ends the interrupt being served.
pub fn end_of_interrupt() {
    if PRESENT.load(Ordering::Relaxed) {
        write(register::END_OF_INTERRUPT, 0);
    }
}

/// Asks for one timer interrupt in so many nanoseconds, or as late as the counter reaches. Returns whether one
/// will come.
pub fn arm_timer(nanoseconds: u64) -> bool {
    if !PRESENT.load(Ordering::Relaxed) {
        return false;
    }
    let hertz = match HERTZ.load(Ordering::Relaxed) {
        0 => measure(),
        hertz => hertz,
    };
    let ticks = u128::from(nanoseconds).wrapping_mul(u128::from(hertz)) / 1_000_000_000;
    let ticks = u32::try_from(ticks).unwrap_or(u32::MAX).max(1);
    write(register::LVT_TIMER, u32::from(TIMER));
    write(register::INITIAL_COUNT, ticks);
    true
}

/// Measures the timer against the clock, once.
fn measure() -> u64 {
    const WINDOW: u64 = 5_000_000;
    write(register::DIVIDE, 0x3);
    write(register::LVT_TIMER, MASKED);
    write(register::INITIAL_COUNT, u32::MAX);
    let began = clock::now();
    clock::spin(WINDOW);
    let left = read(register::CURRENT_COUNT);
    let took = clock::now().saturating_sub(began).max(1);
    write(register::INITIAL_COUNT, 0);
    let counted = u128::from(u32::MAX.wrapping_sub(left)).wrapping_mul(1_000_000_000);
    let hertz = counted.checked_div(u128::from(took)).unwrap_or(0);
    let hertz = u64::try_from(hertz).unwrap_or(u64::MAX).max(1);
    HERTZ.store(hertz, Ordering::Relaxed);
    hertz
}
