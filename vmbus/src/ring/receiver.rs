//! The host-to-guest ring.

use super::{GAP, advance, announce, data_bytes, distance, place};
use crate::abi::packet::{
    FOOTER_BYTES, INTERRUPT_MASK, PENDING_SEND_SIZE, PacketKind, READ_INDEX, WRITE_INDEX,
};
use core::mem;
use hypercall::HostFault;
use hypercall::platform::Platform;
use hypercall::shm::{Lent, full_barrier};

/// The smallest packet: descriptor and footer.
const LEAST: u32 = 16 + FOOTER_BYTES;

/// A packet that was taken from the ring. Its lengths are within the ring, and that is all that
/// was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming {
    /// What it is.
    pub kind: PacketKind,
    /// [`COMPLETION_REQUESTED`](crate::abi::packet::COMPLETION_REQUESTED) and what the future
    /// brings.
    pub flags: u16,
    /// Of a completion: the transaction id of what it answers.
    pub transaction_id: u64,
    /// Bytes before the payload that belong to the header, of kinds other than in-band and
    /// completion: they are copied too.
    pub header: usize,
    /// Bytes that the packet has for the caller, a multiple of 8. If that is more than was asked
    /// for, the rest was left out.
    pub len: usize,
}

/// The guest's end of the host-to-guest ring.
#[derive(Debug)]
pub struct Receiver<P: Platform> {
    memory: Lent<P>,
    /// Bytes of the data area.
    size: u32,
    /// Where the next packet is.
    read: u32,
    /// The read index that the host was told.
    committed: u32,
    /// The host's write index when last looked at.
    write: u32,
    /// Whether the host was told to send no signals.
    masked: bool,
    fault: Option<HostFault>,
}

impl<P: Platform> Receiver<P> {
    /// Over a zeroed run of a control page and data pages; `None` if it has no data page.
    pub fn new(memory: Lent<P>) -> Option<Self> {
        let size = data_bytes(&memory)?;
        announce(&memory);
        Some(Self {
            memory,
            size,
            read: 0,
            committed: 0,
            write: 0,
            masked: false,
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

    /// Takes no packets from now on.
    pub fn fail(&mut self, fault: HostFault) -> HostFault {
        self.write = self.read;
        *self.fault.get_or_insert(fault)
    }

    /// Whether the next [`receive`](Self::receive) has to look at the host's index.
    #[inline]
    pub fn is_drained(&self) -> bool {
        self.read == self.write
    }

    /// Takes a packet: copies what follows its 16-byte descriptor to the start of `into`, once.
    /// Words of `into` behind it stay as they were.
    ///
    /// # Errors
    /// [`HostFault`].
    #[inline]
    pub fn receive<const N: usize>(
        &mut self,
        into: &mut [u64; N],
    ) -> Result<Option<Incoming>, HostFault> {
        if self.is_drained() && !self.look()? {
            return Ok(None);
        }
        let at = self.read;
        let available = distance(at, self.write, self.size);
        if available < LEAST {
            return Err(self.fail(HostFault::Malformed));
        }
        let data = self.memory.span();
        let first = data.load_u64(place(at))?;
        let transaction_id = data.load_u64(place(advance(at, 8, self.size)))?;
        let kind = PacketKind(first as u16);
        let header = (first >> 16) as u16;
        let length = u32::from((first >> 32) as u16).wrapping_mul(8);
        let flags = (first >> 48) as u16;
        let header = u32::from(header).wrapping_mul(8);
        let total = length.wrapping_add(FOOTER_BYTES);
        if header < 16 || header > length || total > available {
            return Err(self.fail(HostFault::Length));
        }
        let plain = matches!(kind, PacketKind::IN_BAND | PacketKind::COMPLETION);
        let start = if plain { header } else { 16 };
        let len = length.wrapping_sub(start) as usize;
        let from = advance(at, start, self.size);
        if len == const { N * 8 }
            && let Ok(words) = data.read::<[u64; N]>(place(from))
        {
            *into = words;
        } else {
            let mut from = from;
            for word in into.iter_mut().take(len / 8) {
                *word = data.load_u64(place(from))?;
                from = advance(from, 8, self.size);
            }
        }
        self.read = advance(at, total, self.size);
        Ok(Some(Incoming {
            kind,
            flags,
            transaction_id,
            header: header.wrapping_sub(start) as usize,
            len,
        }))
    }

    /// Loads and checks the host's write index; whether there is something to read. Signals are
    /// of no use while there is, so they are masked then.
    #[inline(never)]
    fn look(&mut self) -> Result<bool, HostFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let control = self.memory.first();
        let write = control.load_u32::<WRITE_INDEX>();
        if write >= self.size || !write.is_multiple_of(8) {
            return Err(self.fail(HostFault::RingIndex));
        }
        self.write = write;
        let found = write != self.read;
        if found && !mem::replace(&mut self.masked, found) {
            control.store_u32::<INTERRUPT_MASK>(1);
        }
        Ok(found)
    }

    /// Gives the room of all packets taken so far back to the host. Returns whether it waits for
    /// that room and wants a signal.
    #[inline]
    pub fn done(&mut self) -> bool {
        let before = mem::replace(&mut self.committed, self.read);
        if before == self.read {
            return false;
        }
        let control = self.memory.first();
        control.store_u32::<READ_INDEX>(self.read);
        full_barrier();
        // Some hosts ask for one byte less than the ring, which never becomes free.
        let asked = control.load_u32::<PENDING_SEND_SIZE>() & !7;
        asked != 0 && self.crossed(asked, before)
    }

    /// Whether the bytes free went from less than `asked` to as many.
    #[cold]
    fn crossed(&self, asked: u32, before: u32) -> bool {
        let write = self.memory.first().load_u32::<WRITE_INDEX>();
        if write >= self.size || !write.is_multiple_of(8) {
            // The next look makes a fault of it.
            return false;
        }
        let free = |read| {
            let used = distance(read, write, self.size);
            self.size.wrapping_sub(used).wrapping_sub(GAP)
        };
        free(before) < asked && free(self.read) >= asked
    }

    /// Has the host signal when the next packet comes. Returns whether one is there already:
    /// then there may be no signal for it. What was taken must be [`done`](Self::done) with, or
    /// the host does not see an empty ring.
    ///
    /// # Errors
    /// [`HostFault`].
    pub fn arm(&mut self) -> Result<bool, HostFault> {
        if !self.is_drained() {
            return Ok(true);
        }
        if mem::replace(&mut self.masked, false) {
            self.memory.first().store_u32::<INTERRUPT_MASK>(0);
            full_barrier();
        }
        self.look()
    }
}
