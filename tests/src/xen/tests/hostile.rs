//! The hostile knobs do what they say.

use super::guest::*;
use crate::disk::MemDisk;
use crate::xen::abi::blkif::*;
use crate::xen::abi::store::{READ, WATCH_EVENT};
use crate::xen::hostile::{BlkMischief, Plan, StoreMischief, Strike};
use crate::xen::machine::Idle;
use crate::xen::xenbus::VbdSpec;

fn store_plan(guest: &mut Guest, what: StoreMischief, when: Strike) {
    guest.host.hostile().store = Some(Plan { what, when });
}

fn blk_plan(guest: &mut Guest, what: BlkMischief) {
    let when = Strike::ONCE;
    guest.host.hostile().blk = Some(Plan { what, when });
}

#[test]
fn a_xenstore_that_never_answers() {
    for what in [StoreMischief::Silent, StoreMischief::Deaf] {
        let mut guest = Guest::booted(|_| {});
        guest.wait();
        store_plan(&mut guest, what, Strike::ALWAYS);
        guest.ask(READ, 0, b"name\0");
        assert!(guest.receive().is_none());
        let read = guest.word(STORE, 2048) != 0;
        assert_eq!(read, what == StoreMischief::Silent);
        guest.host.hostile().store = None;
        if !read {
            assert_eq!(guest.receive().unwrap().1, b"guest");
        }
        assert_eq!(guest.read("domid").unwrap(), "5");
    }
}

#[test]
fn replies_of_every_wrong_kind() {
    let honest = b"guest".as_slice();
    type Check<'a> = &'a dyn Fn(u32, u32, u32, u32, &[u8]) -> bool;
    let cases: [(StoreMischief, Check<'_>); 5] = [
        (StoreMischief::WrongReqId, &|id, asked, kind, _, body| {
            id != asked && kind == READ && body == honest
        }),
        (StoreMischief::WrongType, &|id, asked, kind, _, _| {
            id == asked && kind == READ + 40
        }),
        (StoreMischief::MissingNul, &|_, _, _, len, body| {
            len == 4 && body == b"gues"
        }),
        (StoreMischief::NotText, &|_, _, _, len, body| {
            len == 5 && body == [0xfe; 5]
        }),
        (StoreMischief::Twice, &|id, asked, _, _, body| {
            id == asked && body == honest
        }),
    ];
    for (what, check) in cases {
        let mut guest = Guest::booted(|_| {});
        store_plan(&mut guest, what, Strike::ONCE);
        let asked = guest.ask(READ, 0, b"name\0");
        let (header, body) = guest.receive().unwrap();
        assert!(
            check(header.req_id, asked, header.kind, header.len, &body),
            "{what:?}"
        );
        let again = guest.receive();
        assert_eq!(again.is_some(), what == StoreMischief::Twice);
        assert_eq!(guest.read("domid").unwrap(), "5");
    }
}

#[test]
fn lengths_tokens_and_indices_nobody_should_believe() {
    let mut guest = Guest::booted(|_| {});
    store_plan(&mut guest, StoreMischief::Length(u32::MAX), Strike::ONCE);
    guest.ask(READ, 0, b"name\0");
    guest.host.run(100);
    assert_eq!(guest.word(STORE, 1024 + 12), u32::MAX);
    assert_eq!(guest.word(STORE, 2060), 16 + 5);

    let mut guest = Guest::booted(|_| {});
    store_plan(&mut guest, StoreMischief::UnknownToken, Strike::ONCE);
    guest.ask(READ, 0, b"name\0");
    let (header, body) = guest.receive().unwrap();
    assert_eq!(
        (header.kind, body.as_slice()),
        (WATCH_EVENT, b"/local\0no-such-token\0".as_slice())
    );
    assert_eq!(guest.receive().unwrap().1, b"guest");

    let mut guest = Guest::booted(|_| {});
    store_plan(&mut guest, StoreMischief::ProducerJump(5000), Strike::ONCE);
    guest.ask(READ, 0, b"name\0");
    guest.host.run(100);
    assert_eq!(guest.word(STORE, 2060), 5000);
}

#[test]
fn responses_of_every_wrong_kind() {
    for what in [
        BlkMischief::Silent,
        BlkMischief::ProducerJump(40),
        BlkMischief::Id(u64::MAX),
        BlkMischief::Twice,
        BlkMischief::WrongOperation,
        BlkMischief::Status(-77),
        BlkMischief::Scribble,
        BlkMischief::NoEvent,
    ] {
        let mut guest = Guest::with_disk(64, |_| {});
        guest.wait();
        guest.grant(16, DATA, 1);
        blk_plan(&mut guest, what);
        let asked = request(OP_READ, 0, 1);
        guest.submit(&asked);
        let woken = guest.host.idle() != Idle::Deadlock;
        guest.host.run(100);
        if what == BlkMischief::ProducerJump(40) {
            assert_eq!(guest.word(RING, 8), 40);
            assert!(woken);
            continue;
        }
        let responses = guest.responses();
        let first = responses.first().copied().unwrap_or_default();
        let seen = (responses.len(), first.id, first.operation, first.status);
        let wanted = match what {
            BlkMischief::Silent => (0, 0, 0, 0),
            BlkMischief::Id(id) => (1, id, OP_READ, RSP_OKAY),
            BlkMischief::Twice => (2, asked.id, OP_READ, RSP_OKAY),
            BlkMischief::WrongOperation => (1, asked.id, OP_WRITE, RSP_OKAY),
            BlkMischief::Status(status) => (1, asked.id, OP_READ, status),
            _ => (1, asked.id, OP_READ, RSP_OKAY),
        };
        assert_eq!(seen, wanted, "{what:?}");
        assert_eq!(
            woken,
            !matches!(what, BlkMischief::Silent | BlkMischief::NoEvent)
        );
        if what == BlkMischief::Scribble {
            assert_eq!(guest.word(RING, 64 + 5 * 112), 0xa5a5_a5a5);
        }
    }
}

#[test]
fn grants_kept_and_given_back_at_last() {
    let mut guest = Guest::with_disk(64, |_| {});
    guest.grant(16, DATA, 1);
    guest.host.hostile().hold_grants = true;
    assert_eq!(guest.perform(&request(OP_READ, 0, 1)), RSP_OKAY);
    assert!(!guest.ungrant(16));
    guest.write(&format!("{FRONT}/state"), "6");
    guest.host.run(100);
    assert_eq!(guest.host.vbd(51712).unwrap().pair.state(), 6);
    assert!(!guest.ungrant(16) && !guest.ungrant(8));
    guest.host.hostile().hold_grants = false;
    guest.host.run(100);
    assert!(guest.ungrant(16) && guest.ungrant(8));
}

#[test]
fn storms_end() {
    let mut guest = Guest::booted(|_| {});
    guest.wait();
    guest.host.hostile().event_storm = 100;
    let mut woken = 0;
    while !guest.wait().is_empty() {
        woken += 1;
    }
    assert!(woken > 10);
    assert_eq!(guest.host.hostile().event_storm, 0);
}

#[test]
fn a_back_end_may_close_at_any_step() {
    for steps in seeds(120) {
        let mut guest = Guest::booted(|config| config.seed = steps);
        guest
            .host
            .attach_disk(VbdSpec::new("xvda", Box::new(MemDisk::new(64, 512))))
            .unwrap();
        guest.host.hostile().close_back_ends_in = Some(steps);
        guest.host.run(50);
        guest.grant(8, RING, 1);
        guest.grant(16, DATA, 1);
        guest.ring_port = guest.alloc_unbound(0);
        guest.set(RING, 4, 1);
        guest.set(RING, 12, 1);
        guest.write(&format!("{FRONT}/ring-ref"), "8");
        guest.write(
            &format!("{FRONT}/event-channel"),
            &guest.ring_port.to_string(),
        );
        guest.write(&format!("{FRONT}/state"), "3");
        guest.host.run(50);
        for n in 0..20 {
            guest.submit(&request(OP_READ, n % 7 * 8, 1));
            guest.host.run(3);
            guest.responses();
        }
        while guest.host.hostile().close_back_ends_in.is_some() {
            guest.read("name").unwrap();
        }
        guest.write(&format!("{FRONT}/state"), "6");
        guest.host.run(100);
        assert_eq!(guest.host.vbd(51712).unwrap().pair.state(), 6);
        assert!(guest.ungrant(8) && guest.ungrant(16), "after {steps} steps");
    }
}
