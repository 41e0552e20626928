//! Devices that come and go, and front ends that meet their back ends.

use super::*;

#[test]
fn devices_come_and_go() {
    for seed in 0..5 {
        let (sim, xen) = SimXen::boot(256, |config| {
            config.seed = seed;
            config.store = odd_habits();
        });
        sim.host().attach_disk(disk("xvda")).unwrap();
        let bus = connect(&xen);
        bus.wait_devices(SECOND).unwrap();
        let first = bus.poll().unwrap();
        assert_eq!(first, Some(BusEvent::Offered(vbd(51712))));
        let Some(BusEvent::Offered(device)) = first else {
            unreachable!()
        };
        assert_eq!(
            (device.to_string().as_str(), device.class()),
            ("vbd/51712", Class::Block)
        );
        assert_eq!(events(&sim, &bus), []);
        let other = sim.host().attach_disk(disk("xvdb")).unwrap();
        // Neither a disk nor a number: passed over.
        sim.host()
            .store_mut()
            .write("/local/domain/5/device/vbd/bogus", "");
        sim.host()
            .store_mut()
            .write("/local/domain/5/device/vif/0/backend", "/x");
        let mut seen = events(&sim, &bus);
        seen.sort_by_key(|event| match event {
            BusEvent::Offered(device) => device.id,
            _ => u32::MAX,
        });
        let vif = Device {
            kind: Kind::Vif,
            id: 0,
        };
        assert_eq!(
            seen,
            [BusEvent::Offered(vif), BusEvent::Offered(vbd(other))]
        );
        sim.host().destroy_disk(51712);
        assert_eq!(events(&sim, &bus), [BusEvent::Gone(vbd(51712))]);
        sim.host().attach_disk(disk("xvda")).unwrap();
        assert_eq!(events(&sim, &bus), [BusEvent::Offered(vbd(51712))]);
        assert_eq!(sim.host().complaints(), []);
    }
}

#[test]
fn a_front_end_meets_its_back_end_from_every_leftover() {
    for seed in 0..4 {
        for leftover in [Leftover::None, Leftover::Closed, Leftover::Connected] {
            let (sim, xen) = SimXen::boot(256, |config| {
                config.seed = seed;
                config.store = odd_habits();
            });
            sim.host()
                .attach_disk(disk("xvda").leftover(leftover))
                .unwrap();
            let bus = connect(&xen);
            bus.wait_devices(SECOND).unwrap();
            let frontend = bus.frontend(&vbd(51712)).unwrap();
            assert_eq!(frontend.backend_domid(), 0);
            assert_eq!(frontend.path(), "device/vbd/51712");
            assert_eq!(
                frontend.backend_path(),
                "/local/domain/0/backend/vbd/5/51712"
            );
            for _ in 0..3 {
                frontend.prepare(5 * SECOND).unwrap();
                assert_eq!(frontend.backend_state(), Ok(State::InitWait));
                assert!(!frontend.gone());
                let grant = ring(&xen, &frontend);
                frontend.wait_backend(State::Connected, 5 * SECOND).unwrap();
                frontend.set_state(State::Connected).unwrap();
                assert_eq!(frontend.read_backend::<u64>("sectors"), Ok(Some(2048)));
                assert_eq!(frontend.read_backend::<u64>("no-such-key"), Ok(None));
                assert_eq!(
                    frontend.read_backend::<u64>("params"),
                    Err(StoreError::BadValue)
                );
                assert_eq!(
                    frontend.read_backend_str::<8>("mode").unwrap().unwrap(),
                    "w"
                );
                assert!(frontend.feature("feature-flush-cache"));
                assert!(!frontend.feature("feature-of-none"));
                frontend.close(5 * SECOND).unwrap();
                assert_eq!(frontend.backend_state(), Ok(State::Closed));
                assert!(frontend.gone());
                drop(xen.unshare(grant).expect("the back end has let go"));
            }
            drop(frontend);
            sim.settle();
            assert_eq!(sim.host().store().watches().count(), 1);
            assert_eq!(sim.host().complaints(), []);
        }
    }
}

#[test]
fn memory_that_the_back_end_keeps_mapped_stays_lent() {
    let (sim, xen) = SimXen::boot(256, |_| {});
    sim.host().attach_disk(disk("xvda")).unwrap();
    let bus = connect(&xen);
    let frontend = bus.frontend(&vbd(51712)).unwrap();
    frontend.prepare(SECOND).unwrap();
    let mut lent = ring(&xen, &frontend);
    frontend.wait_backend(State::Connected, SECOND).unwrap();
    for _ in 0..3 {
        lent = xen.unshare(lent).expect_err("it is mapped").1;
    }
    sim.host().hostile().hold_grants = true;
    frontend.close(SECOND).unwrap();
    let (_, lent) = xen.unshare(lent).expect_err("it is still mapped");
    assert_eq!(xen.counters().reclaims_refused, 4);
    sim.host().hostile().hold_grants = false;
    sim.settle();
    let page = xen.unshare(lent).expect("it has let go");
    assert_eq!(page.count(), 1);
    assert_eq!(sim.host().granted(), []);
}

#[test]
fn unplugging_shows_at_a_poll_and_costs_nothing_before() {
    let (sim, xen) = SimXen::boot(256, |_| {});
    sim.host().attach_disk(disk("xvda")).unwrap();
    sim.host().attach_disk(disk("xvdb")).unwrap();
    let bus = connect(&xen);
    let kept = bus.frontend(&vbd(51712 + 16)).unwrap();
    let frontend = bus.frontend(&vbd(51712)).unwrap();
    for one in [&kept, &frontend] {
        one.prepare(SECOND).unwrap();
        let _ = ring(&xen, one);
        one.wait_backend(State::Connected, SECOND).unwrap();
    }
    assert_eq!(events(&sim, &bus).len(), 2);
    let before = sim.host().counters().hypercalls_total();
    for _ in 0..1000 {
        assert!(!frontend.gone() && !kept.gone());
        assert_eq!(frontend.backend_state(), Ok(State::Connected));
    }
    // At most a read of each back end's state, for a watch that fired before.
    assert!(sim.host().counters().hypercalls_total() - before <= 2);
    sim.host().detach_disk(51712);
    sim.settle();
    let mut polls = 0;
    while !frontend.gone() {
        sim.settle();
        polls += 1;
        assert!(polls < 10);
    }
    assert!(!kept.gone());
    frontend.close(SECOND).unwrap();
    assert_eq!(events(&sim, &bus), [BusEvent::Gone(vbd(51712))]);
    assert_eq!(
        sim.host().store().read("/local/domain/5/device/vbd/51712"),
        None
    );
    // Whoever comes too late does not make the directory anew.
    assert_eq!(
        frontend.set_state(State::Connected),
        Err(FrontendError::Gone)
    );
    assert_eq!(frontend.publish(&[("x", &1)]), Err(FrontendError::Gone));
    assert_eq!(
        frontend.prepare(SECOND).unwrap_err().to_string(),
        "the device was unplugged"
    );
    assert!(matches!(
        bus.frontend(&vbd(51712)),
        Err(FrontendError::Gone)
    ));
    assert_eq!(
        sim.host().store().read("/local/domain/5/device/vbd/51712"),
        None
    );
    assert_eq!(kept.backend_state(), Ok(State::Connected));
}

#[test]
fn a_device_taken_away_ends_every_wait() {
    let (sim, xen) = SimXen::boot(256, |_| {});
    sim.host().attach_disk(disk("xvda")).unwrap();
    let bus = connect(&xen);
    let frontend = bus.frontend(&vbd(51712)).unwrap();
    frontend.prepare(SECOND).unwrap();
    sim.host().destroy_disk(51712);
    let started = xen.platform().now();
    assert_eq!(
        frontend.wait_backend(State::Connected, 60 * SECOND),
        Err(FrontendError::Gone)
    );
    assert_eq!(frontend.close(60 * SECOND), Ok(()));
    assert!(xen.platform().now() - started < SECOND);
    assert!(frontend.gone());
}

#[test]
fn a_back_end_that_does_not_move_is_named() {
    let (sim, xen) = SimXen::boot(256, |_| {});
    sim.host().attach_disk(disk("xvda")).unwrap();
    let bus = connect(&xen);
    let frontend = bus.frontend(&vbd(51712)).unwrap();
    frontend.prepare(SECOND).unwrap();
    let why = frontend.wait_backend(State::Connected, SECOND).unwrap_err();
    assert_eq!(
        why.to_string(),
        "the back end is InitWait and did not become Connected in time"
    );
    // One that no tool stack ever brought up.
    for (path, value) in [
        ("/local/domain/0/backend/vbd/5/1", ""),
        (
            "/local/domain/5/device/vbd/1/backend",
            "/local/domain/0/backend/vbd/5/1",
        ),
        ("/local/domain/5/device/vbd/1/backend-id", "0"),
        ("/local/domain/5/device/vbd/1/state", "1"),
    ] {
        sim.host().store_mut().write(path, value);
    }
    for path in [
        "/local/domain/5/device/vbd/1",
        "/local/domain/5/device/vbd/1/backend",
        "/local/domain/5/device/vbd/1/backend-id",
        "/local/domain/5/device/vbd/1/state",
    ] {
        sim.host().store_mut().set_perms(path, &["n5", "r0"]);
    }
    let orphan = bus.frontend(&vbd(1)).unwrap();
    assert!(orphan.prepare(SECOND).is_err());
    // And one whose keys are no keys: the others go on.
    sim.host()
        .store_mut()
        .write("/local/domain/5/device/vbd/2/backend", "nowhere");
    sim.host()
        .store_mut()
        .write("/local/domain/5/device/vbd/2/backend-id", "-7");
    assert!(bus.frontend(&vbd(2)).is_err());
    assert_eq!(frontend.backend_state(), Ok(State::InitWait));
}
