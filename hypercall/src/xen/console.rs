//! The console: a ring that a daemon of the host reads, and Xen's own console for emergencies.

use super::abi::{HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_CONSOLE_PFN, XenconsInterface};
use super::calls::Calls;
use crate::fault::HostFault;
use crate::gate::Gate;
use crate::platform::Platform;
use crate::shm::{HostPage, Span, full_barrier};
use core::mem::offset_of;
use spin::Mutex;

const IN: usize = offset_of!(XenconsInterface, r#in);
const OUT: usize = offset_of!(XenconsInterface, out);
const IN_CONS: usize = offset_of!(XenconsInterface, in_cons);
const IN_PROD: usize = offset_of!(XenconsInterface, in_prod);
const OUT_CONS: usize = offset_of!(XenconsInterface, out_cons);
const OUT_PROD: usize = offset_of!(XenconsInterface, out_prod);
const IN_SIZE: u32 = 1024;
const OUT_SIZE: u32 = 2048;
/// Bytes that go to Xen's own console at a time.
const CHUNK: usize = 128;

/// The console ring, if the domain has one.
pub(super) struct Console<P: Platform> {
    ring: Option<(HostPage<P>, u32)>,
    own: Mutex<Own>,
}

/// Our own indices, which the host cannot change.
struct Own {
    out_prod: u32,
    in_cons: u32,
    fault: Option<HostFault>,
}

impl<P: Platform> Console<P> {
    /// Looks for the ring that the host announced.
    pub(super) fn new<G: Gate>(platform: &P, calls: &Calls<G>) -> Self {
        let gfn = calls.hvm_param(HVM_PARAM_CONSOLE_PFN).unwrap_or(0);
        let port = calls.hvm_param(HVM_PARAM_CONSOLE_EVTCHN).unwrap_or(0);
        let port = u32::try_from(port).unwrap_or(0);
        let ring = if gfn == 0 || gfn == u64::MAX || port == 0 {
            None
        } else {
            HostPage::map(platform, gfn).map(|page| (page, port))
        };
        let at = |offset| {
            let page = ring.as_ref()?.0.page().span();
            page.load_u32(offset).ok()
        };
        let own = Mutex::new(Own {
            out_prod: at(OUT_PROD).unwrap_or(0),
            in_cons: at(IN_CONS).unwrap_or(0),
            fault: None,
        });
        Self { ring, own }
    }

    /// The ring's event channel.
    pub(super) fn port(&self) -> Option<u32> {
        self.ring.as_ref().map(|(_, port)| *port)
    }

    /// Writes what there is room for; returns how many bytes.
    pub(super) fn write<G: Gate>(&self, calls: &Calls<G>, bytes: &[u8]) -> usize {
        let Some((page, port)) = &self.ring else {
            return emergency(calls, bytes);
        };
        // Whoever interrupts a writer finds no room, rather than a lock that never opens.
        let Some(mut own) = self.own.try_lock() else {
            return 0;
        };
        if own.fault.is_some() {
            return emergency(calls, bytes);
        }
        match own.put(page.page().span(), bytes) {
            Ok(0) => 0,
            Ok(count) => {
                let _ = calls.send(*port);
                count
            }
            Err(fault) => {
                log::warn!("console: {fault}");
                own.fault = Some(fault);
                0
            }
        }
    }

    /// Reads what was typed; returns how many bytes.
    pub(super) fn read<G: Gate>(&self, calls: &Calls<G>, into: &mut [u8]) -> usize {
        let Some((page, port)) = &self.ring else {
            return 0;
        };
        let Some(mut own) = self.own.try_lock() else {
            return 0;
        };
        if own.fault.is_some() {
            return 0;
        }
        match own.get(page.page().span(), into) {
            Ok(0) => 0,
            Ok(count) => {
                let _ = calls.send(*port);
                count
            }
            Err(fault) => {
                own.fault = Some(fault);
                0
            }
        }
    }
}

impl Own {
    fn put(&mut self, page: Span<'_>, bytes: &[u8]) -> Result<usize, HostFault> {
        let used = self.out_prod.wrapping_sub(page.load_u32(OUT_CONS)?);
        let room = OUT_SIZE.checked_sub(used).ok_or(HostFault::RingIndex)?;
        let count = bytes.len().min(room as usize);
        let start = (self.out_prod % OUT_SIZE) as usize;
        let (here, wrapped) = split(bytes.get(..count).unwrap_or(&[]), start, OUT_SIZE);
        page.copy_in(OUT.wrapping_add(start), here)?;
        page.copy_in(OUT, wrapped)?;
        self.out_prod = self.out_prod.wrapping_add(count as u32);
        page.store_u32(OUT_PROD, self.out_prod)?;
        full_barrier();
        Ok(count)
    }

    fn get(&mut self, page: Span<'_>, into: &mut [u8]) -> Result<usize, HostFault> {
        let there = page.load_u32(IN_PROD)?.wrapping_sub(self.in_cons);
        if there > IN_SIZE {
            return Err(HostFault::RingIndex);
        }
        let count = into.len().min(there as usize);
        for byte in into.iter_mut().take(count) {
            let at = (self.in_cons % IN_SIZE) as usize;
            *byte = page.load_u8(IN.wrapping_add(at))?;
            self.in_cons = self.in_cons.wrapping_add(1);
        }
        page.store_u32(IN_CONS, self.in_cons)?;
        full_barrier();
        Ok(count)
    }
}

/// Cuts what is written at `start` of a ring into the part before its end and the part after.
fn split(bytes: &[u8], start: usize, size: u32) -> (&[u8], &[u8]) {
    let to_end = (size as usize).saturating_sub(start);
    bytes.split_at_checked(to_end).unwrap_or((bytes, &[]))
}

/// Writes to Xen's own console; returns how many bytes it took.
pub(super) fn emergency<G: Gate>(calls: &Calls<G>, bytes: &[u8]) -> usize {
    let mut done = 0usize;
    for chunk in bytes.chunks(CHUNK) {
        let mut copy = [0; CHUNK];
        let Some(copy) = copy.get_mut(..chunk.len()) else {
            break;
        };
        copy.copy_from_slice(chunk);
        if calls.console_io(copy).is_err() {
            break;
        }
        done = done.wrapping_add(chunk.len());
    }
    done
}
