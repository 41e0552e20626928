//! How back ends differ.

use crate::disk::Latency;

/// Habits of a back end, as its keys in xenstore and its answers show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlkHabits {
    /// Feature keys are there from InitWait on (QEMU), not only when Connected (Linux).
    pub early_features: bool,
    pub flush: bool,
    pub barrier: bool,
    pub discard: bool,
    pub persistent: bool,
    /// Copies through grants when a request is done (QEMU), instead of mapping pages all along.
    pub copies: bool,
    /// Offers flush, barrier and discard, and then answers that it cannot.
    pub offers_in_vain: bool,
    /// `max-ring-page-order`; no key at all when `None`.
    pub max_ring_page_order: Option<u32>,
    /// How long requests take, in steps, and in what order they finish.
    pub latency: Latency,
    /// Put several responses on the ring before one event, as a seeded choice.
    pub lazy_events: bool,
}

impl Default for BlkHabits {
    /// Linux's blkback, at once and in order.
    fn default() -> Self {
        BlkHabits {
            early_features: false,
            flush: true,
            barrier: true,
            discard: false,
            persistent: true,
            copies: false,
            offers_in_vain: false,
            max_ring_page_order: Some(4),
            latency: Latency::NONE,
            lazy_events: false,
        }
    }
}
