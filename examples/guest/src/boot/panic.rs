//! What happens when the kernel itself fails: say so, report a crash, switch off.

use core::fmt::{Display, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use guest::report::Crash;
use x86_64::instructions::interrupts;

use super::console::{self, say};
use super::host;
use super::power::{self, End};
use super::traps;

/// How deep in trouble we are: the report of a failure can fail as well.
static PANICS: AtomicU32 = AtomicU32::new(0);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fail(info)
}

/// Reports that the kernel cannot go on, and ends the run.
pub fn fail(what: &dyn Display) -> ! {
    interrupts::disable();
    match PANICS.fetch_add(1, Ordering::Relaxed) {
        0 => {
            console::detach();
            say!("{}", Crash(what));
            let mut message = heapless::String::<1024>::new();
            // What does not fit is cut off. A host with a console shows it there.
            let _ = write!(message, "{}", Crash(what));
            host::report_crash(&message);
        }
        1 => {}
        // Not even switching off works.
        _ => traps::stop(),
    }
    power::off(End::Crash)
}
