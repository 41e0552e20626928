//! What a back end needs around it to do one thing.

use super::evtchn::{EventChannels, HostPort};
use super::grants::GrantTable;
use super::hostile::Hostile;
use super::ledger::Ledger;
use crate::memory::{BadAddress, GuestMemory};
use crate::rng::Rng;

/// The parts of the machine, lent for the length of one step.
pub struct Site<'a, M> {
    pub mem: &'a M,
    pub events: &'a mut EventChannels,
    pub grants: &'a mut GrantTable,
    pub ledger: &'a mut Ledger,
    pub hostile: &'a mut Hostile,
    pub rng: &'a mut Rng,
}

impl<M: GuestMemory> Site<'_, M> {
    /// Sends an event to the guest, and counts it if there is somebody to hear.
    pub fn notify(&mut self, end: HostPort) -> Result<(), BadAddress> {
        if self.events.send_from_host(self.mem, end)? {
            self.ledger.counters.events_to_guest += 1;
        }
        Ok(())
    }
}
