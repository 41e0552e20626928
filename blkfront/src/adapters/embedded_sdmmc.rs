//! `embedded-sdmmc`'s [`BlockDevice`]: a disk of 512-byte blocks behind a shared reference.

use crate::block::Block as Queue;
use crate::blocking::{Disk, DiskError};
use crate::limits::SECTOR;
use crate::request::SubmitError;
use core::cell::RefCell;
use embedded_sdmmc_types::{Block, BlockCount, BlockDevice, BlockIdx};

/// Blocks moved at a time: as many as make a sector of the largest kind, and aligned as one; a power
/// of two.
const RUN: usize = 8;

/// A disk as `embedded-sdmmc` sees it. On one with sectors of 4096 bytes a write of less reads the
/// rest of its sector first.
#[derive(Debug)]
pub struct SharedDisk<'q, B: Queue + ?Sized>(RefCell<Disk<'q, B>>);

/// Part of an aligned run of blocks.
struct Part {
    /// The first sector that is moved, and how many.
    sector: u64,
    count: usize,
    /// Blocks to be passed over at the beginning of what is moved.
    skip: usize,
    /// Blocks that are meant.
    blocks: usize,
}

impl<'q, B: Queue + ?Sized> SharedDisk<'q, B> {
    /// Wraps a disk.
    pub fn new(disk: Disk<'q, B>) -> Self {
        Self(RefCell::new(disk))
    }

    /// The disk again.
    pub fn into_inner(self) -> Disk<'q, B> {
        self.0.into_inner()
    }

    /// Works on the disk, unless it is at work already.
    fn with<R>(
        &self,
        work: impl FnOnce(&mut Disk<'q, B>) -> Result<R, DiskError>,
    ) -> Result<R, DiskError> {
        let busy = DiskError::Refused(SubmitError::QueueFull);
        work(&mut *self.0.try_borrow_mut().map_err(|_| busy)?)
    }
}

/// The part of a transfer that lies in the run of blocks around `at`.
fn part(at: u64, left: usize, whole: bool) -> Part {
    let skip = (at & RUN.wrapping_sub(1) as u64) as usize;
    let blocks = left.min(RUN.wrapping_sub(skip));
    if whole {
        return Part {
            sector: at.wrapping_sub(skip as u64),
            count: RUN,
            skip,
            blocks,
        };
    }
    Part {
        sector: at,
        count: blocks,
        skip: 0,
        blocks,
    }
}

impl<B: Queue + ?Sized> BlockDevice for SharedDisk<'_, B> {
    type Error = DiskError;

    fn read(&self, blocks: &mut [Block], start: BlockIdx) -> Result<(), DiskError> {
        self.with(|disk| {
            let whole = disk.limits().sector_size as usize > SECTOR;
            let (mut at, mut rest) = (u64::from(start.0), blocks);
            let mut bytes = [[0; SECTOR]; RUN];
            while !rest.is_empty() {
                let part = part(at, rest.len(), whole);
                let run = bytes.get_mut(..part.count).unwrap_or_default();
                disk.read_into(part.sector, run.as_flattened_mut())?;
                let (now, later) = rest.split_at_mut_checked(part.blocks).unwrap_or_default();
                for (block, bytes) in now.iter_mut().zip(run.iter().skip(part.skip)) {
                    block.contents = *bytes;
                }
                at = at.saturating_add(part.blocks as u64);
                rest = later;
            }
            Ok(())
        })
    }

    fn write(&self, blocks: &[Block], start: BlockIdx) -> Result<(), DiskError> {
        self.with(|disk| {
            let whole = disk.limits().sector_size as usize > SECTOR;
            let (mut at, mut rest) = (u64::from(start.0), blocks);
            let mut bytes = [[0; SECTOR]; RUN];
            while !rest.is_empty() {
                let part = part(at, rest.len(), whole);
                let run = bytes.get_mut(..part.count).unwrap_or_default();
                if part.blocks < part.count {
                    disk.read_into(part.sector, run.as_flattened_mut())?;
                }
                let (now, later) = rest.split_at_checked(part.blocks).unwrap_or_default();
                for (block, bytes) in now.iter().zip(run.iter_mut().skip(part.skip)) {
                    *bytes = block.contents;
                }
                disk.write_from(part.sector, run.as_flattened())?;
                at = at.saturating_add(part.blocks as u64);
                rest = later;
            }
            Ok(())
        })
    }

    fn num_blocks(&self) -> Result<BlockCount, DiskError> {
        // What is beyond 2 TiB is out of this library's reach.
        let sectors = self.with(|disk| Ok(disk.limits().sectors))?;
        Ok(BlockCount(u32::try_from(sectors).unwrap_or(u32::MAX)))
    }
}
