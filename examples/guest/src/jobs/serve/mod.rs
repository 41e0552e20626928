//! `job=serve`: the files of the first FAT file system over HTTP, block and net together.

mod connection;
mod site;

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::iface::SocketSet;

use super::{JobError, network};
use crate::command_line::Serve;
use crate::machine::Machine;
use crate::net::{Access, Facts, Service, Step};
use crate::report::{self, Report};
use connection::Connection;
pub use site::Site;

/// Where HTTP is.
const PORT: u16 = 80;
/// Connections at once: all of them wait for one until they have one.
const CONNECTIONS: usize = 32;
/// How long the last answers may take to leave, in nanoseconds.
const FAREWELL: u64 = 5_000_000_000;
/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

pub fn run<M: Machine>(
    settings: Serve,
    machine: &mut M,
    report: &mut Report,
) -> Result<(), JobError> {
    let (start, interrupts) = (machine.now(), machine.interrupts());
    let mut facts = Facts::default();
    let mut done = report::Serve::default();
    let outcome = {
        let parts = machine.parts();
        let site = Site::find(parts.disks)?;
        done.files = site.files() as u64;
        (parts.say)(format_args!("{} files to serve", site.files()));
        let mut server = Server::new(site, settings, start);
        let outcome = network(
            parts.nic,
            settings.network.addressing,
            &mut server,
            &mut facts,
            parts.say,
        );
        done.requests = server.done.requests;
        done.errors = server.done.errors;
        done.bytes = server.done.bytes;
        done.connections = server.done.connections;
        outcome
    };
    done.nanoseconds = machine.now().saturating_sub(start);
    done.interrupts = machine.interrupts().saturating_sub(interrupts);
    machine.say(format_args!(
        "{} requests answered over {} connections, {} with an error, {} bytes",
        done.requests, done.connections, done.errors, done.bytes
    ));
    report.nic = Some(facts.nic);
    report.traffic = Some(facts.traffic);
    report.serve = Some(done);
    outcome
}

/// What all connections have in common.
#[derive(Default)]
struct Done {
    requests: u64,
    errors: u64,
    bytes: u64,
    connections: u64,
    /// Somebody asked for the end.
    stop: bool,
}

/// The server.
struct Server<'a> {
    site: Site<'a>,
    settings: Serve,
    connections: Vec<Connection>,
    done: Done,
    began: u64,
    /// When it began to end.
    ending: Option<u64>,
    /// Which connection is served first in the next round.
    first: usize,
}

impl<'a> Server<'a> {
    fn new(site: Site<'a>, settings: Serve, began: u64) -> Self {
        Self {
            site,
            settings,
            connections: Vec::new(),
            done: Done::default(),
            began,
            ending: None,
            first: 0,
        }
    }

    /// When time is up.
    fn deadline(&self) -> u64 {
        let time = self.settings.seconds.map(|s| s.saturating_mul(SECOND));
        time.map_or(u64::MAX, |time| self.began.saturating_add(time))
    }

    fn is_enough(&self, now: u64) -> bool {
        let requests = self.settings.requests.unwrap_or(u64::MAX);
        self.done.stop || self.done.requests >= requests || now >= self.deadline()
    }
}

impl Service for Server<'_> {
    fn open(&mut self, sockets: &mut SocketSet<'static>) {
        let more = || Connection::open(sockets, PORT);
        self.connections = core::iter::repeat_with(more).take(CONNECTIONS).collect();
    }

    fn up(&mut self, address: Ipv4Addr, access: &mut Access<'_>) {
        (access.say)(format_args!("SERVING http://{address}/"));
    }

    fn step(&mut self, access: &mut Access<'_>) -> Step {
        let now = access.now;
        if self.ending.is_none() && self.is_enough(now) {
            self.ending = Some(now);
        }
        let ending = self.ending.is_some();
        let (mut busy, mut next) = (false, self.deadline());
        let count = self.connections.len();
        for turn in 0..count {
            let index = self.first.wrapping_add(turn).checked_rem(count);
            let Some(connection) = self.connections.get_mut(index.unwrap_or(0)) else {
                continue;
            };
            let moved = connection.step(
                access.sockets,
                &mut self.site,
                &mut self.done,
                self.settings.stop,
                now,
                ending,
            );
            busy |= moved;
            next = next.min(connection.deadline());
        }
        self.first = self.first.wrapping_add(1).checked_rem(count).unwrap_or(0);
        let Some(since) = self.ending else {
            return match busy {
                true => Step::Busy,
                false => Step::Idle(next),
            };
        };
        let over = self.connections.iter().all(|c| c.is_over(access.sockets));
        if over || now.saturating_sub(since) > FAREWELL {
            return Step::Done;
        }
        match busy {
            true => Step::Busy,
            false => Step::Idle(since.saturating_add(FAREWELL)),
        }
    }
}
