//! The synthetic interrupt controller: messages and event flags.
//!
//! Source: TLFS, "Virtual interrupt control". One 256-byte slot per SINT in the message page, 2048
//! flags per SINT in the event-flags page. SINT 2 is VMBus's; timers have a SINT of their own, so
//! that their messages never queue behind the bus's.

use super::abi::{
    ENABLE, KIND_TIMER_EXPIRED, MESSAGE_PENDING, MessageSlot, PAYLOAD, SINT_MASKED, SINT_PRESERVED,
};
use super::overlay::Overlay;
use crate::gate::{Gate, HvGet, HvRegister, HvSet};
use crate::platform::Platform;
use crate::shm::{Page, Pages, full_barrier};
use crate::signals::Signals;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::Mutex;

/// The SINT of VMBus: its messages and its event flags.
pub const VMBUS_SINT: u8 = 2;
/// The SINT of timer messages.
pub const TIMER_SINT: u8 = 4;

/// Bytes of a SINT's slot in either page.
const SLOT: usize = 256;
const VMBUS_SLOT: usize = VMBUS_SINT as usize * SLOT;
const TIMER_SLOT: usize = TIMER_SINT as usize * SLOT;
/// 64-bit words of event flags of one SINT.
const FLAG_WORDS: usize = SLOT / 8;

/// A message from the host, copied out of its slot.
#[derive(Clone, Copy)]
pub struct Message {
    /// Its type: 1 for a message that was posted, as all of VMBus's are.
    pub kind: u32,
    size: u8,
    payload: [u8; PAYLOAD],
}

impl Message {
    /// The payload, 240 bytes at most.
    pub fn payload(&self) -> &[u8] {
        self.payload
            .get(..usize::from(self.size))
            .unwrap_or(&self.payload)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({:#x}, {:x?})", self.kind, self.payload())
    }
}

/// The message page, the event-flags page and their two interrupt sources.
#[derive(Debug)]
pub(super) struct Synic<P: Platform, G: Gate> {
    gate: G,
    /// Held while a message is taken; never by the interrupt handler.
    taking: Mutex<()>,
    /// Words of event flags that can have one that somebody expects.
    expected: AtomicU32,
    messages: Overlay<P, G>,
    flags: Overlay<P, G>,
}

impl<P: Platform, G: Gate> Synic<P, G> {
    /// Turns the controller of this processor on, with `vector` for both sources.
    pub(super) fn new(gate: &G, messages: Pages<P>, flags: Pages<P>, vector: u8) -> Self {
        let synic = Self {
            gate: gate.clone(),
            taking: Mutex::new(()),
            expected: AtomicU32::new(0),
            messages: Overlay::new(gate, HvRegister::Simp, messages),
            flags: Overlay::new(gate, HvRegister::Siefp, flags),
        };
        for sint in [VMBUS_SINT, TIMER_SINT] {
            synic.set_sint(sint, vector.into());
        }
        synic.set_control(ENABLE);
        synic
    }

    /// Auto-EOI stays off: the kernel acknowledges its vector itself, every host allows that, and
    /// many advise against auto-EOI.
    fn set_sint(&self, sint: u8, bits: u64) {
        let register = HvRegister::Sint(sint);
        let kept = self.gate.hv_get(HvGet::new(register)) & SINT_PRESERVED;
        self.gate.hv_set(HvSet::new(register, kept | bits));
    }

    fn set_control(&self, enable: u64) {
        let kept = self.gate.hv_get(HvGet::new(HvRegister::Scontrol)) & !ENABLE;
        self.gate
            .hv_set(HvSet::new(HvRegister::Scontrol, kept | enable));
    }

    /// Whether a message for VMBus waits.
    #[inline]
    pub(super) fn has_message(&self) -> bool {
        self.messages
            .page()
            .is_some_and(|page| page.load_u32::<VMBUS_SLOT>() != 0)
    }

    /// Takes the message for VMBus that waits, and lets the host put the next one.
    pub(super) fn take_message(&self) -> Option<Message> {
        let _one_at_a_time = self.taking.lock();
        let page = self.messages.page()?;
        if page.load_u32::<VMBUS_SLOT>() == 0 {
            return None;
        }
        let slot = page.read::<MessageSlot, VMBUS_SLOT>();
        self.free_slot::<VMBUS_SLOT, { VMBUS_SLOT + 5 }>(page);
        Some(Message {
            kind: slot.kind,
            size: slot.size,
            payload: slot.payload,
        })
    }

    /// Whether the timer's message came since this was last asked. Called from the interrupt
    /// handler; twice at once does no harm.
    pub(super) fn take_timer(&self) -> bool {
        let Some(page) = self.messages.page() else {
            return false;
        };
        let kind = page.load_u32::<TIMER_SLOT>();
        if kind == 0 {
            return false;
        }
        self.free_slot::<TIMER_SLOT, { TIMER_SLOT + 5 }>(page);
        kind == KIND_TIMER_EXPIRED
    }

    /// Marks a slot free. The host looks at the type, then says in the flags that more waits:
    /// the flags are read after the type is seen cleared, or the next message never comes.
    fn free_slot<const KIND: usize, const FLAGS: usize>(&self, page: Page<'_>) {
        page.store_u32::<KIND>(0);
        full_barrier();
        if page.load_u8::<FLAGS>() & MESSAGE_PENDING != 0 {
            self.gate.hv_set(HvSet::new(HvRegister::Eom, 0));
        }
    }

    /// Has the handler look for an event flag. Flags are dense from 1 on, so it looks at all up to
    /// the highest.
    pub(super) fn expect_event(&self, flag: u32) {
        let words = (flag >> 6).saturating_add(1).min(FLAG_WORDS as u32);
        self.expected.fetch_max(words, Ordering::Relaxed);
    }

    /// Moves VMBus's event flags into `signals`. Each word is cleared in one step: a host does
    /// not interrupt for a flag that is still set.
    pub(super) fn take_events(&self, signals: &Signals) {
        let Some(page) = self.flags.page() else {
            return;
        };
        let Ok(flags) = page.span().part(VMBUS_SLOT, SLOT) else {
            return;
        };
        for word in 0..self.expected.load(Ordering::Relaxed) {
            let at = (word as usize).wrapping_mul(8);
            // The plain load spares a locked instruction.
            if flags.load_u64(at).unwrap_or(0) == 0 {
                continue;
            }
            let mut bits = flags.swap_u64(at, 0).unwrap_or(0);
            while bits != 0 {
                signals.raise(word << 6 | bits.trailing_zeros());
                bits &= bits.wrapping_sub(1);
            }
        }
    }
}

impl<P: Platform, G: Gate> Drop for Synic<P, G> {
    /// Silences the sources before the pages go.
    fn drop(&mut self) {
        for sint in [VMBUS_SINT, TIMER_SINT] {
            self.set_sint(sint, SINT_MASKED);
        }
        self.set_control(0);
    }
}
