//! Frames from the host: the ring to receive by, kept full of the pool's pages.

use super::abi::{
    NR_SLOTS_MIN, RSP_OKAY, RXF_CSUM_BLANK, RXF_DATA_VALIDATED, RXF_EXTRA_INFO, RXF_GSO_PREFIX,
    RXF_MORE_DATA, RxRequest, RxResponse,
};
use super::chain::{Chain, Rules};
use super::ring::Ring;
use crate::ETHERNET_HEADER;
use crate::frame::RxFrame;
use crate::offload::RxChecksum;
use hypercall::shm::{Boxed, Buf, Lent, OutOfPages, PAGE_SIZE, Pool, PoolPage, Stock};
use hypercall::{HostFault, Platform};

/// Slots of the ring.
const SLOTS: usize = 256;
/// Answers taken in one go at most: a host that gives them as fast as they are taken gets its
/// turn later.
const BUDGET: u32 = 2 * SLOTS as u32;
/// Requests are shown to the host when so many were written.
const BATCH: u32 = 8;

/// A frame that came the short way.
pub struct Plain {
    /// Its bytes.
    pub buf: Buf,
    /// What the host says of its checksum.
    pub checksum: RxChecksum,
    /// Pages were posted that the host is to be shown now.
    pub is_due: bool,
}

/// How frames are received.
pub struct Rx<P: Platform> {
    ring: Option<Ring<P, RxRequest>>,
    pool: Option<Pool<P>>,
    /// Pages of it that are to be posted next.
    stock: Stock,
    /// The page in each slot that the host has.
    posted: Boxed<[Option<PoolPage>; SLOTS], P>,
    chain: Chain,
    /// The ring is full and no chain begun: the next frame may go the short way.
    is_plain: bool,
    /// Frames that were of no use.
    pub dropped: u64,
}

impl<P: Platform> Rx<P> {
    /// Without a ring or a pool.
    pub fn new(platform: &P) -> Result<Self, OutOfPages> {
        Ok(Self {
            ring: None,
            pool: None,
            stock: Stock::none(),
            posted: Boxed::new(platform, [const { None }; SLOTS])?,
            chain: Chain::default(),
            is_plain: false,
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
        self.stock = self.pool.as_ref().map_or(Stock::none(), Pool::stock);
        self.chain = Chain::new(rules);
        self.fill();
        grant
    }

    /// Takes no more. What was posted stays with the host.
    pub fn stop(&mut self) {
        self.is_plain = false;
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
        self.stock = Stock::none();
        self.chain = Chain::default();
        self.is_plain = false;
    }

    /// Pages that the host may receive into.
    pub fn posted(&self) -> usize {
        let ring = self.ring.as_ref();
        ring.map_or(0, |ring| ring.outstanding() as usize)
    }

    /// Pages that the host may receive into, or that are to be posted next.
    pub fn free(&self) -> usize {
        self.posted().wrapping_add(self.stock.len())
    }

    /// Whether so few pages are posted that the host may hold frames back.
    pub fn is_starved(&self) -> bool {
        self.ring.is_some() && self.posted() < NR_SLOTS_MIN
    }

    /// What most frames are: one piece, of a ring that is full again at once. `None` says nothing
    /// of the others; then nothing was done.
    #[inline(always)]
    pub fn take_plain(&mut self) -> Option<Plain> {
        if !self.is_plain {
            return None;
        }
        let (posted, stock) = (&mut *self.posted, &mut self.stock);
        self.ring.as_mut()?.exchange(|word: u64, slot| {
            let answer = RxResponse::from_word(word);
            let checksum = plain_checksum(answer.flags)?;
            let len = answer.status as u16;
            // A negative status is a length beyond the page, too.
            let end = u32::from(answer.offset).wrapping_add(u32::from(len));
            if answer.id != u16::from(slot)
                || end > PAGE_SIZE as u32
                || usize::from(len) < ETHERNET_HEADER
            {
                return None;
            }
            let next = stock.page()?;
            let request = RxRequest {
                id: slot.into(),
                pad: 0,
                gref: next.token() as u32,
            };
            let page = posted.get_mut(usize::from(slot))?.replace(next)?;
            let plain = Plain {
                buf: page.into_buf(answer.offset, len).ok()?,
                checksum,
                is_due: u32::from(slot) % BATCH == 0,
            };
            Some((request.word(), plain))
        })
    }

    /// Whether pages were posted that the host is to be shown now.
    pub fn is_due(&self) -> bool {
        let ring = self.ring.as_ref();
        ring.is_some_and(|ring| ring.written().is_multiple_of(BATCH))
    }

    /// Notes whether the next frame may go the short way.
    fn settle(&mut self) {
        let is_full = self.ring.as_ref().is_some_and(|ring| ring.room() == 0);
        self.is_plain = is_full && !self.chain.is_begun();
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
            self.is_plain = false;
            let posted = self.posted.get_mut(usize::from(index));
            let page = posted.and_then(Option::take);
            let page = page.ok_or(HostFault::UnknownId)?;
            self.chain.take(word, index, page)?;
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
        let Some(ring) = &mut self.ring else {
            return;
        };
        while ring.room() != 0
            && let Some(page) = self.stock.page()
        {
            let slot = ring.written() as u8;
            let request = RxRequest {
                id: slot.into(),
                pad: 0,
                gref: page.token() as u32,
            };
            ring.next_request().write_part::<u64, 0>(&request.word());
            if let Some(place) = self.posted.get_mut(usize::from(slot)) {
                *place = Some(page);
            }
        }
        self.settle();
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
