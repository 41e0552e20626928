//! Network stacks over a [`NetQueue`](crate::NetQueue), each behind a feature of its own name.
//!
//! Frames are copied once each way, out of and into memory that the host may write: stacks want
//! slices, and of such memory there are none. Checksums that were negotiated away are dealt with
//! here: of a frame to be sent the field is prepared for the host, or filled in where the host does
//! not; a received frame that the host says nothing of is checked, and one that is bad does not reach
//! the stack.

#[cfg(feature = "embassy-net-driver")]
pub mod embassy;
mod queue;
#[cfg(feature = "smoltcp")]
pub mod smoltcp;

pub use queue::{Dropped, MAX_FRAME};
