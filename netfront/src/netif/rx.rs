//! Frames from the host: the ring to receive by, kept full of the pool's pages.

use super::abi::{
    NR_SLOTS_MIN, RSP_OKAY, RXF_CSUM_BLANK, RXF_DATA_VALIDATED, RXF_EXTRA_INFO, RXF_GSO_PREFIX,
    RXF_MORE_DATA, RxRequest, RxResponse,
};
use super::chain::{Chain, Rules};
use super::ring::Ring;
use crate::ETHERNET_HEADER;
use crate::frame::{Body, RxFrame};
use crate::offload::{RxChecksum, RxMeta};
use hypercall::shm::{Boxed, Buf, Lent, OutOfPages, Pool, Stock};
use hypercall::{HostFault, Platform};

/// Slots of the ring.
const SLOTS: usize = 256;
/// Answers taken in one go at most: a host that gives them as fast as they are taken gets its
/// turn later.
const BUDGET: u32 = 2 * SLOTS as u32;
/// Requests are shown to the host when so many were written.
const BATCH: u32 = 8;

/// How frames are received.
pub struct Rx<P: Platform> {
    ring: Option<Ring<P, RxRequest>>,
    pool: Option<Pool<P>>,
    /// Pages of it that are to be posted next.
    stock: Option<Stock>,
    /// The page in each slot that the host has.
    posted: Boxed<[Option<Buf>; SLOTS], P>,
    chain: Chain,
    /// Frames that were of no use.
    pub dropped: u64,
}

impl<P: Platform> Rx<P> {
    /// Without a ring or a pool.
    pub fn new(platform: &P) -> Result<Self, OutOfPages> {
        Ok(Self {
            ring: None,
            pool: None,
            stock: None,
            posted: Boxed::new(platform, [const { None }; SLOTS])?,
            chain: Chain::default(),
            dropped: 0,
        })
    }

    /// The pool that is received into, to be set once and to be taken back at the end.
    pub fn pool_mut(&mut self) -> &mut Option<Pool<P>> {
        &mut self.pool
    }

    /// The pool that is received into.
    pub fn pool(&self) -> Option<&Pool<P>> {
        self.pool.as_ref()
    }

    /// Starts with an empty ring, and fills it with pages.
    pub fn open(&mut self, page: Lent<P>, rules: Rules) -> Option<u32> {
        let ring = Ring::new(page);
        let grant = ring.grant();
        self.release();
        self.ring = Some(ring);
        self.stock = self.pool.as_ref().map(Pool::stock);
        self.chain = Chain::new(rules);
        self.fill();
        grant
    }

    /// Takes no more. What was posted stays with the host.
    pub fn stop(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.shut();
        }
    }

    /// The ring's page, to be taken back.
    pub fn close(&mut self) -> Option<Lent<P>> {
        self.ring.take().map(Ring::into_page)
    }

    /// The host has let go: all pages go back to the pool.
    pub fn release(&mut self) {
        self.posted.fill_with(|| None);
        self.stock = None;
        self.chain = Chain::default();
    }

    /// Pages that the host may receive into.
    pub fn posted(&self) -> usize {
        let ring = self.ring.as_ref();
        ring.map_or(0, |ring| ring.outstanding() as usize)
    }

    /// Pages that the host may receive into, or that are to be posted next.
    pub fn free(&self) -> usize {
        let stock = self.stock.as_ref().map_or(0, Stock::len);
        self.posted().wrapping_add(stock)
    }

    /// Whether so few pages are posted that the host may hold frames back.
    pub fn is_starved(&self) -> bool {
        self.ring.is_some() && self.posted() < NR_SLOTS_MIN
    }

    /// What most frames are: one piece, of a ring that is full again at once. `None` says nothing
    /// of the others; then nothing was done.
    #[inline(always)]
    pub fn take_plain(&mut self) -> Option<RxFrame> {
        let ring = self.ring.as_mut()?;
        let answer = RxResponse::from_word(ring.next_answer()?.read_part::<u64, 0>());
        // The slot of the answer is then also that of the next request.
        let slot = ring.taken() as u8;
        if ring.room() != 0 || self.chain.is_begun() || answer.id != u16::from(slot) {
            return None;
        }
        let checksum = plain_checksum(answer.flags)?;
        let len = answer.status as u16;
        if usize::from(len) < ETHERNET_HEADER {
            return None;
        }
        let place = self.posted.get_mut(usize::from(slot))?;
        let posted = place.as_mut()?;
        // A negative status is a length beyond the page, too.
        if !posted.place(answer.offset, len) {
            return None;
        }
        let page = self.stock.as_mut()?.page()?;
        let gref = page.whole_page()? as u32;
        let buf = place.replace(page)?;
        ring.advance();
        let request = RxRequest {
            id: slot.into(),
            pad: 0,
            gref,
        };
        ring.next_request().write_part::<u64, 0>(&request.word());
        let meta = RxMeta {
            checksum,
            ..RxMeta::default()
        };
        Some(RxFrame::new(Body::Buf(buf), meta))
    }

    /// Whether pages were posted that the host is to be shown now.
    #[inline(always)]
    pub fn is_due(&self) -> bool {
        let ring = self.ring.as_ref();
        ring.is_some_and(|ring| ring.written().is_multiple_of(BATCH))
    }

    /// The next frame, whatever it is made of. `None` when there is none, or the host gave more
    /// than is good at once: [`arm`](Self::arm) tells.
    ///
    /// # Errors
    /// [`HostFault`] when the host broke the protocol.
    pub fn take(&mut self) -> Result<Option<RxFrame>, HostFault> {
        for _ in 0..BUDGET {
            let Some(ring) = &mut self.ring else {
                return Ok(None);
            };
            let Some(slot) = ring.next_answer() else {
                if ring.look()? == 0 {
                    return Ok(None);
                }
                continue;
            };
            let word = slot.read_part::<u64, 0>();
            let index = ring.taken() as u8;
            ring.advance();
            let posted = self.posted.get_mut(usize::from(index));
            let buf = posted.and_then(Option::take);
            let buf = buf.ok_or(HostFault::UnknownId)?;
            self.chain.take(word, index, buf)?;
            if self.chain.is_complete() {
                let frame = self.chain.finish();
                self.fill();
                if frame.is_some() {
                    return Ok(frame);
                }
                self.dropped = self.dropped.wrapping_add(1);
            }
        }
        self.fill();
        Ok(None)
    }

    /// Posts pages until the ring is full or the pool empty.
    pub fn fill(&mut self) {
        let (Some(ring), Some(stock)) = (&mut self.ring, &mut self.stock) else {
            return;
        };
        while ring.room() != 0
            && let Some(page) = stock.page()
            && let Some(token) = page.whole_page()
        {
            let slot = ring.written() as u8;
            let request = RxRequest {
                id: slot.into(),
                pad: 0,
                gref: token as u32,
            };
            ring.next_request().write_part::<u64, 0>(&request.word());
            if let Some(place) = self.posted.get_mut(usize::from(slot)) {
                *place = Some(page);
            }
        }
    }

    /// Makes what was posted visible to the host; whether it wants to be told.
    #[inline]
    pub fn publish(&mut self) -> bool {
        self.ring.as_mut().is_some_and(Ring::publish)
    }

    /// Asks to be told of the next frame; whether there is one already.
    #[inline]
    pub fn arm(&mut self) -> bool {
        self.ring.as_mut().is_some_and(|ring| ring.arm(1))
    }
}

/// What the flags of a frame of one piece without an extra say of its checksum; `None` when it is
/// another frame.
#[inline(always)]
fn plain_checksum(flags: u16) -> Option<RxChecksum> {
    const CHECKSUM: u16 = RXF_CSUM_BLANK | RXF_DATA_VALIDATED;
    const { assert!(RSP_OKAY == 0 && RXF_EXTRA_INFO | RXF_MORE_DATA | RXF_GSO_PREFIX == 28) };
    match flags {
        0 => Some(RxChecksum::Unchecked),
        RXF_DATA_VALIDATED => Some(RxChecksum::Good),
        RXF_CSUM_BLANK | CHECKSUM => Some(RxChecksum::Blank),
        _ => None,
    }
}
