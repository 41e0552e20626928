//! The crash registers: five words, and a text where the host reads one.
//!
//! Source: TLFS, "Guest crash enlightenment".

use super::abi::{CRASH_MESSAGE, CRASH_NOTIFY};
use crate::gate::{Gate, HvGet, HvRegister, HvSet};
use crate::platform::Platform;
use crate::shm::{PAGE_SIZE, Pages};
use spin::Mutex;

/// Where a crash is reported.
#[derive(Debug)]
pub(super) struct Crash<P: Platform> {
    /// Holds the text; allocated beforehand, for a crash is no time to.
    text: Option<Mutex<Pages<P>>>,
}

impl<P: Platform> Crash<P> {
    /// What the host listens to, if it has the registers.
    pub(super) fn new<G: Gate>(gate: &G, platform: &P) -> Self {
        let control = gate.hv_get(HvGet::new(HvRegister::CrashControl));
        let text = if control & CRASH_MESSAGE != 0 {
            Pages::alloc(platform, 1).ok().map(Mutex::new)
        } else {
            None
        };
        Self { text }
    }

    /// Tells the host. With a text, parameters 3 and 4 give way to its address and length.
    pub(super) fn report<G: Gate>(&self, gate: &G, mut parameters: [u64; 5], message: &str) {
        let mut control = CRASH_NOTIFY;
        // A crash inside another's report goes without its text.
        let text = self.text.as_ref().and_then(|text| text.try_lock());
        if let Some(page) = text.as_ref().filter(|_| !message.is_empty()) {
            let bytes = message.as_bytes();
            let bytes = bytes.get(..PAGE_SIZE).unwrap_or(bytes);
            if page.span().copy_in(0, bytes).is_ok() {
                let [_, _, _, address, length] = &mut parameters;
                *address = page.first_gfn() << 12;
                *length = bytes.len() as u64;
                control |= CRASH_MESSAGE;
            }
        }
        for (n, value) in (0..).zip(parameters) {
            gate.hv_set(HvSet::new(HvRegister::CrashParameter(n), value));
        }
        gate.hv_set(HvSet::new(HvRegister::CrashControl, control));
    }
}
