//! Files of a FAT file system, through `embedded-sdmmc`.
//!
//! That library reads one 512-byte block at a time and takes the volume's numbers on trust. So it is given a view
//! of one partition with a small cache below it, after the numbers that it divides by were looked at, and with a
//! limit on how much it may read.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::ops::ControlFlow;

use embedded_sdmmc::{
    Block, BlockCount, BlockDevice, BlockIdx, LfnBuffer, Mode, RawDirectory, ShortFileName,
    TimeSource, Timestamp, VolumeIdx, VolumeManager,
};

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
    let view = View(RefCell::new(Cache {
        disk,
        extent,
        blocks,
        windows: Vec::new(),
        left: blocks.saturating_mul(16).saturating_add(65_536),
    }));
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
    let mut names: Vec<(ShortFileName, String, bool, u32)> = Vec::new();
    let mut storage = [0; 768];
    let listed = manager.iterate_dir_lfn(
        directory,
        &mut LfnBuffer::new(&mut storage),
        |entry, long| {
            let own = entry.name == ShortFileName::this_dir()
                || entry.name == ShortFileName::parent_dir();
            if !own && !entry.attributes.is_volume() {
                let name = long.map_or_else(|| alloc::format!("{}", entry.name), String::from);
                names.push((
                    entry.name,
                    name,
                    entry.attributes.is_directory(),
                    entry.size,
                ));
            }
            if names.len() > MOST_FILES {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
    listed.map_err(|error| library(&error))?;
    if names.len() > MOST_FILES {
        return Err(FatError::TooMany);
    }
    for (short, name, is_directory, size) in names {
        let path = if path.is_empty() {
            name
        } else {
            [path, "/", &name].concat()
        };
        if is_directory {
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

/// Bytes of a cached run, a multiple of both sector sizes.
const WINDOW: u64 = 32 << 10;
/// Runs cached: a directory, the table and a file are read by turns.
const WINDOWS: usize = 4;

/// One partition as a disk of 512-byte blocks: block 0 is an MBR made up for the library, the partition follows.
struct View<'a>(RefCell<Cache<'a>>);

struct Cache<'a> {
    disk: &'a mut dyn JobDisk,
    extent: Extent,
    /// Blocks of 512 bytes in the extent.
    blocks: u64,
    /// Byte offset in the extent and contents, the one used last at the end.
    windows: Vec<(u64, Vec<u8>)>,
    /// Blocks that may still be read: a loop in the file system's chains must end.
    left: u64,
}

/// The first block of the partition in the view.
const FIRST: u32 = 1;

impl Cache<'_> {
    fn read(&mut self, index: u32, block: &mut Block) -> Result<(), DiskError> {
        self.left = self.left.checked_sub(1).ok_or(DiskError::OutOfRange)?;
        let Some(index) = index.checked_sub(FIRST) else {
            *block = self.made_up_mbr();
            return Ok(());
        };
        if u64::from(index) >= self.blocks {
            return Err(DiskError::OutOfRange);
        }
        let at = u64::from(index).saturating_mul(BLOCK);
        let offset = at.checked_rem(WINDOW).unwrap_or(0);
        let window = self.window(at.saturating_sub(offset))?;
        let bytes = window
            .get(offset as usize..)
            .and_then(|rest| rest.first_chunk());
        block.contents = *bytes.ok_or(DiskError::OutOfRange)?;
        Ok(())
    }

    fn window(&mut self, at: u64) -> Result<&[u8], DiskError> {
        match self.windows.iter().position(|(start, _)| *start == at) {
            Some(found) => {
                let window = self.windows.remove(found);
                self.windows.push(window);
            }
            None => {
                let size = u64::from(self.disk.geometry().sector_size);
                let skipped = at.checked_div(size).unwrap_or(0);
                let left = self
                    .extent
                    .sectors
                    .saturating_sub(skipped)
                    .saturating_mul(size);
                let mut bytes = vec![0; left.min(WINDOW) as usize];
                let sector = self.extent.first.saturating_add(skipped);
                self.disk.read(sector, &mut bytes)?;
                if self.windows.len() >= WINDOWS {
                    self.windows.remove(0);
                }
                self.windows.push((at, bytes));
            }
        }
        let window = self.windows.last().ok_or(DiskError::Memory)?;
        Ok(&window.1)
    }

    fn made_up_mbr(&self) -> Block {
        const FAT32_LBA: u8 = 0x0c;
        let count = u32::try_from(self.blocks).unwrap_or(u32::MAX);
        let mut block = Block::new();
        let [entry @ .., _, _] = &mut block.contents;
        let fields = [
            &[0, 0, 0, 0, FAT32_LBA, 0, 0, 0][..],
            &FIRST.to_le_bytes(),
            &count.to_le_bytes(),
        ];
        let bytes = fields.into_iter().flatten();
        entry
            .iter_mut()
            .skip(446)
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        let [.., low, high] = &mut block.contents;
        (*low, *high) = (0x55, 0xaa);
        block
    }
}

impl BlockDevice for View<'_> {
    type Error = DiskError;

    fn read(&self, blocks: &mut [Block], start: BlockIdx) -> Result<(), DiskError> {
        let mut cache = self.0.try_borrow_mut().map_err(|_| DiskError::Io)?;
        for (index, block) in (start.0..).zip(blocks) {
            cache.read(index, block)?;
        }
        Ok(())
    }

    fn write(&self, _: &[Block], _: BlockIdx) -> Result<(), DiskError> {
        Err(DiskError::ReadOnly)
    }

    fn num_blocks(&self) -> Result<BlockCount, DiskError> {
        let cache = self.0.try_borrow().map_err(|_| DiskError::Io)?;
        let blocks = cache.blocks.saturating_add(u64::from(FIRST));
        u32::try_from(blocks)
            .map(BlockCount)
            .map_err(|_| DiskError::OutOfRange)
    }
}
