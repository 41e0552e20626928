//! What the parts of a run are counted by, and who may hand them out.

use super::Span;
use super::sections::Section;
use core::cell::UnsafeCell;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What is known of 64 tickets.
pub(super) struct Block {
    /// A bit for each ticket that nobody claimed and of which no section is open.
    pub(super) idle: AtomicU64,
    /// Bytes copied in and out of their sections.
    pub(super) copied: AtomicU64,
    /// 1 while a [`Tickets`] has the block.
    pub(super) taken: AtomicU32,
}

/// What is known of a ticket.
pub(super) struct Entry {
    /// Its sections that are open, or promised.
    pub(super) count: AtomicU32,
    /// How many of them are promised: the owner of the block, and nobody else, turns these into
    /// sections and back.
    pub(super) promised: UnsafeCell<u32>,
    /// The owner's word.
    pub(super) note: UnsafeCell<u64>,
}

/// What sections need of their run, whatever platform it came from. It lives in pages of its own.
pub(super) struct Header {
    pub(super) data: NonNull<u8>,
    pub(super) bytes: u32,
    pub(super) blocks: u16,
    pub(super) first_block: NonNull<Block>,
    /// 64 for each block.
    pub(super) first_entry: NonNull<Entry>,
}

impl Header {
    pub(super) fn blocks(&self) -> impl Iterator<Item = &Block> {
        // SAFETY: every index is below the number of blocks.
        (0..self.blocks).map(|i| unsafe { self.block(i) })
    }

    /// # Safety
    /// `index` is below the number of blocks.
    #[inline(always)]
    unsafe fn block(&self, index: u16) -> &Block {
        // SAFETY: the caller's promise; the blocks live as long as the header.
        unsafe { self.first_block.add(usize::from(index)).as_ref() }
    }

    /// # Safety
    /// `ticket` is below 64 times the number of blocks.
    #[inline(always)]
    pub(super) unsafe fn block_of(&self, ticket: u16) -> &Block {
        // SAFETY: the caller's promise.
        unsafe { self.block(ticket >> 6) }
    }

    /// # Safety
    /// As for [`block_of`](Self::block_of).
    #[inline(always)]
    unsafe fn entry(&self, ticket: u16) -> &Entry {
        // SAFETY: the caller's promise; the entries live as long as the header.
        unsafe { self.first_entry.add(usize::from(ticket)).as_ref() }
    }

    #[inline(always)]
    fn holds(&self, offset: u32, len: u32) -> bool {
        u64::from(offset).wrapping_add(len.into()) <= u64::from(self.bytes)
    }

    /// Gives up one of a ticket's counts; whether it was the last.
    ///
    /// # Safety
    /// The caller owns that count. Unless it is the last, it uses the header no more, or keeps it
    /// alive by other means.
    #[inline(always)]
    unsafe fn drop_count(&self, ticket: u16) -> bool {
        // SAFETY: a ticket's index.
        let count = unsafe { &self.entry(ticket).count };
        // Who has the only count needs no exchange: nobody else is left to change it.
        if count.load(Ordering::Acquire) == 1 {
            count.store(0, Ordering::Relaxed);
            return true;
        }
        count.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// # Safety
    /// The caller owns one of the ticket's counts, gives it up, and uses the header no more.
    #[inline(always)]
    pub(super) unsafe fn give_back(header: NonNull<Header>, ticket: u16) {
        // SAFETY: until the bit below is set, the header is alive.
        let header = unsafe { header.as_ref() };
        // SAFETY: the caller's promise.
        if unsafe { header.drop_count(ticket) } {
            // SAFETY: a ticket's index.
            let idle = unsafe { &header.block_of(ticket).idle };
            // The last touch of the header: whoever sees the bit may free it.
            idle.fetch_or(1 << (ticket & 63), Ordering::Release);
        }
    }
}

/// Some tickets of a run, for one owner, who numbers them from 0. It hands out their
/// [`Section`]s and learns when they are back.
///
/// There are two ways to use a ticket:
/// * [`reserve`](Self::reserve) a section, and when it comes back [`hold`](Self::hold) it until
///   the host is done with it, then [`release`](Self::release) it: a send buffer.
/// * [`take`](Self::take) one section or [`take_many`](Self::take_many) with a note, and
///   learn by [`settle`](Self::settle) when all are dropped: a receive buffer.
pub struct Tickets {
    header: NonNull<Header>,
    /// The first ticket, of a block of its own.
    first: u16,
    count: u16,
    /// The block that the claimed tickets are of, counted from the first.
    block: u16,
    /// Tickets whose idle bit was taken, and that can be had.
    claimed: u64,
    /// By block: tickets with a note.
    noted: [u64; Self::BLOCKS],
    /// Blocks of which any has.
    noted_blocks: u64,
}

// SAFETY: blocks are reached by atomics, and entries' cells by their one owner, which moves along.
unsafe impl Send for Tickets {}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tickets({} of {})", self.out(), self.count)
    }
}

impl Tickets {
    const BLOCKS: usize = 64;
    /// Tickets that one owner has at most.
    pub const MOST: u16 = 64 * Self::BLOCKS as u16;

    /// # Safety
    /// The header is alive, and stays so while one of its blocks is taken.
    pub(super) unsafe fn new(header: NonNull<Header>, first: u16, count: u16) -> Option<Self> {
        // SAFETY: the caller's promise.
        let of = unsafe { header.as_ref() };
        let blocks = count.div_ceil(64);
        let end = first.checked_add(blocks)?;
        if count == 0 || count > Self::MOST || end > of.blocks {
            return None;
        }
        for index in first..end {
            // SAFETY: below `end`, which was checked.
            let taken = unsafe { &of.block(index).taken };
            if taken
                .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                for mine in first..index {
                    // SAFETY: as above.
                    unsafe { of.block(mine) }.taken.store(0, Ordering::Release);
                }
                return None;
            }
        }
        Some(Self {
            header,
            first: first.wrapping_mul(64),
            count,
            block: 0,
            claimed: 0,
            noted: [0; Self::BLOCKS],
            noted_blocks: 0,
        })
    }

    /// How many tickets.
    #[inline]
    pub fn count(&self) -> u16 {
        self.count
    }

    #[inline(always)]
    fn header(&self) -> &Header {
        // SAFETY: a block that is taken keeps the header alive.
        unsafe { self.header.as_ref() }
    }

    #[inline(always)]
    fn blocks(&self) -> u16 {
        self.count.div_ceil(64)
    }

    /// A block of this owner's, which there must be.
    #[inline(always)]
    fn block(&self, index: u16) -> &Block {
        let index = index.min(self.blocks().wrapping_sub(1));
        // SAFETY: one of this owner's blocks, which were checked to exist.
        unsafe { self.header().block((self.first >> 6).wrapping_add(index)) }
    }

    /// A ticket's place in the run, if it is one of this owner's.
    #[inline(always)]
    fn global(&self, index: u16) -> Option<u16> {
        (index < self.count).then(|| self.first.wrapping_add(index))
    }

    /// Which tickets of a block there are.
    #[inline(always)]
    fn mask(&self, block: u16) -> u64 {
        let rest = self.count.wrapping_sub(block.wrapping_mul(64));
        if rest >= 64 {
            u64::MAX
        } else {
            (1u64 << rest).wrapping_sub(1)
        }
    }

    /// Claims what is idle and has no note, of the next block that has any.
    #[cold]
    fn refill(&mut self) -> bool {
        let blocks = self.blocks();
        for _ in 0..blocks {
            let index = self.block;
            let noted = self.noted.get(usize::from(index)).copied().unwrap_or(0);
            let usable = self.mask(index) & !noted;
            let idle = &self.block(index).idle;
            let found = idle.load(Ordering::Relaxed) & usable;
            if found != 0 {
                // Only the owner clears bits, so all of them are still there.
                self.claimed = idle.fetch_and(!found, Ordering::Acquire) & found;
                return true;
            }
            self.block = index.wrapping_add(1);
            if self.block >= blocks {
                self.block = 0;
            }
        }
        false
    }

    /// A claimed ticket: its number, and nobody else's as long as it is not given back.
    #[inline(always)]
    fn pop(&mut self) -> Option<u16> {
        if self.claimed == 0 && !self.refill() {
            return None;
        }
        let bit = self.claimed.trailing_zeros() as u16;
        self.claimed &= self.claimed.wrapping_sub(1);
        Some(self.block.wrapping_mul(64).wrapping_add(bit))
    }

    /// Whether there is a ticket to be had.
    #[inline(always)]
    pub fn is_any(&mut self) -> bool {
        self.claimed != 0 || self.refill()
    }

    /// Opens the only section of an idle ticket: `len` bytes from byte `place(ticket)` of the run
    /// on. `None` when none is idle, or the bytes are not inside.
    #[inline(always)]
    pub fn reserve(&mut self, len: u32, place: impl FnOnce(u16) -> u32) -> Option<Section> {
        let index = self.pop()?;
        let offset = place(index);
        if !self.header().holds(offset, len) {
            self.claimed |= 1 << (index & 63);
            return None;
        }
        let ticket = self.first.wrapping_add(index);
        // SAFETY: the ticket was claimed, so no section is open and this is its first count.
        unsafe {
            let count = &self.header().entry(ticket).count;
            count.store(1, Ordering::Relaxed);
            Some(Section::new(self.header, offset, len, ticket))
        }
    }

    /// The number of the ticket that a section counts for, if that is one of these.
    #[inline(always)]
    pub fn index(&self, section: &Section) -> Option<u16> {
        let (header, ticket) = section.place();
        let index = ticket.wrapping_sub(self.first);
        (header == self.header && index < self.count).then_some(index)
    }

    /// Takes a section back without closing it, under a note: the host may use its bytes until
    /// [`release`](Self::release).
    ///
    /// # Errors
    /// The section, if it counts for none of these tickets.
    #[inline(always)]
    pub fn hold(&mut self, section: Section, note: u64) -> Result<(), Section> {
        if self.index(&section).is_none() {
            return Err(section);
        }
        let (_, ticket) = ManuallyDrop::new(section).place();
        // SAFETY: one of this owner's tickets, whose cells nobody else touches; the section's
        // count is promised now.
        unsafe {
            let entry = self.header().entry(ticket);
            let promised = entry.promised.get();
            *promised = (*promised).wrapping_add(1);
            *entry.note.get() = note;
        }
        Ok(())
    }

    /// Closes a section that is held under this note; false when there is none.
    #[inline(always)]
    pub fn release(&mut self, index: u16, note: u64) -> bool {
        let Some(ticket) = self.global(index) else {
            return false;
        };
        // SAFETY: as in `hold`; a promised count is the owner's to give up, and its blocks keep
        // the header alive.
        let last = unsafe {
            let entry = self.header().entry(ticket);
            let promised = entry.promised.get();
            if *promised == 0 || *entry.note.get() != note {
                return false;
            }
            *promised = (*promised).wrapping_sub(1);
            self.header().drop_count(ticket)
        };
        if last {
            let bit = 1 << (index & 63);
            if index >> 6 == self.block {
                // It need not be offered to anybody: the owner has it already.
                self.claimed |= bit;
            } else {
                self.block(index >> 6).idle.fetch_or(bit, Ordering::Release);
            }
        }
        true
    }

    /// Opens the only section of an idle ticket and gives the ticket a note: it is not used again
    /// before [`settle`](Self::settle) told of it. `None` when none is idle, or the bytes are
    /// not inside.
    #[inline(always)]
    pub fn take(&mut self, note: u64, offset: u32, len: u32) -> Option<Section> {
        let section = self.reserve(len, |_| offset)?;
        self.note(section.place().1.wrapping_sub(self.first), note);
        Some(section)
    }

    #[inline(always)]
    fn note(&mut self, index: u16, note: u64) {
        if let Some(word) = self.noted.get_mut(usize::from(index >> 6)) {
            *word |= 1 << (index & 63);
            self.noted_blocks |= 1 << (index >> 6);
        }
        if let Some(ticket) = self.global(index) {
            // SAFETY: one of this owner's tickets, whose cells nobody else touches.
            unsafe { *self.header().entry(ticket).note.get() = note };
        }
    }

    /// As [`take`](Self::take), for `sections` of them, at least one, which are to be opened by
    /// [`open`](Self::open).
    pub fn take_many(&mut self, note: u64, sections: u32) -> Option<u16> {
        if sections == 0 {
            return None;
        }
        let index = self.pop()?;
        let ticket = self.first.wrapping_add(index);
        // SAFETY: the ticket was claimed, so no section is open; its cells are this owner's.
        unsafe {
            let entry = self.header().entry(ticket);
            entry.count.store(sections, Ordering::Relaxed);
            *entry.promised.get() = sections;
        }
        self.note(index, note);
        Some(index)
    }

    /// Opens one of the sections that were promised. `None` when all of them were opened, or the
    /// bytes are not inside.
    #[inline]
    pub fn open(&mut self, index: u16, offset: u32, len: u32) -> Option<Section> {
        let ticket = self.global(index)?;
        if !self.header().holds(offset, len) {
            return None;
        }
        // SAFETY: as in `hold`; the promised count becomes the section's.
        unsafe {
            let promised = self.header().entry(ticket).promised.get();
            *promised = (*promised).checked_sub(1)?;
            Some(Section::new(self.header, offset, len, ticket))
        }
    }

    /// Gives up one of the sections that were promised; false when there is none.
    pub fn skip(&mut self, index: u16) -> bool {
        let section = self.open(index, 0, 0);
        section.is_some()
    }

    /// Tells `each` the notes of tickets of which every section was closed, until it answers
    /// `false`. Those that it answered `true` to are forgotten: their tickets can be used again.
    #[inline(always)]
    pub fn settle(&mut self, mut each: impl FnMut(u64) -> bool) {
        let mut blocks = self.noted_blocks;
        while blocks != 0 {
            let block = blocks.trailing_zeros() as u16;
            blocks &= blocks.wrapping_sub(1);
            let noted = self.noted.get(usize::from(block)).copied().unwrap_or(0);
            let settled = self.block(block).idle.load(Ordering::Acquire) & noted;
            let mut left = settled;
            while left != 0 {
                let bit = left.trailing_zeros() as u16;
                let ticket = self.first.wrapping_add(block << 6).wrapping_add(bit);
                // SAFETY: it has a note, so it is one of this owner's tickets, whose cells nobody
                // else touches.
                let note = unsafe { *self.header().entry(ticket).note.get() };
                if !each(note) {
                    blocks = 0;
                    break;
                }
                left &= left.wrapping_sub(1);
            }
            let now = noted & !(settled ^ left);
            if let Some(noted) = self.noted.get_mut(usize::from(block)) {
                *noted = now;
            }
            if now == 0 {
                self.noted_blocks &= !(1 << block);
            }
        }
    }

    /// Tickets with a note.
    pub fn noted(&self) -> usize {
        self.noted
            .iter()
            .map(|word| word.count_ones() as usize)
            .fold(0, usize::wrapping_add)
    }

    /// Tickets that are neither idle nor ready to be handed out.
    pub fn out(&self) -> usize {
        let idle = (0..self.blocks())
            .map(|i| self.block(i).idle.load(Ordering::Relaxed) & self.mask(i))
            .map(|word| word.count_ones() as usize)
            .fold(self.claimed.count_ones() as usize, usize::wrapping_add);
        usize::from(self.count).saturating_sub(idle)
    }

    /// Bytes copied in and out of sections of these tickets, by earlier owners too.
    pub fn copied(&self) -> u64 {
        (0..self.blocks())
            .map(|i| self.block(i).copied.load(Ordering::Relaxed))
            .fold(0, u64::wrapping_add)
    }

    /// A view of the whole run. What is copied by it is not counted.
    #[inline(always)]
    pub fn span(&self) -> Span<'_> {
        let header = self.header();
        // SAFETY: the run is that long, and a taken block keeps it alive; lent memory is behind
        // no reference.
        unsafe { Span::new(header.data, header.bytes as usize) }
    }
}

impl Drop for Tickets {
    fn drop(&mut self) {
        let claimed = core::mem::take(&mut self.claimed);
        if claimed != 0 {
            let idle = &self.block(self.block).idle;
            idle.fetch_or(claimed, Ordering::Release);
        }
        for index in 0..self.count {
            while self.skip(index) {}
        }
        let (first, blocks) = (self.first >> 6, self.blocks());
        // SAFETY: the blocks are taken, so the header is alive.
        let header = unsafe { self.header.as_ref() };
        for index in 0..blocks {
            // SAFETY: one of this owner's blocks. The last of these is the last touch of the
            // header: nobody frees it before.
            let block = unsafe { header.block(first.wrapping_add(index)) };
            block.taken.store(0, Ordering::Release);
        }
    }
}
