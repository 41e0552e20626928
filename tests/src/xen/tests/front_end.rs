//! The real block front end against the hostile knobs: an error each, and a disk that works again.

use super::guest::seeds;
use crate::disk::{Latency, MemDisk};
use crate::sim_xen::SimXen;
use crate::suite::XenLab;
use crate::suite::lab::{Lab, Setup};
use crate::xen::blkback::BlkHabits;
use crate::xen::hostile::{BlkMischief, Plan, Strike};
use crate::xen::pair::Leftover;
use crate::xen::xenbus::VbdSpec;
use blkfront::blocking::Disk;
use blkfront::{Block, Completion, IoError, Request};
use hypercall::HostFault;

fn read(queue: &mut dyn Block, sector: u64) {
    let buf = queue.alloc(4096).unwrap();
    queue.submit(Request::read(sector, buf)).unwrap();
}

/// Polls until nothing is in flight, the device has failed, or a second has passed.
fn settle(queue: &mut dyn Block) -> Vec<Completion> {
    let mut done = Vec::new();
    let end = queue.now() + 1_000_000_000;
    while queue.in_flight() > 0 && queue.fault().is_none() && queue.now() < end {
        queue.poll_dyn(64, &mut |completion| done.push(completion));
        let until = queue.now() + 10_000_000;
        queue.pause(until);
    }
    queue.poll_dyn(64, &mut |completion| done.push(completion));
    done
}

/// An honest host again: the disk reconnects and holds what it held.
fn recovers(queue: &mut dyn Block) {
    queue.reconnect().unwrap();
    assert_eq!(queue.fault(), None);
    let mut disk = Disk::new(queue, 0).unwrap();
    let mut back = [0; 512];
    disk.write_from(0, &[0x5a; 512]).unwrap();
    disk.read_into(0, &mut back).unwrap();
    assert_eq!(back, [0x5a; 512]);
}

fn plan(sim: &SimXen, what: BlkMischief, when: Strike) {
    sim.host().hostile().blk = Some(Plan { what, when });
}

#[test]
fn every_lie_of_a_back_end_is_an_error_and_no_more() {
    let lies: [(BlkMischief, Option<HostFault>); 14] = [
        (BlkMischief::Silent, None),
        (BlkMischief::NoEvent, None),
        (BlkMischief::Scribble, None),
        (BlkMischief::Status(-1), None),
        (BlkMischief::Status(-2), None),
        (BlkMischief::ProducerJump(33), Some(HostFault::RingIndex)),
        (BlkMischief::ProducerJump(40), Some(HostFault::RingIndex)),
        (
            BlkMischief::ProducerJump(0x8000_0000),
            Some(HostFault::RingIndex),
        ),
        (
            BlkMischief::ProducerJump(u32::MAX),
            Some(HostFault::RingIndex),
        ),
        (BlkMischief::Id(u64::MAX), Some(HostFault::UnknownId)),
        (BlkMischief::Id(31), Some(HostFault::UnknownId)),
        (BlkMischief::Id(1 << 32), Some(HostFault::UnknownId)),
        (BlkMischief::Twice, Some(HostFault::UnknownId)),
        (BlkMischief::WrongOperation, Some(HostFault::WrongOperation)),
    ];
    for (what, fault) in lies.into_iter().step_by(if cfg!(miri) { 5 } else { 1 }) {
        for after in seeds(3) {
            let lab = XenLab::new(Setup::default());
            lab.run(|queue| {
                plan(lab.sim(), what, Strike { after, times: 1 });
                for n in 0..4 {
                    read(queue, n * 8);
                }
                queue.publish();
                let done = settle(queue);
                // Scribbling also spoils requests that were not taken yet, in unforeseen ways.
                let fault = match what {
                    BlkMischief::Scribble => queue.fault(),
                    _ => fault,
                };
                assert_eq!(queue.fault(), fault, "{what:?} after {after}");
                let failed = done.iter().filter(|c| c.result.is_err()).count();
                match what {
                    BlkMischief::Silent => assert_eq!((done.len(), queue.in_flight()), (3, 1)),
                    BlkMischief::Status(_) => assert_eq!((done.len(), failed), (4, 1)),
                    _ if fault.is_none() => assert_eq!((done.len(), failed), (4, 0)),
                    _ => {
                        let why = Err(IoError::Host(fault.unwrap()));
                        assert!(done.iter().all(|c| c.result.is_ok() || c.result == why));
                        assert!(failed > 0 || what == BlkMischief::Twice, "{what:?}");
                    }
                }
                lab.sim().host().hostile().blk = None;
                recovers(queue);
            });
        }
    }
}

#[test]
fn a_host_that_keeps_the_ring_keeps_its_memory() {
    let lab = XenLab::new(Setup::default());
    lab.run(|queue| {
        lab.sim().host().hostile().hold_grants = true;
        read(queue, 0);
        queue.publish();
        assert_eq!(settle(queue).len(), 1);
        assert_eq!(queue.close(), Err(HostFault::MemoryHeld));
        lab.sim().host().hostile().hold_grants = false;
        lab.sim().settle();
        recovers(queue);
        // The page stays in quarantine for good, so the lab must not count pages.
        lab.sim().host().hostile().hold_grants = true;
    });
}

#[test]
fn a_storm_of_events_costs_time_only() {
    let lab = XenLab::new(Setup::default());
    lab.run(|queue| {
        lab.sim().host().hostile().event_storm = 5000;
        for n in 0..8 {
            read(queue, n * 8);
        }
        queue.publish();
        let done = settle(queue);
        assert_eq!(done.iter().filter(|c| c.result.is_ok()).count(), 8);
        lab.sim().settle();
        recovers(queue);
    });
}

#[test]
fn a_back_end_that_closes_at_any_step_loses_requests_and_nothing_else() {
    let mut withdrawn = 0;
    for steps in seeds(60) {
        let lab = XenLab::new(Setup {
            shuffle: Some(steps),
            ..Setup::default()
        });
        lab.run(|queue| {
            lab.sim().host().hostile().close_back_ends_in = Some(steps);
            for n in 0..8 {
                read(queue, n * 8);
            }
            queue.publish();
            let done = settle(queue);
            let lost = Err(IoError::Host(HostFault::Withdrawn));
            assert!(done.iter().all(|c| c.result.is_ok() || c.result == lost));
            assert_eq!(done.len(), 8, "a request was forgotten after {steps} steps");
            withdrawn += usize::from(queue.fault() == Some(HostFault::Withdrawn));
            while lab.sim().host().hostile().close_back_ends_in.is_some() && lab.step() {}
            lab.sim().host().hostile().close_back_ends_in = None;
            recovers(queue);
        });
    }
    assert!(withdrawn > 10 || cfg!(miri), "{withdrawn}");
}

#[test]
fn every_habit_and_every_leftover_of_an_honest_back_end() {
    let linux = BlkHabits::default();
    let qemu = BlkHabits {
        early_features: true,
        copies: true,
        barrier: false,
        ..linux
    };
    let habits = [
        linux,
        qemu,
        BlkHabits {
            persistent: false,
            ..linux
        },
        BlkHabits {
            flush: false,
            ..linux
        },
        BlkHabits {
            flush: false,
            barrier: false,
            discard: true,
            max_ring_page_order: None,
            ..qemu
        },
        BlkHabits {
            offers_in_vain: true,
            ..linux
        },
        BlkHabits {
            lazy_events: true,
            latency: Latency {
                min_steps: 1,
                max_steps: 30,
                out_of_order: true,
            },
            ..linux
        },
    ];
    for habits in habits.into_iter().step_by(if cfg!(miri) { 5 } else { 1 }) {
        for leftover in [Leftover::None, Leftover::Closed, Leftover::Connected] {
            let lab = XenLab::new(Setup::default());
            lab.sim().host().destroy_disk(lab.device());
            let disk = Box::new(MemDisk::new(4096, 512));
            let spec = VbdSpec::new("xvdc", disk).habits(habits).leftover(leftover);
            lab.sim().host().attach_disk(spec).unwrap();
            lab.run(|queue| {
                recovers(queue);
                let offered = queue.units()[0].limits.flush;
                assert_eq!(offered, habits.flush || habits.barrier, "{habits:?}");
                if offered {
                    queue.submit(Request::flush()).unwrap();
                    queue.publish();
                    let done = settle(queue);
                    let wanted = match habits.offers_in_vain {
                        true => Err(IoError::Unsupported),
                        false => Ok(()),
                    };
                    assert_eq!(done[0].result, wanted, "{habits:?}");
                }
                recovers(queue);
            });
            assert_eq!(lab.violations(), [""; 0], "{habits:?} {leftover:?}");
        }
    }
}
