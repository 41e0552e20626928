//! Event channels by the 2-level ABI: a bit for each port in the shared info page, and a word that
//! says which words of them have news.

use super::abi::*;
use super::calls::{Calls, Errno};
use crate::gate::Gate;
use crate::host::HostError;
use crate::platform::Platform;
use crate::shm::{Lent, OutOfSpan, Pages, Span};
use crate::signals::Signals;
use core::mem::offset_of;

const PENDING: usize = offset_of!(SharedInfo, evtchn_pending);
const MASK: usize = offset_of!(SharedInfo, evtchn_mask);
const UPCALL_PENDING: usize = offset_of!(VcpuInfo, evtchn_upcall_pending);
const SELECTOR: usize = offset_of!(VcpuInfo, evtchn_pending_sel);
/// Words of pending bits.
const WORDS: usize = 64;

/// How the host interrupts this processor for events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upcall {
    /// By a vector of its own local APIC: the handler must acknowledge the interrupt there.
    PerCpu,
    /// By a vector injected past the local APIC, the same for the whole domain: there is nothing
    /// to acknowledge.
    Domain,
}

/// The shared info page and this virtual processor's part of it.
pub(super) struct Events<P: Platform> {
    shared: Lent<P>,
    /// Where the shared page has no room for this processor's information.
    own: Option<Lent<P>>,
    vcpu: u32,
    upcall: Upcall,
}

/// Where a port's bit is: the offset of its word in an array, and the bit.
fn place(port: u32) -> (usize, u64) {
    (((port >> 6) as usize).wrapping_mul(8), 1 << (port & 63))
}

impl<P: Platform> Events<P> {
    /// Places the shared info page and has events of virtual processor `vcpu` raise `vector`.
    pub(super) fn new<G: Gate>(
        platform: &P,
        calls: &Calls<G>,
        vcpu: u32,
        vector: u8,
    ) -> Result<Self, HostError> {
        let pages = Pages::alloc(platform, 1).map_err(|_| HostError::OutOfPages)?;
        calls.add_to_physmap(XENMAPSPACE_SHARED_INFO, 0, pages.first_gfn())?;
        // The page is Xen's now: lent for good.
        let shared = Lent::new(pages, None);
        let own = if vcpu < XEN_LEGACY_MAX_VCPUS {
            None
        } else {
            let pages = Pages::alloc(platform, 1).map_err(|_| HostError::OutOfPages)?;
            let gfn = pages.first_gfn();
            let own = Lent::new(pages, None);
            calls.register_vcpu_info(vcpu, gfn)?;
            Some(own)
        };
        let mut events = Self {
            shared,
            own,
            vcpu,
            upcall: Upcall::PerCpu,
        };
        // In range: the layout of the structures says so.
        let _ = events.silence();
        events.upcall = set_upcall(calls, vcpu, vector)?;
        Ok(events)
    }

    /// Masks all ports and forgets what an earlier owner left pending.
    fn silence(&self) -> Result<(), OutOfSpan> {
        let shared = self.shared.span();
        for word in 0..WORDS {
            let at = word.wrapping_mul(8);
            shared.store_u64(MASK.wrapping_add(at), u64::MAX)?;
            shared.store_u64(PENDING.wrapping_add(at), 0)?;
        }
        let info = self.info()?;
        info.store_u64(SELECTOR, 0)?;
        info.store_u8(UPCALL_PENDING, 0)
    }

    /// How events interrupt.
    pub(super) fn upcall(&self) -> Upcall {
        self.upcall
    }

    /// The shared info page.
    pub(super) fn shared(&self) -> Span<'_> {
        self.shared.span()
    }

    /// This virtual processor's information.
    pub(super) fn info(&self) -> Result<Span<'_>, OutOfSpan> {
        match &self.own {
            Some(own) => own.span().part(0, size_of::<VcpuInfo>()),
            None => self.info_of(self.vcpu),
        }
    }

    /// A virtual processor's information in the shared page.
    pub(super) fn info_of(&self, vcpu: u32) -> Result<Span<'_>, OutOfSpan> {
        if vcpu >= XEN_LEGACY_MAX_VCPUS {
            return Err(OutOfSpan);
        }
        let size = size_of::<VcpuInfo>();
        self.shared
            .span()
            .part((vcpu as usize).wrapping_mul(size), size)
    }

    /// Moves what is pending into `signals`; true when there was anything to look at.
    pub(super) fn collect(&self, signals: &Signals) -> Result<bool, OutOfSpan> {
        let info = self.info()?;
        if info.load_u8(UPCALL_PENDING)? == 0 {
            return Ok(false);
        }
        // The flag goes first, then the selector, then the bits: whatever arrives after any of
        // these steps sets all three again, and interrupts.
        info.store_u8(UPCALL_PENDING, 0)?;
        let mut selector = info.swap_u64(SELECTOR, 0)?;
        let shared = self.shared.span();
        while selector != 0 {
            let word = selector.trailing_zeros();
            selector &= selector.wrapping_sub(1);
            let at = (word as usize).wrapping_mul(8);
            let masked = shared.load_u64(MASK.wrapping_add(at))?;
            let mut pending = shared.load_u64(PENDING.wrapping_add(at))? & !masked;
            while pending != 0 {
                let bit = pending & pending.wrapping_neg();
                pending ^= bit;
                shared.clear_u64(PENDING.wrapping_add(at), bit)?;
                signals.raise(word << 6 | bit.trailing_zeros());
            }
        }
        Ok(true)
    }

    /// Starts to listen to a port; what was left pending on it is forgotten.
    pub(super) fn open<G: Gate>(
        &self,
        calls: &Calls<G>,
        signals: &Signals,
        port: u32,
    ) -> Result<(), HostError> {
        if port == 0 || port >= EVTCHN_2L_NR_CHANNELS {
            return Err(HostError::Exhausted);
        }
        if self.vcpu != 0 {
            // Ports belong to processor 0 at first. A virtual interrupt's cannot be moved, and
            // was bound where it belongs.
            let _ = calls.bind_vcpu(port, self.vcpu);
        }
        signals.forget(port);
        let (at, bit) = place(port);
        let _ = self.shared().clear_u64(PENDING.wrapping_add(at), bit);
        if calls.unmask(port).is_err() {
            // In range: the port was checked.
            let _ = self.shared().clear_u64(MASK.wrapping_add(at), bit);
        }
        Ok(())
    }

    /// Stops listening to a port.
    pub(super) fn mask(&self, signals: &Signals, port: u32) {
        let (at, bit) = place(port);
        // A port out of range has no bit to set.
        if port < EVTCHN_2L_NR_CHANNELS {
            let _ = self.shared().set_u64(MASK.wrapping_add(at), bit);
            let _ = self.shared().clear_u64(PENDING.wrapping_add(at), bit);
        }
        signals.forget(port);
    }

    /// The port of a virtual interrupt of this processor.
    pub(super) fn bind_virq<G: Gate>(&self, calls: &Calls<G>, virq: u32) -> Result<u32, HostError> {
        match calls.bind_virq(virq, self.vcpu) {
            Err(Errno(errno::EEXIST)) => {
                // An earlier kernel of this domain bound it: find out which port that was.
                let ours = |port: &u32| {
                    calls.evtchn_status(*port).is_ok_and(|s| {
                        s.status == EVTCHNSTAT_VIRQ && s.virq == virq && s.vcpu == self.vcpu
                    })
                };
                let port = (1..EVTCHN_2L_NR_CHANNELS).find(ours);
                port.ok_or(HostError::Refused(errno::EEXIST.wrapping_neg()))
            }
            other => Ok(other?),
        }
    }
}

/// Has events raise `vector` on `vcpu`.
fn set_upcall<G: Gate>(calls: &Calls<G>, vcpu: u32, vector: u8) -> Result<Upcall, HostError> {
    if calls.set_upcall_vector(vcpu, vector).is_ok() {
        // Hosts deliver nothing while this parameter is 0, even where it is not used.
        let _ = calls.set_hvm_param(HVM_PARAM_CALLBACK_IRQ, 1);
        return Ok(Upcall::PerCpu);
    }
    calls.set_hvm_param(HVM_PARAM_CALLBACK_IRQ, CALLBACK_VECTOR | u64::from(vector))?;
    Ok(Upcall::Domain)
}
