//! Hyper-V storage: the guest side of a SCSI controller.
//!
//! `abi` is the wire, `scsi` the commands.

pub mod abi;
pub mod scsi;
