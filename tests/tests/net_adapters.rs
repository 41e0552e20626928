//! Network stacks over a queue: a TCP transfer through a bad line, whatever the host leaves undone.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows fails, as it should"
)]

use hypercall::HostFault;
use netfront::adapters::MAX_FRAME;
use netfront::adapters::smoltcp::Device;
use netfront::{Capabilities, Event, Mac, NetQueue, Offloads};
use pv_tests::net::{Cable, Checksum, Frame, LineQueue, Port, cable};
use pv_tests::rng::Rng;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device as _, RxToken as _, TxToken as _};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, IpEndpoint, Ipv4Address, Ipv6Address};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const LEFT: [u8; 6] = [2, 0, 0, 0, 0, 1];
const RIGHT: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// One end of a line on which frames get lost, doubled, out of order and damaged.
struct BadLine {
    end: Cable,
    rng: Rng,
    held: Vec<Frame>,
    /// One in so many; 0 for none.
    lose: u64,
    double: u64,
    hold: u64,
    damage: u64,
}

impl BadLine {
    fn good(end: Cable) -> Self {
        Self {
            end,
            rng: Rng::new(0),
            held: Vec::new(),
            lose: 0,
            double: 0,
            hold: 0,
            damage: 0,
        }
    }

    fn strikes(&mut self, one_in: u64) -> bool {
        one_in != 0 && self.rng.below(one_in) == 0
    }
}

impl Port for BadLine {
    fn send(&mut self, mut frame: Frame) {
        if self.strikes(self.lose) {
            return;
        }
        if self.strikes(self.hold) {
            self.held.push(frame);
            return;
        }
        if self.strikes(self.double) {
            self.end.send(frame.clone());
        }
        // What says of itself that its checksum is not there is as good as its sender.
        if frame.checksum == Checksum::InFrame && self.strikes(self.damage) {
            let at = 34 + self.rng.draw() as usize % (frame.bytes.len() - 34);
            frame.bytes[at] ^= 1 << (self.rng.draw() % 8);
        }
        self.end.send(frame);
        for held in self.held.drain(..) {
            self.end.send(held);
        }
    }

    fn receive(&mut self) -> Option<Frame> {
        self.end.receive()
    }

    fn is_ready(&self) -> bool {
        self.end.is_ready()
    }
}

/// A stack with one TCP socket.
struct Side {
    device: Device<LineQueue, Vec<u8>>,
    stack: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
}

impl Side {
    fn new(queue: LineQueue, last: u8) -> Self {
        let mac = queue.capabilities().mac;
        let mut device = Device::new(queue, vec![0; MAX_FRAME], vec![0; MAX_FRAME]);
        let config = Config::new(EthernetAddress(mac.0).into());
        let mut stack = Interface::new(config, &mut device, Instant::ZERO);
        stack.update_ip_addrs(|list| {
            list.push(IpCidr::new(Ipv4Address::new(10, 0, 0, last).into(), 24))
                .unwrap();
            let v6 = Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into());
            list.push(IpCidr::new(v6.into(), 64)).unwrap();
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; 200_000]);
        let mut sockets = SocketSet::new(vec![]);
        let socket = sockets.add(tcp::Socket::new(buffer(), buffer()));
        Self {
            device,
            stack,
            sockets,
            socket,
        }
    }

    fn tcp(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    fn poll(&mut self, nanoseconds: u64) {
        let now = Instant::from_micros((nanoseconds / 1000) as i64);
        self.stack.poll(now, &mut self.device, &mut self.sockets);
    }
}

fn capabilities(mac: [u8; 6], tx: Offloads, rx: Offloads) -> Capabilities {
    let mut capabilities = Capabilities::new(Mac(mac), 1500);
    capabilities.tx = tx;
    capabilities.rx = rx;
    if tx.contains(Offloads::SEGMENT_V4) {
        capabilities.max_segmented = MAX_FRAME as u32;
    }
    capabilities
}

/// Sends `data` from left to right; returns what arrived and both sides.
fn transfer(
    left: (LineQueue, u8),
    right: (LineQueue, u8),
    clock: &AtomicU64,
    target: IpEndpoint,
    data: &[u8],
) -> (Vec<u8>, [Side; 2]) {
    let mut sides = [Side::new(left.0, left.1), Side::new(right.0, right.1)];
    sides[1].tcp().listen(7).unwrap();
    let Side {
        stack,
        sockets,
        socket,
        ..
    } = &mut sides[0];
    sockets
        .get_mut::<tcp::Socket<'_>>(*socket)
        .connect(stack.context(), target, 40_000)
        .unwrap();
    let (mut sent, mut arrived) = (0, Vec::new());
    let mut frames = 0;
    for _ in 0..1_000_000 {
        let moved: u64 = sides
            .iter()
            .map(|side| side.device.queue().stats().tx_frames)
            .sum();
        // Where both wait for a timer, it is not waited for long.
        let step = if moved == frames { 50_000_000 } else { 500_000 };
        frames = moved;
        let now = clock.fetch_add(step, Ordering::Relaxed);
        for side in &mut sides {
            side.poll(now);
        }
        let sender = sides[0].tcp();
        if sender.can_send() && sent < data.len() {
            sent += sender.send_slice(&data[sent..]).unwrap();
            if sent == data.len() {
                sender.close();
            }
        }
        let receiver = sides[1].tcp();
        while receiver.can_recv() {
            receiver
                .recv(|bytes| {
                    arrived.extend_from_slice(bytes);
                    (bytes.len(), ())
                })
                .unwrap();
        }
        if !receiver.may_recv() && arrived.len() >= data.len() {
            break;
        }
    }
    (arrived, sides)
}

fn noise(len: usize) -> Vec<u8> {
    let mut rng = Rng::new(7);
    (0..len).map(|_| rng.draw() as u8).collect()
}

fn v4() -> IpEndpoint {
    (Ipv4Address::new(10, 0, 0, 2), 7).into()
}

fn v6() -> IpEndpoint {
    (Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, 2), 7).into()
}

#[test]
fn tcp_gets_through_a_bad_line_whatever_is_negotiated() {
    let checksums = Offloads::CHECKSUM_TCP_V4 | Offloads::CHECKSUM_UDP_V4;
    let (none, all) = (Offloads::empty(), Offloads::all());
    let pairs = [
        (none, none),
        (none, all),
        (checksums, checksums),
        (all, none),
        (all, all),
    ];
    let data = noise(60_000);
    for (tx, rx, target) in pairs
        .into_iter()
        .flat_map(|(tx, rx)| [(tx, rx, v4()), (tx, rx, v6())])
    {
        let clock = Arc::new(AtomicU64::new(0));
        let (one, other) = cable();
        let bad = |end, seed| BadLine {
            rng: Rng::new(seed),
            lose: 20,
            double: 20,
            hold: 10,
            damage: 20,
            ..BadLine::good(end)
        };
        let left = capabilities(LEFT, tx, rx);
        let left = LineQueue::new(Box::new(bad(one, 1)), left, clock.clone());
        let right = capabilities(RIGHT, Offloads::empty(), rx);
        let right = LineQueue::new(Box::new(bad(other, 2)), right, clock.clone());
        let (arrived, sides) = transfer((left, 1), (right, 2), &clock, target, &data);
        assert!(arrived == data, "{tx:?} {rx:?} {target}");
        for side in sides {
            let dropped = side.device.dropped();
            assert_eq!((dropped.refused, dropped.too_long), (0, 0));
            let unread = 17 * usize::from(side.device.queue().stats().tx_frames == 0);
            assert!(side.device.queue().pages_out() <= unread, "no page is held");
        }
    }
}

#[test]
fn what_is_damaged_is_seen_by_the_adapter_where_the_stack_does_not_look() {
    let clock = Arc::new(AtomicU64::new(0));
    let (one, other) = cable();
    let damaging = BadLine {
        damage: 5,
        ..BadLine::good(one)
    };
    let left = capabilities(LEFT, Offloads::empty(), Offloads::all());
    let right = capabilities(RIGHT, Offloads::empty(), Offloads::all());
    let left = LineQueue::new(Box::new(damaging), left, clock.clone());
    let right = LineQueue::new(Box::new(other), right, clock.clone());
    let data = noise(100_000);
    let (arrived, sides) = transfer((left, 1), (right, 2), &clock, v4(), &data);
    assert!(arrived == data);
    assert!(sides[1].device.dropped().bad > 5);
}

#[test]
fn segmentation_sends_whole_segments_and_copies_each_byte_once() {
    let clock = Arc::new(AtomicU64::new(0));
    let (one, other) = cable();
    let left = capabilities(LEFT, Offloads::all(), Offloads::all());
    let right = capabilities(RIGHT, Offloads::all(), Offloads::all());
    let left = LineQueue::new(Box::new(one), left, clock.clone());
    let right = LineQueue::new(Box::new(other), right, clock.clone());
    let data = noise(1 << 20);
    let (arrived, sides) = transfer((left, 1), (right, 2), &clock, v4(), &data);
    assert!(arrived == data);
    let stats = sides[0].device.queue().stats();
    let mean = stats.tx_bytes / stats.tx_frames;
    assert!(mean > 10_000, "{mean} bytes a frame");
}

#[test]
fn a_full_ring_loses_nothing() {
    let clock = Arc::new(AtomicU64::new(0));
    let (one, mut far) = cable();
    let mut queue = LineQueue::new(
        Box::new(one),
        capabilities(LEFT, Offloads::empty(), Offloads::empty()),
        clock,
    );
    queue.room = 1;
    let mut device = Device::new(queue, [0; 1514], [0; 1514]);
    for byte in 1..=2 {
        let token = device.transmit(Instant::ZERO).unwrap();
        token.consume(64, |bytes| bytes.fill(byte));
    }
    assert_eq!(far.receive().unwrap().bytes, [1; 64]);
    assert_eq!(far.receive(), None);
    assert!(
        device.transmit(Instant::ZERO).is_none(),
        "no room, no token"
    );
    far.send(Frame::new([9; 64]));
    assert!(device.receive(Instant::ZERO).is_none(), "nor for an answer");
    device.queue_mut().room = 8;
    let (rx, tx) = device.receive(Instant::ZERO).unwrap();
    drop(tx);
    rx.consume(|bytes| assert_eq!(bytes, [9; 64]));
    assert_eq!(far.receive().unwrap().bytes, [2; 64]);
    assert_eq!(device.dropped(), Default::default());
    assert_eq!(device.queue().pages_out(), 0);
}

#[test]
fn frames_that_do_not_fit_are_dropped_and_counted() {
    let (one, mut far) = cable();
    let queue = LineQueue::new(
        Box::new(one),
        capabilities(LEFT, Offloads::empty(), Offloads::all()),
        Arc::default(),
    );
    let mut device = Device::new(queue, vec![0; 1514], vec![0; 1514]);
    assert_eq!(device.capabilities().max_transmission_unit, 1514);
    far.send(Frame::new([0; 1515]));
    far.send(Frame::new([0; 13]));
    let mut fragment = smoltcp_frame();
    fragment[20] |= 0x20;
    far.send(Frame::new(fragment));
    for _ in 0..3 {
        let (rx, _) = device.receive(Instant::ZERO).unwrap();
        rx.consume(|bytes| assert_eq!(bytes, []));
    }
    let dropped = device.dropped();
    assert_eq!((dropped.too_long, dropped.fragments), (2, 1));
    // Asked for more than there is, the frame goes nowhere.
    let token = device.transmit(Instant::ZERO).unwrap();
    token.consume(2000, |bytes| bytes.fill(0));
    assert_eq!((device.dropped().refused, far.receive()), (1, None));
}

/// An empty UDP datagram over IPv4.
fn smoltcp_frame() -> Vec<u8> {
    let mut frame = vec![0; 42];
    frame[12] = 8;
    frame[14..18].copy_from_slice(&[0x45, 0, 0, 28]);
    frame[23] = 17;
    frame[39] = 8;
    frame
}

#[test]
fn a_failed_queue_has_no_tokens() {
    let (one, _far) = cable();
    let mut queue = LineQueue::new(
        Box::new(one),
        capabilities(LEFT, Offloads::empty(), Offloads::empty()),
        Arc::default(),
    );
    queue.fault = Some(HostFault::Withdrawn);
    let queue: &mut dyn NetQueue = &mut queue;
    let mut device = Device::new(queue, [0; 1514], [0; 1514]);
    assert!(device.receive(Instant::ZERO).is_none());
    assert!(device.transmit(Instant::ZERO).is_none());
}

mod embassy {
    use super::*;
    use embassy_net_driver::{Driver as _, LinkState, RxToken as _, TxToken as _};
    use netfront::adapters::embassy::Device;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Wake, Waker};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn frames_go_both_ways_and_news_wakes() {
        let (one, mut far) = cable();
        let queue = LineQueue::new(
            Box::new(one),
            capabilities(LEFT, Offloads::all(), Offloads::all()),
            Arc::default(),
        );
        let mut driver = Device::new(queue, [0; 1514], [0; 1514]);
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut context = Context::from_waker(&waker);
        assert!(driver.receive(&mut context).is_none());
        far.send(Frame::new([5; 60]));
        let (rx, tx) = driver.receive(&mut context).unwrap();
        let answer = rx.consume(|bytes| bytes.to_vec());
        tx.consume(60, |bytes| bytes.copy_from_slice(&answer));
        assert_eq!(far.receive().unwrap().bytes, [5; 60]);
        // A datagram whose checksum the stack leaves out leaves with its pseudo-header's sum.
        let frame = smoltcp_frame();
        let token = driver.transmit(&mut context).unwrap();
        token.consume(frame.len(), |bytes| bytes.copy_from_slice(&frame));
        let sent = far.receive().unwrap();
        assert_eq!(
            sent.checksum,
            Checksum::Partial {
                start: 34,
                offset: 6
            }
        );
        assert_eq!(sent.bytes[40..42], (17u16 + 8).to_be_bytes());
        assert!(driver.link_state(&mut context) == LinkState::Up);
        driver.queue_mut().happen(Event::Link(false));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(driver.link_state(&mut context) == LinkState::Down);
        driver.queue_mut().happen(Event::Link(true));
        driver.queue_mut().happen(Event::Moved);
        assert!(driver.link_state(&mut context) == LinkState::Down, "once");
        assert!(driver.link_state(&mut context) == LinkState::Up);
        assert_eq!(driver.capabilities().max_transmission_unit, 1514);
        let address = embassy_net_driver::HardwareAddress::Ethernet(LEFT);
        assert_eq!(driver.hardware_address(), address);
    }
}
