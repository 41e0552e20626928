//! A switch: it learns which address is behind which port, and floods what it does not know.

use super::{Frame, Port, Takes, finish};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Frames that wait at one port at most; more are lost.
const QUEUE: usize = 4096;

#[derive(Debug, Default)]
struct Socket {
    takes: Takes,
    waiting: VecDeque<Frame>,
}

#[derive(Debug, Default)]
struct Inside {
    sockets: Vec<Socket>,
    /// Address and VLAN to port.
    learned: BTreeMap<([u8; 6], u16), usize>,
    lost: u64,
}

/// A switch. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Switch {
    inside: Arc<Mutex<Inside>>,
}

/// One of its ports.
#[derive(Debug)]
pub struct SwitchPort {
    switch: Switch,
    index: usize,
}

impl Switch {
    /// A switch without ports.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another port, for one who takes frames with this much left undone; the switch finishes
    /// what goes beyond it.
    pub fn port(&self, takes: Takes) -> SwitchPort {
        let mut inside = self.inside();
        inside.sockets.push(Socket {
            takes,
            waiting: VecDeque::new(),
        });
        SwitchPort {
            switch: self.clone(),
            index: inside.sockets.len() - 1,
        }
    }

    /// Behind which port an address was seen last, without a VLAN.
    pub fn learned(&self, mac: [u8; 6]) -> Option<usize> {
        self.inside().learned.get(&(mac, 0)).copied()
    }

    /// Frames lost because too many waited.
    pub fn lost(&self) -> u64 {
        self.inside().lost
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The VLAN number of a frame, 0 without a tag.
fn vlan(frame: &Frame) -> u16 {
    let inline = match frame.bytes[12..] {
        [0x81, 0, high, low, ..] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    };
    frame.vlan.or(inline).unwrap_or(0) & 0xfff
}

impl Inside {
    fn forward(&mut self, from: usize, frame: Frame) {
        let (Some(&to), Some(&source)) =
            (frame.bytes.first_chunk(), frame.bytes[6..].first_chunk())
        else {
            return;
        };
        let vlan = vlan(&frame);
        if source[0] & 1 == 0 {
            self.learned.insert((source, vlan), from);
        }
        let known = match to[0] & 1 {
            0 => self.learned.get(&(to, vlan)).copied(),
            _ => None,
        };
        for index in (0..self.sockets.len()).filter(|&index| index != from) {
            if known.is_none_or(|port| port == index) {
                self.deliver(index, frame.clone());
            }
        }
    }

    fn deliver(&mut self, to: usize, frame: Frame) {
        let socket = &mut self.sockets[to];
        for frame in finish(frame, socket.takes) {
            match socket.waiting.len() < QUEUE {
                true => socket.waiting.push_back(frame),
                false => self.lost += 1,
            }
        }
    }
}

impl Port for SwitchPort {
    fn send(&mut self, frame: Frame) {
        // A runt is no frame.
        if frame.bytes.len() >= 14 {
            self.switch.inside().forward(self.index, frame);
        }
    }

    fn receive(&mut self) -> Option<Frame> {
        self.switch.inside().sockets[self.index].waiting.pop_front()
    }

    fn is_ready(&self) -> bool {
        !self.switch.inside().sockets[self.index].waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::samples::{Flow, pattern};

    fn frame(to: u8, from: u8) -> Frame {
        let mut bytes = vec![0; 60];
        (bytes[0], bytes[5]) = (2, to);
        (bytes[6], bytes[11]) = (2, from);
        Frame::new(bytes)
    }

    #[test]
    fn it_floods_until_it_knows() {
        let switch = Switch::new();
        let mut ports: Vec<_> = (0..4).map(|_| switch.port(Takes::default())).collect();
        let arrived = |ports: &mut Vec<SwitchPort>| -> Vec<usize> {
            let got = |port: &mut SwitchPort| std::iter::from_fn(|| port.receive()).count();
            ports.iter_mut().map(got).collect()
        };
        ports[1].send(frame(9, 1));
        assert_eq!(arrived(&mut ports), [1, 0, 1, 1]);
        ports[3].send(frame(1, 3));
        assert_eq!(arrived(&mut ports), [0, 1, 0, 0]);
        ports[1].send(frame(3, 1));
        assert_eq!(arrived(&mut ports), [0, 0, 0, 1]);
        // The one who was behind port 1 has moved.
        ports[2].send(frame(3, 1));
        ports[3].send(frame(1, 3));
        assert_eq!(arrived(&mut ports), [0, 0, 1, 1]);
        let mut all = frame(0, 2);
        all.bytes[..6].fill(0xff);
        ports[0].send(all);
        assert_eq!(arrived(&mut ports), [0, 1, 1, 1]);
        assert_eq!(switch.learned([2, 0, 0, 0, 0, 1]), Some(2));
    }

    #[test]
    fn each_port_gets_what_it_takes() {
        let switch = Switch::new();
        let mut sender = switch.port(Takes::default());
        let mut guest = switch.port(Takes {
            checksum_v4: true,
            segment_v4: true,
            ..Takes::default()
        });
        let mut plain = switch.port(Takes::default());
        let mut frame = Flow::tcp4().long(&pattern(5000, 1), 1000);
        frame.vlan = Some(7);
        sender.send(frame.clone());
        // The guest takes no tags beside a frame.
        let whole = guest.receive().unwrap();
        assert_eq!(whole.segment, frame.segment);
        assert_eq!(whole.bytes.len(), frame.bytes.len() + 4);
        assert_eq!(std::iter::from_fn(|| plain.receive()).count(), 5);
    }
}
