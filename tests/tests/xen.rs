//! The Xen driver's own services over the simulated host: clock, timer, console, grants, events.

use hypercall::host::{HostKind, Shutdown};
use hypercall::platform::{Platform as _, wait_for};
use hypercall::shm::{Access, Pages};
use hypercall::xen::Upcall;
use hypercall::{Hypervisor, Port};
use pv_tests::sim_xen::SimXen;
use pv_tests::xen::abi::ops::E820Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

const MS: u64 = 1_000_000;

#[test]
fn says_who_it_is() {
    let (sim, xen) = SimXen::boot(128, |config| config.version = (4, 17));
    let identity = xen.identity();
    assert_eq!(identity.kind, HostKind::Xen);
    assert_eq!(identity.to_string(), "Xen 4.17");
    assert_eq!(xen.upcall(), Upcall::PerCpu);
    assert_eq!(sim.host().complaints(), []);
    assert_eq!(
        xen.counters().hypercalls,
        sim.host().counters().hypercalls_total()
    );
}

#[test]
fn falls_back_to_the_callback_by_vector() {
    let (sim, xen) = SimXen::boot(128, |config| config.upcall_vector = false);
    assert_eq!(xen.upcall(), Upcall::Domain);
    xen.set_timer(xen.clock() + MS).unwrap();
    let platform = sim.platform();
    let waited = wait_for(&platform, 10 * MS, || xen.take_timer().then_some(()));
    assert_eq!(waited, Ok(()));
}

#[test]
fn is_found_behind_viridian_leaves() {
    let (_, xen) = SimXen::boot(128, |config| config.viridian = true);
    assert_eq!(xen.identity().kind, HostKind::Xen);
}

#[test]
fn the_clock_follows_the_hosts() {
    for tsc_hz in [800_000_000, 1_000_000_000, 2_400_000_000, 5_100_000_000] {
        let (sim, xen) = SimXen::boot(128, |config| config.tsc_hz = tsc_hz);
        let mut last = xen.clock();
        for step in [1, 999, 1_000_003, 86_400_000_000_007] {
            sim.host().advance(step);
            let now = xen.clock();
            let host = sim.host().now();
            // The scale has 32 bits, and the host writes a new time stamp at each step.
            assert!(now.abs_diff(host) <= 2, "{now} {host} at {tsc_hz}");
            assert!(now >= last);
            last = now;
        }
    }
}

#[test]
fn the_clock_never_goes_back_and_never_hangs() {
    let (sim, xen) = SimXen::boot(128, |_| {});
    sim.host().advance(5_000 * MS);
    let before = xen.clock();
    let shared = shared_info(&sim);
    let at = (shared - sim.ram().base()) as usize;
    // A version that is odd for ever.
    sim.ram().span().store_u32(at + 32, 7).unwrap();
    assert_eq!(xen.clock(), before);
    // A clock that jumps back.
    sim.ram().span().store_u32(at + 32, 8).unwrap();
    sim.ram().span().store_u64(at + 48, 0).unwrap();
    assert_eq!(xen.clock(), before);
    // Nonsense.
    sim.ram().span().store_u32(at + 56, u32::MAX).unwrap();
    sim.ram().span().store_u8(at + 60, 0x80).unwrap();
    assert!(xen.clock() >= before);
}

/// The shared info page is the first that the driver asks for; three are set aside before.
fn shared_info(sim: &SimXen) -> u64 {
    sim.ram().base() + 3 * 4096
}

#[test]
fn the_wall_clock_is_the_start_and_what_has_passed() {
    let (sim, xen) = SimXen::boot(128, |config| config.boot_wall_s = (1 << 33) + 5);
    sim.host().advance(1_500 * MS);
    let wall = xen.wall_clock().unwrap();
    let expected = ((1 << 33) + 5) * 1_000_000_000 + 1_500 * MS;
    assert!(wall.abs_diff(expected) < 10, "{wall}");
    let (_, xen) = SimXen::boot(128, |config| config.boot_wall_s = 0);
    assert_eq!(xen.wall_clock(), None);
}

#[test]
fn the_timer_fires_once_when_it_should() {
    let (sim, xen) = SimXen::boot(128, |_| {});
    let platform = sim.platform();
    let at = xen.clock() + 3 * MS;
    xen.set_timer(at).unwrap();
    assert!(!xen.take_timer());
    wait_for(&platform, 1_000 * MS, || xen.take_timer().then_some(())).unwrap();
    let now = xen.clock();
    assert!(now >= at && now < at + MS, "{now} {at}");
    assert!(!xen.take_timer());
    // Setting it anew replaces, and stopping cancels.
    xen.set_timer(now + 50 * MS).unwrap();
    xen.set_timer(now + 2 * MS).unwrap();
    wait_for(&platform, now + 10 * MS, || xen.take_timer().then_some(())).unwrap();
    let now = xen.clock();
    xen.set_timer(now + MS).unwrap();
    xen.stop_timer();
    let late = wait_for(&platform, now + 100 * MS, || xen.take_timer().then_some(()));
    assert!(late.is_err());
}

#[test]
fn a_moment_that_has_passed_interrupts_at_once() {
    let (sim, xen) = SimXen::boot(128, |_| {});
    sim.host().advance(100 * MS);
    for at in [0, 1, 50 * MS] {
        let platform = sim.platform();
        let token = platform.wait_token();
        xen.set_timer(at).unwrap();
        let before = xen.clock();
        wait_for(&platform, before + MS, || xen.take_timer().then_some(())).unwrap();
        assert_ne!(
            platform.wait_token(),
            token,
            "an interrupt, not just a flag"
        );
        assert_eq!(xen.clock(), before);
    }
}

#[test]
fn writes_and_reads_the_console_ring() {
    let (sim, xen) = SimXen::boot(128, |_| {});
    assert_eq!(xen.console_write(b"hello, console\n"), 15);
    sim.settle();
    assert_eq!(sim.host().console().output(), b"hello, console\n");
    // Full at 2048, and open again when the host has read.
    let long = [b'x'; 3000];
    assert_eq!(xen.console_write(&long), 2048);
    assert_eq!(xen.console_write(&long), 0);
    sim.settle();
    assert_eq!(xen.console_write(&long[2048..]), 952);
    sim.settle();
    assert_eq!(sim.host().console().output().len(), 15 + 3000);
    sim.host().console().type_in(b"typed");
    sim.settle();
    let mut line = [0; 16];
    assert_eq!(xen.console_read(&mut line), 5);
    assert_eq!(&line[..5], b"typed");
    assert!(!sim.host().console().broken());
}

#[test]
fn a_console_index_out_of_bounds_is_latched() {
    let (sim, xen) = SimXen::boot(128, |_| {});
    let gfn = xen.hvm_param(17).unwrap();
    let at = (gfn * 4096 - sim.ram().base()) as usize;
    sim.ram().span().store_u32(at + 3080, 5000).unwrap();
    assert_eq!(xen.console_write(b"lost"), 0);
    sim.ram().span().store_u32(at + 3080, 0).unwrap();
    // The ring is done with; Xen's own console is not.
    assert_eq!(xen.console_write(b"kept"), 4);
    assert_eq!(sim.host().console().emergency(), b"kept");
}

#[test]
fn a_crash_is_told_on_both_consoles() {
    let (sim, xen) = SimXen::boot(128, |_| {});
    xen.report_crash([1, 2, 0xabc, 4, 5], "out of cheese");
    sim.settle();
    let mut host = sim.host();
    let ring = String::from_utf8_lossy(host.console().output()).into_owned();
    let own = String::from_utf8_lossy(host.console().emergency()).into_owned();
    for text in [ring, own] {
        assert!(
            text.contains("out of cheese") && text.contains("abc"),
            "{text}"
        );
    }
    assert_eq!(host.shutdown_reason(), None);
}

#[test]
fn shuts_down_as_asked() {
    for (how, reason) in [
        (Shutdown::PowerOff, 0),
        (Shutdown::Reboot, 1),
        (Shutdown::Crash, 3),
    ] {
        let (sim, xen) = SimXen::boot(128, |_| {});
        xen.shutdown(how).unwrap();
        assert_eq!(sim.host().shutdown_reason(), Some(reason));
    }
    let (sim, xen) = SimXen::boot(128, |_| {});
    assert!(xen.shutdown(Shutdown::Suspend).is_err());
    assert_eq!(sim.host().shutdown_reason(), None);
}

#[test]
fn asks_for_the_memory_map() {
    let entry = |addr, size, kind| E820Entry { addr, size, kind };
    let (_, xen) = SimXen::boot(128, |config| {
        config.memory_map = vec![entry(0, 0x9f000, 1), entry(1 << 32, 1 << 30, 1)];
    });
    let mut seen = Vec::new();
    xen.memory_map(|range| seen.push((range.start, range.size, range.kind)))
        .unwrap();
    assert_eq!(seen, [(0, 0x9f000, 1), (1 << 32, 1 << 30, 1)]);
    let (_, xen) = SimXen::boot(128, |_| {});
    assert!(xen.memory_map(|_| {}).is_err());
}

#[test]
fn grants_are_consecutive_and_come_back() {
    let (sim, xen) = SimXen::boot(256, |_| {});
    let used = sim.ram().used_pages();
    let share = |count, access| {
        let pages = Pages::alloc(xen.platform(), count).unwrap();
        xen.share(pages, 0, access).unwrap()
    };
    let one = share(1, Access::ReadWrite);
    let many = share(40, Access::ReadOnly);
    let first = many.grant().unwrap();
    assert!(one.grant().unwrap() >= 8, "the first eight are reserved");
    assert_eq!(many.token(39), Some(u64::from(first) + 39));
    assert_eq!(many.token(40), None);
    assert_eq!(sim.host().granted().len(), 41);
    let back = xen.unshare(many).unwrap();
    assert_eq!(back.count(), 40);
    assert_eq!(sim.host().granted(), [one.grant().unwrap()]);
    drop(xen.unshare(one).unwrap());
    drop(back);
    assert_eq!(sim.host().granted(), []);
    assert_eq!(sim.ram().used_pages(), used);
    let counters = xen.counters();
    assert_eq!((counters.pages_lent, counters.pages_reclaimed), (41, 41));
    // What was freed is found again, from the start.
    let again = share(40, Access::ReadWrite);
    assert_eq!(again.grant(), Some(8));
    assert_eq!(sim.host().complaints(), []);
}

#[test]
fn the_table_grows_and_has_an_end() {
    let (sim, xen) = SimXen::boot(3000, |config| config.max_grant_frames = 3);
    let mut lent = Vec::new();
    let refused = loop {
        let pages = Pages::alloc(xen.platform(), 100).unwrap();
        match xen.share(pages, 0, Access::ReadWrite) {
            Ok(run) => lent.push(run),
            Err((why, pages)) => {
                assert_eq!(pages.count(), 100);
                break why;
            }
        }
    };
    assert_eq!(refused.to_string(), "no grant references or channels left");
    assert_eq!(sim.host().grants().frames(), 3);
    // Runs may cross frames: (3 * 512 - 8) / 100.
    assert_eq!(lent.len(), 15);
    let mut all: Vec<_> = lent
        .iter()
        .flat_map(|run| (0..100).map(|i| run.token(i).unwrap()))
        .collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 1500);
    for run in lent {
        drop(xen.unshare(run).unwrap());
    }
    assert_eq!(sim.host().granted(), []);
    assert_eq!(sim.host().complaints(), []);
}

#[test]
fn threads_never_share_a_reference() {
    let (sim, xen) = SimXen::boot(2000, |_| {});
    std::thread::scope(|scope| {
        for thread in 1..=4 {
            let xen = &xen;
            scope.spawn(move || {
                for round in 0..if cfg!(miri) { 3 } else { 200 } {
                    let count = 1 + (round * thread) % 37;
                    let pages = Pages::alloc(xen.platform(), count).unwrap();
                    let run = xen.share(pages, thread as u16, Access::ReadWrite).unwrap();
                    // Nobody else's grant stands where ours should.
                    drop(xen.unshare(run).expect("our own, unmapped"));
                }
            });
        }
    });
    assert_eq!(sim.host().granted(), []);
}

#[test]
fn an_earlier_kernels_grants_are_left_alone() {
    let (sim, xen) = SimXen::boot(256, |_| {});
    let pages = Pages::alloc(xen.platform(), 20).unwrap();
    let lent = xen.share(pages, 0, Access::ReadWrite).unwrap();
    assert_eq!(lent.grant(), Some(8));
    // A new kernel on the same machine, as after kexec: the grants stand.
    let second = sim.start();
    assert_eq!(sim.host().granted().len(), 20);
    let pages = Pages::alloc(second.platform(), 2).unwrap();
    let new = second.share(pages, 0, Access::ReadWrite).unwrap();
    assert_eq!(new.grant(), Some(28));
    // And its timer works although the port was bound already.
    second.set_timer(second.clock() + MS).unwrap();
    sim.host().advance(2 * MS);
    sim.settle();
    assert!(second.take_timer());
}

#[test]
fn a_foreign_loan_is_not_taken_back() {
    let (_one, first) = SimXen::boot(128, |_| {});
    let (_two, second) = SimXen::boot(256, |_| {});
    // The same reference on the other machine, for another frame.
    let spacer = Pages::alloc(second.platform(), 3).unwrap();
    let own = second
        .share(
            Pages::alloc(second.platform(), 1).unwrap(),
            0,
            Access::ReadWrite,
        )
        .unwrap();
    let foreign = first
        .share(
            Pages::alloc(first.platform(), 1).unwrap(),
            0,
            Access::ReadWrite,
        )
        .unwrap();
    assert_eq!(own.grant(), foreign.grant());
    let (_, foreign) = second.unshare(foreign).unwrap_err();
    assert!(first.unshare(foreign).is_ok());
    assert!(second.unshare(own).is_ok());
    drop(spacer);
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn an_event_storm_wakes_only_who_waits() {
    let (sim, xen) = SimXen::boot(128, |config| config.seed = 3);
    let ports: Vec<_> = (0..20).map(|_| xen.alloc_unbound(0).unwrap()).collect();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let line = |port| Port {
        to: port,
        from: port,
    };
    xen.register_waker(line(ports[4]), &Waker::from(count.clone()))
        .unwrap();
    sim.host().hostile().event_storm = 500;
    sim.settle();
    let pending = ports.iter().filter(|p| xen.take_pending(line(**p))).count();
    assert!(pending > 15, "{pending}");
    assert!(count.0.load(Ordering::Relaxed) >= 1);
    assert!(ports.iter().all(|p| !xen.take_pending(line(*p))));
    // A closed port signals no more.
    xen.close_port(ports[7]);
    sim.host().hostile().event_storm = 500;
    sim.settle();
    assert!(!xen.take_pending(line(ports[7])));
    assert_eq!(xen.counters().interrupts, sim.host().counters().interrupts);
}

#[test]
fn what_it_needs_it_asks_for_once() {
    let (sim, xen) = SimXen::boot(128, |_| {});
    let before = sim.host().counters().hypercalls_total();
    for _ in 0..100 {
        xen.clock();
        xen.wall_clock();
        xen.take_timer();
        xen.on_interrupt();
    }
    assert_eq!(sim.host().counters().hypercalls_total(), before);
    assert!(before < 20, "{before} hypercalls to start");
}
