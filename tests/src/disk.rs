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

use crate::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
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

/// A disk in a file: raw, or a fixed VHD whose footer is kept out of sight.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    bytes: u64,
    sector_size: u32,
    read_only: bool,
}

impl FileDisk {
    /// Opens `path` for 512-byte sectors. A file that ends in a VHD footer (Microsoft "Virtual Hard
    /// Disk Image Format Specification" 1.0, cookie "conectix") must be of the fixed type; its size
    /// is then the footer's.
    pub fn open(path: &Path, read_only: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(!read_only).open(path)?;
        let length = file.metadata()?.len();
        let bytes = vhd_size(&file, length)?.unwrap_or(length);
        Ok(FileDisk {
            file,
            bytes: bytes / 512 * 512,
            sector_size: 512,
            read_only,
        })
    }

    /// The same contents seen through sectors of `sector_size` (512 or 4096) bytes.
    pub fn with_sector_size(mut self, sector_size: u32) -> Self {
        assert!(
            sector_size == 512 || sector_size == 4096,
            "512 or 4096 bytes a sector"
        );
        self.sector_size = sector_size;
        self
    }
}

/// The data size a fixed VHD's footer states, `None` where there is no footer.
fn vhd_size(file: &File, length: u64) -> io::Result<Option<u64>> {
    const FIXED: u32 = 2;
    let Some(data_end) = length.checked_sub(512) else {
        return Ok(None);
    };
    let mut footer = [0; 512];
    file.read_exact_at(&mut footer, data_end)?;
    if !footer.starts_with(b"conectix") {
        return Ok(None);
    }
    let word = |at: usize| u32::from_be_bytes(footer[at..at + 4].try_into().unwrap_or_default());
    let size = u64::from(word(48)) << 32 | u64::from(word(52));
    if word(60) != FIXED || size > data_end {
        return Err(io::Error::other(
            "a VHD, but not a fixed one that fits its file",
        ));
    }
    Ok(Some(size))
}

impl Disk for FileDisk {
    fn sectors(&self) -> u64 {
        self.bytes / u64::from(self.sector_size)
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, lba: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.check(lba, into.len())?;
        let at = lba * u64::from(self.sector_size);
        self.file
            .read_exact_at(into, at)
            .map_err(|_| DiskError::Medium { lba })
    }

    fn write(&mut self, lba: u64, from: &[u8]) -> Result<(), DiskError> {
        if self.read_only {
            return Err(DiskError::ReadOnly);
        }
        self.check(lba, from.len())?;
        let at = lba * u64::from(self.sector_size);
        self.file
            .write_all_at(from, at)
            .map_err(|_| DiskError::Medium { lba })
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        if self.read_only {
            return Ok(());
        }
        self.file
            .sync_data()
            .map_err(|_| DiskError::Medium { lba: 0 })
    }
}

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

/// How long requests take and in which order they finish, in steps of the host that owns them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// Steps a request waits at least.
    pub min_steps: u64,
    /// Steps a request waits at most.
    pub max_steps: u64,
    /// Finish in a seeded order instead of the order of arrival.
    pub out_of_order: bool,
}

impl Latency {
    /// At once and in order.
    pub const NONE: Latency = Latency {
        min_steps: 0,
        max_steps: 0,
        out_of_order: false,
    };
}

/// Requests a back end has taken and not yet finished.
#[derive(Debug)]
pub struct InFlight<T> {
    latency: Latency,
    rng: Rng,
    /// Steps each still has to wait.
    waiting: Vec<(u64, T)>,
}

impl<T> InFlight<T> {
    /// The same seed finishes the same requests in the same order.
    pub fn new(latency: Latency, seed: u64) -> Self {
        InFlight {
            latency,
            rng: Rng::new(seed),
            waiting: Vec::new(),
        }
    }

    /// Changes what happens to requests that arrive from now on.
    pub fn set_latency(&mut self, latency: Latency) {
        self.latency = latency;
    }

    /// Takes a request in.
    pub fn push(&mut self, request: T) {
        let wait = self
            .rng
            .between(self.latency.min_steps, self.latency.max_steps);
        self.waiting.push((wait, request));
    }

    /// Lets one step pass.
    pub fn tick(&mut self) {
        for (wait, _) in &mut self.waiting {
            *wait = wait.saturating_sub(1);
        }
    }

    /// A request whose time has come, if any: the oldest, or a seeded choice when out of order.
    pub fn pop_due(&mut self) -> Option<T> {
        let due: Vec<usize> = (0..self.waiting.len())
            .filter(|&i| self.waiting[i].0 == 0)
            .collect();
        let chosen = if self.latency.out_of_order {
            *due.get(self.rng.below(due.len() as u64) as usize)?
        } else {
            // In order, a slow request holds up the ones behind it.
            *due.first().filter(|&&i| i == 0)?
        };
        Some(self.waiting.remove(chosen).1)
    }

    /// Gives all of them up, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|(_, request)| request)
    }

    /// Requests taken and not finished.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn unflushed_writes_are_seen_and_lost_on_crash() {
        let mut disk = MemDisk::new(16, 512);
        disk.write(2, &[1; 1024]).unwrap();
        disk.flush().unwrap();
        disk.write(3, &[2; 512]).unwrap();
        let mut two = [0; 1024];
        disk.read(2, &mut two).unwrap();
        assert_eq!((two[511], two[512]), (1, 2));
        assert_eq!(disk.contents()[3 * 512], 2);
        disk.crash();
        disk.read(2, &mut two).unwrap();
        assert_eq!((two[511], two[512]), (1, 1));
    }

    #[test]
    fn a_messy_crash_keeps_whole_sectors_and_is_repeatable() {
        let mut disk = MemDisk::new(64, 512);
        disk.write(0, &[9; 64 * 512]).unwrap();
        let mut again = disk.clone();
        disk.crash_keeping_some(5);
        again.crash_keeping_some(5);
        assert_eq!(disk.durable(), again.durable());
        let kept = disk
            .durable()
            .chunks(512)
            .filter(|s| s.iter().all(|&b| b == 9))
            .count();
        let lost = disk
            .durable()
            .chunks(512)
            .filter(|s| s.iter().all(|&b| b == 0))
            .count();
        assert_eq!(kept + lost, 64);
        assert!(kept > 0 && lost > 0);
    }

    #[test]
    fn errors_are_per_sector_and_ranges_are_checked() {
        let mut disk = MemDisk::new(8, 4096);
        disk.fail_reads_of(5);
        let mut one = [0; 4096];
        assert_eq!(
            disk.read(4, &mut [0; 8192]),
            Err(DiskError::Medium { lba: 5 })
        );
        assert_eq!(disk.read(4, &mut one), Ok(()));
        assert_eq!(
            disk.read(8, &mut one),
            Err(DiskError::OutOfRange { lba: 8 })
        );
        assert_eq!(
            disk.read(u64::MAX, &mut one),
            Err(DiskError::OutOfRange { lba: u64::MAX })
        );
        assert_eq!(
            disk.write(0, &[0; 512]),
            Err(DiskError::OutOfRange { lba: 0 })
        );
        disk.set_read_only(true);
        assert_eq!(disk.write(0, &one), Err(DiskError::ReadOnly));
        disk.heal();
        assert_eq!(disk.read(5, &mut one), Ok(()));
        let mut bad = BadSectors::new(disk, [7]);
        assert_eq!(bad.read(6, &mut one), Ok(()));
        assert_eq!(
            bad.read(6, &mut [0; 8192]),
            Err(DiskError::Medium { lba: 7 })
        );
    }

    #[test]
    fn a_fixed_vhd_footer_is_out_of_sight() {
        let path = std::env::temp_dir().join(format!("pv-tests-disk-{}.vhd", std::process::id()));
        let mut footer = [0u8; 512];
        footer[..8].copy_from_slice(b"conectix");
        footer[48..56].copy_from_slice(&4096u64.to_be_bytes());
        footer[60..64].copy_from_slice(&2u32.to_be_bytes());
        let mut file = File::create(&path).unwrap();
        file.write_all(&[3; 4096]).unwrap();
        file.write_all(&footer).unwrap();
        let mut disk = FileDisk::open(&path, false).unwrap();
        assert_eq!(disk.sectors(), 8);
        disk.write(7, &[4; 512]).unwrap();
        disk.flush().unwrap();
        assert!(disk.write(8, &[4; 512]).is_err());
        drop(disk);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes[7 * 512 - 1], bytes[7 * 512]), (3, 4));
        assert_eq!(bytes[4096..], footer);
        footer[63] = 3; // dynamic: not ours
        std::fs::write(&path, [&[0u8; 4096][..], &footer].concat()).unwrap();
        assert!(FileDisk::open(&path, true).is_err());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn completions_follow_the_seed() {
        let order = |out_of_order| {
            let latency = Latency {
                min_steps: 0,
                max_steps: 5,
                out_of_order,
            };
            let mut flight = InFlight::new(latency, 1);
            (0..10).for_each(|i| flight.push(i));
            let mut done = Vec::new();
            while !flight.is_empty() {
                done.extend(flight.pop_due());
                flight.tick();
            }
            done
        };
        assert_eq!(order(false), (0..10).collect::<Vec<_>>());
        assert_eq!(order(true), order(true));
        assert_ne!(order(true), order(false));
    }
}
