//! The guest kernel's jobs, apart from the kernel: what to do with a host, its disks and its
//! network once they are there.
//!
//! The image (`main.rs`) runs them on the machine it wakes up on; tests and the demonstration run the very same
//! code in an ordinary process, over disks in memory or over a simulated host.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod command_line;
pub mod disk;
pub mod fat;
pub mod hash;
pub mod jobs;
pub mod live;
pub mod machine;
pub mod memory;
pub mod net;
pub mod nic;
pub mod partition;
pub mod pattern;
pub mod queue_disk;
pub mod report;
