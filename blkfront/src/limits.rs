//! What a disk can do.

use core::fmt;

/// Bytes in a sector: the unit of every position and count of this crate.
pub const SECTOR: usize = 512;

/// The size of a disk and the bounds of a request to it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Capacity, in 512-byte sectors.
    pub sectors: u64,
    /// Bytes in the disk's own logical sector: positions and lengths are multiples of it.
    /// A power of two, 512 or more.
    pub sector_size: u32,
    /// The most bytes of one read or write.
    pub max_bytes: u32,
    /// The most page pieces ([`Segment`](hypercall::shm::Segment)s) of one read or write.
    pub max_segments: u16,
    /// Page pieces must join at page boundaries: all but the first start at byte 0 of their page,
    /// all but the last end at byte 4096. Every buffer straight from the pool does.
    pub gapless: bool,
    /// Writes are refused.
    pub read_only: bool,
    /// The disk has a cache that [`Op::Flush`](crate::Op::Flush) writes out. Without one, a
    /// completed write is as safe as it gets and a flush is refused as unsupported.
    pub flush: bool,
    /// The disk can be told of sectors that are no longer needed.
    pub discard: bool,
}

impl Limits {
    /// The limits of a disk of `sectors` 512-byte sectors, one page a request, nothing optional.
    pub const fn new(sectors: u64) -> Self {
        Self {
            sectors,
            sector_size: 512,
            max_bytes: 4096,
            max_segments: 1,
            gapless: true,
            read_only: false,
            flush: false,
            discard: false,
        }
    }

    /// Capacity in bytes.
    pub fn bytes(&self) -> u128 {
        u128::from(self.sectors).saturating_mul(SECTOR as u128)
    }
}

/// What a disk is called, and what it can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// How its host addresses it: a Xen virtual device number, a SCSI logical unit.
    pub address: u32,
    /// Its bounds.
    pub limits: Limits,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "unit {}: {} sectors of {} bytes",
            self.address,
            self.limits.sectors >> (self.limits.sector_size >> 9).trailing_zeros().min(63),
            self.limits.sector_size
        )
    }
}
