//! The front end's side of a block ring.

use super::abi::{self, Request, RequestDiscard, RequestHeader, Response, Segment};
use hypercall::bus::{Rest, Verdict};
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
    /// Answers taken.
    taken: u32,
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

    /// Writes a request with data, not yet visible to the host. No more than
    /// [`abi::RING_SIZE`] requests may be unanswered; of more than [`abi::MAX_SEGMENTS`] segments
    /// the last are left out.
    #[inline]
    pub fn write(
        &mut self,
        mut header: RequestHeader,
        first: Segment,
        rest: impl Iterator<Item = Segment>,
    ) {
        let slot = self
            .shared()
            .slot::<Request, { abi::RING }, { abi::RING_SIZE }>(self.written);
        slot.write_part::<u64, 24>(&first.word());
        let mut count = 1usize;
        for segment in rest {
            if !slot.write_element::<u64, 24, { abi::MAX_SEGMENTS }>(count, &segment.word()) {
                break;
            }
            count = count.wrapping_add(1);
        }
        header.nr_segments = count as u8;
        slot.write_part::<[u64; 3], 0>(&header.words());
        self.written = self.written.wrapping_add(1);
    }

    /// Writes a request with one segment, given in words: the header's, then the segment's. As
    /// [`write`](Self::write) otherwise.
    #[inline(always)]
    pub fn write_page(&mut self, words: [u64; 4]) {
        self.shared()
            .slot::<Request, { abi::RING }, { abi::RING_SIZE }>(self.written)
            .write_part::<[u64; 4], 0>(&words);
        self.written = self.written.wrapping_add(1);
    }

    /// Writes a request without data, not yet visible to the host: a flush, or a discard of
    /// `sectors` 512-byte sectors.
    #[cold]
    pub fn write_bare(&mut self, header: RequestHeader, sectors: u64) {
        let request = RequestDiscard {
            operation: header.operation,
            flag: 0,
            handle: header.handle,
            pad: 0,
            id: header.id,
            sector_number: header.sector_number,
            nr_sectors: sectors,
        };
        self.shared()
            .slot::<Request, { abi::RING }, { abi::RING_SIZE }>(self.written)
            .write_part::<RequestDiscard, 0>(&request);
        self.written = self.written.wrapping_add(1);
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

    /// Takes an answer.
    ///
    /// # Errors
    /// [`HostFault::RingIndex`] when the host claims more answers than it has requests.
    pub fn take(&mut self) -> Result<Option<Response>, HostFault> {
        if self.waiting()? == 0 {
            return Ok(None);
        }
        let words = self.answer(self.taken);
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(Response::from_words(words)))
    }

    /// Shows answers to `each`, as the words that hold them. The one that it leaves is still there
    /// for [`take`](Self::take), and what it says may be different then.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    #[inline(always)]
    pub fn show(&mut self, mut each: impl FnMut([u64; 2]) -> Verdict) -> Result<Rest, HostFault> {
        loop {
            let mut waiting = self.waiting()?;
            if waiting == 0 {
                return Ok(Rest::Empty);
            }
            while waiting != 0 {
                let verdict = each(self.answer(self.taken));
                if verdict == Verdict::Leave {
                    return Ok(Rest::Odd);
                }
                self.taken = self.taken.wrapping_add(1);
                waiting = waiting.wrapping_sub(1);
                if verdict == Verdict::Stop {
                    return Ok(Rest::Enough);
                }
            }
        }
    }

    /// Copies an answer out, once.
    #[inline(always)]
    fn answer(&self, index: u32) -> [u64; 2] {
        self.shared()
            .slot::<Request, { abi::RING }, { abi::RING_SIZE }>(index)
            .read_part::<[u64; 2], 0>()
    }

    /// Answers that the host has given and that were not taken.
    #[inline(always)]
    fn waiting(&self) -> Result<u32, HostFault> {
        let given = self.shared().load_u32::<{ abi::RSP_PROD }>();
        let waiting = given.wrapping_sub(self.taken);
        if waiting != 0 && waiting > self.published.wrapping_sub(self.taken) {
            return Err(HostFault::RingIndex);
        }
        Ok(waiting)
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
