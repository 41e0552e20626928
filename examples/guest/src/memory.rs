//! A disk in memory, which tests and demonstrations put in a host's place.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::disk::{DiskError, Geometry, JobDisk, Payload, Request, Workload};

/// A disk in memory. Driven requests complete in an order of their own, as a host's do.
pub struct MemoryDisk {
    name: String,
    /// What it says of itself; `sectors` and `sector_size` are those of its bytes.
    pub geometry: Geometry,
    bytes: Vec<u8>,
    /// Requests that touch one of these sectors fail.
    pub bad: Range<u64>,
    /// Flushes asked for so far.
    pub flushes: u32,
}

impl MemoryDisk {
    /// A disk with these contents, in whole sectors of 512 or 4096 bytes; a rest is left out.
    pub fn new(name: &str, sector_size: u32, bytes: Vec<u8>) -> Self {
        let sectors = bytes.len().checked_div(sector_size as usize);
        Self {
            name: name.into(),
            geometry: Geometry {
                sectors: sectors.unwrap_or(0) as u64,
                sector_size,
                largest: 128 << 10,
                depth: 32,
                read_only: false,
                flush: true,
            },
            bytes,
            bad: 0..0,
            flushes: 0,
        }
    }

    /// Its contents.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where a request's bytes are, if it is one this disk serves.
    fn place(&self, sector: u64, bytes: usize, write: bool) -> Result<Range<usize>, DiskError> {
        let size = self.geometry.sector_size as usize;
        if !bytes.is_multiple_of(size) {
            return Err(DiskError::OutOfRange);
        }
        let count = self.geometry.sectors_of(bytes as u64);
        let end = sector.checked_add(count).ok_or(DiskError::OutOfRange)?;
        if end > self.geometry.sectors {
            return Err(DiskError::OutOfRange);
        }
        if write && self.geometry.read_only {
            return Err(DiskError::ReadOnly);
        }
        if sector < self.bad.end && end > self.bad.start {
            return Err(DiskError::Io);
        }
        let start = (sector as usize)
            .checked_mul(size)
            .ok_or(DiskError::OutOfRange)?;
        let end = start.checked_add(bytes).ok_or(DiskError::OutOfRange)?;
        Ok(start..end)
    }
}

struct Bytes(Vec<u8>);

impl Payload for Bytes {
    fn read_at(&self, offset: usize, into: &mut [u8]) {
        into.fill(0);
        let from = self.0.get(offset..).unwrap_or_default();
        into.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }

    fn write_at(&mut self, offset: usize, from: &[u8]) {
        let into = self.0.get_mut(offset..).unwrap_or_default();
        into.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }
}

impl JobDisk for MemoryDisk {
    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let place = self.place(sector, into.len(), false)?;
        let from = self.bytes.get(place).ok_or(DiskError::OutOfRange)?;
        into.copy_from_slice(from);
        Ok(())
    }

    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        let place = self.place(sector, from.len(), true)?;
        let into = self.bytes.get_mut(place).ok_or(DiskError::OutOfRange)?;
        into.copy_from_slice(from);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        if !self.geometry.flush {
            return Err(DiskError::Unsupported);
        }
        self.flushes = self.flushes.saturating_add(1);
        Ok(())
    }

    fn drive(
        &mut self,
        depth: usize,
        bytes: usize,
        work: &mut dyn Workload,
    ) -> Result<(), DiskError> {
        let depth = depth.clamp(1, self.geometry.depth.max(1));
        let mut flight: VecDeque<(Request, Bytes)> = VecDeque::new();
        let mut spare: Vec<Bytes> = (0..depth).map(|_| Bytes(vec![0; bytes])).collect();
        let mut more = true;
        let mut newest = false;
        loop {
            while more && let Some(mut payload) = spare.pop() {
                match work.next(&mut payload) {
                    Some(request) => flight.push_back((request, payload)),
                    None => more = false,
                }
            }
            // By turns the oldest and the newest, so that no job can rely on an order.
            newest = !newest;
            let next = if newest {
                flight.pop_back()
            } else {
                flight.pop_front()
            };
            let Some((request, mut payload)) = next else {
                return Ok(());
            };
            let data = payload
                .0
                .get_mut(..request.bytes)
                .ok_or(DiskError::Memory)?;
            if request.write {
                self.write(request.sector, data)?;
            } else {
                self.read(request.sector, data)?;
            }
            work.done(&request, &payload)?;
            spare.push(payload);
        }
    }
}
