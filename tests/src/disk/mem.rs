//! A disk in memory: what it loses on a crash, and errors on demand.

use super::{Disk, DiskError};
use crate::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};

/// A disk in memory with a volatile write cache, and errors on demand.
#[derive(Debug, Clone)]
pub struct MemDisk {
    sector_size: u32,
    durable: Vec<u8>,
    /// Written, not yet flushed: sector -> contents.
    cached: BTreeMap<u64, Vec<u8>>,
    read_only: bool,
    bad_reads: BTreeSet<u64>,
    bad_writes: BTreeSet<u64>,
    flush_fails: bool,
    flushes: u64,
}

impl MemDisk {
    /// A zeroed disk of `sectors` sectors of `sector_size` (512 or 4096) bytes.
    pub fn new(sectors: u64, sector_size: u32) -> Self {
        Self::from_bytes(
            vec![0; (sectors * u64::from(sector_size)) as usize],
            sector_size,
        )
    }

    /// A disk that holds `contents`; a last part smaller than a sector is cut off.
    pub fn from_bytes(mut contents: Vec<u8>, sector_size: u32) -> Self {
        assert!(
            sector_size == 512 || sector_size == 4096,
            "512 or 4096 bytes a sector"
        );
        contents.truncate(contents.len() / sector_size as usize * sector_size as usize);
        MemDisk {
            sector_size,
            durable: contents,
            cached: BTreeMap::new(),
            read_only: false,
            bad_reads: BTreeSet::new(),
            bad_writes: BTreeSet::new(),
            flush_fails: false,
            flushes: 0,
        }
    }

    /// Refuses (or takes) writes from now on.
    pub fn set_read_only(&mut self, read_only: bool) {
        self.read_only = read_only;
    }

    /// Reads that touch sector `lba` fail from now on.
    pub fn fail_reads_of(&mut self, lba: u64) {
        self.bad_reads.insert(lba);
    }

    /// Writes that touch sector `lba` fail from now on.
    pub fn fail_writes_of(&mut self, lba: u64) {
        self.bad_writes.insert(lba);
    }

    /// Every flush fails from now on, and makes nothing durable.
    pub fn fail_flushes(&mut self, fail: bool) {
        self.flush_fails = fail;
    }

    /// Takes back every injected error.
    pub fn heal(&mut self) {
        self.bad_reads.clear();
        self.bad_writes.clear();
        self.flush_fails = false;
    }

    /// Loses power: what was not flushed is gone.
    pub fn crash(&mut self) {
        self.cached.clear();
    }

    /// Loses power as real disks do: of what was not flushed, a seeded choice of sectors survives.
    pub fn crash_keeping_some(&mut self, seed: u64) {
        let mut rng = Rng::new(seed);
        for (lba, sector) in std::mem::take(&mut self.cached) {
            if rng.below(2) == 0 {
                self.make_durable(lba, &sector);
            }
        }
    }

    /// Sectors written and not yet durable.
    pub fn unflushed(&self) -> usize {
        self.cached.len()
    }

    /// Successful flushes so far.
    pub fn flushes(&self) -> u64 {
        self.flushes
    }

    /// What would survive `crash()`, byte by byte.
    pub fn durable(&self) -> &[u8] {
        &self.durable
    }

    /// What a reader sees now, unflushed writes included.
    pub fn contents(&self) -> Vec<u8> {
        let mut all = self.clone();
        for (lba, sector) in std::mem::take(&mut all.cached) {
            all.make_durable(lba, &sector);
        }
        all.durable
    }

    fn make_durable(&mut self, lba: u64, sector: &[u8]) {
        let at = lba as usize * self.sector_size as usize;
        self.durable[at..at + sector.len()].copy_from_slice(sector);
    }

    fn bad_sector(&self, bad: &BTreeSet<u64>, lba: u64, bytes: usize) -> Result<(), DiskError> {
        let end = lba + bytes as u64 / u64::from(self.sector_size);
        match bad.range(lba..end).next() {
            Some(&lba) => Err(DiskError::Medium { lba }),
            None => Ok(()),
        }
    }
}

impl Disk for MemDisk {
    fn sectors(&self) -> u64 {
        self.durable.len() as u64 / u64::from(self.sector_size)
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, lba: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.check(lba, into.len())?;
        self.bad_sector(&self.bad_reads, lba, into.len())?;
        let size = self.sector_size as usize;
        let at = lba as usize * size;
        into.copy_from_slice(&self.durable[at..at + into.len()]);
        for (&sector, bytes) in self.cached.range(lba..lba + (into.len() / size) as u64) {
            let at = (sector - lba) as usize * size;
            into[at..at + size].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn write(&mut self, lba: u64, from: &[u8]) -> Result<(), DiskError> {
        if self.read_only {
            return Err(DiskError::ReadOnly);
        }
        self.check(lba, from.len())?;
        self.bad_sector(&self.bad_writes, lba, from.len())?;
        for (lba, sector) in (lba..).zip(from.chunks(self.sector_size as usize)) {
            self.cached.insert(lba, sector.to_vec());
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        if self.flush_fails {
            return Err(DiskError::Medium { lba: 0 });
        }
        for (lba, sector) in std::mem::take(&mut self.cached) {
            self.make_durable(lba, &sector);
        }
        self.flushes += 1;
        Ok(())
    }
}
