//! The Xen bus: xenstore, watches and the device state machine.
//!
//! Xenstore is a small tree of text that a daemon of the host keeps. Devices are directories in
//! it; a front end (here) and a back end (there) meet by writing what the other needs to know
//! and a state, and by watching the other's state.
//!
//! * [`wire`] is the format, [`proto`] the book-keeping of requests in flight (values in, values
//!   out), [`ring`] the shared page;
//! * [`store`] joins them: [`Xenstore`] reads, writes, lists, watches, in transactions if need be;
//! * [`watched`] keeps an eye on one value;
//! * [`state`] is the state machine of a connection, [`frontend`] drives it for one device;
//! * [`bus`] finds the devices and notices those that come and go.
//!
//! ```no_run
//! # fn f<P: hypercall::Platform, G: hypercall::Gate>(xen: &hypercall::xen::Xen<P, G>)
//! # -> Result<(), Box<dyn core::error::Error>> {
//! use hypercall::bus::{Bus, BusEvent};
//! use pv_xenbus::{Config, XenBus};
//!
//! let bus = XenBus::connect(xen, Config::default())?;
//! bus.wait_devices(5_000_000_000)?;
//! while let Some(event) = bus.poll()? {
//!     if let BusEvent::Offered(device) = event {
//!         let frontend = bus.frontend(&device)?;
//!         frontend.prepare(5_000_000_000)?;
//!         let sectors: Option<u64> = frontend.read_backend("sectors")?;
//!     }
//! }
//! # Ok(()) }
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod bus;
pub mod device;
pub mod error;
pub mod frontend;
pub mod listing;
pub mod path;
pub mod proto;
pub mod request;
pub mod ring;
pub mod state;
pub mod store;
#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows fails"
)]
mod tests;
pub mod transaction;
mod tree;
pub mod watch;
pub mod watched;
pub mod wire;

pub use bus::{Config, ConnectError, XenBus};
pub use device::{Device, Kind};
pub use error::{StoreError, XsError};
pub use frontend::{Frontend, FrontendError};
pub use path::Path;
pub use state::State;
pub use store::Xenstore;
pub use transaction::Transaction;
pub use watched::Watched;
