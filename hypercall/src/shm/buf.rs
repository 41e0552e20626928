//! A buffer in lent pages.

use super::pool::{Header, Link, NONE, Pool};
use super::{OutOfSpan, PAGE_SIZE, Span};
use crate::platform::Platform;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

/// A chain of lent pages that holds `len()` bytes, owned like a `Vec`: it moves into a request,
/// comes back with its completion, and returns its pages to the pool when dropped.
///
/// The host may be able to write the bytes at any moment, so there is no slice of them: copy out
/// with [`read_at`](Self::read_at), in with [`write_at`](Self::write_at).
pub struct Buf {
    header: NonNull<Header>,
    shape: Shape,
}

/// First page (16 bits), length in bytes (32) and number of pages (16): one word, because buffers
/// are moved about more than they are looked at.
#[derive(Clone, Copy)]
struct Shape(u64);

impl Shape {
    #[inline(always)]
    fn new(len: u32, head: u16, pages: u16) -> Self {
        Self(u64::from(head) | u64::from(len) << 16 | u64::from(pages) << 48)
    }

    #[inline(always)]
    fn len(self) -> u32 {
        (self.0 >> 16) as u32
    }

    /// Of one page: its length less 1. Of an empty buffer or one of other than one page, more
    /// than any length.
    #[inline(always)]
    fn last_of_page(self) -> u64 {
        (self.0 >> 16).wrapping_sub(1 << 32 | 1)
    }

    #[inline(always)]
    fn head(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    fn pages(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

// SAFETY: a buffer is the only owner of its pages' links, and the pool is reached by atomics.
unsafe impl Send for Buf {}
// SAFETY: through a shared reference the links are only read.
unsafe impl Sync for Buf {}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} bytes in {} pages)", self.len(), self.pages())
    }
}

/// Why [`Buf::append`] refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AppendError {
    /// The buffers come from different pools.
    OtherPool,
    /// The sum would not fit a buffer (65,535 pages or 4 GiB).
    TooLarge,
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherPool => "the buffers come from different pools",
            Self::TooLarge => "the joined buffer would be too large",
        })
    }
}

impl core::error::Error for AppendError {}

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

impl Buf {
    /// A buffer of no pages, which is only ever seen by the pool.
    ///
    /// # Safety
    /// The caller passes on one count of the header.
    pub(super) unsafe fn empty(header: NonNull<Header>) -> Self {
        Self {
            header,
            shape: Shape::new(0, NONE, 0),
        }
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: this buffer's count keeps the header alive.
        unsafe { self.header.as_ref() }
    }

    #[inline]
    fn link(&self, page: u16) -> Link {
        // SAFETY: callers pass pages of this buffer, whose links only its owner writes, by
        // `set_link`, which takes `&mut self`.
        unsafe { *self.header().meta(page).link.get() }
    }

    #[inline]
    fn set_link(&mut self, page: u16, link: Link) {
        // SAFETY: as in `link`, and `&mut self` excludes readers.
        unsafe { *self.header().meta(page).link.get() = link };
    }

    /// Adds a page that was just claimed for this buffer, behind page `tail` if it has one.
    #[inline]
    pub(super) fn push(&mut self, tail: u16, page: u16, len: u16) {
        let mut head = self.shape.head();
        if tail == NONE {
            head = page;
        } else {
            let link = self.link(tail);
            self.set_link(tail, Link { next: page, ..link });
        }
        self.set_link(
            page,
            Link {
                next: NONE,
                offset: 0,
                len,
            },
        );
        self.shape = Shape::new(
            self.shape.len().wrapping_add(u32::from(len)),
            head,
            self.shape.pages().wrapping_add(1),
        );
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.shape.len() as usize
    }

    /// Whether it holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.shape.len() == 0
    }

    /// How many pages it has.
    #[inline]
    pub fn pages(&self) -> usize {
        usize::from(self.shape.pages())
    }

    #[inline(always)]
    fn set_len(&mut self, len: u32) {
        self.shape = Shape::new(len, self.shape.head(), self.shape.pages());
    }

    /// The piece of a buffer that is one page and holds 1 to `most` bytes; `None` of any other.
    #[inline(always)]
    pub fn only_segment(&self, most: u32) -> Option<Segment> {
        if self.shape.last_of_page() >= u64::from(most) {
            return None;
        }
        // SAFETY: as in `Segments::next`.
        let (token, link) = unsafe {
            let meta = self.header.as_ref().meta(self.shape.head());
            (meta.token(), meta.link.get())
        };
        Some(Segment {
            token,
            // SAFETY: as above; of a page's link only this is needed here.
            offset: unsafe { (*link).offset },
            // What a buffer of one page holds is in that page.
            len: self.shape.len() as u16,
        })
    }

    /// The pieces, a page each, in order.
    #[inline(always)]
    pub fn segments(&self) -> Segments<'_> {
        Segments {
            header: self.header,
            next: self.shape.head(),
            life: PhantomData,
        }
    }

    /// Shortens to `len` bytes, keeping the pages; does nothing when it is not longer.
    pub fn truncate(&mut self, len: usize) {
        let mut rest = len;
        let mut page = self.shape.head();
        while page != NONE {
            let mut link = self.link(page);
            link.len = rest.min(usize::from(link.len)) as u16;
            rest = rest.saturating_sub(usize::from(link.len));
            self.set_link(page, link);
            page = link.next;
        }
        self.set_len(self.shape.len().min(u32::try_from(len).unwrap_or(u32::MAX)));
    }

    /// Makes a buffer of one page hold the `len` bytes from byte `offset` of that page on. `false`,
    /// with nothing changed, when they leave the page or the buffer is not one page.
    #[inline(always)]
    pub fn place(&mut self, offset: u16, len: u16) -> bool {
        let end = u32::from(offset).wrapping_add(u32::from(len));
        if end > PAGE_SIZE as u32 || self.shape.pages() != 1 {
            return false;
        }
        let page = self.shape.head();
        self.set_link(
            page,
            Link {
                next: NONE,
                offset,
                len,
            },
        );
        self.set_len(len.into());
        true
    }

    /// Whether it came from `pool`.
    #[inline(always)]
    pub fn is_from<P: Platform>(&self, pool: &Pool<P>) -> bool {
        self.header == pool.at()
    }

    /// Drops `count` bytes from the front; does nothing to an empty buffer. Pages stay.
    pub fn advance(&mut self, count: usize) {
        let mut rest = count;
        let mut page = self.shape.head();
        while page != NONE && rest != 0 {
            let mut link = self.link(page);
            let here = rest.min(usize::from(link.len)) as u16;
            link.len = link.len.wrapping_sub(here);
            link.offset = link.offset.wrapping_add(here);
            self.set_len(self.shape.len().wrapping_sub(u32::from(here)));
            rest = rest.wrapping_sub(usize::from(here));
            self.set_link(page, link);
            page = link.next;
        }
    }

    /// Joins `other` to the end: scatter-gather.
    ///
    /// # Errors
    /// [`AppendError`], with `other`; this buffer is then unchanged.
    pub fn append(&mut self, other: Buf) -> Result<(), (AppendError, Buf)> {
        if self.header != other.header {
            return Err((AppendError::OtherPool, other));
        }
        let (Some(len), Some(pages)) = (
            self.shape.len().checked_add(other.shape.len()),
            self.shape.pages().checked_add(other.shape.pages()),
        ) else {
            return Err((AppendError::TooLarge, other));
        };
        let (mut tail, mut link) = (self.shape.head(), self.link(self.shape.head()));
        while link.next != NONE {
            tail = link.next;
            link = self.link(tail);
        }
        self.set_link(
            tail,
            Link {
                next: other.shape.head(),
                ..link
            },
        );
        self.shape = Shape::new(len, self.shape.head(), pages);
        let other = core::mem::ManuallyDrop::new(other);
        // SAFETY: `other`'s pages are ours now; its count goes with it, and ours remains.
        unsafe { Header::drop_count(other.header) };
        Ok(())
    }

    /// Copies `into.len()` bytes out, from byte `offset` of the buffer on.
    ///
    /// # Errors
    /// [`OutOfSpan`] when the buffer is shorter; nothing is copied then.
    pub fn read_at(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfSpan> {
        self.check(offset, into.len())?;
        let mut rest = into;
        self.walk(offset, |span| {
            let here = span.len().min(rest.len());
            let (now, later) = core::mem::take(&mut rest).split_at_mut_checked(here)?;
            rest = later;
            span.copy_out(0, now).ok()?;
            (!rest.is_empty()).then_some(())
        });
        Ok(())
    }

    /// Copies `from` in, from byte `offset` of the buffer on.
    ///
    /// # Errors
    /// [`OutOfSpan`] when the buffer is shorter; nothing is copied then.
    pub fn write_at(&mut self, offset: usize, from: &[u8]) -> Result<(), OutOfSpan> {
        self.check(offset, from.len())?;
        let mut rest = from;
        self.walk(offset, |span| {
            let (now, later) = rest.split_at_checked(span.len().min(rest.len()))?;
            rest = later;
            span.copy_in(0, now).ok()?;
            (!rest.is_empty()).then_some(())
        });
        Ok(())
    }

    /// Sets every byte.
    pub fn fill(&mut self, byte: u8) {
        self.walk(0, |span| {
            span.fill(byte);
            Some(())
        });
    }

    fn check(&self, offset: usize, len: usize) -> Result<(), OutOfSpan> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len() => {
                self.header().count_copied(len);
                Ok(())
            }
            _ => Err(OutOfSpan),
        }
    }

    /// Shows `each` the pieces from byte `offset` on, until it answers `None`.
    fn walk(&self, offset: usize, mut each: impl FnMut(Span<'_>) -> Option<()>) {
        let mut skip = offset;
        let mut page = self.shape.head();
        while page != NONE {
            let link = self.link(page);
            let len = usize::from(link.len);
            let here = skip.min(len);
            skip = skip.wrapping_sub(here);
            if here < len {
                let start = usize::from(link.offset).wrapping_add(here);
                // SAFETY: the page is this buffer's, so it exists and is lent memory without
                // references; the part is inside it because `offset + len <= 4096`.
                let whole = unsafe { Span::new(self.header().data(page), PAGE_SIZE) };
                let Ok(part) = whole.part(start, len.wrapping_sub(here)) else {
                    return;
                };
                if each(part).is_none() {
                    return;
                }
            }
            page = link.next;
        }
    }
}

impl Drop for Buf {
    #[inline]
    fn drop(&mut self) {
        let mut page = self.shape.head();
        while page != NONE {
            let next = self.link(page).next;
            // SAFETY: the page is this buffer's, which is going.
            unsafe { self.header().give_back(page) };
            page = next;
        }
        // SAFETY: this buffer's own count, given up last.
        unsafe { Header::drop_count(self.header) }
    }
}

/// Iterates over a buffer's pieces; pieces of no bytes are passed over.
#[derive(Clone, Copy)]
pub struct Segments<'a> {
    header: NonNull<Header>,
    next: u16,
    life: PhantomData<&'a Buf>,
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
        while self.next != NONE {
            // SAFETY: the borrowed buffer keeps the header alive, and the page is its own; links
            // change only through `&mut Buf`, which the borrow excludes.
            let (token, link) = unsafe {
                let meta = self.header.as_ref().meta(self.next);
                (meta.token(), *meta.link.get())
            };
            self.next = link.next;
            if link.len != 0 {
                return Some(Segment {
                    token,
                    offset: link.offset,
                    len: link.len,
                });
            }
        }
        None
    }
}
