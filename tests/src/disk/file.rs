//! A disk in a file.

use super::{Disk, DiskError};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

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
