//! What is particular to Xen's network front end, over the simulated host.

use hypercall::Hypervisor;
use hypercall::bus::{Bus, BusEvent};
use hypercall::shm::{Access, Pages};
use netfront::netif::Netif;
use netfront::{
    Config, Event, Ip, Net, NetQueue, Offloads, Protocol, ReserveError, RxChecksum, Segmentation,
    SendError, Transport, future,
};
use pv_tests::disk::Latency;
use pv_tests::net::samples::{Flow, pattern};
use pv_tests::net::{Cable, Checksum, Frame, Port, Segment, cable};
use pv_tests::sim_xen::{Platform, SimDriver, SimXen};
use pv_tests::xen::netback::NetHabits;
use pv_tests::xen::vif::VifSpec;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use xenbus::{Device, Kind, XenBus};

type SimNetif<'b, 'h> = Netif<'b, 'h, Platform, SimXen>;

const VIF: Device = Device {
    kind: Kind::Vif,
    id: 0,
};

/// A machine with an interface, and a driver that is connected to it.
struct Bench<'n, 'b, 'h> {
    sim: SimXen,
    xen: &'h SimDriver,
    bus: &'b XenBus<'h, Platform, SimXen>,
    line: Cable,
    net: &'n mut SimNetif<'b, 'h>,
}

impl Bench<'_, '_, '_> {
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

    fn receive(&mut self) -> Option<(Vec<u8>, netfront::RxMeta)> {
        let frame = self.net.queue(0).unwrap().rx().unwrap()?;
        let mut bytes = vec![0; frame.len()];
        frame.read_at(0, &mut bytes).unwrap();
        Some((bytes, *frame.meta()))
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.rx_pages = 300;
    config.tx_pages = 64;
    config
}

fn run<R>(habits: NetHabits, config: Config, f: impl FnOnce(&mut Bench<'_, '_, '_>) -> R) -> R {
    let (far, near) = cable();
    let sim = SimXen::new(4096, |_| {});
    sim.host()
        .attach_nic(VifSpec::new(Box::new(near)).habits(habits));
    let xen = sim.start();
    let bus = XenBus::connect(&*xen, Default::default()).unwrap();
    bus.wait_devices(1_000_000_000).unwrap();
    assert_eq!(bus.poll(), Ok(Some(BusEvent::Offered(VIF))));
    // The grant table grows to its size before pages are counted.
    let pages = Pages::alloc(xen.platform(), 1200).unwrap();
    drop(xen.unshare(xen.share(pages, 0, Access::ReadOnly).unwrap()));
    let before = sim.ram().used_pages();
    let mut net = Netif::connect(&bus, &VIF, config).unwrap();
    let mut bench = Bench {
        sim: sim.clone(),
        xen: &xen,
        bus: &bus,
        line: far,
        net: &mut net,
    };
    let result = f(&mut bench);
    net.close().unwrap();
    assert_eq!(net.buffers_out(), 0);
    assert!(net.release(), "pools that nobody uses");
    assert_eq!(sim.ram().used_pages(), before, "pages leaked");
    assert_eq!(sim.host().complaints(), []);
    result
}

#[test]
fn sends_and_receives() {
    run(NetHabits::default(), config(), |bench| {
        let can = *bench.net.capabilities();
        assert_eq!(can.mac.0, [0, 0x16, 0x3e, 0, 0, 1]);
        assert_eq!((can.mtu, can.link, can.queues), (1500, true, 1));
        assert_eq!(can.tx, Offloads::all() - Offloads::VLAN);
        let mut expected = Vec::new();
        for len in [14, 60, 64, 1514] {
            let bytes = pattern(len, len as u64);
            bench.send(&bytes);
            expected.push(bytes);
        }
        let sent: Vec<_> = bench.sent().into_iter().map(|f| f.bytes).collect();
        assert!(sent == expected);
        for len in [14, 60, 64, 1514] {
            bench.line.send(Frame::new(pattern(len, 7)));
        }
        bench.sim.settle();
        for len in [14, 60, 64, 1514] {
            let (bytes, meta) = bench.receive().unwrap();
            assert!(bytes == pattern(len, 7));
            assert_eq!(meta, Default::default());
        }
        assert!(bench.receive().is_none());
        let queue = bench.net.queue(0).unwrap();
        assert_eq!(queue.in_flight(), 0);
        let stats = queue.stats();
        assert_eq!((stats.tx_frames, stats.rx_frames), (4, 4));
        assert_eq!((stats.tx_bytes, stats.rx_bytes), (1652, 1652));
        assert_eq!((stats.tx_errors, stats.rx_dropped), (0, 0));
    });
}

#[test]
fn no_grant_and_one_signal_a_batch() {
    run(NetHabits::default(), config(), |bench| {
        // News of the connection itself.
        for _ in 0..10 {
            bench.sim.settle();
            assert_eq!(bench.net.queue(0).unwrap().event(), None);
            assert!(bench.receive().is_none());
        }
        let before = (bench.xen.counters(), bench.sim.host().counters().interrupts);
        for round in 0..20 {
            for i in 0..32 {
                let queue = bench.net.queue(0).unwrap();
                let mut frame = queue.tx_reserve(64).unwrap();
                frame.write_at(0, &pattern(64, round * 32 + i)).unwrap();
                queue.send(frame).unwrap();
            }
            bench.net.queue(0).unwrap().publish();
            assert_eq!(bench.sent().len(), 32);
        }
        let after = (bench.xen.counters(), bench.sim.host().counters().interrupts);
        assert_eq!(after.0.hypercalls - before.0.hypercalls, 20);
        assert_eq!(after.0.pages_lent, before.0.pages_lent);
        // Nobody waits for room, so nobody is told.
        assert_eq!(after.1, before.1);
        for _ in 0..20 {
            for i in 0..32 {
                bench.line.send(Frame::new(pattern(64, i)));
            }
            bench.sim.settle();
            for _ in 0..32 {
                assert!(bench.receive().is_some());
            }
            assert!(bench.receive().is_none());
        }
        let last = bench.xen.counters();
        assert_eq!(last.pages_lent, before.0.pages_lent);
    });
}

#[test]
fn a_long_segment_is_one_chain_each_way() {
    for piecemeal in [false, true] {
        let habits = NetHabits {
            rx_piecemeal: piecemeal,
            scattered_answers: piecemeal,
            latency: Latency {
                min_steps: 0,
                max_steps: 9,
                out_of_order: true,
            },
            ..NetHabits::default()
        };
        run(habits, config(), |bench| {
            let sample = Flow::tcp4();
            let payload = pattern(65_535 - sample.headers(), 3);
            let long = sample.long(&payload, 1448);
            let queue = bench.net.queue(0).unwrap();
            for _ in 0..3 {
                let mut frame = queue.tx_reserve(long.bytes.len()).unwrap();
                frame.write_at(0, &long.bytes).unwrap();
                let Checksum::Partial { start, .. } = long.checksum else {
                    panic!("a long segment has a partial checksum");
                };
                frame.meta.checksum = Some(Transport {
                    ip: Ip::V4,
                    protocol: Protocol::Tcp,
                    start,
                });
                frame.meta.segmentation = Some(Segmentation {
                    ip: Ip::V4,
                    mss: 1448,
                });
                queue.send(frame).map_err(|(why, _)| why).unwrap();
            }
            assert_eq!(queue.in_flight(), 3);
            queue.publish();
            let sent = bench.sent();
            assert_eq!(sent.len(), 3);
            assert!(sent[0].bytes == long.bytes);
            assert_eq!(
                sent[0].segment,
                Some(Segment {
                    v6: false,
                    mss: 1448
                })
            );
            assert_eq!(bench.net.queue(0).unwrap().in_flight(), 0);
            for _ in 0..30 {
                bench.line.send(long.clone());
                let mut got = None;
                for _ in 0..10_000 {
                    got = bench.receive();
                    if got.is_some() {
                        break;
                    }
                    bench.sim.host().step();
                    bench.sim.deliver();
                }
                let (bytes, meta) = got.expect("it comes");
                assert!(bytes == long.bytes);
                assert_eq!(meta.checksum, RxChecksum::Blank);
                let mss = meta.segmentation.map(|s| (s.ip, s.mss));
                assert_eq!(mss, Some((Ip::V4, 1448)));
            }
        });
    }
}

#[test]
fn a_full_ring_gives_the_frame_back_and_tells_of_room() {
    let mut config = config();
    config.tx_pages = 400;
    run(NetHabits::default(), config, |bench| {
        bench.sim.host().stall_nic(0, true);
        let queue = bench.net.queue(0).unwrap();
        for i in 0..256 {
            let mut frame = queue.tx_reserve(60).unwrap();
            frame.write_at(0, &pattern(60, i)).unwrap();
            queue.send(frame).unwrap();
        }
        let frame = queue.tx_reserve(60).unwrap();
        let (why, frame) = queue.send(frame).unwrap_err();
        assert_eq!((why, frame.len()), (SendError::Full, 60));
        drop(frame);
        assert_eq!(queue.in_flight(), 256);
        bench.sim.settle();
        bench.sim.host().stall_nic(0, false);
        let queue = bench.net.queue(0).unwrap();
        let until = queue.now() + 1_000_000_000;
        let mut frame = queue.tx_reserve(60).unwrap();
        while let Err((why, back)) = queue.send(frame) {
            assert_eq!(why, SendError::Full);
            frame = back;
            queue.pause(until);
        }
        assert!(queue.now() < until, "it was told of room");
        queue.publish();
        assert_eq!(bench.sent().len(), 257);
        assert_eq!(bench.net.buffers_out(), 0);
    });
}

#[test]
fn refuses_what_the_back_end_does_not_take() {
    run(NetHabits::plain(), config(), |bench| {
        let can = *bench.net.capabilities();
        let queue = bench.net.queue(0).unwrap();
        assert_eq!(can.max_segmented, 0);
        assert_eq!(queue.tx_reserve(1519).unwrap_err(), ReserveError::TooLong);
        let untagged = queue.tx_reserve(1518).unwrap();
        assert_eq!(queue.send(untagged).unwrap_err().0, SendError::BadLength);
        let mut tagged = queue.tx_reserve(1518).unwrap();
        tagged.write_at(12, &[0x81, 0]).unwrap();
        queue.send(tagged).unwrap();
        let short = queue.tx_reserve(13).unwrap();
        assert_eq!(queue.send(short).unwrap_err().0, SendError::BadLength);
        let mut vlan = queue.tx_reserve(60).unwrap();
        vlan.meta.vlan = Some(netfront::Vlan(5));
        assert_eq!(queue.send(vlan).unwrap_err().0, SendError::Unsupported);
        let mut checksum = queue.tx_reserve(60).unwrap();
        checksum.meta.checksum = Some(Transport {
            ip: Ip::V6,
            protocol: Protocol::Udp,
            start: 54,
        });
        assert_eq!(queue.send(checksum).unwrap_err().0, SendError::Unsupported);
        bench.sent();
    });
}

#[test]
fn several_queues_work_side_by_side() {
    for queues in 1..=8 {
        let mut config = config();
        config.queues = queues;
        config.rx_pages = 64;
        let habits = NetHabits {
            split_event_channels: queues % 2 == 0,
            ..NetHabits::default()
        };
        run(habits, config, |bench| {
            assert_eq!(bench.net.capabilities().queues, queues);
            for (index, queue) in bench.net.queues().iter_mut().enumerate() {
                let mut frame = queue.tx_reserve(100).unwrap();
                frame.write_at(0, &pattern(100, index as u64)).unwrap();
                queue.send(frame).unwrap();
                queue.publish();
            }
            assert_eq!(bench.sent().len(), usize::from(queues));
            let held = bench.net.queues()[0].tx_reserve(60).unwrap();
            if let Some(other) = bench.net.queues().get_mut(1) {
                assert_eq!(other.send(held).unwrap_err().0, SendError::OtherQueue);
            }
        });
    }
}

#[test]
fn starvation_recovers_without_an_interrupt() {
    let mut config = config();
    config.rx_pages = 64;
    run(NetHabits::default(), config, |bench| {
        for i in 0..100 {
            bench.line.send(Frame::new(pattern(60, i)));
        }
        bench.sim.settle();
        let mut held = Vec::new();
        for _ in 0..200 {
            match bench.net.queue(0).unwrap().rx().unwrap() {
                Some(frame) => held.push(frame),
                None => bench.sim.settle(),
            }
        }
        assert_eq!(held.len(), 64, "every page is held");
        assert_eq!(bench.net.buffers_out(), 64);
        held.clear();
        let queue = bench.net.queue(0).unwrap();
        let mut got = 64;
        let until = queue.now() + 1_000_000_000;
        while got < 100 && queue.now() < until {
            match queue.rx().unwrap() {
                Some(_) => got += 1,
                None => queue.pause(until),
            }
        }
        assert_eq!(got, 100);
        assert!(queue.now() < until);
        assert_eq!(bench.net.buffers_out(), 0);
    });
}

#[test]
fn news_of_line_and_mtu_and_a_new_connection() {
    let habits = NetHabits {
        carrier_key: true,
        ..NetHabits::default()
    };
    run(habits, config(), |bench| {
        let news = |bench: &mut Bench<'_, '_, '_>| {
            let mut events = Vec::new();
            for _ in 0..20 {
                bench.sim.settle();
                events.extend(bench.net.queue(0).unwrap().event());
            }
            events
        };
        assert_eq!(news(bench), []);
        bench.sim.host().set_link(0, false);
        assert_eq!(news(bench), [Event::Link(false)]);
        assert!(!bench.net.capabilities().link);
        bench.sim.host().set_link(0, true);
        bench.sim.host().set_mtu(0, 9000);
        assert_eq!(news(bench), [Event::Link(true), Event::Mtu(9000)]);
        let bytes = pattern(9014, 1);
        bench.send(&bytes);
        assert!(bench.sent()[0].bytes == bytes);
        bench.net.reconnect().unwrap();
        assert_eq!(news(bench), [Event::Moved]);
        assert_eq!(bench.net.capabilities().mtu, 9000);
        bench.send(&bytes);
        assert_eq!(bench.sent().len(), 1);
    });
}

#[test]
fn an_interface_that_goes_and_comes_back_is_connected_again() {
    run(NetHabits::default(), config(), |bench| {
        bench.sim.host().stall_nic(0, true);
        bench.send(&pattern(60, 1));
        bench.sim.settle();
        bench.sim.host().detach_nic(0);
        let queue = bench.net.queue(0).unwrap();
        let until = queue.now() + 1_000_000_000;
        let fault = loop {
            match queue.rx() {
                Ok(_) => queue.pause(until),
                Err(fault) => break fault,
            }
        };
        assert_eq!(fault, hypercall::HostFault::Withdrawn);
        assert!(matches!(queue.tx_reserve(60), Err(ReserveError::Failed(_))));
        bench.net.close().unwrap();
        for _ in 0..10 {
            bench.sim.settle();
            while bench.bus.poll().unwrap().is_some() {}
        }
        assert!(bench.net.reconnect().is_err(), "it is not there");
        let (far, near) = cable();
        bench.line = far;
        bench.sim.host().attach_nic(VifSpec::new(Box::new(near)));
        bench.net.reconnect().unwrap();
        bench.send(&pattern(60, 2));
        assert_eq!(bench.sent().len(), 1);
        bench.line.send(Frame::new(pattern(60, 3)));
        bench.sim.settle();
        assert!(bench.receive().is_some());
    });
}

/// Counts how often it is woken.
#[derive(Default)]
struct Alarm(AtomicUsize);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Polls a future until it is done, the host moving on only while nobody was woken.
fn block<F: Future>(sim: &SimXen, future: F) -> F::Output {
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(alarm.clone());
    let mut future = pin!(future);
    for _ in 0..10_000 {
        let woken = alarm.0.load(Ordering::Relaxed);
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        while alarm.0.load(Ordering::Relaxed) == woken {
            let stepped = sim.host().step();
            assert!(sim.deliver() || stepped, "nobody will wake the task");
        }
    }
    panic!("it is woken, and finds nothing");
}

/// Polls once, and drops it.
fn give_up<F: Future>(future: F) {
    let waker = Waker::from(Arc::new(Alarm::default()));
    assert!(
        pin!(future)
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
}

#[test]
fn futures_wait_and_lose_nothing() {
    let mut config = config();
    config.tx_pages = 300;
    for split in [false, true] {
        let habits = NetHabits {
            split_event_channels: split,
            carrier_key: true,
            ..NetHabits::default()
        };
        run(habits, config, |bench| {
            let sim = bench.sim.clone();
            let queue = &mut bench.net.queues()[0];
            for i in 0..50 {
                give_up(future::recv(queue));
                bench.line.send(Frame::new(pattern(60, i)));
                let frame = block(&sim, future::recv(queue)).unwrap();
                let mut bytes = [0; 60];
                frame.read_at(0, &mut bytes).unwrap();
                assert_eq!(bytes[..], pattern(60, i));
            }
            give_up(future::event(queue));
            sim.host().set_link(0, false);
            assert_eq!(block(&sim, future::event(queue)), Ok(Event::Link(false)));
            sim.host().set_link(0, true);
            // More than the ring and the pool hold at once.
            sim.host().stall_nic(0, true);
            for i in 0..256 {
                let mut frame = block(&sim, future::reserve(queue, 60)).unwrap();
                frame.write_at(0, &pattern(60, i)).unwrap();
                block(&sim, future::send(queue, &mut Some(frame))).unwrap();
            }
            let frame = queue.tx_reserve(60).unwrap();
            let mut frame = Some(frame);
            give_up(future::send(queue, &mut frame));
            assert!(frame.is_some());
            let mut held = Vec::new();
            while let Ok(frame) = queue.tx_reserve(60) {
                held.push(frame);
            }
            give_up(future::reserve(queue, 60));
            sim.host().stall_nic(0, false);
            let more = block(&sim, future::reserve(queue, 60)).unwrap();
            block(&sim, future::send(queue, &mut frame)).unwrap();
            assert!(frame.is_none());
            drop((held, more));
            assert_eq!(bench.sent().len(), 257);
        });
    }
}
