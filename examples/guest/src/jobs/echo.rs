//! `job=echo`: what comes to port 7 over TCP and UDP goes back (RFC 862).

use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};

use super::{JobError, network};
use crate::command_line::Timed;
use crate::machine::Machine;
use crate::net::{Access, Facts, Service, Step};
use crate::report::{self, Report};

const PORT: u16 = 7;
/// Connections at once.
const CONNECTIONS: usize = 8;
const BUFFER: usize = 32 << 10;
/// Datagrams that wait at most.
const DATAGRAMS: usize = 64;

pub fn run<M: Machine>(
    settings: Timed,
    machine: &mut M,
    report: &mut Report,
) -> Result<(), JobError> {
    let until = settings.seconds.saturating_mul(1_000_000_000);
    let mut echo = Echo {
        until: machine.now().saturating_add(until),
        ..Echo::default()
    };
    let mut facts = Facts::default();
    let parts = machine.parts();
    let outcome = network(
        parts.nic,
        settings.network.addressing,
        &mut echo,
        &mut facts,
        parts.say,
    );
    let done = echo.done;
    machine.say(format_args!(
        "sent back {} bytes over {} connections and {} datagrams",
        done.tcp_bytes, done.connections, done.datagrams
    ));
    report.nic = Some(facts.nic);
    report.traffic = Some(facts.traffic);
    report.echo = Some(done);
    outcome
}

#[derive(Default)]
struct Echo {
    tcp: Vec<(SocketHandle, bool)>,
    udp: SocketHandle,
    until: u64,
    done: report::Echo,
}

impl Service for Echo {
    fn open(&mut self, sockets: &mut SocketSet<'static>) {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        for _ in 0..CONNECTIONS {
            let mut socket = tcp::Socket::new(buffer(), buffer());
            socket.set_nagle_enabled(false);
            self.tcp.push((sockets.add(socket), false));
        }
        let buffer = || {
            let slots = vec![udp::PacketMetadata::EMPTY; DATAGRAMS];
            udp::PacketBuffer::new(slots, vec![0; DATAGRAMS * 1500])
        };
        let mut socket = udp::Socket::new(buffer(), buffer());
        let _ = socket.bind(PORT);
        self.udp = sockets.add(socket);
    }

    fn up(&mut self, address: Ipv4Addr, access: &mut Access<'_>) {
        (access.say)(format_args!("ECHOING {address}:{PORT}"));
    }

    fn step(&mut self, access: &mut Access<'_>) -> Step {
        if access.now >= self.until {
            return Step::Done;
        }
        let mut busy = false;
        for (handle, taken) in &mut self.tcp {
            let socket = access.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait) {
                if socket.state() == tcp::State::TimeWait {
                    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
                    *socket = tcp::Socket::new(buffer(), buffer());
                }
                let _ = socket.listen(PORT);
                *taken = false;
            }
            if !*taken && socket.may_send() {
                *taken = true;
                self.done.connections = self.done.connections.saturating_add(1);
            }
            while socket.can_recv() && socket.can_send() {
                let room = socket.send_capacity().saturating_sub(socket.send_queue());
                let mut bytes = vec![0; room];
                let count = socket.recv_slice(&mut bytes).unwrap_or(0);
                bytes.truncate(count);
                if socket.send_slice(&bytes).is_err() {
                    break;
                }
                self.done.tcp_bytes = self.done.tcp_bytes.saturating_add(count as u64);
                busy = true;
            }
            if *taken && !socket.may_recv() && !socket.can_recv() {
                socket.close();
            }
        }
        let socket = access.sockets.get_mut::<udp::Socket<'_>>(self.udp);
        while socket.can_send() && socket.can_recv() {
            let Ok((bytes, from)) = socket.recv() else {
                break;
            };
            let bytes = bytes.to_vec();
            if socket.send_slice(&bytes, from.endpoint).is_ok() {
                self.done.datagrams = self.done.datagrams.saturating_add(1);
                self.done.udp_bytes = self.done.udp_bytes.saturating_add(bytes.len() as u64);
            }
            busy = true;
        }
        match busy {
            true => Step::Busy,
            false => Step::Idle(self.until),
        }
    }
}
