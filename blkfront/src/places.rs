//! Where on a disk most requests may go: those of one whole page.

use crate::limits::{Limits, SECTOR};
use hypercall::shm::PAGE_SIZE;

/// Where on a disk whole pages go: all that is to be known of most requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PagePlaces {
    /// A read starts at a sector below this one.
    read: u64,
    /// A write does.
    write: u64,
    /// Bits that are 0 in a sector where a request may start.
    unaligned: u64,
}

impl PagePlaces {
    /// What `limits` say of requests that are a whole page, below sector `end`.
    pub(crate) fn of(limits: &Limits, end: u64) -> Self {
        const PAGE: u64 = (PAGE_SIZE / SECTOR) as u64;
        let fits =
            limits.max_bytes as usize >= PAGE_SIZE && limits.sector_size as usize <= PAGE_SIZE;
        let starts = limits.sectors.saturating_sub(const { PAGE - 1 }).min(end);
        let read = if fits { starts } else { 0 };
        Self {
            read,
            write: if limits.read_only { 0 } else { read },
            unaligned: u64::from(limits.sector_size >> 9).saturating_sub(1),
        }
    }

    /// Whether a read or a write of a whole page may start at a sector.
    #[inline(always)]
    pub(crate) fn contains(&self, write: bool, sector: u64) -> bool {
        let starts = if write { self.write } else { self.read };
        sector < starts && sector & self.unaligned == 0
    }
}
