//! A user-mode network for a guest: a router with a DHCP server, which leads connections between the
//! guest and this machine's loopback.
//!
//! ```text
//! 127.0.0.1:PORT ──▶ 10.0.2.15:80        a listener of this machine, a server in the guest
//! 127.0.0.1:N    ◀── 10.0.2.2:N          a server on this machine, if the guest may reach it
//! ```
//!
//! The guest is not trusted: it reaches the ports of this machine that it was given and no others, and
//! has so many connections at once and no more.

mod datagrams;
mod dhcp;
mod line;
mod paced;
mod stream;

pub use line::GatewayPort;
pub use paced::Paced;

use super::Frame;
use datagrams::Datagrams;
use line::Line;
use smoltcp::iface::{Config as StackConfig, Interface, SocketHandle, SocketSet};
use smoltcp::socket::udp;
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{EthernetAddress, IpCidr, IpEndpoint};
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stream::{Pump, TcpSocket};

/// The guest's address.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// The router's, which stands for this machine.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The router's Ethernet address.
pub const ROUTER_MAC: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
/// Bits of the network's prefix.
pub const PREFIX: u8 = 24;
/// Connections at once; further ones wait at the listener, or are refused to the guest.
const CONNECTIONS: usize = 64;
/// Frames looked at in one go, so that a guest that sends without end keeps nobody from the rest.
const BUDGET: usize = 256;

/// The gateway. Clones are the same one.
#[derive(Clone)]
pub struct Gateway {
    inside: Arc<Mutex<Inside>>,
}

struct Inside {
    line: Line,
    stack: Interface,
    sockets: SocketSet<'static>,
    dhcp: SocketHandle,
    began: Instant,
    forwards: Vec<(TcpListener, u16)>,
    reachable: Vec<u16>,
    pumps: Vec<Pump>,
    datagrams: Vec<Datagrams>,
    next_port: u16,
}

impl Default for Gateway {
    fn default() -> Self {
        Self::new()
    }
}

impl Gateway {
    /// A gateway whose guest can reach nothing of this machine.
    pub fn new() -> Self {
        let mut line = Line::default();
        let config = StackConfig::new(EthernetAddress(ROUTER_MAC).into());
        let mut stack = Interface::new(config, &mut line, StackInstant::ZERO);
        stack.update_ip_addrs(|list| {
            let _ = list.push(IpCidr::new(ROUTER.into(), PREFIX));
        });
        let mut sockets = SocketSet::new(Vec::new());
        let dhcp = sockets.add(dhcp::socket());
        let inside = Inside {
            line,
            stack,
            sockets,
            dhcp,
            began: Instant::now(),
            forwards: Vec::new(),
            reachable: Vec::new(),
            pumps: Vec::new(),
            datagrams: Vec::new(),
            next_port: 0,
        };
        Self {
            inside: Arc::new(Mutex::new(inside)),
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest's end of the line.
    pub fn port(&self) -> GatewayPort {
        GatewayPort::new(self.clone())
    }

    /// Leads connections to `listener`, on whatever address it is, to a TCP port of the guest.
    ///
    /// # Errors
    /// When the listener cannot be made not to block.
    pub fn forward(&self, listener: TcpListener, to: u16) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        self.inside().forwards.push((listener, to));
        Ok(())
    }

    /// Leads datagrams to `socket` to a UDP port of the guest, and its answers back to whoever sent them.
    ///
    /// # Errors
    /// When the socket cannot be made not to block.
    pub fn forward_datagrams(&self, socket: UdpSocket, to: u16) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let datagrams = Datagrams::new(socket, to);
        self.inside().datagrams.push(datagrams);
        Ok(())
    }

    /// Lets the guest reach a TCP port of this machine's loopback, at the router's address.
    pub fn allow(&self, port: u16) {
        self.inside().reachable.push(port);
    }

    /// Does what there is to do, without waiting. Whether frames wait for the guest.
    pub fn poll(&self) -> bool {
        let mut inside = self.inside();
        inside.poll();
        inside.line.is_ready()
    }

    /// Polls on a thread of its own, for as long as somebody else has the gateway too.
    pub fn start(&self) {
        let inside = Arc::downgrade(&self.inside);
        std::thread::spawn(move || {
            while let Some(inside) = inside.upgrade() {
                Gateway { inside }.poll();
                std::thread::sleep(Duration::from_micros(300));
            }
        });
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.inside().pumps.len()
    }

    fn send(&self, frame: Frame) {
        self.inside().line.put(frame);
    }

    fn receive(&self) -> Option<Frame> {
        self.inside().line.next_frame()
    }

    fn is_ready(&self) -> bool {
        self.inside().line.is_ready()
    }
}

impl Inside {
    fn now(&self) -> StackInstant {
        let micros = self.began.elapsed().as_micros();
        StackInstant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    fn poll(&mut self) {
        self.accept();
        self.answer_connections();
        let now = self.now();
        self.stack.poll_maintenance(now);
        for _ in 0..BUDGET {
            use smoltcp::iface::PollIngressSingleResult as Result;
            let done = self
                .stack
                .poll_ingress_single(now, &mut self.line, &mut self.sockets);
            if matches!(done, Result::None) {
                break;
            }
        }
        dhcp::serve(self.sockets.get_mut::<udp::Socket<'_>>(self.dhcp));
        for pump in &mut self.pumps {
            pump.run(self.sockets.get_mut::<TcpSocket>(pump.socket));
        }
        for way in &mut self.datagrams {
            way.run(&mut self.sockets, || dynamic_port(&mut self.next_port));
        }
        self.stack
            .poll_egress(now, &mut self.line, &mut self.sockets);
        let sockets = &mut self.sockets;
        self.pumps.retain(|pump| {
            let over = pump.is_over(sockets.get::<TcpSocket>(pump.socket));
            if over {
                sockets.remove(pump.socket);
            }
            !over
        });
    }

    /// Takes connections of this machine, and opens one to the guest for each.
    fn accept(&mut self) {
        for index in 0..self.forwards.len() {
            while self.pumps.len() < CONNECTIONS {
                let (listener, to) = &self.forwards[index];
                let Ok((stream, _)) = listener.accept() else {
                    break;
                };
                let to = IpEndpoint::new(GUEST.into(), *to);
                let port = dynamic_port(&mut self.next_port);
                let mut socket = stream::socket();
                let connected = socket.connect(self.stack.context(), to, port);
                if let (Ok(()), Ok(pump)) = (connected, Pump::new(stream)) {
                    let socket = self.sockets.add(socket);
                    self.pumps.push(pump.over(socket));
                }
            }
        }
    }

    /// Makes a socket for each connection that the guest is about to open, if it may.
    fn answer_connections(&mut self) {
        for (from, port) in self.line.opening() {
            let known = |pump: &Pump| pump.guest == Some((from, port));
            if !self.reachable.contains(&port)
                || self.pumps.len() >= CONNECTIONS
                || self.pumps.iter().any(known)
            {
                continue;
            }
            let mut socket = stream::socket();
            let here = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            // On the loopback somebody listens or nobody does; either is known at once.
            let Ok(stream) = TcpStream::connect_timeout(&here, Duration::from_secs(1)) else {
                continue;
            };
            let at = (ROUTER, port);
            if let (Ok(()), Ok(mut pump)) = (socket.listen(at), Pump::new(stream)) {
                pump.guest = Some((from, port));
                let socket = self.sockets.add(socket);
                self.pumps.push(pump.over(socket));
            }
        }
    }
}

/// A port of the router's that nothing else uses: the next of the dynamic ones.
fn dynamic_port(next: &mut u16) -> u16 {
    *next = (*next + 1) % 16_000;
    49_152 + *next
}

/// Frames that wait for one side.
type Waiting = VecDeque<Frame>;

#[cfg(test)]
mod tests;
