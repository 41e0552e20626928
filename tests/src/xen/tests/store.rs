//! xenstore over its ring.

use super::guest::*;
use crate::xen::abi::store::*;
use crate::xen::ledger::Complaint;
use crate::xen::xenstored::StoreHabits;

#[test]
fn reads_and_writes() {
    let mut guest = Guest::new(|_| {});
    assert_eq!(guest.read("domid").unwrap(), "5");
    assert_eq!(guest.read("/local/domain/5/name").unwrap(), "guest");
    guest.write("data/a/b", "value");
    assert_eq!(guest.read("data/a/b").unwrap(), "value");
    assert_eq!(
        guest.host.store().read("/local/domain/5/data/a/b").unwrap(),
        "value"
    );
    assert_eq!(guest.store(DIRECTORY, b"data\0").unwrap(), b"a\0");
    assert_eq!(guest.store(MKDIR, b"data/c\0").unwrap(), b"OK\0");
    assert_eq!(guest.store(DIRECTORY, b"data\0").unwrap(), b"a\0c\0");
    assert_eq!(guest.store(RM, b"data/a\0").unwrap(), b"OK\0");
    assert_eq!(guest.store(DIRECTORY, b"data\0").unwrap(), b"c\0");
    assert_eq!(
        guest.store(GET_DOMAIN_PATH, b"7\0").unwrap(),
        b"/local/domain/7\0"
    );
    assert_eq!(guest.store(GET_PERMS, b"data/c\0").unwrap(), b"n5\0");
    assert_eq!(
        guest.store(SET_PERMS, b"data/c\0n5\0r0\0").unwrap(),
        b"OK\0"
    );
    assert_eq!(guest.store(GET_PERMS, b"data/c\0").unwrap(), b"n5\0r0\0");
    assert!(guest.host.complaints().is_empty());
    assert_eq!(guest.host.counters().store_requests, 13);
}

#[test]
fn errors_have_names() {
    let mut guest = Guest::new(|_| {});
    let long = [b"data/".as_slice(), &[b'x'; 2100], b"\0"].concat();
    for (kind, payload, error) in [
        (READ, b"data/none\0".as_slice(), "ENOENT"),
        (READ, b"/tool\0", "EACCES"),
        (READ, b"data\0extra\0", "EINVAL"),
        (READ, b"no-nul", "EINVAL"),
        (READ, b"a//b\0", "EINVAL"),
        (READ, b"a/\0", "EINVAL"),
        (READ, b"sp ace\0", "EINVAL"),
        (READ, b"\0", "EINVAL"),
        (READ, b"@special\0", "EINVAL"),
        (READ, &long, "EINVAL"),
        (WRITE, b"/local/domain/6/x\0v", "EACCES"),
        (WRITE, b"name\0mine", "EACCES"),
        (SET_PERMS, b"data\0b6\0", "EPERM"),
        (SET_PERMS, b"data\0zz\0", "EINVAL"),
        (UNWATCH, b"data\0t\0", "ENOENT"),
        (TRANSACTION_END, b"X\0", "EINVAL"),
        (CONTROL, b"help\0", "EACCES"),
        (IS_DOMAIN_INTRODUCED, b"5\0", "EACCES"),
        (20, b"\0", "ENOSYS"),
        (99, b"\0", "ENOSYS"),
    ] {
        let reply = guest.store(kind, payload);
        assert_eq!(reply, Err(error.to_string()), "{kind} {payload:?}");
    }
    assert_eq!(
        guest.store_in(42, READ, b"name\0"),
        Err("ENOENT".to_string())
    );
    let big = [b"data/big\0".as_slice(), &[1; 2049]].concat();
    assert_eq!(guest.store(WRITE, &big), Err("ENOSPC".to_string()));
}

#[test]
fn watches_fire_at_once_and_at_changes() {
    let mut guest = Guest::new(|_| {});
    assert_eq!(guest.store(WATCH, b"data\0rel\0").unwrap(), b"OK\0");
    assert_eq!(
        guest.store(WATCH, b"/local/domain/5/data\0abs\0").unwrap(),
        b"OK\0"
    );
    assert_eq!(
        guest.store(WATCH, b"data\0rel\0"),
        Err("EEXIST".to_string())
    );
    guest.settle();
    let pair = |path: &str, token: &str| (path.to_string(), token.to_string());
    let first: Vec<_> = guest.fired.drain(..).collect();
    assert_eq!(
        first,
        [pair("data", "rel"), pair("/local/domain/5/data", "abs")]
    );
    guest.write("data/x", "1");
    guest.settle();
    let next: Vec<_> = guest.fired.drain(..).collect();
    assert_eq!(
        next,
        [pair("data/x", "rel"), pair("/local/domain/5/data/x", "abs")]
    );
    guest.host.store_mut().write("/local/domain/5/data/y", "2");
    guest.store(UNWATCH, b"data\0rel\0").unwrap();
    guest.write("data/x", "3");
    guest.store(RESET_WATCHES, b"\0").unwrap();
    guest.write("data/x", "4");
    guest.settle();
    let last: Vec<_> = guest.fired.drain(..).map(|(path, _)| path).collect();
    assert_eq!(
        last,
        ["data/y", "/local/domain/5/data/y", "/local/domain/5/data/x"]
    );
    assert_eq!(guest.host.store().watches().count(), 0);
}

#[test]
fn a_watch_may_be_shallow_and_sees_removals_of_parents() {
    let mut guest = Guest::new(|_| {});
    guest.write("data/a/b/c", "1");
    guest.store(WATCH, b"data/a\0shallow\x001\0").unwrap();
    guest.store(WATCH, b"data/a/b/c\0deep\0").unwrap();
    guest.settle();
    guest.fired.clear();
    guest.write("data/a/b/c", "2");
    guest.settle();
    assert_eq!(guest.fired.pop_front().unwrap().1, "deep");
    assert!(guest.fired.is_empty());
    guest.store(RM, b"data/a\0").unwrap();
    guest.settle();
    let fired: Vec<_> = guest
        .fired
        .iter()
        .map(|(p, t)| (p.as_str(), t.as_str()))
        .collect();
    assert_eq!(fired, [("data/a/b/c", "deep"), ("data/a", "shallow")]);
}

#[test]
fn changes_the_guest_may_not_see_stay_unseen() {
    let mut guest = Guest::new(|_| {});
    guest.store(WATCH, b"/local\0all\0").unwrap();
    guest.settle();
    guest.fired.clear();
    guest.host.store_mut().write("/local/domain/9/secret", "x");
    guest
        .host
        .store_mut()
        .write("/local/domain/5/data/open", "x");
    guest.settle();
    assert_eq!(guest.fired.len(), 1);
}

#[test]
fn transactions_commit_abort_and_conflict() {
    let mut guest = Guest::new(|_| {});
    let start = |guest: &mut Guest| -> u32 {
        let id = guest.store(TRANSACTION_START, b"\0").unwrap();
        String::from_utf8(id)
            .unwrap()
            .trim_end_matches('\0')
            .parse()
            .unwrap()
    };
    let tx = start(&mut guest);
    guest.store_in(tx, WRITE, b"data/t\x001").unwrap();
    assert_eq!(guest.read("data/t"), Err("ENOENT".to_string()));
    assert_eq!(guest.store_in(tx, READ, b"data/t\0").unwrap(), b"1");
    assert_eq!(
        guest.store_in(tx, TRANSACTION_START, b"\0"),
        Err("EBUSY".to_string())
    );
    guest.store_in(tx, TRANSACTION_END, b"T\0").unwrap();
    assert_eq!(guest.read("data/t").unwrap(), "1");
    assert_eq!(
        guest.store_in(tx, TRANSACTION_END, b"T\0"),
        Err("ENOENT".to_string())
    );
    let tx = start(&mut guest);
    guest.store_in(tx, WRITE, b"data/t\x002").unwrap();
    guest.store_in(tx, TRANSACTION_END, b"F\0").unwrap();
    assert_eq!(guest.read("data/t").unwrap(), "1");
    let tx = start(&mut guest);
    guest.store_in(tx, WRITE, b"data/t\x003").unwrap();
    guest.host.store_mut().write("/local/domain/5/data/t", "4");
    assert_eq!(
        guest.store_in(tx, TRANSACTION_END, b"T\0"),
        Err("EAGAIN".to_string())
    );
    guest.host.store_mut().habits.refuse_commits = 1;
    let tx = start(&mut guest);
    assert_eq!(
        guest.store_in(tx, TRANSACTION_END, b"T\0"),
        Err("EAGAIN".to_string())
    );
    let open: Vec<u32> = (0..10).map(|_| start(&mut guest)).collect();
    assert_eq!(
        guest.store(TRANSACTION_START, b"\0"),
        Err("ENOSPC".to_string())
    );
    for tx in open {
        guest.store_in(tx, TRANSACTION_END, b"F\0").unwrap();
    }
    assert_eq!(guest.host.store().open_transactions(), 0);
}

#[test]
fn long_directories_come_in_parts() {
    let mut guest = Guest::new(|_| {});
    for n in 0..300 {
        let path = format!("/local/domain/5/data/child-with-a-long-name-{n}");
        guest.host.store_mut().write(&path, "");
    }
    assert_eq!(guest.store(DIRECTORY, b"data\0"), Err("E2BIG".to_string()));
    let mut names = Vec::new();
    let mut generations = Vec::new();
    let mut offset = 0;
    loop {
        let reply = guest
            .store(DIRECTORY_PART, format!("data\0{offset}\0").as_bytes())
            .unwrap();
        assert!(reply.len() <= PAYLOAD_MAX);
        let text = String::from_utf8(reply).unwrap();
        let (generation, list) = text.split_once('\0').unwrap();
        generations.push(generation.to_string());
        let end = list.ends_with("\0\0") || list == "\0";
        let list = if end { &list[..list.len() - 1] } else { list };
        offset += list.len();
        names.extend(list.split_terminator('\0').map(String::from));
        if end {
            break;
        }
    }
    assert_eq!(names.len(), 300);
    assert!(generations.len() > 1);
    generations.dedup();
    assert_eq!(generations.len(), 1);
}

#[test]
fn all_habits_at_once_lose_nothing() {
    for seed in seeds(20) {
        let mut guest = Guest::new(|config| {
            config.seed = seed;
            config.store = StoreHabits {
                partial_writes: true,
                reorder: true,
                spurious_watches: true,
                ring_start: u32::MAX - 700,
                ..StoreHabits::default()
            };
        });
        guest.store(WATCH, b"data\0w\0").unwrap();
        let long = "v".repeat(1500);
        for n in 0..6 {
            guest.write(&format!("data/{n}"), &long);
        }
        let mut asked: Vec<u32> = (0..6)
            .map(|n| guest.ask(READ, 0, format!("data/{n}\0").as_bytes()))
            .collect();
        let mut order = Vec::new();
        let mut events = 0;
        while !asked.is_empty() {
            let (header, payload) = guest.receive().expect("an answer was lost");
            if header.kind == WATCH_EVENT {
                events += 1;
                continue;
            }
            assert_eq!(payload, long.as_bytes());
            let at = asked.iter().position(|&id| id == header.req_id).unwrap();
            order.push(at);
            asked.remove(at);
        }
        guest.settle();
        assert!(events + guest.fired.len() >= 7);
        assert!(guest.host.complaints().is_empty());
    }
}

#[test]
fn replies_do_come_out_of_order() {
    let disordered = (0..20).any(|seed| {
        let mut guest = Guest::new(|config| {
            config.seed = seed;
            config.store.reorder = true;
        });
        let first = guest.ask(READ, 0, b"name\0");
        guest.ask(READ, 0, b"domid\0");
        guest.receive().unwrap().0.req_id != first
    });
    assert!(disordered);
}

#[test]
fn an_oversized_request_kills_the_connection_and_reconnect_revives_it() {
    let mut guest = Guest::new(|_| {});
    let mut header = [0; 16];
    header[0] = 2;
    header[12..].copy_from_slice(&4097u32.to_le_bytes());
    guest.store_raw(&header);
    guest.host.run(10);
    assert_eq!(guest.word(STORE, 2072), ERROR_PROTO);
    assert_eq!(guest.host.complaints(), [Complaint::StoreProtocol]);
    guest.ask(READ, 0, b"name\0");
    assert!(guest.receive().is_none());
    guest.set(STORE, 2068, RECONNECT);
    guest.send(1);
    guest.host.run(10);
    assert_eq!(guest.word(STORE, 2068), CONNECTED);
    assert_eq!(guest.read("name").unwrap(), "guest");
}

#[test]
fn an_earlier_owner_leaves_replies_or_a_reset_under_way() {
    let mut guest = Guest::new(|config| config.store.stale_replies = true);
    let (event, body) = guest.receive().unwrap();
    assert_eq!(
        (event.kind, body.as_slice()),
        (WATCH_EVENT, b"device\0old\0".as_slice())
    );
    let (reply, body) = guest.receive().unwrap();
    assert_eq!(
        (reply.kind, reply.req_id, body.as_slice()),
        (READ, 7, b"old".as_slice())
    );
    assert_eq!(guest.read("domid").unwrap(), "5");

    let mut guest = Guest::new(|config| {
        config.store.starts_reconnecting = true;
        config.store.ring_start = 77;
    });
    assert_eq!(guest.word(STORE, 2068), RECONNECT);
    assert!(guest.host.step());
    assert_eq!(guest.word(STORE, 2068), CONNECTED);
    assert_eq!(guest.word(STORE, 2052), 0);
    assert_eq!(guest.read("domid").unwrap(), "5");
}

#[test]
fn a_mad_index_kills_the_connection() {
    let mut guest = Guest::new(|_| {});
    guest.set(STORE, 2052, 1025);
    guest.send(1);
    guest.host.run(10);
    assert_eq!(guest.word(STORE, 2072), ERROR_RINGIDX);
}

#[test]
fn a_full_ring_waits_for_the_guests_event() {
    let mut guest = Guest::new(|_| {});
    guest.write("data/long", &"x".repeat(2000));
    guest.ask(READ, 0, b"data/long\0");
    guest.host.run(100);
    assert_eq!(
        guest
            .word(STORE, 2060)
            .wrapping_sub(guest.word(STORE, 2056)),
        1024
    );
    // Making room without saying so is not enough.
    let prod = guest.word(STORE, 2060);
    guest.set(STORE, 2056, prod);
    assert_eq!(guest.host.run(100), 0);
    guest.send(1);
    guest.host.run(100);
    assert_eq!(guest.word(STORE, 2060), prod.wrapping_add(2016 - 1024));
}
