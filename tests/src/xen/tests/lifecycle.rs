//! Devices come, connect, close, reconnect and go.

use super::guest::*;
use crate::disk::{Latency, MemDisk};
use crate::xen::abi::blkif::{OP_READ, RSP_OKAY};
use crate::xen::abi::state::*;
use crate::xen::abi::store::{DIRECTORY, WATCH};
use crate::xen::blkback::BlkHabits;
use crate::xen::ledger::Complaint;
use crate::xen::pair::Leftover;
use crate::xen::xenbus::VbdSpec;

fn disk(name: &str) -> VbdSpec {
    VbdSpec::new(name, Box::new(MemDisk::new(64, 512)))
}

fn state(guest: &Guest) -> u32 {
    guest.host.vbd(51712).unwrap().pair.state()
}

fn front_state(guest: &mut Guest, state: u32) {
    guest.write(&format!("{FRONT}/state"), &state.to_string());
    guest.host.run(1000);
}

#[test]
fn the_toolstack_makes_what_libxl_makes() {
    let mut guest = Guest::booted(|_| {});
    assert_eq!(guest.host.attach_disk(disk("xvda")), Some(51712));
    assert_eq!(guest.host.attach_disk(disk("xvdb")), Some(51728));
    assert_eq!(guest.host.attach_disk(disk("floppy")), None);
    assert_eq!(guest.store(DIRECTORY, b"device\0").unwrap(), b"vbd\0");
    assert_eq!(
        guest.store(DIRECTORY, b"device/vbd\0").unwrap(),
        b"51712\x0051728\0"
    );
    let back = "/local/domain/0/backend/vbd/5/51712";
    for (key, value) in [
        ("backend", back),
        ("backend-id", "0"),
        ("state", "1"),
        ("virtual-device", "51712"),
        ("device-type", "disk"),
        ("trusted", "1"),
    ] {
        assert_eq!(guest.read(&format!("{FRONT}/{key}")).unwrap(), value);
    }
    assert_eq!(
        guest.read(&format!("{back}/frontend")).unwrap(),
        "/local/domain/5/device/vbd/51712"
    );
    guest.host.run(100);
    assert_eq!(guest.read(&format!("{back}/state")).unwrap(), "2");
    assert_eq!(
        guest.read(&format!("{back}/max-ring-page-order")).unwrap(),
        "4"
    );
    assert_eq!(
        guest.read(&format!("{back}/feature-flush-cache")),
        Err("ENOENT".to_string()),
        "Linux publishes features when it connects"
    );
}

#[test]
fn features_may_be_early_and_keys_may_be_missing() {
    let mut guest = Guest::booted(|_| {});
    let habits = BlkHabits {
        early_features: true,
        flush: false,
        max_ring_page_order: None,
        ..BlkHabits::default()
    };
    guest.host.attach_disk(disk("xvda").habits(habits)).unwrap();
    guest.host.run(100);
    let back = guest.read(&format!("{FRONT}/backend")).unwrap();
    assert_eq!(guest.read(&format!("{back}/sectors")).unwrap(), "64");
    assert_eq!(guest.read(&format!("{back}/feature-barrier")).unwrap(), "1");
    assert!(guest.read(&format!("{back}/feature-flush-cache")).is_err());
    assert!(guest.read(&format!("{back}/max-ring-page-order")).is_err());
}

#[test]
fn close_and_reconnect() {
    let mut guest = Guest::with_disk(64, |_| {});
    guest.grant(16, DATA, 1);
    for _ in 0..3 {
        assert_eq!(guest.perform(&request(OP_READ, 0, 1)), RSP_OKAY);
        front_state(&mut guest, CLOSING);
        assert_eq!(state(&guest), CLOSING);
        assert!(!guest.ungrant(8), "Closing does not give the ring back yet");
        front_state(&mut guest, CLOSED);
        assert_eq!(state(&guest), CLOSED);
        assert!(guest.ungrant(8));
        front_state(&mut guest, INITIALISING);
        assert_eq!(state(&guest), INIT_WAIT);
        guest.connect_front();
    }
    assert!(guest.host.complaints().is_empty());
}

#[test]
fn a_device_left_connected_must_be_closed_first() {
    for leftover in [Leftover::Connected, Leftover::Closed] {
        let mut guest = Guest::booted(|_| {});
        guest
            .host
            .attach_disk(disk("xvda").leftover(leftover))
            .unwrap();
        guest.host.run(100);
        let start = state(&guest);
        front_state(&mut guest, INITIALISING);
        match leftover {
            Leftover::Connected => assert_eq!((start, state(&guest)), (CONNECTED, CONNECTED)),
            _ => assert_eq!((start, state(&guest)), (CLOSED, INIT_WAIT)),
        }
        front_state(&mut guest, CLOSED);
        front_state(&mut guest, INITIALISING);
        assert_eq!(state(&guest), INIT_WAIT);
        guest.connect_front();
        guest.grant(16, DATA, 1);
        assert_eq!(guest.perform(&request(OP_READ, 0, 1)), RSP_OKAY);
    }
}

#[test]
fn detaching_takes_the_guests_consent() {
    let mut guest = Guest::with_disk(64, |_| {});
    guest.store(WATCH, b"device\0w\0").unwrap();
    guest.settle();
    guest.fired.clear();
    guest.host.detach_disk(51712);
    guest.host.run(100);
    let back = guest.read(&format!("{FRONT}/backend")).unwrap();
    assert_eq!(guest.read(&format!("{back}/state")).unwrap(), "5");
    assert_eq!(guest.read(&format!("{back}/online")).unwrap(), "0");
    front_state(&mut guest, CLOSING);
    assert!(guest.host.vbd(51712).is_some());
    front_state(&mut guest, CLOSED);
    assert!(guest.host.vbd(51712).is_none());
    assert_eq!(guest.store(DIRECTORY, b"device/vbd\0").unwrap(), b"");
    assert!(guest.ungrant(8));
    guest.settle();
    assert!(
        guest.fired.iter().any(|(path, _)| path == FRONT),
        "{:?}",
        guest.fired
    );
}

#[test]
fn a_surprise_removal_answers_nothing() {
    let mut guest = Guest::booted(|_| {});
    let habits = BlkHabits {
        latency: Latency {
            min_steps: 50,
            max_steps: 50,
            out_of_order: false,
        },
        ..BlkHabits::default()
    };
    guest.connect(disk("xvda").habits(habits));
    guest.grant(16, DATA, 1);
    guest.submit(&request(OP_READ, 0, 1));
    guest.host.run(10);
    assert_eq!(guest.host.vbd(51712).unwrap().blk.in_flight(), 1);
    guest.host.destroy_disk(51712);
    guest.host.run(1000);
    assert!(guest.responses().is_empty());
    assert!(guest.ungrant(16) && guest.ungrant(8));
    assert_eq!(guest.send(guest.ring_port), 0);
    assert!(guest.read(&format!("{FRONT}/state")).is_err());
}

#[test]
fn bad_keys_end_in_closing() {
    for (key, value, why) in [
        ("ring-ref", "", "no ring-ref"),
        ("ring-ref", "4000", "ring-ref cannot be mapped"),
        ("event-channel", "77", "event-channel cannot be bound"),
        ("event-channel", "x", "no event-channel"),
        ("protocol", "x86_32-abi", "protocol is not x86_64-abi"),
        ("ring-page-order", "5", "ring-page-order above the limit"),
        ("ring-page-order", "1", "a ring-ref is missing"),
    ] {
        let mut guest = Guest::booted(|_| {});
        guest.host.attach_disk(disk("xvda")).unwrap();
        guest.host.run(100);
        guest.grant(8, RING, 1);
        let port = guest.alloc_unbound(0);
        guest.write(&format!("{FRONT}/ring-ref"), "8");
        guest.write(&format!("{FRONT}/event-channel"), &port.to_string());
        guest.write(&format!("{FRONT}/{key}"), value);
        front_state(&mut guest, INITIALISED);
        assert_eq!(state(&guest), CLOSING, "{key}={value}");
        let wanted = Complaint::BadKeys { device: 51712, why };
        assert!(
            guest.host.complaints().contains(&wanted),
            "{:?}",
            guest.host.complaints()
        );
        assert_eq!(guest.grant_flags(8), 1, "{why}");
    }
}

#[test]
fn rings_of_several_pages_under_numbered_keys() {
    for (order, keys) in [
        (None, "ring-ref0"),
        (Some(0), "ring-ref0"),
        (Some(0), "ring-ref"),
    ] {
        let mut guest = Guest::booted(|_| {});
        guest.host.attach_disk(disk("xvda")).unwrap();
        guest.host.run(100);
        guest.grant(8, RING, 1);
        let port = guest.alloc_unbound(0);
        if let Some(order) = order {
            guest.write(&format!("{FRONT}/ring-page-order"), &u32::to_string(&order));
        }
        guest.write(&format!("{FRONT}/{keys}"), "8");
        guest.write(&format!("{FRONT}/event-channel"), &port.to_string());
        front_state(&mut guest, INITIALISED);
        assert_eq!(state(&guest), CONNECTED, "{order:?} {keys}");
    }
    let mut guest = Guest::booted(|_| {});
    guest.host.attach_disk(disk("xvda")).unwrap();
    guest.host.run(100);
    let port = guest.alloc_unbound(0);
    for n in 0..4 {
        guest.grant(8 + n, 8 + u64::from(n), 1);
        guest.write(&format!("{FRONT}/ring-ref{n}"), &(8 + n).to_string());
    }
    guest.write(&format!("{FRONT}/ring-page-order"), "2");
    guest.write(&format!("{FRONT}/event-channel"), &port.to_string());
    front_state(&mut guest, INITIALISED);
    assert_eq!(state(&guest), CONNECTED);
    assert_eq!(guest.host.counters().grant_maps, 4);
}

#[test]
fn several_disks_live_side_by_side() {
    let mut guest = Guest::with_disk(64, |_| {});
    guest.host.attach_disk(disk("xvdb")).unwrap();
    guest
        .host
        .attach_disk(disk("xvdc").leftover(Leftover::Connected))
        .unwrap();
    guest.grant(16, DATA, 1);
    assert_eq!(guest.perform(&request(OP_READ, 0, 1)), RSP_OKAY);
    guest.host.destroy_disk(51728);
    assert_eq!(guest.perform(&request(OP_READ, 8, 1)), RSP_OKAY);
    guest.host.detach_disk(51744);
    guest.host.run(100);
    guest.write("device/vbd/51744/state", "6");
    guest.host.run(100);
    assert_eq!(guest.store(DIRECTORY, b"device/vbd\0").unwrap(), b"51712\0");
    assert_eq!(guest.perform(&request(OP_READ, 16, 1)), RSP_OKAY);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut guest = Guest::booted(|config| config.seed = seed);
        let habits = BlkHabits {
            latency: Latency {
                min_steps: 0,
                max_steps: 9,
                out_of_order: true,
            },
            ..BlkHabits::default()
        };
        guest.connect(disk("xvda").habits(habits));
        guest.grant(16, DATA, 1);
        for n in 0..7 {
            guest.submit(&request(OP_READ, n * 8, 1));
        }
        guest.host.run(1000);
        let order: Vec<u64> = guest.responses().iter().map(|r| r.id).collect();
        (order, guest.host.counters())
    };
    assert_eq!(run(3), run(3));
    assert!((0..10).any(|seed| run(seed).0 != run(3).0));
}
