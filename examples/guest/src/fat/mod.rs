//! Files of a FAT file system, through `embedded-sdmmc`.
//!
//! That library reads one 512-byte block at a time and takes the volume's numbers on trust. So it is given a view
//! of one partition with a small cache below it, after the numbers that it divides by were looked at, and with a
//! limit on how much it may read.

mod view;

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::ControlFlow;

use embedded_sdmmc::{
    Block, BlockDevice, DirEntry, LfnBuffer, Mode, RawDirectory, ShortFileName, TimeSource,
    Timestamp, VolumeIdx, VolumeManager,
};
use view::View;

use crate::disk::{DiskError, JobDisk};
use crate::hash::Sha256;
use crate::report::File;

/// Directories inside each other that are followed.
const DEEPEST: usize = 16;
/// Files that are listed.
const MOST_FILES: usize = 1024;
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
    let geometry = disk.geometry();
    let mut sector = vec![0; geometry.sector_bytes()];
    disk.read(extent.first, &mut sector)
        .map_err(|error| library(&error))?;
    let blocks = extent
        .sectors
        .saturating_mul(u64::from(geometry.sector_size))
        .checked_div(BLOCK)
        .unwrap_or(0);
    check_boot_sector(&sector, blocks)?;
    let view = View::new(disk, extent, blocks);
    let manager: Manager<'_> = VolumeManager::new_with_limits(view, NoTime, 0);
    let volume = manager
        .open_raw_volume(VolumeIdx(0))
        .map_err(|error| library(&error))?;
    let root = manager
        .open_root_dir(volume)
        .map_err(|error| library(&error))?;
    let mut files = Vec::new();
    walk(&manager, root, "", DEEPEST, &mut files)?;
    Ok(files)
}

type Manager<'a> = VolumeManager<View<'a>, NoTime, { DEEPEST + 1 }, 1, 1>;

fn library(error: &dyn fmt::Display) -> FatError {
    FatError::Library(alloc::format!("{error}"))
}

fn walk(
    manager: &Manager<'_>,
    directory: RawDirectory,
    path: &str,
    deeper: usize,
    files: &mut Vec<File>,
) -> Result<(), FatError> {
    let mut names: Vec<(DirEntry, Option<String>)> = Vec::new();
    let mut storage = [0; 768];
    let mut long_name = LfnBuffer::new(&mut storage);
    let listed = manager.iterate_dir_lfn(directory, &mut long_name, |entry, long| {
        let name = &entry.name;
        let own = *name == ShortFileName::this_dir() || *name == ShortFileName::parent_dir();
        if !own && !entry.attributes.is_volume() {
            names.push((entry.clone(), long.map(String::from)));
        }
        if names.len() > MOST_FILES {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    listed.map_err(|error| library(&error))?;
    if names.len() > MOST_FILES {
        return Err(FatError::TooMany);
    }
    for (entry, long) in names {
        let (short, size) = (entry.name, entry.size);
        let name = match long {
            Some(long) => long,
            None => short_name(manager, &entry).map_err(|error| library(&error))?,
        };
        let path = if path.is_empty() {
            name
        } else {
            [path, "/", &name].concat()
        };
        if entry.attributes.is_directory() {
            let deeper = deeper.checked_sub(1).ok_or(FatError::TooMany)?;
            let inner = manager
                .open_dir(directory, short)
                .map_err(|error| library(&error))?;
            walk(manager, inner, &path, deeper, files)?;
            manager.close_dir(inner).map_err(|error| library(&error))?;
        } else {
            if files.len() >= MOST_FILES {
                return Err(FatError::TooMany);
            }
            let sha256 = digest(manager, directory, &short, size)?;
            files.push(File {
                path,
                size: u64::from(size),
                sha256,
            });
        }
    }
    Ok(())
}

/// A name without a long form. Its letters are capitals on the disk; two bits that Windows NT began to use, and
/// that the library does not show, say which part is meant in small ones.
fn short_name(manager: &Manager<'_>, entry: &DirEntry) -> Result<String, DiskError> {
    const FLAGS: usize = 12;
    const SMALL_BASE: u8 = 0x08;
    const SMALL_EXTENSION: u8 = 0x10;
    let mut block = [Block::new()];
    manager.device(|view| BlockDevice::read(view, &mut block, entry.entry_block))?;
    let at = (entry.entry_offset as usize).saturating_add(FLAGS);
    let [block] = block;
    let flags = block.contents.get(at).copied().unwrap_or(0);
    let name = entry.name.to_string();
    let (base, extension) = name.split_once('.').unwrap_or((&name, ""));
    let case = |text: &str, small: u8| match flags & small {
        0 => text.to_string(),
        _ => text.to_ascii_lowercase(),
    };
    let mut name = case(base, SMALL_BASE);
    if !extension.is_empty() {
        name.push('.');
        name.push_str(&case(extension, SMALL_EXTENSION));
    }
    Ok(name)
}

fn digest(
    manager: &Manager<'_>,
    directory: RawDirectory,
    name: &ShortFileName,
    size: u32,
) -> Result<String, FatError> {
    let file = manager
        .open_file_in_dir(directory, name, Mode::ReadOnly)
        .map_err(|error| library(&error))?;
    let mut sha = Sha256::new();
    let mut buffer = vec![0; 4096];
    let mut left = size as usize;
    while left > 0 {
        let read = manager
            .read(file, &mut buffer)
            .map_err(|error| library(&error))?;
        let bytes = buffer.get(..read.min(left)).unwrap_or_default();
        if bytes.is_empty() {
            return Err(FatError::Library("a file ends early".into()));
        }
        sha.update(bytes);
        left = left.saturating_sub(bytes.len());
    }
    manager.close_file(file).map_err(|error| library(&error))?;
    Ok(sha.hex())
}

/// No clock: nothing is written.
struct NoTime;

impl TimeSource for NoTime {
    fn get_timestamp(&self) -> Timestamp {
        Timestamp::from_fat(0, 0)
    }
}
