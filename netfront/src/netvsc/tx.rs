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
use super::pieces::Wanted;
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
            write_header(section.span().start::<48>()?, len);
            let id = id_of(self.frames, index.into());
            let bytes = len.wrapping_add(HEADROOM.into());
            let message = message(self.first_section, index, bytes);
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

    /// Puts a frame into the ring.
    #[inline(never)]
    pub(super) fn send<G: Gate>(
        &mut self,
        channel: &mut Channel<'_, '_, P, G>,
        capabilities: &Capabilities,
        frame: TxFrame,
    ) -> Result<(), (SendError, TxFrame)> {
        match self.put(channel, capabilities, &frame) {
            Ok(id) => {
                self.keep(frame, id);
                Ok(())
            }
            Err(why) => Err((why, frame)),
        }
    }

    /// Keeps a frame whose packet is in the ring until the host is done with it.
    fn keep(&mut self, frame: TxFrame, id: NonZeroU64) {
        let (body, _) = frame.into_parts();
        // It is one of these, or it would not have been sent.
        match body {
            Body::Section(section) => {
                if let Some(tickets) = &mut self.tickets {
                    let _ = tickets.hold(section, |_, _| Some(id));
                }
            }
            Body::Buf(buf) => {
                let place = self.free_place();
                if let Some(slot) = self.long.get_mut(place) {
                    *slot = Some((id.get(), buf));
                }
                self.free &= self.free.wrapping_sub(1);
            }
            Body::Piece(_) => {}
        }
        self.frames = self.frames.wrapping_add(1);
    }

    /// The place that the next long frame gets; none when all are taken.
    fn free_place(&self) -> usize {
        self.free.trailing_zeros() as usize
    }

    /// Writes a frame's header and its packet, whose id it returns.
    fn put<G: Gate>(
        &self,
        channel: &mut Channel<'_, '_, P, G>,
        capabilities: &Capabilities,
        frame: &TxFrame,
    ) -> Result<NonZeroU64, SendError> {
        if frame.headroom() != HEADROOM {
            return Err(SendError::OtherQueue);
        }
        let len = frame.len();
        let head = head(frame.body()).ok_or(SendError::BadLength)?;
        let wanted = Wanted::new(&frame.meta, capabilities, head, len)?;
        let most = match wanted.cut {
            Some(_) => capabilities.max_segmented,
            None if wanted.tagged => self.longest.wrapping_add(4),
            None => self.longest,
        };
        if len > most as usize {
            return Err(SendError::BadLength);
        }
        let start = head.start().ok_or(SendError::BadLength)?;
        write_full_header(start, len as u32, &wanted);
        let id = match frame.body() {
            Body::Section(section) => self.put_section(channel, section)?,
            Body::Buf(buf) if buf.is_from(&self.pool) => self.put_pages(channel, buf)?,
            Body::Buf(_) | Body::Piece(_) => return Err(SendError::OtherQueue),
        };
        // The host looks at the headers only when their packet is published.
        if let Some(cut) = wanted.cut {
            // They were looked at there before.
            let _ = cut.edit(head);
        }
        Ok(id)
    }

    fn put_section<G: Gate>(
        &self,
        channel: &mut Channel<'_, '_, P, G>,
        section: &Section,
    ) -> Result<NonZeroU64, SendError> {
        let index = self.tickets.as_ref().and_then(|all| all.index(section));
        let (Some(index), true) = (index, section.is_uncut()) else {
            return Err(SendError::OtherQueue);
        };
        let id = id_of(self.frames, index.into());
        let message = message(self.first_section, index, section.len() as u32);
        let [a, b, c, d, _] = message;
        let sent = if self.long_messages {
            channel.send(Outgoing::in_band(id.get(), &message).ask_completion())
        } else {
            channel.send(Outgoing::in_band(id.get(), &[a, b, c, d]).ask_completion())
        };
        sent.map(|()| id).map_err(refusal)
    }

    fn put_pages<G: Gate>(
        &self,
        channel: &mut Channel<'_, '_, P, G>,
        buf: &Buf,
    ) -> Result<NonZeroU64, SendError> {
        if self.free == 0 {
            return Err(SendError::Full);
        }
        let id = id_of(self.frames, self.free_place() as u32 | LONG_ID);
        let offset = buf.segments().next().map_or(0, |s| s.offset).into();
        let (bytes, frames) = (buf.len() as u32, buf.one_range());
        const MESSAGE: [u64; nvsp::WORDS] = [SEND_DATA, nvsp::NO_SECTION as u64, 0, 0, 0];
        const SHORT: [u64; 4] = [SEND_DATA, nvsp::NO_SECTION as u64, 0, 0];
        let sent = if self.long_messages {
            channel.send(Outgoing::gpa_direct(
                id.get(),
                &MESSAGE,
                offset,
                bytes,
                frames,
            ))
        } else {
            channel.send(Outgoing::gpa_direct(
                id.get(),
                &SHORT,
                offset,
                bytes,
                frames,
            ))
        };
        sent.map(|()| id).map_err(refusal)
    }

    /// Takes note that the host is done with a packet; false if it has none by that id.
    #[inline(always)]
    pub(super) fn complete(&mut self, id: u64) -> bool {
        let place = (id as u32).wrapping_sub(1);
        if let Some(tickets) = &mut self.tickets
            && tickets.release(place, id)
        {
            self.done = self.done.wrapping_add(1);
            return true;
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

/// The message that brings the first `bytes` bytes of a section, by its place among this queue's.
#[inline(always)]
fn message(first: u32, index: u16, bytes: u32) -> [u64; nvsp::WORDS] {
    let number = first.wrapping_add(index.into());
    let section = u64::from(number) | u64::from(bytes) << 32;
    [SEND_DATA, section, 0, 0, 0]
}

fn refusal(why: vmbus::SendError) -> SendError {
    match why {
        vmbus::SendError::Full => SendError::Full,
        vmbus::SendError::Fault(fault) => SendError::Failed(fault),
        // Its pages are too many, or there is a gap between them.
        vmbus::SendError::TooLarge | vmbus::SendError::BadRange => SendError::BadLength,
        _ => SendError::Failed(HostFault::RingIndex),
    }
}

/// Where a frame starts, from the byte behind the message's header.
const DATA_OFFSET: u32 = HEADROOM as u32 - 8;

/// Writes the header of a frame of `len` bytes about which nothing is said, and four bytes more.
#[inline(always)]
fn write_header<const N: usize>(head: Start<'_, N>, len: u32) {
    const KIND: u64 = rndis::kind::PACKET as u64 | (HEADROOM as u64) << 32;
    let len = u64::from(len) << 32;
    head.put::<0>(KIND.wrapping_add(len));
    head.put::<8>(DATA_OFFSET as u64 | len);
    head.put::<16>(0);
    head.put::<24>(0);
    head.put::<32>(0);
    head.put::<40>(0);
}

/// Writes the header of a frame of `len` bytes with what is said of it; what is behind it is part
/// of the gap.
fn write_full_header(head: Start<'_, { HEADROOM as usize }>, len: u32, wanted: &Wanted) {
    write_header(head, len);
    let ([(a_kind, a), (b_kind, b)], count) = wanted.pieces();
    if count != 0 {
        // A piece: bytes in all, kind, where the value is, value.
        head.put::<24>(const { (rndis::PACKET_BYTES as u64 - 8) << 32 });
        head.put::<32>(u64::from(count.wrapping_mul(16)));
        head.put::<40>(16 << 32);
        head.put::<48>(u64::from(a_kind) | 12 << 32);
        head.put::<56>(u64::from(a) | 16 << 32);
        head.put::<64>(u64::from(b_kind) | 12 << 32);
        head.put::<72>(b.into());
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
