//! What stands behind a simulated block device: sectors that can be read, written, flushed, lost.
//!
//! A host model owns a `Box<dyn Disk + Send>`. A test that wants to look at the disk, or crash it,
//! while the host uses it keeps one clone of an `Arc<Mutex<MemDisk>>` and gives the host the other:
//!
//! ```
//! use pv_tests::disk::{Disk, MemDisk};
//! use std::sync::{Arc, Mutex};
//!
//! let mine = Arc::new(Mutex::new(MemDisk::new(64, 512)));
//! let mut hosts: Box<dyn Disk + Send> = Box::new(mine.clone());
//! hosts.write(3, &[7; 512]).unwrap();
//! mine.lock().unwrap().crash(); // never flushed, so lost
//! let mut sector = [0; 512];
//! hosts.read(3, &mut sector).unwrap();
//! assert_eq!(sector, [0; 512]);
//! ```

mod bad_sectors;
mod file;
mod in_flight;
mod mem;

pub use bad_sectors::BadSectors;
pub use file::FileDisk;
pub use in_flight::{InFlight, Latency};
pub use mem::MemDisk;
use std::sync::{Arc, Mutex, PoisonError};

/// Why a disk could not do what it was asked. `lba` is the first sector concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskError {
    /// The range does not lie inside the disk, or is not a whole number of sectors.
    OutOfRange { lba: u64 },
    /// A write to a read-only disk.
    ReadOnly,
    /// The medium refused this sector (an injected error, or the backing file's).
    Medium { lba: u64 },
}

/// A random-access store of sectors. `lba` counts this disk's own sectors of `sector_size()` bytes;
/// buffers are a whole number of sectors.
pub trait Disk {
    /// Sectors on the disk, in units of `sector_size()`.
    fn sectors(&self) -> u64;
    /// Bytes in a sector: 512 or 4096.
    fn sector_size(&self) -> u32;
    /// Whether every write is refused.
    fn read_only(&self) -> bool;
    /// Reads whole sectors. What was written and not yet flushed is seen.
    fn read(&mut self, lba: u64, into: &mut [u8]) -> Result<(), DiskError>;
    /// Writes whole sectors into the volatile cache.
    fn write(&mut self, lba: u64, from: &[u8]) -> Result<(), DiskError>;
    /// Makes every completed write durable.
    fn flush(&mut self) -> Result<(), DiskError>;

    /// Bytes on the disk.
    fn bytes(&self) -> u64 {
        self.sectors() * u64::from(self.sector_size())
    }

    /// Whether `bytes` from sector `lba` on are whole sectors inside the disk.
    fn check(&self, lba: u64, bytes: usize) -> Result<(), DiskError> {
        let size = self.sector_size() as usize;
        let end = lba.checked_add((bytes / size) as u64);
        match end {
            Some(end) if end <= self.sectors() && bytes.is_multiple_of(size) => Ok(()),
            _ => Err(DiskError::OutOfRange { lba }),
        }
    }
}

impl<D: Disk + ?Sized> Disk for Arc<Mutex<D>> {
    fn sectors(&self) -> u64 {
        self.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sectors()
    }
    fn sector_size(&self) -> u32 {
        self.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sector_size()
    }
    fn read_only(&self) -> bool {
        self.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read_only()
    }
    fn read(&mut self, lba: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read(lba, into)
    }
    fn write(&mut self, lba: u64, from: &[u8]) -> Result<(), DiskError> {
        self.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(lba, from)
    }
    fn flush(&mut self) -> Result<(), DiskError> {
        self.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

#[cfg(test)]
mod tests;
