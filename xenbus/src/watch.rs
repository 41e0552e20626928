//! Watches: which are set, and which have fired.
//!
//! A watch event says only that something may have changed, so one flag a watch is all that is
//! kept of them: a host that sends many fills nothing up.

use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Watches that can be set at once: one for each connected device, and one for the bus.
pub const WATCHES: usize = 64;

/// Bytes of a token, without its final NUL.
pub const TOKEN: usize = 16;

/// A watch that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchId {
    slot: usize,
    generation: u32,
}

impl WatchId {
    /// What names it over the wire.
    pub fn token(self) -> heapless::String<TOKEN> {
        let mut token = heapless::String::new();
        // Two digits, a point and at most ten digits fit.
        let _ = write!(token, "{}.{}", self.slot, self.generation);
        token
    }
}

/// The table of watches.
#[derive(Debug)]
pub struct Watches {
    slots: [Slot; WATCHES],
    next: AtomicU32,
}

#[derive(Debug)]
struct Slot {
    /// 0 while the slot is free.
    generation: AtomicU32,
    fired: AtomicBool,
}

impl Default for Watches {
    fn default() -> Self {
        Self::new()
    }
}

impl Watches {
    /// None set.
    pub const fn new() -> Self {
        Self {
            slots: [const {
                Slot {
                    generation: AtomicU32::new(0),
                    fired: AtomicBool::new(false),
                }
            }; WATCHES],
            next: AtomicU32::new(1),
        }
    }

    /// Takes a slot; `None` when all are taken.
    pub fn begin(&self) -> Option<WatchId> {
        // Odd, so never 0.
        let generation = self.next.fetch_add(2, Ordering::Relaxed);
        let slot = self.slots.iter().position(|slot| {
            let claim = slot.generation.compare_exchange(
                0,
                generation,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            claim.is_ok()
        })?;
        let id = WatchId { slot, generation };
        let _ = self.take(id);
        Some(id)
    }

    #[inline]
    fn slot(&self, id: WatchId) -> Option<&Slot> {
        self.slots
            .get(id.slot)
            .filter(|slot| slot.generation.load(Ordering::Acquire) == id.generation)
    }

    /// Frees a slot.
    pub fn end(&self, id: WatchId) {
        if let Some(slot) = self.slot(id) {
            slot.generation.store(0, Ordering::Release);
        }
    }

    /// Notes an event by its token; one that is not ours (any more) is ignored.
    pub fn fire(&self, token: &[u8]) {
        let id = core::str::from_utf8(token).ok().and_then(|token| {
            let (slot, generation) = token.split_once('.')?;
            Some(WatchId {
                slot: slot.parse().ok()?,
                generation: generation.parse().ok()?,
            })
        });
        // A free slot's generation is 0, which no watch has.
        if let Some(id) = id.filter(|id| id.generation != 0) {
            self.set(id);
        }
    }

    /// Marks a watch as fired.
    pub fn set(&self, id: WatchId) {
        if let Some(slot) = self.slot(id) {
            slot.fired.store(true, Ordering::Release);
        }
    }

    /// Whether a watch has fired since this was last asked.
    pub fn take(&self, id: WatchId) -> bool {
        self.slot(id).is_some_and(|slot| {
            slot.fired.load(Ordering::Relaxed) && slot.fired.swap(false, Ordering::AcqRel)
        })
    }

    /// Whether a watch has fired and nobody took note.
    #[inline]
    pub fn is_fired(&self, id: WatchId) -> bool {
        self.slot(id)
            .is_some_and(|slot| slot.fired.load(Ordering::Acquire))
    }
}
