//! Blocking use: read and write ordinary slices.

use crate::block::Block;
use crate::limits::{Limits, SECTOR};
use crate::request::{Completion, IoError, Op, Request, SubmitError, Tag};
use core::fmt;
use heapless::Deque;

/// Why a blocking call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DiskError {
    /// The request was refused.
    Refused(SubmitError),
    /// The request failed.
    Io(IoError),
    /// The host did not answer in time. The request may still be done later.
    TimedOut,
    /// The pool has no page free, and nothing in flight could free one.
    OutOfBuffers,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => why.fmt(f),
            Self::Io(why) => why.fmt(f),
            Self::TimedOut => f.write_str("the host did not answer in time"),
            Self::OutOfBuffers => f.write_str("no buffers left"),
        }
    }
}

impl core::error::Error for DiskError {}

/// How long a blocking call waits for one request unless told otherwise: 30 s, in nanoseconds.
pub const TIMEOUT: u64 = 30_000_000_000;

/// One disk of a queue, borrowed for blocking calls. Slices are copied through the pool: the host
/// never sees them.
#[derive(Debug)]
pub struct Disk<'q, B: Block + ?Sized> {
    queue: &'q mut B,
    unit: u8,
    timeout: u64,
}

/// A piece of a longer transfer: which request, and where in the slice.
type Piece = (Tag, usize, usize);

impl<'q, B: Block + ?Sized> Disk<'q, B> {
    /// Disk `unit` of the queue.
    ///
    /// # Errors
    /// [`SubmitError::NoSuchUnit`].
    pub fn new(queue: &'q mut B, unit: u8) -> Result<Self, SubmitError> {
        if queue.units().len() <= usize::from(unit) {
            return Err(SubmitError::NoSuchUnit);
        }
        Ok(Self {
            queue,
            unit,
            timeout: TIMEOUT,
        })
    }

    /// The same, waiting `nanoseconds` for each request.
    #[must_use]
    pub fn with_timeout(mut self, nanoseconds: u64) -> Self {
        self.timeout = nanoseconds;
        self
    }

    /// What the disk can do.
    pub fn limits(&self) -> Limits {
        match self.queue.units().get(usize::from(self.unit)) {
            Some(unit) => unit.limits.clone(),
            None => Limits::new(0),
        }
    }

    /// Fills `into` from 512-byte sector `sector` on.
    ///
    /// # Errors
    /// [`DiskError`]; what `into` holds is then unspecified.
    pub fn read_into(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let mut rest = Some(into);
        let len = rest.as_ref().map_or(0, |s| s.len());
        let mut done = 0usize;
        self.transfer(
            Op::Read,
            sector,
            len,
            |_, _| Ok(()),
            |at, completion| {
                // Pieces complete in order, so the slice is filled front to back.
                let whole = rest.take().unwrap_or_default();
                let Some(buf) = completion.buf else {
                    return Err(DiskError::OutOfBuffers);
                };
                let (now, later) = whole
                    .split_at_mut_checked(buf.len())
                    .ok_or(DiskError::OutOfBuffers)?;
                debug_assert!(at == done);
                done = done.wrapping_add(buf.len());
                rest = Some(later);
                buf.read_at(0, now).map_err(|_| DiskError::OutOfBuffers)
            },
        )
    }

    /// Writes `from` from 512-byte sector `sector` on.
    ///
    /// # Errors
    /// [`DiskError`]; which of the sectors were written is then unspecified.
    pub fn write_from(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        self.transfer(
            Op::Write,
            sector,
            from.len(),
            |at, buf| {
                let end = at.saturating_add(buf.len());
                let part = from.get(at..end).ok_or(DiskError::OutOfBuffers)?;
                buf.write_at(0, part).map_err(|_| DiskError::OutOfBuffers)
            },
            |_, _| Ok(()),
        )
    }

    /// Makes every write so far survive a loss of power; nothing to do on a disk without a cache.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn flush(&mut self) -> Result<(), DiskError> {
        if !self.limits().flush {
            return Ok(());
        }
        self.run(Request::flush())
    }

    /// Gives up sectors.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn discard(&mut self, sector: u64, count: u64) -> Result<(), DiskError> {
        self.run(Request::discard(sector, count))
    }

    fn run(&mut self, request: Request) -> Result<(), DiskError> {
        let unit = self.unit;
        let tag = self
            .queue
            .submit(request.on(unit))
            .map_err(|(why, _)| DiskError::Refused(why))?;
        self.wait(tag).map(drop)
    }

    /// Moves `len` bytes in requests as large as the disk takes, as many at once as fit.
    fn transfer(
        &mut self,
        op: Op,
        sector: u64,
        len: usize,
        mut fill: impl FnMut(usize, &mut crate::Buf) -> Result<(), DiskError>,
        mut take: impl FnMut(usize, Completion) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        self.check(op, sector, len)?;
        let granule = (self.limits().sector_size as usize).max(SECTOR);
        let mut chunk = (self.limits().max_bytes as usize).max(granule);
        let mut flying: Deque<Piece, 64> = Deque::new();
        let mut at = 0usize;
        loop {
            while at < len && !flying.is_full() {
                let here = chunk.min(len.wrapping_sub(at));
                let Some(mut buf) = self.queue.alloc(here) else {
                    if !flying.is_empty() {
                        break;
                    }
                    if chunk <= granule {
                        return Err(DiskError::OutOfBuffers);
                    }
                    chunk = (chunk / 2).next_multiple_of(granule);
                    continue;
                };
                let first = sector.wrapping_add((at / SECTOR) as u64);
                let request = if op == Op::Write {
                    fill(at, &mut buf)?;
                    Request::write(first, buf)
                } else {
                    Request::read(first, buf)
                };
                match self.queue.submit(request.on(self.unit)) {
                    Ok(tag) => {
                        if flying.push_back((tag, at, here)).is_err() {
                            return Err(DiskError::OutOfBuffers);
                        }
                        at = at.wrapping_add(here);
                    }
                    Err((SubmitError::QueueFull, _)) if !flying.is_empty() => break,
                    Err((SubmitError::QueueFull, _)) => {
                        // The ring is full of others' requests: let one finish.
                        let until = self.queue.now().saturating_add(self.timeout);
                        self.make_room(until)?;
                    }
                    Err((why, _)) => {
                        self.give_up(&flying);
                        return Err(DiskError::Refused(why));
                    }
                }
            }
            let Some((tag, offset, _)) = flying.pop_front() else {
                return Ok(());
            };
            let outcome = self
                .wait(tag)
                .and_then(|completion| take(offset, completion));
            if outcome.is_err() {
                self.give_up(&flying);
                return outcome;
            }
        }
    }

    /// Refuses what no request could do, before anything is done.
    fn check(&self, op: Op, sector: u64, len: usize) -> Result<(), DiskError> {
        let limits = self.limits();
        let refuse = |why| Err(DiskError::Refused(why));
        if let Some(fault) = self.queue.fault() {
            return refuse(SubmitError::Failed(fault));
        }
        if op == Op::Write && limits.read_only {
            return refuse(SubmitError::ReadOnly);
        }
        if len == 0 {
            return refuse(SubmitError::Empty);
        }
        let granule = (limits.sector_size as usize).max(SECTOR);
        let sectors = (granule / SECTOR) as u64;
        if !len.is_multiple_of(granule) || !sector.is_multiple_of(sectors) {
            return refuse(SubmitError::Misaligned);
        }
        match sector.checked_add((len / SECTOR) as u64) {
            Some(end) if end <= limits.sectors => Ok(()),
            _ => refuse(SubmitError::BeyondEnd),
        }
    }

    fn make_room(&mut self, until: u64) -> Result<(), DiskError> {
        let before = self.queue.in_flight();
        loop {
            self.queue.reap();
            if let Some(fault) = self.queue.fault() {
                return Err(DiskError::Io(IoError::Host(fault)));
            }
            if self.queue.in_flight() < before {
                return Ok(());
            }
            if self.queue.now() >= until {
                return Err(DiskError::TimedOut);
            }
            self.queue.pause(until);
        }
    }

    fn give_up(&mut self, flying: &Deque<Piece, 64>) {
        for (tag, _, _) in flying {
            self.queue.abandon(*tag);
        }
    }

    /// Waits for one request.
    ///
    /// # Errors
    /// [`DiskError`]. After [`DiskError::TimedOut`] the request is abandoned: it may still be
    /// done, and its buffer returns by itself.
    pub fn wait(&mut self, tag: Tag) -> Result<Completion, DiskError> {
        let until = self.queue.now().saturating_add(self.timeout);
        loop {
            self.queue.reap();
            if let Some(completion) = self.queue.collect(tag) {
                completion.result.map_err(DiskError::Io)?;
                return Ok(completion);
            }
            if let Some(fault) = self.queue.fault() {
                return Err(DiskError::Io(IoError::Host(fault)));
            }
            if self.queue.now() >= until {
                self.queue.abandon(tag);
                return Err(DiskError::TimedOut);
            }
            self.queue.pause(until);
        }
    }
}
