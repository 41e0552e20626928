//! What the parts of a run are counted by, and who may hand them out.

mod header;

use super::Span;
use super::sections::Section;
use core::fmt;
use core::mem::ManuallyDrop;
use core::num::NonZeroU64;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
pub(super) use header::{Block, Entry, Header};

/// Bytes that are inside a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    of: NonNull<Header>,
    offset: u32,
    len: u32,
}

impl Place {
    /// Length in bytes.
    #[inline(always)]
    pub fn len(self) -> u32 {
        self.len
    }

    /// Whether it is no bytes.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// `len` of its bytes, from byte `offset` on, if there are so many.
    #[inline(always)]
    pub fn part(self, offset: u64, len: u32) -> Option<Self> {
        let end = offset.checked_add(len.into())?;
        (end <= self.len.into()).then(|| Self {
            of: self.of,
            // Inside a run of less than 4 GiB.
            offset: self.offset.wrapping_add(offset as u32),
            len,
        })
    }
}

/// Some tickets of a run, for one owner, who numbers them from 0. It hands out their
/// [`Section`]s and learns when they are back.
///
/// There are two kinds of owners:
/// * one who [cuts](Self::cut) pieces [`reserve`](Self::reserve)s a section, and when it comes back
///   [`hold`](Self::hold)s it until the host is done with it, then [`release`](Self::release)s it: a
///   send buffer;
/// * one who cuts none [`take`](Self::take)s one section or [many](Self::take_many) with a note, and
///   learns by [`settle`](Self::settle) when all are dropped: a receive buffer.
pub struct Tickets {
    header: NonNull<Header>,
    /// The first ticket, of a block of its own.
    first: u16,
    count: u16,
    /// The block that the claimed tickets are of, counted from the first, and the place in the run of
    /// its first ticket.
    block: u16,
    base: u16,
    /// Tickets whose idle bit was taken, and that can be had.
    claimed: u64,
    /// Where the pieces start that are handed out, in bytes and as counted from the run's first
    /// ticket, and how long each is.
    origin: u32,
    size: u32,
    /// Blocks of which any ticket has a note.
    noted_blocks: u64,
    /// Of the block, tickets that can be had, and those handed out since [`fold`](Self::fold).
    drawn: u64,
    /// By block: tickets with a note.
    noted: [u64; Self::BLOCKS],
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
            base: first.wrapping_mul(64),
            claimed: 0,
            origin: 0,
            size: 0,
            drawn: 0,
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

    /// A block of this owner's, which there must be, counted from the run's first.
    #[inline(always)]
    fn number(&self, index: u16) -> u16 {
        let index = index.min(self.blocks().wrapping_sub(1));
        (self.first >> 6).wrapping_add(index)
    }

    #[inline(always)]
    fn block(&self, index: u16) -> &Block {
        // SAFETY: one of this owner's blocks, which were checked to exist.
        unsafe { self.header().block(self.number(index)) }
    }

    #[inline(always)]
    fn idle(&self, index: u16) -> &AtomicU64 {
        // SAFETY: one of this owner's blocks, which were checked to exist.
        unsafe { self.header().idle(self.number(index)) }
    }

    /// A ticket's place in the run, if it is one of this owner's.
    #[inline(always)]
    fn global(&self, index: u32) -> Option<u16> {
        (index < self.count.into()).then(|| self.first.wrapping_add(index as u16))
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

    /// Tickets of the block that were given a note since [`fold`](Self::fold). An owner who has cut
    /// pieces gives none.
    #[inline(always)]
    fn given(&self) -> u64 {
        match self.size {
            0 => self.drawn & !self.claimed,
            _ => 0,
        }
    }

    /// Takes down which tickets have a note.
    fn fold(&mut self) {
        let given = self.given();
        self.drawn = self.claimed;
        if given != 0
            && let Some(noted) = self.noted.get_mut(usize::from(self.block))
        {
            *noted |= given;
            self.noted_blocks |= 1u64.wrapping_shl(self.block.into());
        }
    }

    /// Claims what is idle and has no note, of the next block that has any.
    #[cold]
    fn refill(&mut self) -> bool {
        self.fold();
        let blocks = self.blocks();
        for _ in 0..blocks {
            let index = self.block;
            let noted = self.noted.get(usize::from(index)).copied().unwrap_or(0);
            let usable = self.mask(index) & !noted;
            let idle = self.idle(index);
            let found = idle.load(Ordering::Relaxed) & usable;
            if found != 0 {
                // Only the owner clears bits, so all of them are still there.
                self.claimed = idle.fetch_and(!found, Ordering::Acquire) & found;
                self.drawn = self.claimed;
                return true;
            }
            self.block = index.wrapping_add(1);
            if self.block >= blocks {
                self.block = 0;
            }
            self.base = self.first.wrapping_add(self.block.wrapping_mul(64));
        }
        false
    }

    /// A claimed ticket: its place in the run, and nobody else's as long as it is not given back.
    #[inline(always)]
    fn pop(&mut self) -> Option<u16> {
        if self.claimed == 0 {
            self.refill();
        }
        let bit = NonZeroU64::new(self.claimed)?.trailing_zeros() as u16;
        self.claimed &= self.claimed.wrapping_sub(1);
        Some(self.base.wrapping_add(bit))
    }

    /// The bytes of the run from `offset` on, `len` of them, if there are.
    #[inline(always)]
    pub fn place(&self, offset: u32, len: u32) -> Option<Place> {
        let of = self.header;
        let inside = self.header().holds(offset, len);
        inside.then_some(Place { of, offset, len })
    }

    /// A view of some bytes; `None` if they are another run's. What is copied by it is not counted.
    #[inline(always)]
    pub fn view(&self, place: Place) -> Option<Span<'_>> {
        if place.of != self.header {
            return None;
        }
        // SAFETY: the place is inside the run, and a taken block keeps that alive; lent memory is
        // behind no reference.
        Some(unsafe {
            let start = self.header().data.add(place.offset as usize);
            Span::new(start, place.len as usize)
        })
    }

    /// Whether there is a ticket to be had.
    #[inline(always)]
    pub fn is_any(&mut self) -> bool {
        self.claimed != 0 || self.refill()
    }

    /// Cuts a part of the run into pieces of `size` bytes, from byte `origin` of it on, one for each
    /// ticket; [`reserve`](Self::reserve) hands them out. False, with nothing changed, when they are
    /// not inside, or when a ticket has a note.
    pub fn cut(&mut self, origin: u32, size: u32) -> bool {
        let end = u64::from(size)
            .saturating_mul(self.count.into())
            .saturating_add(origin.into());
        let inside = end <= self.header().bytes.into() && !self.is_noted();
        if inside {
            self.size = size;
            // Where the piece of the run's first ticket would start.
            let before = size.wrapping_mul(self.first.into());
            self.origin = origin.wrapping_sub(before);
        }
        inside
    }

    /// Opens the only section of an idle ticket: the first `len` bytes of its piece. `None` when none
    /// is idle, or the piece is shorter.
    #[inline(always)]
    pub fn reserve(&mut self, len: u32) -> Option<Section> {
        if len > self.size {
            return None;
        }
        let ticket = self.pop()?;
        let offset = self
            .size
            .wrapping_mul(ticket.into())
            .wrapping_add(self.origin);
        // SAFETY: the ticket was claimed, so no section of it is open. Its piece is inside the run,
        // as `cut` saw, and no shorter than the section.
        Some(unsafe { Section::only(self.header, offset, len, ticket) })
    }

    /// The number of the ticket that a section counts for, if that is one of these.
    #[inline(always)]
    pub fn index(&self, section: &Section) -> Option<u16> {
        let (header, ticket) = section.place();
        let index = ticket.wrapping_sub(self.first);
        (header == self.header && index < self.count).then_some(index)
    }

    /// Takes a section back without closing it, under the word that `word` finds for the number of its
    /// ticket: the host may use its bytes until [`release`](Self::release).
    ///
    /// # Errors
    /// The section, if there is no word for it, it counts for none of these tickets, or shares its
    /// ticket with others.
    #[inline(always)]
    pub fn hold(
        &mut self,
        section: Section,
        word: impl FnOnce(u16, &Section) -> Option<NonZeroU64>,
    ) -> Result<(), Section> {
        let Some(index) = self.index(&section).filter(|_| section.is_only()) else {
            return Err(section);
        };
        let Some(word) = word(index, &section) else {
            return Err(section);
        };
        let (_, ticket) = ManuallyDrop::new(section).place();
        // SAFETY: one of this owner's tickets, whose cells nobody else touches; its only section
        // is held now.
        unsafe { *self.header().entry(ticket).held.get() = word.get() };
        Ok(())
    }

    /// Closes a section that is held under this word; false when there is none. The index is
    /// whatever the host says.
    #[inline(always)]
    pub fn release(&mut self, index: u32, word: u64) -> bool {
        let Some(ticket) = self.global(index) else {
            return false;
        };
        // SAFETY: as in `hold`.
        let held = unsafe { &mut *self.header().entry(ticket).held.get() };
        if *held != word || word == 0 {
            return false;
        }
        *held = 0;
        // SAFETY: it was the only section; a block that is taken keeps the header alive.
        unsafe { Header::set_idle(self.header, ticket) };
        true
    }

    /// Opens the only section of an idle ticket, some bytes of the run, and gives the ticket a note:
    /// it is not used again before [`settle`](Self::settle) told of it. `None` when none is idle, or
    /// the bytes are another run's.
    #[inline(always)]
    pub fn take(&mut self, note: u64, place: Place) -> Option<Section> {
        // Notes of an owner who cuts pieces are not told; that is all.
        if place.of != self.header {
            return None;
        }
        let ticket = self.pop()?;
        // SAFETY: one of this owner's tickets, whose cells nobody else touches; it was claimed, so
        // no section of it is open. The place is inside the run.
        unsafe {
            *self.header().entry(ticket).note.get() = note;
            let Place { of, offset, len } = place;
            Some(Section::only(of, offset, len, ticket))
        }
    }

    /// As [`take`](Self::take), for `sections` of them, at least one, which are to be opened by
    /// [`open`](Self::open).
    pub fn take_many(&mut self, note: u64, sections: u32) -> Option<u16> {
        if sections == 0 {
            return None;
        }
        let ticket = self.pop()?;
        // SAFETY: the ticket was claimed, so no section is open; its cells are this owner's.
        unsafe {
            let entry = self.header().entry(ticket);
            entry.count.store(sections, Ordering::Relaxed);
            *entry.promised.get() = sections;
            *entry.note.get() = note;
        }
        Some(ticket.wrapping_sub(self.first))
    }

    /// Opens one of the sections that were promised. `None` when all of them were opened, or the
    /// bytes are not inside.
    #[inline]
    pub fn open(&mut self, index: u16, offset: u32, len: u32) -> Option<Section> {
        let ticket = self.global(index.into())?;
        if !self.header().holds(offset, len) {
            return None;
        }
        // SAFETY: as in `hold`; the promised count becomes the section's.
        unsafe {
            let promised = self.header().entry(ticket).promised.get();
            *promised = (*promised).checked_sub(1)?;
            Some(Section::one_of_many(self.header, offset, len, ticket))
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
        self.fold();
        let mut blocks = self.noted_blocks;
        while blocks != 0 {
            let block = blocks.trailing_zeros() as u16;
            blocks &= blocks.wrapping_sub(1);
            let noted = self.noted.get(usize::from(block)).copied().unwrap_or(0);
            let settled = self.idle(block).load(Ordering::Acquire) & noted;
            let first = usize::from(self.first).wrapping_add(usize::from(block) << 6);
            let mut left = settled;
            while left != 0 {
                let bit = left.trailing_zeros() as usize;
                let ticket = first.wrapping_add(bit);
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

    /// Whether any ticket has a note.
    #[inline(always)]
    pub fn is_noted(&self) -> bool {
        self.noted_blocks != 0 || self.given() != 0
    }

    /// Tickets with a note.
    pub fn noted(&self) -> usize {
        let given = self.given();
        self.noted
            .iter()
            .map(|word| word.count_ones() as usize)
            .fold(given.count_ones() as usize, usize::wrapping_add)
    }

    /// Tickets that are neither idle nor ready to be handed out.
    pub fn out(&self) -> usize {
        let idle = (0..self.blocks())
            .map(|i| self.idle(i).load(Ordering::Relaxed) & self.mask(i))
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
}

impl Drop for Tickets {
    fn drop(&mut self) {
        let claimed = core::mem::take(&mut self.claimed);
        if claimed != 0 {
            self.idle(self.block).fetch_or(claimed, Ordering::Release);
        }
        for index in 0..self.count {
            while self.skip(index) {}
            let ticket = self.first.wrapping_add(index);
            // SAFETY: one of this owner's tickets, whose cells nobody else touches; its blocks keep
            // the header alive.
            unsafe {
                let held = self.header().entry(ticket).held.get();
                if *held != 0 {
                    *held = 0;
                    Header::set_idle(self.header, ticket);
                }
            }
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
