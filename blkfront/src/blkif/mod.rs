//! Xen's block interface, blkif: the front end.
//!
//! `abi` is the wire, `ring` the shared page.

pub mod abi;
pub mod ring;
