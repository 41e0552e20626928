//! Frames on their way to the host: the ring to send by, and what is at its places.
//!
//! ```text
//! spare ........ reusable/taken ............... written ....... spare + 256
//!   pages to be used again     in flight           free places
//! ```
//!
//! All are counts of requests since the ring was opened; a place is a count modulo 256. A page that
//! was sent stays at its place until it is used again, or its place is needed.

use super::abi::{
    RSP_DROPPED, RSP_ERROR, RSP_NULL, RSP_OKAY, TXF_EXTRA_INFO, TXF_MORE_DATA, TxRequest,
    TxResponse,
};
use super::accept::Chain;
use super::places::{Mark, PLACES, Places};
use super::ring::Ring;
use crate::ETHERNET_HEADER;
use crate::frame::{Body, TxFrame};
use hypercall::shm::{
    Boxed, Buf, InPage, Joint, Lent, OutOfPages, PAGE_SIZE, Piece, Pool, PoolId, PoolPage, Stock,
};
use hypercall::{HostFault, Platform};

/// Bytes that a frame has at least.
const LEAST: u16 = ETHERNET_HEADER as u16;

/// How frames are sent.
pub struct Tx<P: Platform> {
    ring: Option<Ring<P, TxRequest>>,
    pool: Option<Pool<P>>,
    /// Which one it is.
    from: PoolId,
    /// Pages of it that were not sent yet.
    stock: Stock,
    places: Boxed<Places, P>,
    /// The longest frame that goes the short way, in bytes; 0 while none does.
    most: InPage,
    /// The same without the least.
    room: u16,
    /// How many requests will be written when frames go the short way no more.
    until: u32,
    /// How many were when they began to.
    since: u32,
    /// The first place with a page to be used again, and where they end.
    spare: u32,
    reusable: u32,
    /// Nothing is sent any more.
    stopped: bool,
    /// Frames sent, but for those that went the short way since.
    frames: u64,
    /// Frames the host said it did not send.
    pub errors: u64,
}

impl<P: Platform> Tx<P> {
    /// Without a ring or a pool.
    pub fn new(platform: &P) -> Result<Self, OutOfPages> {
        Ok(Self {
            ring: None,
            pool: None,
            from: PoolId::NONE,
            stock: Stock::none(),
            places: Boxed::new(platform, Places::new())?,
            most: InPage::default(),
            room: 0,
            until: 0,
            since: 0,
            spare: 0,
            reusable: 0,
            stopped: true,
            frames: 0,
            errors: 0,
        })
    }

    /// The pool that frames come from, to be set once and to be taken back at the end.
    pub fn pool_mut(&mut self) -> &mut Option<Pool<P>> {
        &mut self.pool
    }

    /// The pool that frames come from.
    #[inline(always)]
    pub fn pool(&self) -> Option<&Pool<P>> {
        self.pool.as_ref()
    }

    /// Starts with an empty ring.
    pub fn open(&mut self, page: Lent<P>) -> Option<u32> {
        let ring = Ring::new(page);
        let grant = ring.grant();
        self.release();
        self.ring = Some(ring);
        self.since = 0;
        self.stock = self.pool.as_ref().map_or(Stock::none(), Pool::stock);
        self.from = self.pool.as_ref().map_or(PoolId::NONE, Pool::id);
        self.stopped = false;
        self.settle();
        grant
    }

    /// Takes and sends no more. What is in flight stays with the host.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.settle();
        if let Some(ring) = &mut self.ring {
            ring.shut();
        }
    }

    /// The ring's page, to be taken back.
    pub fn close(&mut self) -> Option<Lent<P>> {
        self.stop();
        self.since = 0;
        self.ring.take().map(Ring::into_page)
    }

    /// The host has let go: all frames go back to the pool.
    pub fn release(&mut self) {
        self.stop();
        self.places.clear();
        self.stock = Stock::none();
        (self.spare, self.reusable) = (0, 0);
    }

    /// Frames of more bytes take the long way; all do that are longer than a page.
    pub fn set_most(&mut self, most: usize) {
        self.most = InPage::clamped(most);
        self.room = self.most.get().saturating_sub(LEAST);
    }

    /// Pages that were drawn from the pool and are free.
    pub fn spare(&self) -> usize {
        let count = self.reusable.wrapping_sub(self.spare);
        let here = self.places.count(self.spare as u8, count);
        here.wrapping_add(self.stock.len())
    }

    /// Frames the host has.
    pub fn in_flight(&self) -> usize {
        let Some(ring) = &self.ring else { return 0 };
        self.places.frames(ring.taken() as u8, ring.outstanding())
    }

    /// Frames sent so far.
    pub fn frames(&self) -> u64 {
        let ring = self.ring.as_ref();
        let plain = ring.map_or(0, |ring| ring.written().wrapping_sub(self.since));
        self.frames.wrapping_add(plain.into())
    }

    /// Counts what went the short way, and notes how many more frames may.
    fn settle(&mut self) {
        self.frames = self.frames();
        if let Some(ring) = &self.ring {
            self.since = ring.written();
            let used = self.since.wrapping_sub(self.spare);
            let free = PLACES.wrapping_sub(used);
            let free = if self.stopped { 0 } else { free };
            self.until = self.since.wrapping_add(free);
        }
    }

    /// A page that was used before, or from the pool.
    fn page(&mut self) -> Option<PoolPage> {
        while self.spare != self.reusable {
            let page = self.places.take(self.spare as u8);
            self.spare = self.spare.wrapping_add(1);
            if page.is_some() {
                return page;
            }
        }
        self.stock.page()
    }

    /// Room for `len` bytes, in pages that were used before or from the pool.
    pub fn alloc(&mut self, len: usize) -> Option<Body> {
        if len <= PAGE_SIZE {
            let page = self.page()?;
            return Some(Body::Piece(Piece::start(page, InPage::clamped(len))));
        }
        let (mut joint, mut rest) = (Joint::new(), len);
        while rest != 0 {
            let here = InPage::clamped(rest);
            joint.push(Piece::start(self.page()?, here)).ok()?;
            rest = rest.wrapping_sub(here.get().into());
        }
        joint.finish().map(Body::Buf)
    }

    /// Room for a frame that may go the short way, in a page that was used before; `None` while
    /// there is none.
    #[inline(always)]
    pub fn reuse(&mut self, len: usize) -> Option<Piece> {
        let len = InPage::some(len, self.most)?;
        let place = self.spare;
        if place == self.reusable {
            return None;
        }
        let page = self.places.take(place as u8)?;
        self.spare = place.wrapping_add(1);
        Some(Piece::start(page, len))
    }

    /// Whether a frame goes the short way, as most do: a page that holds enough bytes for an
    /// Ethernet header, and no more than a packet.
    #[inline(always)]
    pub fn is_plain(&self, frame: &TxFrame) -> bool {
        let Body::Piece(piece) = frame.body() else {
            return false;
        };
        let fits = piece.len().wrapping_sub(LEAST) <= self.room;
        let Some(ring) = &self.ring else {
            return false;
        };
        frame.meta.is_plain()
            && frame.headroom() == 0
            && fits
            && piece.pool() == self.from
            && ring.written() != self.until
    }

    /// Sends a frame of which [`is_plain`](Self::is_plain) was just said.
    #[inline(always)]
    pub fn send_plain(&mut self, piece: Piece) {
        if let Some(ring) = &mut self.ring {
            let size = piece.len();
            write(ring, &mut self.places, piece, 0, size);
        }
    }

    /// Whether so many more slots would go onto the ring. Their places are free then.
    pub fn make_room(&mut self, slots: usize) -> bool {
        let (Some(ring), Ok(slots)) = (&self.ring, u32::try_from(slots)) else {
            return false;
        };
        if self.stopped || ring.room() < slots {
            return false;
        }
        let end = ring.written().wrapping_add(slots);
        while end.wrapping_sub(self.spare) > PLACES && self.spare != self.reusable {
            drop(self.places.take(self.spare as u8));
            self.spare = self.spare.wrapping_add(1);
        }
        true
    }

    /// Puts a frame of any pieces, flags and an extra onto the ring, which has room for it.
    pub fn send_chain(&mut self, buf: Buf, chain: Chain) {
        self.settle();
        let (Some(ring), places) = (&mut self.ring, &mut *self.places) else {
            return;
        };
        let Chain { pieces, extra, .. } = chain;
        let (mut flags, mut size) = (chain.flags, buf.len() as u16);
        let mark = match pieces {
            2.. => places.begin_long(pieces as u8),
            _ => Mark::NONE,
        };
        if extra.is_some() {
            flags |= TXF_EXTRA_INFO;
        }
        let mut left = pieces;
        for piece in buf.into_pieces() {
            if piece.is_empty() {
                continue;
            }
            let is_first = left == pieces;
            left = left.wrapping_sub(1);
            if left != 0 {
                flags |= TXF_MORE_DATA;
            }
            if mark != Mark::NONE {
                places.set_mark(ring.written() as u8, mark);
            }
            if !is_first {
                size = piece.len();
            }
            write(ring, places, piece, flags, size);
            flags = 0;
            if is_first && let Some(extra) = extra {
                places.set_mark(ring.written() as u8, Mark::EXTRA);
                ring.next_request()
                    .write_part::<[u32; 2], 0>(&extra.words());
            }
        }
        // One frame, of however many requests.
        self.since = ring.written();
        self.frames = self.frames.wrapping_add(1);
        self.settle();
    }

    /// Makes what was sent visible to the host; whether it wants to be told.
    #[inline]
    pub fn publish(&mut self) -> bool {
        self.ring.as_mut().is_some_and(Ring::publish)
    }

    /// Asks to be told when about half of what is in flight is answered, or all of it; whether
    /// there is an answer already.
    pub fn arm(&mut self, all: bool) -> bool {
        let Some(ring) = &mut self.ring else {
            return false;
        };
        let outstanding = ring.outstanding();
        let count = if all { outstanding } else { outstanding >> 1 };
        ring.arm(count.max(1))
    }

    /// Whether the host has answered what was not reaped.
    pub fn has_answers(&self) -> bool {
        self.ring.as_ref().is_some_and(Ring::has_more)
    }

    /// Collects what the host is done with.
    ///
    /// # Errors
    /// [`HostFault`] when it answers what is not in flight.
    #[inline]
    pub fn reap(&mut self) -> Result<(), HostFault> {
        let Some(ring) = &mut self.ring else {
            return Ok(());
        };
        // Bounded by what is in flight.
        if ring.look()? != 0 {
            self.collect()?;
        }
        Ok(())
    }

    fn collect(&mut self) -> Result<(), HostFault> {
        const { assert!(RSP_OKAY == 0) };
        while let Some(ring) = &mut self.ring {
            let (places, errors) = (&mut *self.places, &mut self.errors);
            // Success, of what is expected: an id, and nothing else.
            if places.marked() == 0 {
                ring.take_each(|word: u32, at| word == places.id(at as u8).into());
            } else {
                ring.take_each(|word: u32, at| {
                    let place = at as u8;
                    let is_expected =
                        word == places.id(place).into() && places.mark(place) != Mark::EXTRA;
                    if is_expected && places.finish(place, false) {
                        *errors = errors.wrapping_add(1);
                    }
                    is_expected
                });
            }
            let Some(slot) = ring.next_answer() else {
                break;
            };
            let answer = TxResponse::from_word(slot.read_part::<u32, 0>());
            self.finish(answer)?;
        }
        self.reusable = self.ring.as_ref().map_or(0, Ring::taken);
        self.settle();
        Ok(())
    }

    /// Takes any answer.
    #[cold]
    fn finish(&mut self, answer: TxResponse) -> Result<(), HostFault> {
        let Some(ring) = &mut self.ring else {
            return Ok(());
        };
        let (place, outstanding) = (ring.taken() as u8, ring.outstanding());
        let failed = match answer.status {
            RSP_OKAY | RSP_NULL => false,
            RSP_ERROR | RSP_DROPPED => true,
            status if status < 0 => true,
            _ => return Err(HostFault::Malformed),
        };
        let found = if answer.status == RSP_NULL {
            self.places.find_extra(place, outstanding)
        } else {
            u8::try_from(answer.id).ok().and_then(|id| {
                let found = self.places.place_of(id);
                let is_in_flight = u32::from(found.wrapping_sub(place)) < outstanding;
                (is_in_flight && self.places.mark(found) != Mark::EXTRA).then_some(found)
            })
        };
        let found = found.ok_or(HostFault::UnknownId)?;
        if found != place {
            self.places.exchange(place, found);
        }
        ring.advance();
        if self.places.finish(place, failed) {
            self.errors = self.errors.wrapping_add(1);
        }
        Ok(())
    }
}

/// Puts a piece on the ring, and its page at the place of the request.
#[inline(always)]
fn write<P: Platform>(
    ring: &mut Ring<P, TxRequest>,
    places: &mut Places,
    piece: Piece,
    flags: u16,
    size: u16,
) {
    let place = ring.written() as u8;
    let request = TxRequest {
        gref: piece.token() as u32,
        offset: piece.offset(),
        flags,
        id: places.id(place).into(),
        size,
    };
    places.put(place, piece.into_page());
    ring.next_request()
        .write_part::<[u32; 3], 0>(&request.words());
}
