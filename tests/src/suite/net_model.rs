//! The net suite: traffic of any kind against a model, two lists of packets.

use super::net::*;
use super::net_lab::{NetLab, NetSetup};
use crate::net::samples::pattern;
use crate::net::{Frame, Port};
use netfront::{Net, RxFrame};

/// What a test does next.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// Sends a frame of this kind, with this much payload.
    Send { kind: u8, len: u16 },
    /// Puts a frame for the guest on the line.
    Arrive { kind: u8, len: u16 },
    /// Receives as many frames at most, and keeps them.
    Receive(u8),
    /// Lets the oldest kept frames go, or the youngest.
    Drop { count: u8, oldest: bool },
    /// Shows the host what was sent.
    Publish,
    /// Lets the host do some things.
    Step(u8),
    /// Has the host keep what is sent, or not.
    Stall(bool),
    /// Closes and connects anew. Frames under way may be lost.
    Reconnect,
}

/// A frame of some kind, different for each number.
fn frame(kind: u8, len: u16, number: u64) -> Frame {
    let flow = flows()[usize::from(kind) % 4];
    let len = usize::from(len) + 8;
    let mut payload = pattern(len, number);
    payload[..8].copy_from_slice(&number.to_le_bytes());
    match kind / 4 % 3 {
        0 => {
            payload.truncate(1400);
            flow.frame(&payload)
        }
        1 => {
            payload.truncate(1400);
            flow.partial(&payload)
        }
        _ if flow.tcp => flow.long(&payload, 500 + (number % 900) as u16),
        _ => {
            payload.truncate(100);
            flow.partial(&payload)
        }
    }
}

/// Packets that must come, and those that came.
#[derive(Default)]
struct Way {
    due: Vec<Vec<u8>>,
    came: Vec<Vec<u8>>,
}

impl Way {
    /// All came, in order, unchanged; or some of them, if some could be lost.
    fn check(&self, lossy: bool, what: &str) {
        let mut due = self.due.iter();
        for (n, packet) in self.came.iter().enumerate() {
            assert!(
                due.any(|other| other == packet),
                "{what}: packet {n} of {} bytes is not one of those due",
                packet.len()
            );
        }
        assert!(lossy || self.came.len() == self.due.len(), "{what}: lost");
    }
}

/// Does all of it on a machine that finishes things by `seed`.
pub fn agrees_with_a_model<L: NetLab>(actions: &[Action], seed: u64) {
    let lab = L::new(NetSetup {
        shuffle: Some(seed),
        rx_pages: 64,
        tx_pages: 64,
        ..NetSetup::default()
    });
    lab.run(|net| act(&lab, net, actions));
    assert_eq!(lab.violations(), [""; 0]);
}

fn act(lab: &impl NetLab, net: &mut dyn Net, actions: &[Action]) {
    let mut line = lab.line();
    let (mut out, mut back) = (Way::default(), Way::default());
    let mut held: Vec<RxFrame> = Vec::new();
    let mut lossy = false;
    for (number, &action) in (0..).zip(actions) {
        let queue = net.queue(0).unwrap();
        match action {
            Action::Send { kind, len } => {
                let frame = frame(kind, len, number);
                if let Ok(room) = reserve(queue, &frame)
                    && queue.send(room).is_ok()
                {
                    out.due.extend(on_the_wire(frame));
                }
            }
            Action::Arrive { kind, len } => {
                let frame = frame(kind, len, number);
                back.due.extend(on_the_wire(frame.clone()));
                line.send(frame);
            }
            Action::Receive(count) => {
                for _ in 0..count {
                    let Some(frame) = queue.rx().expect("no fault") else {
                        break;
                    };
                    back.came.extend(on_the_wire(read(&frame)));
                    held.push(frame);
                }
            }
            Action::Drop { count, oldest } => {
                let count = held.len().min(count.into());
                let end = held.len() - count;
                held.drain(if oldest { 0..count } else { end..held.len() });
            }
            Action::Publish => queue.publish(),
            Action::Step(count) => {
                for _ in 0..count {
                    lab.step();
                }
            }
            Action::Stall(stall) => lab.stall(stall),
            Action::Reconnect => {
                lossy = true;
                lab.stall(false);
                net.reconnect().expect("a host that is there");
            }
        }
        out.came
            .extend(std::iter::from_fn(|| line.receive()).flat_map(on_the_wire));
    }
    lab.stall(false);
    held.clear();
    let queue = net.queue(0).unwrap();
    let mut quiet = 0;
    for _ in 0..PATIENCE {
        queue.publish();
        settle(lab);
        let before = back.came.len();
        while let Some(frame) = queue.rx().expect("no fault") {
            back.came.extend(on_the_wire(read(&frame)));
        }
        // Room that was made for the host by the last look needs another.
        quiet = if back.came.len() == before {
            quiet + 1
        } else {
            0
        };
        if quiet > 2 {
            break;
        }
    }
    out.came
        .extend(std::iter::from_fn(|| line.receive()).flat_map(on_the_wire));
    out.check(lossy, "out");
    back.check(lossy, "in");
    assert_eq!(queue.in_flight(), 0);
    assert_eq!(net.buffers_out(), 0);
}
