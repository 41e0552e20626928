//! What the FAT library is given to read: one partition as a small disk of its own, with a cache.

use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use embedded_sdmmc::{Block, BlockCount, BlockDevice, BlockIdx};

use super::{BLOCK, Extent};
use crate::disk::{DiskError, JobDisk};

/// Bytes of a cached run, a multiple of both sector sizes.
const WINDOW: u64 = 32 << 10;
/// Runs cached: a directory, the table and a file are read by turns.
const WINDOWS: usize = 8;

/// One partition as a disk of 512-byte blocks: block 0 is an MBR made up for the library, the partition follows.
pub struct View<'a>(RefCell<Cache<'a>>);

impl<'a> View<'a> {
    /// A view of so many 512-byte blocks from the extent's start on.
    pub fn new(disk: &'a mut dyn JobDisk, extent: Extent, blocks: u64) -> Self {
        Self(RefCell::new(Cache {
            disk,
            extent,
            blocks,
            windows: Vec::new(),
            left: 0,
        }))
    }

    /// Lets so many blocks be read from now on, times the blocks there are, and some.
    pub fn allow(&self, times: u64) {
        if let Ok(mut cache) = self.0.try_borrow_mut() {
            cache.left = cache.blocks.saturating_mul(times).saturating_add(65_536);
        }
    }
}

impl View<'_> {
    /// Whether more was to be read than was let.
    pub fn is_spent(&self) -> bool {
        self.0.try_borrow().is_ok_and(|cache| cache.left == 0)
    }
}

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
