//! The network back end: frames from the guest to a line and from a line to the guest, over one
//! pair of rings for each queue. One thing a step.

use super::abi::netif::*;
use super::evtchn::HostPort;
use super::grants::Handle;
use super::ledger::Complaint;
pub use super::net_habits::NetHabits;
use super::netback_rx::{Buffers, Filling};
use super::netback_tx::Answer;
use super::netif_ring::NetRing;
use super::site::Site;
use crate::disk::InFlight;
use crate::memory::{BadAddress, GuestMemory};
use crate::net::{Frame, Port, Takes};
use std::collections::{BTreeSet, VecDeque};

/// What the front end agreed to, beside the rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// What received frames may be left with.
    pub takes: Takes,
    /// Received frames may have several slots.
    pub sg: bool,
}

/// Where one queue's rings are, as the front end's keys say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueKeys {
    pub tx_ring: u32,
    pub rx_ring: u32,
    pub tx_port: u32,
    /// The same as `tx_port` unless event channels are split.
    pub rx_port: u32,
}

/// A connected pair of rings.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) tx: NetRing<TX_ENTRY>,
    pub(super) rx: NetRing<RX_ENTRY>,
    ring_grants: Vec<Handle>,
    pub(super) tx_end: HostPort,
    /// The same as `tx_end` unless event channels are split.
    pub(super) rx_end: HostPort,
    tx_awake: bool,
    pub(super) rx_awake: bool,
    pub(super) tx_notify: bool,
    pub(super) rx_notify: bool,
    /// Given up: its front end did what nothing follows from.
    pub(super) broken: bool,
    pub(super) flight: InFlight<Answer>,
    /// Ids of transmit slots not answered yet.
    pub(super) tx_ids: BTreeSet<u16>,
    pub(super) buffers: Buffers,
    /// Frames for this queue, taken off the line.
    pub(super) backlog: VecDeque<Frame>,
    pub(super) filling: Option<Filling>,
}

/// Frames of one queue that the back end holds; with so many it takes none off the line.
const BACKLOG: usize = 64;

/// One interface's back end.
pub struct NetBack {
    pub habits: NetHabits,
    /// Takes chains and sends their frames, and answers none until this is taken back.
    pub stalled: bool,
    /// Whether the line is up: otherwise frames from the guest are lost, and none come.
    pub link: bool,
    pub(super) device: u32,
    /// The largest packet since the front end connected, in bytes.
    pub(super) largest_mtu: u16,
    pub(super) line: Box<dyn Port>,
    pub(super) terms: Terms,
    pub(super) queues: Vec<Queue>,
    /// Grants a hostile back end has not given back.
    pub(super) hoard: Vec<Handle>,
    seed: u64,
}

impl std::fmt::Debug for NetBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetBack")
            .field("device", &self.device)
            .field("terms", &self.terms)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

impl NetBack {
    /// Serves interface `device` from `line`.
    pub fn new(device: u32, line: Box<dyn Port>, habits: NetHabits, seed: u64) -> Self {
        NetBack {
            habits,
            stalled: false,
            link: true,
            device,
            largest_mtu: 0,
            line,
            terms: Terms::default(),
            queues: Vec::new(),
            hoard: Vec::new(),
            seed,
        }
    }

    /// Pairs of rings that are connected.
    pub fn connected(&self) -> usize {
        self.queues.len()
    }

    /// Whether a connected queue was given up.
    pub fn broken(&self) -> bool {
        self.queues.iter().any(|queue| queue.broken)
    }

    /// What the front end agreed to.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// Transmit slots taken and not answered, or answers of them not told yet.
    pub fn in_flight(&self) -> usize {
        self.queues.iter().map(|queue| queue.flight.len()).sum()
    }

    /// Maps every ring and binds every event channel; what is wrong with them otherwise.
    pub fn connect<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        keys: &[QueueKeys],
        terms: Terms,
        mtu: u16,
    ) -> Result<(), &'static str> {
        self.terms = terms;
        self.largest_mtu = mtu;
        for keys in keys {
            if let Err(why) = self.connect_queue(site, keys) {
                self.disconnect(site);
                return Err(why);
            }
        }
        Ok(())
    }

    fn connect_queue<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        keys: &QueueKeys,
    ) -> Result<(), &'static str> {
        let mut pages = Vec::new();
        let mut ring_grants = Vec::new();
        for gref in [keys.tx_ring, keys.rx_ring] {
            match site.grants.map(site.mem, gref, false) {
                Ok((handle, mapping)) => {
                    ring_grants.push(handle);
                    pages.push(mapping.gpa);
                }
                Err(status) => {
                    site.ledger.complain(Complaint::Grant { gref, status });
                    give_back(site, &ring_grants);
                    return Err("a ring-ref cannot be mapped");
                }
            }
        }
        let tx = NetRing::attach(site.mem, pages[0]);
        let rx = NetRing::attach(site.mem, pages[1]);
        let tx_end = site.events.bind_from_host(keys.tx_port);
        let rx_end = match keys.rx_port == keys.tx_port {
            true => tx_end,
            false => site.events.bind_from_host(keys.rx_port),
        };
        let (Ok(tx), Ok(rx), Some(tx_end), Some(rx_end)) = (tx, rx, tx_end, rx_end) else {
            for end in [tx_end, rx_end].into_iter().flatten() {
                site.events.close_host_end(end);
            }
            give_back(site, &ring_grants);
            return Err("an event-channel cannot be bound");
        };
        let seed = self.seed.wrapping_add(self.queues.len() as u64);
        self.queues.push(Queue {
            tx,
            rx,
            ring_grants,
            tx_end,
            rx_end,
            tx_awake: false,
            rx_awake: false,
            tx_notify: false,
            rx_notify: false,
            broken: false,
            flight: InFlight::new(self.habits.latency, seed),
            tx_ids: BTreeSet::new(),
            buffers: Buffers::default(),
            backlog: VecDeque::new(),
            filling: None,
        });
        Ok(())
    }

    /// Forgets the rings: chains in flight are dropped unanswered, frames that were to be received
    /// are lost, every grant is given back.
    pub fn disconnect<M: GuestMemory>(&mut self, site: &mut Site<'_, M>) {
        for mut queue in self.queues.drain(..) {
            self.hoard
                .extend(queue.flight.drain().flat_map(|answer| answer.handles));
            self.hoard.extend(queue.ring_grants);
            site.events.close_host_end(queue.tx_end);
            site.events.close_host_end(queue.rx_end);
        }
        self.release(site);
    }

    pub(super) fn release<M: GuestMemory>(&mut self, site: &mut Site<'_, M>) {
        if !site.hostile.hold_grants {
            give_back(site, &std::mem::take(&mut self.hoard));
        }
    }

    /// Notes something wrong with what the guest sent or posted.
    pub(super) fn complain<M: GuestMemory>(
        &self,
        site: &mut Site<'_, M>,
        queue: usize,
        id: u16,
        why: &'static str,
    ) {
        site.ledger.complain(Complaint::BadFrame {
            device: self.device,
            queue,
            id,
            why,
        });
    }

    /// Gives a queue up, for a reason.
    pub(super) fn give_up<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        queue: usize,
        id: u16,
        why: &'static str,
    ) {
        self.complain(site, queue, id, why);
        self.queues[queue].broken = true;
    }

    /// Does one thing: an event sent, a chain taken, a moment waited, a chain answered, a frame
    /// taken off the line, or a receive buffer filled. False if there is nothing to do until the
    /// guest sends an event or the line has a frame.
    pub fn step<M: GuestMemory>(&mut self, site: &mut Site<'_, M>) -> Result<bool, BadAddress> {
        if !self.hoard.is_empty() && !site.hostile.hold_grants {
            self.release(site);
            return Ok(true);
        }
        if self.queues.is_empty() {
            return Ok(false);
        }
        let turns = 2 * self.queues.len() as u64 + 1;
        let first = site.rng.below(turns);
        for turn in 0..turns {
            let turn = ((first + turn) % turns) as usize;
            let (queue, receive) = (turn / 2, turn % 2 == 1);
            let acted = match queue == self.queues.len() {
                true => self.take_off_the_line(),
                false if receive => self.step_rx(site, queue)?,
                false => self.step_tx(site, queue)?,
            };
            if acted {
                return Ok(true);
            }
        }
        Ok(self.line.step())
    }

    fn step_tx<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        n: usize,
    ) -> Result<bool, BadAddress> {
        let queue = &mut self.queues[n];
        // One event channel for both rings wakes both.
        let kicked = site.events.take_kick(queue.tx_end);
        queue.tx_awake |= kicked;
        queue.rx_awake |= kicked && queue.tx_end == queue.rx_end;
        let waiting = !queue.flight.is_empty();
        let later = self.habits.lazy_events && waiting && site.rng.below(4) != 0;
        if queue.tx_notify && !later {
            queue.tx_notify = false;
            site.notify(queue.tx_end)?;
            return Ok(true);
        }
        if queue.broken {
            return Ok(false);
        }
        let answer_first = waiting && !self.stalled && site.rng.below(2) == 0;
        if queue.tx_awake && !answer_first {
            let more = self.take_chain(site, n)?;
            self.queues[n].tx_awake = more;
            return Ok(true);
        }
        if !waiting || self.stalled {
            return Ok(false);
        }
        match queue.flight.pop_due() {
            Some(answer) => self.answer(site, n, answer)?,
            None => queue.flight.tick(),
        }
        Ok(true)
    }

    fn step_rx<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        n: usize,
    ) -> Result<bool, BadAddress> {
        let queue = &mut self.queues[n];
        let kicked = site.events.take_kick(queue.rx_end);
        queue.rx_awake |= kicked;
        queue.tx_awake |= kicked && queue.tx_end == queue.rx_end;
        let waiting = !queue.backlog.is_empty() || queue.filling.is_some();
        let later = self.habits.lazy_events && waiting && site.rng.below(4) != 0;
        if queue.rx_notify && !later {
            queue.rx_notify = false;
            site.notify(queue.rx_end)?;
            return Ok(true);
        }
        if queue.broken || !waiting {
            return Ok(false);
        }
        self.deliver(site, n)
    }

    /// Takes a frame off the line for the queue its flow belongs to.
    fn take_off_the_line(&mut self) -> bool {
        let full = |queue: &Queue| queue.backlog.len() >= BACKLOG && !queue.broken;
        if !self.link || self.queues.iter().any(full) {
            return false;
        }
        let Some(frame) = self.line.receive() else {
            return false;
        };
        let queue = flow(&frame.bytes) % self.queues.len();
        for frame in crate::net::finish(frame, self.terms.takes) {
            self.queues[queue].backlog.push_back(frame);
        }
        true
    }
}

/// A number for the flow a frame belongs to: the same for every frame of a flow.
fn flow(bytes: &[u8]) -> usize {
    let Some(headers) = crate::net::Headers::find(bytes) else {
        return 0;
    };
    let mut sum = 0usize;
    let addresses = if headers.v6 { 8..40 } else { 12..20 };
    for at in addresses {
        sum += usize::from(bytes.get(headers.ip + at).copied().unwrap_or(0));
    }
    if headers.checksum().is_some() {
        for at in 0..4 {
            sum += usize::from(bytes.get(headers.transport + at).copied().unwrap_or(0));
        }
    }
    sum
}

pub(super) fn give_back<M: GuestMemory>(site: &mut Site<'_, M>, handles: &[Handle]) {
    for &handle in handles {
        site.grants.unmap(site.mem, handle);
    }
}
