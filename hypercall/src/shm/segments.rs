//! The pieces of a buffer, as the host is told of them.

use super::PAGE_SIZE;
use super::buf::Buf;
use super::records::{Link, Meta, NONE, Records};
use core::fmt;
use core::marker::PhantomData;

/// A buffer's bytes in one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// What names the page to the host: grant reference or frame number.
    pub token: u64,
    /// Where the bytes start in the page, in bytes.
    pub offset: u16,
    /// How many bytes; `offset + len <= 4096`.
    pub len: u16,
}

/// Iterates over a buffer's pieces; pieces of no bytes are passed over.
#[derive(Clone, Copy)]
pub struct Segments<'a> {
    records: Records,
    next: u16,
    life: PhantomData<&'a Buf>,
}

impl<'a> Segments<'a> {
    /// Of the buffer whose first page this is.
    #[inline(always)]
    pub(super) fn new(first: &'a Meta) -> Self {
        Self {
            records: first.records(),
            next: first.index(),
            life: PhantomData,
        }
    }

    /// The next page, one without bytes too.
    #[inline(always)]
    fn page(&mut self) -> Option<(u64, Link)> {
        if self.next == NONE {
            return None;
        }
        // SAFETY: the page is the borrowed buffer's; links change only through `&mut Buf`, which
        // the borrow excludes.
        let (token, link) = unsafe {
            let meta = self.records.meta(self.next).as_ref();
            (meta.token(), *meta.link.get())
        };
        self.next = link.next();
        Some((token, link))
    }
}

impl fmt::Debug for Segments<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(*self).finish()
    }
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    #[inline(always)]
    fn next(&mut self) -> Option<Segment> {
        while let Some((token, link)) = self.page() {
            if link.len() != 0 {
                return Some(Segment {
                    token,
                    offset: link.offset(),
                    len: link.len(),
                });
            }
        }
        None
    }
}

/// Iterates over what names a buffer's pages to the host, up to the first gap: only the first piece
/// may start inside its page, and only the last may end there. So it is at its end too early, and
/// only then, when the buffer is not one range. Pieces of no bytes are passed over.
#[derive(Clone, Copy)]
pub struct OneRange<'a> {
    rest: Segments<'a>,
    seen: Seen,
}

/// What an iterator over a range has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    /// The last piece ended where its page does.
    Whole,
    /// It ended before.
    End,
}

impl<'a> OneRange<'a> {
    #[inline(always)]
    pub(super) fn new(rest: Segments<'a>) -> Self {
        Self {
            rest,
            seen: Seen::Nothing,
        }
    }

    /// What follows a piece that is not a whole page.
    #[inline(always)]
    fn after(self, link: Link) -> Option<Seen> {
        let end = link.offset().wrapping_add(link.len());
        match self.seen {
            Seen::End => None,
            Seen::Whole if link.offset() != 0 => None,
            _ if usize::from(end) == PAGE_SIZE => Some(Seen::Whole),
            _ => Some(Seen::End),
        }
    }
}

impl fmt::Debug for OneRange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(*self).finish()
    }
}

impl Iterator for OneRange<'_> {
    type Item = u64;

    #[inline(always)]
    fn next(&mut self) -> Option<u64> {
        loop {
            let (token, link) = self.rest.page()?;
            if link.is_whole_page() && self.seen != Seen::End {
                self.seen = Seen::Whole;
                return Some(token);
            }
            if link.len() != 0 {
                let Some(seen) = self.after(link) else {
                    self.rest.next = NONE;
                    return None;
                };
                self.seen = seen;
                return Some(token);
            }
        }
    }
}

impl core::iter::FusedIterator for OneRange<'_> {}
