//! `job=netbench`: takes what comes to port 9 and gives as much as is taken at port 19, over TCP, and counts
//! (RFC 863, RFC 864).

use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

use super::{JobError, network};
use crate::command_line::NetBench;
use crate::machine::Machine;
use crate::net::{Access, Facts, Service, Step};
use crate::report::{self, Report};

const DISCARD: u16 = 9;
const CHARGEN: u16 = 19;
/// Connections at once to each port.
const CONNECTIONS: usize = 4;
const BUFFER: usize = 256 << 10;

pub fn run<M: Machine>(
    settings: NetBench,
    machine: &mut M,
    report: &mut Report,
) -> Result<(), JobError> {
    let NetBench(timed) = settings;
    let interrupts = machine.interrupts();
    let until = timed.seconds.saturating_mul(1_000_000_000);
    let mut bench = Bench {
        until: machine.now().saturating_add(until),
        ..Bench::default()
    };
    let mut facts = Facts::default();
    let parts = machine.parts();
    let outcome = network(
        parts.nic,
        timed.network.addressing,
        &mut bench,
        &mut facts,
        parts.say,
    );
    let (rx, tx) = (bench.rx, bench.tx);
    let done = report::NetBench {
        rx_bytes: rx.bytes,
        tx_bytes: tx.bytes,
        rx_nanoseconds: rx.time(),
        tx_nanoseconds: tx.time(),
        rx_bytes_per_second: rx.rate(),
        tx_bytes_per_second: tx.rate(),
        interrupts: machine.interrupts().saturating_sub(interrupts),
    };
    machine.say(format_args!(
        "took {} bytes at {} bytes/s, gave {} bytes at {} bytes/s",
        rx.bytes,
        rx.rate(),
        tx.bytes,
        tx.rate()
    ));
    report.nic = Some(facts.nic);
    report.traffic = Some(facts.traffic);
    report.netbench = Some(done);
    outcome
}

/// Bytes one way, and when.
#[derive(Clone, Copy, Default)]
struct Flow {
    bytes: u64,
    first: Option<u64>,
    last: u64,
}

impl Flow {
    fn count(&mut self, bytes: usize, now: u64) -> bool {
        if bytes > 0 {
            self.bytes = self.bytes.saturating_add(bytes as u64);
            self.first.get_or_insert(now);
            self.last = now;
        }
        bytes > 0
    }

    fn time(&self) -> u64 {
        self.first
            .map_or(0, |first| self.last.saturating_sub(first))
    }

    fn rate(&self) -> u64 {
        let bits = u128::from(self.bytes).saturating_mul(1_000_000_000);
        let rate = bits.checked_div(u128::from(self.time())).unwrap_or(0);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

/// A socket that waits for somebody, or serves one.
struct Place {
    handle: SocketHandle,
    port: u16,
    /// Bytes given to the socket that the other side is not known to have.
    unacknowledged: usize,
}

#[derive(Default)]
struct Bench {
    sockets: Vec<Place>,
    until: u64,
    rx: Flow,
    tx: Flow,
}

fn socket() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER]);
    Socket::new(buffer(), buffer())
}

impl Service for Bench {
    fn open(&mut self, sockets: &mut SocketSet<'static>) {
        for port in [DISCARD, CHARGEN] {
            for _ in 0..CONNECTIONS {
                self.sockets.push(Place {
                    handle: sockets.add(socket()),
                    port,
                    unacknowledged: 0,
                });
            }
        }
    }

    fn up(&mut self, address: Ipv4Addr, access: &mut Access<'_>) {
        (access.say)(format_args!(
            "MEASURING {address}:{DISCARD} {address}:{CHARGEN}"
        ));
    }

    fn step(&mut self, access: &mut Access<'_>) -> Step {
        let now = access.now;
        if now >= self.until {
            return Step::Done;
        }
        let mut busy = false;
        for place in &mut self.sockets {
            let at = access.sockets.get_mut::<Socket<'_>>(place.handle);
            // Only what was acknowledged has been sent. A connection that is over keeps the rest until it begins anew.
            let arrived = place.unacknowledged.saturating_sub(at.send_queue());
            place.unacknowledged = at.send_queue();
            busy |= self.tx.count(arrived, now);
            match at.state() {
                State::TimeWait => *at = socket(),
                State::Closed => _ = at.listen(place.port),
                State::Listen | State::SynReceived => continue,
                _ => {}
            }
            while let Ok(taken @ 1..) = at.recv(|bytes| (bytes.len(), bytes.len())) {
                busy |= place.port == DISCARD && self.rx.count(taken, now);
            }
            if place.port == CHARGEN && at.can_send() {
                let given = at.send(|room| {
                    room.fill(b'#');
                    (room.len(), ())
                });
                busy |= given.is_ok();
            }
            place.unacknowledged = at.send_queue();
            if at.state() == State::CloseWait {
                at.close();
            }
        }
        match busy {
            true => Step::Busy,
            false => Step::Idle(self.until),
        }
    }
}
