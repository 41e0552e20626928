//! What a host counted while a guest ran: the evidence tests assert on.

use std::collections::BTreeMap;

/// Counts since the host was made. Taking a copy before and after gives an interval.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Hypercalls by call code, refused ones included.
    pub hypercalls: BTreeMap<u16, u64>,
    /// VMBus messages the guest posted and the host accepted.
    pub messages_in: u64,
    /// VMBus messages the host produced.
    pub messages_out: u64,
    /// Channel signals from the guest (HvSignalEvent to a channel that exists).
    pub signals: u64,
    /// Channel events the host set for the guest.
    pub events: u64,
    /// Interrupts raised by the SynIC.
    pub interrupts: u64,
    /// Ring packets from the guest.
    pub packets_in: u64,
    /// Ring packets to the guest.
    pub packets_out: u64,
    /// SCSI commands executed.
    pub commands: u64,
    /// Bytes from disks into guest memory.
    pub bytes_read: u64,
    /// Bytes from guest memory onto disks.
    pub bytes_written: u64,
    /// What the guest did against the protocol, in order. A correct guest leaves this empty.
    pub violations: Vec<String>,
}

impl Counters {
    /// All hypercalls.
    pub fn all_hypercalls(&self) -> u64 {
        self.hypercalls.values().sum()
    }

    /// Notes a breach of protocol by the guest.
    pub fn violation(&mut self, what: impl Into<String>) {
        // A guest in a loop must not fill the host's memory.
        if self.violations.len() < 1000 {
            self.violations.push(what.into());
        }
    }
}
