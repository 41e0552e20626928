//! The simulated hosts: both hypervisors and their back ends, written from the specifications
//! and sharing no ring code, wire struct or check with the drivers they test.

pub mod disk;
pub mod hyperv;
pub mod interrupts;
pub mod memory;
pub mod net;
pub mod ram;
pub mod rng;
pub mod sim_hyperv;
pub mod sim_xen;
pub mod suite;
pub mod xen;
