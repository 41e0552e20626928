//! The block back end: takes requests off a ring, does them on a disk, answers. One thing a step.

use super::abi::blkif::{OP_WRITE_BARRIER, Response};
pub use super::blk_habits::BlkHabits;
use super::blk_request::{Page, What, Work};
use super::blkif_ring::{BackRing, Taken};
use super::evtchn::HostPort;
use super::grants::Handle;
use super::hostile::{BlkMischief, Plan};
use super::ledger::Complaint;
use super::site::Site;
use crate::disk::{Disk, InFlight};
use crate::memory::{BadAddress, GuestMemory};
use std::collections::BTreeMap;

/// A connected ring and what came with it.
#[derive(Debug)]
pub(super) struct Connection {
    ring: BackRing,
    ring_grants: Vec<Handle>,
    end: HostPort,
    pub(super) persistent: bool,
    pub(super) kept: BTreeMap<u32, Page>,
    awake: bool,
    notify: bool,
    broken: bool,
    /// A barrier waits here until everything before it is done.
    barrier: Option<Work>,
}

/// A disk and its ring.
pub struct BlkBack {
    pub habits: BlkHabits,
    /// Takes requests, and finishes none until this is taken back.
    pub stalled: bool,
    pub(super) device: u32,
    pub(super) disk: Box<dyn Disk + Send>,
    pub(super) connection: Option<Connection>,
    flight: InFlight<Work>,
    /// Grants a hostile back end has not given back.
    hoard: Vec<Handle>,
    /// The last response, for those who answer twice.
    last: Option<Response>,
}

impl std::fmt::Debug for BlkBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlkBack")
            .field("device", &self.device)
            .field("connection", &self.connection)
            .field("flight", &self.flight)
            .finish_non_exhaustive()
    }
}

impl BlkBack {
    /// Serves `disk` as virtual device `device`.
    pub fn new(device: u32, disk: Box<dyn Disk + Send>, habits: BlkHabits, seed: u64) -> Self {
        BlkBack {
            flight: InFlight::new(habits.latency, seed),
            habits,
            stalled: false,
            device,
            disk,
            connection: None,
            hoard: Vec::new(),
            last: None,
        }
    }

    /// The disk behind it.
    pub fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Whether a ring is connected.
    pub fn connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Whether a connected ring was given up because its front end overran it.
    pub fn broken(&self) -> bool {
        self.connection.as_ref().is_some_and(|c| c.broken)
    }

    /// Requests taken and not answered.
    pub fn in_flight(&self) -> usize {
        self.flight.len()
    }

    /// Maps the ring and binds the event channel; what is wrong with them otherwise.
    pub fn connect<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        grefs: &[u32],
        port: u32,
        persistent: bool,
    ) -> Result<(), &'static str> {
        let mut pages = Vec::new();
        let mut ring_grants = Vec::new();
        for &gref in grefs {
            match site.grants.map(site.mem, gref, false) {
                Ok((handle, mapping)) => {
                    ring_grants.push(handle);
                    pages.push(mapping.gpa);
                }
                Err(status) => {
                    site.ledger.complain(Complaint::Grant { gref, status });
                    give_back(site, &ring_grants);
                    return Err("ring-ref cannot be mapped");
                }
            }
        }
        let ring = BackRing::attach(site.mem, pages);
        let end = site.events.bind_from_host(port);
        let (Ok(ring), Some(end)) = (ring, end) else {
            give_back(site, &ring_grants);
            return Err("event-channel cannot be bound");
        };
        self.connection = Some(Connection {
            ring,
            ring_grants,
            end,
            persistent: persistent && self.habits.persistent && !self.habits.copies,
            kept: BTreeMap::new(),
            awake: false,
            notify: false,
            broken: false,
            barrier: None,
        });
        Ok(())
    }

    /// Forgets the ring: requests in flight are dropped unanswered, every grant is given back.
    pub fn disconnect<M: GuestMemory>(&mut self, site: &mut Site<'_, M>) {
        let mut handles: Vec<Handle> = Vec::new();
        for work in self.flight.drain() {
            handles.extend(work.pages.iter().map(|page| page.handle));
        }
        if let Some(connection) = self.connection.take() {
            handles.extend(connection.kept.values().map(|page| page.handle));
            handles.extend(
                connection
                    .barrier
                    .iter()
                    .flat_map(|w| &w.pages)
                    .map(|p| p.handle),
            );
            handles.extend(connection.ring_grants);
            site.events.close_host_end(connection.end);
        }
        self.hoard.extend(handles);
        self.release(site);
    }

    fn release<M: GuestMemory>(&mut self, site: &mut Site<'_, M>) {
        if !site.hostile.hold_grants {
            give_back(site, &std::mem::take(&mut self.hoard));
        }
    }

    /// Does one thing: an event sent, a request taken, a moment waited, or a request finished and
    /// answered. False if there is nothing to do until the guest sends an event.
    pub fn step<M: GuestMemory>(&mut self, site: &mut Site<'_, M>) -> Result<bool, BadAddress> {
        if !self.hoard.is_empty() && !site.hostile.hold_grants {
            self.release(site);
            return Ok(true);
        }
        let Some(connection) = self.connection.as_mut() else {
            return Ok(false);
        };
        connection.awake |= site.events.take_kick(connection.end);
        let later = self.habits.lazy_events && site.rng.below(4) != 0 && !self.flight.is_empty();
        if connection.notify && !later {
            connection.notify = false;
            site.notify(connection.end)?;
            return Ok(true);
        }
        if connection.broken {
            return Ok(false);
        }
        let blocked = connection.barrier.is_some();
        let finish_first = !self.stalled && !self.flight.is_empty() && site.rng.below(2) == 0;
        if connection.awake && !blocked && !finish_first {
            return self.take(site).map(|()| true);
        }
        if self.stalled {
            return Ok(false);
        }
        if self.flight.is_empty()
            && let Some(barrier) = connection.barrier.take()
        {
            self.finish(site, barrier)?;
            return Ok(true);
        }
        if !self.flight.is_empty() {
            match self.flight.pop_due() {
                Some(work) => self.finish(site, work)?,
                None => self.flight.tick(),
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn take<M: GuestMemory>(&mut self, site: &mut Site<'_, M>) -> Result<(), BadAddress> {
        let Some(connection) = self.connection.as_mut() else {
            return Ok(());
        };
        match connection.ring.take(site.mem)? {
            Taken::Request(request) => {
                site.ledger.counters.requests += 1;
                let work = match self.habits.copies {
                    true => Work::later(request),
                    false => self.accept(site, &request),
                };
                let barrier =
                    !matches!(work.what, What::Fail(_)) && work.operation == OP_WRITE_BARRIER;
                match self.connection.as_mut() {
                    Some(connection) if barrier => connection.barrier = Some(work),
                    _ => self.flight.push(work),
                }
            }
            Taken::Empty => connection.awake = connection.ring.final_check(site.mem)?,
            Taken::Overrun => {
                connection.broken = true;
                let device = self.device;
                site.ledger.complain(Complaint::RingOverrun { device });
            }
        }
        Ok(())
    }

    fn finish<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        work: Work,
    ) -> Result<(), BadAddress> {
        let work = match work.what {
            What::Later(request) => self.accept(site, &request),
            _ => work,
        };
        let mischief = Plan::strike(&mut site.hostile.blk);
        let status = match mischief {
            Some(BlkMischief::Status(status)) => status,
            _ => self.perform(site, &work)?,
        };
        let persistent = self.connection.as_ref().is_some_and(|c| c.persistent);
        if !persistent {
            self.hoard.extend(work.pages.iter().map(|page| page.handle));
            self.release(site);
        }
        let honest = Response {
            id: work.id,
            operation: work.operation,
            status,
            ..Response::default()
        };
        let Some(connection) = self.connection.as_mut() else {
            return Ok(());
        };
        let mut answers = vec![honest];
        let mut event = true;
        match mischief {
            Some(BlkMischief::Silent) => answers.clear(),
            Some(BlkMischief::ProducerJump(by)) => {
                answers.clear();
                connection.ring.jump(site.mem, by)?;
                connection.notify = true;
            }
            Some(BlkMischief::Id(id)) => answers[0].id = id,
            Some(BlkMischief::Twice) => answers.push(honest),
            Some(BlkMischief::WrongOperation) => answers[0].operation ^= 1,
            Some(BlkMischief::Scribble) => connection.ring.scribble(site.mem, 0xa5)?,
            Some(BlkMischief::NoEvent) => event = false,
            Some(BlkMischief::Status(_)) | None => {}
        }
        for answer in answers {
            site.ledger.counters.responses += 1;
            let wanted = connection.ring.push(site.mem, &answer)?;
            if !wanted {
                site.ledger.counters.events_suppressed += 1;
            }
            connection.notify |= wanted && event;
        }
        self.last = Some(honest);
        Ok(())
    }
}

fn give_back<M: GuestMemory>(site: &mut Site<'_, M>, handles: &[Handle]) {
    for &handle in handles {
        site.grants.unmap(site.mem, handle);
    }
}
