//! One block request: whether it may be done, and doing it.

use super::abi::blkif::*;
use super::blkback::BlkBack;
use super::grants::Handle;
use super::ledger::Complaint;
use super::site::Site;
use crate::memory::{BadAddress, GuestMemory};
use zerocopy::{FromBytes, IntoBytes};

/// A page of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    pub(super) handle: Handle,
    pub(super) gpa: u64,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Work {
    pub(super) id: u64,
    pub(super) operation: u8,
    pub(super) what: What,
    pub(super) pages: Vec<Page>,
}

/// Offsets and lengths in bytes.
#[derive(Debug)]
pub(super) enum What {
    Read {
        at: u64,
    },
    Write {
        at: u64,
    },
    Flush,
    Discard {
        at: u64,
        bytes: u64,
    },
    Fail(i16),
    /// Not looked at yet: a back end that copies does so when the time has come.
    Later(Request),
}

impl Work {
    /// A request put off whole.
    pub(super) fn later(request: Request) -> Work {
        Work {
            id: request.id,
            operation: request.operation,
            what: What::Later(request),
            pages: Vec::new(),
        }
    }
}

impl BlkBack {
    /// Checks a request and maps its pages.
    pub(super) fn accept<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        request: &Request,
    ) -> Work {
        let mut pages = Vec::new();
        let what = match self.vet(site, request, &mut pages) {
            Ok(what) => what,
            Err((status, why)) => {
                if let Some(why) = why {
                    site.ledger.complain(Complaint::BadRequest {
                        device: self.device,
                        id: request.id,
                        why,
                    });
                }
                What::Fail(status)
            }
        };
        Work {
            id: request.id,
            operation: request.operation,
            what,
            pages,
        }
    }

    fn vet<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        request: &Request,
        pages: &mut Vec<Page>,
    ) -> Result<What, (i16, Option<&'static str>)> {
        let bad = |why| Err((RSP_ERROR, Some(why)));
        let unsupported = Err((RSP_EOPNOTSUPP, None));
        let habits = self.habits;
        let at = request.sector_number.checked_mul(512);
        let Some(at) = at.filter(|&at| at <= self.disk.bytes()) else {
            return bad("starts beyond the end");
        };
        match request.operation {
            OP_FLUSH if !habits.flush || habits.offers_in_vain => return unsupported,
            OP_WRITE_BARRIER if !habits.barrier || habits.offers_in_vain => return unsupported,
            OP_DISCARD if !habits.discard || habits.offers_in_vain => return unsupported,
            OP_DISCARD => {
                let discard = Discard::read_from_prefix(request.as_bytes());
                let sectors = discard.map_or(0, |(discard, _)| discard.nr_sectors);
                return match sectors.checked_mul(512) {
                    Some(bytes) if bytes <= self.disk.bytes() - at => {
                        Ok(What::Discard { at, bytes })
                    }
                    _ => bad("discards beyond the end"),
                };
            }
            OP_READ | OP_WRITE | OP_FLUSH | OP_WRITE_BARRIER => {}
            _ => return Err((RSP_EOPNOTSUPP, Some("unknown operation"))),
        }
        let may_be_empty = matches!(request.operation, OP_FLUSH | OP_WRITE_BARRIER);
        let count = usize::from(request.nr_segments);
        if count > MAX_SEGMENTS || (count == 0 && !may_be_empty) {
            return bad("number of segments");
        }
        if request.operation != OP_READ && count > 0 && self.disk.read_only() {
            return Err((RSP_ERROR, Some("write to a read-only disk")));
        }
        let sector = u64::from(self.disk.sector_size());
        let mut total = 0;
        for segment in &request.seg[..count] {
            let (first, last) = (u64::from(segment.first_sect), u64::from(segment.last_sect));
            if first > last || last > 7 {
                return bad("segment outside its page");
            }
            let bytes = (last - first + 1) * 512;
            if !(first * 512).is_multiple_of(sector) || !bytes.is_multiple_of(sector) {
                return bad("segment not aligned to the sector size");
            }
            total += bytes;
        }
        if !at.is_multiple_of(sector) {
            return bad("sector_number not aligned to the sector size");
        }
        if total > self.disk.bytes() - at {
            return bad("ends beyond the end");
        }
        for segment in &request.seg[..count] {
            let page = self.page(site, segment, request.operation != OP_READ);
            match page {
                Ok(page) => pages.push(page),
                Err(status) => {
                    let gref = segment.gref;
                    site.ledger.complain(Complaint::Grant { gref, status });
                    return Err((RSP_ERROR, None));
                }
            }
        }
        Ok(match (request.operation, count) {
            (OP_READ, _) => What::Read { at },
            (_, 0) => What::Flush,
            _ => What::Write { at },
        })
    }

    fn page<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        segment: &Segment,
        readonly: bool,
    ) -> Result<Page, i16> {
        let within = u64::from(segment.first_sect) * 512;
        let bytes = (usize::from(segment.last_sect) + 1) * 512 - within as usize;
        let connection = self.connection.as_mut();
        let mut keep = connection.filter(|connection| connection.persistent);
        if let Some(kept) = keep.as_ref().and_then(|c| c.kept.get(&segment.gref)) {
            return Ok(Page {
                gpa: kept.gpa + within,
                bytes,
                ..*kept
            });
        }
        // Persistent mappings are writable, whatever the first request wanted.
        let readonly = readonly && keep.is_none();
        let (handle, mapping) = site.grants.map(site.mem, segment.gref, readonly)?;
        let page = Page {
            handle,
            gpa: mapping.gpa,
            bytes,
        };
        if let Some(connection) = keep.as_mut() {
            connection.kept.insert(segment.gref, page);
        }
        Ok(Page {
            gpa: mapping.gpa + within,
            ..page
        })
    }

    /// Does what a request asks for; the status to answer.
    pub(super) fn perform<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        work: &Work,
    ) -> Result<i16, BadAddress> {
        let sector = u64::from(self.disk.sector_size());
        let bytes: usize = work.pages.iter().map(|page| page.bytes).sum();
        let mut data = vec![0; bytes];
        let done = match work.what {
            What::Fail(status) => return Ok(status),
            What::Later(_) => return Ok(RSP_ERROR),
            What::Flush => self.disk.flush(),
            What::Read { at } => self.disk.read(at / sector, &mut data),
            What::Write { at } => {
                let mut rest = &mut data[..];
                for page in &work.pages {
                    let (now, later) = rest.split_at_mut(page.bytes);
                    site.mem.read(page.gpa, now)?;
                    rest = later;
                }
                site.ledger.counters.bytes_written += bytes as u64;
                self.disk
                    .write(at / sector, &data)
                    .and_then(|()| match work.operation {
                        OP_WRITE_BARRIER => self.disk.flush(),
                        _ => Ok(()),
                    })
            }
            // What a discarded sector reads as is undefined; zeros make runs repeatable.
            What::Discard { at, bytes } => {
                let whole = bytes / sector * sector;
                self.disk
                    .write(at.div_ceil(sector), &vec![0; whole as usize])
            }
        };
        if done.is_err() {
            return Ok(RSP_ERROR);
        }
        if let What::Read { .. } = work.what {
            let mut rest = &data[..];
            for page in &work.pages {
                let (now, later) = rest.split_at(page.bytes);
                site.mem.write(page.gpa, now)?;
                rest = later;
            }
            site.ledger.counters.bytes_read += bytes as u64;
        }
        Ok(RSP_OKAY)
    }
}
