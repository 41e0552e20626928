//! A machine whose time keeps to this one's while its guest waits: for guests that talk to programs
//! here. A simulated host left alone lets time fly when nothing happens in it.

use super::Gateway;
use hypercall::shm::hosted::Machine;
use std::time::Duration;

/// The shortest and the longest time that passes at once while nothing happens, in nanoseconds.
const LEAST: u64 = 20_000;
const MOST: u64 = 1_000_000;

/// A machine with a gateway that is polled while the guest waits.
#[derive(Clone)]
pub struct Paced<M> {
    machine: M,
    gateway: Gateway,
}

impl<M: Machine> Paced<M> {
    /// The same machine, at this machine's pace.
    pub fn new(machine: M, gateway: Gateway) -> Self {
        Self { machine, gateway }
    }
}

impl<M: Machine> Machine for Paced<M> {
    fn now(&self) -> u64 {
        self.machine.now()
    }

    fn wait_token(&self) -> u64 {
        self.machine.wait_token()
    }

    fn wait(&self, token: u64, until: u64) {
        let mut slice = LEAST;
        loop {
            let ready = self.gateway.poll();
            let now = self.now();
            if self.wait_token() != token || now >= until {
                return;
            }
            self.machine
                .wait(token, until.min(now.saturating_add(slice)));
            if self.wait_token() != token {
                return;
            }
            if !ready && !self.gateway.poll() {
                std::thread::sleep(Duration::from_nanos(slice));
                slice = (slice * 2).min(MOST);
            }
        }
    }
}
