//! A request in flight, and its answer.

use crate::error::StoreError;
use crate::proto::Ticket;
use crate::store::Xenstore;
use core::fmt;
use core::mem::ManuallyDrop;
use hypercall::platform::wait_for;
use hypercall::shm::Span;
use hypercall::{Gate, Platform};

/// A request in flight. Dropping it only means that nobody waits for the answer.
pub struct Pending<'s, 'h, P: Platform, G: Gate> {
    store: &'s Xenstore<'h, P, G>,
    ticket: Ticket,
}

impl<P: Platform, G: Gate> fmt::Debug for Pending<'_, '_, P, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pending({:#x})", self.ticket.id())
    }
}

impl<'s, 'h, P: Platform, G: Gate> Pending<'s, 'h, P, G> {
    pub(crate) fn new(store: &'s Xenstore<'h, P, G>, ticket: Ticket) -> Self {
        Self { store, ticket }
    }

    /// The bare ticket, whose holder must release it.
    pub(crate) fn into_ticket(self) -> Ticket {
        ManuallyDrop::new(self).ticket
    }

    /// What became of it, as far as is known; `None` while it is in flight.
    pub(crate) fn outcome(&self) -> Option<Result<usize, StoreError>> {
        self.store.outcome(self.ticket)
    }

    /// Takes in what has come. Answers the length of this request's answer when it is there;
    /// `None` while it is in flight.
    pub(crate) fn poll(&self) -> Option<Result<usize, StoreError>> {
        // A fault shows in the outcome, unless the answer came before it.
        let _ = self.store.poll();
        self.outcome()
    }

    /// Waits for the answer.
    pub(crate) fn wait(self, until: u64) -> Result<Answer<'s, 'h, P, G>, StoreError> {
        let len = wait_for(self.store.platform(), until, || self.poll())??;
        Ok(Answer { pending: self, len })
    }

    /// The answer's place, of which the bytes that [`poll`](Self::poll) told are the answer.
    pub(crate) fn payload(&self, len: usize) -> Span<'s> {
        self.store.answer(self.ticket, len)
    }
}

impl<P: Platform, G: Gate> Drop for Pending<'_, '_, P, G> {
    fn drop(&mut self) {
        self.store.release(self.ticket);
    }
}

/// An answer, which keeps its slot until it is dropped.
pub struct Answer<'s, 'h, P: Platform, G: Gate> {
    pending: Pending<'s, 'h, P, G>,
    len: usize,
}

impl<P: Platform, G: Gate> fmt::Debug for Answer<'_, '_, P, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({} bytes)", self.len)
    }
}

impl<'s, P: Platform, G: Gate> Answer<'s, '_, P, G> {
    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn payload(&self) -> Span<'s> {
        self.pending.payload(self.len)
    }

    /// The answer as text; a final NUL does not count.
    pub(crate) fn text<const N: usize>(&self) -> Result<heapless::String<N>, StoreError> {
        text(self.payload())
    }
}

/// Bytes as text of at most `N` bytes; a final NUL does not count.
pub(crate) fn text<const N: usize>(bytes: Span<'_>) -> Result<heapless::String<N>, StoreError> {
    let mut len = bytes.len();
    if len != 0 && bytes.load_u8(len.saturating_sub(1)) == Ok(0) {
        len = len.saturating_sub(1);
    }
    let mut copy = heapless::Vec::<u8, N>::new();
    copy.resize_default(len).map_err(|_| StoreError::TooLong)?;
    bytes.copy_out(0, &mut copy)?;
    heapless::String::from_utf8(copy).map_err(|_| StoreError::BadValue)
}
