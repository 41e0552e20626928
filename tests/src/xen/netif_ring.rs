//! The back end's side of a network ring (`io/ring.h`): one page, free-running indices.

use super::abi::netif::{ENTRIES, RingHeader};
use crate::memory::{BadAddress, GuestMemory};
use std::mem::offset_of;

/// What taking a request found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken<T> {
    Request(T),
    /// No more for now.
    Empty,
    /// The producer is further ahead than the ring is long, or requests lie over slots whose
    /// responses are still due.
    Overrun,
}

/// A ring whose entries have `ENTRY` bytes.
#[derive(Debug, Clone)]
pub struct NetRing<const ENTRY: usize> {
    /// Guest-physical address of the page.
    page: u64,
    req_cons: u32,
    /// As the guest sees it.
    rsp_prod: u32,
    /// Responses written after it.
    unpublished: u32,
}

impl<const ENTRY: usize> NetRing<ENTRY> {
    /// Takes over a ring where its indices stand.
    pub fn attach<M: GuestMemory>(mem: &M, page: u64) -> Result<Self, BadAddress> {
        let mut ring = NetRing {
            page,
            req_cons: 0,
            rsp_prod: 0,
            unpublished: 0,
        };
        ring.rsp_prod = ring.word(mem, offset_of!(RingHeader, rsp_prod))?;
        ring.req_cons = ring.rsp_prod;
        Ok(ring)
    }

    fn word<M: GuestMemory>(&self, mem: &M, at: usize) -> Result<u32, BadAddress> {
        mem.load_u32(self.page + at as u64)
    }

    fn set<M: GuestMemory>(&self, mem: &M, at: usize, value: u32) -> Result<(), BadAddress> {
        mem.store_u32(self.page + at as u64, value)
    }

    fn entry(&self, index: u32) -> u64 {
        let at = size_of::<RingHeader>() + (index % ENTRIES) as usize * ENTRY;
        self.page + at as u64
    }

    /// Takes the next request, copied out whole.
    pub fn take<M: GuestMemory>(&mut self, mem: &M) -> Result<Taken<[u8; ENTRY]>, BadAddress> {
        let prod = self.word(mem, offset_of!(RingHeader, req_prod))?;
        let waiting = prod.wrapping_sub(self.req_cons);
        // Signed: a host that answers too often is ahead of the requests, and that is its own fault.
        let unanswered = prod.wrapping_sub(self.rsp_prod) as i32;
        if waiting > ENTRIES || unanswered > ENTRIES as i32 {
            return Ok(Taken::Overrun);
        }
        if waiting == 0 {
            return Ok(Taken::Empty);
        }
        let mut bytes = [0; ENTRY];
        mem.read(self.entry(self.req_cons), &mut bytes)?;
        self.req_cons = self.req_cons.wrapping_add(1);
        Ok(Taken::Request(bytes))
    }

    /// Asks for an event at the next request, then looks once more. True if there is one already.
    pub fn final_check<M: GuestMemory>(&mut self, mem: &M) -> Result<bool, BadAddress> {
        let next = self.req_cons.wrapping_add(1);
        self.set(mem, offset_of!(RingHeader, req_event), next)?;
        Ok(self.word(mem, offset_of!(RingHeader, req_prod))? != self.req_cons)
    }

    /// Writes the next response, and keeps it to itself until [`publish`](Self::publish). What it
    /// does not overwrite of the entry stays as it was.
    pub fn write<M: GuestMemory>(
        &mut self,
        mem: &M,
        at: usize,
        bytes: &[u8],
    ) -> Result<(), BadAddress> {
        let index = self.rsp_prod.wrapping_add(self.unpublished);
        mem.write(self.entry(index) + at as u64, bytes)?;
        self.unpublished += 1;
        Ok(())
    }

    /// Responses written and not published.
    pub fn unpublished(&self) -> u32 {
        self.unpublished
    }

    /// Shows the guest what was written. True if it wants an event for it.
    pub fn publish<M: GuestMemory>(&mut self, mem: &M) -> Result<bool, BadAddress> {
        let old = self.rsp_prod;
        self.rsp_prod = old.wrapping_add(self.unpublished);
        self.unpublished = 0;
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
        (0..ENTRIES).try_for_each(|index| mem.write(self.entry(index), &[with; ENTRY]))
    }
}
