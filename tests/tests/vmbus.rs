//! The real Hyper-V and VMBus drivers over the simulated host.

use hypercall::bus::{Bus, BusEvent, Class, Device as _, Doorbell};
use hypercall::detect::{Detected, detect};
use hypercall::hyperv::PostError;
use hypercall::shm::{Access, Pages};
use hypercall::{HostFault, Hypervisor};
use pv_tests::hyperv::abi::{self, interface, message};
use pv_tests::hyperv::channel::{Closing, Device, Silent, Turn, Work};
use pv_tests::hyperv::counters::Counters;
use pv_tests::hyperv::cpuid;
use pv_tests::hyperv::hostile::Misdeed;
use pv_tests::hyperv::machine::HostConfig;
use pv_tests::hyperv::ring::{Kind, Packet};
use pv_tests::hyperv::vmbus_server::DeviceId;
use pv_tests::sim_hyperv::{Platform, SimDriver, SimHyperV};
use std::collections::VecDeque;
use std::sync::Mutex;
use vmbus::{Config, ConnectError, Offer, OpenError, Outgoing, SendError, Version, VmBus};

const SECOND: u64 = 1_000_000_000;

/// Answers every packet that asks for it: in-band ones with their payload, GPA-direct ones with
/// the sum of the bytes they name.
struct Echo {
    instance: u8,
    answers: VecDeque<Packet>,
    pending: VecDeque<Packet>,
}

impl Echo {
    fn new(instance: u8) -> Box<Self> {
        Box::new(Self {
            instance,
            answers: VecDeque::new(),
            pending: VecDeque::new(),
        })
    }
}

impl Device for Echo {
    fn interface(&self) -> abi::Guid {
        interface::SCSI
    }
    fn instance(&self) -> abi::Guid {
        [self.instance; 16]
    }
    fn opened(&mut self, _channel: u16) {}
    fn closed(&mut self, _channel: u16, _why: Closing, _counters: &mut Counters) {
        self.answers.clear();
        self.pending.clear();
    }
    fn accepts_more(&self, _channel: u16) -> bool {
        true
    }
    fn packet(&mut self, packet: Packet, _turn: &mut Turn<'_>) {
        self.pending.push_back(packet);
    }
    fn has_work(&self, _channel: u16) -> bool {
        !self.pending.is_empty() || !self.answers.is_empty()
    }
    fn work(&mut self, turn: &mut Turn<'_>) -> Work {
        if let Some(answer) = self.answers.pop_front() {
            return Work::Send(answer);
        }
        let Some(packet) = self.pending.pop_front() else {
            return Work::Idle;
        };
        if !packet.completion_requested {
            return Work::Waited;
        }
        let payload = match &packet.kind {
            Kind::GpaDirect(ranges) => {
                let mut bytes = vec![0; ranges[0].bytes as usize];
                ranges[0].read(turn.memory, 0, &mut bytes).unwrap();
                let sum: u64 = bytes.iter().map(|b| u64::from(*b)).sum();
                sum.to_le_bytes().to_vec()
            }
            _ => packet.payload,
        };
        Work::Send(Packet {
            kind: Kind::Completion,
            transaction_id: packet.transaction_id,
            completion_requested: false,
            payload,
        })
    }
}

type Bus_<'h> = VmBus<'h, Platform, SimHyperV>;
type Channel<'b, 'h> = vmbus::Channel<'b, 'h, Platform, SimHyperV>;

fn boot(configure: impl FnOnce(&mut HostConfig)) -> (SimHyperV, std::sync::Arc<SimDriver>) {
    SimHyperV::boot(256, configure)
}

fn connect(hv: &SimDriver) -> Bus_<'_> {
    let bus = VmBus::connect(hv, Config::default()).unwrap();
    bus.wait_offers(SECOND).unwrap();
    bus
}

/// The next device that the bus tells of.
fn offered(bus: &Bus_<'_>) -> Offer {
    match bus.poll() {
        Ok(Some(BusEvent::Offered(offer))) => offer,
        other => panic!("{other:?}"),
    }
}

fn add_echo(sim: &SimHyperV, instance: u8) -> DeviceId {
    sim.host().bus.add(Echo::new(instance))
}

/// No complaint from the host.
fn clean(sim: &SimHyperV) {
    assert_eq!(sim.host().counters().violations, Vec::<String>::new());
}

/// Sends `count` packets of four words, and has each answered.
fn exchange(sim: &SimHyperV, channel: &mut Channel<'_, '_>, count: u64) {
    for id in 1..=count {
        let payload = [id, id * 3, !id, 7];
        channel
            .send(Outgoing::in_band(id, &payload).ask_completion())
            .unwrap();
        channel.flush();
        sim.settle();
        let mut into = [0; 4];
        let packet = channel.receive(&mut into).unwrap().unwrap();
        assert_eq!((packet.transaction_id, packet.len), (id, 32));
        assert_eq!(into, payload);
        assert_eq!(channel.receive(&mut into), Ok(None));
        assert_eq!(channel.arm(), Ok(false));
    }
}

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
fn offers_come_before_and_after_the_mark_and_go() {
    let (sim, hv) = boot(|_| {});
    let early = add_echo(&sim, 1);
    sim.host().bus.add(Box::new(Silent {
        interface: interface::KVP,
        instance: [2; 16],
    }));
    sim.host().bus.add_late(Echo::new(3));
    let bus = connect(&hv);
    let first = offered(&bus);
    assert_eq!(first.to_string(), "scsi 1");
    assert_eq!(first.class(), Class::Block);
    assert_eq!(first.instance.0, [1; 16]);
    let kvp = offered(&bus);
    assert_eq!(
        (kvp.to_string().as_str(), kvp.class()),
        ("kvp 2", Class::Other)
    );
    sim.settle();
    assert_eq!(offered(&bus).instance.0, [3; 16]);
    assert_eq!(bus.poll(), Ok(None));
    // Hot plug, then hot unplug of something that nobody has open.
    let hot = add_echo(&sim, 4);
    sim.settle();
    let plugged = offered(&bus);
    assert_eq!(plugged.instance.0, [4; 16]);
    sim.host().bus.rescind(hot);
    sim.settle();
    assert_eq!(bus.poll(), Ok(Some(BusEvent::Gone(plugged.clone()))));
    assert_eq!(bus.poll(), Ok(None));
    sim.settle();
    // Its number was given back, and it comes again under another.
    assert_eq!(sim.host().bus.relid(hot), None);
    assert_eq!(bus.open(&plugged, 1, &[]).map(drop), Err(OpenError::Gone));
    sim.host().bus.offer_again(hot);
    sim.settle();
    assert_eq!(offered(&bus).instance, plugged.instance);
    assert!(sim.host().bus.relid(early).is_some());
    drop(bus);
    clean(&sim);
}

#[test]
fn packets_pass_both_ways() {
    let (sim, hv) = boot(|_| {});
    let id = add_echo(&sim, 1);
    let bus = connect(&hv);
    let mut channel = bus.open(&offered(&bus), 2, b"hello").unwrap();
    exchange(&sim, &mut channel, 500);
    // Memory that packets name: three pages, from byte 100 of the first.
    let platform = hv.platform();
    let pages = Pages::alloc(platform, 3).unwrap();
    pages.span().fill(1);
    let lent = hv.share(pages, 0, Access::ReadWrite).unwrap();
    let frames = (0..3).map(|i| lent.gfn(i).unwrap());
    let request = Outgoing::gpa_direct(77, &[0u64; 8], 100, 3 * 4096 - 200, frames);
    channel.send(request).unwrap();
    assert!(channel.flush());
    sim.settle();
    let mut into = [0; 1];
    let packet = channel.receive(&mut into).unwrap().unwrap();
    assert_eq!((packet.transaction_id, into[0]), (77, 3 * 4096 - 200));
    assert_eq!(channel.arm(), Ok(false));
    drop(hv.unshare(lent));
    // A packet of the host's own accord.
    let note = Packet {
        kind: Kind::InBand,
        transaction_id: 0,
        completion_requested: false,
        payload: vec![9; 8],
    };
    let device = |f: &mut dyn FnMut(&mut Echo)| {
        f(sim.host().bus.device_mut::<Echo>(id).unwrap());
    };
    device(&mut |echo| echo.answers.push_back(note.clone()));
    channel.take_pending();
    sim.settle();
    assert!(channel.take_pending());
    assert_eq!(channel.receive(&mut into).unwrap().unwrap().len, 8);
    assert_eq!(into, [0x0909_0909_0909_0909]);
    channel.close().unwrap();
    bus.disconnect().unwrap();
    clean(&sim);
}

#[test]
fn a_batch_takes_one_signal_and_one_interrupt() {
    let (sim, hv) = boot(|_| {});
    add_echo(&sim, 1);
    let bus = connect(&hv);
    let mut channel = bus.open(&offered(&bus), 4, &[]).unwrap();
    exchange(&sim, &mut channel, 1);
    let before = sim.host().counters();
    for id in 1..=32u64 {
        channel
            .send(Outgoing::in_band(id, &[id; 8]).ask_completion())
            .unwrap();
    }
    assert!(channel.flush());
    assert!(!channel.flush());
    sim.settle();
    let mut into = [0; 8];
    for id in 1..=32 {
        assert_eq!(
            channel.receive(&mut into).unwrap().unwrap().transaction_id,
            id
        );
    }
    assert_eq!(channel.receive(&mut into), Ok(None));
    assert_eq!(channel.arm(), Ok(false));
    let after = sim.host().counters();
    assert_eq!(after.signals - before.signals, 1);
    assert_eq!(after.all_hypercalls() - before.all_hypercalls(), 1);
    assert_eq!(after.events - before.events, 1);
    drop(channel);
    drop(bus);
    clean(&sim);
}

#[test]
fn full_rings_wait_for_room_both_ways() {
    for seed in 0..20 {
        let (sim, hv) = boot(|config| {
            config.shuffle = Some(seed);
            config.bus.shuffle = Some(seed);
        });
        add_echo(&sim, 1);
        let bus = connect(&hv);
        let mut channel = bus.open(&offered(&bus), 1, &[]).unwrap();
        let (mut sent, mut received) = (0u64, 0u64);
        let mut full = 0;
        while received < 300 {
            while sent < 300 {
                let payload = [sent; 40];
                let packet = Outgoing::in_band(sent + 1, &payload);
                match channel.send(packet.ask_completion()) {
                    Ok(()) => sent += 1,
                    Err(SendError::Full) => {
                        full += 1;
                        break;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            channel.flush();
            let token = hypercall::Platform::wait_token(hv.platform());
            let mut into = [0; 40];
            while let Some(packet) = channel.receive(&mut into).unwrap() {
                assert_eq!(packet.transaction_id, received + 1);
                assert_eq!(into, [received; 40]);
                received += 1;
            }
            if !channel.arm().unwrap() && received < 300 {
                // Whoever waits here for ever was not signalled.
                let until = hypercall::platform::deadline(hv.platform(), SECOND);
                hypercall::Platform::wait(hv.platform(), token, until);
                assert!(hypercall::Platform::now(hv.platform()) < until, "no signal");
            }
        }
        assert!(full > 0);
        drop(channel);
        drop(bus);
        clean(&sim);
    }
}

#[test]
fn rings_of_every_size_are_named_whole() {
    let (sim, hv) = SimHyperV::boot(4096, |_| {});
    add_echo(&sim, 1);
    let used = sim.ram().used_pages();
    let bus = connect(&hv);
    let offer = offered(&bus);
    // 26 frames fit the first message, 28 each of the others.
    for ring_pages in [1, 12, 13, 26, 27, 63, 1000] {
        let mut channel = bus.open(&offer, ring_pages, &[]).unwrap();
        assert_eq!(channel.free_bytes(), Ok(ring_pages as u32 * 4096 - 8));
        let pages = 2 * (ring_pages + 1);
        assert_eq!(sim.ram().used_pages(), used + pages);
        exchange(&sim, &mut channel, 5);
        assert_eq!(bus.open(&offer, 1, &[]).map(drop), Err(OpenError::InUse));
        channel.close().unwrap();
        assert_eq!(sim.ram().used_pages(), used);
        assert_eq!(sim.host().bus.gpadls(), 0);
    }
    for wrong in [0, 4095, usize::MAX] {
        assert_eq!(
            bus.open(&offer, wrong, &[]).map(drop),
            Err(OpenError::TooLarge)
        );
    }
    assert_eq!(
        bus.open(&offer, 1, &[0; 121]).map(drop),
        Err(OpenError::TooLarge)
    );
    assert_eq!(
        bus.open(&offer, 4000, &[]).map(drop),
        Err(OpenError::OutOfPages)
    );
    bus.open(&offer, 1, &[1; 120]).unwrap().close().unwrap();
    assert_eq!(sim.ram().used_pages(), used);
    drop(bus);
    clean(&sim);
}

#[test]
fn a_driver_can_leave_and_another_come() {
    let sim = SimHyperV::new(64, |_| {});
    add_echo(&sim, 1);
    for _ in 0..3 {
        let hv = sim.start();
        {
            let bus = connect(&hv);
            let mut channel = bus.open(&offered(&bus), 1, &[]).unwrap();
            exchange(&sim, &mut channel, 2);
        }
        drop(hv);
        assert_eq!(sim.ram().used_pages(), 0);
    }
    clean(&sim);
}

#[test]
fn a_rescinded_channel_ends_and_its_successor_works() {
    let (sim, hv) = boot(|_| {});
    let id = add_echo(&sim, 1);
    let used = sim.ram().used_pages();
    let bus = connect(&hv);
    let offer = offered(&bus);
    let mut channel = bus.open(&offer, 1, &[]).unwrap();
    exchange(&sim, &mut channel, 2);
    assert!(!channel.is_rescinded());
    channel.take_pending();
    sim.host().bus.rescind(id);
    sim.settle();
    assert!(channel.is_rescinded());
    // Whoever waits for the channel is told.
    assert!(channel.take_pending());
    assert_eq!(channel.check(), Err(HostFault::Withdrawn));
    assert_eq!(channel.receive(&mut [0; 1]), Err(HostFault::Withdrawn));
    let refused = channel.send(Outgoing::in_band(1, &0u64));
    assert_eq!(refused, Err(SendError::Fault(HostFault::Withdrawn)));
    assert_eq!(bus.poll(), Ok(Some(BusEvent::Gone(offer.clone()))));
    channel.close().unwrap();
    sim.settle();
    assert_eq!(sim.host().bus.relid(id), None);
    assert_eq!(sim.ram().used_pages(), used);
    sim.host().bus.offer_again(id);
    sim.settle();
    let mut channel = bus.open(&offered(&bus), 1, &[]).unwrap();
    exchange(&sim, &mut channel, 2);
    drop(channel);
    drop(bus);
    clean(&sim);
}

/// The host may take the device back after any of its messages.
#[test]
fn a_rescind_comes_at_any_moment() {
    for after in 0..12 {
        let (sim, hv) = boot(|_| {});
        let id = add_echo(&sim, 1);
        sim.host()
            .bus
            .hostile
            .add(Misdeed::RescindAfterMessage(after));
        let bus = connect(&hv);
        let used = sim.ram().used_pages();
        let offer = offered(&bus);
        match bus.open(&offer, 40, &[]) {
            Ok(mut channel) => {
                let _ = channel.send(Outgoing::in_band(1, &0u64).ask_completion());
                channel.flush();
                sim.settle();
                let _ = channel.receive(&mut [0; 1]);
                channel.close().unwrap();
            }
            Err(OpenError::Fault(HostFault::Withdrawn) | OpenError::Gone) => {}
            Err(other) => panic!("after {after}: {other}"),
        }
        sim.settle();
        while bus.poll().unwrap().is_some() {}
        assert_eq!(sim.ram().used_pages(), used, "after {after}");
        sim.settle();
        sim.host().bus.offer_again(id);
        sim.settle();
        if let Ok(Some(BusEvent::Offered(offer))) = bus.poll() {
            let mut channel = bus.open(&offer, 1, &[]).unwrap();
            exchange(&sim, &mut channel, 2);
        }
        drop(bus);
        clean(&sim);
    }
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
fn channels_and_buses_cross_threads() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    is_send::<Channel<'_, '_>>();
    is_send::<Bus_<'_>>();
    is_sync::<Bus_<'_>>();
    is_sync::<SimDriver>();
}

#[test]
fn cut_messages_are_faults_of_the_bus() {
    let (sim, hv) = boot(|_| {});
    add_echo(&sim, 1);
    let bus = connect(&hv);
    let offer = offered(&bus);
    sim.host().bus.hostile.add(Misdeed::CutMessage {
        kind: message::GPADL_CREATED,
        bytes: 15,
    });
    let error = OpenError::Fault(HostFault::Malformed);
    assert_eq!(bus.open(&offer, 1, &[]).map(drop), Err(error));
    assert_eq!(bus.poll(), Err(HostFault::Malformed));
}

#[test]
fn odd_messages_do_no_harm() {
    let misdeeds = [
        Misdeed::RepeatMessage(message::OFFER_CHANNEL),
        Misdeed::RepeatMessage(message::GPADL_CREATED),
        Misdeed::RepeatMessage(message::OPEN_RESULT),
        Misdeed::RepeatMessage(message::GPADL_TORNDOWN),
        Misdeed::RepeatMessage(message::VERSION_RESPONSE),
        Misdeed::RepeatMessage(message::ALL_OFFERS_DELIVERED),
    ];
    for misdeed in misdeeds {
        let (sim, hv) = boot(|_| {});
        add_echo(&sim, 1);
        sim.host().bus.hostile.add(misdeed);
        let bus = connect(&hv);
        let offer = offered(&bus);
        assert_eq!(bus.poll(), Ok(None), "{misdeed:?}");
        for _ in 0..2 {
            let mut channel = bus.open(&offer, 1, &[]).unwrap();
            exchange(&sim, &mut channel, 2);
            channel.close().unwrap();
        }
        drop(bus);
        clean(&sim);
    }
}

/// A channel's number that is no event flag.
#[test]
fn wild_channel_numbers_are_left_out() {
    for wild in [0, 2048, u32::MAX] {
        let (sim, hv) = boot(|_| {});
        add_echo(&sim, 1);
        sim.host().bus.hostile.add(Misdeed::WrongId {
            kind: message::OFFER_CHANNEL,
            id: wild,
        });
        let bus = connect(&hv);
        assert_eq!(bus.poll(), Ok(None));
    }
}

#[test]
fn wild_rings_are_faults_of_the_channel_alone() {
    let (sim, hv) = boot(|_| {});
    add_echo(&sim, 1);
    add_echo(&sim, 2);
    let used = sim.ram().used_pages();
    let bus = connect(&hv);
    let (first, second) = (offered(&bus), offered(&bus));
    let mut good = bus.open(&second, 1, &[]).unwrap();
    for value in [4, 4096, u32::MAX] {
        let mut bad = bus.open(&first, 1, &[]).unwrap();
        let packet = sim.host().bus.hostile.packets();
        sim.host()
            .bus
            .hostile
            .add(Misdeed::WriteIndex { packet, value });
        bad.send(Outgoing::in_band(1, &0u64).ask_completion())
            .unwrap();
        bad.flush();
        sim.settle();
        assert_eq!(bad.receive(&mut [0; 1]), Err(HostFault::RingIndex));
        assert_eq!(bad.receive(&mut [0; 1]), Err(HostFault::RingIndex));
        exchange(&sim, &mut good, 2);
        bad.close().unwrap();
    }
    drop(good);
    assert_eq!(sim.ram().used_pages(), used);
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

#[test]
fn memory_is_lent_for_as_long_as_a_channel_is_open() {
    let (sim, hv) = boot(|_| {});
    add_echo(&sim, 1);
    let bus = connect(&hv);
    let mut channel = bus.open(&offered(&bus), 1, &[]).unwrap();
    let rings = sim.host().bus.gpadls();
    let mut loans = Vec::new();
    // One message names 26 frames; more take bodies.
    for pages in [1, 26, 27, 100] {
        let memory = Pages::alloc(hv.platform(), pages).unwrap();
        let lent = hv.share(memory, 0, Access::ReadWrite).unwrap();
        assert_ne!(channel.lend(&lent).unwrap(), 0);
        loans.push(lent);
        assert_eq!(sim.host().bus.gpadls(), rings + loans.len());
    }
    let one = loans.first().unwrap();
    assert_eq!(channel.lend(one), Err(OpenError::TooLarge), "four at most");
    exchange(&sim, &mut channel, 3);
    channel.close().unwrap();
    assert_eq!(sim.host().bus.gpadls(), 0);
    for lent in loans {
        assert!(hv.unshare(lent).is_ok());
    }
    bus.disconnect().unwrap();
    clean(&sim);
}
