//! The byte rings of the xenstore page, from xenstored's side (`docs/misc/xenstore-ring.txt`).

use super::abi::pages::StorePage;
use super::abi::store;
use crate::memory::{BadAddress, GuestMemory};
use std::mem::offset_of;

/// Bytes in each direction's ring.
pub const RING: u32 = 1024;

/// Why the ring cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingError {
    /// The guest's index and ours cannot both be right.
    Index,
    Memory(BadAddress),
}

impl From<BadAddress> for RingError {
    fn from(bad: BadAddress) -> Self {
        RingError::Memory(bad)
    }
}

/// The page at a guest-physical address.
#[derive(Debug, Clone, Copy)]
pub struct StoreRing {
    page: u64,
}

impl StoreRing {
    /// Sets the page up as Xen hands it to a guest: empty, indices at `start`, features on show.
    pub fn new<M: GuestMemory>(
        mem: &M,
        page: u64,
        start: u32,
        features: u32,
    ) -> Result<Self, BadAddress> {
        let ring = StoreRing { page };
        ring.reset(mem, start)?;
        mem.store_u32(
            page + offset_of!(StorePage, server_features) as u64,
            features,
        )?;
        mem.store_u32(
            page + offset_of!(StorePage, connection) as u64,
            store::CONNECTED,
        )?;
        mem.store_u32(page + offset_of!(StorePage, error) as u64, 0)?;
        Ok(ring)
    }

    fn word<M: GuestMemory>(&self, mem: &M, at: usize) -> Result<u32, BadAddress> {
        mem.load_u32(self.page + at as u64)
    }

    fn set<M: GuestMemory>(&self, mem: &M, at: usize, value: u32) -> Result<(), BadAddress> {
        mem.store_u32(self.page + at as u64, value)
    }

    fn reset<M: GuestMemory>(&self, mem: &M, start: u32) -> Result<(), BadAddress> {
        self.set(mem, offset_of!(StorePage, req_cons), start)?;
        self.set(mem, offset_of!(StorePage, req_prod), start)?;
        self.set(mem, offset_of!(StorePage, rsp_cons), start)?;
        self.set(mem, offset_of!(StorePage, rsp_prod), start)
    }

    /// Bytes the guest has written and we have not read.
    pub fn readable<M: GuestMemory>(&self, mem: &M) -> Result<u32, RingError> {
        let cons = self.word(mem, offset_of!(StorePage, req_cons))?;
        let prod = self.word(mem, offset_of!(StorePage, req_prod))?;
        match prod.wrapping_sub(cons) {
            used if used <= RING => Ok(used),
            _ => Err(RingError::Index),
        }
    }

    /// Bytes there is room for towards the guest.
    pub fn writable<M: GuestMemory>(&self, mem: &M) -> Result<u32, RingError> {
        let cons = self.word(mem, offset_of!(StorePage, rsp_cons))?;
        let prod = self.word(mem, offset_of!(StorePage, rsp_prod))?;
        match prod.wrapping_sub(cons) {
            used if used <= RING => Ok(RING - used),
            _ => Err(RingError::Index),
        }
    }

    /// Takes up to `limit` bytes.
    pub fn read<M: GuestMemory>(&self, mem: &M, limit: u32) -> Result<Vec<u8>, RingError> {
        let count = self.readable(mem)?.min(limit);
        let cons = self.word(mem, offset_of!(StorePage, req_cons))?;
        let mut bytes = vec![0; count as usize];
        let first = (RING - cons % RING).min(count) as usize;
        let base = self.page + offset_of!(StorePage, req) as u64;
        mem.read(base + u64::from(cons % RING), &mut bytes[..first])?;
        mem.read(base, &mut bytes[first..])?;
        self.set(
            mem,
            offset_of!(StorePage, req_cons),
            cons.wrapping_add(count),
        )?;
        Ok(bytes)
    }

    /// Writes as much of `bytes` as there is room for; returns how many.
    pub fn write<M: GuestMemory>(&self, mem: &M, bytes: &[u8]) -> Result<usize, RingError> {
        let count = (self.writable(mem)? as usize).min(bytes.len());
        let prod = self.word(mem, offset_of!(StorePage, rsp_prod))?;
        let at = prod % RING;
        let first = ((RING - at) as usize).min(count);
        let base = self.page + offset_of!(StorePage, rsp) as u64;
        mem.write(base + u64::from(at), &bytes[..first])?;
        mem.write(base, &bytes[first..count])?;
        self.set(
            mem,
            offset_of!(StorePage, rsp_prod),
            prod.wrapping_add(count as u32),
        )?;
        Ok(count)
    }

    /// Adds to the response producer without writing anything: what no honest host does.
    pub fn jump<M: GuestMemory>(&self, mem: &M, by: u32) -> Result<(), BadAddress> {
        let prod = self.word(mem, offset_of!(StorePage, rsp_prod))?;
        self.set(mem, offset_of!(StorePage, rsp_prod), prod.wrapping_add(by))
    }

    /// Marks the connection as being reset, as somebody before the guest may have.
    pub fn start_reconnecting<M: GuestMemory>(&self, mem: &M) -> Result<(), BadAddress> {
        self.set(mem, offset_of!(StorePage, connection), store::RECONNECT)
    }

    /// Whether the guest asks for a fresh start.
    pub fn reconnect_asked<M: GuestMemory>(&self, mem: &M) -> Result<bool, BadAddress> {
        Ok(self.word(mem, offset_of!(StorePage, connection))? == store::RECONNECT)
    }

    /// Gives it: both rings empty, connected.
    pub fn reconnect<M: GuestMemory>(&self, mem: &M) -> Result<(), BadAddress> {
        self.reset(mem, 0)?;
        self.set(mem, offset_of!(StorePage, error), 0)?;
        self.set(mem, offset_of!(StorePage, connection), store::CONNECTED)
    }

    /// Tells the guest that its connection is dead, and why.
    pub fn report<M: GuestMemory>(&self, mem: &M, error: u32) -> Result<(), BadAddress> {
        self.set(mem, offset_of!(StorePage, error), error)
    }
}
