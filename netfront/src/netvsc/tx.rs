//! Frames to the host.
//!
//! ```text
//! |<------ HEADROOM ------>|
//! | header | pieces | gap  | frame ...
//! ```
//! A frame lies in a section of the send buffer, which the host knows by its number, or, when it is
//! long, in pages that its packet names. Either way the RNDIS header is in front of it, in the same
//! range, and the caller writes the bytes where the host reads them.

use super::nvsp::{self, kind};
use super::pieces::{Cut, Wanted};
use super::rndis;
use crate::capabilities::Capabilities;
use crate::frame::{Body, TxFrame};
use crate::net::{ReserveError, SendError};
use core::num::NonZeroU64;
use hypercall::shm::{Buf, PAGE_SIZE, Pool, Section, Span, Start, Tickets};
use hypercall::{Gate, HostFault, Platform};
use vmbus::{Channel, Form, Outgoing};

/// Bytes before a frame: a fixed part of 44 and three pieces of 16, and four to make the frame
/// start at a multiple of 8.
pub(super) const HEADROOM: u16 = 96;
const _: () = assert!(rndis::PACKET_BYTES + 3 * 16 <= HEADROOM as u32);

/// Long frames in flight at most.
const LONG: usize = 64;

/// Added to the place in the id of a packet: its memory is a buffer, not a section. There are fewer
/// sections.
const LONG_ID: u32 = 1 << 16;

/// Bytes that a frame has at least.
const SHORTEST: u32 = crate::ETHERNET_HEADER as u32;

/// Words of 4 bytes of the header, as many as there may be.
const HEADER_WORDS: usize = HEADROOM as usize / 4;

/// The sending half of a queue.
#[derive(Debug)]
pub(super) struct Transmit<P: Platform> {
    /// This queue's part of the send buffer, if the host took one.
    pub(super) tickets: Option<Tickets>,
    /// Number of this queue's first section.
    pub(super) first_section: u32,
    /// Bytes of a section.
    pub(super) section_size: u32,
    pub(super) pool: Pool<P>,
    /// Long frames in flight, and the ids of their packets.
    long: [Option<(u64, Buf)>; LONG],
    /// A bit for each place of `long` that is free.
    free: u64,
    /// Frames sent.
    pub(super) frames: u64,
    /// Those the host is done with.
    done: u64,
    /// The form of the packets that say that a frame was sent.
    pub(super) form: Form,
    /// Whether messages are as long as from NVSP 6.1 on.
    pub(super) long_messages: bool,
    /// Bytes of the longest frame as it is, without a tag in it.
    longest: u32,
    /// The same without the least.
    room: u32,
    /// Bytes of the longest frame that a section holds, and that there may be.
    short: usize,
}

impl<P: Platform> Transmit<P> {
    pub(super) fn new(pool: Pool<P>, long_messages: bool) -> Self {
        Self {
            tickets: None,
            first_section: 0,
            section_size: 0,
            pool,
            long: [const { None }; LONG],
            free: u64::MAX,
            frames: 0,
            done: 0,
            form: Form::NONE,
            long_messages,
            longest: 0,
            room: 0,
            short: 0,
        }
    }

    /// Gives the pool back, with everything that was in flight in it.
    pub(super) fn into_pool(self) -> Pool<P> {
        self.pool
    }

    /// Room for a frame in a section, if there is any now.
    #[inline(always)]
    pub(super) fn reserve(&mut self, len: usize) -> Option<Section> {
        if len.wrapping_sub(1) >= self.short {
            return None;
        }
        let tickets = self.tickets.as_mut()?;
        // It is that short.
        let total = u32::from(len as u16).wrapping_add(HEADROOM.into());
        tickets.reserve(total)
    }

    /// Whether a frame of `len` bytes may lie in a section.
    pub(super) fn is_short(&self, len: usize) -> bool {
        self.tickets.is_some() && len <= self.short
    }

    /// Room for a frame in pages of its own.
    pub(super) fn reserve_long(&mut self, len: usize) -> Option<Buf> {
        self.pool.alloc(len.saturating_add(HEADROOM.into()))
    }

    /// Lets no frame be reserved or sent the short way any more.
    pub(super) fn stop(&mut self) {
        self.short = 0;
    }

    /// Takes over how long frames may be: the largest packet, and the longest segment to be cut.
    pub(super) fn set_lengths(&mut self, mtu: u16, most: u32) {
        self.longest = super::longest(mtu);
        self.room = self.longest.saturating_sub(SHORTEST);
        let room = self.section_size.saturating_sub(HEADROOM.into());
        let all = self.longest.saturating_add(4).max(most);
        self.short = match self.tickets {
            Some(_) => room.min(all).min(u16::MAX.into()) as usize,
            None => 0,
        };
    }

    /// Whether a frame of `len` bytes could ever be had.
    pub(super) fn check_length(
        &self,
        len: usize,
        capabilities: &Capabilities,
    ) -> Result<(), ReserveError> {
        let longest = self.longest.wrapping_add(4).max(capabilities.max_segmented);
        let total = len.saturating_add(HEADROOM.into());
        let room = self.pool.pages().saturating_mul(PAGE_SIZE);
        if len > longest as usize || (!self.is_short(len) && total > room) {
            return Err(ReserveError::TooLong);
        }
        Ok(())
    }

    /// Puts a frame into the ring that is as most are: short, whole, in a section, and nothing to be
    /// done to it. Returns its length.
    ///
    /// # Errors
    /// The section, to be sent by [`send`](Self::send): nothing was done that counts.
    #[inline(always)]
    pub(super) fn send_plain<G: Gate>(
        &mut self,
        channel: &mut Channel<'_, '_, P, G>,
        section: Section,
    ) -> Result<u32, Section> {
        let len = (section.len() as u32).wrapping_sub(HEADROOM.into());
        if !section.is_uncut() || len.wrapping_sub(SHORTEST) > self.room {
            return Err(section);
        }
        let Some(tickets) = &mut self.tickets else {
            return Err(section);
        };
        tickets.hold(section, |index, section| {
            write_header(section.span().start()?, len);
            let id = id_of(self.frames, index.into());
            let bytes = u64::from(len).wrapping_add(HEADROOM.into());
            let number = self.first_section.wrapping_add(index.into());
            let message = [SEND_DATA, u64::from(number) | bytes << 32, 0, 0, 0];
            let [a, b, c, d, _] = message;
            let sent = match self.long_messages {
                true => channel.send_request(id.get(), &message),
                false => channel.send_request(id.get(), &[a, b, c, d]),
            };
            sent.then_some(id)
        })?;
        self.frames = self.frames.wrapping_add(1);
        Ok(len)
    }

    /// Keeps a frame in a section of this queue's until the host is done with it.
    fn keep(&mut self, frame: TxFrame, id: NonZeroU64) {
        let (body, _) = frame.into_parts();
        if let Body::Section(section) = body
            && let Some(tickets) = &mut self.tickets
        {
            // It is one of these, or it would not have been sent.
            let _ = tickets.hold(section, |_, _| Some(id));
        }
        self.frames = self.frames.wrapping_add(1);
    }

    /// Puts a frame into the ring.
    #[inline(never)]
    pub(super) fn send<G: Gate>(
        &mut self,
        channel: &mut Channel<'_, '_, P, G>,
        capabilities: &Capabilities,
        frame: TxFrame,
    ) -> Result<(), (SendError, TxFrame)> {
        if frame.headroom() != HEADROOM {
            return Err((SendError::OtherQueue, frame));
        }
        self.send_any(channel, capabilities, frame)
    }

    /// The number of a section of this queue's that was not moved about.
    fn number(&self, section: &Section) -> Option<u32> {
        let index = self.tickets.as_ref()?.index(section)?;
        let number = self.first_section.wrapping_add(index.into());
        section.is_uncut().then_some(number)
    }

    fn send_section<G: Gate>(
        &mut self,
        channel: &mut Channel<'_, '_, P, G>,
        number: u32,
        frame: TxFrame,
        cut: Option<Cut>,
    ) -> Result<(), (SendError, TxFrame)> {
        let id = self.next_id(number.wrapping_sub(self.first_section));
        let bytes = frame.body().len() as u64;
        let message = [SEND_DATA, u64::from(number) | bytes << 32, 0, 0, 0];
        if let Err(why) = self.put(channel, id.get(), &message) {
            return Err((why, frame));
        }
        edit(frame.body(), cut);
        self.keep(frame, id);
        Ok(())
    }

    fn put<G: Gate>(
        &self,
        channel: &mut Channel<'_, '_, P, G>,
        id: u64,
        message: &[u64; nvsp::WORDS],
    ) -> Result<(), SendError> {
        let [a, b, c, d, _] = *message;
        let sent = if self.long_messages {
            channel.send(Outgoing::in_band(id, message).ask_completion())
        } else {
            channel.send(Outgoing::in_band(id, &[a, b, c, d]).ask_completion())
        };
        sent.map_err(refusal)
    }

    /// The id of the next packet, whose memory has this number; never 0. Packets that had the same
    /// memory are told apart by it.
    fn next_id(&self, place: u32) -> NonZeroU64 {
        id_of(self.frames, place)
    }

    fn send_any<G: Gate>(
        &mut self,
        channel: &mut Channel<'_, '_, P, G>,
        capabilities: &Capabilities,
        frame: TxFrame,
    ) -> Result<(), (SendError, TxFrame)> {
        let len = frame.len();
        let wanted = head(frame.body())
            .ok_or(SendError::BadLength)
            .and_then(|head| {
                let wanted = Wanted::new(&frame.meta, capabilities, head, len)?;
                let most = match wanted.cut {
                    Some(_) => capabilities.max_segmented,
                    None if wanted.tagged => self.longest.wrapping_add(4),
                    None => self.longest,
                };
                if len > most as usize {
                    return Err(SendError::BadLength);
                }
                let header = full_header(len as u32, wanted.pieces());
                let written = head.write(0, &header);
                written.map(|()| wanted).map_err(|_| SendError::BadLength)
            });
        match (wanted, frame.body()) {
            (Err(why), _) => Err((why, frame)),
            (Ok(wanted), Body::Section(section)) => match self.number(section) {
                Some(number) => self.send_section(channel, number, frame, wanted.cut),
                None => Err((SendError::OtherQueue, frame)),
            },
            (Ok(_), Body::Piece(_)) => Err((SendError::OtherQueue, frame)),
            (Ok(_), Body::Buf(buf)) if !buf.is_from(&self.pool) => {
                Err((SendError::OtherQueue, frame))
            }
            (Ok(_), Body::Buf(buf)) if !is_one_range(buf) => Err((SendError::BadLength, frame)),
            (Ok(wanted), Body::Buf(_)) => self.send_long(channel, frame, wanted.cut),
        }
    }

    fn send_long<G: Gate>(
        &mut self,
        channel: &mut Channel<'_, '_, P, G>,
        frame: TxFrame,
        cut: Option<Cut>,
    ) -> Result<(), (SendError, TxFrame)> {
        let Body::Buf(buf) = frame.body() else {
            return Err((SendError::OtherQueue, frame));
        };
        if self.free == 0 {
            return Err((SendError::Full, frame));
        }
        let place = self.free.trailing_zeros();
        let id = self.next_id(place | LONG_ID).get();
        let offset = buf.segments().next().map_or(0, |s| s.offset).into();
        let bytes = buf.len() as u32;
        let frames = buf.segments().map(|segment| segment.token);
        const MESSAGE: [u64; nvsp::WORDS] = [SEND_DATA, nvsp::NO_SECTION as u64, 0, 0, 0];
        let [a, b, c, d, _] = MESSAGE;
        let sent = if self.long_messages {
            channel.send(Outgoing::gpa_direct(id, &MESSAGE, offset, bytes, frames))
        } else {
            let message = [a, b, c, d];
            channel.send(Outgoing::gpa_direct(id, &message, offset, bytes, frames))
        };
        if let Err(why) = sent {
            return Err((refusal(why), frame));
        }
        edit(frame.body(), cut);
        let (body, _) = frame.into_parts();
        if let (Body::Buf(buf), Some(slot)) = (body, self.long.get_mut(place as usize)) {
            *slot = Some((id, buf));
        }
        self.free &= self.free.wrapping_sub(1);
        self.frames = self.frames.wrapping_add(1);
        Ok(())
    }

    /// Takes note that the host is done with a packet; false if it has none by that id.
    #[inline(always)]
    pub(super) fn complete(&mut self, id: u64) -> bool {
        let place = (id as u32).wrapping_sub(1);
        if let Some(tickets) = &mut self.tickets
            && place < u32::from(tickets.count())
        {
            let known = tickets.release(place as u16, id);
            self.done = self.done.wrapping_add(known.into());
            return known;
        }
        self.complete_long(id, place ^ LONG_ID)
    }

    /// Frames that the host has.
    pub(super) fn in_flight(&self) -> u64 {
        self.frames.wrapping_sub(self.done)
    }

    #[inline(never)]
    fn complete_long(&mut self, id: u64, place: u32) -> bool {
        let Some(slot) = self.long.get_mut(place as usize) else {
            return false;
        };
        if slot.as_ref().is_none_or(|(of, _)| *of != id) {
            return false;
        }
        *slot = None;
        self.free |= 1 << place;
        self.done = self.done.wrapping_add(1);
        true
    }

    /// Buffers that the caller has, or the host.
    pub(super) fn out(&self) -> usize {
        let sections = self.tickets.as_ref().map_or(0, Tickets::out);
        let pages = self.pool.pages().saturating_sub(self.pool.free_pages());
        sections.saturating_add(pages)
    }
}

/// The id of a packet whose memory has this number, after so many others.
#[inline(always)]
fn id_of(frames: u64, place: u32) -> NonZeroU64 {
    NonZeroU64::MIN.saturating_add(place.into()) | frames << 32
}

/// The first word of every message that brings a frame.
const SEND_DATA: u64 = kind::SEND_RNDIS_PACKET as u64 | (nvsp::DATA as u64) << 32;

fn refusal(why: vmbus::SendError) -> SendError {
    match why {
        vmbus::SendError::Full => SendError::Full,
        vmbus::SendError::Fault(fault) => SendError::Failed(fault),
        vmbus::SendError::TooLarge => SendError::BadLength,
        _ => SendError::Failed(HostFault::RingIndex),
    }
}

/// Where a frame starts, from the byte behind the message's header.
const DATA_OFFSET: u32 = HEADROOM as u32 - 8;

/// Writes the header of a frame of `len` bytes about which nothing is said, and four bytes more.
#[inline(always)]
fn write_header(head: Start<'_, 48>, len: u32) {
    let (len, total) = (u64::from(len), u64::from(len).wrapping_add(HEADROOM.into()));
    head.put::<0>(rndis::kind::PACKET as u64 | total << 32);
    head.put::<8>(DATA_OFFSET as u64 | len << 32);
    head.put::<16>(0);
    head.put::<24>(0);
    head.put::<32>(0);
    head.put::<40>(0);
}

/// The header of a frame of `len` bytes, with pieces of information: kinds and values.
fn full_header(len: u32, pieces: &[(u32, u32)]) -> [u32; HEADER_WORDS] {
    let mut words = [0; HEADER_WORDS];
    let bytes = (pieces.len() as u32).wrapping_mul(16);
    let total = len.wrapping_add(HEADROOM.into());
    let offset = if bytes == 0 {
        0
    } else {
        const { rndis::PACKET_BYTES - 8 }
    };
    let fixed = [
        rndis::kind::PACKET,
        total,
        DATA_OFFSET,
        len,
        0,
        0,
        0,
        offset,
        bytes,
        0,
        0,
    ];
    let pieces = pieces
        .iter()
        .flat_map(|(kind, value)| [16, *kind, 12, *value]);
    for (to, from) in words.iter_mut().zip(fixed.into_iter().chain(pieces)) {
        *to = from;
    }
    words
}

/// Makes a frame's headers what the host wants of one that it is to cut. The host looks at them
/// only when their packet is published.
#[inline(always)]
fn edit(body: &Body, cut: Option<Cut>) {
    if let (Some(cut), Some(head)) = (cut, head(body)) {
        // It was looked at there before.
        let _ = cut.edit(head);
    }
}

/// The bytes of a body that are in one piece, header included.
#[inline(always)]
fn head(body: &Body) -> Option<Span<'_>> {
    match body {
        Body::Section(section) => Some(section.span()),
        Body::Piece(piece) => Some(piece.span()),
        Body::Buf(buf) => buf.head(),
    }
}

/// Whether the pieces of a buffer follow each other page by page.
fn is_one_range(buf: &Buf) -> bool {
    let mut segments = buf.segments().peekable();
    let mut first = true;
    while let Some(segment) = segments.next() {
        let end = segment.offset.wrapping_add(segment.len);
        if (!first && segment.offset != 0) || (segments.peek().is_some() && end != 4096) {
            return false;
        }
        first = false;
    }
    !first
}
