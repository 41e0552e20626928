//! The reference time: by the reference TSC page where there is one, else by its register.
//!
//! Source: TLFS, "Timekeeping". Units are 100 ns there and nanoseconds here.

use super::abi::{Privileges, ReferenceTsc};
use super::overlay::Overlay;
use crate::gate::{Gate, HvGet, HvRegister};
use crate::platform::Platform;
use crate::shm::{Page, Pages};
use core::sync::atomic::{Ordering, fence};

/// How often a page that changes under the reader's hands is read again.
const TRIES: u32 = 16;

/// The partition's reference time.
#[derive(Debug)]
pub(super) struct Clock<P: Platform, G: Gate> {
    gate: G,
    counter: bool,
    page: Option<Overlay<P, G>>,
}

impl<P: Platform, G: Gate> Clock<P, G> {
    /// `page` is used where the host offers the reference TSC page.
    pub(super) fn new(gate: &G, privileges: Privileges, page: Option<Pages<P>>) -> Self {
        let page = page
            .filter(|_| privileges.contains(Privileges::REFERENCE_TSC))
            .map(|page| Overlay::new(gate, HvRegister::ReferenceTsc, page));
        Self {
            gate: gate.clone(),
            counter: privileges.contains(Privileges::REFERENCE_COUNTER),
            page,
        }
    }

    /// Nanoseconds since the host made this machine; `None` where it offers no clock.
    pub(super) fn now(&self) -> Option<u64> {
        let units = self
            .page
            .as_ref()
            .and_then(Overlay::page)
            .and_then(|page| self.by_page(page))
            .or_else(|| self.by_register())?;
        Some(units.saturating_mul(100))
    }

    fn by_register(&self) -> Option<u64> {
        let get = HvGet::new(HvRegister::TimeRefCount);
        self.counter.then(|| self.gate.hv_get(get))
    }

    fn by_page(&self, page: Page<'_>) -> Option<u64> {
        for _ in 0..TRIES {
            let sequence = page.load_u32::<0>();
            // 0 means "use the register"; earlier specifications said all ones.
            if sequence == 0 || sequence == u32::MAX {
                return None;
            }
            let record = page.read::<ReferenceTsc, 0>();
            let ticks = self.gate.ticks();
            fence(Ordering::Acquire);
            if page.load_u32::<0>() == sequence && record.sequence == sequence {
                let scaled =
                    (u128::from(ticks).wrapping_mul(u128::from(record.scale)) >> 64) as u64;
                return Some(scaled.wrapping_add_signed(record.offset));
            }
        }
        None
    }
}
