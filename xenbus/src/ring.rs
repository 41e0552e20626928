//! The two byte rings in the page shared with xenstore.
//!
//! Our own indices are private; the host's are read once per step and checked. All run freely
//! and are taken modulo the ring's size.

use crate::wire::{CONNECTED, FEATURE_RECONNECTION, RECONNECT, RING, XenstoreDomainInterface};
use core::mem::offset_of;
use hypercall::HostFault;
use hypercall::shm::{Page, full_barrier};

const REQ: usize = offset_of!(XenstoreDomainInterface, req);
const RSP: usize = offset_of!(XenstoreDomainInterface, rsp);
const REQ_CONS: usize = offset_of!(XenstoreDomainInterface, req_cons);
const REQ_PROD: usize = offset_of!(XenstoreDomainInterface, req_prod);
const RSP_CONS: usize = offset_of!(XenstoreDomainInterface, rsp_cons);
const RSP_PROD: usize = offset_of!(XenstoreDomainInterface, rsp_prod);
const FEATURES: usize = offset_of!(XenstoreDomainInterface, server_features);
const CONNECTION: usize = offset_of!(XenstoreDomainInterface, connection);

/// Our side of the rings.
#[derive(Debug)]
pub struct Ring {
    req_prod: u32,
    rsp_cons: u32,
    /// The reply ring was full before room was made in it, so the host may wait for room.
    was_full: bool,
}

impl Ring {
    /// Takes over where the indices stand, which need not be 0. What an earlier owner did not
    /// read is passed over.
    pub fn new(page: Page<'_>) -> Self {
        let rsp_cons = page.load_u32::<RSP_PROD>();
        page.store_u32::<RSP_CONS>(rsp_cons);
        Self {
            req_prod: page.load_u32::<REQ_PROD>(),
            rsp_cons,
            was_full: false,
        }
    }

    /// Whether an earlier owner left anything in the rings.
    pub fn has_leftovers(page: Page<'_>) -> bool {
        page.load_u32::<REQ_PROD>() != page.load_u32::<REQ_CONS>()
            || page.load_u32::<RSP_PROD>() != page.load_u32::<RSP_CONS>()
    }

    /// Whether the host can reset the rings.
    pub fn can_reset(page: Page<'_>) -> bool {
        page.load_u32::<FEATURES>() & FEATURE_RECONNECTION != 0
    }

    /// Asks the host to reset the rings; it must be signalled afterwards.
    pub fn ask_reset(page: Page<'_>) {
        page.store_u32::<CONNECTION>(RECONNECT);
        full_barrier();
    }

    /// Whether the host has reset the rings.
    pub fn is_connected(page: Page<'_>) -> bool {
        page.load_u32::<CONNECTION>() == CONNECTED
    }

    /// Bytes that can be sent now.
    ///
    /// # Errors
    /// [`HostFault::RingIndex`] when the host's index is nowhere it can be.
    pub fn room(&self, page: Page<'_>) -> Result<usize, HostFault> {
        let used = self.req_prod.wrapping_sub(page.load_u32::<REQ_CONS>()) as usize;
        RING.checked_sub(used).ok_or(HostFault::RingIndex)
    }

    /// Sends as many bytes as there is room for; returns how many. The host must be signalled
    /// when there were any.
    ///
    /// # Errors
    /// [`HostFault::RingIndex`] when the host's index is nowhere it can be.
    pub fn send(&mut self, page: Page<'_>, bytes: &[u8]) -> Result<usize, HostFault> {
        let count = self.room(page)?.min(bytes.len());
        let start = self.req_prod as usize % RING;
        let bytes = bytes.get(..count).unwrap_or_default();
        let (here, wrapped) = bytes
            .split_at_checked(RING.saturating_sub(start))
            .unwrap_or((bytes, &[]));
        let span = page.span();
        span.copy_in(REQ.wrapping_add(start), here)?;
        span.copy_in(REQ, wrapped)?;
        self.req_prod = self.req_prod.wrapping_add(count as u32);
        page.store_u32::<REQ_PROD>(self.req_prod);
        // The host must see the index before it is signalled.
        full_barrier();
        Ok(count)
    }

    /// Takes out what has come, up to `into`'s length; returns how many bytes.
    ///
    /// # Errors
    /// [`HostFault::RingIndex`] when the host's index is nowhere it can be.
    pub fn receive(&mut self, page: Page<'_>, into: &mut [u8]) -> Result<usize, HostFault> {
        let there = page.load_u32::<RSP_PROD>().wrapping_sub(self.rsp_cons) as usize;
        if there > RING {
            return Err(HostFault::RingIndex);
        }
        let count = there.min(into.len());
        if count == 0 {
            return Ok(0);
        }
        let start = self.rsp_cons as usize % RING;
        let into = into.get_mut(..count).unwrap_or_default();
        let here = RING.saturating_sub(start).min(count);
        let (here, wrapped) = into.split_at_mut_checked(here).unwrap_or_default();
        let span = page.span();
        span.copy_out(RSP.wrapping_add(start), here)?;
        span.copy_out(RSP, wrapped)?;
        let before = self.rsp_cons;
        self.rsp_cons = before.wrapping_add(count as u32);
        // The copies are done before the room is given back.
        page.store_u32::<RSP_CONS>(self.rsp_cons);
        // A host that filled the ring up before it saw the room waits to be told of it.
        full_barrier();
        let filled = page.load_u32::<RSP_PROD>().wrapping_sub(before) as usize;
        self.was_full |= filled >= RING;
        Ok(count)
    }

    /// Whether the reply ring was full since this was last asked: the host may wait for room.
    pub fn take_was_full(&mut self) -> bool {
        core::mem::take(&mut self.was_full)
    }
}
