//! The paravirtual console's ring (`io/console.h`), and the emergency console behind it.

use super::abi::pages::ConsolePage;
use super::evtchn::HostPort;
use super::site::Site;
use crate::memory::{BadAddress, GuestMemory};
use std::collections::VecDeque;
use std::mem::offset_of;

const IN: u32 = 1024;
const OUT: u32 = 2048;

/// xenconsoled with one guest, and what the guest said through the hypervisor.
#[derive(Debug)]
pub struct Console {
    page: u64,
    end: HostPort,
    notify: bool,
    output: Vec<u8>,
    typed: VecDeque<u8>,
    emergency: Vec<u8>,
    broken: bool,
}

impl Console {
    /// Serves the ring page at `page`; `end` is this side of its event channel.
    pub fn new<M: GuestMemory>(mem: &M, page: u64, end: HostPort) -> Result<Self, BadAddress> {
        for at in [
            offset_of!(ConsolePage, in_cons),
            offset_of!(ConsolePage, in_prod),
            offset_of!(ConsolePage, out_cons),
            offset_of!(ConsolePage, out_prod),
            offset_of!(ConsolePage, connection),
        ] {
            mem.store_u32(page + at as u64, 0)?;
        }
        Ok(Console {
            page,
            end,
            notify: false,
            output: Vec::new(),
            typed: VecDeque::new(),
            emergency: Vec::new(),
            broken: false,
        })
    }

    /// Everything the guest has written to the ring.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// Everything the guest has written through `console_io`.
    pub fn emergency(&self) -> &[u8] {
        &self.emergency
    }

    /// A hypercall wrote this.
    pub fn write_emergency(&mut self, bytes: &[u8]) {
        self.emergency.extend(bytes);
    }

    /// Somebody types.
    pub fn type_in(&mut self, bytes: &[u8]) {
        self.typed.extend(bytes);
    }

    /// Whether the guest's indices were nonsense.
    pub fn broken(&self) -> bool {
        self.broken
    }

    /// Does one thing: an event, some bytes taken, or some bytes typed.
    pub fn step<M: GuestMemory>(&mut self, site: &mut Site<'_, M>) -> Result<bool, BadAddress> {
        if std::mem::take(&mut self.notify) {
            site.notify(self.end)?;
            return Ok(true);
        }
        if self.broken {
            return Ok(false);
        }
        if site.events.take_kick(self.end) {
            let taken = self.take(site)?;
            self.notify = taken;
            return Ok(true);
        }
        let given = !self.typed.is_empty() && self.give(site)?;
        self.notify = given;
        Ok(given)
    }

    fn word<M: GuestMemory>(&self, site: &Site<'_, M>, at: usize) -> Result<u32, BadAddress> {
        site.mem.load_u32(self.page + at as u64)
    }

    fn take<M: GuestMemory>(&mut self, site: &mut Site<'_, M>) -> Result<bool, BadAddress> {
        let cons = self.word(site, offset_of!(ConsolePage, out_cons))?;
        let prod = self.word(site, offset_of!(ConsolePage, out_prod))?;
        let count = prod.wrapping_sub(cons);
        if count > OUT {
            self.broken = true;
            return Ok(false);
        }
        for n in 0..count {
            let mut byte = [0];
            let at = cons.wrapping_add(n) % OUT;
            let ring = self.page + offset_of!(ConsolePage, output) as u64;
            site.mem.read(ring + u64::from(at), &mut byte)?;
            self.output.extend(byte);
        }
        let at = self.page + offset_of!(ConsolePage, out_cons) as u64;
        site.mem.store_u32(at, prod)?;
        Ok(count > 0)
    }

    fn give<M: GuestMemory>(&mut self, site: &mut Site<'_, M>) -> Result<bool, BadAddress> {
        let cons = self.word(site, offset_of!(ConsolePage, in_cons))?;
        let mut prod = self.word(site, offset_of!(ConsolePage, in_prod))?;
        let start = prod;
        while prod.wrapping_sub(cons) < IN
            && let Some(byte) = self.typed.pop_front()
        {
            let ring = self.page + offset_of!(ConsolePage, input) as u64;
            site.mem.write(ring + u64::from(prod % IN), &[byte])?;
            prod = prod.wrapping_add(1);
        }
        let at = self.page + offset_of!(ConsolePage, in_prod) as u64;
        site.mem.store_u32(at, prod)?;
        Ok(prod != start)
    }
}
