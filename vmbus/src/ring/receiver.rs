//! The host-to-guest ring.

use super::{GAP, advance, announce, behind, data_words, distance, index, place};
use crate::abi::packet::{
    FOOTER_BYTES, INTERRUPT_MASK, PENDING_SEND_SIZE, PacketKind, READ_INDEX, WRITE_INDEX,
};
use core::mem;
use hypercall::HostFault;
use hypercall::bus::{Rest, Verdict};
use hypercall::platform::Platform;
use hypercall::shm::{Lent, Words, full_barrier};

/// Words of a descriptor.
const DESCRIPTOR: u32 = 2;
/// Words of a footer.
const FOOTER: u32 = FOOTER_BYTES / 8;

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

/// What the first word of a packet was, to tell the next one like it by one look: kind, flags and
/// both lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    first: u64,
    /// Words of the packet, footer included.
    total: u32,
}

impl Form {
    /// Of no packet.
    pub const NONE: Self = Self {
        first: 0,
        total: u32::MAX,
    };

    /// Of packets whose first word is `first`, with at least `words` words behind the descriptor;
    /// [`NONE`](Self::NONE) if they have fewer.
    pub fn of(first: u64, words: u32) -> Self {
        let length = u32::from((first >> 32) as u16);
        let total = length.wrapping_add(FOOTER);
        match length >= words.saturating_add(DESCRIPTOR) {
            true => Self { first, total },
            false => Self::NONE,
        }
    }
}

/// Differs from any index that a host may write: it is to be checked.
const UNSEEN: u64 = u64::MAX;

/// The guest's end of the host-to-guest ring.
#[derive(Debug)]
pub struct Receiver<P: Platform> {
    memory: Lent<P>,
    /// Words of the data area.
    size: u32,
    /// Where the next packet is.
    read: u32,
    /// Words from there on that the host had written when its index was last looked at.
    unread: u32,
    /// The host's index when it was last looked at, in bytes as it wrote it; or [`UNSEEN`].
    seen: u64,
    /// The read index that the host was told.
    committed: u32,
    /// Whether the host was told to send no signals.
    masked: bool,
    fault: Option<HostFault>,
}

impl<P: Platform> Receiver<P> {
    /// Over a zeroed run of a control page and data pages; `None` if it has no data page.
    pub fn new(memory: Lent<P>) -> Option<Self> {
        let size = data_words(&memory)?;
        announce(&memory);
        Some(Self {
            memory,
            size,
            read: 0,
            unread: 0,
            seen: UNSEEN,
            committed: 0,
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
    #[cold]
    pub fn fail(&mut self, fault: HostFault) -> HostFault {
        self.unread = 0;
        self.seen = UNSEEN;
        *self.fault.get_or_insert(fault)
    }

    /// Whether the next [`receive`](Self::receive) has to look at the host's index.
    #[inline]
    pub fn is_drained(&self) -> bool {
        self.unread == 0
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
        // The common case is made of few steps: the length expected, and all in one piece.
        let at = self.read;
        let words = self.memory.words();
        let mut descriptor = [0; 2];
        if words.read(place(at), &mut descriptor).is_ok() {
            let [first, transaction_id] = descriptor;
            let expected = const { DESCRIPTOR as usize | (N + DESCRIPTOR as usize) << 16 };
            let total = const { N as u32 + DESCRIPTOR + FOOTER };
            if (first >> 16) as u32 as usize == expected
                && total <= self.unread
                && words.read(place(at.wrapping_add(DESCRIPTOR)), into).is_ok()
            {
                self.read = advance(at, total, self.size);
                self.unread = self.unread.wrapping_sub(total);
                return Ok(Some(Incoming {
                    kind: PacketKind(first as u16),
                    flags: (first >> 48) as u16,
                    transaction_id,
                    header: 0,
                    len: const { N * 8 },
                }));
            }
        }
        self.receive_any(into).map(Some)
    }

    /// Shows completions whose payload is `LEN` words, in one piece and right behind the
    /// descriptor, to `each`: transaction id and payload, of which it should load each word once.
    /// A packet of another form, or one that it leaves, is still there for
    /// [`receive`](Self::receive).
    ///
    /// # Errors
    /// [`HostFault`].
    #[inline(always)]
    pub fn show<const LEN: usize>(
        &mut self,
        mut each: impl FnMut(u64, Words<'_>) -> Verdict,
    ) -> Result<Rest, HostFault> {
        // The length is known beforehand, and so is all that follows from it.
        let total = const { LEN as u32 + DESCRIPTOR + FOOTER };
        let expected = const {
            PacketKind::COMPLETION.0 as u64
                | (DESCRIPTOR as u64) << 16
                | (LEN as u64 + DESCRIPTOR as u64) << 32
        };
        loop {
            while total <= self.unread {
                let at = self.read;
                let Ok(packet) = self.memory.words().part(place(at), total as usize) else {
                    return Ok(Rest::Odd);
                };
                // The flags are above.
                if packet.load(0)? << 16 != expected << 16 {
                    return Ok(Rest::Odd);
                }
                let verdict = each(packet.load(1)?, packet.part(DESCRIPTOR as usize, LEN)?);
                if verdict == Verdict::Leave {
                    return Ok(Rest::Odd);
                }
                self.read = behind(at, total, self.size);
                self.unread = self.unread.wrapping_sub(total);
                if verdict == Verdict::Stop {
                    return Ok(Rest::Enough);
                }
            }
            if !self.is_drained() {
                return Ok(Rest::Odd);
            }
            if !self.look()? {
                return Ok(Rest::Empty);
            }
        }
    }

    /// Whether there is a packet to receive.
    ///
    /// # Errors
    /// [`HostFault`].
    #[inline(always)]
    pub fn is_ready(&mut self) -> Result<bool, HostFault> {
        if self.is_drained() {
            return self.look();
        }
        Ok(true)
    }

    /// Takes a packet of which the descriptor and the `N` words behind it lie in one piece, if
    /// `accept` makes something of the descriptor's first word, its transaction id, and those
    /// words. Each was copied out once. `None` says nothing of the packet, which is still to be
    /// received then.
    #[inline(always)]
    pub fn receive_short<const N: usize, R>(
        &mut self,
        accept: impl FnOnce(u64, u64, [u64; N]) -> Option<R>,
    ) -> Option<R> {
        let least = const { N as u32 + DESCRIPTOR };
        let at = self.read;
        if least >= self.unread {
            return None;
        }
        let packet = self.memory.words().part(place(at), least as usize).ok()?;
        let mut descriptor = [0; DESCRIPTOR as usize];
        packet.read(0, &mut descriptor).ok()?;
        let [first, transaction_id] = descriptor;
        let length = u32::from((first >> 32) as u16);
        // With its footer it is at most what the host wrote.
        if length < least || length >= self.unread {
            return None;
        }
        let mut words = [0; N];
        packet.read(DESCRIPTOR as usize, &mut words).ok()?;
        let taken = accept(first, transaction_id, words)?;
        let total = length.wrapping_add(FOOTER);
        self.read = advance(at, total, self.size);
        self.unread = self.unread.wrapping_sub(total);
        Some(taken)
    }

    /// Looks at the next packet, if it has this form and its start is in one piece: its transaction
    /// id and the `N` words behind the descriptor, each copied out once. `None` says nothing. It is
    /// taken by [`pass`](Self::pass).
    #[inline(always)]
    pub fn peek<const N: usize>(&self, form: Form) -> Option<(u64, [u64; N])> {
        if form.total > self.unread {
            return None;
        }
        let least = const { N + DESCRIPTOR as usize };
        let packet = self.memory.words().part(place(self.read), least).ok()?;
        if packet.load(0).ok()? != form.first {
            return None;
        }
        let mut words = [0; N];
        packet.read(DESCRIPTOR as usize, &mut words).ok()?;
        Some((packet.load(1).ok()?, words))
    }

    /// Takes the packet of this form that [`peek`](Self::peek) just showed.
    #[inline(always)]
    pub fn pass(&mut self, form: Form) {
        self.read = advance(self.read, form.total, self.size);
        self.unread = self.unread.wrapping_sub(form.total);
    }

    /// Takes packets of this form, one after another, as long as `each` says of transaction id and
    /// first word that it took them: those that were seen, up to the end of the ring.
    #[inline(always)]
    pub fn take_while(&mut self, form: Form, mut each: impl FnMut(u64, u64) -> bool) {
        let most = self.unread.min(self.size.wrapping_sub(self.read)) as usize;
        let Ok(run) = self.memory.words().part(place(self.read), most) else {
            return;
        };
        let mut rest = run;
        while let Some((packet, behind)) = rest.split(form.total as usize) {
            let mut start = [0; 3];
            if packet.read(0, &mut start).is_err() {
                break;
            }
            let [first, transaction_id, word] = start;
            if first != form.first || !each(transaction_id, word) {
                break;
            }
            rest = behind;
        }
        let taken = most.wrapping_sub(rest.count());
        self.read = behind(self.read, taken as u32, self.size);
        self.unread = self.unread.wrapping_sub(taken as u32);
    }

    /// Takes a packet of any form: copies what follows its descriptor to the start of `into`,
    /// memory that nobody else writes, once.
    ///
    /// # Errors
    /// [`HostFault`], also for a packet that `into` has no room for.
    #[inline(never)]
    pub fn receive_to(&mut self, into: Words<'_>) -> Result<Option<Incoming>, HostFault> {
        if self.is_drained() && !self.look()? {
            return Ok(None);
        }
        let (incoming, start, total) = self.describe()?;
        let mut from = advance(self.read, start, self.size);
        let words = self.memory.words();
        let count = incoming.len / 8;
        if count > into.count() {
            return Err(self.fail(HostFault::Length));
        }
        for i in 0..count {
            into.store(i, words.load(place(from))?)?;
            from = advance(from, 1, self.size);
        }
        self.read = advance(self.read, total, self.size);
        self.unread = self.unread.wrapping_sub(total);
        Ok(Some(incoming))
    }

    /// Takes a packet of any form. What was seen of it before does not count.
    #[inline(never)]
    fn receive_any(&mut self, into: &mut [u64]) -> Result<Incoming, HostFault> {
        let (incoming, start, total) = self.describe()?;
        let part = into.len().min(incoming.len / 8);
        let part = into.get_mut(..part).unwrap_or_default();
        self.copy_words(advance(self.read, start, self.size), part)?;
        self.read = advance(self.read, total, self.size);
        self.unread = self.unread.wrapping_sub(total);
        Ok(incoming)
    }

    /// What the next packet is, where what it has for the caller starts, and how long it is with
    /// its footer; both in words.
    fn describe(&mut self) -> Result<(Incoming, u32, u32), HostFault> {
        let mut descriptor = [0; DESCRIPTOR as usize];
        self.copy_words(self.read, &mut descriptor)?;
        let [first, transaction_id] = descriptor;
        let kind = PacketKind(first as u16);
        let header = u32::from((first >> 16) as u16);
        let length = u32::from((first >> 32) as u16);
        // With its footer it is at most what the host wrote; that excludes half a descriptor.
        if header < DESCRIPTOR || header > length || length >= self.unread {
            return Err(self.fail(HostFault::Length));
        }
        let plain = matches!(kind, PacketKind::IN_BAND | PacketKind::COMPLETION);
        let start = if plain { header } else { DESCRIPTOR };
        let len = length.wrapping_sub(start) as usize;
        let incoming = Incoming {
            kind,
            flags: (first >> 48) as u16,
            transaction_id,
            header: (header.wrapping_sub(start) as usize).wrapping_mul(8),
            len: len.wrapping_mul(8),
        };
        Ok((incoming, start, length.wrapping_add(FOOTER)))
    }

    /// Copies words out one by one, from an index on, across the end of the ring if need be.
    fn copy_words(&self, from: u32, into: &mut [u64]) -> Result<(), HostFault> {
        let words = self.memory.words();
        let mut from = from;
        for word in into {
            *word = words.load(place(from))?;
            from = advance(from, 1, self.size);
        }
        Ok(())
    }

    /// Loads the host's write index; whether there is something to read, now that all that was
    /// known of is taken.
    #[inline(always)]
    fn look(&mut self) -> Result<bool, HostFault> {
        let written = self.memory.first().load_u32::<WRITE_INDEX>();
        if u64::from(written) == self.seen {
            return Ok(false);
        }
        self.look_at(written)
    }

    /// Checks a write index that is new. Signals are of no use while there is something to read,
    /// so they are masked then.
    fn look_at(&mut self, written: u32) -> Result<bool, HostFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let Some(write) = index(written, self.size) else {
            return Err(self.fail(HostFault::RingIndex));
        };
        self.seen = written.into();
        self.unread = distance(self.read, write, self.size);
        let found = self.unread != 0;
        if found && !mem::replace(&mut self.masked, found) {
            self.memory.first().store_u32::<INTERRUPT_MASK>(1);
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
        control.store_u32::<READ_INDEX>(self.read << 3);
        full_barrier();
        self.is_wanted(before)
    }

    /// Whether the host waits for room that it got since the read index `before`.
    #[inline(always)]
    fn is_wanted(&self, before: u32) -> bool {
        // Some hosts ask for one byte less than the ring, which never becomes free.
        let asked = self.memory.first().load_u32::<PENDING_SEND_SIZE>() >> 3;
        asked != 0 && self.crossed(asked, before)
    }

    /// Whether the words free went from less than `asked` to as many.
    #[cold]
    fn crossed(&self, asked: u32, before: u32) -> bool {
        let write = self.memory.first().load_u32::<WRITE_INDEX>();
        let Some(write) = index(write, self.size) else {
            // The next look makes a fault of it.
            return false;
        };
        let free = |read| {
            let used = distance(read, write, self.size);
            self.size.wrapping_sub(used).wrapping_sub(GAP)
        };
        free(before) < asked && free(self.read) >= asked
    }

    /// Gives room back as [`done`](Self::done) does, and has the host signal when the next packet
    /// comes.
    ///
    /// # Errors
    /// [`HostFault`].
    #[inline(always)]
    pub fn arm(&mut self) -> Result<Armed, HostFault> {
        if !self.is_drained() {
            let signal = self.done();
            return Ok(Armed { more: true, signal });
        }
        let mut signal = false;
        // Nothing was taken while there was no mask, so there is nothing to give back then.
        if mem::replace(&mut self.masked, false) {
            let before = mem::replace(&mut self.committed, self.read);
            let control = self.memory.first();
            control.store_u32::<READ_INDEX>(self.read << 3);
            control.store_u32::<INTERRUPT_MASK>(0);
            full_barrier();
            signal = self.is_wanted(before);
        }
        let more = self.look()?;
        Ok(Armed { more, signal })
    }
}

/// What came of [`Receiver::arm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Armed {
    /// A packet is there already: there may be no signal for it.
    pub more: bool,
    /// The host waits for the room that it got, and wants a signal.
    pub signal: bool,
}
