//! What the common traits promise, tested once and run over every simulated host.

pub mod block;
pub mod block_life;
pub mod block_model;
mod block_tasks;
mod every;
pub mod lab;
mod lab_hyperv;
mod lab_xen;
pub mod net;
pub mod net_costs;
mod net_every;
mod net_hyperv;
pub mod net_lab;
pub mod net_life;
pub mod net_model;
pub mod net_session;
mod net_xen;

pub use lab_hyperv::HyperVLab;
pub use lab_xen::XenLab;
pub use net_hyperv::{HyperVNetLab, SimNetvsc};
pub use net_xen::XenNetLab;
