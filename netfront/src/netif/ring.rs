//! The front end's side of a ring, to send or to receive by.

use super::abi::{self, RING_SIZE};
use core::marker::PhantomData;
use hypercall::shm::{Lent, Page, Slot, full_barrier};
use hypercall::{HostFault, Platform};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A ring of one page whose entries are as large as an `E`. All indices that matter are private;
/// the host's is read once, checked, and believed only as far as there are requests it could have
/// answered.
#[derive(Debug)]
pub struct Ring<P: Platform, E> {
    page: Lent<P>,
    /// Requests written, and how many of them the host may see.
    written: u32,
    published: u32,
    /// Requests written whose answers were not taken.
    outstanding: u32,
    /// How many answers the host was last seen to have given.
    seen: u32,
    entry: PhantomData<fn() -> E>,
}

impl<P: Platform, E> Ring<P, E> {
    /// Sets up an empty ring in a lent page.
    pub fn new(page: Lent<P>) -> Self {
        let shared = page.first();
        shared.store_u32::<{ abi::REQ_PROD }>(0);
        shared.store_u32::<{ abi::RSP_PROD }>(0);
        shared.store_u32::<{ abi::REQ_EVENT }>(1);
        // No answer is waited for until somebody says so.
        shared.store_u32::<{ abi::RSP_EVENT }>(0);
        Self {
            page,
            written: 0,
            published: 0,
            outstanding: 0,
            seen: 0,
            entry: PhantomData,
        }
    }

    /// The page again, when the host has let go of it.
    pub fn into_page(self) -> Lent<P> {
        self.page
    }

    /// The ring's grant reference.
    pub fn grant(&self) -> Option<u32> {
        self.page.grant()
    }

    #[inline(always)]
    fn shared(&self) -> Page<'_> {
        self.page.first()
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Slot<'_, E> {
        self.shared().slot::<E, { abi::RING }, { RING_SIZE }>(index)
    }

    /// How many more requests it has room for.
    #[inline(always)]
    pub fn room(&self) -> u32 {
        RING_SIZE.wrapping_sub(self.outstanding)
    }

    /// Requests written whose answers were not taken.
    #[inline(always)]
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// How many requests were written so far, in wrapping arithmetic: which slot is next.
    #[inline(always)]
    pub fn written(&self) -> u32 {
        self.written
    }

    /// Requests that the host was not shown yet.
    #[inline(always)]
    pub fn unpublished(&self) -> u32 {
        self.written.wrapping_sub(self.published)
    }

    /// How many answers were taken so far, in wrapping arithmetic: which slot is next.
    #[inline(always)]
    pub fn taken(&self) -> u32 {
        self.written.wrapping_sub(self.outstanding)
    }

    /// Answers that were seen and not taken.
    #[inline(always)]
    pub fn to_take(&self) -> u32 {
        self.seen.wrapping_sub(self.taken())
    }

    /// The next slot, to write a request to, not yet visible to the host. The caller makes sure
    /// that there is [`room`](Self::room).
    #[inline(always)]
    pub fn next_request(&mut self) -> Slot<'_, E> {
        let index = self.written;
        self.written = index.wrapping_add(1);
        self.outstanding = self.outstanding.wrapping_add(1);
        self.slot(index)
    }

    /// Makes what was written visible; whether the host wants to be told.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.written);
        if old == new {
            return false;
        }
        self.published = new;
        let shared = self.shared();
        shared.store_u32::<{ abi::REQ_PROD }>(new);
        // The host's wish is read after it can see the requests, or both sides could sleep.
        full_barrier();
        let event = shared.load_u32::<{ abi::REQ_EVENT }>();
        new.wrapping_sub(event) < new.wrapping_sub(old)
    }

    /// Looks for answers; how many there are to be taken.
    ///
    /// # Errors
    /// [`HostFault::RingIndex`] when the host claims more answers than it has requests.
    #[inline]
    pub fn look(&mut self) -> Result<u32, HostFault> {
        let produced = self.shared().load_u32::<{ abi::RSP_PROD }>();
        let taken = self.taken();
        let count = produced.wrapping_sub(taken);
        if count > self.published.wrapping_sub(taken) {
            return Err(HostFault::RingIndex);
        }
        self.seen = produced;
        Ok(count)
    }

    /// The slot of the next answer among those that were seen, without looking for more. What it
    /// says may be different the next time it is read.
    #[inline(always)]
    pub fn next_answer(&self) -> Option<Slot<'_, E>> {
        let taken = self.taken();
        (taken != self.seen).then(|| self.slot(taken))
    }

    /// Takes the answers that were seen, one after another: shows `each` the start of one, and how
    /// many were taken before it, as long as it says that it took it. Returns how many it did.
    #[inline(always)]
    pub fn take_each<T: FromBytes>(&mut self, mut each: impl FnMut(T, u32) -> bool) -> u32 {
        let (first, seen) = (self.taken(), self.seen);
        let mut at = first;
        while at != seen && each(self.slot(at).read_part::<T, 0>(), at) {
            at = at.wrapping_add(1);
        }
        let count = at.wrapping_sub(first);
        self.outstanding = self.outstanding.wrapping_sub(count);
        count
    }

    /// On a ring without [`room`](Self::room), where the next answer is in the next request's slot:
    /// shows `each` the answer and which slot it is in, and puts the request in its place that it
    /// returns; on `None` nothing is done. Only for as many answers as [`to_take`](Self::to_take)
    /// says.
    #[inline(always)]
    pub fn exchange<T, R>(&mut self, each: impl FnOnce(T, u8) -> Option<(T, R)>) -> Option<R>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        let at = self.written as u8;
        let slot = self.slot(at.into());
        let (request, result) = each(slot.read_part::<T, 0>(), at)?;
        slot.write_part::<T, 0>(&request);
        self.written = self.written.wrapping_add(1);
        Some(result)
    }

    /// Passes over the next answer.
    #[inline(always)]
    pub fn advance(&mut self) {
        self.outstanding = self.outstanding.wrapping_sub(1);
    }

    /// Takes no more answers: those that were seen are forgotten.
    pub fn shut(&mut self) {
        self.seen = self.taken();
    }

    /// Asks to be told when `count` more answers than were taken have come; whether there is any
    /// already.
    #[inline]
    pub fn arm(&mut self, count: u32) -> bool {
        let shared = self.shared();
        shared.store_u32::<{ abi::RSP_EVENT }>(self.taken().wrapping_add(count));
        // The host looks at the wish after it answers; so must we look at answers after wishing.
        full_barrier();
        self.has_more()
    }

    /// Whether there are answers that were not taken, by the host's account.
    #[inline]
    pub fn has_more(&self) -> bool {
        self.shared().load_u32::<{ abi::RSP_PROD }>() != self.taken()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netif::abi::{RxRequest, TxRequest};
    use hypercall::shm::hosted::{Alone, Hosted, Ram, lend};
    use hypercall::shm::{Pages, Span};

    type Platform = Hosted<Alone>;

    /// A ring whose indices stand at `start`, as after that many requests and answers.
    fn ring<E>(start: u32) -> Ring<Platform, E> {
        let platform = Hosted::new(Ram::new(1, 0x100), Alone::default());
        let mut ring = Ring::new(lend(Pages::alloc(&platform, 1).unwrap()));
        (ring.written, ring.published, ring.seen) = (start, start, start);
        let page = page(&ring);
        for (at, index) in [(0, 0), (4, 1), (8, 0), (12, 0)] {
            page.store_u32(at, start.wrapping_add(index)).unwrap();
        }
        ring
    }

    fn page<E>(ring: &Ring<Platform, E>) -> Span<'_> {
        ring.shared().span()
    }

    fn answers<E>(ring: &Ring<Platform, E>, produced: u32) {
        page(ring).store_u32(abi::RSP_PROD, produced).unwrap();
    }

    #[test]
    fn indices_wrap_around() {
        for start in [0, 255, u32::MAX - 3, u32::MAX, 1 << 31] {
            let mut ring = ring::<RxRequest>(start);
            for i in 0..256u32 {
                assert_eq!(ring.room(), 256 - i);
                ring.next_request().write_part::<u64, 0>(&u64::from(i));
            }
            assert_eq!((ring.room(), ring.outstanding()), (0, 256));
            assert!(ring.publish() && !ring.publish());
            let produced = page(&ring).load_u32(abi::REQ_PROD).unwrap();
            assert_eq!(produced, start.wrapping_add(256));
            assert_eq!(ring.look(), Ok(0));
            assert!(ring.next_answer().is_none() && !ring.has_more());
            answers(&ring, start.wrapping_add(256));
            assert_eq!(ring.look(), Ok(256));
            for i in 0..256u64 {
                let slot = ring.next_answer().unwrap();
                assert_eq!(slot.read_part::<u64, 0>(), i);
                ring.advance();
            }
            assert!(ring.next_answer().is_none());
            assert_eq!(ring.room(), 256);
        }
    }

    #[test]
    fn entries_lie_where_the_host_looks() {
        let mut ring = ring::<TxRequest>(511);
        ring.next_request().write_part::<[u32; 3], 0>(&[1, 2, 3]);
        let page = page(&ring);
        let at = 64 + 255 * 12;
        assert_eq!(page.load_u32(at), Ok(1));
        assert_eq!(page.load_u32(at + 8), Ok(3));
    }

    #[test]
    fn more_answers_than_requests_are_a_fault() {
        let mut ring = ring::<TxRequest>(10);
        ring.next_request();
        // Written, but not shown yet.
        answers(&ring, 11);
        assert_eq!(ring.look(), Err(HostFault::RingIndex));
        ring.publish();
        assert_eq!(ring.look(), Ok(1));
        for lie in [12, 9, 0, 10 + 257, 1 << 31, u32::MAX] {
            answers(&ring, lie);
            assert_eq!(ring.look(), Err(HostFault::RingIndex), "{lie}");
        }
        ring.shut();
        assert!(ring.next_answer().is_none());
    }

    #[test]
    fn the_host_is_told_when_it_wishes() {
        let mut ring = ring::<TxRequest>(u32::MAX);
        let wish = |ring: &Ring<_, _>, index| page(ring).store_u32(abi::REQ_EVENT, index).unwrap();
        ring.next_request();
        assert!(ring.publish(), "the first one");
        ring.next_request();
        assert!(!ring.publish(), "it is at work");
        wish(&ring, 4);
        ring.next_request();
        ring.next_request();
        assert!(!ring.publish(), "not yet");
        ring.next_request();
        ring.next_request();
        assert!(ring.publish(), "the fourth was among them");
        assert!(!ring.arm(3));
        assert_eq!(page(&ring).load_u32(abi::RSP_EVENT), Ok(2));
        answers(&ring, 0);
        assert!(ring.arm(1), "one has come meanwhile");
    }
}
