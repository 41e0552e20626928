//! How a simulated processor takes interrupts: a handler, and a count that waiters compare.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

type Handler = Arc<dyn Fn() + Send + Sync>;

/// The handler of the one vector that drivers ask for, and how often it has run. Clones are the
/// same processor's.
#[derive(Clone, Default)]
pub struct Interrupts {
    handler: Arc<Mutex<Option<Handler>>>,
    taken: Arc<AtomicU64>,
}

impl Interrupts {
    /// What runs when the vector is raised.
    pub fn set_handler(&self, handler: impl Fn() + Send + Sync + 'static) {
        *self.handler.lock().expect("no panic inside") = Some(Arc::new(handler));
    }

    /// How many were taken so far.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }

    /// Takes one.
    pub fn take(&self) {
        let handler = self.handler.lock().expect("no panic inside").clone();
        if let Some(handler) = handler {
            handler();
        }
        // Counted when it has been handled: what the host did before the handler cleared the
        // event raises no other interrupt, and must wake whoever looked before.
        self.taken.fetch_add(1, Ordering::AcqRel);
    }
}
