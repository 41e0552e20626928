//! What the host counted, and what it found wrong with the guest.

use std::collections::BTreeMap;

/// Something an honest guest does not do. Tests of honest drivers assert there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Complaint {
    /// The guest named memory it does not have.
    BadAddress(u64),
    /// A hypercall's operand is shorter than the structure Xen copies.
    ShortOperand { nr: u32, command: u64, bytes: usize },
    /// A hypercall that failed for a reason a correct driver avoids: its negative result.
    Refused { nr: u32, command: u64, error: i64 },
    /// A back end could not map what the guest says it granted (`GNTST_*`).
    Grant { gref: u32, status: i16 },
    /// More requests than the ring holds, or over slots whose response is due.
    RingOverrun { device: u32 },
    /// A request the back end will not serve.
    BadRequest {
        device: u32,
        id: u64,
        why: &'static str,
    },
    /// A frame the back end will not send, or a receive buffer it cannot use.
    BadFrame {
        device: u32,
        queue: usize,
        id: u16,
        why: &'static str,
    },
    /// The xenstore connection was given up.
    StoreProtocol,
    /// A front end's keys are missing or unusable.
    BadKeys { device: u32, why: &'static str },
}

/// What network back ends counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Frames sent for the guest, slots of data they had, and bytes.
    pub tx_frames: u64,
    pub tx_slots: u64,
    pub tx_bytes: u64,
    /// Responses put on transmit rings, those of extras too.
    pub tx_responses: u64,
    /// Frames delivered to the guest, slots they filled, those of extras too, and bytes.
    pub rx_frames: u64,
    pub rx_slots: u64,
    pub rx_bytes: u64,
    /// Frames for the guest that it cannot take: too long for its MTU or for one buffer.
    pub rx_dropped: u64,
}

/// Counted by the host. Drivers count on their own side; the two must agree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Hypercalls by number.
    pub hypercalls: BTreeMap<u32, u64>,
    /// Hypercalls by number and command (first argument).
    pub commands: BTreeMap<(u32, u64), u64>,
    /// Events the guest sent.
    pub events_from_guest: u64,
    /// Events sent to the guest.
    pub events_to_guest: u64,
    /// Upcall interrupts the guest took.
    pub interrupts: u64,
    /// Requests taken off block rings.
    pub requests: u64,
    /// Responses put on block rings.
    pub responses: u64,
    /// Responses whose event the front end had suppressed.
    pub events_suppressed: u64,
    /// Bytes read from disks for the guest.
    pub bytes_read: u64,
    /// Bytes written to disks by the guest.
    pub bytes_written: u64,
    /// What network back ends counted.
    pub net: NetCounters,
    /// Grant mappings made and given back.
    pub grant_maps: u64,
    pub grant_unmaps: u64,
    /// xenstore requests handled.
    pub store_requests: u64,
    /// Actions of the host.
    pub steps: u64,
}

impl Counters {
    /// All hypercalls.
    pub fn hypercalls_total(&self) -> u64 {
        self.hypercalls.values().sum()
    }

    /// Hypercalls with this number and command.
    pub fn command(&self, nr: u32, command: u64) -> u64 {
        self.commands.get(&(nr, command)).copied().unwrap_or(0)
    }
}

/// Counters and complaints.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    pub counters: Counters,
    pub complaints: Vec<Complaint>,
}

impl Ledger {
    /// Notes a complaint.
    pub fn complain(&mut self, complaint: Complaint) {
        self.complaints.push(complaint);
    }
}
