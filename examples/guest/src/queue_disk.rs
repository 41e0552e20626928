//! A disk of a driver's queue as jobs see it.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use pv_drivers::blkfront::blocking::{self, Disk, TIMEOUT};
use pv_drivers::{Block, Buf, Completion, IoError, Limits, SubmitError, Tag};

use crate::disk::{DiskError, Geometry, JobDisk, Payload, Request, Workload};

/// A queue that its disks share.
pub type Shared<'q> = Rc<RefCell<Box<dyn Block + 'q>>>;

/// One disk of a queue. The disks of one SCSI controller share its queue, one job at a time.
pub struct QueueDisk<'q> {
    name: String,
    queue: Shared<'q>,
    unit: u8,
    limits: Limits,
    depth: usize,
    /// Nanoseconds that one request may take.
    timeout: u64,
}

impl<'q> QueueDisk<'q> {
    /// All disks of a queue, each with the name that `name` gives its address.
    pub fn all(queue: &Shared<'q>, name: impl Fn(u32) -> String) -> Vec<Self> {
        let Ok(inner) = queue.try_borrow() else {
            return Vec::new();
        };
        let depth = inner.depth();
        let disks = (0_u8..).zip(inner.units()).map(|(unit, found)| Self {
            name: name(found.address),
            queue: Rc::clone(queue),
            unit,
            limits: found.limits.clone(),
            depth,
            timeout: TIMEOUT,
        });
        disks.collect()
    }

    /// The same, waiting `nanoseconds` for each request.
    #[must_use]
    pub fn with_timeout(mut self, nanoseconds: u64) -> Self {
        self.timeout = nanoseconds;
        self
    }

    /// A sector of the disk in the queue's unit, 512 bytes.
    fn first(&self, sector: u64) -> u64 {
        let scale = u64::from(self.limits.sector_size >> 9);
        // One that does not fit is beyond the end, which the queue refuses.
        sector.saturating_mul(scale)
    }

    fn blocking(
        &self,
        work: impl FnOnce(&mut Disk<'_, dyn Block + 'q>) -> Result<(), blocking::DiskError>,
    ) -> Result<(), DiskError> {
        let mut queue = self.queue.try_borrow_mut().map_err(|_| DiskError::Gone)?;
        let disk = Disk::new(&mut **queue, self.unit).map_err(refused)?;
        work(&mut disk.with_timeout(self.timeout)).map_err(|error| match error {
            blocking::DiskError::Refused(why) => refused(why),
            blocking::DiskError::Io(why) => failed(why),
            blocking::DiskError::TimedOut => DiskError::Gone,
            blocking::DiskError::OutOfBuffers => DiskError::Memory,
            _ => DiskError::Io,
        })
    }
}

fn refused(why: SubmitError) -> DiskError {
    match why {
        SubmitError::BeyondEnd | SubmitError::Misaligned | SubmitError::Empty => {
            DiskError::OutOfRange
        }
        SubmitError::ReadOnly => DiskError::ReadOnly,
        SubmitError::Unsupported => DiskError::Unsupported,
        SubmitError::Failed(_) | SubmitError::NoSuchUnit => DiskError::Gone,
        _ => DiskError::Io,
    }
}

fn failed(why: IoError) -> DiskError {
    match why {
        IoError::Unsupported => DiskError::Unsupported,
        IoError::BeyondEnd => DiskError::OutOfRange,
        IoError::ReadOnly => DiskError::ReadOnly,
        IoError::Host(_) => DiskError::Gone,
        _ => DiskError::Io,
    }
}

impl JobDisk for QueueDisk<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Geometry {
        let limits = &self.limits;
        let scale = u64::from(limits.sector_size >> 9);
        Geometry {
            sectors: limits.sectors.checked_div(scale).unwrap_or(0),
            sector_size: limits.sector_size,
            largest: limits.max_bytes as usize,
            depth: self.depth,
            read_only: limits.read_only,
            flush: limits.flush,
        }
    }

    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let first = self.first(sector);
        self.blocking(|disk| disk.read_into(first, into))
    }

    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        let first = self.first(sector);
        self.blocking(|disk| disk.write_from(first, from))
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        if !self.limits.flush {
            return Err(DiskError::Unsupported);
        }
        self.blocking(|disk| disk.flush())
    }

    fn drive(
        &mut self,
        depth: usize,
        bytes: usize,
        work: &mut dyn Workload,
    ) -> Result<(), DiskError> {
        let queue = Rc::clone(&self.queue);
        let mut queue = queue.try_borrow_mut().map_err(|_| DiskError::Gone)?;
        let mut drive = Drive {
            disk: self,
            queue: &mut **queue,
            depth: depth.max(1),
            bytes,
            work,
            spare: Vec::new(),
            flight: Vec::new(),
            waiting: None,
            more: true,
            error: None,
        };
        drive.run()
    }
}

/// A buffer the host may reach, as a workload sees it.
struct Bytes<'a>(&'a mut Buf);

impl Payload for Bytes<'_> {
    fn read_at(&self, offset: usize, into: &mut [u8]) {
        let fits = self.0.len().saturating_sub(offset).min(into.len());
        let (inside, outside) = into.split_at_mut(fits);
        outside.fill(0);
        let _ = self.0.read_at(offset, inside);
    }

    fn write_at(&mut self, offset: usize, from: &[u8]) {
        let fits = self.0.len().saturating_sub(offset).min(from.len());
        let _ = self
            .0
            .write_at(offset, from.get(..fits).unwrap_or_default());
    }
}

/// A drive under way.
struct Drive<'a, 'q> {
    disk: &'a QueueDisk<'q>,
    queue: &'a mut (dyn Block + 'q),
    depth: usize,
    bytes: usize,
    work: &'a mut dyn Workload,
    /// Buffers of full length that wait for their next request.
    spare: Vec<Buf>,
    flight: Vec<(Tag, Request)>,
    /// One that the queue had no room for.
    waiting: Option<(pv_drivers::Request, Request)>,
    more: bool,
    error: Option<DiskError>,
}

impl Drive<'_, '_> {
    fn run(&mut self) -> Result<(), DiskError> {
        let mut until = self.queue.now().saturating_add(self.disk.timeout);
        loop {
            self.submit();
            if self.flight.is_empty() {
                return self.error.map_or(Ok(()), Err);
            }
            if self.collect() {
                until = self.queue.now().saturating_add(self.disk.timeout);
            } else if self.queue.now() >= until {
                for (tag, _) in self.flight.drain(..) {
                    self.queue.abandon(tag);
                }
                return Err(DiskError::Gone);
            } else {
                self.queue.pause(until);
            }
        }
    }

    /// Notes the first error and starts nothing more.
    fn stop(&mut self, error: DiskError) {
        self.more = false;
        self.error.get_or_insert(error);
    }

    fn submit(&mut self) {
        while self.more && self.flight.len() < self.depth {
            let Some((wire, request)) = self.waiting.take().or_else(|| self.prepare()) else {
                return;
            };
            match self.queue.submit(wire.on(self.disk.unit)) {
                Ok(tag) => self.flight.push((tag, request)),
                // A ring of bytes may be full before as many requests are in it as it can hold of small ones.
                Err((SubmitError::QueueFull, wire)) if !self.flight.is_empty() => {
                    self.waiting = Some((wire, request));
                    return;
                }
                Err((why, _)) => self.stop(refused(why)),
            }
        }
    }

    /// The next request, with a buffer; `None` when there are no more, or none for now.
    fn prepare(&mut self) -> Option<(pv_drivers::Request, Request)> {
        let spare = self.spare.pop();
        let Some(mut buf) = spare.or_else(|| self.queue.alloc(self.bytes)) else {
            // What is in flight will free some.
            if self.flight.is_empty() {
                self.stop(DiskError::Memory);
            }
            return None;
        };
        let Some(request) = self.work.next(&mut Bytes(&mut buf)) else {
            self.more = false;
            return None;
        };
        buf.truncate(request.bytes);
        let first = self.disk.first(request.sector);
        let wire = if request.write {
            pv_drivers::Request::write(first, buf)
        } else {
            pv_drivers::Request::read(first, buf)
        };
        Some((wire, request))
    }

    /// Takes what has completed; whether anything had.
    fn collect(&mut self) -> bool {
        let mut done: Vec<Completion> = Vec::with_capacity(self.depth);
        self.queue
            .poll_dyn(self.depth, &mut |completion| done.push(completion));
        let any = !done.is_empty();
        for completion in done {
            let found = self
                .flight
                .iter()
                .position(|(tag, _)| *tag == completion.tag);
            let Some(found) = found else { continue };
            let (_, request) = self.flight.swap_remove(found);
            if let Err(why) = completion.result {
                self.stop(failed(why));
                continue;
            }
            let Some(mut buf) = completion.buf else {
                continue;
            };
            if let Err(error) = self.work.done(&request, &Bytes(&mut buf)) {
                self.stop(error);
            }
            if buf.len() == self.bytes {
                self.spare.push(buf);
            }
        }
        any
    }
}
