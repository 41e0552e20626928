//! Coming to terms with a host, and hosts that are slow, old, or silent.

use super::*;

#[test]
fn every_version_is_agreed_on() {
    for (asked, known) in [
        (Version::V6_0, abi::version::V6_0),
        (Version::V6_0, abi::version::V5_3),
        (Version::V6_0, abi::version::V5_2),
        (Version::V6_0, abi::version::V5_1),
        (Version::V6_0, abi::version::V5_0),
        (Version::V6_0, abi::version::V4_1),
        (Version::V6_0, abi::version::V4_0),
        (Version::V6_0, abi::version::V3_0),
        (Version::V6_0, abi::version::V2_4),
        (Version::V5_3, abi::version::V6_0),
        (Version::V2_4, abi::version::V6_0),
    ] {
        for short in [false, true] {
            let (sim, hv) = boot(|config| {
                config.bus.max_version = known;
                config.bus.short_version_response = short;
            });
            let id = add_echo(&sim, 1);
            let config = Config {
                highest: asked,
                ..Config::default()
            };
            let bus = VmBus::connect(&hv, config).unwrap();
            assert_eq!(bus.version().0, known.min(asked.0));
            bus.wait_offers(SECOND).unwrap();
            let offer = offered(&bus);
            let mut channel = bus.open(&offer, 1, &[]).unwrap();
            exchange(&sim, &mut channel, 3);
            channel.close().unwrap();
            assert!(!sim.host().bus.is_open(id));
            bus.disconnect().unwrap();
            assert_eq!(sim.host().bus.version(), None);
            clean(&sim);
        }
    }
}

#[test]
fn versions_print() {
    assert_eq!(Version::V5_3.to_string(), "5.3");
}

#[test]
fn a_host_that_never_answers_ends_in_a_clear_line() {
    let (sim, hv) = boot(|_| {});
    sim.host().bus.hostile.add(Misdeed::IgnoreContact);
    let error = VmBus::connect(&hv, Config::default())
        .map(drop)
        .unwrap_err();
    assert_eq!(error, ConnectError::NoAnswer(5 * SECOND));
    assert_eq!(
        error.to_string(),
        "no VMBus here: the host did not answer version negotiation within 5 s"
    );
    let now = sim.host().now_ns();
    assert!(
        (5 * SECOND..5 * SECOND + SECOND / 10).contains(&now),
        "{now}"
    );
}

#[test]
fn a_host_of_too_old_a_version_is_told() {
    let (_, hv) = boot(|config| {
        config.bus.refused_versions = abi::version::ALL.to_vec();
    });
    let error = VmBus::connect(&hv, Config::default())
        .map(drop)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no VMBus here: the host speaks no version from 6.0 down to 2.4"
    );
}

/// Every HvPostMessage fails, as on a KVM without a bridge: the answer is quick.
#[test]
fn a_host_without_a_connection_is_told_at_once() {
    let (sim, hv) = boot(|config| {
        config.cpuid = cpuid::kvm_with_hyper_v_leaves();
        config.bus.failing_posts = (u32::MAX, abi::status::INVALID_CONNECTION_ID);
    });
    let error = VmBus::connect(&hv, Config::default())
        .map(drop)
        .unwrap_err();
    assert_eq!(error, ConnectError::NoConnection);
    assert!(sim.host().now_ns() < SECOND / 5);
    let (_, hv) = boot(|config| {
        config.bus.failing_posts = (u32::MAX, abi::status::INVALID_HYPERCALL_CODE);
    });
    let error = VmBus::connect(&hv, Config::default())
        .map(drop)
        .unwrap_err();
    assert!(
        matches!(error, ConnectError::Post(PostError::Refused(_))),
        "{error}"
    );
}

#[test]
fn a_host_in_a_hurry_is_asked_again() {
    for status in [
        abi::status::INSUFFICIENT_BUFFERS,
        abi::status::INSUFFICIENT_MEMORY,
    ] {
        let (sim, hv) = boot(|config| {
            config.bus.failing_posts = (5, status);
            config.bus.message_queue = 1;
        });
        add_echo(&sim, 1);
        let bus = connect(&hv);
        assert_eq!(bus.version(), Version::V6_0);
        // A queue of one is full again and again while a large GPADL is named.
        let mut channel = bus.open(&offered(&bus), 60, &[]).unwrap();
        exchange(&sim, &mut channel, 2);
        drop(channel);
        drop(bus);
        clean(&sim);
    }
}

#[test]
fn hosts_that_show_few_bits_work() {
    let (sim, hv) = boot(|config| config.cpuid = cpuid::hyper_v_with_few_bits());
    add_echo(&sim, 1);
    let bus = connect(&hv);
    let mut channel = bus.open(&offered(&bus), 1, &[]).unwrap();
    exchange(&sim, &mut channel, 2);
    drop(channel);
    drop(bus);
    clean(&sim);
    for leaves in [cpuid::plain_kvm(), cpuid::bare_metal()] {
        let sim = SimHyperV::new(8, |config| config.cpuid = leaves.clone());
        assert!(!matches!(detect(&sim), Detected::HyperV(_)));
    }
}

/// The messages that opening needs, lost one after the other: errors in bounded time, and memory
/// that the host may have is never freed.
#[test]
fn lost_answers_are_errors_in_time() {
    let cases = [
        (
            message::GPADL_CREATED,
            OpenError::Fault(HostFault::NoAnswer),
            0,
        ),
        (
            message::OPEN_RESULT,
            OpenError::Fault(HostFault::NoAnswer),
            0,
        ),
    ];
    for (lost, error, leaked) in cases {
        let (sim, hv) = boot(|_| {});
        add_echo(&sim, 1);
        let bus = connect(&hv);
        let offer = offered(&bus);
        let used = sim.ram().used_pages();
        sim.host().bus.hostile.add(Misdeed::DropMessage(lost));
        let before = sim.host().now_ns();
        assert_eq!(bus.open(&offer, 1, &[]).map(drop), Err(error));
        let took = sim.host().now_ns() - before;
        assert!(took < 11 * SECOND, "{took}");
        // The host confirmed the teardown, so everything came back.
        assert_eq!(sim.ram().used_pages(), used + leaked);
    }
    // Without that confirmation nothing does.
    let (sim, hv) = boot(|_| {});
    add_echo(&sim, 1);
    let bus = connect(&hv);
    let offer = offered(&bus);
    let used = sim.ram().used_pages();
    let mut channel = bus.open(&offer, 1, &[]).unwrap();
    exchange(&sim, &mut channel, 1);
    sim.host()
        .bus
        .hostile
        .add(Misdeed::DropMessage(message::GPADL_TORNDOWN));
    assert_eq!(channel.close(), Err(HostFault::MemoryHeld));
    assert_eq!(sim.ram().used_pages(), used + 4);
    // The channel itself can be had again.
    let mut channel = bus.open(&offer, 1, &[]).unwrap();
    exchange(&sim, &mut channel, 1);
    // Keeps what is leaked on purpose from looking lost to Miri.
    static KEPT: Mutex<Vec<SimHyperV>> = Mutex::new(Vec::new());
    KEPT.lock().unwrap().push(sim.clone());
}

#[test]
fn the_clock_and_the_timer_run() {
    for valid in [true, false] {
        let (sim, hv) = boot(|config| config.tsc_page_valid = valid);
        sim.host().advance(12_345_600);
        let clock = hv.clock();
        assert!((12_345_500..=12_345_600).contains(&clock), "{clock}");
        hv.set_timer(clock + 1_000_000).unwrap();
        assert!(!hv.take_timer());
        let token = hypercall::Platform::wait_token(hv.platform());
        hypercall::Platform::wait(hv.platform(), token, SECOND);
        assert!(hv.take_timer());
        let fired = hv.clock();
        assert!(
            (clock + 999_900..clock + 1_000_300).contains(&fired),
            "{fired}"
        );
        // One that has passed fires at once; one that is stopped never does.
        hv.set_timer(1).unwrap();
        sim.settle();
        assert!(hv.take_timer());
        hv.set_timer(hv.clock() + 1000).unwrap();
        hv.stop_timer();
        sim.host().advance(SECOND);
        sim.settle();
        assert!(!hv.take_timer());
    }
}

#[test]
fn crash_and_reset_reach_the_host() {
    let (sim, hv) = boot(|_| {});
    hv.report_crash([1, 2, 3, 0, 0], "it broke");
    let crash = sim.host().crash().cloned().unwrap();
    assert_eq!(crash.parameters[..3], [1, 2, 3]);
    assert_eq!(crash.message.as_deref(), Some(&b"it broke"[..]));
    assert!(!sim.host().reset_requested());
    let _ = hv.shutdown(hypercall::host::Shutdown::Reboot);
    assert!(sim.host().reset_requested());
}
