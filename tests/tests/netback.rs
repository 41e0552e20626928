//! The network front end against back ends of every habit: what earlier owners leave, and back ends
//! that mean harm.

use netfront::{Event, Net, NetQueue, Offloads};
use pv_tests::net::samples::{Flow, pattern};
use pv_tests::net::{Frame, Port, cable};
use pv_tests::suite::XenNetLab;
use pv_tests::suite::net_lab::{NetLab, NetSetup};
use pv_tests::xen::hostile::{NetMischief, Plan, Strike};
use pv_tests::xen::netback::NetHabits;
use pv_tests::xen::pair::Leftover;
use pv_tests::xen::vif::VifSpec;

const PATIENCE: usize = 10_000;

fn settle(lab: &XenNetLab) {
    for _ in 0..1_000_000 {
        if !lab.step() {
            return;
        }
    }
    panic!("the host does not come to rest");
}

fn send(queue: &mut dyn NetQueue, bytes: &[u8]) -> bool {
    let Ok(mut room) = queue.tx_reserve(bytes.len()) else {
        return false;
    };
    room.write_at(0, bytes).unwrap();
    queue.send(room).is_ok()
}

fn bytes_of(frame: &netfront::RxFrame) -> Vec<u8> {
    let mut bytes = vec![0; frame.len()];
    frame.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Sends frames of several sizes both ways; all must arrive, in order.
fn exchange(lab: &XenNetLab, net: &mut dyn Net) {
    let mut line = lab.line();
    let longest = usize::from(net.capabilities().mtu) + 14;
    for len in [60, 1000, 1514, 4096, 4097, 9014] {
        let bytes = pattern(len.min(longest), len as u64);
        let queue = net.queue(0).unwrap();
        assert!(send(queue, &bytes), "{len} bytes");
        queue.publish();
        settle(lab);
        assert_eq!(
            line.receive(),
            Some(Frame::new(bytes.clone())),
            "{len} bytes out"
        );
        line.send(Frame::new(bytes.clone()));
        let mut got = None;
        for _ in 0..PATIENCE {
            settle(lab);
            got = (0..8).find_map(|n| net.queue(n)?.rx().expect("no fault"));
            if got.is_some() {
                break;
            }
        }
        assert!(
            got.is_some_and(|frame| bytes_of(&frame) == bytes),
            "{len} bytes in"
        );
    }
    assert_eq!(net.fault(), None);
}

#[test]
fn every_habit_of_a_back_end_is_coped_with() {
    type Change = fn(&mut NetHabits);
    let changes: [(&str, Change); 14] = [
        ("plain", |h| *h = NetHabits::plain()),
        ("no sg", |h| h.sg = false),
        ("one event channel", |h| h.split_event_channels = false),
        ("no queues", |h| h.max_queues = None),
        ("two queues", |h| h.max_queues = Some(2)),
        ("MAC in the back end", |h| h.mac_in_back_end = true),
        ("18 buffers", |h| h.rx_minimum = 18),
        ("offset", |h| h.rx_offset = 256),
        ("piecemeal", |h| h.rx_piecemeal = true),
        ("carrier", |h| h.carrier_key = true),
        ("early", |h| h.connects_early = true),
        ("lazy events", |h| h.lazy_events = true),
        ("scattered answers", |h| h.scattered_answers = true),
        ("nothing of multicast", |h| h.dynamic_multicast = false),
    ];
    for (name, change) in changes {
        let setup = NetSetup {
            mtu: 9000,
            queues: 4,
            ..NetSetup::default()
        };
        let lab = XenNetLab::with_habits(setup, |habits| {
            habits.max_queues = Some(4);
            change(habits);
        });
        lab.run(|net| {
            let capabilities = *net.capabilities();
            assert_eq!(capabilities.mac.0, lab.mac(), "{name}");
            let queues = match name {
                "plain" | "no queues" => 1,
                "two queues" => 2,
                _ => 4,
            };
            assert_eq!(capabilities.queues, queues, "{name}");
            let small = ["plain", "no sg"].contains(&name);
            assert_eq!(capabilities.mtu, if small { 1500 } else { 9000 }, "{name}");
            assert_eq!(capabilities.tx.contains(Offloads::SEGMENT_V4), !small);
            exchange(&lab, net);
        });
        assert_eq!(lab.violations(), [""; 0], "{name}");
    }
}

#[test]
fn what_an_earlier_owner_left_is_cleared_away() {
    for leftover in [Leftover::Closed, Leftover::Connected] {
        let lab = XenNetLab::new(NetSetup {
            asked: Offloads::empty(),
            ..NetSetup::default()
        });
        let (near, _) = cable();
        {
            let mut host = lab.sim().host();
            host.destroy_nic(0);
            host.attach_nic(VifSpec::new(Box::new(near)).leftover(leftover));
        }
        lab.run(|net| {
            assert_eq!(net.fault(), None);
            let host = lab.sim().host();
            let terms = host.vif(0).unwrap().net.terms();
            // The earlier owner took long segments; this one was told to ask for nothing.
            assert_eq!(terms.takes, Default::default());
        });
        assert_eq!(lab.violations(), [""; 0]);
    }
}

#[test]
fn a_long_segment_is_one_chain_of_as_few_slots_as_can_be() {
    let lab = XenNetLab::new(NetSetup::default());
    lab.run(|net| {
        let flow = Flow::tcp4();
        let frame = flow.long(&pattern(65_535 - flow.headers(), 1), 1448);
        let queue = net.queue(0).unwrap();
        let mut room = queue.tx_reserve(frame.bytes.len()).unwrap();
        room.write_at(0, &frame.bytes).unwrap();
        room.meta.checksum = Some(netfront::Transport {
            ip: netfront::Ip::V4,
            protocol: netfront::Protocol::Tcp,
            start: 34,
        });
        room.meta.segmentation = Some(netfront::Segmentation {
            ip: netfront::Ip::V4,
            mss: 1448,
        });
        queue.send(room).map_err(|(why, _)| why).unwrap();
        queue.publish();
        settle(&lab);
        let counters = lab.sim().host().counters().net;
        assert_eq!((counters.tx_frames, counters.tx_bytes), (1, 65_535));
        assert!(counters.tx_slots <= 17, "{} slots", counters.tx_slots);
        assert_eq!(lab.line().receive(), Some(frame));
    });
    assert_eq!(lab.violations(), [""; 0]);
}

#[test]
fn directories_that_vanish_at_any_step_are_an_end_and_no_more() {
    for cut in (0..60).step_by(if cfg!(miri) { 30 } else { 1 }) {
        let lab = XenNetLab::new(NetSetup {
            shuffle: Some(cut),
            rx_pages: 48,
            tx_pages: 48,
            ..NetSetup::default()
        });
        lab.run(|net| {
            let mut line = lab.line();
            for n in 0..4 {
                send(net.queue(0).unwrap(), &[n; 300]);
                line.send(Frame::new([n; 300]));
            }
            net.queue(0).unwrap().publish();
            for _ in 0..cut {
                lab.step();
            }
            lab.sim().host().destroy_nic(0);
            let mut patience = 0..PATIENCE;
            let queue = net.queue(0).unwrap();
            while queue.rx().is_ok() {
                let until = queue.now() + 1_000_000;
                queue.pause(until);
                patience.next().expect("the end is noticed");
            }
            assert!(net.reconnect().is_err(), "connected to nothing");
            lab.replug();
            assert_eq!(net.reconnect(), Ok(()), "after {cut} steps");
            while line.receive().is_some() {}
            while net.queue(0).unwrap().rx().unwrap().is_some() {
                settle(&lab);
            }
            settle(&lab);
            while net.queue(0).unwrap().rx().unwrap().is_some() {}
            exchange(&lab, net);
        });
    }
}

#[test]
fn a_back_end_that_closes_of_its_own_accord_can_be_reconnected() {
    let lab = XenNetLab::new(NetSetup::default());
    lab.run(|net| {
        for _ in 0..3 {
            exchange(&lab, net);
            lab.sim().host().close_net_back_end(0);
            let mut patience = 0..PATIENCE;
            let queue = net.queue(0).unwrap();
            while queue.rx().is_ok() {
                let until = queue.now() + 1_000_000;
                queue.pause(until);
                patience.next().expect("the end is noticed");
            }
            assert_eq!(net.reconnect(), Ok(()));
            let moved = std::iter::from_fn(|| net.queue(0)?.event());
            assert!(moved.into_iter().any(|event| event == Event::Moved));
        }
    });
    assert_eq!(lab.violations(), [""; 0]);
}

#[test]
fn what_the_host_did_not_send_is_counted() {
    let lab = XenNetLab::new(NetSetup::default());
    lab.run(|net| {
        lab.sim().host().hostile().net = Some(Plan {
            what: NetMischief::TxStatus(-1),
            when: Strike { after: 1, times: 2 },
        });
        let queue = net.queue(0).unwrap();
        for n in 0..5 {
            assert!(send(queue, &[n; 60]));
        }
        queue.publish();
        settle(&lab);
        assert_eq!(queue.in_flight(), 0);
        assert_eq!((queue.stats().tx_errors, queue.fault()), (2, None));
    });
    assert_eq!(lab.violations(), [""; 0]);
}

#[test]
fn a_back_end_that_does_not_let_go_gets_nothing_of_others() {
    let lab = XenNetLab::new(NetSetup::default());
    lab.run(|net| {
        exchange(&lab, net);
        lab.sim().host().hostile().hold_grants = true;
        lab.stall(true);
        for n in 0..9 {
            assert!(send(net.queue(0).unwrap(), &[n; 200]));
            lab.line().send(Frame::new([n; 200]));
        }
        net.queue(0).unwrap().publish();
        settle(&lab);
        // It still maps the rings, and pages of both pools.
        assert!(net.reconnect().is_err());
        assert!(net.close().is_err());
        assert!(net.queue(0).is_none_or(|queue| queue.rx().is_err()));
        lab.sim().host().hostile().hold_grants = false;
        lab.stall(false);
        settle(&lab);
        assert_eq!(net.reconnect(), Ok(()));
        while net.queue(0).unwrap().rx().expect("no fault").is_some() {}
        while lab.line().receive().is_some() {}
        exchange(&lab, net);
        assert_eq!(net.buffers_out(), 0);
    });
}

#[test]
fn events_without_end_and_back_ends_that_close_in_between_are_survived() {
    for closing in 0..if cfg!(miri) { 1 } else { 40 } {
        let lab = XenNetLab::new(NetSetup {
            shuffle: Some(closing),
            rx_pages: 48,
            tx_pages: 48,
            ..NetSetup::default()
        });
        lab.run(|net| {
            {
                let mut host = lab.sim().host();
                host.hostile().event_storm = 100;
                host.hostile().close_back_ends_in = Some(closing * 3);
            }
            let mut line = lab.line();
            let queue = net.queue(0).unwrap();
            for n in 0..PATIENCE {
                line.send(Frame::new([1; 100]));
                if queue.rx().is_err() {
                    break;
                }
                let _ = send(queue, &[2; 100]);
                let until = queue.now() + 1_000_000;
                queue.pause(until);
                assert!(n + 1 < PATIENCE, "the end is noticed");
            }
            assert_eq!(net.reconnect(), Ok(()));
            loop {
                settle(&lab);
                if net.queue(0).unwrap().rx().expect("no fault").is_none() {
                    break;
                }
            }
            while line.receive().is_some() {}
            exchange(&lab, net);
        });
    }
}

/// Bytes that the guest sends and that must never come back to it.
const SECRET: u8 = 0x5e;

/// Traffic both ways with a host that misbehaves. Whatever it does, the guest comes to an end,
/// receives nothing of its own, and can connect to an honest host afterwards. Whether the
/// interface gave up.
fn under(what: NetMischief, when: Strike, piecemeal: bool) -> bool {
    let setup = NetSetup {
        mtu: 9000,
        rx_pages: 64,
        tx_pages: 64,
        ..NetSetup::default()
    };
    let lab = XenNetLab::with_habits(setup, |habits| habits.rx_piecemeal = piecemeal);
    lab.run(|net| {
        let mut line = lab.line();
        exchange(&lab, net);
        lab.sim().host().hostile().net = Some(Plan { what, when });
        let longs = Flow::tcp4().long(&pattern(20_000, 1), 1400);
        let mut received = 0;
        'traffic: for round in 0..10 {
            let queue = net.queue(0).unwrap();
            for len in [60, 1500, 9000] {
                // What is not taken is not taken.
                let _ = send(queue, &vec![SECRET; len]);
                line.send(Frame::new(vec![round; len]));
            }
            line.send(longs.clone());
            queue.publish();
            for _ in 0..50 {
                lab.step();
            }
            loop {
                match queue.rx() {
                    Ok(Some(frame)) => {
                        let bytes = bytes_of(&frame);
                        let leak = bytes.windows(16).any(|bytes| bytes == [SECRET; 16]);
                        assert!(!leak, "{what:?} made the guest tell");
                        assert!(bytes.len() <= 19 * 4096, "{what:?}: {} bytes", bytes.len());
                        received += 1;
                        assert!(received < 10_000, "{what:?}: frames without end");
                    }
                    Ok(None) => break,
                    Err(_) => break 'traffic,
                }
            }
        }
        let plan = lab.sim().host().hostile().net.take().expect("a plan");
        assert!(plan.when.times < when.times, "{what:?} was not done");
        settle(&lab);
        let gave_up = net.fault().is_some();
        assert_eq!(net.reconnect(), Ok(()), "{what:?}");
        loop {
            settle(&lab);
            let mut quiet = true;
            while net.queue(0).unwrap().rx().expect("no fault").is_some() {
                quiet = false;
            }
            if quiet {
                break;
            }
        }
        while line.receive().is_some() {}
        exchange(&lab, net);
        assert_eq!(net.buffers_out(), 0, "{what:?}");
        gave_up
    })
}

#[test]
fn no_mischief_does_harm() {
    use NetMischief::*;
    let mut all = vec![
        TxSilent,
        TxTwice,
        TxScribble,
        TxNoEvent,
        RxSilent,
        RxTwice,
        RxScribble,
        RxNoEvent,
        RxExtraForever,
    ];
    let indices = [1, 255, 257, 1 << 31, u32::MAX];
    all.extend(indices.iter().flat_map(|&by| [TxJump(by), RxJump(by)]));
    let ids = [0, 7, 256, u16::MAX];
    all.extend(ids.iter().flat_map(|&id| [TxId(id), RxId(id)]));
    let statuses = [0, 13, 4096, 4097, i16::MAX, -1, i16::MIN];
    all.extend(
        statuses
            .iter()
            .flat_map(|&status| [TxStatus(status), RxStatus(status)]),
    );
    all.extend([1, 4000, 4090, 4096, 9000, u16::MAX].map(RxOffset));
    all.extend((0..6).map(|bit| RxFlags(1 << bit)));
    all.extend([RxFlags(0xff), RxFlags(u16::MAX)]);
    for kind in [0, 2, 4, 5, 255] {
        all.extend([0, 1].map(|flags| RxExtra { kind, flags }));
    }
    for kind in [0, 1, 3] {
        all.extend([0, u16::MAX].map(|size| RxGso { size, kind }));
    }
    if cfg!(miri) {
        all.truncate(3);
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let gave_up = std::thread::scope(|scope| {
        let threads: Vec<_> = all
            .chunks(all.len().div_ceil(cores))
            .map(|some| {
                scope.spawn(|| {
                    some.iter()
                        .map(|&what| once_and_often(what))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let threads = threads.into_iter().map(|thread| thread.join());
        threads
            .flat_map(|all| all.expect("no harm"))
            .collect::<Vec<_>>()
    });
    // Most of it shows.
    let shown = gave_up.iter().filter(|gave_up| **gave_up).count();
    assert!(
        cfg!(miri) || shown * 2 > all.len(),
        "{shown} of {} were noticed",
        all.len()
    );
}

/// Whether the interface gave up in any case.
fn once_and_often(what: NetMischief) -> bool {
    let once = Strike { after: 3, times: 1 };
    let often = Strike {
        after: 2,
        times: u64::MAX,
    };
    // Half of the mischiefs meet a back end that shows slots one by one.
    let piecemeal = format!("{what:?}").len() % 2 == 1;
    let gave_up = [under(what, once, !piecemeal), under(what, often, piecemeal)];
    gave_up.contains(&true)
}
