//! A lent run of which parts are out at a time: the send and receive buffers of a NIC.
//!
//! ```text
//! Sections ── tickets ─▶ Tickets ── reserve, take ─▶ Section ── drop ─▶ its ticket is idle
//!  owns the run          one owner's                one piece of bytes
//! ```
//!
//! Why the parts may outlive everything but the memory: a section is counted by its ticket, whose
//! bit is set again by the last one to go, as its last touch of the run's records; a [`Tickets`]
//! has its blocks marked as taken until its own last touch. [`Sections::close`] gives the memory up
//! only when no block is taken and every bit is set.

use super::lent::Lent;
use super::pages::Pages;
use super::pool::PoolError;
use super::tickets::{Block, Entry, Header, Tickets};
use super::{OutOfSpan, PAGE_SIZE, Span};
use crate::platform::Platform;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A lent run, handed out as [`Section`]s, which are counted by tickets: one for each packet of
/// a receive buffer, or one for each section of a send buffer. Tickets come in blocks of 64, and
/// each block is one owner's: see [`Tickets`].
///
/// Sections are plain owned values: they may cross threads and outlive this handle. They may
/// overlap if their owner (or the host behind it) says so: their bytes are only ever copied.
pub struct Sections<P: Platform> {
    header: NonNull<Header>,
    lent: ManuallyDrop<Lent<P>>,
    own: ManuallyDrop<Pages<P>>,
}

// SAFETY: what is behind the header is reached by atomics, by copies, and by the one owner of a
// block.
unsafe impl<P: Platform> Send for Sections<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for Sections<P> {}

impl<P: Platform> fmt::Debug for Sections<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = self.header();
        write!(
            f,
            "Sections({} bytes, {} blocks of tickets)",
            header.bytes, header.blocks
        )
    }
}

impl<P: Platform> Sections<P> {
    /// Makes a run ready to be handed out, under `blocks` blocks of 64 tickets, all of them idle.
    ///
    /// # Errors
    /// [`PoolError`], with the run: it is 4 GiB or more, or there are more than 1023 blocks.
    pub fn new(lent: Lent<P>, blocks: u16) -> Result<Self, (PoolError, Lent<P>)> {
        let bytes = lent.count().saturating_mul(PAGE_SIZE);
        let Ok(bytes) = u32::try_from(bytes) else {
            return Err((PoolError::TooLarge, lent));
        };
        if blocks > u16::MAX >> 6 {
            return Err((PoolError::TooLarge, lent));
        }
        let count = usize::from(blocks);
        const { assert!(align_of::<Header>() <= 64 && align_of::<Block>() <= 8) };
        const { assert!(align_of::<Entry>() <= 64) };
        // None of this overflows: there are fewer than 2^16 tickets.
        let idle_at = size_of::<Header>().next_multiple_of(64);
        let blocks_at = idle_at.wrapping_add(count.wrapping_mul(8));
        let entries_at = blocks_at
            .wrapping_add(count.wrapping_mul(size_of::<Block>()))
            .next_multiple_of(64);
        let own_bytes =
            entries_at.wrapping_add(count.wrapping_mul(const { 64 * size_of::<Entry>() }));
        let Ok(own) = Pages::alloc(lent.platform(), own_bytes.div_ceil(PAGE_SIZE)) else {
            return Err((PoolError::OutOfPages, lent));
        };
        let base = own.start();
        // SAFETY: all offsets, with what follows them, are inside the `own_bytes` allocated.
        let (first_idle, first_block, first_entry) = unsafe {
            (
                base.add(idle_at).cast::<AtomicU64>(),
                base.add(blocks_at).cast::<Block>(),
                base.add(entries_at).cast::<Entry>(),
            )
        };
        for i in 0..count {
            let block = Block {
                copied: AtomicU64::new(0),
                taken: AtomicU32::new(0),
            };
            // SAFETY: block `i` of `count`, and its word.
            unsafe {
                first_block.add(i).write(block);
                first_idle.add(i).write(u64::MAX.into());
            }
        }
        for i in 0..count.wrapping_mul(64) {
            // SAFETY: entry `i` of 64 for each block.
            unsafe { first_entry.add(i).write(Entry::default()) };
        }
        let header = base.cast::<Header>();
        // SAFETY: the start of the run, large and aligned enough (asserted), and nobody else's.
        unsafe {
            header.write(Header {
                data: lent.start(),
                bytes,
                blocks,
                first_idle,
                first_block,
                first_entry,
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

    /// The first `count` tickets from block `first` on, for one owner, with the blocks they are in.
    /// `None` when there are no such blocks, when some have an owner, or for more than
    /// [`Tickets::MOST`].
    pub fn tickets(&self, first: u16, count: u16) -> Option<Tickets> {
        // SAFETY: the header is alive, and `Tickets` keeps it so by what it marks as taken.
        unsafe { Tickets::new(self.header, first, count) }
    }

    /// Tickets that are not idle, or that their owner has claimed.
    pub fn out(&self) -> usize {
        self.header()
            .idles()
            .map(|idle| idle.load(Ordering::Relaxed).count_zeros() as usize)
            .fold(0, usize::wrapping_add)
    }

    /// Bytes copied in and out of sections so far.
    pub fn copied(&self) -> u64 {
        self.header()
            .blocks()
            .map(|block| block.copied.load(Ordering::Relaxed))
            .fold(0, u64::wrapping_add)
    }

    /// Whether no block has an owner and no section is open. The owners are looked at first: one
    /// that is gone has cleared no bit since.
    fn is_settled(&self) -> bool {
        let header = self.header();
        header
            .blocks()
            .all(|block| block.taken.load(Ordering::Acquire) == 0)
            && header
                .idles()
                .all(|idle| idle.load(Ordering::Acquire) == u64::MAX)
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

/// Some bytes of a [`Sections`] run, owned; returned to their ticket when dropped.
///
/// The host may be able to write the bytes at any moment, so there is no slice of them: copy out
/// with [`read_at`](Self::read_at), in with [`write_at`](Self::write_at).
pub struct Section {
    header: NonNull<Header>,
    offset: u32,
    len: u32,
    index: u16,
    /// [`ONLY`], [`CUT`] or [`MANY`]. A number of its own, so that what has a section in it does
    /// not look here for what it is.
    form: u16,
}

/// Of a section: it is the only one of its ticket, and begins where it was opened.
const ONLY: u16 = 0;
/// It is the only one, and has lost bytes from the front.
const CUT: u16 = 1;
/// The ticket counts it.
const MANY: u16 = 2;

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
    /// One of the sections that its ticket counts.
    ///
    /// # Safety
    /// The bytes are inside the run, `index` is one of its tickets, and the caller passes on one
    /// of the ticket's counts.
    pub(super) unsafe fn one_of_many(
        header: NonNull<Header>,
        offset: u32,
        len: u32,
        index: u16,
    ) -> Self {
        Self {
            header,
            offset,
            len,
            index,
            form: MANY,
        }
    }

    /// The only section of its ticket, which need not count it.
    ///
    /// # Safety
    /// The bytes are inside the run, `index` is one of its tickets, which is not idle, and the
    /// caller passes it on.
    #[inline(always)]
    pub(super) unsafe fn only(header: NonNull<Header>, offset: u32, len: u32, index: u16) -> Self {
        Self {
            header,
            offset,
            len,
            index,
            form: ONLY,
        }
    }

    #[inline(always)]
    pub(super) fn is_only(&self) -> bool {
        self.form != MANY
    }

    /// Whether it is the only section of its ticket, and begins where it was opened.
    #[inline(always)]
    pub fn is_uncut(&self) -> bool {
        self.form == ONLY
    }

    #[inline(always)]
    pub(super) fn place(&self) -> (NonNull<Header>, u16) {
        (self.header, self.index)
    }

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
        if count != 0 && self.form == ONLY {
            self.form = CUT;
        }
    }

    /// A view of its bytes. What is copied by it is not counted: it is for headers that a driver
    /// puts before the caller's bytes.
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
        // SAFETY: an open section keeps the header alive, and its index is a ticket's.
        let block = unsafe { self.header.as_ref().block_of(self.index) };
        block.copied.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Copies `into.len()` bytes out, from byte `offset` of the section on.
    ///
    /// # Errors
    /// [`OutOfSpan`] when the section is shorter; nothing is copied then.
    #[inline]
    pub fn read_at(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfSpan> {
        self.span().copy_out(offset, into)?;
        self.count_copied(into.len());
        Ok(())
    }

    /// Copies `from` in, from byte `offset` of the section on.
    ///
    /// # Errors
    /// [`OutOfSpan`] when the section is shorter; nothing is copied then.
    #[inline]
    pub fn write_at(&mut self, offset: usize, from: &[u8]) -> Result<(), OutOfSpan> {
        self.span().copy_in(offset, from)?;
        self.count_copied(from.len());
        Ok(())
    }
}

impl Drop for Section {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this section's ticket, or its own count of it, given up last.
        unsafe {
            match self.is_only() {
                true => Header::set_idle(self.header, self.index),
                false => Header::give_back(self.header, self.index),
            }
        }
    }
}
