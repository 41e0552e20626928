//! The stack, and the loop that drives it: an address, frames in and out, and a service on top, for as long as that
//! has something to do. Sockets outlive the interface: one that was unplugged and is back goes on with them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;

use pv_drivers::NetQueue;
use pv_drivers::netfront::adapters::smoltcp::Device;
use pv_drivers::netfront::adapters::{Dropped, MAX_FRAME};
use pv_drivers::netfront::{Event, Mac, Stats};
use smoltcp::iface::{
    Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet,
};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Cidr};

use super::spread::Spread;
use crate::command_line::Addressing;
use crate::nic::Nic;
use crate::report;

/// Frames each way in one round, so that neither side keeps the other from its turn.
const BUDGET: usize = 64;
/// The longest and the shortest wait, in nanoseconds.
const TICK: u64 = 1_000_000_000;
const LEAST: u64 = 100_000;
/// How long an interface may be away, in nanoseconds.
const ABSENCE: u64 = 300_000_000_000;
/// How long there may be none at start, and how long one may go without an address, in nanoseconds.
const START: u64 = 30_000_000_000;
/// How long frames that were sent may take to leave at the end, in nanoseconds.
const DRAIN: u64 = 2_000_000_000;

/// What a service wants next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It moved something: another round at once.
    Busy,
    /// Nothing, until something comes or this moment, in nanoseconds.
    Idle(u64),
    /// It is done.
    Done,
}

/// What a service works with.
pub struct Access<'a> {
    /// Everybody's sockets.
    pub sockets: &'a mut SocketSet<'static>,
    /// To open connections by.
    pub interface: &'a mut Interface,
    /// The clock, in nanoseconds.
    pub now: u64,
    /// Prints a line.
    pub say: &'a mut dyn FnMut(fmt::Arguments<'_>),
}

/// Something that talks over the network.
pub trait Service {
    /// Opens its sockets.
    fn open(&mut self, sockets: &mut SocketSet<'static>);

    /// The interface has this address now; called again after it was away.
    fn up(&mut self, address: Ipv4Addr, access: &mut Access<'_>);

    /// Does what can be done now. Called only once there is an address.
    fn step(&mut self, access: &mut Access<'_>) -> Step;
}

/// What the loop found out.
#[derive(Clone, Default, Debug)]
pub struct Facts {
    /// The interface.
    pub nic: report::Nic,
    /// What went over it.
    pub traffic: report::Traffic,
}

/// How a time with one interface ended.
enum End {
    /// The service is done.
    Done,
    /// The interface changed, and is to be looked at again.
    Changed,
    /// It failed.
    Lost(String),
    /// There is no address to be had.
    NoAddress,
}

struct Loop<'a> {
    addressing: Addressing,
    sockets: SocketSet<'static>,
    dhcp: Option<SocketHandle>,
    address: Option<Ipv4Cidr>,
    router: Option<Ipv4Addr>,
    /// The service knows the address.
    told: bool,
    since: u64,
    facts: Facts,
    say: &'a mut dyn FnMut(fmt::Arguments<'_>),
}

/// Drives a service over an interface until it is done.
///
/// # Errors
/// A line for a person: there is no interface or no address, the interface stays away, or buffers leaked.
pub fn run(
    nic: &mut dyn Nic,
    addressing: Addressing,
    service: &mut dyn Service,
    facts: &mut Facts,
    say: &mut dyn FnMut(fmt::Arguments<'_>),
) -> Result<(), String> {
    let mut sockets = SocketSet::new(Vec::new());
    service.open(&mut sockets);
    let dhcp = match addressing {
        Addressing::Dhcp => Some(sockets.add(dhcpv4::Socket::new())),
        Addressing::Fixed { .. } => None,
    };
    let mut driver = Loop {
        addressing,
        sockets,
        dhcp,
        address: None,
        router: None,
        told: false,
        since: nic.now(),
        facts: Facts::default(),
        say,
    };
    let outcome = driver.drive(nic, service);
    *facts = driver.facts;
    outcome
}

impl Loop<'_> {
    fn drive(&mut self, nic: &mut dyn Nic, service: &mut dyn Service) -> Result<(), String> {
        let (mut rx, mut tx) = (vec![0; MAX_FRAME], vec![0; MAX_FRAME]);
        let mut gone_since = Some(nic.now());
        let mut seen = false;
        loop {
            if !nic.revive() {
                let now = nic.now();
                let since = *gone_since.get_or_insert(now);
                let patience = if seen { ABSENCE } else { START };
                if now.saturating_sub(since) > patience {
                    return Err(match seen {
                        true => "the network interface stays away".into(),
                        false => {
                            "no network interface: the host offers none that this kernel can drive"
                                .into()
                        }
                    });
                }
                nic.wait(now.saturating_add(TICK / 10));
                continue;
            }
            let name = nic.name().to_string();
            let Some(net) = nic.net() else { continue };
            if !seen {
                self.facts.traffic.buffers_before = net.buffers_out() as u64;
            } else if gone_since.take().is_some() {
                (self.say)(format_args!("{name}: back"));
                self.facts.traffic.replugs = self.facts.traffic.replugs.saturating_add(1);
            }
            (seen, gone_since) = (true, None);
            let queues = net.capabilities().queues;
            let Some(queue) = Spread::new(net) else {
                return Err(format!("{name}: an interface without a queue"));
            };
            let (before, each_before) = (queue.stats(), queue.each());
            let mut device = Device::new(queue, rx.as_mut_slice(), tx.as_mut_slice());
            self.facts.nic = report::Nic::of(&name, device.queue().capabilities(), queues);
            let end = self.over(&mut device, service);
            let (after, dropped) = (device.queue().stats(), device.dropped());
            self.facts.traffic.add(&before, &after, &dropped);
            self.facts
                .traffic
                .add_queues(&each_before, &device.queue().each());
            self.facts.nic.address = self.address.map(|address| address.to_string());
            self.facts.nic.link = device.queue().capabilities().link;
            match end {
                End::Changed => {}
                End::Lost(why) => {
                    (self.say)(format_args!("{name}: {why}"));
                    gone_since = Some(nic.now());
                }
                End::NoAddress => return Err(format!("{name}: no address by DHCP")),
                End::Done => {
                    drain(&mut device);
                    drop(device);
                    let out = net.buffers_out() as u64;
                    self.facts.traffic.buffers_after = out;
                    let before = self.facts.traffic.buffers_before;
                    // Frames that came before the first count may have been out then.
                    if out > before {
                        return Err(format!("{name}: {out} buffers are out, and {before} were"));
                    }
                    return Ok(());
                }
            }
        }
    }

    /// The time with one interface.
    fn over<Q: NetQueue>(
        &mut self,
        device: &mut Device<Q, &mut [u8]>,
        service: &mut dyn Service,
    ) -> End {
        let Mac(mac) = device.queue().capabilities().mac;
        let now = device.queue().now();
        let mut config = Config::new(EthernetAddress(mac).into());
        let [.., a, b, c, d] = mac;
        config.random_seed = now ^ u64::from(u32::from_be_bytes([a, b, c, d])) << 32;
        let mut interface = Interface::new(config, device, instant(now));
        self.told = false;
        self.since = now;
        match self.addressing {
            Addressing::Dhcp => {
                // Until there is an answer the address is the one it was: connections end without.
                let (address, router) = (self.address, self.router);
                self.assign(&mut interface, address, router);
                self.ask_again();
            }
            Addressing::Fixed {
                address,
                bits,
                router,
            } => self.assign(&mut interface, Some(Ipv4Cidr::new(address, bits)), router),
        }
        loop {
            let mut busy = self.exchange(&mut interface, device);
            if let Some(fault) = device.queue().fault() {
                return End::Lost(fault.to_string());
            }
            if let Some(end) = self.events(device.queue_mut()) {
                return end;
            }
            self.dhcp(&mut interface);
            let now = device.queue().now();
            let mut until = now.saturating_add(TICK);
            if let Some(address) = self.address {
                let mut access = Access {
                    sockets: &mut self.sockets,
                    interface: &mut interface,
                    now,
                    say: self.say,
                };
                if !core::mem::replace(&mut self.told, true) {
                    service.up(address.address(), &mut access);
                }
                match service.step(&mut access) {
                    Step::Busy => busy = true,
                    Step::Idle(next) => until = until.min(next),
                    Step::Done => {
                        self.exchange(&mut interface, device);
                        return End::Done;
                    }
                }
            } else if now.saturating_sub(self.since) > START {
                return End::NoAddress;
            }
            if busy {
                continue;
            }
            if let Some(delay) = interface.poll_delay(instant(now), &self.sockets) {
                until = until.min(now.saturating_add(delay.total_micros().saturating_mul(1000)));
            }
            device
                .queue_mut()
                .pause(until.max(now.saturating_add(LEAST)));
        }
    }

    /// Frames in and frames out; whether there may be more at once.
    fn exchange<Q: NetQueue>(
        &mut self,
        interface: &mut Interface,
        device: &mut Device<Q, &mut [u8]>,
    ) -> bool {
        let now = instant(device.queue().now());
        interface.poll_maintenance(now);
        let (mut received, mut sent) = (true, true);
        for _ in 0..BUDGET {
            let result = interface.poll_ingress_single(now, device, &mut self.sockets);
            if matches!(result, PollIngressSingleResult::None) {
                received = false;
                break;
            }
        }
        for _ in 0..BUDGET {
            let result = interface.poll_egress(now, device, &mut self.sockets);
            if matches!(result, PollResult::None) {
                sent = false;
                break;
            }
        }
        device.queue_mut().publish();
        received || sent
    }

    /// News of the interface.
    fn events(&mut self, queue: &mut impl NetQueue) -> Option<End> {
        while let Some(event) = queue.event() {
            match event {
                Event::Link(true) => {
                    (self.say)(format_args!("the line is up"));
                    self.ask_again();
                }
                Event::Link(false) => (self.say)(format_args!("the line is down")),
                Event::Mtu(mtu) => {
                    (self.say)(format_args!("the MTU is {mtu}"));
                    return Some(End::Changed);
                }
                Event::Moved => self.ask_again(),
                _ => {}
            }
        }
        None
    }

    /// Asks for an address again; the one there is stays until there is an answer.
    fn ask_again(&mut self) {
        if let Some(dhcp) = self.dhcp {
            self.sockets.get_mut::<dhcpv4::Socket<'_>>(dhcp).reset();
        }
    }

    fn dhcp(&mut self, interface: &mut Interface) {
        let Some(dhcp) = self.dhcp else { return };
        let socket = self.sockets.get_mut::<dhcpv4::Socket<'_>>(dhcp);
        let (address, router) = match socket.poll() {
            Some(dhcpv4::Event::Configured(config)) => (Some(config.address), config.router),
            Some(dhcpv4::Event::Deconfigured) => (None, None),
            None => return,
        };
        // A reset also says that the configuration is lost; only a lease that ended means it.
        if address.is_some() {
            self.assign(interface, address, router);
        }
    }

    fn assign(
        &mut self,
        interface: &mut Interface,
        address: Option<Ipv4Cidr>,
        router: Option<Ipv4Addr>,
    ) {
        if self.address != address || !self.told {
            self.told = false;
        }
        (self.address, self.router) = (address, router);
        interface.update_ip_addrs(|list| {
            list.clear();
            if let Some(address) = address {
                let _ = list.push(IpCidr::Ipv4(address));
            }
        });
        interface.routes_mut().remove_default_ipv4_route();
        if let Some(router) = router {
            let _ = interface.routes_mut().add_default_ipv4_route(router);
        }
    }
}

/// Lets what was sent leave.
fn drain<Q: NetQueue>(device: &mut Device<Q, &mut [u8]>) {
    let queue = device.queue_mut();
    let until = queue.now().saturating_add(DRAIN);
    queue.publish();
    while queue.in_flight() > 0 && queue.fault().is_none() && queue.now() < until {
        let now = queue.now();
        queue.pause(until.min(now.saturating_add(LEAST)));
    }
    // Received frames that nobody wants any more; looking at them gives their room back.
    for _ in 0..MAX_FRAME {
        match queue.rx() {
            Ok(Some(frame)) => drop(frame),
            Ok(None) | Err(_) => break,
        }
    }
}

fn instant(nanoseconds: u64) -> Instant {
    Instant::from_micros(i64::try_from(nanoseconds / 1000).unwrap_or(i64::MAX))
}

impl report::Traffic {
    fn add_queues(&mut self, before: &[Stats], after: &[Stats]) {
        self.queues
            .resize_with(self.queues.len().max(after.len()), Default::default);
        for ((to, before), after) in self.queues.iter_mut().zip(before).zip(after) {
            to.rx_frames = to
                .rx_frames
                .saturating_add(after.rx_frames.wrapping_sub(before.rx_frames));
            to.tx_frames = to
                .tx_frames
                .saturating_add(after.tx_frames.wrapping_sub(before.tx_frames));
        }
    }

    fn add(&mut self, before: &Stats, after: &Stats, dropped: &Dropped) {
        let add = |to: &mut u64, before: u64, after: u64| {
            *to = to.saturating_add(after.wrapping_sub(before));
        };
        add(&mut self.rx_frames, before.rx_frames, after.rx_frames);
        add(&mut self.rx_bytes, before.rx_bytes, after.rx_bytes);
        add(&mut self.rx_dropped, before.rx_dropped, after.rx_dropped);
        add(&mut self.tx_frames, before.tx_frames, after.tx_frames);
        add(&mut self.tx_bytes, before.tx_bytes, after.tx_bytes);
        add(&mut self.tx_errors, before.tx_errors, after.tx_errors);
        add(&mut self.copied, before.copied, after.copied);
        for count in [dropped.bad, dropped.too_long, dropped.fragments] {
            add(&mut self.rx_dropped, 0, count);
        }
        add(&mut self.tx_errors, 0, dropped.refused);
    }
}
