//! How long requests take and in which order they end.

use crate::rng::Rng;

/// How long requests take and in which order they finish, in steps of the host that owns them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// Steps a request waits at least.
    pub min_steps: u64,
    /// Steps a request waits at most.
    pub max_steps: u64,
    /// Finish in a seeded order instead of the order of arrival.
    pub out_of_order: bool,
}

impl Latency {
    /// At once and in order.
    pub const NONE: Latency = Latency {
        min_steps: 0,
        max_steps: 0,
        out_of_order: false,
    };
}

/// Requests a back end has taken and not yet finished.
#[derive(Debug)]
pub struct InFlight<T> {
    latency: Latency,
    rng: Rng,
    /// Steps each still has to wait.
    waiting: Vec<(u64, T)>,
}

impl<T> InFlight<T> {
    /// The same seed finishes the same requests in the same order.
    pub fn new(latency: Latency, seed: u64) -> Self {
        InFlight {
            latency,
            rng: Rng::new(seed),
            waiting: Vec::new(),
        }
    }

    /// Changes what happens to requests that arrive from now on.
    pub fn set_latency(&mut self, latency: Latency) {
        self.latency = latency;
    }

    /// Takes a request in.
    pub fn push(&mut self, request: T) {
        let wait = self
            .rng
            .between(self.latency.min_steps, self.latency.max_steps);
        self.waiting.push((wait, request));
    }

    /// Lets one step pass.
    pub fn tick(&mut self) {
        for (wait, _) in &mut self.waiting {
            *wait = wait.saturating_sub(1);
        }
    }

    /// A request whose time has come, if any: the oldest, or a seeded choice when out of order.
    pub fn pop_due(&mut self) -> Option<T> {
        let due: Vec<usize> = (0..self.waiting.len())
            .filter(|&i| self.waiting[i].0 == 0)
            .collect();
        let chosen = if self.latency.out_of_order {
            *due.get(self.rng.below(due.len() as u64) as usize)?
        } else {
            // In order, a slow request holds up the ones behind it.
            *due.first().filter(|&&i| i == 0)?
        };
        Some(self.waiting.remove(chosen).1)
    }

    /// Gives all of them up, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|(_, request)| request)
    }

    /// Requests taken and not finished.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
