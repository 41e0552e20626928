//! Frames from the host.
//!
//! A packet of the host's names ranges of the receive buffer, each with one RNDIS message. A frame
//! is handed out where it lies; when all of a packet's frames were dropped, the packet is answered,
//! and the host uses its ranges again. Answers are sent in batches.

use super::nvsp::{self, kind};
use super::rndis::{self, Found, Message};
use crate::frame::{Body, RxFrame};
use crate::offload::{RxChecksum, RxMeta};
use hypercall::shm::{OutOfPages, Pages, Place, Section, Tickets, Words};
use hypercall::{Gate, HostFault, Platform};
use vmbus::{Channel, Form, Incoming, Outgoing, SendError};

/// Ranges in one packet at most. Hosts have up to 375, and 562 with joined segments.
const RANGES: usize = 1000;

/// Words of the longest packet behind its descriptor: ranges, their number, and the message.
const PACKET_WORDS: usize = RANGES + 1 + 16;

/// The answer to a packet.
const DONE: [u64; 1] = [kind::SEND_RNDIS_PACKET_COMPLETE as u64 | (nvsp::SUCCESS as u64) << 32];

/// A range longer than this is none: it holds one frame.
const LONGEST: u64 = 1 << 20;

/// The receiving half of a queue.
#[derive(Debug)]
pub(super) struct Receive<P: Platform> {
    pub(super) tickets: Tickets,
    /// Packets of any form, copied out, and behind them ranges that wait for the caller: a ring of
    /// words.
    private: Pages<P>,
    /// Ranges that the ring holds.
    capacity: usize,
    first: usize,
    waiting: usize,
    /// Bytes of the longest frame that can come.
    longest: u32,
    /// The same without the least.
    room: u32,
    /// Frames handed out the long way since packets were last answered.
    since: u32,
    /// Frames that may be handed out the short way before there is something else to do, and how
    /// many might when that was last said.
    left: u32,
    granted: u32,
    /// Frames that went the short way before.
    frames: u64,
    /// The form of the packets that bring one frame.
    pub(super) form: Form,
}

/// Bytes that a frame has at least.
const SHORTEST: u32 = crate::ETHERNET_HEADER as u32;

/// Frames handed out before packets are answered, if the ring does not come up empty before.
const BATCH: u32 = 32;

/// The number of ranges of a packet that has one, and whose buffer it is in.
pub(super) const ONE_RANGE: u64 = 1 << 32 | nvsp::RECEIVE_BUFFER_ID as u64;

/// A frame that goes the short way.
pub(super) struct Short {
    section: Section,
    checksum: RxChecksum,
}

impl Short {
    /// Length in bytes.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.section.len()
    }

    /// The frame.
    #[inline(always)]
    pub(super) fn into_frame(self) -> RxFrame {
        let meta = RxMeta {
            checksum: self.checksum,
            ..RxMeta::default()
        };
        RxFrame::new(Body::Section(self.section), meta)
    }
}

/// A range that waits: where it is, its length, and its ticket, in one word.
#[derive(Debug, Clone, Copy)]
struct Range(u64);

impl Range {
    fn new(offset: u32, len: u32, ticket: u16) -> Option<Self> {
        let (offset, len) = (u64::from(offset), u64::from(len));
        // Receive buffers are of 31 MiB at most.
        (offset < 1 << 28 && len < LONGEST)
            .then_some(Self(offset | len << 28 | u64::from(ticket) << 48))
    }

    fn offset(self) -> u32 {
        self.0 as u32 & 0xfff_ffff
    }

    fn len(self) -> u32 {
        (self.0 >> 28) as u32 & 0xf_ffff
    }

    fn ticket(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// What a range came to.
#[derive(Debug)]
pub(super) enum Taken {
    /// A frame for the caller.
    Frame(RxFrame),
    /// A frame that is of no use.
    Dropped,
    /// It waits.
    Deferred,
    /// A control message: these bytes hold it.
    Control(Section),
}

impl<P: Platform> Receive<P> {
    pub(super) fn new(platform: &P, tickets: Tickets) -> Result<Self, OutOfPages> {
        let capacity = usize::from(tickets.count()).saturating_add(RANGES);
        let words = capacity.saturating_add(PACKET_WORDS);
        let private = Pages::alloc(platform, words.div_ceil(512))?;
        Ok(Self {
            tickets,
            private,
            capacity,
            first: 0,
            waiting: 0,
            longest: 0,
            room: 0,
            since: 0,
            left: BATCH,
            granted: BATCH,
            frames: 0,
            form: Form::NONE,
        })
    }

    fn ring(&self) -> Words<'_> {
        let words = self.private.words();
        // The run was made that long.
        words.part(PACKET_WORDS, self.capacity).unwrap_or(words)
    }

    /// Whether ranges wait for the caller.
    #[inline(always)]
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting != 0
    }

    /// Whether there is room for the ranges of any packet.
    pub(super) fn has_room(&self) -> bool {
        self.capacity.saturating_sub(self.waiting) >= RANGES
    }

    /// Whether packets are to be answered before more frames are handed out.
    pub(super) fn is_due(&self) -> bool {
        self.since >= BATCH || (self.left == 0 && self.waiting == 0)
    }

    /// Lets no frame go the short way until packets were answered.
    pub(super) fn stop(&mut self) {
        self.grant(0);
    }

    fn grant(&mut self, frames: u32) {
        self.frames = self.usual_frames();
        (self.granted, self.left) = (frames, frames);
    }

    /// Whether [`next_usual`](Self::next_usual) may find a frame when one comes.
    pub(super) fn is_open(&self) -> bool {
        self.left != 0
    }

    /// Frames that went the short way.
    pub(super) fn usual_frames(&self) -> u64 {
        let now = self.granted.wrapping_sub(self.left);
        self.frames.wrapping_add(now.into())
    }

    /// Takes over how long frames may be, in bytes; it never becomes less.
    pub(super) fn set_longest(&mut self, longest: u32) {
        self.longest = self.longest.max(longest);
        self.room = self.longest.saturating_sub(SHORTEST);
    }

    /// The next frame, if it and its packet are as most are. `None` says nothing.
    #[inline(always)]
    pub(super) fn next_usual<G: Gate>(
        &mut self,
        channel: &mut Channel<'_, '_, P, G>,
    ) -> Option<Short> {
        if self.left == 0 {
            return None;
        }
        let form = self.form;
        let (id, [head, range, message]) = channel.peek(form)?;
        if head != ONE_RANGE || message as u32 != kind::SEND_RNDIS_PACKET {
            return None;
        }
        let place = self.tickets.place((range >> 32) as u32, range as u32)?;
        let usual = rndis::usual(self.tickets.view(place)?)?;
        let frame = place.part(usual.offset, usual.len)?;
        if usual.len.wrapping_sub(SHORTEST) > self.room {
            return None;
        }
        let section = self.tickets.take(id, frame)?;
        channel.pass(form);
        self.left = self.left.wrapping_sub(1);
        let checksum = usual.checksum;
        Some(Short { section, checksum })
    }

    /// Where a range of the receive buffer is, and what it holds.
    fn find(&self, offset: u32, len: u32) -> Result<(Place, Message), HostFault> {
        let place = self.tickets.place(offset, len);
        let found = place.and_then(|place| Some((place, self.tickets.view(place)?)));
        let (place, range) = found.ok_or(HostFault::Length)?;
        Ok((place, rndis::find(range)?))
    }

    /// Takes the one range of a packet: what it holds, `None` when every ticket is out.
    #[inline(never)]
    pub(super) fn take(
        &mut self,
        id: u64,
        offset: u32,
        len: u32,
    ) -> Result<Option<Taken>, HostFault> {
        let (place, message) = self.find(offset, len)?;
        match message {
            Message::Frame(found) => {
                let frame = place.part(found.offset.into(), found.len);
                let frame = frame.ok_or(HostFault::Length)?;
                let section = self.tickets.take(id, frame);
                Ok(section.map(|section| self.frame(section, found)))
            }
            Message::Control => Ok(self.tickets.take(id, place).map(Taken::Control)),
        }
    }

    #[inline(always)]
    fn frame(&mut self, section: Section, found: Found) -> Taken {
        if found.len < SHORTEST || found.len > self.longest {
            return Taken::Dropped;
        }
        self.since = self.since.wrapping_add(1);
        Taken::Frame(RxFrame::new(Body::Section(section), found.meta))
    }

    /// Has the one range of a packet wait for the caller, unless it holds a control message, which
    /// is returned. There must be a ticket, and room.
    #[inline(never)]
    pub(super) fn defer(
        &mut self,
        id: u64,
        offset: u32,
        len: u32,
    ) -> Result<Option<Section>, HostFault> {
        let ticket = self.tickets.take_many(id, 1);
        self.sort(offset, len, ticket.ok_or(HostFault::UnknownId)?)
    }

    fn sort(&mut self, offset: u32, len: u32, ticket: u16) -> Result<Option<Section>, HostFault> {
        match self.find(offset, len)?.1 {
            // It is looked at again when its turn comes.
            Message::Frame(_) => self.push(offset, len, ticket).map(|()| None),
            Message::Control => Ok(self.tickets.open(ticket, offset, len)),
        }
    }

    fn push(&mut self, offset: u32, len: u32, ticket: u16) -> Result<(), HostFault> {
        let range = Range::new(offset, len, ticket).ok_or(HostFault::Length)?;
        let mut at = self.first.wrapping_add(self.waiting);
        if at >= self.capacity {
            at = at.wrapping_sub(self.capacity);
        }
        self.ring().store(at, range.0)?;
        self.waiting = self.waiting.wrapping_add(1);
        self.stop();
        Ok(())
    }

    /// The next range that waits.
    pub(super) fn pop(&mut self) -> Result<Option<Taken>, HostFault> {
        if self.waiting == 0 {
            return Ok(None);
        }
        let range = Range(self.ring().load(self.first)?);
        self.waiting = self.waiting.wrapping_sub(1);
        self.first = self.first.wrapping_add(1);
        if self.first >= self.capacity {
            self.first = 0;
        }
        let (offset, len, ticket) = (range.offset(), range.len(), range.ticket());
        let found = self.find(offset, len);
        if found.is_err() {
            self.tickets.skip(ticket);
        }
        let taken = match found?.1 {
            Message::Frame(found) => self
                .tickets
                .open(ticket, offset.wrapping_add(found.offset), found.len)
                .map(|section| self.frame(section, found)),
            Message::Control => self.tickets.open(ticket, offset, len).map(Taken::Control),
        };
        // Every range that waits was promised a section, and lies in the buffer.
        taken.map(Some).ok_or(HostFault::Length)
    }

    /// Takes a packet of any form out of the ring.
    pub(super) fn receive<G: Gate>(
        &mut self,
        channel: &mut Channel<'_, '_, P, G>,
    ) -> Result<Option<Incoming>, HostFault> {
        let words = self.private.words();
        let room = words.part(0, PACKET_WORDS).unwrap_or(words);
        channel.receive_to(room)
    }

    /// Words of the packet that was taken last.
    pub(super) fn words<const N: usize>(&self, from: usize, packet: &Incoming) -> [u64; N] {
        let words = self.private.words();
        let mut into = [0; N];
        for (i, word) in into.iter_mut().enumerate() {
            let at = from.saturating_add(i);
            if at < packet.len / 8 {
                *word = words.load(at).unwrap_or(0);
            }
        }
        into
    }

    /// Has the ranges of the packet that was taken last wait for the caller, but for control
    /// messages, which are given to `control`. There must be a ticket, and room.
    pub(super) fn defer_ranges(
        &mut self,
        packet: &Incoming,
        mut control: impl FnMut(Section) -> Result<(), HostFault>,
    ) -> Result<(), HostFault> {
        let [head] = self.words::<1>(0, packet);
        let count = (head >> 32) as usize;
        let header = packet.header / 8;
        if count == 0 || count > RANGES || count >= header {
            return Err(HostFault::Length);
        }
        let [message] = self.words::<1>(header, packet);
        if head as u16 != nvsp::RECEIVE_BUFFER_ID || message as u32 != kind::SEND_RNDIS_PACKET {
            return Err(HostFault::Malformed);
        }
        let ticket = self.tickets.take_many(packet.transaction_id, count as u32);
        let ticket = ticket.ok_or(HostFault::UnknownId)?;
        for i in 0..count {
            let [range] = self.words::<1>(i.wrapping_add(1), packet);
            if let Some(section) = self.sort((range >> 32) as u32, range as u32, ticket)? {
                control(section)?;
            }
        }
        Ok(())
    }

    /// Answers packets of which every frame was dropped, as many as the ring takes.
    #[inline]
    pub(super) fn answer<G: Gate>(
        &mut self,
        channel: &mut Channel<'_, '_, P, G>,
    ) -> Result<(), HostFault> {
        self.since = 0;
        self.grant(if self.waiting == 0 { BATCH } else { 0 });
        if !self.tickets.is_noted() {
            return Ok(());
        }
        let mut more = false;
        channel.send_answers(|answers| {
            self.tickets.settle(|id| {
                let put = answers.put(id, &DONE);
                more |= !put;
                put
            });
        });
        if more {
            self.answer_slowly(channel)
        } else {
            Ok(())
        }
    }

    /// Answers packets where that does not go the short way.
    #[cold]
    fn answer_slowly<G: Gate>(
        &mut self,
        channel: &mut Channel<'_, '_, P, G>,
    ) -> Result<(), HostFault> {
        let mut result = Ok(());
        self.tickets.settle(|id| {
            match channel.send(Outgoing::completion(id, &DONE)) {
                Ok(()) => return true,
                // The rest goes when there is room; the host signals then.
                Err(SendError::Full) => {}
                Err(SendError::Fault(fault)) => result = Err(fault),
                Err(_) => result = Err(HostFault::RingIndex),
            }
            false
        });
        result
    }
}
