//! A Hyper-V host as its guest sees it: SynIC, VMBus, storvsp with disks and netvsp with a line, in
//! one thread and in simulated time, one host action at a time.
//!
//! Start at [`machine::HyperVHost`]. It shares no ring code, wire structure or check with the
//! drivers. Whatever a guest does against the protocol is refused as a real host would refuse it and
//! noted in [`counters::Counters::violations`], which a correct guest leaves empty.

#![forbid(unsafe_code)]

pub mod abi;
pub mod channel;
pub mod counters;
pub mod cpuid;
pub mod flat;
pub mod gpa;
pub mod gpadl;
#[cfg(test)]
mod hand_guest;
pub mod hostile;
pub mod machine;
pub mod netvsp;
pub mod ring;
pub mod scsi;
pub mod storvsp;
pub mod synic;
pub mod vmbus_server;
