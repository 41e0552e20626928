//! Which channels the host has signalled, and who waits for them.
//!
//! The interrupt handler only moves bits from the host's pages into this table, by atomics, and
//! wakes; the drivers take the bits when they poll.

use atomic_waker::AtomicWaker;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::task::Waker;

/// Signals a host can raise: 4096 event channels (Xen's 2-level ABI) or 2048 event flags
/// (Hyper-V).
pub const SIGNALS: u32 = 4096;

/// Wakers the table can hold: one for each channel that is waited on by a task.
pub const WAKERS: usize = 64;

/// No signal: the slot is free.
const FREE: u32 = u32::MAX;

/// Pending signals and their wakers. All methods are safe to call from an interrupt handler.
pub struct Signals {
    pending: [AtomicU64; 64],
    wakers: [(AtomicU32, AtomicWaker); WAKERS],
}

impl Default for Signals {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pending = (0..SIGNALS).filter(|s| self.is_pending(*s));
        f.debug_set().entries(pending).finish()
    }
}

/// All wakers are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoWaker;

impl Signals {
    /// Nothing pending, nobody waiting.
    pub const fn new() -> Self {
        Self {
            pending: [const { AtomicU64::new(0) }; 64],
            wakers: [const { (AtomicU32::new(FREE), AtomicWaker::new()) }; WAKERS],
        }
    }

    #[inline]
    fn word(&self, signal: u32) -> Option<(&AtomicU64, u64)> {
        let word = self.pending.get((signal >> 6) as usize)?;
        Some((word, 1 << (signal & 63)))
    }

    /// Marks a signal and wakes who waits for it; a number out of range is ignored.
    pub fn raise(&self, signal: u32) {
        if let Some((word, bit)) = self.word(signal) {
            word.fetch_or(bit, Ordering::Release);
            for (of, waker) in &self.wakers {
                if of.load(Ordering::Acquire) == signal {
                    waker.wake();
                }
            }
        }
    }

    /// Wakes everybody who waits, whatever for: something happened that concerns many.
    pub fn wake_all(&self) {
        for (of, waker) in &self.wakers {
            if of.load(Ordering::Acquire) != FREE {
                waker.wake();
            }
        }
    }

    /// Takes a signal: whether it was raised since it was last taken.
    #[inline]
    pub fn take(&self, signal: u32) -> bool {
        // The plain load keeps a poll that finds nothing free of locked instructions.
        let Some(word) = self.pending.get((signal >> 6) as usize) else {
            return false;
        };
        if word.load(Ordering::Relaxed) >> (signal & 63) & 1 == 0 {
            return false;
        }
        let bit = 1 << (signal & 63);
        word.fetch_and(!bit, Ordering::Acquire) & bit != 0
    }

    /// Whether a signal was raised and not yet taken.
    #[inline]
    pub fn is_pending(&self, signal: u32) -> bool {
        self.word(signal)
            .is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    /// Has `waker` woken when the signal is next raised, or at once when it is pending. One task
    /// waits for a signal; the last to register wins.
    ///
    /// # Errors
    /// [`NoWaker`] when [`WAKERS`] other signals are waited for.
    pub fn register(&self, signal: u32, waker: &Waker) -> Result<(), NoWaker> {
        let slot = self
            .find(signal)
            .or_else(|| {
                self.wakers.iter().find(|(of, _)| {
                    of.compare_exchange(FREE, signal, Ordering::AcqRel, Ordering::Relaxed)
                        .is_ok()
                })
            })
            .ok_or(NoWaker)?;
        slot.1.register(waker);
        if self.is_pending(signal) {
            slot.1.wake();
        }
        Ok(())
    }

    /// Forgets a signal: what is pending and who waits. For a channel that is closed.
    pub fn forget(&self, signal: u32) {
        let _ = self.take(signal);
        if let Some((of, waker)) = self.find(signal) {
            waker.wake();
            of.store(FREE, Ordering::Release);
        }
    }

    fn find(&self, signal: u32) -> Option<&(AtomicU32, AtomicWaker)> {
        self.wakers
            .iter()
            .find(|(of, _)| of.load(Ordering::Acquire) == signal)
    }
}
