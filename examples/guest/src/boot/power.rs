//! The end of a run: the host's own means where there are some, else ACPI, else a reset, else a halt.

use core::sync::atomic::{AtomicU64, Ordering};

use spin::Once;
use x86_64::instructions::port::Port;

use super::{acpi, clock, traps};

/// How the run went, for hosts that want to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The job is done, well or badly, and said so.
    Done,
    /// The kernel itself failed.
    Crash,
}

static ROOT_POINTER: AtomicU64 = AtomicU64::new(0);
static HOST: Once<fn(End)> = Once::new();

/// Remembers where the loader said ACPI's root pointer is.
pub fn set_root_pointer(at: u64) {
    ROOT_POINTER.store(at, Ordering::Relaxed);
}

/// From here on the host's own means come first.
pub fn by_host(off: fn(End)) {
    HOST.call_once(|| off);
}

/// Switches the machine off.
pub fn off(end: End) -> ! {
    if let Some(host) = HOST.get() {
        host(end);
    }
    acpi::power_off(ROOT_POINTER.load(Ordering::Relaxed));
    clock::spin(100_000_000);
    // SAFETY: the chipset's reset register; a machine without one ignores it.
    unsafe { Port::<u8>::new(0xcf9).write(0x06) };
    clock::spin(100_000_000);
    traps::stop()
}
