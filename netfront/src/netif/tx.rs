//! Frames on their way to the host: the ring to send by, and the table of what is in flight.

use super::abi::{
    ExtraInfo, RING_SIZE, RSP_DROPPED, RSP_ERROR, RSP_NULL, RSP_OKAY, TXF_EXTRA_INFO,
    TXF_MORE_DATA, TxRequest, TxResponse,
};
use super::ring::Ring;
use crate::ETHERNET_HEADER;
use crate::frame::{Body, TxFrame};
use hypercall::shm::{Boxed, Buf, Lent, OutOfPages, PAGE_SIZE, Pool, PoolPage, Segment};
use hypercall::{HostFault, Platform};

/// Ids there are: what a ring holds.
const IDS: usize = 256;

/// What is known of an id that is not one of a frame of one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Note {
    /// Nothing.
    None,
    /// The first piece of a frame of more, of which so many are to be answered still.
    Head {
        left: u8,
        answered: bool,
        failed: bool,
    },
    /// Another piece of the frame that starts with this id.
    Piece { head: u8 },
}

/// Tables that are too large to be moved about, by id.
struct Table {
    /// Frames of one piece in flight.
    plain: [Option<PoolPage>; IDS],
    /// Frames of more pieces in flight, by their first.
    long: [Option<Buf>; IDS],
    notes: [Note; IDS],
    /// Pages to be used again before the pool is asked, as many as `Tx::spare` says.
    spare: [Option<PoolPage>; IDS],
}

/// How frames are sent.
pub struct Tx<P: Platform> {
    ring: Option<Ring<P, TxRequest>>,
    pool: Option<Pool<P>>,
    table: Boxed<Table, P>,
    /// Requests that may be outstanding: none while nothing may be sent.
    limit: u32,
    /// The same for frames of one piece by the short way: none, too, while an id has a note.
    plain_limit: u32,
    /// Pages to be used again.
    spare: usize,
    /// Ids with a note.
    noted: u32,
    /// Of those, first pieces that were answered, while others of their frame were not.
    waiting: u32,
    /// Extras in flight.
    extras: u32,
    /// Frames the host said it did not send.
    pub errors: u64,
}

impl<P: Platform> Tx<P> {
    /// Without a ring or a pool.
    pub fn new(platform: &P) -> Result<Self, OutOfPages> {
        let table = Boxed::new(
            platform,
            Table {
                plain: [const { None }; IDS],
                long: [const { None }; IDS],
                notes: [Note::None; IDS],
                spare: [const { None }; IDS],
            },
        )?;
        Ok(Self {
            ring: None,
            pool: None,
            table,
            limit: 0,
            plain_limit: 0,
            spare: 0,
            noted: 0,
            waiting: 0,
            extras: 0,
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
        self.ring = Some(ring);
        self.release();
        self.limit = RING_SIZE;
        self.plain_limit = RING_SIZE;
        grant
    }

    /// Takes and sends no more. What is in flight stays with the host.
    pub fn stop(&mut self) {
        self.limit = 0;
        self.plain_limit = 0;
        if let Some(ring) = &mut self.ring {
            ring.shut();
        }
    }

    /// The ring's page, to be taken back.
    pub fn close(&mut self) -> Option<Lent<P>> {
        self.stop();
        self.ring.take().map(Ring::into_page)
    }

    /// The host has let go: all frames go back to the pool.
    pub fn release(&mut self) {
        self.table.plain.fill_with(|| None);
        self.table.long.fill_with(|| None);
        self.table.notes = [Note::None; IDS];
        self.free_spare();
        self.limit = 0;
        self.plain_limit = 0;
        self.noted = 0;
        self.waiting = 0;
        self.extras = 0;
    }

    /// Gives the pages that are to be used again to the pool, where larger frames find them.
    #[cold]
    fn free_spare(&mut self) {
        self.table.spare.fill_with(|| None);
        self.spare = 0;
    }

    /// Pages to be used again.
    pub fn spare(&self) -> usize {
        self.spare
    }

    /// Frames the host has.
    pub fn in_flight(&self) -> usize {
        if self.noted == 0
            && self.extras == 0
            && let Some(ring) = &self.ring
        {
            return ring.outstanding() as usize;
        }
        let table = &*self.table;
        let plain = table.plain.iter().filter(|frame| frame.is_some());
        let long = table.long.iter().filter(|frame| frame.is_some());
        plain.count().wrapping_add(long.count())
    }

    /// A buffer of any length, of pages that were used before or from the pool.
    pub fn alloc(&mut self, len: usize) -> Option<Buf> {
        if let Ok(short) = u16::try_from(len)
            && usize::from(short) <= PAGE_SIZE
            && let Some(buf) = self.reuse(short)
        {
            return Some(buf);
        }
        let mut buf = self.pool.as_ref()?.alloc(len);
        if buf.is_none() && self.spare != 0 {
            self.free_spare();
            buf = self.pool.as_ref()?.alloc(len);
        }
        buf
    }

    /// A buffer of up to a page that was used before; `None` while there is none.
    #[inline(always)]
    pub fn reuse(&mut self, len: u16) -> Option<Buf> {
        let last = self.spare.wrapping_sub(1);
        let page = self.table.spare.get_mut(last)?.take()?;
        self.spare = last;
        page.into_buf(0, len).ok()
    }

    /// The id of a frame that goes the short way, if its page does: see
    /// [`send_plain`](Self::send_plain).
    #[inline(always)]
    pub fn plain_id(&self, frame: &TxFrame) -> Option<u8> {
        let Body::Buf(buf) = frame.body() else {
            return None;
        };
        if !frame.meta.is_plain() || frame.headroom() != 0 || !buf.is_from(self.pool.as_ref()?) {
            return None;
        }
        let ring = self.ring.as_ref()?;
        // As long as answers come in order, an id is its place on the ring.
        let id = ring.written() as u8;
        let is_free = self.table.plain.get(usize::from(id))?.is_none();
        (is_free && ring.outstanding() < self.plain_limit).then_some(id)
    }

    /// Sends what most frames are: a page that holds enough bytes for an Ethernet header, and up to
    /// `most`. Returns how many.
    ///
    /// # Errors
    /// The buffer, when it is another one; nothing was done.
    #[inline(always)]
    pub fn send_plain(&mut self, id: u8, buf: Buf, most: u16) -> Result<u16, Buf> {
        let (page, piece) = buf.into_segment(ETHERNET_HEADER as u16, most)?;
        if let Some(place) = self.table.plain.get_mut(usize::from(id)) {
            // The id was free, so there is no old page to drop.
            core::mem::forget(place.replace(page));
        }
        let request = TxRequest {
            gref: piece.token as u32,
            offset: piece.offset,
            flags: 0,
            id: id.into(),
            size: piece.len,
        };
        if let Some(ring) = &mut self.ring {
            ring.next_request()
                .write_part::<[u32; 3], 0>(&request.words());
        }
        Ok(piece.len)
    }

    /// Whether so many more slots would go onto the ring, and find ids.
    pub fn has_room(&self, slots: usize) -> bool {
        let outstanding = self.ring.as_ref().map_or(0, Ring::outstanding);
        let used = outstanding.wrapping_add(self.waiting) as usize;
        used.saturating_add(slots) <= self.limit as usize
    }

    /// Puts a frame of any pieces, flags and an extra onto the ring, which has room for it.
    pub fn send_chain(&mut self, buf: Buf, flags: u16, extra: Option<ExtraInfo>) {
        let (mut pieces, total) = (buf.segments(), buf.len() as u16);
        let slots = pieces.count();
        let is_long = buf.pages() > 1;
        let Some(first) = pieces.next() else { return };
        let Some(head) = self.find_id() else { return };
        let mut flags = flags;
        if extra.is_some() {
            flags |= TXF_EXTRA_INFO;
        }
        if slots > 1 {
            flags |= TXF_MORE_DATA;
        }
        if is_long {
            let (answered, failed) = (false, false);
            let left = slots as u8;
            self.note(
                head,
                Note::Head {
                    left,
                    answered,
                    failed,
                },
            );
        }
        self.write(first, head, flags, total);
        if let Some(extra) = extra
            && let Some(ring) = &mut self.ring
        {
            ring.next_request()
                .write_part::<[u32; 2], 0>(&extra.words());
            self.extras = self.extras.wrapping_add(1);
        }
        for (index, piece) in pieces.enumerate() {
            let Some(id) = self.find_id() else { break };
            self.note(id, Note::Piece { head });
            let more = index.wrapping_add(2) < slots;
            let flags = if more { TXF_MORE_DATA } else { 0 };
            self.write(piece, id, flags, piece.len);
        }
        let (at, table) = (usize::from(head), &mut *self.table);
        match buf.into_page() {
            Ok(page) => {
                if let Some(place) = table.plain.get_mut(at) {
                    *place = Some(page);
                }
            }
            Err(buf) => {
                if let Some(place) = table.long.get_mut(at) {
                    *place = Some(buf);
                }
            }
        }
    }

    fn write(&mut self, piece: Segment, id: u8, flags: u16, size: u16) {
        let request = TxRequest {
            gref: piece.token as u32,
            offset: piece.offset,
            flags,
            id: id.into(),
            size,
        };
        if let Some(ring) = &mut self.ring {
            ring.next_request()
                .write_part::<[u32; 3], 0>(&request.words());
        }
    }

    /// An id that is free: the next place on the ring, unless answers came out of order.
    fn find_id(&self) -> Option<u8> {
        let next = self.ring.as_ref()?.written() as u8;
        let free = |id: &u8| {
            let id = usize::from(*id);
            self.table.notes.get(id) == Some(&Note::None)
                && self.table.plain.get(id).is_some_and(Option::is_none)
        };
        (0..=u8::MAX).map(|i| next.wrapping_add(i)).find(free)
    }

    fn note(&mut self, id: u8, note: Note) {
        if let Some(place) = self.table.notes.get_mut(usize::from(id)) {
            match (*place == Note::None, note == Note::None) {
                (true, false) => self.noted = self.noted.wrapping_add(1),
                (false, true) => self.noted = self.noted.wrapping_sub(1),
                _ => {}
            }
            *place = note;
        }
        self.plain_limit = if self.noted == 0 { self.limit } else { 0 };
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
        while let Some(answer) = self.collect_plain() {
            self.finish(answer)?;
        }
        Ok(())
    }

    /// Ends what most answers end: frames of one page, by success. Returns the first answer that
    /// is anything else.
    #[inline(always)]
    fn collect_plain(&mut self) -> Option<TxResponse> {
        const { assert!(RSP_OKAY == 0) };
        let table = &mut *self.table;
        let mut spare = self.spare;
        let mut other = None;
        self.ring.as_mut()?.take_each(|word: u32| {
            // Success, with an id in range, is a small number.
            let Some(page) = table.plain.get_mut(word as usize).and_then(Option::take) else {
                other = Some(TxResponse::from_word(word));
                return false;
            };
            if let Some(place) = table.spare.get_mut(spare) {
                // There is nothing yet at this place.
                core::mem::forget(place.replace(page));
                spare = spare.wrapping_add(1);
            }
            true
        });
        self.spare = spare;
        other
    }

    #[cold]
    fn finish(&mut self, answer: TxResponse) -> Result<(), HostFault> {
        let failed = match answer.status {
            RSP_OKAY => false,
            RSP_ERROR | RSP_DROPPED => true,
            RSP_NULL => {
                let extras = self.extras.checked_sub(1);
                self.extras = extras.ok_or(HostFault::UnknownId)?;
                return Ok(());
            }
            status if status < 0 => true,
            _ => return Err(HostFault::Malformed),
        };
        let id = u8::try_from(answer.id).map_err(|_| HostFault::UnknownId)?;
        let note = self.table.notes.get(usize::from(id));
        match note.copied().unwrap_or(Note::None) {
            Note::None => {
                let buf = self.table.plain.get_mut(usize::from(id));
                drop(buf.and_then(Option::take).ok_or(HostFault::UnknownId)?);
                self.errors = self.errors.wrapping_add(failed.into());
                Ok(())
            }
            Note::Head { answered: true, .. } => Err(HostFault::UnknownId),
            Note::Head { .. } => self.finish_piece(id, id, failed),
            Note::Piece { head } => {
                self.note(id, Note::None);
                self.finish_piece(head, id, failed)
            }
        }
    }

    /// One piece of a frame of several was answered.
    fn finish_piece(&mut self, head: u8, id: u8, bad: bool) -> Result<(), HostFault> {
        let Some(Note::Head {
            left,
            answered,
            failed,
        }) = self.table.notes.get(usize::from(head)).copied()
        else {
            return Err(HostFault::UnknownId);
        };
        let failed = failed || bad;
        if answered {
            self.waiting = self.waiting.wrapping_sub(1);
        }
        if left > 1 {
            let left = left.wrapping_sub(1);
            let answered = answered || head == id;
            if answered {
                self.waiting = self.waiting.wrapping_add(1);
            }
            self.note(
                head,
                Note::Head {
                    left,
                    answered,
                    failed,
                },
            );
            return Ok(());
        }
        self.note(head, Note::None);
        if let Some(place) = self.table.long.get_mut(usize::from(head)) {
            *place = None;
        }
        self.errors = self.errors.wrapping_add(failed.into());
        Ok(())
    }
}
