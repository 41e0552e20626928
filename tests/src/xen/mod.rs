//! A simulated Xen host as one PVH or HVM guest sees it, written from Xen's public headers and
//! documents. Start at [`machine`].

#![forbid(unsafe_code)]

pub mod abi;
mod blk_habits;
mod blk_request;
pub mod blkback;
pub mod blkif_ring;
pub mod config;
pub mod console;
pub mod cpu;
mod domain;
pub mod evtchn;
pub mod gate;
pub mod grants;
pub mod hostile;
mod hypercalls;
pub mod ledger;
pub mod machine;
mod net_habits;
pub mod netback;
mod netback_rx;
mod netback_tx;
pub mod netif_ring;
mod network;
pub mod pair;
pub mod site;
pub mod time;
pub mod vif;
pub mod window;
pub mod xenbus;
mod xenstore_requests;
pub mod xenstore_ring;
pub mod xenstore_tree;
pub mod xenstored;

#[cfg(test)]
mod tests;
