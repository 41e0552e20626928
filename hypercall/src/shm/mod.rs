//! Memory shared with a host that is not trusted.
//!
//! The host may write such memory at any moment, so no Rust reference to it ever exists. It is
//! reached by atomic words (indices, flags), by copying whole records out or in ([`Page::read`],
//! [`Slot::read`]) and by bulk copies ([`Span::copy_out`]). What was copied out once is private:
//! check the copy, never the memory.
//!
//! * [`Page`], [`Span`] and [`Words`] are views of one page, of any run of bytes, of aligned
//!   words.
//! * [`Pages`] owns a run of pages; [`Lent`] is a run the host was given access to; [`Boxed`] is a
//!   private value in pages of its own, and [`Shared`] one that has several owners.
//! * [`Pool`] cuts lent pages into [`Buf`]s that return by themselves, and [`Stock`] draws many at
//!   once; a [`Piece`] is bytes in one page; [`Sections`] hands out parts of a run that is one piece to the host.
//!
//! Where a host can be seen to have let go of a page (a grant that was ended), a [`Withdrawn`] lends
//! slices of it until the page is lent again.
//!
//! Memory that the host may still write is never given back to the kernel: a [`Lent`] that is
//! dropped instead of reclaimed is leaked on purpose.

mod boxed;
mod buf;
#[cfg(feature = "hosted")]
pub mod hosted;
mod lent;
mod page;
mod pages;
mod piece;
mod pieces;
mod pool;
mod record;
mod records;
mod sections;
mod segments;
mod shared;
mod span;
mod stock;
#[cfg(all(test, feature = "hosted"))]
#[expect(clippy::unwrap_used, reason = "a test that finds nothing fails")]
mod tests;
mod tickets;
mod withdrawn;
mod words;

pub use boxed::Boxed;
pub use buf::{AppendError, Buf};
pub use lent::{Access, Lent};
pub use page::{Page, Slot, full_barrier};
pub use pages::{HostPage, OutOfPages, Pages};
pub use piece::{InPage, Piece, PoolPage};
pub use pieces::{Joint, Pieces};
pub use pool::{Pool, PoolError, PoolId};
pub use sections::{Section, Sections};
pub use segments::{OneRange, Segment, Segments};
pub use shared::Shared;
pub use span::{OutOfSpan, Span, Start};
pub use stock::Stock;
pub use tickets::{Place, Tickets};
pub use withdrawn::Withdrawn;
pub use words::Words;

pub use crate::platform::PAGE_SIZE;
