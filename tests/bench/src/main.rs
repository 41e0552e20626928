//! What one block request costs the driver, counted.
//!
//! `pv-bench WHICH DEPTH BATCHES` reads 4 KiB blocks in batches of DEPTH and prints counters as
//! one line of JSON. Run under callgrind with `--toggle-collect=pv_bench::count::measured*
//! --toggle-collect=pv_bench::count::excluded*` it counts the instructions of the driver and of its
//! caller: collection is on inside `measured` and off again inside `excluded`, where the host is at
//! work. Two runs of different length cancel what is spent once. `cargo xtask bench` does both and
//! makes a table.
//!
//! The caller is the same for all: an array with a place for each buffer, from which it submits in
//! order, and into which it puts what comes back. `count` tells drivers from hosts, `hosts` brings
//! the simulated ones up, `block` has our drivers of disks and `virtio` the yardstick.
//!
//! For networks WHICH is `netif-tx` or `netif-rx`, `netvsc-tx` or `netvsc-rx` (frames of 64 bytes; with `-1514` full ones, with
//! `-tso` TCP segments of 64 KiB), and a request is a frame sent, or received and dropped; of
//! `netif-rx-claimed` it is one of 1514 bytes whose page is taken back from the host and lent
//! again. The yardstick is `virtio-net-tx` and `virtio-net-rx`.

mod block;
mod count;
mod hosts;
mod net;
mod virtio;
mod virtio_net;

use net::Size;
use std::ops::Sub;
use std::process::ExitCode;

/// What was measured, but for instructions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measure {
    pub requests: u64,
    pub counted: Counted,
    /// Nanoseconds of wall time inside the driver.
    pub nanoseconds: u64,
}

/// What reaches the host, counted: it is the same at every run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    pub hypercalls: u64,
    pub signals: u64,
    pub interrupts: u64,
    /// Pages lent and taken back.
    pub grants: u64,
    /// Bytes.
    pub copied: u64,
}

impl Sub for Counted {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            hypercalls: self.hypercalls - before.hypercalls,
            signals: self.signals - before.signals,
            interrupts: self.interrupts - before.interrupts,
            grants: self.grants - before.grants,
            copied: self.copied - before.copied,
        }
    }
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
        // What the rings hold.
        "netif-tx-tso" | "netif-rx-tso" | "netif-rx-claimed-tso" | "netvsc-tx-tso" => depth.min(12),
        _ => depth,
    };
    let measure = match which {
        "blkif" => block::blkif(depth, batches),
        "storvsc" => block::storvsc(depth, batches),
        "virtio" => virtio::run(false, depth, batches),
        "virtio-indirect" => virtio::run(true, depth, batches),
        "netif-tx" => net::netif_tx(Size::Small, depth, batches),
        "netif-tx-1514" => net::netif_tx(Size::Full, depth, batches),
        "netif-tx-tso" => net::netif_tx(Size::Segment, depth, batches),
        "netif-rx" => net::netif_rx(Size::Small, depth, batches),
        "netif-rx-1514" => net::netif_rx(Size::Full, depth, batches),
        "netif-rx-tso" => net::netif_rx(Size::Segment, depth, batches),
        "netif-rx-claimed" => net::netif_rx_claimed(Size::Full, depth, batches),
        "netif-rx-claimed-tso" => net::netif_rx_claimed(Size::Segment, depth, batches),
        "netvsc-tx" => net::netvsc_tx(Size::Small, depth, batches),
        "netvsc-tx-1514" => net::netvsc_tx(Size::Full, depth, batches),
        "netvsc-tx-tso" => net::netvsc_tx(Size::Segment, depth, batches),
        "netvsc-rx" => net::netvsc_rx(Size::Small, depth, batches),
        "netvsc-rx-1514" => net::netvsc_rx(Size::Full, depth, batches),
        "virtio-net-tx" => virtio_net::tx(depth, batches),
        "virtio-net-rx" => virtio_net::rx(depth, batches),
        _ => return usage(),
    };
    println!(
        "{{\"which\":\"{which}\",\"depth\":{depth},\"requests\":{},\"hypercalls\":{},\
         \"signals\":{},\"interrupts\":{},\"grants\":{},\"copied\":{},\"nanoseconds\":{}}}",
        measure.requests,
        measure.counted.hypercalls,
        measure.counted.signals,
        measure.counted.interrupts,
        measure.counted.grants,
        measure.counted.copied,
        measure.nanoseconds,
    );
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: pv-bench blkif|storvsc|virtio|virtio-indirect|netif-(tx|rx)[-1514|-tso]|\
         netif-rx-claimed[-tso]|\
         netvsc-(tx|rx)[-1514]|netvsc-tx-tso|\
         virtio-net-(tx|rx) DEPTH(1-32) BATCHES"
    );
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One hypercall, a notification, and one interrupt a batch; no grant, and no copy.
    fn once_a_batch(batches: u64) -> Counted {
        Counted {
            hypercalls: batches,
            signals: batches,
            interrupts: batches,
            ..Counted::default()
        }
    }

    #[test]
    fn a_batch_costs_xen_one_hypercall_one_interrupt_and_no_grant() {
        for depth in [1, 32] {
            let measure = block::blkif(depth, 50);
            assert_eq!(measure.requests, 50 * depth as u64);
            assert_eq!(measure.counted, once_a_batch(50));
        }
    }

    #[test]
    fn a_batch_costs_hyperv_one_hypercall_one_interrupt_and_no_copy() {
        for depth in [1, 32] {
            let measure = block::storvsc(depth, 50);
            assert_eq!(measure.requests, 50 * depth as u64);
            assert_eq!(measure.counted, once_a_batch(50));
        }
    }

    #[test]
    fn the_yardstick_finishes_its_requests() {
        // Its queue holds 5 requests without indirect descriptors, and 16 with.
        assert_eq!(virtio::run(false, 5, 20).requests, 100);
        assert_eq!(virtio::run(true, 16, 20).requests, 320);
    }

    #[test]
    fn frames_cost_no_grant_and_no_copy_and_a_batch_one_signal_or_interrupt() {
        for size in [Size::Small, Size::Full, Size::Segment] {
            let sent = net::netif_tx(size, 12, 50);
            let signals = Counted {
                hypercalls: 50,
                signals: 50,
                ..Counted::default()
            };
            assert_eq!((sent.requests, sent.counted), (600, signals));
            let received = net::netif_rx(size, 12, 50);
            let interrupts = Counted {
                interrupts: 50,
                ..Counted::default()
            };
            assert_eq!((received.requests, received.counted), (600, interrupts));
        }
    }

    #[test]
    fn claimed_frames_cost_two_grants_a_page_and_no_copy() {
        for (size, pages) in [(Size::Full, 1), (Size::Segment, 16)] {
            let received = net::netif_rx_claimed(size, 12, 50);
            let counted = Counted {
                interrupts: 50,
                grants: 2 * 600 * pages,
                ..Counted::default()
            };
            assert_eq!((received.requests, received.counted), (600, counted));
        }
    }

    #[test]
    fn frames_cost_hyperv_no_copy_and_a_batch_one_signal() {
        let signals = Counted {
            interrupts: 0,
            ..once_a_batch(50)
        };
        for size in [Size::Small, Size::Full, Size::Segment] {
            let sent = net::netvsc_tx(size, 12, 50);
            assert_eq!((sent.requests, sent.counted), (600, signals));
        }
        for size in [Size::Small, Size::Full] {
            let received = net::netvsc_rx(size, 12, 50);
            assert_eq!(
                (received.requests, received.counted),
                (600, once_a_batch(50))
            );
        }
    }

    #[test]
    fn the_yardstick_for_networks_moves_its_frames() {
        assert_eq!(virtio_net::tx(32, 20).requests, 640);
        assert_eq!(virtio_net::rx(32, 20).requests, 640);
    }
}
