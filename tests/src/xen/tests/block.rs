//! The block back end through a ring filled by hand.

use super::guest::*;
use crate::disk::{Disk, Latency, MemDisk};
use crate::memory::GuestMemory;
use crate::xen::abi::PAGE;
use crate::xen::abi::blkif::*;
use crate::xen::blkback::BlkHabits;
use crate::xen::ledger::Complaint;
use crate::xen::xenbus::VbdSpec;
use std::sync::{Arc, Mutex};
use zerocopy::{FromBytes, IntoBytes};

fn grant_data(guest: &Guest, pages: u32, flags: u16) {
    for n in 0..pages {
        guest.grant(16 + n, DATA + u64::from(n), flags);
    }
}

fn fill(guest: &Guest, page: u64, byte: u8) {
    guest
        .ram
        .write((DATA + page) * PAGE, &[byte; 4096])
        .unwrap();
}

fn byte(guest: &Guest, page: u64, at: u64) -> u8 {
    let mut byte = [0];
    guest
        .ram
        .read((DATA + page) * PAGE + at, &mut byte)
        .unwrap();
    byte[0]
}

#[test]
fn a_write_reads_back() {
    let mut guest = Guest::with_disk(64, |_| {});
    grant_data(&guest, 3, 1);
    for n in 0..3 {
        fill(&guest, n, n as u8 + 1);
    }
    assert_eq!(guest.perform(&request(OP_WRITE, 8, 3)), RSP_OKAY);
    for n in 0..3 {
        fill(&guest, n, 0);
    }
    assert_eq!(guest.perform(&request(OP_READ, 8, 3)), RSP_OKAY);
    assert_eq!(
        [
            byte(&guest, 0, 0),
            byte(&guest, 1, 4095),
            byte(&guest, 2, 7)
        ],
        [1, 2, 3]
    );
    assert_eq!(guest.perform(&request(OP_FLUSH, 0, 0)), RSP_OKAY);
    let counters = guest.host.counters();
    assert_eq!((counters.requests, counters.responses), (3, 3));
    assert_eq!(
        (counters.bytes_read, counters.bytes_written),
        (3 * 4096, 3 * 4096)
    );
    assert_eq!((counters.grant_maps, counters.grant_unmaps), (7, 6));
    assert!(guest.host.complaints().is_empty());
    for gref in 16..19 {
        assert!(guest.ungrant(gref));
    }
    assert!(!guest.ungrant(8), "the ring is still mapped");
}

#[test]
fn part_of_a_page() {
    let mut guest = Guest::with_disk(64, |_| {});
    grant_data(&guest, 2, 1);
    fill(&guest, 0, 7);
    assert_eq!(guest.perform(&request(OP_WRITE, 0, 1)), RSP_OKAY);
    let mut read = request(OP_READ, 1, 2);
    (read.seg[0].first_sect, read.seg[0].last_sect) = (2, 2);
    (read.seg[1].first_sect, read.seg[1].last_sect) = (7, 7);
    fill(&guest, 0, 0);
    assert_eq!(guest.perform(&read), RSP_OKAY);
    assert_eq!(
        [
            byte(&guest, 0, 1023),
            byte(&guest, 0, 1024),
            byte(&guest, 0, 1536)
        ],
        [0, 7, 0]
    );
    assert_eq!([byte(&guest, 1, 3583), byte(&guest, 1, 3584)], [0, 7]);
}

#[test]
fn requests_the_back_end_refuses() {
    let mut guest = Guest::with_disk(64, |_| {});
    grant_data(&guest, 2, 1);
    let refuse = |guest: &mut Guest, change: &dyn Fn(&mut Request), status, why| {
        let mut bad = request(OP_READ, 8, 2);
        change(&mut bad);
        assert_eq!(guest.perform(&bad), status, "{why}");
        let last = guest.host.complaints().last().cloned();
        assert_eq!(
            last,
            Some(Complaint::BadRequest {
                device: 51712,
                id: bad.id,
                why
            })
        );
    };
    refuse(
        &mut guest,
        &|r| r.nr_segments = 0,
        RSP_ERROR,
        "number of segments",
    );
    refuse(
        &mut guest,
        &|r| r.nr_segments = 12,
        RSP_ERROR,
        "number of segments",
    );
    refuse(
        &mut guest,
        &|r| r.seg[1].last_sect = 8,
        RSP_ERROR,
        "segment outside its page",
    );
    refuse(
        &mut guest,
        &|r| r.seg[1].first_sect = 7 + 1,
        RSP_ERROR,
        "segment outside its page",
    );
    refuse(
        &mut guest,
        &|r| r.sector_number = 49,
        RSP_ERROR,
        "ends beyond the end",
    );
    refuse(
        &mut guest,
        &|r| r.sector_number = 65,
        RSP_ERROR,
        "starts beyond the end",
    );
    refuse(
        &mut guest,
        &|r| r.sector_number = u64::MAX,
        RSP_ERROR,
        "starts beyond the end",
    );
    refuse(
        &mut guest,
        &|r| r.operation = 77,
        RSP_EOPNOTSUPP,
        "unknown operation",
    );
    refuse(
        &mut guest,
        &|r| r.operation = OP_INDIRECT,
        RSP_EOPNOTSUPP,
        "unknown operation",
    );
    let maps = guest.host.counters();
    assert_eq!(maps.grant_maps, 1, "nothing but the ring was ever mapped");
}

#[test]
fn grants_the_back_end_refuses() {
    let mut guest = Guest::with_disk(64, |_| {});
    grant_data(&guest, 1, 1);
    type Case<'a> = (u32, &'a dyn Fn(&Guest));
    let cases: [Case<'_>; 5] = [
        (17, &|_| {}),
        (1000, &|_| {}),
        (18, &|g| g.grant(18, 1 << 30, 1)),
        (19, &|g| g.grant(19, DATA, 1 | 4)),
        (20, &|g| {
            g.grant(20, DATA, 1);
            g.ram.write(TABLE * PAGE + 20 * 8 + 2, &[9, 0]).unwrap();
        }),
    ];
    for (gref, prepare) in cases {
        prepare(&guest);
        let mut read = request(OP_READ, 0, 2);
        read.seg[1].gref = gref;
        assert_eq!(guest.perform(&read), RSP_ERROR);
        let last = guest.host.complaints().last().cloned();
        assert!(matches!(last, Some(Complaint::Grant { gref: g, .. }) if g == gref));
        assert_eq!(guest.grant_flags(16), 1, "the good page was given back");
    }
    // A read-only grant is good for a write to the disk.
    let mut write = request(OP_WRITE, 0, 1);
    write.seg[0].gref = 19;
    assert_eq!(guest.perform(&write), RSP_OKAY);
    assert_eq!(guest.grant_flags(19), 1 | 4);
}

#[test]
fn grants_show_that_they_are_in_use() {
    let mut guest = Guest::booted(|_| {});
    let habits = BlkHabits {
        latency: Latency {
            min_steps: 3,
            max_steps: 3,
            out_of_order: false,
        },
        ..BlkHabits::default()
    };
    guest.connect(VbdSpec::new("xvda", Box::new(MemDisk::new(64, 512))).habits(habits));
    grant_data(&guest, 2, 1);
    guest.submit(&request(OP_READ, 0, 1));
    let mut write = request(OP_WRITE, 0, 1);
    write.seg[0].gref = 17;
    guest.submit(&write);
    while guest.grant_flags(16) == 1 || guest.grant_flags(17) == 1 {
        assert!(guest.host.step());
    }
    assert_eq!(
        guest.grant_flags(16),
        1 | 8 | 16,
        "read from disk: the host writes the page"
    );
    assert_eq!(
        guest.grant_flags(17),
        1 | 8,
        "written to disk: the host reads the page"
    );
    assert!(!guest.ungrant(16));
    guest.host.run(100);
    assert_eq!(guest.responses().len(), 2);
    assert!(guest.ungrant(16) && guest.ungrant(17));
}

#[test]
fn a_back_end_that_copies_holds_nothing_in_between() {
    let mut guest = Guest::booted(|_| {});
    let habits = BlkHabits {
        copies: true,
        early_features: true,
        latency: Latency {
            min_steps: 5,
            max_steps: 5,
            out_of_order: false,
        },
        ..BlkHabits::default()
    };
    guest.connect(VbdSpec::new("xvda", Box::new(MemDisk::new(64, 512))).habits(habits));
    grant_data(&guest, 1, 1);
    fill(&guest, 0, 3);
    guest.submit(&request(OP_WRITE, 0, 1));
    guest.submit(&request(OP_WRITE_BARRIER, 8, 1));
    while guest.host.vbd(51712).unwrap().blk.in_flight() == 0 {
        assert!(guest.host.step());
    }
    assert_eq!(guest.grant_flags(16), 1);
    guest.host.run(100);
    let statuses: Vec<i16> = guest.responses().iter().map(|r| r.status).collect();
    assert_eq!(statuses, [RSP_OKAY, RSP_OKAY]);
    fill(&guest, 0, 0);
    assert_eq!(guest.perform(&request(OP_READ, 8, 1)), RSP_OKAY);
    assert_eq!(byte(&guest, 0, 9), 3);
    assert!(guest.ungrant(16));
    assert_eq!(guest.perform(&request(OP_READ, 8, 1)), RSP_ERROR);
    let counters = guest.host.counters();
    assert_eq!((counters.grant_maps, counters.grant_unmaps), (4, 3));
}

#[test]
fn persistent_grants_stay_mapped() {
    let mut guest = Guest::booted(|_| {});
    guest
        .host
        .attach_disk(VbdSpec::new("xvda", Box::new(MemDisk::new(64, 512))))
        .unwrap();
    guest.write(&format!("{FRONT}/feature-persistent"), "1");
    guest.connect_front();
    grant_data(&guest, 2, 1);
    for n in 0..5 {
        assert_eq!(
            guest.perform(&request(OP_WRITE, n * 16, 2)),
            if n < 4 { RSP_OKAY } else { RSP_ERROR }
        );
    }
    let counters = guest.host.counters();
    assert_eq!((counters.grant_maps, counters.grant_unmaps), (3, 0));
    assert!(!guest.ungrant(16));
    guest.write(&format!("{FRONT}/state"), "6");
    guest.host.run(100);
    assert!(guest.ungrant(16) && guest.ungrant(17) && guest.ungrant(8));
}

#[test]
fn large_sectors_are_still_counted_in_512_bytes() {
    let mut guest = Guest::booted(|_| {});
    guest.connect(VbdSpec::new("xvda", Box::new(MemDisk::new(16, 4096))));
    let back = guest.read(&format!("{FRONT}/backend")).unwrap();
    assert_eq!(guest.read(&format!("{back}/sectors")).unwrap(), "128");
    assert_eq!(guest.read(&format!("{back}/sector-size")).unwrap(), "4096");
    grant_data(&guest, 1, 1);
    fill(&guest, 0, 9);
    assert_eq!(guest.perform(&request(OP_WRITE, 120, 1)), RSP_OKAY);
    assert_eq!(guest.perform(&request(OP_WRITE, 124, 1)), RSP_ERROR);
    let mut part = request(OP_READ, 120, 1);
    part.seg[0].last_sect = 3;
    assert_eq!(guest.perform(&part), RSP_ERROR);
}

#[test]
fn flush_barrier_and_discard_by_habit() {
    let mut guest = Guest::booted(|_| {});
    let disk = Arc::new(Mutex::new(MemDisk::new(64, 512)));
    let habits = BlkHabits {
        discard: true,
        ..BlkHabits::default()
    };
    guest.connect(VbdSpec::new("xvda", Box::new(disk.clone())).habits(habits));
    let back = guest.read(&format!("{FRONT}/backend")).unwrap();
    for key in ["feature-flush-cache", "feature-barrier", "feature-discard"] {
        assert_eq!(guest.read(&format!("{back}/{key}")).unwrap(), "1");
    }
    grant_data(&guest, 1, 1);
    fill(&guest, 0, 5);
    assert_eq!(guest.perform(&request(OP_WRITE, 0, 1)), RSP_OKAY);
    assert_eq!(disk.lock().unwrap().unflushed(), 8);
    assert_eq!(guest.perform(&request(OP_FLUSH, 0, 0)), RSP_OKAY);
    assert_eq!(disk.lock().unwrap().unflushed(), 0);
    assert_eq!(guest.perform(&request(OP_WRITE_BARRIER, 8, 1)), RSP_OKAY);
    assert_eq!(disk.lock().unwrap().unflushed(), 0);
    let discard = Discard {
        operation: OP_DISCARD,
        id: 77,
        sector_number: 4,
        nr_sectors: 4,
        ..Discard::default()
    };
    let mut bytes = [0; 112];
    bytes[..32].copy_from_slice(discard.as_bytes());
    let mut discard = Request::read_from_bytes(&bytes).unwrap();
    assert_eq!(guest.perform(&discard), RSP_OKAY);
    assert_eq!(disk.lock().unwrap().contents()[2048], 0);
    discard.sector_number = 61;
    assert_eq!(guest.perform(&discard), RSP_ERROR);

    let mut vain = Guest::booted(|_| {});
    let habits = BlkHabits {
        offers_in_vain: true,
        ..habits
    };
    vain.connect(VbdSpec::new("xvda", Box::new(MemDisk::new(64, 512))).habits(habits));
    assert_eq!(vain.perform(&request(OP_FLUSH, 0, 0)), RSP_EOPNOTSUPP);
}

#[test]
fn a_barrier_waits_for_what_came_before() {
    for seed in seeds(10) {
        let mut guest = Guest::booted(|config| config.seed = seed);
        let habits = BlkHabits {
            latency: Latency {
                min_steps: 0,
                max_steps: 9,
                out_of_order: true,
            },
            ..BlkHabits::default()
        };
        guest.connect(VbdSpec::new("xvda", Box::new(MemDisk::new(64, 512))).habits(habits));
        grant_data(&guest, 1, 1);
        for sector in [0, 8, 16] {
            guest.submit(&request(OP_WRITE, sector, 1));
        }
        guest.submit(&request(OP_WRITE_BARRIER, 24, 1));
        guest.submit(&request(OP_WRITE, 32, 1));
        guest.host.run(1000);
        let order: Vec<u64> = guest.responses().iter().map(|r| r.id).collect();
        assert_eq!(order[3..], [0x1018, 0x1020]);
    }
}

#[test]
fn completions_come_out_of_order_and_all_come() {
    let mut disordered = false;
    for seed in seeds(10) {
        let mut guest = Guest::booted(|config| config.seed = seed);
        let habits = BlkHabits {
            latency: Latency {
                min_steps: 0,
                max_steps: 20,
                out_of_order: true,
            },
            lazy_events: true,
            ..BlkHabits::default()
        };
        guest.connect(VbdSpec::new("xvda", Box::new(MemDisk::new(512, 512))).habits(habits));
        guest.wait();
        grant_data(&guest, 1, 1);
        for n in 0..32 {
            guest.submit(&request(OP_READ, n * 8, 1));
        }
        let mut ids = Vec::new();
        while ids.len() < 32 {
            let ports = guest.wait();
            assert!(!ports.is_empty(), "an event was lost");
            ids.extend(guest.responses().iter().map(|r| r.id));
        }
        let sorted: Vec<u64> = (0..32).map(|n| 0x1000 + n * 8).collect();
        disordered |= ids != sorted;
        ids.sort_unstable();
        assert_eq!(ids, sorted);
        assert!(guest.host.complaints().is_empty());
    }
    assert!(disordered || cfg!(miri));
}

#[test]
fn events_are_sent_only_when_asked_for() {
    let mut guest = Guest::with_disk(64, |_| {});
    guest.wait();
    grant_data(&guest, 1, 1);
    // Ask for the event of the third response only.
    guest.set(RING, 12, 3);
    let before = guest.host.counters();
    for n in 0..3 {
        guest.push(&request(OP_READ, n * 8, 1));
    }
    guest.send(guest.ring_port);
    guest.host.run(1000);
    let after = guest.host.counters();
    assert_eq!(after.responses - before.responses, 3);
    assert_eq!(after.events_suppressed - before.events_suppressed, 2);
    assert_eq!(after.events_to_guest - before.events_to_guest, 1);
    guest.responses();
    // The back end has asked for an event at the next request, and looks only when it gets it.
    assert!(guest.push(&request(OP_READ, 0, 1)));
    assert_eq!(guest.host.run(1000), 0);
    guest.send(guest.ring_port);
    guest.host.run(1000);
    assert_eq!(guest.responses().len(), 1);
}

#[test]
fn errors_of_the_disk_and_read_only_disks() {
    let mut guest = Guest::booted(|_| {});
    let disk = Arc::new(Mutex::new(MemDisk::new(64, 512)));
    disk.lock().unwrap().fail_reads_of(3);
    guest.connect(VbdSpec::new("xvda", Box::new(disk.clone())));
    grant_data(&guest, 1, 1);
    assert_eq!(guest.perform(&request(OP_READ, 0, 1)), RSP_ERROR);
    assert_eq!(guest.perform(&request(OP_READ, 8, 1)), RSP_OKAY);
    disk.lock().unwrap().fail_flushes(true);
    assert_eq!(guest.perform(&request(OP_FLUSH, 0, 0)), RSP_ERROR);

    let mut guest = Guest::booted(|_| {});
    let mut disk = MemDisk::new(64, 512);
    disk.set_read_only(true);
    assert!(disk.read_only());
    guest.connect(VbdSpec::new("xvda", Box::new(disk)));
    let back = guest.read(&format!("{FRONT}/backend")).unwrap();
    assert_eq!(guest.read(&format!("{back}/mode")).unwrap(), "r");
    assert_eq!(
        guest.read(&format!("{back}/info")).unwrap(),
        VDISK_READONLY.to_string()
    );
    grant_data(&guest, 1, 1);
    assert_eq!(guest.perform(&request(OP_WRITE, 0, 1)), RSP_ERROR);
    assert_eq!(guest.perform(&request(OP_READ, 0, 1)), RSP_OKAY);
}

#[test]
fn an_overrun_ring_is_given_up() {
    let mut guest = Guest::with_disk(64, |_| {});
    guest.set(RING, 0, 33);
    guest.send(guest.ring_port);
    guest.host.run(100);
    assert_eq!(
        guest.host.complaints(),
        [Complaint::RingOverrun { device: 51712 }]
    );
    assert!(guest.host.vbd(51712).unwrap().blk.broken());
    assert_eq!(guest.host.counters().responses, 0);
}
