//! Files of a FAT file system, through `embedded-sdmmc`.
//!
//! That library reads one 512-byte block at a time and takes the volume's numbers on trust. So it is given a view
//! of one partition with a small cache below it, after the numbers that it divides by were looked at, and with a
//! limit on how much it may read.

mod view;
mod volume;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use embedded_sdmmc::Block;
pub use volume::{Entry, Volume};

use crate::disk::{DiskError, JobDisk};
use crate::hash::Sha256;
use crate::report::File;

/// Bytes in a FAT block, whatever the disk's sectors are.
const BLOCK: u64 = Block::LEN as u64;

/// Why a file system cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FatError {
    /// The boot sector has no FAT signature.
    NoSignature,
    /// The boot sector's numbers contradict each other or the partition.
    BadNumbers,
    /// Its blocks are not of 512 bytes.
    BlockSize(u16),
    /// It has more files or deeper directories than are followed.
    TooMany,
    /// What the library or the disk says.
    Library(String),
}

impl fmt::Display for FatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSignature => {
                f.write_str("wrong magic: the boot sector is not a FAT file system's")
            }
            Self::BadNumbers => f.write_str("the FAT boot sector makes no sense"),
            Self::BlockSize(bytes) => write!(f, "FAT blocks of {bytes} bytes are not supported"),
            Self::TooMany => {
                f.write_str("more files or deeper directories than this kernel follows")
            }
            Self::Library(error) => write!(f, "FAT: {error}"),
        }
    }
}

impl core::error::Error for FatError {}

/// Whether a sector looks like the first one of a FAT file system.
pub fn is_boot_sector(sector: &[u8]) -> bool {
    sector.get(510..512) == Some(&[0x55, 0xaa])
        && [54, 82]
            .iter()
            .any(|&at| sector.get(at..).is_some_and(|s| s.starts_with(b"FAT")))
}

/// Looks at the numbers that the library relies on (Microsoft's FAT specification, boot sector and BPB).
fn check_boot_sector(sector: &[u8], blocks: u64) -> Result<(), FatError> {
    if !is_boot_sector(sector) {
        return Err(FatError::NoSignature);
    }
    let byte = |at: usize| u32::from(sector.get(at).copied().unwrap_or(0));
    let word = |at: usize| byte(at) | byte(at.saturating_add(1)) << 8;
    let long = |at: usize| u64::from(word(at) | word(at.saturating_add(2)) << 16);
    let either = |short: u32, long: u64| if short == 0 { long } else { u64::from(short) };
    if word(11) != Block::LEN_U32 {
        return Err(FatError::BlockSize(word(11) as u16));
    }
    let (per_cluster, tables) = (byte(13), byte(16));
    let total = either(word(19), long(32));
    let table = either(word(22), long(36));
    let root = u64::from(word(17)).saturating_mul(32).div_ceil(BLOCK);
    let taken = u64::from(tables)
        .saturating_mul(table)
        .saturating_add(u64::from(word(14)))
        .saturating_add(root);
    let sound = per_cluster.is_power_of_two()
        && (1..=2).contains(&tables)
        && taken < total
        && total <= blocks
        && total < u64::from(u32::MAX);
    if sound {
        Ok(())
    } else {
        Err(FatError::BadNumbers)
    }
}

/// A run of sectors that may hold a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First sector.
    pub first: u64,
    /// How many.
    pub sectors: u64,
}

/// Whether an extent starts with a FAT boot sector.
///
/// # Errors
/// [`DiskError`] when the disk cannot be read.
pub fn is_fat(disk: &mut dyn JobDisk, extent: Extent) -> Result<bool, DiskError> {
    let mut sector = vec![0; disk.geometry().sector_bytes()];
    disk.read(extent.first, &mut sector)?;
    Ok(is_boot_sector(&sector))
}

/// Lists all files in an extent's file system, with the SHA-256 of each, in directory order.
///
/// # Errors
/// [`FatError`].
pub fn files(disk: &mut dyn JobDisk, extent: Extent) -> Result<Vec<File>, FatError> {
    let mut volume = Volume::open(disk, extent)?;
    let entries = volume.list()?;
    let mut files = Vec::with_capacity(entries.len());
    for entry in entries {
        let sha256 = digest(&mut volume, &entry)?;
        files.push(File {
            path: entry.path,
            size: u64::from(entry.size),
            sha256,
        });
    }
    Ok(files)
}

fn digest(volume: &mut Volume<'_>, entry: &Entry) -> Result<String, FatError> {
    let mut sha = Sha256::new();
    let mut buffer = vec![0; 32 << 10];
    let mut at = 0_u32;
    while at < entry.size {
        let most = (entry.size.saturating_sub(at) as usize).min(buffer.len());
        let read = volume.read(entry, at, buffer.get_mut(..most).unwrap_or_default())?;
        sha.update(buffer.get(..read).unwrap_or_default());
        at = at.saturating_add(read as u32);
    }
    Ok(sha.hex())
}
