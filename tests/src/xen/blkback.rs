//! The block back end: takes requests off a ring, does them on a disk, answers. One thing a step.

use super::abi::blkif::*;
use super::blkif_ring::{BackRing, Taken};
use super::evtchn::HostPort;
use super::grants::Handle;
use super::hostile::{BlkMischief, Plan};
use super::ledger::Complaint;
use super::site::Site;
use crate::disk::{Disk, InFlight, Latency};
use crate::memory::{BadAddress, GuestMemory};
use std::collections::BTreeMap;
use zerocopy::{FromBytes, IntoBytes};

/// Habits of a back end, as its keys in xenstore and its answers show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlkHabits {
    /// Feature keys are there from InitWait on (QEMU), not only when Connected (Linux).
    pub early_features: bool,
    pub flush: bool,
    pub barrier: bool,
    pub discard: bool,
    pub persistent: bool,
    /// Offers flush, barrier and discard, and then answers that it cannot.
    pub offers_in_vain: bool,
    /// `max-ring-page-order`; no key at all when `None`.
    pub max_ring_page_order: Option<u32>,
    /// How long requests take, in steps, and in what order they finish.
    pub latency: Latency,
    /// Put several responses on the ring before one event, as a seeded choice.
    pub lazy_events: bool,
}

impl Default for BlkHabits {
    /// Linux's blkback, at once and in order.
    fn default() -> Self {
        BlkHabits {
            early_features: false,
            flush: true,
            barrier: true,
            discard: false,
            persistent: true,
            offers_in_vain: false,
            max_ring_page_order: Some(4),
            latency: Latency::NONE,
            lazy_events: false,
        }
    }
}

/// A page of a request.
#[derive(Debug, Clone, Copy)]
struct Page {
    handle: Handle,
    gpa: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Work {
    id: u64,
    operation: u8,
    what: What,
    pages: Vec<Page>,
}

/// Offsets and lengths in bytes.
#[derive(Debug)]
enum What {
    Read { at: u64 },
    Write { at: u64 },
    Flush,
    Discard { at: u64, bytes: u64 },
    Fail(i16),
}

/// A connected ring and what came with it.
#[derive(Debug)]
struct Connection {
    ring: BackRing,
    ring_grants: Vec<Handle>,
    end: HostPort,
    persistent: bool,
    kept: BTreeMap<u32, Page>,
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
    device: u32,
    disk: Box<dyn Disk + Send>,
    connection: Option<Connection>,
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
            persistent: persistent && self.habits.persistent,
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
                let work = self.accept(site, &request);
                let barrier = matches!(work.what, What::Write { .. } | What::Flush)
                    && work.operation == OP_WRITE_BARRIER;
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

    /// Checks a request and maps its pages.
    fn accept<M: GuestMemory>(&mut self, site: &mut Site<'_, M>, request: &Request) -> Work {
        let mut pages = Vec::new();
        let what = match self.vet(site, request, &mut pages) {
            Ok(what) => what,
            Err((status, why)) => {
                if let Some(why) = why {
                    site.ledger.complain(Complaint::BadRequest {
                        device: self.device,
                        id: request.id,
                        why,
                    });
                }
                What::Fail(status)
            }
        };
        Work {
            id: request.id,
            operation: request.operation,
            what,
            pages,
        }
    }

    fn vet<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        request: &Request,
        pages: &mut Vec<Page>,
    ) -> Result<What, (i16, Option<&'static str>)> {
        let bad = |why| Err((RSP_ERROR, Some(why)));
        let unsupported = Err((RSP_EOPNOTSUPP, None));
        let habits = self.habits;
        let at = request.sector_number.checked_mul(512);
        let Some(at) = at.filter(|&at| at <= self.disk.bytes()) else {
            return bad("starts beyond the end");
        };
        match request.operation {
            OP_FLUSH if !habits.flush || habits.offers_in_vain => return unsupported,
            OP_WRITE_BARRIER if !habits.barrier || habits.offers_in_vain => return unsupported,
            OP_DISCARD if !habits.discard || habits.offers_in_vain => return unsupported,
            OP_DISCARD => {
                let discard = Discard::read_from_prefix(request.as_bytes());
                let sectors = discard.map_or(0, |(discard, _)| discard.nr_sectors);
                return match sectors.checked_mul(512) {
                    Some(bytes) if bytes <= self.disk.bytes() - at => {
                        Ok(What::Discard { at, bytes })
                    }
                    _ => bad("discards beyond the end"),
                };
            }
            OP_READ | OP_WRITE | OP_FLUSH | OP_WRITE_BARRIER => {}
            _ => return Err((RSP_EOPNOTSUPP, Some("unknown operation"))),
        }
        let may_be_empty = matches!(request.operation, OP_FLUSH | OP_WRITE_BARRIER);
        let count = usize::from(request.nr_segments);
        if count > MAX_SEGMENTS || (count == 0 && !may_be_empty) {
            return bad("number of segments");
        }
        if request.operation != OP_READ && count > 0 && self.disk.read_only() {
            return Err((RSP_ERROR, Some("write to a read-only disk")));
        }
        let sector = u64::from(self.disk.sector_size());
        let mut total = 0;
        for segment in &request.seg[..count] {
            let (first, last) = (u64::from(segment.first_sect), u64::from(segment.last_sect));
            if first > last || last > 7 {
                return bad("segment outside its page");
            }
            let bytes = (last - first + 1) * 512;
            if !(first * 512).is_multiple_of(sector) || !bytes.is_multiple_of(sector) {
                return bad("segment not aligned to the sector size");
            }
            total += bytes;
        }
        if !at.is_multiple_of(sector) {
            return bad("sector_number not aligned to the sector size");
        }
        if total > self.disk.bytes() - at {
            return bad("ends beyond the end");
        }
        for segment in &request.seg[..count] {
            let page = self.page(site, segment, request.operation != OP_READ);
            match page {
                Ok(page) => pages.push(page),
                Err(status) => {
                    let gref = segment.gref;
                    site.ledger.complain(Complaint::Grant { gref, status });
                    return Err((RSP_ERROR, None));
                }
            }
        }
        Ok(match (request.operation, count) {
            (OP_READ, _) => What::Read { at },
            (_, 0) => What::Flush,
            _ => What::Write { at },
        })
    }

    fn page<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        segment: &Segment,
        readonly: bool,
    ) -> Result<Page, i16> {
        let within = u64::from(segment.first_sect) * 512;
        let bytes = (usize::from(segment.last_sect) + 1) * 512 - within as usize;
        let connection = self.connection.as_mut();
        let mut keep = connection.filter(|connection| connection.persistent);
        if let Some(kept) = keep.as_ref().and_then(|c| c.kept.get(&segment.gref)) {
            return Ok(Page {
                gpa: kept.gpa + within,
                bytes,
                ..*kept
            });
        }
        // Persistent mappings are writable, whatever the first request wanted.
        let readonly = readonly && keep.is_none();
        let (handle, mapping) = site.grants.map(site.mem, segment.gref, readonly)?;
        let page = Page {
            handle,
            gpa: mapping.gpa,
            bytes,
        };
        if let Some(connection) = keep.as_mut() {
            connection.kept.insert(segment.gref, page);
        }
        Ok(Page {
            gpa: mapping.gpa + within,
            ..page
        })
    }

    fn finish<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        work: Work,
    ) -> Result<(), BadAddress> {
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

    fn perform<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        work: &Work,
    ) -> Result<i16, BadAddress> {
        let sector = u64::from(self.disk.sector_size());
        let bytes: usize = work.pages.iter().map(|page| page.bytes).sum();
        let mut data = vec![0; bytes];
        let done = match work.what {
            What::Fail(status) => return Ok(status),
            What::Flush => self.disk.flush(),
            What::Read { at } => self.disk.read(at / sector, &mut data),
            What::Write { at } => {
                let mut rest = &mut data[..];
                for page in &work.pages {
                    let (now, later) = rest.split_at_mut(page.bytes);
                    site.mem.read(page.gpa, now)?;
                    rest = later;
                }
                site.ledger.counters.bytes_written += bytes as u64;
                self.disk
                    .write(at / sector, &data)
                    .and_then(|()| match work.operation {
                        OP_WRITE_BARRIER => self.disk.flush(),
                        _ => Ok(()),
                    })
            }
            // What a discarded sector reads as is undefined; zeros make runs repeatable.
            What::Discard { at, bytes } => {
                let whole = bytes / sector * sector;
                self.disk
                    .write(at.div_ceil(sector), &vec![0; whole as usize])
            }
        };
        if done.is_err() {
            return Ok(RSP_ERROR);
        }
        if let What::Read { .. } = work.what {
            let mut rest = &data[..];
            for page in &work.pages {
                let (now, later) = rest.split_at(page.bytes);
                site.mem.write(page.gpa, now)?;
                rest = later;
            }
            site.ledger.counters.bytes_read += bytes as u64;
        }
        Ok(RSP_OKAY)
    }
}

fn give_back<M: GuestMemory>(site: &mut Site<'_, M>, handles: &[Handle]) {
    for &handle in handles {
        site.grants.unmap(site.mem, handle);
    }
}
