//! The net suite: a real network stack in the guest, and another at the far end of a bad line.

use super::net::*;
use super::net_lab::{NetLab, NetSetup};
use crate::net::samples::{Flow, pattern};
use crate::net::{Capture, Faults, Faulty, Frame, LineQueue, Tapped};
use netfront::adapters::MAX_FRAME;
use netfront::adapters::smoltcp::Device;
use netfront::{Capabilities, Mac, Net, NetQueue};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, IpEndpoint, Ipv4Address, Ipv6Address};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The far end's address.
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A stack with a TCP socket that sends and one that receives.
struct Side<Q: NetQueue> {
    device: Device<Q, Vec<u8>>,
    stack: Interface,
    sockets: SocketSet<'static>,
    handles: [SocketHandle; 2],
    sent: usize,
    arrived: Vec<u8>,
}

fn endpoint(last: u8, v6: bool) -> IpEndpoint {
    match v6 {
        true => (Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()), 7).into(),
        false => (Ipv4Address::new(10, 0, 0, last), 7).into(),
    }
}

impl<Q: NetQueue> Side<Q> {
    /// A stack at `10.0.0.last` that listens, and connects to the other.
    fn new(queue: Q, last: u8, other: IpEndpoint) -> Self {
        let mac = queue.capabilities().mac;
        let mut device = Device::new(queue, vec![0; MAX_FRAME], vec![0; MAX_FRAME]);
        let config = Config::new(EthernetAddress(mac.0).into());
        let mut stack = Interface::new(config, &mut device, Instant::ZERO);
        stack.update_ip_addrs(|list| {
            for (v6, bits) in [(false, 24), (true, 64)] {
                let address = IpCidr::new(endpoint(last, v6).addr, bits);
                list.push(address).expect("room for an address");
            }
        });
        let socket = || {
            let buffer = || tcp::SocketBuffer::new(vec![0; 100_000]);
            tcp::Socket::new(buffer(), buffer())
        };
        let mut sockets = SocketSet::new(vec![]);
        let handles = [sockets.add(socket()), sockets.add(socket())];
        let receiver = sockets.get_mut::<tcp::Socket<'_>>(handles[1]);
        receiver.listen(7).expect("a port");
        let sender = sockets.get_mut::<tcp::Socket<'_>>(handles[0]);
        let port = 40_000 + u16::from(last);
        sender
            .connect(stack.context(), other, port)
            .expect("a way to the other");
        Side {
            device,
            stack,
            sockets,
            handles,
            sent: 0,
            arrived: Vec::new(),
        }
    }

    /// Does what can be done now: frames, then bytes in and out.
    fn poll(&mut self, nanoseconds: u64, data: &[u8]) {
        let now = Instant::from_micros((nanoseconds / 1000) as i64);
        self.stack.poll(now, &mut self.device, &mut self.sockets);
        let sender = self.sockets.get_mut::<tcp::Socket<'_>>(self.handles[0]);
        if sender.can_send() && self.sent < data.len() {
            self.sent += sender.send_slice(&data[self.sent..]).expect("it can");
            if self.sent == data.len() {
                sender.close();
            }
        }
        let receiver = self.sockets.get_mut::<tcp::Socket<'_>>(self.handles[1]);
        while receiver.can_recv() {
            let taken = receiver.recv(|bytes| {
                self.arrived.extend_from_slice(bytes);
                (bytes.len(), ())
            });
            taken.expect("it can");
        }
    }
}

/// Sends `len` bytes each way at once through a bad line; all must arrive. What passed the far end.
fn talk(lab: &impl NetLab, net: &mut dyn Net, faults: Faults, v6: bool, len: usize) -> Capture {
    let capture = Capture::new();
    let clock = Arc::new(AtomicU64::new(0));
    let line = Faulty::new(lab.line(), faults, 7);
    let line = Tapped::new(line, capture.clone());
    let capabilities = Capabilities::new(Mac(PEER), 1500);
    let far = LineQueue::new(Box::new(line), capabilities, clock.clone());
    let mut far = Side::new(far, 2, endpoint(1, v6));
    let mut near = Side::new(net.queue(0).expect("a queue"), 1, endpoint(2, v6));
    let (out, back) = (pattern(len, 1), pattern(len, 2));
    for _ in 0..PATIENCE {
        let now = near.device.queue().now();
        clock.store(now, Ordering::Relaxed);
        let before = capture.len();
        near.poll(now, &out);
        near.device.queue_mut().publish();
        settle(lab);
        far.poll(now, &back);
        settle(lab);
        if far.arrived.len() == len && near.arrived.len() == len {
            assert!(far.arrived == out && near.arrived == back, "bytes changed");
            return capture;
        }
        // Where both wait for a timer, it is not waited for long.
        let wait = if capture.len() == before { 20 } else { 1 };
        let queue = near.device.queue_mut();
        while queue.event().is_some() {}
        queue.pause(now + wait * 1_000_000);
    }
    panic!(
        "{} of {len} bytes went out, {} came in",
        far.arrived.len(),
        near.arrived.len()
    );
}

/// Two stacks talk TCP over a line that loses, doubles, swaps and cuts off frames.
pub fn carries_tcp_through_a_bad_line<L: NetLab>() {
    let faults = Faults {
        lose: 20,
        duplicate: 20,
        reorder: 40,
        truncate: 10,
        delay: 0,
    };
    for v6 in [false, true] {
        for seed in [None, Some(3)] {
            let lab = L::new(NetSetup {
                shuffle: seed,
                ..NetSetup::default()
            });
            let len = if cfg!(miri) { 3000 } else { 300_000 };
            lab.run(|net| talk(&lab, net, faults, v6, len));
            assert_eq!(lab.violations(), [""; 0]);
        }
    }
}

/// A session for others to look at: every kind of frame that a guest leaves unfinished, as it is on
/// the wire, then TCP both ways over IPv4 and IPv6, some of it sent again because it was lost.
pub fn captured<L: NetLab>() -> Capture {
    let lab = L::new(NetSetup::default());
    let whole = Capture::new();
    lab.run(|net| {
        let queue = net.queue(0).expect("a queue");
        for mut flow in flows() {
            (flow.to, flow.from) = (PEER, lab.mac());
            for len in [0, 1, 2, 17, 18, 19, 1000, 1001] {
                send(queue, &flow.partial(&pattern(len, len as u64)));
                send(queue, &flow.frame(&pattern(len, len as u64)));
            }
            if flow.tcp {
                for (len, mss) in [(1000, 999), (60_000, 1428), (10_001, 100)] {
                    send(queue, &flow.long(&pattern(len, 1), mss));
                }
            }
        }
        for frame in arrivals(&lab, queue, &mut lab.line()) {
            whole.record(&frame);
        }
        let faults = Faults {
            lose: 10,
            duplicate: 10,
            reorder: 20,
            ..Faults::default()
        };
        for v6 in [false, true] {
            let talked = talk(&lab, net, faults, v6, 200_000);
            for bytes in talked.frames() {
                whole.record(&Frame::new(bytes));
            }
        }
    });
    assert_eq!(lab.violations(), [""; 0]);
    whole
}

/// Every frame of a captured session has its checksums, and nothing is longer than the line takes.
pub fn leaves_nothing_unfinished_on_the_wire<L: NetLab>() {
    let frames = captured::<L>().frames();
    assert!(frames.len() > 500, "{} frames", frames.len());
    let mut checked = 0;
    for bytes in frames {
        assert!(bytes.len() <= 1514);
        let right = crate::net::headers::checksum_is_right(&bytes);
        assert_ne!(right, Some(false), "{bytes:x?}");
        checked += usize::from(right.is_some());
    }
    assert!(checked > 500, "{checked} checksums");
}

/// Something that is no packet of the session, to see that a capture's reader does look.
pub fn spoilt(capture: &Capture) {
    let mut frame = Flow::tcp4().frame(b"not what was sent");
    frame.bytes[60] ^= 1;
    capture.record(&frame);
}
