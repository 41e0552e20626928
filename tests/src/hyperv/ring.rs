//! Packet rings as the host sees them: one it reads (guest to host), one it writes (host to guest).
//!
//! A ring is a control page and data pages. Control page, 32-bit words: 0 write index, 1 read index
//! (byte offsets into the data), 2 interrupt mask (the reader's), 3 pending send size (the
//! writer's), 16 feature bits (the writer's). Source: Linux `struct hv_ring_buffer`.
//! The host keeps its own index privately and checks the other one each time it reads it.

use super::abi::{PAGE, PacketDescriptor, packet};
use super::gpa::GpaRange;
use crate::memory::{BadAddress, GuestMemory};
use zerocopy::{FromBytes, IntoBytes};

const WRITE_INDEX: u64 = 0;
const READ_INDEX: u64 = 4;
const INTERRUPT_MASK: u64 = 8;
const PENDING_SEND_SIZE: u64 = 12;
const FEATURE_BITS: u64 = 64;

const FEATURE_PENDING_SEND_SIZE: u32 = 1;
const FOOTER: u32 = 8;
const DESCRIPTOR: usize = size_of::<PacketDescriptor>();

/// What the guest did to a ring that no host can work with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RingFault {
    /// An index beyond the ring or not a multiple of 8.
    Index(u32),
    /// A packet longer than what was written, or with parts out of order.
    Length(String),
    /// A packet kind or flag the host does not know.
    Kind(u16),
    /// The word after a packet does not say where the packet began.
    Footer { said: u64, began: u32 },
    /// Ranges of a GPA-direct packet that do not fit in it.
    Ranges,
    /// Ring memory that is not guest memory, or no whole ring at all.
    Memory(BadAddress),
}

impl From<BadAddress> for RingFault {
    fn from(bad: BadAddress) -> Self {
        RingFault::Memory(bad)
    }
}

/// A packet's kind, as it came or as it shall go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    InBand,
    /// Payload beside data in guest memory (guest to host only).
    GpaDirect(Vec<GpaRange>),
    /// Payload beside data in a buffer both sides know by a number (host to guest only).
    TransferPages {
        set: u16,
        /// How many ranges it says it has: what it has, if the host is good.
        count: u32,
        ranges: Vec<TransferRange>,
    },
    Completion,
}

/// Bytes of a shared buffer that a transfer-page packet speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferRange {
    pub offset: u32,
    pub bytes: u32,
}

impl Kind {
    /// What lies between descriptor and payload on the wire, in the host's own packets.
    fn between(&self) -> Vec<u8> {
        let Kind::TransferPages { set, count, ranges } = self else {
            return Vec::new();
        };
        // The set, whether the sender owns it, and how many ranges (`vmtransfer_page_packet_header`).
        let mut bytes = set.to_le_bytes().to_vec();
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&count.to_le_bytes());
        for range in ranges {
            bytes.extend_from_slice(&range.bytes.to_le_bytes());
            bytes.extend_from_slice(&range.offset.to_le_bytes());
        }
        bytes
    }
}

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub kind: Kind,
    pub transaction_id: u64,
    pub completion_requested: bool,
    /// Padded to a multiple of 8 bytes on the wire.
    pub payload: Vec<u8>,
}

/// The ring's pages: control page first.
#[derive(Debug, Clone)]
struct Pages {
    frames: Vec<u64>,
}

impl Pages {
    fn new(frames: &[u64]) -> Result<Self, RingFault> {
        let fits = frames
            .iter()
            .all(|&frame| frame.checked_mul(PAGE).is_some());
        if frames.len() < 2 || !fits {
            return Err(RingFault::Memory(BadAddress(u64::MAX)));
        }
        Ok(Pages {
            frames: frames.to_vec(),
        })
    }

    /// Bytes of ring data.
    fn size(&self) -> u32 {
        (self.frames.len() as u32 - 1) * PAGE as u32
    }

    fn control(&self, word: u64) -> u64 {
        self.frames[0] * PAGE + word
    }

    /// An index the other side wrote.
    fn index(&self, memory: &dyn GuestMemory, word: u64) -> Result<u32, RingFault> {
        let index = memory.load_u32(self.control(word))?;
        if index >= self.size() || !index.is_multiple_of(8) {
            return Err(RingFault::Index(index));
        }
        Ok(index)
    }

    /// The guest-physical pieces of `len` bytes of data from `index`, wrapping.
    fn pieces(&self, index: u32, len: usize) -> impl Iterator<Item = (u64, usize)> + '_ {
        let (size, page) = (self.size() as usize, PAGE as usize);
        let mut done = 0;
        std::iter::from_fn(move || {
            if done == len {
                return None;
            }
            let place = (index as usize + done) % size;
            let piece = (page - place % page).min(len - done);
            done += piece;
            Some((
                self.frames[1 + place / page] * PAGE + (place % page) as u64,
                piece,
            ))
        })
    }

    fn read(&self, memory: &dyn GuestMemory, index: u32, into: &mut [u8]) -> Result<(), RingFault> {
        let mut rest = into;
        for (gpa, piece) in self.pieces(index, rest.len()) {
            let (part, after) = rest.split_at_mut(piece);
            memory.read(gpa, part)?;
            rest = after;
        }
        Ok(())
    }

    fn write(&self, memory: &dyn GuestMemory, index: u32, from: &[u8]) -> Result<(), RingFault> {
        let mut rest = from;
        for (gpa, piece) in self.pieces(index, rest.len()) {
            let (part, after) = rest.split_at(piece);
            memory.write(gpa, part)?;
            rest = after;
        }
        Ok(())
    }

    fn advance(&self, index: u32, by: u32) -> u32 {
        (index + by) % self.size()
    }

    /// Bytes between a read and a write index.
    fn filled(&self, read: u32, write: u32) -> u32 {
        if write >= read {
            write - read
        } else {
            self.size() - (read - write)
        }
    }
}

/// The guest-to-host ring.
#[derive(Debug)]
pub struct Incoming {
    pages: Pages,
    read: u32,
}

impl Incoming {
    /// Takes the ring over where the guest left its read index.
    pub fn new(memory: &dyn GuestMemory, frames: &[u64]) -> Result<Self, RingFault> {
        let pages = Pages::new(frames)?;
        let read = pages.index(memory, READ_INDEX)?;
        Ok(Incoming { pages, read })
    }

    /// Tells the guest whether to signal when it writes into the empty ring.
    pub fn mask_signals(&self, memory: &dyn GuestMemory, mask: bool) -> Result<(), RingFault> {
        Ok(memory.store_u32(self.pages.control(INTERRUPT_MASK), mask.into())?)
    }

    /// Whether nothing is there to read.
    pub fn is_empty(&self, memory: &dyn GuestMemory) -> Result<bool, RingFault> {
        Ok(self.pages.index(memory, WRITE_INDEX)? == self.read)
    }

    /// Takes the next packet out and gives its space back. The flag says that the guest waits for
    /// just this space and must be interrupted.
    pub fn take(&mut self, memory: &dyn GuestMemory) -> Result<Option<(Packet, bool)>, RingFault> {
        let write = self.pages.index(memory, WRITE_INDEX)?;
        let filled = self.pages.filled(self.read, write);
        if filled == 0 {
            return Ok(None);
        }
        let (packet, length) = self.parse(memory, filled)?;
        let began = self.read;
        self.read = self.pages.advance(self.read, length);
        memory.store_u32(self.pages.control(READ_INDEX), self.read)?;
        // The low bits are no size: some guests ask for "all of it" as size - 1.
        let wanted = memory.fetch_or_u32(self.pages.control(PENDING_SEND_SIZE), 0)? & !7;
        let write = self.pages.index(memory, WRITE_INDEX)?;
        let free = |read| self.pages.size() - self.pages.filled(read, write);
        let wakes = wanted != 0 && free(began) < wanted && free(self.read) >= wanted;
        Ok(Some((packet, wakes)))
    }

    fn parse(&self, memory: &dyn GuestMemory, filled: u32) -> Result<(Packet, u32), RingFault> {
        let mut head = [0; DESCRIPTOR];
        if filled < DESCRIPTOR as u32 + FOOTER {
            return Err(RingFault::Length(format!("{filled} bytes are no packet")));
        }
        self.pages.read(memory, self.read, &mut head)?;
        let head = PacketDescriptor::read_from_bytes(&head).expect("as long as the descriptor");
        let (offset, length) = (usize::from(head.offset8) * 8, usize::from(head.length8) * 8);
        if offset < DESCRIPTOR || length < offset || length as u32 + FOOTER > filled {
            let what = format!("offset {offset}, length {length}, written {filled}");
            return Err(RingFault::Length(what));
        }
        if head.flags & !packet::COMPLETION_REQUESTED != 0 {
            return Err(RingFault::Kind(head.flags));
        }
        let mut whole = vec![0; length + FOOTER as usize];
        self.pages.read(memory, self.read, &mut whole)?;
        let words: Vec<u64> = whole
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")))
            .collect();
        let footer = words[length / 8];
        if footer != u64::from(self.read) << 32 {
            return Err(RingFault::Footer {
                said: footer,
                began: self.read,
            });
        }
        let kind = match head.kind {
            packet::IN_BAND if offset == DESCRIPTOR => Kind::InBand,
            packet::COMPLETION if offset == DESCRIPTOR => Kind::Completion,
            packet::GPA_DIRECT if offset >= DESCRIPTOR + 8 => {
                let count = (words[2] >> 32) as usize;
                let ranges = words.get(3..offset / 8).ok_or(RingFault::Ranges)?;
                let (ranges, _) = GpaRange::parse(count, ranges)
                    .filter(|(ranges, _)| !ranges.is_empty())
                    .ok_or(RingFault::Ranges)?;
                Kind::GpaDirect(ranges)
            }
            other => return Err(RingFault::Kind(other)),
        };
        let packet = Packet {
            kind,
            transaction_id: head.transaction_id,
            completion_requested: head.flags & packet::COMPLETION_REQUESTED != 0,
            payload: whole[offset..length].to_vec(),
        };
        Ok((packet, length as u32 + FOOTER))
    }
}

/// The host-to-guest ring.
#[derive(Debug)]
pub struct Outgoing {
    pages: Pages,
    write: u32,
}

impl Outgoing {
    /// Takes the ring over where the guest left its write index. `flow_control` sets the feature bit
    /// that promises interrupts for space on both rings.
    pub fn new(
        memory: &dyn GuestMemory,
        frames: &[u64],
        flow_control: bool,
    ) -> Result<Self, RingFault> {
        let pages = Pages::new(frames)?;
        let write = pages.index(memory, WRITE_INDEX)?;
        let feature = if flow_control {
            FEATURE_PENDING_SEND_SIZE
        } else {
            0
        };
        memory.store_u32(pages.control(FEATURE_BITS), feature)?;
        memory.store_u32(pages.control(PENDING_SEND_SIZE), 0)?;
        Ok(Outgoing { pages, write })
    }

    /// Bytes a packet takes in the ring, descriptor and footer included.
    pub fn space_for(packet: &Packet) -> u32 {
        let between = packet.kind.between().len();
        (DESCRIPTOR + between + packet.payload.len().next_multiple_of(8)) as u32 + FOOTER
    }

    /// Whether `bytes` can be written now. One word always stays free, or full would look empty.
    pub fn has_room(&self, memory: &dyn GuestMemory, bytes: u32) -> Result<bool, RingFault> {
        let read = self.pages.index(memory, READ_INDEX)?;
        Ok(self.pages.size() - self.pages.filled(read, self.write) > bytes)
    }

    /// Asks the guest to signal once `bytes` are free; 0 takes the wish back.
    pub fn ask_for_room(&self, memory: &dyn GuestMemory, bytes: u32) -> Result<(), RingFault> {
        Ok(memory.store_u32(self.pages.control(PENDING_SEND_SIZE), bytes)?)
    }

    /// Writes a packet for which `has_room` said yes. The flag says whether
    /// the guest must be interrupted: the ring was empty and the guest does not mask.
    pub fn put(&mut self, memory: &dyn GuestMemory, packet: &Packet) -> Result<bool, RingFault> {
        let length8 = ((Self::space_for(packet) - FOOTER) / 8) as u16;
        let offset8 = ((DESCRIPTOR + packet.kind.between().len()) / 8) as u16;
        let flags = u16::from(packet.completion_requested);
        self.put_raw(memory, packet, offset8, length8, flags)
    }

    /// Writes a packet with a descriptor of the caller's choice, right or wrong.
    pub fn put_raw(
        &mut self,
        memory: &dyn GuestMemory,
        packet: &Packet,
        offset8: u16,
        length8: u16,
        flags: u16,
    ) -> Result<bool, RingFault> {
        let kind = match packet.kind {
            Kind::InBand => packet::IN_BAND,
            Kind::GpaDirect(_) => packet::GPA_DIRECT,
            Kind::TransferPages { .. } => packet::TRANSFER_PAGES,
            Kind::Completion => packet::COMPLETION,
        };
        let head = PacketDescriptor {
            kind,
            offset8,
            length8,
            flags,
            transaction_id: packet.transaction_id,
        };
        let mut bytes = head.as_bytes().to_vec();
        bytes.extend_from_slice(&packet.kind.between());
        bytes.extend_from_slice(&packet.payload);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend_from_slice(&(u64::from(self.write) << 32).to_le_bytes());
        self.pages.write(memory, self.write, &bytes)?;
        let began = self.write;
        self.write = self.pages.advance(self.write, bytes.len() as u32);
        memory.store_u32(self.pages.control(WRITE_INDEX), self.write)?;
        // Read-modify-writes, so that the store above is seen before these are read.
        let masked = memory.fetch_or_u32(self.pages.control(INTERRUPT_MASK), 0)? != 0;
        let read = memory.fetch_or_u32(self.pages.control(READ_INDEX), 0)?;
        Ok(!masked && read == began)
    }

    /// Writes any number where the guest looks for the write index.
    pub fn spoil_write_index(&self, memory: &dyn GuestMemory, value: u32) -> Result<(), RingFault> {
        Ok(memory.store_u32(self.pages.control(WRITE_INDEX), value)?)
    }

    /// Bytes of ring data.
    pub fn size(&self) -> u32 {
        self.pages.size()
    }
}

#[cfg(test)]
mod tests;
