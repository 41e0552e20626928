//! Xenstore: requests, transactions, watches, and stores that are silent or lie.

use super::*;

#[test]
fn reads_writes_lists_and_removes() {
    let (sim, xen) = SimXen::boot(256, |_| {});
    let bus = connect(&xen);
    let store = bus.store();
    assert_eq!(store.read_str::<8>(None, "domid").unwrap(), "5");
    store.write(None, "data/a", b"one").unwrap();
    store.write(None, ("data", "b"), b"").unwrap();
    store.mkdir(None, "data/c/d").unwrap();
    assert_eq!(
        sim.host().store().read("/local/domain/5/data/a").unwrap(),
        "one"
    );
    let names: BTreeSet<_> = store.directory(None, "data").unwrap().names().collect();
    let names: Vec<_> = names.iter().map(|n| n.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let mut bytes = [0; 3];
    assert_eq!(store.read(None, "data/a", &mut bytes), Ok(3));
    assert_eq!(&bytes, b"one");
    assert_eq!(
        store.read(None, "data/a", &mut bytes[..2]),
        Err(StoreError::TooLong)
    );
    assert_eq!(store.read(None, "data/b", &mut bytes), Ok(0));
    store.rm(None, "data/c").unwrap();
    let gone = store.read(None, "data/c", &mut bytes).unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    let refused = store.write(None, "/local/domain/0/x", b"1").unwrap_err();
    assert_eq!(refused, StoreError::Refused(XsError::Access));
    assert_eq!(store.directory(None, "data/a").unwrap().names().count(), 0);
    assert_eq!(sim.host().complaints(), []);
}

#[test]
fn long_payloads_go_through_in_pieces() {
    for seed in 0..5 {
        let (sim, xen) = SimXen::boot(256, |config| {
            config.seed = seed;
            config.store = odd_habits();
        });
        let bus = connect(&xen);
        let store = bus.store();
        let long: Vec<u8> = (0..2000u32).map(|i| b'a' + (i % 26) as u8).collect();
        store.write(None, "data/long", &long).unwrap();
        let mut back = vec![0; 2000];
        assert_eq!(store.read(None, "data/long", &mut back), Ok(2000));
        assert_eq!(back, long);
        // One more than a payload holds is refused here, not by a host that hangs up.
        let too_long = vec![b'x'; 4096];
        assert_eq!(
            store.write(None, "data/long", &too_long),
            Err(StoreError::TooLong)
        );
        assert_eq!(sim.host().complaints(), []);
    }
}

#[test]
fn many_requests_are_in_flight_at_once() {
    for seed in 0..5 {
        let (sim, xen) = SimXen::boot(256, |config| {
            config.seed = seed;
            config.store = odd_habits();
        });
        // Simulated time runs while a thread of the test is kept from running.
        let patient = Config {
            request_timeout: 1000 * SECOND,
            ..Config::default()
        };
        let bus = XenBus::connect(&*xen, patient).unwrap();
        let store = bus.store();
        std::thread::scope(|scope| {
            for thread in 0..24 {
                scope.spawn(move || {
                    for round in 0..10 {
                        let key = format!("data/{thread}/{round}");
                        let value = format!("{thread} and {round}").repeat(1 + thread * 3);
                        store.write(None, key.as_str(), value.as_bytes()).unwrap();
                        let mut back = vec![0; value.len()];
                        store.read(None, key.as_str(), &mut back).unwrap();
                        assert_eq!(back, value.as_bytes());
                        let missing = format!("data/{thread}/none");
                        assert!(store.mkdir(None, missing.as_str()).is_ok());
                    }
                });
            }
        });
        assert_eq!(sim.host().complaints(), []);
        assert_eq!(store.fault(), None);
    }
}

#[test]
fn transactions_are_retried_and_give_up() {
    let (sim, xen) = SimXen::boot(256, |config| config.store.refuse_commits = 3);
    let bus = connect(&xen);
    let store = bus.store();
    let mut runs = 0;
    let sum = store.transaction(|tx| {
        runs += 1;
        store.write(Some(tx), "data/x", b"1")?;
        store.write(Some(tx), "data/y", b"2")?;
        // Nobody else sees it before the end.
        assert!(store.read_str::<8>(None, "data/x").is_err());
        Ok(store.read_str::<8>(Some(tx), "data/x")?.len())
    });
    assert_eq!((sum, runs), (Ok(1), 4));
    assert_eq!(
        sim.host().store().read("/local/domain/5/data/y").unwrap(),
        "2"
    );
    // A real conflict: the control domain writes in between.
    let mut runs = 0;
    let changed = store.transaction(|tx| {
        runs += 1;
        let seen = store.read_str::<16>(Some(tx), "data/x")?;
        if runs == 1 {
            sim.host()
                .store_mut()
                .write("/local/domain/5/data/x", "theirs");
        }
        store.write(Some(tx), "data/copy", seen.as_bytes())
    });
    assert_eq!((changed, runs), (Ok(()), 2));
    assert_eq!(
        sim.host()
            .store()
            .read("/local/domain/5/data/copy")
            .unwrap(),
        "theirs"
    );
    // What fails inside leaves nothing behind.
    let failed = store.transaction(|tx| {
        store.write(Some(tx), "data/never", b"1")?;
        store.read_str::<8>(Some(tx), "data/none").map(drop)
    });
    assert!(failed.unwrap_err().is_not_found());
    assert_eq!(sim.host().store().read("/local/domain/5/data/never"), None);
    assert_eq!(sim.host().store().open_transactions(), 0);
    sim.host().store_mut().habits.refuse_commits = u32::MAX;
    let again = store.transaction(|tx| store.write(Some(tx), "data/x", b"3"));
    assert_eq!(again, Err(StoreError::Refused(XsError::Again)));
}

#[test]
fn watches_fire_and_end() {
    let (sim, xen) = SimXen::boot(256, |_| {});
    let bus = connect(&xen);
    let store = bus.store();
    let watch = store.watch("data").unwrap();
    sim.settle();
    assert_eq!(store.take_watch(watch), Ok(true), "once at the start");
    assert_eq!(store.take_watch(watch), Ok(false));
    sim.host()
        .store_mut()
        .write("/local/domain/5/data/deep/down", "1");
    sim.settle();
    assert_eq!(store.take_watch(watch), Ok(true));
    sim.host()
        .store_mut()
        .write("/local/domain/5/memory/x", "1");
    sim.settle();
    assert_eq!(store.take_watch(watch), Ok(false));
    store.unwatch(watch, "data");
    sim.settle();
    sim.host().store_mut().write("/local/domain/5/data/x", "1");
    sim.settle();
    assert_eq!(store.take_watch(watch), Ok(false));
    assert_eq!(sim.host().store().watches().count(), 1, "the bus's own");
    // There is an end to them, and they come back.
    let all: Vec<_> = std::iter::from_fn(|| store.watch("data").ok()).collect();
    assert_eq!(all.len(), 63);
    assert_eq!(store.watch("data"), Err(StoreError::NoWatch));
    for watch in all {
        sim.settle();
        store.poll().unwrap();
        store.unwatch(watch, "data");
    }
    sim.settle();
    assert_eq!(sim.host().store().watches().count(), 1);
    assert!(store.watch("data").is_ok());
}

#[test]
fn lists_longer_than_a_message_come_in_parts() {
    for seed in 0..3 {
        let (sim, xen) = SimXen::boot(256, |config| {
            config.seed = seed;
            config.store = odd_habits();
        });
        let bus = connect(&xen);
        let store = bus.store();
        let all: BTreeSet<String> = (0..700).map(|n| format!("child-number-{n}")).collect();
        for name in &all {
            let path = format!("/local/domain/5/data/{name}");
            sim.host().store_mut().write(&path, "");
        }
        let used = sim.ram().used_pages();
        let listing = store.directory(None, "data").unwrap();
        let names: Vec<String> = listing.names().map(|n| n.to_string()).collect();
        assert_eq!(names.len(), 700);
        assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), all);
        drop(listing);
        assert_eq!(sim.ram().used_pages(), used);
    }
}

#[test]
fn a_host_that_never_answers_ends_in_a_clear_error() {
    for mischief in [StoreMischief::Silent, StoreMischief::Deaf] {
        let (sim, xen) = SimXen::boot(256, |_| {});
        sim.host().hostile().store = Some(Plan {
            what: mischief,
            when: Strike::ALWAYS,
        });
        let config = Config {
            request_timeout: 2 * SECOND,
            ..Config::default()
        };
        let started = xen.platform().now();
        let why = XenBus::connect(&*xen, config).unwrap_err();
        assert_eq!(why, ConnectError::NoAnswer(2 * SECOND));
        assert_eq!(why.to_string(), "xenstore did not answer within 2000 ms");
        let passed = xen.platform().now() - started;
        assert!((2 * SECOND..3 * SECOND).contains(&passed), "{passed}");
        // The same host, willing again.
        sim.host().hostile().store = None;
        let bus = connect(&xen);
        assert_eq!(bus.store().read_str::<8>(None, "domid").unwrap(), "5");
    }
}

#[test]
fn silence_in_the_middle_ends_each_request_and_late_answers_find_nobody() {
    let (sim, xen) = SimXen::boot(256, |_| {});
    let bus = connect(&xen);
    let store = bus.store();
    sim.host().hostile().store = Some(Plan {
        what: StoreMischief::Deaf,
        when: Strike::ALWAYS,
    });
    let no_answer = Err(StoreError::Fault(HostFault::NoAnswer));
    let mut byte = [0; 8];
    for _ in 0..5 {
        assert_eq!(store.read(None, "domid", &mut byte), no_answer);
    }
    assert_eq!(store.fault(), None, "silence alone breaks no protocol");
    sim.host().hostile().store = None;
    sim.settle();
    for _ in 0..50 {
        assert_eq!(store.read(None, "domid", &mut byte), Ok(1));
    }
    // Half of a request in the ring, and then nothing: no other can follow.
    sim.host().hostile().store = Some(Plan {
        what: StoreMischief::Deaf,
        when: Strike::ALWAYS,
    });
    let half = store.write(None, "data/x", &[b'x'; 3000]);
    assert_eq!(half, no_answer.map(drop));
    assert_eq!(store.fault(), Some(HostFault::NoAnswer));
    assert_eq!(store.read(None, "domid", &mut byte), no_answer);
}

#[test]
fn no_store_and_no_frame_are_told_apart() {
    let sim = SimXen::new(256, |config| config.console_gfn = 0x101);
    let xen = sim.start();
    // A host whose parameter says that there is none yet.
    sim.host().set_param(1, 0);
    let why = XenBus::connect(&*xen, Config::default()).unwrap_err();
    assert_eq!(why.to_string(), "Xen announces no xenstore to this domain");
    sim.host().set_param(1, 0xdead_beef);
    let why = XenBus::connect(&*xen, Config::default()).unwrap_err();
    assert_eq!(
        why.to_string(),
        "xenstore's frame 0xdeadbeef cannot be mapped"
    );
}

#[test]
fn hostile_replies_are_errors_and_the_bus_can_be_connected_anew() {
    use StoreMischief::*;
    let fault = |fault| Err(StoreError::Fault(fault));
    for (what, expected) in [
        (ProducerJump(5000), Some(fault(HostFault::RingIndex))),
        (ProducerJump(1), None),
        (ProducerJump(500), None),
        (WrongReqId, Some(fault(HostFault::NoAnswer))),
        (WrongType, Some(fault(HostFault::WrongOperation))),
        (Length(4097), Some(fault(HostFault::Length))),
        (Length(u32::MAX), Some(fault(HostFault::Length))),
        (Length(3), None),
        (Length(4000), None),
        (MissingNul, None),
        (Twice, None),
        (UnknownToken, None),
        (NotText, None),
    ] {
        for after in 0..4 {
            let (sim, xen) = SimXen::boot(256, |config| config.seed = after);
            sim.host().attach_disk(disk("xvda")).unwrap();
            let bus = connect(&xen);
            sim.settle();
            sim.host().hostile().store = Some(Plan {
                what,
                when: Strike { after, times: 1 },
            });
            let mut worst = Ok(());
            let started = xen.platform().now();
            for _ in 0..6 {
                let one = bus.store().read_str::<8>(None, "domid");
                if one.is_err() && worst.is_ok() {
                    worst = one.map(drop);
                }
            }
            if let Some(expected) = expected {
                assert_eq!(worst, expected, "{what:?} after {after}");
            }
            let _ = bus.wait_devices(SECOND);
            let _ = bus.poll();
            // Bounded, whatever it was.
            assert!(xen.platform().now() - started < 60 * SECOND, "{what:?}");
            drop(bus);
            sim.host().hostile().store = None;
            let bus = connect(&xen);
            bus.wait_devices(SECOND).unwrap();
            assert_eq!(
                bus.poll(),
                Ok(Some(BusEvent::Offered(vbd(51712)))),
                "{what:?}"
            );
        }
    }
}

#[test]
fn connects_behind_an_earlier_owner() {
    for features in [0, 3] {
        let (sim, xen) = SimXen::boot(256, |config| {
            config.store.ring_start = 12345;
            config.store.features = features;
        });
        let bus = connect(&xen);
        let watch = bus.store().watch("data").unwrap();
        // The earlier owner leaves with events unread and watches set.
        for n in 0..5 {
            sim.host()
                .store_mut()
                .write("/local/domain/5/data/x", &n.to_string());
        }
        sim.settle();
        let _ = watch;
        std::mem::forget(bus);
        let second = sim.start();
        let bus = connect(&second);
        sim.settle();
        assert_eq!(bus.store().read_str::<8>(None, "domid").unwrap(), "5");
        assert_eq!(
            sim.host().store().watches().count(),
            1,
            "only the new one's"
        );
    }
}

#[test]
fn a_watched_value_tells_of_its_changes() {
    let (sim, xen) = SimXen::boot(256, |config| config.store = odd_habits());
    let bus = connect(&xen);
    let value = "/local/domain/5/data/speed";
    bus.store().write(None, "data/speed", b"1").unwrap();
    let mut watched = Watched::new(bus.store(), "data", "speed").unwrap();
    let (sim, watched) = (&sim, &mut watched);
    let mut after = |write: Option<&str>| {
        match write {
            Some(text) => sim.host().store_mut().write(value, text),
            None => sim.host().store_mut().remove(value),
        };
        let mut last = None;
        for _ in 0..20 {
            sim.settle();
            last = watched.poll().or(last);
        }
        last.map(|text| text.map(|text| text.to_string()))
    };
    assert_eq!(after(Some("1")), Some(Some("1".into())));
    assert_eq!(after(Some("20")), Some(Some("20".into())));
    assert_eq!(after(None), Some(None));
    assert_eq!(after(Some("3")), Some(Some("3".into())));
    // Longer than such a value may be.
    assert_eq!(after(Some(&"x".repeat(40))), Some(None));
    assert_eq!(sim.host().complaints(), []);
}
