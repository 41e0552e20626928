//! What is known of a run's sections, in pages of its own: where the counts are.

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What is known of 64 tickets, beside which are idle.
pub(in super::super) struct Block {
    /// Bytes copied in and out of their sections.
    pub(in super::super) copied: AtomicU64,
    /// 1 while a [`Tickets`] has the block.
    pub(in super::super) taken: AtomicU32,
}

/// What is known of a ticket. The cells are the block owner's, and nobody else's.
#[derive(Default)]
#[repr(align(32))]
pub(in super::super) struct Entry {
    /// The word under which its only section is held; 0 while it is not.
    pub(super) held: UnsafeCell<u64>,
    /// The word that is told when all sections are closed.
    pub(super) note: UnsafeCell<u64>,
    /// Its sections that are open, or promised, if it has more than one.
    pub(super) count: AtomicU32,
    /// How many of them are promised.
    pub(super) promised: UnsafeCell<u32>,
}

/// What sections need of their run, whatever platform it came from. It lives in pages of its own.
pub(in super::super) struct Header {
    pub(in super::super) data: NonNull<u8>,
    pub(in super::super) bytes: u32,
    pub(in super::super) blocks: u16,
    /// For each block, a bit for each ticket that nobody claimed and of which no section is open.
    pub(in super::super) first_idle: NonNull<AtomicU64>,
    pub(in super::super) first_block: NonNull<Block>,
    /// 64 for each block.
    pub(in super::super) first_entry: NonNull<Entry>,
}

impl Header {
    pub(in super::super) fn blocks(&self) -> impl Iterator<Item = &Block> {
        // SAFETY: every index is below the number of blocks.
        (0..self.blocks).map(|i| unsafe { self.block(i) })
    }

    pub(in super::super) fn idles(&self) -> impl Iterator<Item = &AtomicU64> {
        // SAFETY: every index is below the number of blocks.
        (0..self.blocks).map(|i| unsafe { self.idle(i) })
    }

    /// # Safety
    /// `index` is below the number of blocks.
    #[inline(always)]
    pub(super) unsafe fn block(&self, index: u16) -> &Block {
        // SAFETY: the caller's promise; the blocks live as long as the header.
        unsafe { self.first_block.add(usize::from(index)).as_ref() }
    }

    /// Which tickets of a block are idle.
    ///
    /// # Safety
    /// `index` is below the number of blocks.
    #[inline(always)]
    pub(in super::super) unsafe fn idle(&self, index: u16) -> &AtomicU64 {
        // SAFETY: the caller's promise; the words live as long as the header.
        unsafe { self.first_idle.add(usize::from(index)).as_ref() }
    }

    /// # Safety
    /// `ticket` is below 64 times the number of blocks.
    #[inline(always)]
    pub(in super::super) unsafe fn block_of(&self, ticket: u16) -> &Block {
        // SAFETY: the caller's promise.
        unsafe { self.block(ticket >> 6) }
    }

    /// # Safety
    /// As for [`block_of`](Self::block_of).
    #[inline(always)]
    pub(super) unsafe fn entry(&self, ticket: impl Into<usize>) -> &Entry {
        // SAFETY: the caller's promise; the entries live as long as the header.
        unsafe { self.first_entry.add(ticket.into()).as_ref() }
    }

    #[inline(always)]
    pub(super) fn holds(&self, offset: u32, len: u32) -> bool {
        u64::from(offset).wrapping_add(len.into()) <= u64::from(self.bytes)
    }

    /// Gives up one of a ticket's counts; whether it was the last.
    ///
    /// # Safety
    /// The caller owns that count. Unless it is the last, it uses the header no more, or keeps it
    /// alive by other means.
    #[inline(always)]
    pub(super) unsafe fn drop_count(&self, ticket: u16) -> bool {
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
    pub(in super::super) unsafe fn give_back(header: NonNull<Header>, ticket: u16) {
        // SAFETY: the caller's promise; the header is alive as long as there is a count.
        if unsafe { header.as_ref().drop_count(ticket) } {
            // SAFETY: that was the last one.
            unsafe { Self::set_idle(header, ticket) };
        }
    }

    /// Makes a ticket idle.
    ///
    /// # Safety
    /// The caller owns its only section, gives it up, and uses the header no more.
    #[inline(always)]
    pub(in super::super) unsafe fn set_idle(header: NonNull<Header>, ticket: u16) {
        // SAFETY: until the bit is set, the header is alive; a ticket's index.
        let idle = unsafe { header.as_ref().idle(ticket >> 6) };
        // The last touch of the header: whoever sees the bit may free it.
        idle.fetch_or(1u64.wrapping_shl(ticket.into()), Ordering::Release);
    }
}
