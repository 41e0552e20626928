//! The net suite: what happens to an interface while it is used. Links, packet sizes, queues,
//! closing, unplugging.

use super::net::*;
use super::net_lab::{NetLab, NetSetup};
use crate::net::samples::Flow;
use crate::net::{Frame, Port};
use hypercall::HostFault;
use netfront::{Event, Net, NetQueue, SendError};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

/// Waits for news.
fn news(queue: &mut dyn NetQueue) -> Event {
    for _ in 0..PATIENCE {
        if let Some(event) = queue.event() {
            return event;
        }
        let until = queue.now() + 1_000_000;
        queue.pause(until);
    }
    panic!("no news");
}

/// Receives whatever there still is, and drops it; takes what was sent off the line.
fn drain(lab: &impl NetLab, net: &mut dyn Net) {
    let mut quiet = false;
    while !quiet {
        settle(lab);
        quiet = true;
        for n in 0.. {
            let Some(queue) = net.queue(n) else { break };
            while queue.rx().expect("no fault").is_some() {
                quiet = false;
            }
            queue.publish();
        }
    }
    let mut line = lab.line();
    while line.receive().is_some() {}
}

/// News of the line going down and up arrives, and frames flow again.
pub fn tells_of_the_link<L: NetLab>() {
    let lab = L::new(NetSetup::default());
    lab.run(|net| {
        works(&lab, net, &mut lab.line());
        for up in [false, true, false, true] {
            lab.set_link(up);
            let queue = net.queue(0).unwrap();
            loop {
                match news(queue) {
                    Event::Link(link) => {
                        assert_eq!(link, up);
                        break;
                    }
                    Event::Moved => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(queue.capabilities().link, up);
            assert_eq!(net.capabilities().link, up);
            if up {
                works(&lab, net, &mut lab.line());
            } else {
                let queue = net.queue(0).unwrap();
                // Whether it is taken or not, nothing comes of it.
                if let Ok(room) = reserve(queue, &numbered(1, 100)) {
                    let _ = queue.send(room);
                }
                assert!(arrivals(&lab, queue, &mut lab.line()).is_empty());
            }
        }
        assert_eq!(net.fault(), None);
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// News of another packet size arrives, and frames of that size are taken.
pub fn tells_of_the_packet_size<L: NetLab>() {
    let lab = L::new(NetSetup::default());
    let changed = lab.run(|net| {
        for mtu in [9000, 1400, 1500] {
            if !lab.set_mtu(mtu) {
                return false;
            }
            let queue = net.queue(0).unwrap();
            while news(queue) != Event::Mtu(mtu) {}
            assert_eq!(queue.capabilities().mtu, mtu);
            assert_eq!(net.capabilities().mtu, mtu);
            let mut line = lab.line();
            let queue = net.queue(0).unwrap();
            let longest = usize::from(mtu) + 14;
            send(queue, &numbered(1, longest));
            assert_eq!(arrivals(&lab, queue, &mut line).len(), 1);
            line.send(numbered(2, longest));
            assert_eq!(receive(queue, 1).len(), 1);
            if let Ok(mut room) = queue.tx_reserve(longest + 1) {
                room.write_at(0, &vec![0; longest + 1]).unwrap();
                let (why, _) = queue.send(room).expect_err("too long now");
                assert_eq!(why, SendError::BadLength);
            }
        }
        true
    });
    if !changed {
        // Not a promise of every host; its own tests say which size it keeps to.
        let mtu = lab.run(|net| net.capabilities().mtu);
        assert_eq!(mtu, NetSetup::default().mtu);
    }
    assert_eq!(lab.violations(), [""; 0]);
}

/// What the first queue hears of the line, the others know when they have nothing to receive.
pub fn tells_every_queue<L: NetLab>() {
    let lab = L::new(NetSetup {
        queues: 3,
        rx_pages: 64,
        tx_pages: 64,
        ..NetSetup::default()
    });
    lab.run(|net| {
        assert_eq!(net.capabilities().queues, 3);
        let mut mtu = net.capabilities().mtu;
        for (up, size) in [(false, 1400), (true, 9000), (true, 1300), (true, 1500)] {
            lab.set_link(up);
            if lab.set_mtu(size) {
                mtu = size;
            }
            while (net.capabilities().link, net.capabilities().mtu) != (up, mtu) {
                news(net.queue(0).unwrap());
            }
            for index in 1..3 {
                let queue = net.queue(index).unwrap();
                while queue.rx().expect("no fault").is_some() {}
                let can = queue.capabilities();
                assert_eq!((can.link, can.mtu), (up, mtu), "queue {index}");
                let longest = usize::from(mtu) + 14;
                let long = queue.tx_reserve(longest + 1).map(|mut room| {
                    room.write_at(0, &vec![0; longest + 1]).unwrap();
                    queue.send(room).map_err(|(why, _)| why)
                });
                assert!(
                    matches!(long, Ok(Err(SendError::BadLength)) | Err(_)),
                    "{long:?}"
                );
                if up {
                    send(queue, &numbered(index as u32, longest));
                    assert_eq!(arrivals(&lab, queue, &mut lab.line()).len(), 1);
                }
            }
        }
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// One to eight queues, each in a thread of its own: every frame arrives once, and those of one
/// flow in order.
pub fn works_with_many_queues<L: NetLab>() {
    for count in if cfg!(miri) { 2..=2 } else { 1..=8u16 } {
        let lab = L::new(NetSetup {
            queues: count,
            rx_pages: 64,
            tx_pages: 64,
            ..NetSetup::default()
        });
        let each: u32 = if cfg!(miri) { 4 } else { 100 };
        let total = usize::from(count) * each as usize;
        let done = AtomicBool::new(false);
        let received = AtomicUsize::new(0);
        let got = lab.run_queues(|queues| {
            assert_eq!(queues.len(), usize::from(count));
            std::thread::scope(|scope| {
                let mut line = lab.line();
                // Whatever the guest sends comes back to it.
                let mirror = scope.spawn({
                    let done = &done;
                    move || {
                        let mut count = 0;
                        while !done.load(Ordering::Acquire) {
                            match line.receive() {
                                Some(frame) => {
                                    line.send(frame);
                                    count += 1;
                                }
                                None => std::thread::sleep(Duration::from_micros(50)),
                            }
                        }
                        count
                    }
                });
                let threads: Vec<_> = (0..)
                    .zip(queues)
                    .map(|(index, queue)| {
                        let (done, received) = (&done, &received);
                        scope.spawn(move || {
                            busy(
                                queue,
                                index,
                                each,
                                &|| {
                                    if received.fetch_add(1, Ordering::AcqRel) + 1 == total {
                                        done.store(true, Ordering::Release);
                                    }
                                },
                                done,
                            )
                        })
                    })
                    .collect();
                let got: Vec<_> = threads
                    .into_iter()
                    .map(|thread| thread.join().expect("a queue at work"))
                    .collect();
                assert_eq!(mirror.join().expect("a mirror"), total);
                got
            })
        });
        let mut all: Vec<_> = got.iter().flatten().copied().collect();
        for queue in &got {
            for flow in 0..count {
                let order = queue.iter().filter(|(from, _)| *from == flow);
                assert!(order.is_sorted(), "flow {flow} out of order");
            }
        }
        all.sort_unstable();
        let expected = (0..count).flat_map(|flow| (0..each).map(move |n| (flow, n)));
        assert!(all == expected.collect::<Vec<_>>(), "lost or twice");
        assert_eq!(lab.violations(), [""; 0]);
    }
}

/// Sends `each` frames of flow `index`, and receives what comes until all is done: from which
/// flow, and which.
fn busy(
    queue: &mut dyn NetQueue,
    index: u16,
    each: u32,
    count: &dyn Fn(),
    done: &AtomicBool,
) -> Vec<(u16, u32)> {
    let flow = Flow {
        tcp: false,
        source: (1, 5000 + index),
        ..Flow::tcp4()
    };
    let (mut next, mut got) = (0, Vec::new());
    for _ in 0..PATIENCE {
        while next < each {
            let frame = flow.frame(&next.to_le_bytes());
            let Ok(room) = reserve(queue, &frame) else {
                break;
            };
            if queue.send(room).is_err() {
                break;
            }
            next += 1;
        }
        while let Some(frame) = queue.rx().expect("no fault") {
            let frame = read(&frame);
            let from = u16::from_be_bytes([frame.bytes[34], frame.bytes[35]]) - 5000;
            got.push((
                from,
                u32::from_le_bytes(frame.bytes[42..46].try_into().unwrap()),
            ));
            count();
        }
        if done.load(Ordering::Acquire) {
            return got;
        }
        let until = queue.now() + 1_000_000;
        queue.pause(until);
    }
    panic!("queue {index} sent {next} and received {}", got.len());
}

/// Closing with frames in flight both ways, and held by the caller, gives everything back; and
/// what was connected can be connected again.
pub fn closes_and_reconnects<L: NetLab>() {
    for held in [false, true] {
        let lab = L::new(NetSetup::default());
        lab.run(|net| {
            let mut line = lab.line();
            for round in 0..if cfg!(miri) { 1 } else { 3 } {
                lab.stall(true);
                let queue = net.queue(0).unwrap();
                let mut kept = Vec::new();
                for n in 0..20 {
                    send(queue, &numbered(n, 1000));
                    line.send(numbered(n, 1000));
                }
                queue.publish();
                settle(&lab);
                if held {
                    kept.extend(queue.rx().expect("no fault"));
                    assert_eq!(kept.len(), 1);
                }
                let reserved = held.then(|| queue.tx_reserve(1000).unwrap());
                assert_eq!(net.close(), Ok(()), "round {round}");
                lab.stall(false);
                settle(&lab);
                let out = kept.len() + usize::from(reserved.is_some());
                assert_eq!(net.buffers_out(), out);
                if let Some(frame) = kept.first() {
                    assert_eq!(number(&read(frame)), 0);
                }
                for n in 0.. {
                    let Some(queue) = net.queue(n) else { break };
                    assert!(queue.rx().is_err(), "closed");
                    assert!(queue.tx_reserve(100).is_err(), "closed");
                }
                // Closing what is closed is no harm.
                assert_eq!(net.close(), Ok(()));
                assert_eq!(net.reconnect(), Ok(()));
                drop((kept, reserved));
                drain(&lab, net);
                works(&lab, net, &mut line);
                assert_eq!(net.buffers_out(), 0);
            }
        });
        assert_eq!(lab.violations(), [""; 0]);
    }
}

/// The interface taken away between any two actions of the host, in the midst of traffic: the
/// guest learns of it, nothing is lost but frames, and a new one can be connected to.
pub fn survives_unplugging_at_every_step<L: NetLab>() {
    let step = if cfg!(miri) { 60 } else { 1 };
    for cut in (0..).step_by(step) {
        let lab = L::new(NetSetup {
            shuffle: Some(cut),
            rx_pages: 48,
            tx_pages: 48,
            ..NetSetup::default()
        });
        let over = lab.run(|net| unplugged(&lab, net, cut));
        assert_eq!(lab.violations(), [""; 0], "unplugged after {cut} steps");
        if over || cfg!(miri) {
            assert!(cut > 40 || cfg!(miri), "the traffic was too short");
            return;
        }
    }
}

/// Whether the traffic had come to its end before `cut` steps.
fn unplugged(lab: &impl NetLab, net: &mut dyn Net, cut: u64) -> bool {
    let mut line = lab.line();
    for n in 0..6 {
        line.send(numbered(n, 1200));
    }
    let (mut steps, mut sent, mut over, mut gone) = (0, 0, false, false);
    let mut held = None;
    let mut fault = None;
    for _ in 0..PATIENCE {
        let queue = net.queue(0).unwrap();
        if !gone && (steps == cut || over) {
            lab.unplug();
            gone = true;
        }
        if sent < 6
            && let Ok(room) = reserve(queue, &numbered(sent, 800))
            && queue.send(room).is_ok()
        {
            sent += 1;
        }
        if steps % 3 == 0 {
            queue.publish();
        }
        match queue.rx() {
            Ok(frame) => held = frame.or(held),
            Err(why) => {
                fault = Some(why);
                break;
            }
        }
        steps += 1;
        if !lab.step() {
            over = sent == 6;
            if gone {
                let until = queue.now() + 1_000_000;
                queue.pause(until);
            }
        }
    }
    assert_eq!(fault, Some(HostFault::Withdrawn), "after {cut} steps");
    let queue = net.queue(0).unwrap();
    assert_eq!(queue.fault(), fault);
    assert!(queue.tx_reserve(100).is_err());
    assert!(queue.rx().is_err());
    assert_eq!(net.fault(), fault);
    // Some tidy up first, some do not.
    if cut.is_multiple_of(2) {
        assert_eq!(net.close(), Ok(()), "after {cut} steps");
        settle(lab);
        lab.replug();
    }
    let first = net.reconnect();
    if cut % 2 == 1 {
        // There is nothing to connect to yet.
        assert!(first.is_err(), "connected to nothing");
        settle(lab);
        lab.replug();
        assert_eq!(net.reconnect(), Ok(()), "after {cut} steps");
    } else {
        assert_eq!(first, Ok(()), "after {cut} steps");
    }
    drop(held);
    drain(lab, net);
    works(lab, net, &mut line);
    assert_eq!(net.buffers_out(), 0);
    over
}

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// A task that waits is woken by a frame, by room, by news, and by the end.
pub fn wakes_tasks<L: NetLab>() {
    let lab = L::new(NetSetup::default());
    lab.run(|net| {
        let mut line = lab.line();
        let queue = net.queue(0).unwrap();
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        let rung = |what: &str| {
            let rung = bell.0.swap(0, Ordering::AcqRel);
            assert!(rung > 0, "not woken by {what}");
        };
        // Nothing happens: registering may ring once, to have the task look, but not for ever.
        assert!(queue.rx().unwrap().is_none());
        queue.register_waker(&waker);
        settle(&lab);
        bell.0.store(0, Ordering::Release);
        assert!(queue.rx().unwrap().is_none());
        queue.register_waker(&waker);
        line.send(numbered(1, 200));
        settle(&lab);
        rung("a frame");
        assert_eq!(receive(queue, 1).len(), 1);
        lab.stall(true);
        let mut sent = 0;
        while let Ok(room) = reserve(queue, &numbered(sent, 64)) {
            if queue.send(room).is_err() {
                break;
            }
            sent += 1;
        }
        assert!(queue.rx().unwrap().is_none());
        queue.register_waker(&waker);
        settle(&lab);
        bell.0.store(0, Ordering::Release);
        lab.stall(false);
        settle(&lab);
        rung("room");
        assert!(queue.tx_reserve(64).is_ok());
        assert!(queue.rx().unwrap().is_none());
        queue.register_waker(&waker);
        lab.set_link(false);
        settle(&lab);
        rung("news");
        while news(queue) != Event::Link(false) {}
        assert!(queue.rx().unwrap().is_none());
        queue.register_waker(&waker);
        lab.unplug();
        for _ in 0..PATIENCE {
            settle(&lab);
            if queue.rx().is_err() {
                break;
            }
            let until = queue.now() + 1_000_000;
            queue.pause(until);
        }
        rung("the end");
        // And so a future is made of it.
        let mut context = std::task::Context::from_waker(&waker);
        let mut future = Box::pin(poll_fn(|context| {
            queue.register_waker(context.waker());
            queue.rx().map_or(Poll::Ready(()), |_| Poll::Pending)
        }));
        assert_eq!(future.as_mut().poll(&mut context), Poll::Ready(()));
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// Frames of no use for anything: shorter than an Ethernet header.
pub fn drops_runts<L: NetLab>() {
    let lab = L::new(NetSetup::default());
    lab.run(|net| {
        let mut line = lab.line();
        for len in [1, 13] {
            line.send(Frame::new(vec![1; len]));
        }
        line.send(numbered(5, 60));
        let queue = net.queue(0).unwrap();
        let got = receive(queue, 1);
        assert_eq!(got.iter().map(number).collect::<Vec<_>>(), [5]);
        works(&lab, net, &mut line);
    });
    assert_eq!(lab.violations(), [""; 0]);
}
