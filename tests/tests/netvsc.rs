//! What is particular to Hyper-V's network front end, over the simulated host.

use hypercall::bus::{Bus, BusEvent};
use hypercall::{HostFault, Hypervisor};
use netfront::netvsc::{Netvsc, nvsp::Version};
use netfront::{
    Body, Config, Event, Ip, Mac, Net, NetQueue, Offloads, Protocol, ReserveError, RxChecksum,
    RxMeta, Segmentation, SendError, Transport, TxFrame, Vlan,
};
use pv_tests::hyperv::netvsp::nvsp::version;
use pv_tests::hyperv::netvsp::{Netvsp, NetvspConfig, TableForm};
use pv_tests::hyperv::vmbus_server::DeviceId;
use pv_tests::net::samples::{Flow, pattern};
use pv_tests::net::{Cable, Checksum, Frame, Port, Segment, cable};
use pv_tests::sim_hyperv::{Platform, SimDriver, SimHyperV};
use vmbus::VmBus;

type SimNetvsc<'b, 'h> = Netvsc<'b, 'h, Platform, SimHyperV>;

const SECOND: u64 = 1_000_000_000;

/// A machine with an interface, and a driver that is connected to it.
struct Bench<'n, 'b, 'h> {
    sim: SimHyperV,
    hv: &'h SimDriver,
    bus: &'b VmBus<'h, Platform, SimHyperV>,
    device: DeviceId,
    line: Cable,
    net: &'n mut SimNetvsc<'b, 'h>,
}

impl Bench<'_, '_, '_> {
    fn netvsp<R>(&self, f: impl FnOnce(&mut Netvsp) -> R) -> R {
        f(self
            .sim
            .host()
            .bus
            .device_mut::<Netvsp>(self.device)
            .unwrap())
    }

    fn send(&mut self, bytes: &[u8]) {
        let queue = self.net.queue(0).unwrap();
        let mut frame = queue.tx_reserve(bytes.len()).unwrap();
        frame.write_at(0, bytes).unwrap();
        queue.send(frame).map_err(|(why, _)| why).unwrap();
        queue.publish();
    }

    /// What reached the far end.
    fn sent(&mut self) -> Vec<Frame> {
        self.sim.settle();
        std::iter::from_fn(|| self.line.receive()).collect()
    }

    fn toward_guest(&mut self, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        bytes[..6].copy_from_slice(&self.net.capabilities().mac.0);
        self.line.send(Frame::new(bytes));
    }

    fn receive(&mut self) -> Option<(Vec<u8>, RxMeta)> {
        let frame = self.net.queue(0).unwrap().rx().unwrap()?;
        let mut bytes = vec![0; frame.len()];
        frame.read_at(0, &mut bytes).unwrap();
        Some((bytes, *frame.meta()))
    }

    fn event(&mut self) -> Option<Event> {
        self.sim.settle();
        self.net.queue(0).unwrap().event()
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.rx_pages = 128;
    config.tx_pages = 128;
    config
}

fn run<R>(host: NetvspConfig, config: Config, f: impl FnOnce(&mut Bench<'_, '_, '_>) -> R) -> R {
    let (far, near) = cable();
    let sim = SimHyperV::new(4096, |_| {});
    let device = sim
        .host()
        .bus
        .add(Box::new(Netvsp::new(host, Box::new(near))));
    let hv = sim.start();
    let bus = VmBus::connect(&*hv, vmbus::Config::default()).unwrap();
    bus.wait_offers(SECOND).unwrap();
    let Ok(Some(BusEvent::Offered(offer))) = bus.poll() else {
        panic!("no interface was offered");
    };
    let before = sim.ram().used_pages();
    let mut net = Netvsc::connect(&bus, &offer, config)
        .unwrap_or_else(|why| panic!("{why}: {:?}", sim.host().counters().violations));
    let mut bench = Bench {
        sim: sim.clone(),
        hv: &hv,
        bus: &bus,
        device,
        line: far,
        net: &mut net,
    };
    let result = f(&mut bench);
    net.close().unwrap();
    assert_eq!(net.buffers_out(), 0);
    assert!(net.release(), "memory that nobody uses");
    drop(net);
    assert_eq!(sim.ram().used_pages(), before, "pages leaked");
    assert_eq!(sim.host().counters().violations, Vec::<String>::new());
    result
}

#[test]
fn sends_and_receives_whatever_the_version() {
    for newest in version::ALL {
        let host = NetvspConfig {
            versions: version::ALL.into_iter().filter(|v| *v <= newest).collect(),
            ..NetvspConfig::default()
        };
        run(host, config(), |bench| {
            assert_eq!(bench.net.version(), Version(newest));
            let can = *bench.net.capabilities();
            assert_eq!(can.mac, Mac(NetvspConfig::default().mac));
            assert_eq!((can.mtu, can.link, can.queues), (1500, true, 1));
            let mut expected = Vec::new();
            for len in [14, 60, 64, 1514] {
                let bytes = pattern(len, len as u64);
                bench.send(&bytes);
                expected.push(bytes);
            }
            let sent: Vec<_> = bench.sent().into_iter().map(|f| f.bytes).collect();
            assert!(sent == expected);
            for len in [14, 60, 64, 1514] {
                bench.toward_guest(&pattern(len, 7));
            }
            bench.sim.settle();
            for len in [14, 60, 64, 1514] {
                let (bytes, _) = bench.receive().unwrap();
                assert_eq!(bytes.len(), len);
                assert!(bytes[6..] == pattern(len, 7)[6..]);
            }
            assert!(bench.receive().is_none());
            let queue = bench.net.queue(0).unwrap();
            assert_eq!(queue.in_flight(), 0);
            let stats = queue.stats();
            assert_eq!((stats.tx_frames, stats.rx_frames), (4, 4));
            assert_eq!((stats.tx_bytes, stats.rx_bytes), (1652, 1652));
            assert_eq!((stats.tx_errors, stats.rx_dropped), (0, 0));
            assert_eq!(stats.copied, 2 * 1652);
            bench.sim.settle();
            assert_eq!(bench.netvsp(|n| n.stats().sections_out), 0);
        });
    }
}

fn tcp(ip: Ip, start: u16) -> Option<Transport> {
    Some(Transport {
        ip,
        protocol: Protocol::Tcp,
        start,
    })
}

#[test]
fn a_long_segment_is_one_packet_and_no_copy() {
    for (v6, ip, start) in [(false, Ip::V4, 34), (true, Ip::V6, 54)] {
        for newest in [version::V4, version::V6_1] {
            let host = NetvspConfig {
                versions: vec![newest],
                ..NetvspConfig::default()
            };
            run(host, config(), |bench| {
                let most = bench.net.capabilities().max_segmented as usize;
                assert!(most > 60_000, "{most}");
                let sample = Flow { v6, ..Flow::tcp4() };
                let payload = pattern(most - sample.headers(), 3);
                let long = sample.long(&payload, 1448);
                let before = bench.netvsp(|n| n.stats().sent_packets);
                let queue = bench.net.queue(0).unwrap();
                for _ in 0..3 {
                    let mut frame = queue.tx_reserve(long.bytes.len()).unwrap();
                    frame.write_at(0, &long.bytes).unwrap();
                    frame.meta.checksum = tcp(ip, start);
                    frame.meta.segmentation = Some(Segmentation { ip, mss: 1448 });
                    queue.send(frame).map_err(|(why, _)| why).unwrap();
                }
                assert_eq!(queue.in_flight(), 3);
                let copied = queue.stats().copied;
                assert_eq!(copied, 3 * long.bytes.len() as u64, "what was written");
                queue.publish();
                let sent = bench.sent();
                assert_eq!(sent.len(), 3);
                let cut = Some(Segment { v6, mss: 1448 });
                assert_eq!(sent[0].segment, cut);
                assert_eq!(sent[0].bytes.len(), long.bytes.len());
                assert!(sent[0].bytes[start as usize + 20..] == payload[..]);
                assert_eq!(bench.netvsp(|n| n.stats().sent_packets) - before, 3);
                assert_eq!(bench.net.queue(0).unwrap().in_flight(), 0);
            });
        }
    }
}

#[test]
fn a_segment_that_is_one_packet_is_not_cut() {
    run(NetvspConfig::default(), config(), |bench| {
        let sample = Flow::tcp4();
        let short = sample.partial(&pattern(100, 1));
        let queue = bench.net.queue(0).unwrap();
        let mut frame = queue.tx_reserve(short.bytes.len()).unwrap();
        frame.write_at(0, &short.bytes).unwrap();
        frame.meta.checksum = tcp(Ip::V4, 34);
        frame.meta.segmentation = Some(Segmentation {
            ip: Ip::V4,
            mss: 100,
        });
        queue.send(frame).unwrap();
        queue.publish();
        let sent = bench.sent();
        assert_eq!((sent[0].segment, &sent[0].bytes), (None, &short.bytes));
        assert_eq!(sent[0].checksum, short.checksum);
    });
}

#[test]
fn tags_checksums_and_hashes_go_beside_frames() {
    let mut config = config();
    config.queues = 2;
    run(NetvspConfig::default(), config, |bench| {
        let can = *bench.net.capabilities();
        assert_eq!((can.tx, can.queues), (Offloads::all(), 2));
        let partial = Flow::tcp4().partial(b"payload");
        let queue = bench.net.queue(0).unwrap();
        let mut frame = queue.tx_reserve(partial.bytes.len()).unwrap();
        frame.write_at(0, &partial.bytes).unwrap();
        frame.meta.checksum = tcp(Ip::V4, 34);
        frame.meta.vlan = Some(Vlan(0xb123));
        queue.send(frame).unwrap();
        queue.publish();
        let sent = bench.sent();
        assert_eq!(sent[0].vlan, Some(0xb123));
        let place = Checksum::Partial {
            start: 34,
            offset: 16,
        };
        assert_eq!(sent[0].checksum, place);
        let mut flow = Flow::tcp4();
        flow.to = can.mac.0;
        let mut frame = flow.frame(b"answer");
        (frame.vlan, frame.checksum) = (Some(0x6123), Checksum::Verified);
        bench.line.send(frame);
        bench.sim.settle();
        let mut metas = Vec::new();
        for queue in bench.net.queues() {
            while let Some(frame) = queue.rx().unwrap() {
                metas.push(*frame.meta());
            }
        }
        assert_eq!(metas.len(), 1);
        assert_eq!(metas[0].vlan, Some(Vlan(0x6123)));
        assert_eq!(metas[0].checksum, RxChecksum::Good);
        let mut input = vec![10, 0, 0, 1, 10, 0, 0, 2];
        input.extend(1000u16.to_be_bytes());
        input.extend(2000u16.to_be_bytes());
        let hash = netfront::toeplitz::hash(&netfront::netvsc::rss::KEY, &input);
        assert_eq!(metas[0].hash, Some(hash));
    });
}

#[test]
fn several_queues_work_side_by_side() {
    for (queues, table) in [
        (1, TableForm::Behind),
        (2, TableForm::Apart),
        (3, TableForm::Misplaced),
        (8, TableForm::Behind),
    ] {
        for versions in [vec![version::V6], vec![version::V6_1], vec![version::V4]] {
            if table == TableForm::Misplaced && versions == [version::V6_1] {
                continue;
            }
            let mut config = config();
            config.queues = queues;
            let granted = if versions == [version::V4] { 1 } else { queues };
            let host = NetvspConfig {
                versions,
                table,
                ..NetvspConfig::default()
            };
            run(host, config, |bench| {
                assert_eq!(bench.net.capabilities().queues, granted);
                for (index, queue) in bench.net.queues().iter_mut().enumerate() {
                    let mut frame = queue.tx_reserve(100).unwrap();
                    frame.write_at(0, &pattern(100, index as u64)).unwrap();
                    queue.send(frame).unwrap();
                    queue.publish();
                }
                assert_eq!(bench.sent().len(), usize::from(granted));
                let held = bench.net.queues()[0].tx_reserve(60).unwrap();
                if let Some(other) = bench.net.queues().get_mut(1) {
                    assert_eq!(other.send(held).unwrap_err().0, SendError::OtherQueue);
                }
                // Frames of a flow come where the host would send its answers from.
                let mac = bench.net.capabilities().mac.0;
                for port in 0..64 {
                    let mut flow = Flow::tcp4();
                    (flow.to, flow.source.1) = (mac, port);
                    bench.line.send(flow.frame(b"x"));
                }
                bench.sim.settle();
                let mut counts = vec![0; usize::from(granted)];
                for (index, count) in counts.iter_mut().enumerate() {
                    while let Some(frame) = bench.net.queue(index).unwrap().rx().unwrap() {
                        *count += 1;
                        let hash = frame.meta().hash;
                        if granted.is_power_of_two() && granted > 1 {
                            assert_eq!(bench.net.queue_for(hash.unwrap()), index);
                        }
                    }
                }
                assert_eq!(counts.iter().sum::<i32>(), 64);
                assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
                bench.net.queue(0).unwrap().rx().unwrap();
            });
        }
    }
}

#[test]
fn fewer_channels_than_asked_for_will_do() {
    let mut config = config();
    config.queues = 8;
    let host = NetvspConfig {
        grants: 2,
        ..NetvspConfig::default()
    };
    run(host, config, |bench| {
        assert_eq!(bench.net.capabilities().queues, 3);
        assert!(bench.net.queue(3).is_none());
        bench.net.reconnect().unwrap();
        assert_eq!(bench.net.capabilities().queues, 3);
    });
}

#[test]
fn news_reach_the_first_queue() {
    run(NetvspConfig::default(), config(), |bench| {
        assert_eq!(bench.event(), None);
        bench.netvsp(|n| n.set_link(false));
        assert_eq!(bench.event(), Some(Event::Link(false)));
        assert!(!bench.net.capabilities().link);
        bench.netvsp(|n| n.set_link(true));
        assert_eq!(bench.event(), Some(Event::Link(true)));
        assert!(bench.net.capabilities().link);
        bench.netvsp(|n| n.set_max_frame(1014));
        assert_eq!(bench.event(), Some(Event::Moved));
        assert_eq!(bench.event(), Some(Event::Mtu(1000)));
        assert_eq!(bench.net.capabilities().mtu, 1000);
        let queue = bench.net.queue(0).unwrap();
        assert_eq!(queue.tx_reserve(70_000).unwrap_err(), ReserveError::TooLong);
        let frame = queue.tx_reserve(1018).unwrap();
        assert_eq!(queue.send(frame).unwrap_err().0, SendError::BadLength);
        assert_eq!(bench.event(), None);
    });
}

#[test]
fn jumbo_frames_are_asked_for() {
    let mut config = config();
    config.mtu = 9000;
    run(NetvspConfig::default(), config, |bench| {
        assert_eq!(bench.net.capabilities().mtu, 9000);
        let bytes = pattern(9014, 5);
        bench.send(&bytes);
        assert!(bench.sent()[0].bytes == bytes);
        bench.toward_guest(&bytes);
        bench.sim.settle();
        assert_eq!(bench.receive().unwrap().0.len(), 9014);
    });
}

#[test]
fn a_long_frame_with_a_gap_between_its_pages_comes_back() {
    let mut config = config();
    config.mtu = 9000;
    run(NetvspConfig::default(), config, |bench| {
        let queue = bench.net.queue(0).unwrap();
        for (cut, alone) in [(0, 9014), (4000, 9014), (0, 9013), (5000, 9000)] {
            let mut frame = queue.tx_reserve(7000).unwrap();
            frame.truncate(7000 - cut);
            let (mut body, _) = frame.into_parts();
            let (more, _) = queue.tx_reserve(alone).unwrap().into_parts();
            let (Body::Buf(buf), Body::Buf(more)) = (&mut body, more) else {
                panic!("they are too long for a section");
            };
            buf.append(more).unwrap();
            let mut frame = TxFrame::new(body, 96).unwrap();
            frame.truncate(9014);
            let len = frame.len();
            let (why, frame) = queue.send(frame).unwrap_err();
            assert_eq!((why, frame.len()), (SendError::BadLength, len));
        }
        // The half-written packets are overwritten.
        let bytes = pattern(9014, 5);
        bench.send(&bytes);
        let sent = bench.sent();
        assert!(sent.len() == 1 && sent[0].bytes == bytes);
        assert_eq!(bench.net.buffers_out(), 0);
    });
}

#[test]
fn frames_held_keep_their_memory_and_nothing_else() {
    run(NetvspConfig::default(), config(), |bench| {
        for i in 0..40 {
            bench.toward_guest(&pattern(200, i));
        }
        bench.sim.settle();
        let queue = bench.net.queue(0).unwrap();
        let mut held: Vec<_> = (0..20).map(|_| queue.rx().unwrap().unwrap()).collect();
        assert!(bench.net.buffers_out() >= 20 / 16);
        let sending = bench.net.queue(0).unwrap().tx_reserve(64).unwrap();
        bench.net.reconnect().unwrap();
        bench.toward_guest(&pattern(300, 9));
        bench.sim.settle();
        assert_eq!(bench.receive().unwrap().0.len(), 300);
        for (i, frame) in held.drain(..).enumerate() {
            let mut bytes = vec![0; frame.len()];
            frame.read_at(0, &mut bytes).unwrap();
            assert!(bytes[6..] == pattern(200, i as u64)[6..], "frame {i}");
        }
        let queue = bench.net.queue(0).unwrap();
        assert_eq!(queue.send(sending).unwrap_err().0, SendError::OtherQueue);
        assert!(bench.receive().is_none());
        assert_eq!(bench.net.buffers_out(), 0);
    });
}

#[test]
fn an_interface_that_went_comes_back() {
    let mut config = config();
    config.queues = 4;
    run(NetvspConfig::default(), config, |bench| {
        bench.send(&pattern(100, 1));
        bench.sim.host().bus.rescind(bench.device);
        let gone = loop {
            bench.sim.settle();
            match bench.net.queue(0).unwrap().rx() {
                Ok(_) => {}
                Err(fault) => break fault,
            }
        };
        assert_eq!(gone, HostFault::Withdrawn);
        assert_eq!(bench.net.fault(), Some(HostFault::Withdrawn));
        assert_eq!(bench.net.reconnect(), Err(HostFault::Withdrawn));
        assert!(matches!(bench.bus.poll(), Ok(Some(BusEvent::Gone(_)))));
        assert_eq!(bench.bus.poll(), Ok(None));
        bench.sim.settle();
        let device = bench.device;
        bench.sim.host().bus.offer_again(device);
        bench.sim.settle();
        bench.net.reconnect().unwrap();
        assert_eq!(bench.net.capabilities().queues, 4);
        assert_eq!(bench.net.fault(), None);
        bench.sent();
        bench.send(&pattern(100, 2));
        assert_eq!(bench.sent().len(), 1);
    });
}

#[test]
fn a_batch_is_one_signal_each_way() {
    run(NetvspConfig::default(), config(), |bench| {
        for _ in 0..3 {
            bench.sim.settle();
            assert!(bench.receive().is_none());
        }
        let before = bench.hv.counters();
        for round in 0..20 {
            for i in 0..32 {
                let queue = bench.net.queue(0).unwrap();
                let mut frame = queue.tx_reserve(64).unwrap();
                frame.write_at(0, &pattern(64, round * 32 + i)).unwrap();
                queue.send(frame).unwrap();
            }
            bench.net.queue(0).unwrap().publish();
            assert_eq!(bench.sent().len(), 32);
            assert!(bench.receive().is_none());
        }
        let after = bench.hv.counters();
        assert_eq!(after.hypercalls - before.hypercalls, 20);
        assert_eq!(after.pages_lent, before.pages_lent);
        for _ in 0..20 {
            for i in 0..32 {
                bench.toward_guest(&pattern(64, i));
            }
            bench.sim.settle();
            for _ in 0..32 {
                assert!(bench.receive().is_some());
            }
            assert!(bench.receive().is_none());
        }
        let last = bench.hv.counters();
        assert_eq!(last.hypercalls - after.hypercalls, 20);
        assert_eq!(last.pages_lent, before.pages_lent);
    });
}

#[test]
fn frames_wait_while_the_caller_only_sends() {
    run(NetvspConfig::default(), config(), |bench| {
        for i in 0..500 {
            bench.toward_guest(&pattern(100 + i as usize, i));
            bench.send(&pattern(64, i));
            bench.sim.settle();
            if i % 3 == 0 {
                assert_eq!(bench.net.queue(0).unwrap().in_flight(), 0);
            }
        }
        // One receive buffer's worth at most waits; the rest is still the host's.
        assert_eq!(bench.sent().len(), 500);
        for i in 0..500 {
            let mut got = bench.receive();
            while got.is_none() {
                bench.sim.settle();
                got = bench.receive();
            }
            assert_eq!(got.unwrap().0.len(), 100 + i as usize);
        }
        assert!(bench.receive().is_none());
    });
}
