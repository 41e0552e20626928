//! The one-shot timer of a virtual processor, which raises a virtual interrupt.

use super::abi::{VCPUOP_STOP_PERIODIC_TIMER, VCPUOP_STOP_SINGLESHOT_TIMER, VIRQ_TIMER, errno};
use super::calls::{Calls, Errno};
use super::evtchn::Events;
use crate::gate::Gate;
use crate::host::HostError;
use crate::platform::Platform;
use crate::signals::Signals;
use core::sync::atomic::{AtomicBool, Ordering};

/// How far ahead a moment is set that has passed already, where the host insists on the future:
/// in nanoseconds.
const SOON: u64 = 50_000;

/// The timer.
pub(super) struct Timer {
    vcpu: u32,
    /// The event channel of the timer's virtual interrupt.
    port: u32,
    /// The host does not know the single-shot call, only the older one.
    older: AtomicBool,
}

impl Timer {
    /// Binds the timer of `vcpu`.
    pub(super) fn new<P: Platform, G: Gate>(
        calls: &Calls<G>,
        events: &Events<P>,
        signals: &Signals,
        vcpu: u32,
    ) -> Result<Self, HostError> {
        // Xen ticks by default where it has the periodic timer at all.
        let _ = calls.stop_vcpu_timer(VCPUOP_STOP_PERIODIC_TIMER, vcpu);
        let port = events.bind_virq(calls, VIRQ_TIMER)?;
        events.open(calls, signals, port)?;
        Ok(Self {
            vcpu,
            port,
            older: AtomicBool::new(false),
        })
    }

    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Fires when the clock, which shows `now`, reaches `at`.
    pub(super) fn set<G: Gate>(
        &self,
        calls: &Calls<G>,
        at: u64,
        now: impl Fn() -> u64,
    ) -> Result<(), HostError> {
        // 0 would stop the older timer.
        let at = at.max(1);
        if !self.older.load(Ordering::Relaxed) {
            // Not asked to be in the future: a moment that has passed must interrupt at once,
            // or a kernel that halts next would not wake.
            match calls.set_singleshot_timer(self.vcpu, at) {
                Ok(()) => return Ok(()),
                Err(Errno(errno::ETIME)) => {
                    let soon = now().saturating_add(SOON);
                    return Ok(calls.set_singleshot_timer(self.vcpu, soon)?);
                }
                Err(_) => {}
            }
        }
        calls.set_timer_op(at)?;
        self.older.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Cancels.
    pub(super) fn stop<G: Gate>(&self, calls: &Calls<G>, signals: &Signals) {
        // A timer that is not stopped fires once more, which a kernel must bear anyway.
        if self.older.load(Ordering::Relaxed) {
            let _ = calls.set_timer_op(0);
        } else {
            let _ = calls.stop_vcpu_timer(VCPUOP_STOP_SINGLESHOT_TIMER, self.vcpu);
        }
        signals.take(self.port);
    }
}
