//! The back end's side of a block ring (`io/ring.h`): free-running indices, events on demand.

use super::abi::PAGE;
use super::abi::blkif::{ENTRY, Request, Response, RingHeader};
use crate::memory::{BadAddress, GuestMemory};
use std::mem::offset_of;
use zerocopy::{FromBytes, IntoBytes};

/// What taking a request found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Request(Request),
    /// No more for now.
    Empty,
    /// The producer is further ahead than the ring is long, or requests lie over slots whose
    /// responses are still due.
    Overrun,
}

/// A ring of one or more granted pages.
#[derive(Debug, Clone)]
pub struct BackRing {
    /// Guest-physical addresses.
    pages: Vec<u64>,
    entries: u32,
    req_cons: u32,
    rsp_prod: u32,
}

/// Entries of a ring over `pages` pages: the largest power of two that fits.
pub fn entries(pages: usize) -> u32 {
    let room = (pages as u64 * PAGE - size_of::<RingHeader>() as u64) / ENTRY;
    1 << room.ilog2()
}

impl BackRing {
    /// Takes over a ring where its indices stand.
    pub fn attach<M: GuestMemory>(mem: &M, pages: Vec<u64>) -> Result<Self, BadAddress> {
        let mut ring = BackRing {
            entries: entries(pages.len()),
            pages,
            req_cons: 0,
            rsp_prod: 0,
        };
        let rsp_prod = ring.word(mem, offset_of!(RingHeader, rsp_prod))?;
        ring.req_cons = rsp_prod;
        ring.rsp_prod = rsp_prod;
        Ok(ring)
    }

    fn word<M: GuestMemory>(&self, mem: &M, at: usize) -> Result<u32, BadAddress> {
        mem.load_u32(self.first()? + at as u64)
    }

    fn set<M: GuestMemory>(&self, mem: &M, at: usize, value: u32) -> Result<(), BadAddress> {
        mem.store_u32(self.first()? + at as u64, value)
    }

    fn first(&self) -> Result<u64, BadAddress> {
        self.pages.first().copied().ok_or(BadAddress(0))
    }

    /// Byte ranges of guest memory that hold `bytes` bytes of the entry for `index`: two where the
    /// entry crosses into another page of the ring.
    fn pieces(&self, index: u32, bytes: usize) -> Result<[(u64, usize); 2], BadAddress> {
        let slot = u64::from(index & (self.entries - 1));
        let at = size_of::<RingHeader>() as u64 + slot * ENTRY;
        let page = |n: u64| self.pages.get(n as usize).copied().ok_or(BadAddress(at));
        let first = (PAGE - at % PAGE).min(bytes as u64) as usize;
        let second = match bytes - first {
            0 => 0,
            _ => page(at / PAGE + 1)?,
        };
        Ok([
            (page(at / PAGE)? + at % PAGE, first),
            (second, bytes - first),
        ])
    }

    fn write_entry<M: GuestMemory>(
        &self,
        mem: &M,
        index: u32,
        bytes: &[u8],
    ) -> Result<(), BadAddress> {
        let [(a, first), (b, _)] = self.pieces(index, bytes.len())?;
        mem.write(a, &bytes[..first])?;
        match &bytes[first..] {
            [] => Ok(()),
            rest => mem.write(b, rest),
        }
    }

    /// Takes the next request, copied out whole.
    pub fn take<M: GuestMemory>(&mut self, mem: &M) -> Result<Taken, BadAddress> {
        let prod = self.word(mem, offset_of!(RingHeader, req_prod))?;
        let waiting = prod.wrapping_sub(self.req_cons);
        // Signed: a host that answers too often is ahead of the requests, and that is its own fault.
        let unanswered = prod.wrapping_sub(self.rsp_prod) as i32;
        if waiting > self.entries || unanswered > self.entries as i32 {
            return Ok(Taken::Overrun);
        }
        if waiting == 0 {
            return Ok(Taken::Empty);
        }
        let mut bytes = [0; size_of::<Request>()];
        let [(a, first), (b, second)] = self.pieces(self.req_cons, bytes.len())?;
        mem.read(a, &mut bytes[..first])?;
        if second > 0 {
            mem.read(b, &mut bytes[first..])?;
        }
        self.req_cons = self.req_cons.wrapping_add(1);
        let request = Request::read_from_bytes(&bytes).unwrap_or_default();
        Ok(Taken::Request(request))
    }

    /// Asks for an event at the next request, then looks once more. True if there is one already.
    pub fn final_check<M: GuestMemory>(&mut self, mem: &M) -> Result<bool, BadAddress> {
        self.set(
            mem,
            offset_of!(RingHeader, req_event),
            self.req_cons.wrapping_add(1),
        )?;
        Ok(self.word(mem, offset_of!(RingHeader, req_prod))? != self.req_cons)
    }

    /// Puts a response on the ring. True if the front end wants an event for it.
    pub fn push<M: GuestMemory>(
        &mut self,
        mem: &M,
        response: &Response,
    ) -> Result<bool, BadAddress> {
        self.write_entry(mem, self.rsp_prod, response.as_bytes())?;
        let old = self.rsp_prod;
        self.rsp_prod = old.wrapping_add(1);
        self.set(mem, offset_of!(RingHeader, rsp_prod), self.rsp_prod)?;
        let event = self.word(mem, offset_of!(RingHeader, rsp_event))?;
        let new = self.rsp_prod;
        Ok(new.wrapping_sub(event) < new.wrapping_sub(old))
    }

    /// Adds to the response producer index and writes nothing: what no honest host does.
    pub fn jump<M: GuestMemory>(&mut self, mem: &M, by: u32) -> Result<(), BadAddress> {
        let prod = self.word(mem, offset_of!(RingHeader, rsp_prod))?;
        self.set(mem, offset_of!(RingHeader, rsp_prod), prod.wrapping_add(by))
    }

    /// Overwrites every slot, requests and all.
    pub fn scribble<M: GuestMemory>(&self, mem: &M, with: u8) -> Result<(), BadAddress> {
        for index in 0..self.entries {
            self.write_entry(mem, index, &[with; ENTRY as usize])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_two() {
        assert_eq!(
            [entries(1), entries(2), entries(4), entries(16)],
            [32, 64, 128, 512]
        );
    }

    #[test]
    fn an_entry_may_cross_pages() {
        let ring = BackRing {
            pages: vec![0x1000, 0x9000],
            entries: 64,
            req_cons: 0,
            rsp_prod: 0,
        };
        // Slot 36 starts at 64 + 36 * 112 = 4096: exactly the second page.
        assert_eq!(ring.pieces(36, 112).unwrap(), [(0x9000, 112), (0, 0)]);
        assert_eq!(ring.pieces(35, 112).unwrap(), [(0x1f90, 112), (0, 0)]);
        let four = BackRing {
            pages: vec![0x1000, 0x9000, 0x4000, 0x7000],
            entries: 128,
            ..ring
        };
        // Slot 72 starts at 8128, 64 bytes before the end of the second page.
        assert_eq!(four.pieces(72, 112).unwrap(), [(0x9fc0, 64), (0x4000, 48)]);
    }
}
