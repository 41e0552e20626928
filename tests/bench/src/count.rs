//! What is counted, and what is not.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Whether a driver is at work: a toggle must not be met from outside.
static WORKING: AtomicBool = AtomicBool::new(false);
/// Nanoseconds that hosts took meanwhile.
static OUTSIDE: AtomicU64 = AtomicU64::new(0);

/// The work of a driver and of its caller, in which callgrind counts. Returns what comes of it,
/// and how many nanoseconds it took, without what was [`outside`].
pub fn timed<R>(work: impl FnOnce() -> R) -> (R, u64) {
    let outside = OUTSIDE.load(Ordering::Relaxed);
    WORKING.store(true, Ordering::Relaxed);
    let start = Instant::now();
    let result = measured(work);
    let spent = start.elapsed().as_nanos() as u64;
    WORKING.store(false, Ordering::Relaxed);
    let outside = OUTSIDE.load(Ordering::Relaxed) - outside;
    (result, spent.saturating_sub(outside))
}

#[inline(never)]
fn measured<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// A host's work, maybe called from a driver's: callgrind does not count inside.
#[inline(always)]
pub fn outside<R>(f: impl FnOnce() -> R) -> R {
    if WORKING.load(Ordering::Relaxed) {
        excluded(f)
    } else {
        f()
    }
}

/// The same, of what is only ever called from inside of [`timed`] work.
#[inline(never)]
pub fn excluded<R>(f: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    WORKING.store(false, Ordering::Relaxed);
    let result = f();
    WORKING.store(true, Ordering::Relaxed);
    OUTSIDE.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    result
}
