//! The Hyper-V bus: messages, offers, GPADLs and channel rings.
//!
//! [`VmBus::connect`] agrees on a version with the host. Its [`poll`](hypercall::bus::Bus::poll)
//! tells which devices come and go; [`VmBus::open`] makes a [`Channel`] to one of them, over which
//! packets go both ways.
//!
//! * [`abi`] is the wire: messages and packets.
//! * [`proto`] is what messages mean: values in, values out.
//! * [`ring`] is how packets lie in memory.
//!
//! What a channel's packets and messages name to the host, the host can write: the drivers above
//! see to it that it is lent memory.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod abi;
mod bus;
mod channel;
mod error;
mod loan;
pub mod proto;
pub mod ring;

pub use abi::guid::Guid;
pub use abi::version::Version;
pub use bus::{Config, VmBus};
pub use channel::{Channel, MAX_RING_PAGES};
pub use error::{ConnectError, OpenError};
pub use loan::LOANS;
pub use proto::offers::Offer;
pub use ring::{Answers, Form, Incoming, Outgoing, SendError};
