//! [`block_device_driver`]'s [`BlockDevice`] over an [`AsyncQueue`]: several disks and tasks may use
//! one queue at once.

use crate::block::Block;
use crate::blocking::DiskError;
use crate::future::AsyncQueue;
use crate::limits::SECTOR;
use crate::request::{Request, SubmitError};
use aligned::{A1, Aligned};
use block_device_driver::{BlockDevice, blocks_to_slice, blocks_to_slice_mut};
use core::fmt;
use hypercall::shm::Buf;

/// One disk of a queue, with blocks of whatever multiple of its sectors is asked for.
pub struct AsyncDisk<'q, B: Block> {
    queue: &'q AsyncQueue<B>,
    unit: u8,
}

impl<B: Block> fmt::Debug for AsyncDisk<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncDisk")
            .field("unit", &self.unit)
            .finish_non_exhaustive()
    }
}

const MISALIGNED: DiskError = DiskError::Refused(SubmitError::Misaligned);

impl<'q, B: Block> AsyncDisk<'q, B> {
    /// Disk `unit` of the queue.
    ///
    /// # Errors
    /// [`SubmitError::NoSuchUnit`].
    pub fn new(queue: &'q AsyncQueue<B>, unit: u8) -> Result<Self, SubmitError> {
        queue.unit(unit).ok_or(SubmitError::NoSuchUnit)?;
        Ok(Self { queue, unit })
    }

    /// Bytes of one request at most, and at least.
    fn bounds(&self) -> Result<(usize, usize), DiskError> {
        let gone = DiskError::Refused(SubmitError::NoSuchUnit);
        let limits = self.queue.unit(self.unit).ok_or(gone)?.limits;
        let least = (limits.sector_size as usize).max(SECTOR);
        Ok(((limits.max_bytes as usize).max(least), least))
    }

    /// A buffer of up to `len` bytes, shorter while the pool is short.
    fn buffer(&self, len: usize, least: usize) -> Result<Buf, DiskError> {
        let mut len = len;
        loop {
            if let Some(buf) = self.queue.alloc(len) {
                return Ok(buf);
            }
            if len <= least {
                return Err(DiskError::OutOfBuffers);
            }
            len = (len / 2).next_multiple_of(least);
        }
    }

    async fn run(&self, request: Request) -> Result<Option<Buf>, DiskError> {
        let pending = self.queue.submit(request.on(self.unit));
        let pending = pending.map_err(|(why, _)| DiskError::Refused(why))?;
        let completion = pending.await.map_err(DiskError::Io)?;
        completion.result.map_err(DiskError::Io)?;
        Ok(completion.buf)
    }
}

/// The sector of a block of so many bytes.
fn first(block: u32, size: usize) -> Result<u64, DiskError> {
    let whole = size != 0 && size.is_multiple_of(SECTOR);
    let sectors = (size / SECTOR) as u64;
    let at = whole.then(|| u64::from(block).saturating_mul(sectors));
    at.ok_or(MISALIGNED)
}

impl<B: Block, const SIZE: usize> BlockDevice<SIZE> for AsyncDisk<'_, B> {
    type Error = DiskError;
    type Align = A1;

    async fn read(
        &mut self,
        block: u32,
        data: &mut [Aligned<A1, [u8; SIZE]>],
    ) -> Result<(), DiskError> {
        let mut at = first(block, SIZE)?;
        let (most, least) = self.bounds()?;
        let mut rest = blocks_to_slice_mut(data);
        while !rest.is_empty() {
            let buf = self.buffer(rest.len().min(most), least)?;
            let buf = self.run(Request::read(at, buf)).await?;
            let buf = buf.ok_or(DiskError::OutOfBuffers)?;
            let (now, later) = rest.split_at_mut_checked(buf.len()).ok_or(MISALIGNED)?;
            buf.read_at(0, now).map_err(|_| MISALIGNED)?;
            at = at.saturating_add((now.len() / SECTOR) as u64);
            rest = later;
        }
        Ok(())
    }

    async fn write(
        &mut self,
        block: u32,
        data: &[Aligned<A1, [u8; SIZE]>],
    ) -> Result<(), DiskError> {
        let mut at = first(block, SIZE)?;
        let (most, least) = self.bounds()?;
        let mut rest = blocks_to_slice(data);
        while !rest.is_empty() {
            let mut buf = self.buffer(rest.len().min(most), least)?;
            let (now, later) = rest.split_at_checked(buf.len()).ok_or(MISALIGNED)?;
            buf.write_at(0, now).map_err(|_| MISALIGNED)?;
            self.run(Request::write(at, buf)).await?;
            at = at.saturating_add((now.len() / SECTOR) as u64);
            rest = later;
        }
        Ok(())
    }

    async fn size(&mut self) -> Result<u64, DiskError> {
        let unit = self.queue.unit(self.unit);
        let sectors = unit.map(|unit| unit.limits.sectors);
        let sectors = sectors.ok_or(DiskError::Refused(SubmitError::NoSuchUnit))?;
        Ok(sectors.saturating_mul(SECTOR as u64))
    }
}
