//! The network as the jobs use it: smoltcp over an interface that may go away and come back, and HTTP.

pub mod http;
mod spread;
mod stack;

pub use stack::{Access, Facts, Service, Step, run};
