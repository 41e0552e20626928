//! A lent run of which parts are out at a time: the send and receive buffers of a NIC.

use super::lent::Lent;
use super::pages::Pages;
use super::pool::PoolError;
use super::{OutOfSpan, PAGE_SIZE, Span};
use crate::platform::Platform;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// More sections than this are not opened on one ticket, so that their count never wraps.
const MOST: u32 = 1 << 31;

/// What sections need of their run, whatever platform it came from. It lives in pages of its own.
struct Header {
    data: NonNull<u8>,
    bytes: usize,
    /// By ticket: its sections that are open, and one while it is taken.
    counts: NonNull<AtomicU32>,
    /// A bit for each ticket that is free to be taken.
    idle: NonNull<AtomicU64>,
    tickets: u16,
    copied: AtomicU64,
}

/// A lent run, handed out as [`Section`]s that are counted by [`Ticket`]s: one for each packet of
/// a receive buffer, or one for each section of a send buffer. A ticket is idle when it and all of
/// its sections were dropped; then [`take_idle`](Self::take_idle) finds it.
///
/// Tickets and sections are plain owned values: they may cross threads and outlive this handle.
/// Sections may overlap if the owner (or the host behind it) says so: their bytes are only ever
/// copied.
pub struct Sections<P: Platform> {
    header: NonNull<Header>,
    lent: ManuallyDrop<Lent<P>>,
    own: ManuallyDrop<Pages<P>>,
}

// SAFETY: what is behind the header is reached by atomics and by copies.
unsafe impl<P: Platform> Send for Sections<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for Sections<P> {}

impl<P: Platform> fmt::Debug for Sections<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = self.header();
        write!(
            f,
            "Sections({} bytes, {} tickets)",
            header.bytes, header.tickets
        )
    }
}

impl<P: Platform> Sections<P> {
    /// Makes a run ready to be handed out, under `tickets` tickets, all of them idle.
    ///
    /// # Errors
    /// [`PoolError`], with the run.
    pub fn new(lent: Lent<P>, tickets: u16) -> Result<Self, (PoolError, Lent<P>)> {
        let bytes = lent.count().saturating_mul(PAGE_SIZE);
        if u32::try_from(bytes).is_err() {
            return Err((PoolError::TooLarge, lent));
        }
        let words = usize::from(tickets).div_ceil(64);
        const { assert!(align_of::<Header>() <= 64) };
        // None of this overflows: there are fewer than 2^16 tickets.
        let idle_at = size_of::<Header>().next_multiple_of(64);
        let counts_at = idle_at.wrapping_add(words.wrapping_mul(8));
        let own_bytes = counts_at.wrapping_add(usize::from(tickets).wrapping_mul(4));
        let Ok(own) = Pages::alloc(lent.platform(), own_bytes.div_ceil(PAGE_SIZE)) else {
            return Err((PoolError::OutOfPages, lent));
        };
        let base = own.start();
        // SAFETY: both offsets, with what follows them, are inside the `own_bytes` allocated.
        let (idle, counts) = unsafe {
            (
                base.add(idle_at).cast::<AtomicU64>(),
                base.add(counts_at).cast::<AtomicU32>(),
            )
        };
        for w in 0..words {
            let rest = usize::from(tickets).wrapping_sub(w.wrapping_mul(64));
            let bits = if rest >= 64 {
                u64::MAX
            } else {
                (1u64 << rest).wrapping_sub(1)
            };
            // SAFETY: word `w` of `words`.
            unsafe { idle.add(w).write(AtomicU64::new(bits)) };
        }
        for i in 0..usize::from(tickets) {
            // SAFETY: count `i` of `tickets`.
            unsafe { counts.add(i).write(AtomicU32::new(0)) };
        }
        let header = base.cast::<Header>();
        // SAFETY: the start of the run, large and aligned enough (asserted), and nobody else's.
        unsafe {
            header.write(Header {
                data: lent.start(),
                bytes,
                counts,
                idle,
                tickets,
                copied: AtomicU64::new(0),
            });
        }
        Ok(Self {
            header,
            lent: ManuallyDrop::new(lent),
            own: ManuallyDrop::new(own),
        })
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: the header lives while this handle does, and is only ever borrowed shared.
        unsafe { self.header.as_ref() }
    }

    /// The run, to name it to the host.
    pub fn lent(&self) -> &Lent<P> {
        &self.lent
    }

    /// Takes a ticket of which no section is open.
    #[inline]
    pub fn take_idle(&self) -> Option<Ticket> {
        let header = self.header();
        for w in 0..header.words() {
            let word = header.idle_word(w);
            let mut idle = word.load(Ordering::Relaxed);
            while idle != 0 {
                let bit = idle & idle.wrapping_neg();
                let was = word.fetch_and(!bit, Ordering::Acquire);
                if was & bit != 0 {
                    let index = w
                        .wrapping_mul(64)
                        .wrapping_add(bit.trailing_zeros() as usize);
                    let ticket = Ticket {
                        header: self.header,
                        index: index as u16,
                    };
                    ticket.count().store(1, Ordering::Relaxed);
                    return Some(ticket);
                }
                idle = was;
            }
        }
        None
    }

    /// How many tickets are idle now.
    pub fn idle(&self) -> usize {
        let header = self.header();
        (0..header.words())
            .map(|w| header.idle_word(w).load(Ordering::Relaxed).count_ones() as usize)
            .fold(0, usize::wrapping_add)
    }

    /// Bytes copied in and out of sections so far.
    pub fn copied(&self) -> u64 {
        self.header().copied.load(Ordering::Relaxed)
    }

    /// Whether no ticket is taken and no section open. A count of 0 would not do: the section may
    /// just be being dropped.
    fn is_settled(&self) -> bool {
        let header = self.header();
        (0..header.words()).all(|w| {
            let rest = usize::from(header.tickets).wrapping_sub(w.wrapping_mul(64));
            let all = u64::MAX >> 64usize.saturating_sub(rest);
            header.idle_word(w).load(Ordering::Acquire) == all
        })
    }

    /// Gives the run back when all tickets and sections have returned.
    ///
    /// # Errors
    /// This handle, while any is out.
    pub fn close(self) -> Result<Lent<P>, Self> {
        if !self.is_settled() {
            return Err(self);
        }
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used again; both fields are read out once. No ticket or section is
        // out, so nothing refers to the header, which goes with its pages.
        let (lent, own) = unsafe { (core::ptr::read(&this.lent), core::ptr::read(&this.own)) };
        drop(ManuallyDrop::into_inner(own));
        Ok(ManuallyDrop::into_inner(lent))
    }
}

impl<P: Platform> Drop for Sections<P> {
    fn drop(&mut self) {
        log::warn!(
            "a buffer of {} bytes was dropped unclosed and stays lent",
            self.header().bytes
        );
        if self.is_settled() {
            // SAFETY: dropped once, here; nothing is out, so nothing refers to the header.
            unsafe { ManuallyDrop::drop(&mut self.own) };
        }
    }
}

impl Header {
    #[inline]
    fn words(&self) -> usize {
        usize::from(self.tickets).div_ceil(64)
    }

    #[inline]
    fn idle_word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: callers pass an index below `words()`; the words live as long as the header.
        unsafe { self.idle.add(index).as_ref() }
    }

    /// # Safety
    /// `index` is a ticket's, so it is below `tickets`.
    #[inline]
    unsafe fn count(&self, index: u16) -> &AtomicU32 {
        // SAFETY: the caller's promise; the counts live as long as the header.
        unsafe { self.counts.add(usize::from(index)).as_ref() }
    }

    /// # Safety
    /// The caller owns one of the ticket's counts, gives it up, and uses the header no more.
    #[inline]
    unsafe fn give_back(header: NonNull<Header>, index: u16) {
        // SAFETY: until the bit below is set, the header is alive.
        let header = unsafe { header.as_ref() };
        // SAFETY: a ticket's index.
        let count = unsafe { header.count(index) };
        if count.fetch_sub(1, Ordering::AcqRel) == 1 {
            // The last touch of the header: whoever sees the bit may free it.
            header
                .idle_word(usize::from(index >> 6))
                .fetch_or(1 << (index & 63), Ordering::Release);
        }
    }
}

/// What [`Section`]s are counted by. It is idle again when it and its sections were dropped.
pub struct Ticket {
    header: NonNull<Header>,
    index: u16,
}

// SAFETY: the header is reached by atomics only.
unsafe impl Send for Ticket {}
// SAFETY: as above.
unsafe impl Sync for Ticket {}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({})", self.index)
    }
}

impl Ticket {
    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: a ticket that is taken keeps the header alive.
        unsafe { self.header.as_ref() }
    }

    #[inline]
    fn count(&self) -> &AtomicU32 {
        // SAFETY: a ticket's index.
        unsafe { self.header().count(self.index) }
    }

    /// Which of the run's tickets this is, from 0.
    #[inline]
    pub fn index(&self) -> u16 {
        self.index
    }

    #[inline]
    fn holds(&self, offset: u32, len: u32) -> bool {
        (offset as usize)
            .checked_add(len as usize)
            .is_some_and(|end| end <= self.header().bytes)
    }

    /// Opens a section: `len` bytes from `offset` of the run on. `None` when they are not all
    /// inside.
    #[inline]
    pub fn open(&self, offset: u32, len: u32) -> Option<Section> {
        if !self.holds(offset, len) || self.count().load(Ordering::Relaxed) >= MOST {
            return None;
        }
        self.count().fetch_add(1, Ordering::Relaxed);
        Some(Section {
            header: self.header,
            offset,
            len,
            index: self.index,
        })
    }

    /// Opens the last section, which takes the ticket's own place: as [`open`](Self::open)
    /// otherwise.
    ///
    /// # Errors
    /// The ticket, when the bytes are not all inside.
    #[inline]
    pub fn into_section(self, offset: u32, len: u32) -> Result<Section, Self> {
        if !self.holds(offset, len) {
            return Err(self);
        }
        let this = ManuallyDrop::new(self);
        Ok(Section {
            header: this.header,
            offset,
            len,
            index: this.index,
        })
    }
}

impl Drop for Ticket {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the ticket's own count, given up last.
        unsafe { Header::give_back(self.header, self.index) }
    }
}

/// Some bytes of a [`Sections`] run, owned; returned to their ticket when dropped.
///
/// The host may be able to write the bytes at any moment, so there is no slice of them: copy out
/// with [`read_at`](Self::read_at), in with [`write_at`](Self::write_at).
pub struct Section {
    header: NonNull<Header>,
    offset: u32,
    len: u32,
    index: u16,
}

// SAFETY: the run is reached by atomics and by copies.
unsafe impl Send for Section {}
// SAFETY: as above.
unsafe impl Sync for Section {}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Section({} bytes at {})", self.len, self.offset)
    }
}

impl Section {
    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it starts in its run, in bytes.
    #[inline]
    pub fn offset(&self) -> u32 {
        self.offset
    }

    /// The index of the ticket it counts for.
    #[inline]
    pub fn ticket(&self) -> u16 {
        self.index
    }

    /// Shortens to `len` bytes; does nothing when it is not longer.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(u32::try_from(len).unwrap_or(u32::MAX));
    }

    /// Drops `count` bytes from the front, all of them if it is shorter.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        let count = self.len.min(u32::try_from(count).unwrap_or(u32::MAX));
        // Stays below the end of the run, which is below 4 GiB.
        self.offset = self.offset.wrapping_add(count);
        self.len = self.len.wrapping_sub(count);
    }

    /// A view of its bytes.
    #[inline]
    pub fn span(&self) -> Span<'_> {
        // SAFETY: an open section keeps header and run alive; it was checked to lie inside
        // the run, and it only ever shrank; lent memory is behind no reference.
        unsafe {
            let start = self.header.as_ref().data.add(self.offset as usize);
            Span::new(start, self.len as usize)
        }
    }

    #[inline]
    fn count_copied(&self, bytes: usize) {
        // SAFETY: an open section keeps the header alive.
        let header = unsafe { self.header.as_ref() };
        header.copied.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Copies `into.len()` bytes out, from byte `offset` of the section on.
    ///
    /// # Errors
    /// [`OutOfSpan`] when the section is shorter; nothing is copied then.
    pub fn read_at(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfSpan> {
        self.span().copy_out(offset, into)?;
        self.count_copied(into.len());
        Ok(())
    }

    /// Copies `from` in, from byte `offset` of the section on.
    ///
    /// # Errors
    /// [`OutOfSpan`] when the section is shorter; nothing is copied then.
    pub fn write_at(&mut self, offset: usize, from: &[u8]) -> Result<(), OutOfSpan> {
        self.span().copy_in(offset, from)?;
        self.count_copied(from.len());
        Ok(())
    }
}

impl Drop for Section {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this section's own count, given up last.
        unsafe { Header::give_back(self.header, self.index) }
    }
}
