//! Buffers taken apart, and put together.

use super::buf::{AppendError, Buf};
use super::piece::{Piece, PoolPage};
use super::pool::PoolId;
use super::records::{Link, Meta, NONE};
use core::fmt;
use core::ptr::NonNull;

/// The pieces of a buffer that was taken apart. Dropping it gives back those that were not taken.
pub struct Pieces {
    /// The first of them.
    rest: Option<NonNull<Meta>>,
}

// SAFETY: it owns the pages of what was a buffer.
unsafe impl Send for Pieces {}
// SAFETY: through a shared reference there is nothing to be done.
unsafe impl Sync for Pieces {}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pieces")
    }
}

impl Pieces {
    /// # Safety
    /// The page is the caller's, and so are those linked to it; the caller passes them on.
    pub(super) unsafe fn new(first: NonNull<Meta>) -> Self {
        Self { rest: Some(first) }
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    #[inline(always)]
    fn next(&mut self) -> Option<Piece> {
        let at = self.rest?;
        // SAFETY: the page is owned by this, so its record is there; it is passed on, and the next
        // one is remembered.
        let (link, page) = unsafe {
            let meta = at.as_ref();
            let link = *meta.link.get();
            self.rest = match link.next() {
                NONE => None,
                next => Some(meta.records().meta(next)),
            };
            (link, PoolPage::new(at))
        };
        // The bytes of a link are inside its page.
        Piece::new(page, link.offset(), link.len()).ok()
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

/// A buffer that is put together piece by piece: [`Buf::append`] would look for its end each time.
#[derive(Debug, Default)]
pub struct Joint {
    whole: Option<Buf>,
    /// Its last page.
    tail: u16,
}

impl Joint {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self {
            whole: None,
            tail: 0,
        }
    }

    /// Joins a piece to the end.
    ///
    /// # Errors
    /// [`AppendError`], with the piece; nothing is changed then.
    #[inline(always)]
    pub fn push(&mut self, piece: Piece) -> Result<(), (AppendError, Piece)> {
        let Some(whole) = &mut self.whole else {
            let first = Buf::from(piece);
            self.tail = first.first().index();
            self.whole = Some(first);
            return Ok(());
        };
        if piece.pool() != PoolId(whole.records()) {
            return Err((AppendError::OtherPool, piece));
        }
        let link = whole.first_link();
        if link.pages() == u16::MAX {
            return Err((AppendError::TooLarge, piece));
        }
        let (offset, len) = (piece.offset(), piece.len());
        let page = piece.into_page().into_index();
        // Fewer than 2^16 pages are less than 4 GiB.
        whole.set_len(whole.bytes().wrapping_add(len.into()));
        whole.set_first(link.with_pages(link.pages().wrapping_add(1)));
        // The first page may be the last, so its link is read again.
        whole.set_link(self.tail, whole.link(self.tail).with_next(page));
        whole.set_link(page, Link::placed(offset, len));
        self.tail = page;
        Ok(())
    }

    /// What was joined, if anything.
    pub fn finish(self) -> Option<Buf> {
        self.whole
    }
}
