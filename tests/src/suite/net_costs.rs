//! The net suite: what a frame costs, by counters.

use super::net::*;
use super::net_lab::{NetLab, NetSetup};
use crate::net::Port;
use crate::net::samples::{Flow, pattern};
use netfront::NetQueue;

/// Frames of a batch.
const BATCH: u32 = 32;

/// Sends a batch and has the host finish it; the frames that arrived.
fn send_batch(lab: &impl NetLab, queue: &mut dyn NetQueue, len: usize) -> usize {
    for n in 0..BATCH {
        let room = reserve(queue, &numbered(n, len)).expect("room for a batch");
        queue.send(room).map_err(|(why, _)| why).expect("room");
    }
    arrivals(lab, queue, &mut lab.line()).len()
}

/// Has the host deliver a batch, and takes it.
fn receive_batch(lab: &impl NetLab, queue: &mut dyn NetQueue, len: usize) -> usize {
    let mut line = lab.line();
    for n in 0..BATCH {
        line.send(numbered(n, len));
    }
    settle(lab);
    let mut taken = 0;
    while let Some(frame) = queue.rx().expect("no fault") {
        assert_eq!(frame.len(), len);
        taken += 1;
    }
    taken
}

/// In the steady state a batch costs one notification, no grant and no copy to send, and no more
/// than one notification and one copy to receive.
pub fn costs_one_signal_a_batch<L: NetLab>() {
    for len in [64, 1514] {
        let lab = L::new(NetSetup::default());
        lab.run(|net| {
            let queue = net.queue(0).unwrap();
            for _ in 0..4 {
                assert_eq!(send_batch(&lab, queue, len), BATCH as usize);
                assert_eq!(receive_batch(&lab, queue, len), BATCH as usize);
                settle(&lab);
            }
            for _ in 0..3 {
                let (before, copied) = (lab.counts(), queue.stats().copied);
                send_batch(&lab, queue, len);
                let cost = lab.counts() - before;
                assert_eq!(cost.signals, 1, "to send {len} bytes");
                assert_eq!(cost.grants, 0);
                assert!(cost.hypercalls <= 2, "{cost:?}");
                // What the test itself wrote into the frames, and no more.
                let written = u64::from(BATCH) * len as u64;
                assert_eq!(queue.stats().copied - copied, written);
                let (before, copied) = (lab.counts(), queue.stats().copied);
                receive_batch(&lab, queue, len);
                let cost = lab.counts() - before;
                assert!(cost.signals <= 1, "to receive {len} bytes: {cost:?}");
                assert_eq!(cost.grants, 0);
                assert!(cost.interrupts <= 2, "{cost:?}");
                let bytes = u64::from(BATCH) * len as u64;
                let most = if len <= 256 { bytes } else { 0 };
                assert!(
                    queue.stats().copied - copied <= most,
                    "copied more than once"
                );
                settle(&lab);
            }
        });
        assert_eq!(lab.violations(), [""; 0]);
    }
}

/// A segment of nearly 64 KiB goes as it is: one signal, no grant, no copy.
pub fn sends_long_segments_whole<L: NetLab>() {
    let lab = L::new(NetSetup::default());
    lab.run(|net| {
        let most = net.capabilities().max_segmented as usize;
        let queue = net.queue(0).unwrap();
        let mut line = lab.line();
        for v6 in [false, true] {
            let flow = Flow { v6, ..Flow::tcp4() };
            let data = pattern(most.min(65_535) - flow.headers(), 1);
            let frame = flow.long(&data, 1400);
            for round in 0..if cfg!(miri) { 1 } else { 3 } {
                let (before, copied) = (lab.counts(), queue.stats().copied);
                send(queue, &frame);
                let sent = arrivals(&lab, queue, &mut line);
                let cost = lab.counts() - before;
                assert_eq!(sent.len(), 1);
                assert!(sent[0].bytes.len() == frame.bytes.len());
                let sent: Vec<_> = sent.into_iter().flat_map(on_the_wire).collect();
                assert!(sent == on_the_wire(frame.clone()));
                assert_eq!(queue.stats().copied - copied, frame.bytes.len() as u64);
                if round > 0 {
                    assert_eq!((cost.signals, cost.grants), (1, 0));
                }
            }
        }
    });
    assert_eq!(lab.violations(), [""; 0]);
}
