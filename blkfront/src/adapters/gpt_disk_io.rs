//! [`gpt_disk_io`]'s [`BlockIo`] for a [`Disk`]: its blocks are the disk's own sectors.

use crate::block::Block;
use crate::blocking::{Disk, DiskError};
use crate::limits::SECTOR;
use gpt_disk_io::BlockIo;
use gpt_disk_io::gpt_disk_types::{BlockSize, Lba};

impl<B: Block + ?Sized> Disk<'_, B> {
    /// Sectors of 512 bytes in one of the disk's own.
    fn scale(&self) -> u64 {
        (self.limits().sector_size as usize / SECTOR).max(1) as u64
    }
}

impl<B: Block + ?Sized> BlockIo for Disk<'_, B> {
    type Error = DiskError;

    fn block_size(&self) -> BlockSize {
        BlockSize::new(self.limits().sector_size).unwrap_or(BlockSize::BS_512)
    }

    fn num_blocks(&mut self) -> Result<u64, DiskError> {
        let sectors = self.limits().sectors;
        Ok(sectors.checked_div(self.scale()).unwrap_or(0))
    }

    fn read_blocks(&mut self, start: Lba, into: &mut [u8]) -> Result<(), DiskError> {
        // One that does not fit is beyond the end, which is refused.
        self.read_into(start.to_u64().saturating_mul(self.scale()), into)
    }

    fn write_blocks(&mut self, start: Lba, from: &[u8]) -> Result<(), DiskError> {
        self.write_from(start.to_u64().saturating_mul(self.scale()), from)
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        Disk::flush(self)
    }
}
