//! The packet rings of a channel: one for each direction, each a control page and data pages.
//!
//! On the wire, indices are byte offsets into the data area, multiples of 8, and equal when the
//! ring is empty; so 8 bytes always stay free. In here they count words of 8 bytes. Our own index is private and only ever stored; the host's is
//! loaded once, checked, and kept.
//!
//! Source: OpenVMM, `vmbus_ring/src/lib.rs`; Linux, `drivers/hv/ring_buffer.c` for which side
//! signals when.

mod outgoing;
mod receiver;
mod sender;
#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows fails"
)]
mod tests;

pub use outgoing::{Outgoing, SendError};
pub use receiver::{Armed, Form, Incoming, Receiver};
pub use sender::{Answers, Sender};

use crate::abi::packet::{FEATURE_BITS, FEATURE_PENDING_SEND_SIZE};
use hypercall::platform::{PAGE_SIZE, Platform};
use hypercall::shm::Lent;

/// Where the data area starts in a ring's run of pages, in words.
const DATA: usize = PAGE_SIZE / 8;

/// Words that stay free, so that a full ring differs from an empty one.
const GAP: u32 = 1;

/// Words in the data area of a ring. At least one page, at most what an index can name.
fn data_words<P: Platform>(memory: &Lent<P>) -> Option<u32> {
    let pages = memory.count().checked_sub(1).filter(|pages| *pages != 0)?;
    u32::try_from(pages.checked_mul(DATA)?)
        .ok()
        .filter(|words| *words <= u32::MAX / 16)
}

/// An index that the host wrote, in words; `None` when it is no place in the ring.
#[inline]
fn index(bytes: u32, size: u32) -> Option<u32> {
    let words = bytes >> 3;
    (bytes & 7 == 0 && words < size).then_some(words)
}

/// Says in the control page what we know of; both sides look at either ring's.
fn announce<P: Platform>(memory: &Lent<P>) {
    memory
        .first()
        .store_u32::<FEATURE_BITS>(FEATURE_PENDING_SEND_SIZE);
}

/// Words from index `from` on to index `to`; both are below `size`.
#[inline]
fn distance(from: u32, to: u32, size: u32) -> u32 {
    let straight = to.wrapping_sub(from);
    if to >= from {
        straight
    } else {
        straight.wrapping_add(size)
    }
}

/// The index `by` bytes behind `from`; both are at most `size`.
#[inline]
fn advance(from: u32, by: u32, size: u32) -> u32 {
    let sum = from.wrapping_add(by);
    if sum >= size {
        sum.wrapping_sub(size)
    } else {
        sum
    }
}

/// The index behind a packet of `words` words from `at` on that lies in one piece.
#[inline(always)]
fn behind(at: u32, words: u32, size: u32) -> u32 {
    let end = at.wrapping_add(words);
    if end == size { 0 } else { end }
}

/// Where an index lies in the ring's run of pages, in words.
#[inline]
fn place(index: u32) -> usize {
    DATA.wrapping_add(index as usize)
}
