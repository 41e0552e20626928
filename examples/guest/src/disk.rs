//! What a job needs of a disk: whole sectors read and written, a flush, and many requests in flight.

use core::fmt;

/// A disk's form and limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Size in sectors.
    pub sectors: u64,
    /// Bytes in a sector: 512 or 4096.
    pub sector_size: u32,
    /// Bytes a request may carry at most; a multiple of the sector size.
    pub largest: usize,
    /// Requests that may be in flight at once.
    pub depth: usize,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether the host can be asked to make writes durable.
    pub flush: bool,
}

impl Geometry {
    /// Bytes in a sector, as a length.
    pub fn sector_bytes(&self) -> usize {
        self.sector_size as usize
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.sectors.saturating_mul(u64::from(self.sector_size))
    }

    /// How many sectors so many bytes come to, rounded up.
    pub fn sectors_of(&self, bytes: u64) -> u64 {
        bytes.div_ceil(u64::from(self.sector_size.max(1)))
    }
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskError {
    /// It reaches beyond the end of the disk, or is not of whole sectors.
    OutOfRange,
    /// The disk takes no writes.
    ReadOnly,
    /// The host reports an I/O error.
    Io,
    /// The host cannot do this.
    Unsupported,
    /// The host broke the protocol, withdrew the disk, or let a deadline pass.
    Gone,
    /// No memory for the request.
    Memory,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfRange => "beyond the end of the disk",
            Self::ReadOnly => "the disk is read-only",
            Self::Io => "I/O error",
            Self::Unsupported => "not supported by the host",
            Self::Gone => "the disk is gone",
            Self::Memory => "out of memory",
        })
    }
}

impl core::error::Error for DiskError {}

/// A read or a write of whole sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Whether it writes.
    pub write: bool,
    /// First sector.
    pub sector: u64,
    /// Length in bytes.
    pub bytes: usize,
}

/// The bytes of a request that [`JobDisk::drive`] keeps in flight. The host may have its hands on them, so they
/// are copied, never borrowed.
pub trait Payload {
    /// Copies bytes out, from `offset` on. What lies beyond the payload reads as zero.
    fn read_at(&self, offset: usize, into: &mut [u8]);

    /// Copies bytes in, from `offset` on. What does not fit is left out.
    fn write_at(&mut self, offset: usize, from: &[u8]);
}

/// A stream of requests for [`JobDisk::drive`].
pub trait Workload {
    /// The next request, with its bytes put into `payload` if it writes; `None` when there are no more. `payload`
    /// holds as many bytes as [`JobDisk::drive`] was told, and an earlier request's bytes at that.
    fn next(&mut self, payload: &mut dyn Payload) -> Option<Request>;

    /// Takes note of a completed request, in whatever order they complete.
    ///
    /// # Errors
    /// Whatever makes going on useless; it ends the drive.
    fn done(&mut self, request: &Request, payload: &dyn Payload) -> Result<(), DiskError>;
}

/// A disk, as jobs see it.
pub trait JobDisk {
    /// The host's name for it.
    fn name(&self) -> &str;

    /// Its form and limits.
    fn geometry(&self) -> Geometry;

    /// Reads whole sectors, however many.
    ///
    /// # Errors
    /// [`DiskError`].
    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError>;

    /// Writes whole sectors, however many.
    ///
    /// # Errors
    /// [`DiskError`].
    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// [`DiskError::Unsupported`] where the host cannot, and the others.
    fn flush(&mut self) -> Result<(), DiskError>;

    /// Keeps up to `depth` requests of up to `bytes` bytes each in flight until the workload has no more and all
    /// have completed.
    ///
    /// # Errors
    /// The first error, once nothing is in flight any more.
    fn drive(
        &mut self,
        depth: usize,
        bytes: usize,
        work: &mut dyn Workload,
    ) -> Result<(), DiskError>;
}
