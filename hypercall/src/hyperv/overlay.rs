//! A page of ours that a register names to the host.

use super::abi::{ENABLE, PRESERVED};
use crate::gate::{Gate, HvGet, HvRegister, HvSet};
use crate::platform::Platform;
use crate::shm::{Lent, Page, Pages};

/// A page that the host uses for as long as its register says so. When dropped, it is freed only
/// if the register then reads as off; otherwise the host may go on writing, and it is leaked.
#[derive(Debug)]
pub(super) struct Overlay<P: Platform, G: Gate> {
    gate: G,
    register: HvRegister,
    lent: Option<Lent<P>>,
}

impl<P: Platform, G: Gate> Overlay<P, G> {
    /// Hands the first page of the run to the host.
    pub(super) fn new(gate: &G, register: HvRegister, pages: Pages<P>) -> Self {
        let kept = gate.hv_get(HvGet::new(register)) & PRESERVED;
        let value = pages.first_gfn() << 12 | kept | ENABLE;
        let lent = Lent::new(pages, None);
        gate.hv_set(HvSet::new(register, value));
        Self {
            gate: gate.clone(),
            register,
            lent: Some(lent),
        }
    }

    /// Whether the register says that the host has the page.
    pub(super) fn is_on(&self) -> bool {
        self.gate.hv_get(HvGet::new(self.register)) & ENABLE != 0
    }

    /// A view of the page; always there until the drop.
    #[inline]
    pub(super) fn page(&self) -> Option<Page<'_>> {
        self.lent.as_ref().map(Lent::first)
    }
}

impl<P: Platform, G: Gate> Drop for Overlay<P, G> {
    fn drop(&mut self) {
        let value = self.gate.hv_get(HvGet::new(self.register));
        self.gate
            .hv_set(HvSet::new(self.register, value & PRESERVED));
        if self.is_on() {
            log::warn!(
                "the host keeps the page of {:?}; it is leaked",
                self.register
            );
        } else if let Some(lent) = self.lent.take() {
            drop(lent.into_pages());
        }
    }
}
