//! The front end's side of a block ring.

use super::abi::{self, Request, RequestDiscard, RequestHeader, Response, Segment};
use hypercall::shm::{Lent, Page, full_barrier};
use hypercall::{HostFault, Platform};

/// A ring of one page. All indices that matter are private; the host's is read once, checked, and
/// believed only as far as there are requests it could have answered.
#[derive(Debug)]
pub struct Ring<P: Platform> {
    page: Lent<P>,
    /// Requests written, and how many of them the host may see.
    written: u32,
    published: u32,
    /// Answers taken, and how many the host was last seen to have given.
    taken: u32,
    seen: u32,
}

impl<P: Platform> Ring<P> {
    /// Sets up an empty ring in a lent page.
    pub fn new(page: Lent<P>) -> Self {
        let shared = page.first();
        shared.store_u32::<{ abi::REQ_PROD }>(0);
        shared.store_u32::<{ abi::RSP_PROD }>(0);
        shared.store_u32::<{ abi::REQ_EVENT }>(1);
        shared.store_u32::<{ abi::RSP_EVENT }>(1);
        Self {
            page,
            written: 0,
            published: 0,
            taken: 0,
            seen: 0,
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

    #[inline]
    fn shared(&self) -> Page<'_> {
        self.page.first()
    }

    /// How many more requests fit.
    #[inline]
    pub fn room(&self) -> u32 {
        abi::RING_SIZE.wrapping_sub(self.written.wrapping_sub(self.taken))
    }

    /// Writes a request, not yet visible to the host. The caller has seen that there is
    /// [`room`](Self::room), and passes at most [`abi::MAX_SEGMENTS`] segments.
    #[inline]
    pub fn write(&mut self, mut header: RequestHeader, segments: impl Iterator<Item = Segment>) {
        let slot = self
            .shared()
            .slot::<Request, { abi::RING }, { abi::RING_SIZE }>(self.written);
        let mut count = 0usize;
        for segment in segments {
            if !slot.write_element::<Segment, 24, { abi::MAX_SEGMENTS }>(count, &segment) {
                break;
            }
            count = count.wrapping_add(1);
        }
        header.nr_segments = count as u8;
        slot.write_part::<RequestHeader, 0>(&header);
        self.written = self.written.wrapping_add(1);
    }

    /// Writes a discard request, not yet visible to the host.
    pub fn write_discard(&mut self, request: &RequestDiscard) {
        self.shared()
            .slot::<Request, { abi::RING }, { abi::RING_SIZE }>(self.written)
            .write_part::<RequestDiscard, 0>(request);
        self.written = self.written.wrapping_add(1);
    }

    /// Makes what was written visible; whether the host wants to be told.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.written);
        self.published = new;
        let shared = self.shared();
        shared.store_u32::<{ abi::REQ_PROD }>(new);
        // The host's wish is read after it can see the requests, or both sides could sleep.
        full_barrier();
        let event = shared.load_u32::<{ abi::REQ_EVENT }>();
        new.wrapping_sub(event) < new.wrapping_sub(old)
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// [`HostFault::RingIndex`] when the host claims more answers than it has requests.
    #[inline]
    pub fn take(&mut self) -> Result<Option<Response>, HostFault> {
        if self.taken == self.seen {
            let produced = self.shared().load_u32::<{ abi::RSP_PROD }>();
            let asked = self.published.wrapping_sub(self.taken);
            if produced.wrapping_sub(self.taken) > asked {
                return Err(HostFault::RingIndex);
            }
            self.seen = produced;
            if self.taken == produced {
                return Ok(None);
            }
        }
        let response = self
            .shared()
            .slot::<Request, { abi::RING }, { abi::RING_SIZE }>(self.taken)
            .read_part::<Response, 0>();
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(response))
    }

    /// Asks to be told of the next answer; whether there is one already.
    #[inline]
    pub fn arm(&mut self) -> bool {
        let shared = self.shared();
        shared.store_u32::<{ abi::RSP_EVENT }>(self.taken.wrapping_add(1));
        // The host looks at the wish after it answers; so must we look at answers after wishing.
        full_barrier();
        shared.load_u32::<{ abi::RSP_PROD }>() != self.taken
    }
}
