//! The guest-to-host ring.

use super::outgoing::{Outgoing, SendError};
use super::{GAP, advance, announce, behind, data_words, distance, index, place};
use crate::abi::packet::{
    COMPLETION_REQUESTED, FOOTER_BYTES, INTERRUPT_MASK, PENDING_SEND_SIZE, PacketKind, READ_INDEX,
    WRITE_INDEX,
};
use core::mem;
use hypercall::HostFault;
use hypercall::platform::{PAGE_SIZE, Platform};
use hypercall::shm::{Lent, OutOfSpan, Words, full_barrier};
use zerocopy::{Immutable, IntoBytes};

/// Words before the payload of a packet that names one page: descriptor, number of ranges, range,
/// frame.
const PAGE_HEADER: u32 = 5;

/// Words of the longest packet with its footer: its length is 16 bits.
const LONGEST: u32 = u16::MAX as u32 + FOOTER_BYTES / 8;

/// The guest's end of the guest-to-host ring.
#[derive(Debug)]
pub struct Sender<P: Platform> {
    memory: Lent<P>,
    /// Words of the data area.
    size: u32,
    /// Where the next packet goes.
    write: u32,
    /// The write index that the host was told.
    published: u32,
    /// The host's read index when last looked at.
    read: u32,
    /// Words that may be written before the read index must be looked at again; never more than
    /// one packet can have.
    room: u32,
    /// Whether the host was asked to signal when there is room.
    waiting: bool,
    fault: Option<HostFault>,
}

impl<P: Platform> Sender<P> {
    /// Over a zeroed run of a control page and data pages; `None` if it has no data page.
    pub fn new(memory: Lent<P>) -> Option<Self> {
        let size = data_words(&memory)?;
        announce(&memory);
        Some(Self {
            memory,
            size,
            write: 0,
            published: 0,
            read: 0,
            room: size.wrapping_sub(GAP).min(LONGEST),
            waiting: false,
            fault: None,
        })
    }

    /// The run of pages.
    pub fn memory(&self) -> &Lent<P> {
        &self.memory
    }

    /// Gives the run back.
    pub fn into_memory(self) -> Lent<P> {
        self.memory
    }

    /// Refuses all packets from now on.
    #[cold]
    pub fn fail(&mut self, fault: HostFault) -> HostFault {
        self.room = 0;
        *self.fault.get_or_insert(fault)
    }

    /// Writes a packet. The host does not see it before the next [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`SendError`].
    #[inline]
    pub fn send<T, I>(&mut self, packet: Outgoing<'_, T, I>) -> Result<(), SendError>
    where
        T: IntoBytes + Immutable,
        I: Iterator<Item = u64>,
    {
        let pages = match &packet.range {
            None => 0,
            Some(range) if range.offset < PAGE_SIZE as u32 => u64::from(range.offset)
                .wrapping_add(range.bytes.into())
                .div_ceil(PAGE_SIZE as u64)
                as u32,
            Some(_) => return Err(SendError::BadRange),
        };
        let header = match packet.range {
            None => 2,
            Some(_) => pages.wrapping_add(4),
        };
        // At most 2^20 pages and the size of a structure: no overflow.
        let length = header.wrapping_add(const { size_of::<T>().div_ceil(8) as u32 });
        let total = length.wrapping_add(FOOTER_BYTES / 8);
        if total > self.room {
            self.make_room(total)?;
        }
        let at = self.write;
        let first = u64::from(packet.kind.0)
            | u64::from(header) << 16
            | u64::from(length) << 32
            | u64::from(packet.flags) << 48;
        let words = self.memory.words();
        match words.part(place(at), total as usize) {
            Ok(whole) => write_whole(whole, first, pages, packet, at)?,
            Err(_) => write_wrapped(words, self.size, first, pages, packet, at)?,
        }
        self.write = advance(at, total, self.size);
        self.room = self.room.wrapping_sub(total);
        Ok(())
    }

    /// Writes a GPA-direct packet whose memory is one page: `bytes` bytes from byte `offset` of
    /// frame `frame` on. What the host reads and writes there must be lent, as for
    /// [`Outgoing::gpa_direct`]. `false` when the packet takes the long way, which is
    /// [`send`](Self::send): nothing was written then that counts.
    #[inline(always)]
    pub fn send_page<const N: usize>(
        &mut self,
        transaction_id: u64,
        payload: &[u64; N],
        frame: u64,
        offset: u16,
        bytes: u32,
    ) -> bool {
        // The length is known beforehand, and so is all that follows from it.
        let total = const { N as u32 + PAGE_HEADER + FOOTER_BYTES / 8 };
        let at = self.write;
        let one_page = u32::from(offset).wrapping_add(bytes) <= PAGE_SIZE as u32;
        if one_page
            && total <= self.room
            && let Ok(whole) = self.memory.words().part(place(at), total as usize)
        {
            let first = const {
                PacketKind::GPA_DIRECT.0 as u64
                    | (PAGE_HEADER as u64) << 16
                    | (N as u64 + PAGE_HEADER as u64) << 32
                    | (COMPLETION_REQUESTED as u64) << 48
            };
            let range = u64::from(bytes) | u64::from(offset) << 32;
            let header = [first, transaction_id, ONE_RANGE, range, frame];
            let written = whole.write(0, &header).is_ok()
                && whole.write(PAGE_HEADER as usize, payload).is_ok()
                && whole
                    .store(const { N + PAGE_HEADER as usize }, footer(at))
                    .is_ok();
            if !written {
                return false;
            }
            self.write = behind(at, total, self.size);
            self.room = self.room.wrapping_sub(total);
            return true;
        }
        false
    }

    /// Writes an in-band packet that asks for an answer. `false` when it takes the long way, which
    /// is [`send`](Self::send): nothing was written then that counts.
    #[inline(always)]
    pub fn send_request<const N: usize>(
        &mut self,
        transaction_id: u64,
        payload: &[u64; N],
    ) -> bool {
        let first = const {
            PacketKind::IN_BAND.0 as u64
                | 2 << 16
                | (N as u64 + 2) << 32
                | (COMPLETION_REQUESTED as u64) << 48
        };
        self.send_inline(first, transaction_id, payload)
    }

    /// Has `write` write answers to packets of the host's, one after another, as many as go the
    /// short way: those for which there is room, up to the end of the ring.
    #[inline(always)]
    pub fn send_answers(&mut self, write: impl FnOnce(&mut Answers<'_>)) {
        let at = self.write;
        let most = self.room.min(self.size.wrapping_sub(at));
        let words = self.memory.words();
        let Ok(run) = words.part(place(at), most as usize) else {
            return;
        };
        let end = at.wrapping_add(most);
        let mut answers = Answers { rest: run, end };
        write(&mut answers);
        let used = (most as usize).wrapping_sub(answers.rest.count()) as u32;
        self.write = behind(at, used, self.size);
        self.room = self.room.wrapping_sub(used);
    }

    #[inline(always)]
    fn send_inline<const N: usize>(
        &mut self,
        first: u64,
        transaction_id: u64,
        payload: &[u64; N],
    ) -> bool {
        let total = const { N as u32 + 2 + FOOTER_BYTES / 8 };
        let at = self.write;
        if total <= self.room
            && let Ok(whole) = self.memory.words().part(place(at), total as usize)
            && whole.write(0, &[first, transaction_id]).is_ok()
            && whole.write(2, payload).is_ok()
            && whole.store(const { N + 2 }, footer(at)).is_ok()
        {
            self.write = behind(at, total, self.size);
            self.room = self.room.wrapping_sub(total);
            return true;
        }
        false
    }

    /// Makes room for `total` words by looking at the host's read index.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, total: u32) -> Result<(), SendError> {
        if let Some(fault) = self.fault {
            return Err(fault.into());
        }
        if total > self.size.wrapping_sub(GAP).min(LONGEST) {
            return Err(SendError::TooLarge);
        }
        self.look()?;
        if total > self.room {
            // Ask, then look once more: the host may have read on before it saw the question.
            let control = self.memory.first();
            control.store_u32::<PENDING_SEND_SIZE>(total << 3);
            self.waiting = true;
            full_barrier();
            self.look()?;
            if total > self.room {
                return Err(SendError::Full);
            }
        }
        if mem::take(&mut self.waiting) {
            self.memory.first().store_u32::<PENDING_SEND_SIZE>(0);
        }
        Ok(())
    }

    /// Loads and checks the host's read index. It can move on to what was published, not beyond
    /// and not back.
    fn look(&mut self) -> Result<(), HostFault> {
        let read = index(self.memory.first().load_u32::<READ_INDEX>(), self.size);
        let unread = |from| distance(from, self.published, self.size);
        match read {
            Some(read) if unread(read) <= unread(self.read) => {
                self.read = read;
                self.room = self.free().min(LONGEST);
                Ok(())
            }
            _ => Err(self.fail(HostFault::RingIndex)),
        }
    }

    /// Words free as far as we know.
    fn free(&self) -> u32 {
        let used = distance(self.read, self.write, self.size);
        self.size.wrapping_sub(used).wrapping_sub(GAP)
    }

    /// Shows the host what was written. Returns whether it wants a signal for it: when it had
    /// read everything before, and has not masked signals.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let before = mem::replace(&mut self.published, self.write);
        if before == self.write {
            return false;
        }
        let control = self.memory.first();
        control.store_u32::<WRITE_INDEX>(self.write << 3);
        full_barrier();
        control.load_u32::<INTERRUPT_MASK>() == 0 && control.load_u32::<READ_INDEX>() == before << 3
    }

    /// Whether the host has read everything that was published.
    ///
    /// # Errors
    /// [`HostFault`].
    pub fn is_read(&mut self) -> Result<bool, HostFault> {
        match self.fault {
            Some(fault) => Err(fault),
            None => self.look().map(|()| self.read == self.published),
        }
    }

    /// Bytes that packets can take now, headers and footers included.
    ///
    /// # Errors
    /// [`HostFault`].
    pub fn free_bytes(&mut self) -> Result<u32, HostFault> {
        match self.fault {
            Some(fault) => Err(fault),
            None => self.look().map(|()| self.free() << 3),
        }
    }
}

/// Where answers to packets of the host's are written: see [`Sender::send_answers`].
#[derive(Debug)]
pub struct Answers<'a> {
    /// What is free, up to the end of the ring, and where it ends.
    rest: Words<'a>,
    end: u32,
}

impl Answers<'_> {
    /// Writes an answer. `false` when it takes the long way, which is [`Sender::send`]: nothing was
    /// written then that counts.
    #[inline(always)]
    pub fn put<const N: usize>(&mut self, transaction_id: u64, payload: &[u64; N]) -> bool {
        let first = const { PacketKind::COMPLETION.0 as u64 | 2 << 16 | (N as u64 + 2) << 32 };
        let total = const { N + 2 + FOOTER_BYTES as usize / 8 };
        let at = self.end.wrapping_sub(self.rest.count() as u32);
        if let Some((packet, rest)) = self.rest.split(total)
            && packet.write(0, &[first, transaction_id]).is_ok()
            && packet.write(2, payload).is_ok()
            && packet.store(const { N + 2 }, footer(at)).is_ok()
        {
            self.rest = rest;
            return true;
        }
        false
    }
}

/// The word that says: one range.
const ONE_RANGE: u64 = 1 << 32;

/// The footer of a packet that starts at an index.
#[inline]
fn footer(at: u32) -> u64 {
    u64::from(at << 3) << 32
}

/// Writes a packet that does not cross the end of the ring.
#[inline]
fn write_whole<T, I>(
    whole: Words<'_>,
    first: u64,
    pages: u32,
    packet: Outgoing<'_, T, I>,
    at: u32,
) -> Result<(), SendError>
where
    T: IntoBytes + Immutable,
    I: Iterator<Item = u64>,
{
    let mut payload_at = 2;
    match packet.range {
        None => whole.write(0, &[first, packet.transaction_id])?,
        Some(range) => {
            let head = [first, packet.transaction_id, ONE_RANGE, range.word()];
            whole.write(0, &head)?;
            let pages = pages as usize;
            if whole.write_each(4, pages, range.frames)? != pages {
                return Err(SendError::BadRange);
            }
            payload_at = pages.wrapping_add(4);
        }
    }
    whole.write(payload_at, packet.payload)?;
    let footer_at = payload_at.wrapping_add(const { size_of::<T>().div_ceil(8) });
    whole.store(footer_at, footer(at))?;
    Ok(())
}

/// Writes a packet that crosses the end of the ring, word by word.
#[cold]
#[inline(never)]
fn write_wrapped<T, I>(
    words: Words<'_>,
    size: u32,
    first: u64,
    pages: u32,
    packet: Outgoing<'_, T, I>,
    start: u32,
) -> Result<(), SendError>
where
    T: IntoBytes + Immutable,
    I: Iterator<Item = u64>,
{
    let mut at = start;
    let mut put = |word: u64| -> Result<(), OutOfSpan> {
        words.store(place(at), word)?;
        at = advance(at, 1, size);
        Ok(())
    };
    put(first)?;
    put(packet.transaction_id)?;
    if let Some(mut range) = packet.range {
        put(ONE_RANGE)?;
        put(range.word())?;
        for _ in 0..pages {
            put(range.frames.next().ok_or(SendError::BadRange)?)?;
        }
    }
    for chunk in packet.payload.as_bytes().chunks(8) {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        put(u64::from_le_bytes(word))?;
    }
    put(footer(start))?;
    Ok(())
}
