//! Our own network drivers.

use crate::count::{outside, timed};
use crate::hosts::{Machine, OnHyperV, OnXen, Quiet, on_hyperv, on_xen};
use crate::{Counted, Measure};
use netfront::netif::{Netif, Queue};
use netfront::netvsc::{self, Netvsc};
use netfront::{Capabilities, Config, Ip, NetQueue, Protocol, Segmentation, Transport, TxFrame};
use pv_tests::hyperv::netvsp::{Netvsp, NetvspConfig};
use pv_tests::net::samples::Flow;
use pv_tests::net::{Cable, Frame, Port, cable};
use pv_tests::sim_hyperv::{self, SimHyperV};
use pv_tests::sim_xen::{self, SimXen};
use pv_tests::xen::vif::VifSpec;

/// What is sent or received.
#[derive(Debug, Clone, Copy)]
pub enum Size {
    /// 64 bytes.
    Small,
    /// 1514 bytes: what an Ethernet packet holds.
    Full,
    /// A TCP segment as long as the host takes, 65,535 bytes at most, to be cut by the host or joined by it.
    Segment,
}

impl Size {
    fn frame(self, can: &Capabilities) -> Frame {
        let mut flow = Flow::tcp4();
        flow.to = can.mac.0;
        let longest = 65_535.min(can.max_segmented as usize);
        match self {
            Self::Small => flow.frame(&[7; 10]),
            Self::Full => flow.frame(&[7; 1460]),
            Self::Segment => flow.long(&vec![7; longest - flow.headers()], 1448),
        }
    }
}

/// Xen's network interface, frames sent.
pub fn netif_tx(size: Size, depth: usize, batches: u64) -> Measure {
    netif(|machine, queue, line| match size {
        Size::Segment => sends(machine, queue, line, size, depth, batches, ask),
        _ => sends(machine, queue, line, size, depth, batches, |_| {}),
    })
}

/// Xen's network interface, frames received and dropped again.
pub fn netif_rx(size: Size, depth: usize, batches: u64) -> Measure {
    netif(|machine, queue, line| receives(machine, queue, line, size, depth, batches, take_all))
}

/// The same, but each is taken back from the host first, and lent again afterwards.
pub fn netif_rx_claimed(size: Size, depth: usize, batches: u64) -> Measure {
    netif(|machine, queue, line| receives(machine, queue, line, size, depth, batches, claim_all))
}

fn netif(job: impl FnOnce(&OnXen, &mut XenQueue<'_>, &mut Cable) -> Measure) -> Measure {
    let (mut far, near) = cable();
    let spec = VifSpec::new(Box::new(near));
    on_xen(
        |sim| {
            sim.host().attach_nic(spec);
        },
        |machine, bus, device| {
            let mut config = Config::default();
            (config.rx_pages, config.tx_pages) = (320, 320);
            let mut netif = Netif::connect(bus, device, config).expect("an interface");
            let queue = netif.queues().first_mut().expect("a queue");
            job(machine, queue, &mut far)
        },
    )
}

/// Hyper-V's network interface, frames sent.
pub fn netvsc_tx(size: Size, depth: usize, batches: u64) -> Measure {
    netvsc(|machine, queue, line| match size {
        Size::Segment => sends(machine, queue, line, size, depth, batches, ask),
        _ => sends(machine, queue, line, size, depth, batches, |_| {}),
    })
}

/// Hyper-V's network interface, frames received and dropped again.
pub fn netvsc_rx(size: Size, depth: usize, batches: u64) -> Measure {
    netvsc(|machine, queue, line| receives(machine, queue, line, size, depth, batches, take_all))
}

fn netvsc(job: impl FnOnce(&OnHyperV, &mut HyperVQueue<'_>, &mut Cable) -> Measure) -> Measure {
    let (mut far, near) = cable();
    let host = NetvspConfig {
        // One packet for each frame: many in one cost the driver less.
        batch: 1,
        ..NetvspConfig::default()
    };
    let adapter = Box::new(Netvsp::new(host, Box::new(near)));
    on_hyperv(
        |sim| {
            sim.host().bus.add(adapter);
        },
        |machine, bus, offer| {
            let mut config = Config::default();
            (config.rx_pages, config.tx_pages) = (256, 500);
            let mut netvsc = Netvsc::connect(bus, offer, config).expect("an interface");
            let queue = netvsc.queues().first_mut().expect("a queue");
            job(machine, queue, &mut far)
        },
    )
}

type HyperVQueue<'b> = netvsc::Queue<'b, 'static, sim_hyperv::Platform, Quiet<SimHyperV>>;

type XenQueue<'b> = Queue<'b, 'static, sim_xen::Platform, Quiet<SimXen>>;

/// Has the host cut it and fill the checksums in.
fn ask(frame: &mut TxFrame) {
    frame.meta.checksum = Some(Transport {
        ip: Ip::V4,
        protocol: Protocol::Tcp,
        start: 34,
    });
    frame.meta.segmentation = Some(Segmentation {
        ip: Ip::V4,
        mss: 1448,
    });
}

fn sends<Q: NetQueue>(
    machine: &impl Machine,
    queue: &mut Q,
    line: &mut Cable,
    size: Size,
    depth: usize,
    batches: u64,
    ask: impl Fn(&mut TxFrame),
) -> Measure {
    let bytes = size.frame(queue.capabilities()).bytes;
    let len = bytes.len();
    prepare(queue, &bytes);
    run(machine, queue, depth, batches, |queue| {
        for _ in 0..depth {
            let mut frame = queue.tx_reserve(len).expect("room");
            ask(&mut frame);
            if queue.send(frame).is_err() {
                panic!("no room");
            }
        }
        queue.publish();
        outside(|| {
            machine.settle();
            let sent = std::iter::from_fn(|| line.receive()).count();
            assert_eq!(sent, depth, "the host did not send");
        });
    })
}

/// Writes the start of a frame to every page, so that none has to be written when it is sent.
fn prepare(queue: &mut impl NetQueue, bytes: &[u8]) {
    let start = &bytes[..bytes.len().min(4096)];
    let mut frames = Vec::new();
    while let Ok(mut frame) = queue.tx_reserve(4096) {
        frame.write_at(0, start).expect("a page");
        frames.push(frame);
    }
}

fn receives<Q: NetQueue>(
    machine: &impl Machine,
    queue: &mut Q,
    line: &mut Cable,
    size: Size,
    depth: usize,
    batches: u64,
    take: impl Fn(&mut Q) -> usize,
) -> Measure {
    let frame = size.frame(queue.capabilities());
    run(machine, queue, depth, batches, |queue| {
        outside(|| {
            (0..depth).for_each(|_| line.send(frame.clone()));
            machine.settle();
        });
        let shown = take(queue);
        assert_eq!(shown, depth, "the host did not deliver");
    })
}

/// Takes and drops what came; how many frames.
#[inline(always)]
fn take_all(queue: &mut impl NetQueue) -> usize {
    let mut shown = 0;
    while let Some(frame) = queue.rx().expect("a sound host") {
        shown += 1;
        drop(frame);
    }
    shown
}

/// Takes, claims and drops what came; how many frames.
#[inline(always)]
fn claim_all(queue: &mut impl NetQueue) -> usize {
    let mut shown = 0;
    while let Some(frame) = queue.rx().expect("a sound host") {
        shown += 1;
        drop(queue.claim(frame).expect("a host that lets go"));
    }
    shown
}

fn run<Q: NetQueue>(
    machine: &impl Machine,
    queue: &mut Q,
    depth: usize,
    batches: u64,
    mut batch: impl FnMut(&mut Q),
) -> Measure {
    // To warm up: then nothing is done for the first time any more.
    for _ in 0..16 {
        timed(|| batch(queue));
    }
    let now = |queue: &Q| Counted {
        copied: queue.stats().copied,
        ..machine.counted()
    };
    let before = now(queue);
    let nanoseconds = (0..batches).map(|_| timed(|| batch(queue)).1).sum();
    Measure {
        requests: batches * depth as u64,
        nanoseconds,
        counted: now(queue) - before,
    }
}
