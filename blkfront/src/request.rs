//! What goes into a queue and what comes out.

use core::fmt;
use hypercall::HostFault;
use hypercall::shm::Buf;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// Disk to buffer.
    Read,
    /// Buffer to disk.
    Write,
    /// Make every write completed before this was submitted survive a loss of power.
    Flush,
    /// These sectors are no longer needed; what they hold afterwards is unspecified.
    Discard,
}

/// One request. It owns its buffer, if it has one.
#[derive(Debug)]
pub struct Request {
    pub(crate) op: Op,
    pub(crate) unit: u8,
    pub(crate) sector: u64,
    /// Of a request without a buffer: how many sectors.
    count: u64,
    pub(crate) buf: Option<Buf>,
}

impl Request {
    /// Reads `buf.len()` bytes from 512-byte sector `sector` on.
    #[inline]
    pub fn read(sector: u64, buf: Buf) -> Self {
        Self::transfer(Op::Read, sector, buf)
    }

    /// Writes `buf.len()` bytes from 512-byte sector `sector` on.
    #[inline]
    pub fn write(sector: u64, buf: Buf) -> Self {
        Self::transfer(Op::Write, sector, buf)
    }

    #[inline]
    fn transfer(op: Op, sector: u64, buf: Buf) -> Self {
        Self {
            op,
            unit: 0,
            sector,
            count: 0,
            buf: Some(buf),
        }
    }

    /// Writes the disk's cache out.
    pub fn flush() -> Self {
        Self {
            op: Op::Flush,
            unit: 0,
            sector: 0,
            count: 0,
            buf: None,
        }
    }

    /// Gives up `count` 512-byte sectors from `sector` on.
    pub fn discard(sector: u64, count: u64) -> Self {
        Self {
            op: Op::Discard,
            unit: 0,
            sector,
            count,
            buf: None,
        }
    }

    /// The same request for another disk on the queue: an index into
    /// [`Block::units`](crate::Block::units). Without this it is for the first.
    #[must_use]
    pub fn on(mut self, unit: u8) -> Self {
        self.unit = unit;
        self
    }

    /// How many 512-byte sectors it is about.
    pub(crate) fn sectors(&self) -> u64 {
        let data = self.buf.as_ref();
        data.map_or(self.count, |buf| (buf.len() / crate::SECTOR) as u64)
    }

    /// What names its data to the host, if that is one whole page. Only a read or a write has any.
    #[inline(always)]
    pub(crate) fn whole_page(&self) -> Option<u64> {
        self.buf.as_ref()?.whole_page()
    }

    /// What it does.
    pub fn op(&self) -> Op {
        self.op
    }

    /// Its buffer.
    pub fn into_buf(self) -> Option<Buf> {
        self.buf
    }
}

/// A request in flight. Each is issued once, so an old tag never means a new request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub(crate) u64);

/// A request that is done.
#[derive(Debug)]
pub struct Completion {
    /// Which.
    pub tag: Tag,
    /// What it did.
    pub op: Op,
    /// Its buffer. A device that failed keeps the buffers of the requests it had in hand, because
    /// the host may still write them; they return to their pool when the device is closed.
    pub buf: Option<Buf>,
    /// How it went. After an error the buffer's bytes, or the sectors, are unspecified.
    pub result: Result<(), IoError>,
}

/// Why a request was refused. Nothing was done, and the request came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubmitError {
    /// As many requests are in flight as the queue holds; poll first.
    QueueFull,
    /// The queue has no such disk.
    NoSuchUnit,
    /// The sectors are not all on the disk.
    BeyondEnd,
    /// There are no bytes to transfer.
    Empty,
    /// Position, length or a page piece is not a multiple of the disk's sector size.
    Misaligned,
    /// More bytes than [`Limits::max_bytes`](crate::Limits::max_bytes).
    TooLarge,
    /// More page pieces than [`Limits::max_segments`](crate::Limits::max_segments).
    TooManySegments,
    /// The page pieces leave gaps, and the disk is
    /// [`gapless`](crate::Limits::gapless).
    Gap,
    /// The disk is read-only.
    ReadOnly,
    /// The disk has no such operation.
    Unsupported,
    /// The device failed earlier; connect it anew.
    Failed(HostFault),
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QueueFull => "the queue is full",
            Self::NoSuchUnit => "the queue has no such disk",
            Self::BeyondEnd => "beyond the end of the disk",
            Self::Empty => "no bytes to transfer",
            Self::Misaligned => "not a multiple of the disk's sector size",
            Self::TooLarge => "larger than one request may be",
            Self::TooManySegments => "more pieces than one request may have",
            Self::Gap => "the pieces leave gaps",
            Self::ReadOnly => "the disk is read-only",
            Self::Unsupported => "the disk has no such operation",
            Self::Failed(fault) => return write!(f, "the device has failed: {fault}"),
        })
    }
}

impl core::error::Error for SubmitError {}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IoError {
    /// The host could not do it; the medium, or its own reasons.
    Failed,
    /// The host knows no such operation after all.
    Unsupported,
    /// The host says the sectors are not on the disk: it may have shrunk.
    BeyondEnd,
    /// The host says the disk is write-protected.
    ReadOnly,
    /// The host moved fewer bytes than asked.
    Short {
        /// How many bytes it moved.
        moved: u32,
    },
    /// The host has no resources for it now; it was not done.
    Busy,
    /// The device failed with the request in flight. Whether it was done is unknown.
    Host(HostFault),
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed => "the host reports an I/O error",
            Self::Unsupported => "the host does not support the operation",
            Self::BeyondEnd => "the host says: beyond the end of the disk",
            Self::ReadOnly => "the host says: write-protected",
            Self::Short { moved } => return write!(f, "the host moved only {moved} bytes"),
            Self::Busy => "the host has no resources now",
            Self::Host(fault) => return write!(f, "the device failed: {fault}"),
        })
    }
}

impl core::error::Error for IoError {}
