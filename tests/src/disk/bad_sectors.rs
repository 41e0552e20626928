//! A disk with bad sectors, around any other.

use super::{Disk, DiskError};
use std::collections::BTreeSet;

/// A disk some of whose sectors cannot be read or written.
pub struct BadSectors<D> {
    disk: D,
    bad: BTreeSet<u64>,
}

impl<D: Disk> BadSectors<D> {
    /// `disk`, of which every access to a sector in `bad` fails.
    pub fn new(disk: D, bad: impl IntoIterator<Item = u64>) -> Self {
        BadSectors {
            disk,
            bad: bad.into_iter().collect(),
        }
    }

    fn touched(&self, lba: u64, bytes: usize) -> Result<(), DiskError> {
        self.disk.check(lba, bytes)?;
        let end = lba + bytes as u64 / u64::from(self.disk.sector_size());
        match self.bad.range(lba..end).next() {
            Some(&lba) => Err(DiskError::Medium { lba }),
            None => Ok(()),
        }
    }
}

impl<D: Disk> Disk for BadSectors<D> {
    fn sectors(&self) -> u64 {
        self.disk.sectors()
    }
    fn sector_size(&self) -> u32 {
        self.disk.sector_size()
    }
    fn read_only(&self) -> bool {
        self.disk.read_only()
    }
    fn read(&mut self, lba: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.touched(lba, into.len())?;
        self.disk.read(lba, into)
    }
    fn write(&mut self, lba: u64, from: &[u8]) -> Result<(), DiskError> {
        self.touched(lba, from.len())?;
        self.disk.write(lba, from)
    }
    fn flush(&mut self) -> Result<(), DiskError> {
        self.disk.flush()
    }
}
