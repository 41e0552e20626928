//! Frames on their way to the host: the ring to send by, and the table of what is in flight.

use super::abi::{
    ExtraInfo, RSP_DROPPED, RSP_ERROR, RSP_NULL, RSP_OKAY, TXF_EXTRA_INFO, TXF_MORE_DATA,
    TxRequest, TxResponse,
};
use super::ring::Ring;
use crate::ETHERNET_HEADER;
use crate::frame::{Body, TxFrame};
use hypercall::shm::{Boxed, Buf, Lent, OutOfPages, Pool, Segment};
use hypercall::{HostFault, Platform};

/// Ids there are: what a ring holds.
const IDS: usize = 256;

/// What is known of an id that is not free, beside its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Note {
    /// A frame of one piece; without a buffer, nothing.
    Plain,
    /// The first piece of a frame of more slots, of which so many are to be answered still.
    Head {
        left: u8,
        answered: bool,
        failed: bool,
    },
    /// Another piece of the frame that starts with this id.
    Piece { head: u8 },
    /// An extra, whose answer names nothing; and the next of those in flight.
    Extra { next: Option<u8> },
}

/// A table that is too large to be moved about.
struct Table {
    bufs: [Option<Buf>; IDS],
    notes: [Note; IDS],
    /// Ids that are free: as many as there is room.
    free: [u8; IDS],
}

/// How frames are sent.
pub struct Tx<P: Platform> {
    ring: Option<Ring<P, TxRequest>>,
    pool: Option<Pool<P>>,
    table: Boxed<Table, P>,
    /// Free ids; 0 also while nothing may be sent. Never more than the ring has room for.
    room: u32,
    /// Free ids while nothing may be sent.
    shut: u32,
    /// Ids in flight that are not a frame's first.
    others: u32,
    extra: Option<u8>,
    /// Frames the host said it did not send.
    pub errors: u64,
}

impl<P: Platform> Tx<P> {
    /// Without a ring or a pool.
    pub fn new(platform: &P) -> Result<Self, OutOfPages> {
        let table = Boxed::new(
            platform,
            Table {
                bufs: [const { None }; IDS],
                notes: [Note::Plain; IDS],
                free: [0; IDS],
            },
        )?;
        Ok(Self {
            ring: None,
            pool: None,
            table,
            room: 0,
            shut: 0,
            others: 0,
            extra: None,
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
        self.room = IDS as u32;
        self.shut = 0;
        grant
    }

    /// Takes and sends no more. What is in flight stays with the host.
    pub fn stop(&mut self) {
        self.shut = self.shut.max(self.room);
        self.room = 0;
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
        self.table.bufs.fill_with(|| None);
        self.table.notes = [Note::Plain; IDS];
        for (id, free) in self.table.free.iter_mut().enumerate() {
            *free = id as u8;
        }
        self.others = 0;
        self.extra = None;
        self.shut = IDS as u32;
        self.room = 0;
    }

    /// Frames the host has.
    pub fn in_flight(&self) -> usize {
        let taken = (IDS as u32).wrapping_sub(self.room.max(self.shut));
        taken.wrapping_sub(self.others) as usize
    }

    /// The only piece of a frame as most are, which goes out by [`send_plain`](Self::send_plain);
    /// `None` says nothing of the others.
    #[inline(always)]
    pub fn plain(&self, frame: &TxFrame, most: u32) -> Option<Segment> {
        let Body::Buf(buf) = frame.body() else {
            return None;
        };
        if self.room == 0 || !frame.meta.is_plain() || frame.headroom() != 0 {
            return None;
        }
        if !buf.is_from(self.pool.as_ref()?) {
            return None;
        }
        let piece = buf.only_segment(most)?;
        (usize::from(piece.len) >= ETHERNET_HEADER).then_some(piece)
    }

    /// Puts a frame of one piece onto the ring.
    #[inline(always)]
    pub fn send_plain(&mut self, buf: Buf, piece: Segment) {
        let Some(ring) = &mut self.ring else {
            return;
        };
        self.room = self.room.wrapping_sub(1);
        let table = &mut *self.table;
        let Some(id) = table.free.get(usize::from(self.room as u8)).copied() else {
            return;
        };
        if let Some(place) = table.bufs.get_mut(usize::from(id)) {
            // The id was free, so there is no old buffer to drop.
            core::mem::forget(place.replace(buf));
        }
        let request = TxRequest {
            gref: piece.token as u32,
            offset: piece.offset,
            flags: 0,
            id: id.into(),
            size: piece.len,
        };
        ring.next_request()
            .write_part::<[u32; 3], 0>(&request.words());
    }

    /// Whether so many more slots would go onto the ring.
    pub fn has_room(&self, slots: usize) -> bool {
        self.room as usize >= slots
    }

    /// Puts a frame of any pieces, flags and an extra onto the ring, which has room for it.
    pub fn send_chain(&mut self, buf: Buf, flags: u16, extra: Option<ExtraInfo>) {
        let (mut pieces, total) = (buf.segments(), buf.len() as u16);
        let slots = pieces.count();
        let Some(first) = pieces.next() else { return };
        let Some(head) = self.take_id() else { return };
        let mut flags = flags;
        if extra.is_some() {
            flags |= TXF_EXTRA_INFO;
        }
        if slots > 1 {
            flags |= TXF_MORE_DATA;
        }
        self.write(first, head, flags, total);
        if let Some(extra) = extra {
            self.write_extra(extra);
        }
        let mut left = 1u8;
        for piece in pieces {
            left = left.wrapping_add(1);
            let Some(id) = self.take_id() else { break };
            self.others = self.others.wrapping_add(1);
            self.note(id, Note::Piece { head });
            let more = usize::from(left) < slots;
            let flags = if more { TXF_MORE_DATA } else { 0 };
            self.write(piece, id, flags, piece.len);
        }
        if slots > 1 {
            let (answered, failed) = (false, false);
            self.note(
                head,
                Note::Head {
                    left,
                    answered,
                    failed,
                },
            );
        }
        if let Some(place) = self.table.bufs.get_mut(usize::from(head)) {
            *place = Some(buf);
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

    fn write_extra(&mut self, extra: ExtraInfo) {
        // An extra keeps an id too, so that free ids never are more than the ring has room for.
        if let Some(id) = self.take_id() {
            self.note(id, Note::Extra { next: self.extra });
            self.others = self.others.wrapping_add(1);
            self.extra = Some(id);
        }
        if let Some(ring) = &mut self.ring {
            ring.next_request()
                .write_part::<[u32; 2], 0>(&extra.words());
        }
    }

    fn take_id(&mut self) -> Option<u8> {
        self.room = self.room.checked_sub(1)?;
        self.table.free.get(self.room as usize).copied()
    }

    #[inline(always)]
    fn give_id(&mut self, id: u8) {
        if let Some(place) = self.table.free.get_mut(usize::from(self.room as u8)) {
            *place = id;
        }
        self.room = self.room.wrapping_add(1);
    }

    fn note(&mut self, id: u8, note: Note) {
        if let Some(place) = self.table.notes.get_mut(usize::from(id)) {
            *place = note;
        }
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
        while let Some(ring) = &mut self.ring
            && let Some(slot) = ring.next_answer()
        {
            let answer = TxResponse::from_word(slot.read_part::<u32, 0>());
            ring.advance();
            if !self.finish_plain(answer) {
                self.finish(answer)?;
            }
        }
        Ok(())
    }

    /// Ends what most answers end: a frame of one piece, by success. `false` when it is anything
    /// else; then nothing was done.
    #[inline(always)]
    fn finish_plain(&mut self, answer: TxResponse) -> bool {
        let at = usize::from(answer.id);
        let table = &mut *self.table;
        if answer.status != RSP_OKAY || table.notes.get(at) != Some(&Note::Plain) {
            return false;
        }
        let Some(buf) = table.bufs.get_mut(at).and_then(Option::take) else {
            return false;
        };
        drop(buf);
        self.give_id(answer.id as u8);
        true
    }

    #[cold]
    fn finish(&mut self, answer: TxResponse) -> Result<(), HostFault> {
        let failed = match answer.status {
            RSP_OKAY => false,
            RSP_ERROR | RSP_DROPPED => true,
            RSP_NULL => return self.finish_extra(),
            status if status < 0 => true,
            _ => return Err(HostFault::Malformed),
        };
        let id = u8::try_from(answer.id).map_err(|_| HostFault::UnknownId)?;
        match self.note_of(id) {
            Note::Plain => {
                let buf = self.table.bufs.get_mut(usize::from(id));
                let buf = buf.and_then(Option::take).ok_or(HostFault::UnknownId)?;
                drop(buf);
                self.errors = self.errors.wrapping_add(failed.into());
                self.give_id(id);
                Ok(())
            }
            Note::Head { answered: true, .. } | Note::Extra { .. } => Err(HostFault::UnknownId),
            Note::Head { .. } => self.finish_piece(id, id, failed),
            Note::Piece { head } => {
                self.note(id, Note::Plain);
                self.others = self.others.wrapping_sub(1);
                self.give_id(id);
                self.finish_piece(head, id, failed)
            }
        }
    }

    fn note_of(&self, id: u8) -> Note {
        let note = self.table.notes.get(usize::from(id));
        note.copied().unwrap_or(Note::Plain)
    }

    /// One slot of a frame of several was answered.
    fn finish_piece(&mut self, head: u8, id: u8, bad: bool) -> Result<(), HostFault> {
        let Note::Head {
            left,
            answered,
            failed,
        } = self.note_of(head)
        else {
            return Err(HostFault::UnknownId);
        };
        let failed = failed || bad;
        if left > 1 {
            let left = left.wrapping_sub(1);
            let answered = answered || head == id;
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
        self.note(head, Note::Plain);
        if let Some(place) = self.table.bufs.get_mut(usize::from(head)) {
            *place = None;
        }
        self.errors = self.errors.wrapping_add(failed.into());
        self.give_id(head);
        Ok(())
    }

    fn finish_extra(&mut self) -> Result<(), HostFault> {
        let id = self.extra.ok_or(HostFault::UnknownId)?;
        let Note::Extra { next } = self.note_of(id) else {
            return Err(HostFault::UnknownId);
        };
        self.extra = next;
        self.note(id, Note::Plain);
        self.others = self.others.wrapping_sub(1);
        self.give_id(id);
        Ok(())
    }
}
