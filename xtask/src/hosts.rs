//! The real hosts, each booted by its own recipe.

pub mod jobs;
pub mod l1;
pub mod linux;
pub mod xen;
