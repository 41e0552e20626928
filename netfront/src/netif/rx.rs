//! Frames from the host: the ring to receive by, kept full of the pool's pages.

use super::abi::{NR_SLOTS_MIN, RXF_CSUM_BLANK, RXF_DATA_VALIDATED, RxRequest, RxResponse};
use super::chain::{Chain, Rules};
use super::ring::Ring;
use crate::ETHERNET_HEADER;
use crate::frame::{Body, RxFrame};
use crate::offload::{RxChecksum, RxMeta};
use hypercall::shm::{Boxed, Lent, OutOfPages, Piece, Pool, PoolPage, Stock};
use hypercall::{HostFault, Platform};

/// Slots of the ring.
const SLOTS: usize = 256;
/// Answers taken in one go at most: a host that gives them as fast as they are taken gets its
/// turn later.
const BUDGET: u32 = 2 * SLOTS as u32;
/// Requests are shown to the host when so many were written.
const BATCH: u32 = 32;
/// With fewer pages posted than this, each is shown to the host at once.
const FEW: usize = 64;
/// Bits of an answer, the least length taken off, that are as its slot says if it is what most are:
/// a piece of 14 to 2061 bytes that starts in the page's first KiB, neither an extra nor followed
/// by one or by another piece. The rest of the bits may be anything.
const USUAL: u64 =
    0xffff | (!OFFSET as u64) << 16 | (!CHECKSUM as u64) << 32 | (!MORE as u64) << 48;
/// Where such a piece may start, in bytes.
const OFFSET: u16 = 0x3ff;
/// How many bytes it may have beyond the least.
const MORE: u16 = 0x7ff;
/// Bytes that a frame has at least.
const LEAST: u16 = ETHERNET_HEADER as u16;
/// Flags that speak of a checksum.
const CHECKSUM: u16 = RXF_CSUM_BLANK | RXF_DATA_VALIDATED;

/// A frame that goes the short way.
pub struct Plain {
    piece: Piece,
    answer: RxResponse,
}

impl Plain {
    /// Length in bytes.
    #[inline(always)]
    pub fn len(&self) -> u16 {
        self.answer.status as u16
    }

    /// The frame.
    #[inline(always)]
    pub fn into_frame(self) -> RxFrame {
        let meta = RxMeta {
            checksum: checksum(self.answer.flags),
            ..RxMeta::default()
        };
        RxFrame::new(Body::Piece(self.piece), meta)
    }
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
    /// How many requests will be written when frames go the short way no more: those written while
    /// the ring is not full, or a chain is begun.
    until: u32,
    /// How many were when they began to.
    since: u32,
    /// Frames received, but for those that went the short way since.
    frames: u64,
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
            until: 0,
            since: 0,
            frames: 0,
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
        (self.since, self.until) = (0, 0);
        self.stock = self.pool.as_ref().map_or(Stock::none(), Pool::stock);
        self.chain = Chain::new(rules);
        self.fill();
        grant
    }

    /// Takes no more. What was posted stays with the host.
    pub fn stop(&mut self) {
        self.unsettle();
        if let Some(ring) = &mut self.ring {
            ring.shut();
        }
    }

    /// The ring's page, to be taken back.
    pub fn close(&mut self) -> Option<Lent<P>> {
        self.unsettle();
        self.ring.take().map(Ring::into_page)
    }

    /// The host has let go: all pages go back to the pool.
    pub fn release(&mut self) {
        self.posted.fill_with(|| None);
        self.stock = Stock::none();
        self.chain = Chain::default();
        self.unsettle();
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

    /// Frames received so far.
    pub fn frames(&self) -> u64 {
        let ring = self.ring.as_ref();
        let exchanged = ring.map_or(0, |ring| ring.written().wrapping_sub(self.since));
        self.frames.wrapping_add(exchanged.into())
    }

    /// Lets no frame go the short way until [`settle`](Self::settle).
    fn unsettle(&mut self) {
        self.frames = self.frames();
        self.since = self.ring.as_ref().map_or(0, Ring::written);
        self.until = self.since;
    }

    /// Lets the answers that were seen go the short way, if they may.
    fn settle(&mut self) {
        if let Some(ring) = &self.ring {
            let may = ring.room() == 0 && !self.chain.is_begun();
            let answers = if may { ring.to_take().min(BATCH) } else { 0 };
            self.since = ring.written();
            self.until = self.since.wrapping_add(answers);
        }
    }

    /// What most frames are: one piece, of a ring that is full again at once. `None` says nothing
    /// of the others; then nothing was done.
    #[inline(always)]
    pub fn take_plain(&mut self) -> Option<Plain> {
        let (posted, stock) = (&mut *self.posted, &mut self.stock);
        let ring = self.ring.as_mut()?;
        if ring.written() == self.until {
            return None;
        }
        ring.exchange(|word: u64, slot| {
            let usual = word.wrapping_sub((LEAST as u64) << 48);
            if usual & USUAL != u64::from(slot) {
                return None;
            }
            // Seen to be so already, but not by the compiler.
            let offset = (usual >> 16) as u16 & OFFSET;
            let len = ((usual >> 48) as u16 & MORE).wrapping_add(LEAST);
            let next = stock.page()?;
            let request = RxRequest {
                id: slot.into(),
                pad: 0,
                gref: next.token() as u32,
            };
            let page = posted.get_mut(usize::from(slot))?.replace(next)?;
            let piece = Piece::new(page, offset, len).ok()?;
            let answer = RxResponse::from_word(word);
            Some((request.word(), Plain { piece, answer }))
        })
    }

    /// Looks for answers when those that were seen are used up, so that
    /// [`take_plain`](Self::take_plain) may find one again; whether there is any.
    ///
    /// # Errors
    /// [`HostFault`] when the host broke the protocol.
    #[inline(never)]
    pub fn look(&mut self) -> Result<bool, HostFault> {
        self.unsettle();
        let Some(ring) = &mut self.ring else {
            return Ok(false);
        };
        if ring.to_take() == 0 && ring.look()? == 0 {
            return Ok(false);
        }
        self.settle();
        Ok(true)
    }

    /// Whether so many pages were posted that the host is to be shown them now.
    pub fn is_due(&self) -> bool {
        let ring = self.ring.as_ref();
        ring.is_some_and(|ring| ring.unpublished() >= BATCH || self.posted() < FEW)
    }

    /// The next frame, whatever it is made of. `None` when there is none, or the host gave more
    /// than is good at once: [`arm`](Self::arm) tells.
    ///
    /// # Errors
    /// [`HostFault`] when the host broke the protocol.
    pub fn take(&mut self) -> Result<Option<RxFrame>, HostFault> {
        self.unsettle();
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
            let page = posted.and_then(Option::take);
            let page = page.ok_or(HostFault::UnknownId)?;
            if self.chain.take(word, index, page)? {
                let frame = self.chain.finish();
                self.fill();
                if frame.is_some() {
                    self.frames = self.frames.wrapping_add(1);
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
        self.unsettle();
        let (posted, stock) = (&mut *self.posted, &mut self.stock);
        let Some(ring) = &mut self.ring else {
            return;
        };
        for _ in 0..ring.room() {
            let Some(page) = stock.page() else { break };
            let slot = ring.written() as u8;
            let request = RxRequest {
                id: slot.into(),
                pad: 0,
                gref: page.token() as u32,
            };
            ring.next_request().write_part::<u64, 0>(&request.word());
            if let Some(place) = posted.get_mut(usize::from(slot)) {
                // What was posted there was taken.
                core::mem::forget(place.replace(page));
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

/// What the flags of an answer say of a frame's checksum.
#[inline(always)]
pub fn checksum(flags: u16) -> RxChecksum {
    match flags & CHECKSUM {
        0 => RxChecksum::Unchecked,
        RXF_DATA_VALIDATED => RxChecksum::Good,
        _ => RxChecksum::Blank,
    }
}
