//! A file system that is open for reading.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::ControlFlow;

use embedded_sdmmc::{
    Block, BlockDevice, DirEntry, LfnBuffer, Mode, RawDirectory, RawFile, ShortFileName,
    TimeSource, Timestamp, VolumeIdx, VolumeManager,
};

use super::view::View;
use super::{BLOCK, Extent, FatError, check_boot_sector};
use crate::disk::{DiskError, JobDisk};

/// Directories inside each other that are followed.
const DEEPEST: usize = 16;
/// Files that are listed.
const MOST_FILES: usize = 1024;
/// Files kept open.
const OPEN: usize = 8;

type Manager<'a> = VolumeManager<View<'a>, NoTime, { DEEPEST + 1 }, OPEN, 1>;

/// A file, and the way to it.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// Its path from the root, with `/` between names.
    pub path: String,
    /// Its size in bytes.
    pub size: u32,
    directories: Vec<ShortFileName>,
    name: ShortFileName,
}

/// A file system that is open for reading.
pub struct Volume<'a> {
    manager: Manager<'a>,
    root: RawDirectory,
    /// Files that are open, the one used last at the end: the library opens none twice.
    open: Vec<(String, RawFile)>,
}

fn library(error: &dyn fmt::Display) -> FatError {
    FatError::Library(alloc::format!("{error}"))
}

impl<'a> Volume<'a> {
    /// Opens the file system in an extent of a disk.
    ///
    /// # Errors
    /// [`FatError`].
    pub fn open(disk: &'a mut dyn JobDisk, extent: Extent) -> Result<Self, FatError> {
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
        view.allow(1);
        let manager: Manager<'_> = VolumeManager::new_with_limits(view, NoTime, 0);
        let volume = manager
            .open_raw_volume(VolumeIdx(0))
            .map_err(|error| library(&error))?;
        let root = manager
            .open_root_dir(volume)
            .map_err(|error| library(&error))?;
        Ok(Self {
            manager,
            root,
            open: Vec::new(),
        })
    }

    /// All files, in directory order.
    ///
    /// # Errors
    /// [`FatError`].
    pub fn list(&self) -> Result<Vec<Entry>, FatError> {
        self.manager.device(|view| view.allow(16));
        let mut entries = Vec::new();
        walk(&self.manager, self.root, &Way::default(), &mut entries)?;
        // To the library, a chain it cannot read on has ended.
        if self.manager.device(|view| view.is_spent()) {
            return Err(FatError::Library(
                "a chain of clusters leads back to itself".into(),
            ));
        }
        Ok(entries)
    }

    /// Fills `into` with a file's bytes from `offset` on, as far as there are any; how many there were, which is
    /// none only when `into` is empty or the offset is not in the file.
    ///
    /// # Errors
    /// [`FatError`], among them that the file is shorter than its directory says.
    pub fn read(&mut self, entry: &Entry, offset: u32, into: &mut [u8]) -> Result<usize, FatError> {
        let left = entry.size.saturating_sub(offset) as usize;
        let most = left.min(into.len());
        let into = into.get_mut(..most).unwrap_or_default();
        if into.is_empty() {
            return Ok(0);
        }
        self.manager.device(|view| view.allow(2));
        let file = self.file(entry)?;
        self.manager
            .file_seek_from_start(file, offset)
            .map_err(|error| library(&error))?;
        let mut read = 0_usize;
        while let Some(rest) = into.get_mut(read..).filter(|rest| !rest.is_empty()) {
            let more = self.manager.read(file, rest);
            match more.map_err(|error| library(&error))? {
                0 => return Err(FatError::Library("a file ends early".into())),
                more => read = read.saturating_add(more),
            }
        }
        Ok(read)
    }

    /// An open file.
    fn file(&mut self, entry: &Entry) -> Result<RawFile, FatError> {
        let known = self.open.iter().position(|(path, _)| *path == entry.path);
        let opened = match known {
            Some(index) => self.open.remove(index),
            None => {
                if self.open.len() >= OPEN {
                    let (_, oldest) = self.open.remove(0);
                    self.manager
                        .close_file(oldest)
                        .map_err(|error| library(&error))?;
                }
                (entry.path.clone(), self.open_file(entry)?)
            }
        };
        let file = opened.1;
        self.open.push(opened);
        Ok(file)
    }

    fn open_file(&self, entry: &Entry) -> Result<RawFile, FatError> {
        let mut at = self.root;
        let mut outcome = Ok(());
        let mut on_the_way = Vec::new();
        for name in &entry.directories {
            match self.manager.open_dir(at, *name) {
                Ok(next) => at = next,
                Err(error) => {
                    outcome = Err(library(&error));
                    break;
                }
            }
            on_the_way.push(at);
        }
        let file = outcome.and_then(|()| {
            self.manager
                .open_file_in_dir(at, entry.name, Mode::ReadOnly)
                .map_err(|error| library(&error))
        });
        for directory in on_the_way {
            let _ = self.manager.close_dir(directory);
        }
        file
    }
}

/// Where a walk is.
#[derive(Clone, Default)]
struct Way {
    path: String,
    directories: Vec<ShortFileName>,
}

fn walk(
    manager: &Manager<'_>,
    directory: RawDirectory,
    way: &Way,
    found: &mut Vec<Entry>,
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
        let name = match long {
            Some(long) => long,
            None => short_name(manager, &entry).map_err(|error| library(&error))?,
        };
        let path = if way.path.is_empty() {
            name
        } else {
            [&way.path, "/", &name].concat()
        };
        if entry.attributes.is_directory() {
            if way.directories.len() >= DEEPEST {
                return Err(FatError::TooMany);
            }
            let inner = manager
                .open_dir(directory, entry.name)
                .map_err(|error| library(&error))?;
            let mut directories = way.directories.clone();
            directories.push(entry.name);
            walk(manager, inner, &Way { path, directories }, found)?;
            manager.close_dir(inner).map_err(|error| library(&error))?;
        } else {
            if found.len() >= MOST_FILES {
                return Err(FatError::TooMany);
            }
            found.push(Entry {
                path,
                size: entry.size,
                directories: way.directories.clone(),
                name: entry.name,
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

/// No clock: nothing is written.
struct NoTime;

impl TimeSource for NoTime {
    fn get_timestamp(&self) -> Timestamp {
        Timestamp::from_fat(0, 0)
    }
}
