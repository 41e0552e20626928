//! One synthetic timer, which fires once and tells by a message.
//!
//! Source: TLFS, "Synthetic timers".

use super::abi::{STIMER_ENABLED, STIMER_SINT};
use super::synic::{Synic, TIMER_SINT};
use crate::gate::{Gate, HvRegister, HvSet};
use crate::platform::Platform;
use core::sync::atomic::{AtomicBool, Ordering};

const CONFIG: HvRegister = HvRegister::StimerConfig(0);
const COUNT: HvRegister = HvRegister::StimerCount(0);

/// Timer 0.
#[derive(Debug, Default)]
pub(super) struct Timer {
    fired: AtomicBool,
}

impl Timer {
    /// Fires at `at`, in nanoseconds of the reference time; at once when that has passed. The
    /// timer must be stopped.
    pub(super) fn set<G: Gate>(&self, gate: &G, at: u64) {
        // A count of 0 would mean "off".
        let count = at.div_ceil(100).max(1);
        let config = STIMER_ENABLED | u64::from(TIMER_SINT) << STIMER_SINT;
        gate.hv_set(HvSet::new(COUNT, count));
        gate.hv_set(HvSet::new(CONFIG, config));
    }

    /// Stops it. What it said so far no longer counts.
    pub(super) fn stop<P: Platform, G: Gate>(&self, gate: &G, synic: &Synic<P, G>) {
        gate.hv_set(HvSet::new(CONFIG, 0));
        let _ = synic.take_timer();
        self.fired.store(false, Ordering::Release);
    }

    /// Notes that it fired.
    pub(super) fn set_fired(&self) {
        self.fired.store(true, Ordering::Release);
    }

    /// Whether it fired since this was last asked.
    pub(super) fn take(&self) -> bool {
        self.fired.swap(false, Ordering::AcqRel)
    }
}
