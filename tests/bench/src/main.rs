//! What one block request costs the driver, counted.
//!
//! `pv-bench WHICH DEPTH BATCHES` reads 4 KiB blocks in batches of DEPTH and prints counters as
//! one line of JSON. Run under callgrind with `--toggle-collect=pv_bench::measured*
//! --toggle-collect=pv_bench::excluded*` it counts the instructions of the driver alone: collection
//! is on inside [`measured`] and off again inside [`excluded`]. Two runs of different length cancel
//! what is spent once. `cargo xtask bench` does both and makes a table.

mod pv;
mod virtio;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the driver is at work: a toggle must not be met from outside.
static MEASURING: AtomicBool = AtomicBool::new(false);

/// The driver's work: callgrind counts inside.
#[inline(never)]
pub fn measured<R>(f: impl FnOnce() -> R) -> R {
    MEASURING.store(true, Ordering::Relaxed);
    let result = f();
    MEASURING.store(false, Ordering::Relaxed);
    result
}

/// The host's work, maybe called from the driver's: callgrind does not count inside.
pub fn outside<R>(f: impl FnOnce() -> R) -> R {
    if MEASURING.load(Ordering::Relaxed) {
        excluded(f)
    } else {
        f()
    }
}

#[inline(never)]
fn excluded<R>(f: impl FnOnce() -> R) -> R {
    // Something to do after the call, or the call would become a jump that no toggle sees end.
    MEASURING.store(false, Ordering::Relaxed);
    let result = f();
    MEASURING.store(true, Ordering::Relaxed);
    result
}

/// What was counted besides instructions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measure {
    pub requests: u64,
    pub hypercalls: u64,
    pub signals: u64,
    pub interrupts: u64,
    pub grants: u64,
    pub copied: u64,
    /// Nanoseconds of wall time inside the driver.
    pub nanoseconds: u64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parsed = match arguments.as_slice() {
        [which, depth, batches] => (which.as_str(), depth.parse(), batches.parse()),
        _ => return usage(),
    };
    let (which, Ok(depth @ 1..=32), Ok(batches @ 1..=10_000_000)) = parsed else {
        return usage();
    };
    // What the queue of the yardstick holds, without indirect descriptors and with them.
    let depth = match which {
        "virtio" => depth.min(5),
        "virtio-indirect" => depth.min(16),
        _ => depth,
    };
    let measure = match which {
        "blkif" => pv::blkif(depth, batches),
        "storvsc" => pv::storvsc(depth, batches),
        "virtio" => virtio::run(false, depth, batches),
        "virtio-indirect" => virtio::run(true, depth, batches),
        _ => return usage(),
    };
    println!(
        "{{\"which\":\"{which}\",\"depth\":{depth},\"requests\":{},\"hypercalls\":{},\
         \"signals\":{},\"interrupts\":{},\"grants\":{},\"copied\":{},\"nanoseconds\":{}}}",
        measure.requests,
        measure.hypercalls,
        measure.signals,
        measure.interrupts,
        measure.grants,
        measure.copied,
        measure.nanoseconds,
    );
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: pv-bench blkif|storvsc|virtio|virtio-indirect DEPTH(1-32) BATCHES");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What reaches the host, counted: it is the same at every run.
    fn counters(measure: Measure) -> [u64; 6] {
        [
            measure.requests,
            measure.hypercalls,
            measure.signals,
            measure.interrupts,
            measure.grants,
            measure.copied,
        ]
    }

    #[test]
    fn a_batch_costs_xen_one_hypercall_one_interrupt_and_no_grant() {
        assert_eq!(counters(pv::blkif(1, 50)), [50, 50, 50, 50, 0, 0]);
        assert_eq!(counters(pv::blkif(32, 50)), [1600, 50, 50, 50, 0, 0]);
    }

    #[test]
    fn a_batch_costs_hyperv_one_hypercall_one_interrupt_and_no_copy() {
        assert_eq!(counters(pv::storvsc(1, 50)), [50, 50, 50, 50, 0, 0]);
        assert_eq!(counters(pv::storvsc(32, 50)), [1600, 50, 50, 50, 0, 0]);
    }

    #[test]
    fn the_yardstick_finishes_its_requests() {
        // Its queue holds 5 requests without indirect descriptors, and 16 with.
        assert_eq!(virtio::run(false, 5, 20).requests, 100);
        assert_eq!(virtio::run(true, 16, 20).requests, 320);
    }
}
