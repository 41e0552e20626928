//! A buffer in lent pages.

use super::pieces::Pieces;
use super::pool::Pool;
use super::records::{Link, Meta, NONE, Records};
use super::segments::{OneRange, Segment, Segments};
use super::{OutOfSpan, PAGE_SIZE, Span};
use crate::platform::Platform;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

/// A chain of lent pages that holds `len()` bytes, owned like a `Vec`: it moves into a request,
/// comes back with its completion, and returns its pages to the pool when dropped.
///
/// The host may be able to write the bytes at any moment, so there is no slice of them: copy out
/// with [`read_at`](Self::read_at), in with [`write_at`](Self::write_at).
pub struct Buf {
    /// Of its first page. One word, because buffers are moved about more than they are looked at.
    head: NonNull<Meta>,
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

impl Buf {
    /// A buffer of one page that holds the `len` bytes from byte `offset` of it on.
    ///
    /// # Safety
    /// The page is the caller's, who passes it on; `offset + len <= 4096`.
    #[inline(always)]
    pub(super) unsafe fn placed(head: NonNull<Meta>, offset: u16, len: u16) -> Self {
        let mut buf = Self { head };
        buf.set_first(Link::placed(offset, len));
        buf.set_len(len.into());
        buf
    }

    /// Its first page, which it owns.
    #[inline(always)]
    pub(super) fn first(&self) -> &Meta {
        // SAFETY: the page is owned, so its record is there.
        unsafe { self.head.as_ref() }
    }

    #[inline(always)]
    pub(super) fn records(&self) -> Records {
        self.first().records()
    }

    /// The link of its first page.
    #[inline(always)]
    pub(super) fn first_link(&self) -> Link {
        // SAFETY: of the pages of a buffer, links are written only through `&mut` of it.
        unsafe { *self.first().link.get() }
    }

    #[inline(always)]
    pub(super) fn set_first(&mut self, link: Link) {
        // SAFETY: as in `first_link`, and `&mut self` excludes readers.
        unsafe { *self.first().link.get() = link };
    }

    #[inline]
    pub(super) fn link(&self, page: u16) -> Link {
        // SAFETY: callers pass pages of this buffer; as in `first_link`.
        unsafe { *self.records().meta(page).as_ref().link.get() }
    }

    #[inline]
    pub(super) fn set_link(&mut self, page: u16, link: Link) {
        // SAFETY: as in `link`, and `&mut self` excludes readers.
        unsafe { *self.records().meta(page).as_ref().link.get() = link };
    }

    /// A buffer of `count` whole pages from `first` on, of which the first page does not know yet.
    ///
    /// # Safety
    /// The pages are the caller's, who passes them on; `count` is not 0.
    pub(super) unsafe fn row(records: Records, first: u16, count: u16) -> Self {
        let last = first.wrapping_add(count.wrapping_sub(1));
        for page in first..last {
            // SAFETY: the caller's promise: the page is one of the pool's, and nobody else's.
            let meta = unsafe { records.meta(page).as_ref() };
            let link = Link::WHOLE.with_next(page.wrapping_add(1));
            // SAFETY: as above.
            unsafe { *meta.link.get() = link };
        }
        // SAFETY: as above.
        let (head, tail) = unsafe { (records.meta(first), records.meta(last).as_ref()) };
        // SAFETY: as above.
        unsafe { *tail.link.get() = Link::WHOLE };
        Self { head }
    }

    /// Joins a row of pages behind page `tail`, which is the last.
    pub(super) fn push_row(&mut self, tail: u16, row: Buf) {
        let row = ManuallyDrop::new(row);
        self.set_link(tail, self.link(tail).with_next(row.first().index()));
    }

    /// Lets the first page know how much there is, and cuts off what `len` bytes leave of page
    /// `last`, which is the last of `pages` whole ones.
    pub(super) fn set_whole(&mut self, last: u16, pages: u16, len: u32) {
        let before = u32::from(pages.wrapping_sub(1)).wrapping_mul(PAGE_SIZE as u32);
        let here = len.wrapping_sub(before) as u16;
        self.set_link(last, self.link(last).with_bytes(0, here));
        self.set_first(self.first_link().with_pages(pages));
        self.set_len(len);
    }

    #[inline(always)]
    pub(super) fn bytes(&self) -> u32 {
        // SAFETY: as in `first_link`.
        unsafe { *self.first().bytes.get() }
    }

    #[inline(always)]
    pub(super) fn set_len(&mut self, len: u32) {
        // SAFETY: as in `set_first`.
        unsafe { *self.first().bytes.get() = len };
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes() as usize
    }

    /// Whether it holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// How many pages it has.
    #[inline]
    pub fn pages(&self) -> usize {
        self.first_link().pages().into()
    }

    /// What names its page to the host ([`Segment::token`]), if the buffer is one whole page;
    /// `None` of any other. The shortest way to look at what most buffers are.
    #[inline(always)]
    pub fn whole_page(&self) -> Option<u64> {
        (self.first_link() == Link::WHOLE).then(|| self.first().token())
    }

    /// The piece of a buffer that is one page and holds 1 to `most` bytes; `None` of any other.
    #[inline(always)]
    pub fn only_segment(&self, most: u32) -> Option<Segment> {
        let link = self.first_link();
        let some = 1..=most;
        (link.pages() == 1 && some.contains(&link.len().into())).then(|| Segment {
            token: self.first().token(),
            offset: link.offset(),
            len: link.len(),
        })
    }

    /// The pieces, each to be kept by itself, in order; those without bytes too.
    pub fn into_pieces(self) -> Pieces {
        // SAFETY: the pages are passed on.
        unsafe { Pieces::new(ManuallyDrop::new(self).head) }
    }

    /// The numbers of its pages in the pool.
    #[cfg(feature = "xen")]
    pub(crate) fn page_numbers(&self) -> impl Iterator<Item = u16> + Clone {
        let link = |page: &u16| Some(self.link(*page).next()).filter(|next| *next != NONE);
        core::iter::successors(Some(self.first().index()), link)
    }

    /// The pieces, a page each, in order.
    #[inline(always)]
    pub fn segments(&self) -> Segments<'_> {
        Segments::new(self.first())
    }

    /// What names its pages to the host, in order, as long as its bytes are one range of memory to
    /// someone who knows the pages by these: see [`OneRange`].
    #[inline(always)]
    pub fn one_range(&self) -> OneRange<'_> {
        OneRange::new(self.segments())
    }

    /// Shortens to `len` bytes, keeping the pages; does nothing when it is not longer.
    pub fn truncate(&mut self, len: usize) {
        let mut rest = len;
        let mut page = self.first().index();
        while page != NONE {
            let link = self.link(page);
            let here = rest.min(usize::from(link.len()));
            rest = rest.saturating_sub(here);
            self.set_link(page, link.with_bytes(link.offset(), here as u16));
            page = link.next();
        }
        self.set_len(self.bytes().min(u32::try_from(len).unwrap_or(u32::MAX)));
    }

    /// A view of the bytes in the first page; `None` of an empty buffer. What is copied by it is
    /// not counted: it is for headers that a driver puts before the caller's bytes.
    pub fn head(&self) -> Option<Span<'_>> {
        let link = self.first_link();
        let page = self.first().index();
        // SAFETY: the page is this buffer's, so it exists and is lent memory without references,
        // for as long as the buffer is borrowed.
        let page = unsafe { Span::new(self.records().data(page), PAGE_SIZE) };
        let (offset, len) = (link.offset().into(), link.len().into());
        page.part(offset, len).ok().filter(|span| !span.is_empty())
    }

    /// Whether it came from `pool`.
    #[inline(always)]
    pub fn is_from<P: Platform>(&self, pool: &Pool<P>) -> bool {
        self.records() == pool.records()
    }

    /// Drops `count` bytes from the front; does nothing to an empty buffer. Pages stay.
    pub fn advance(&mut self, count: usize) {
        let mut rest = count;
        let mut page = self.first().index();
        while page != NONE && rest != 0 {
            let link = self.link(page);
            let here = rest.min(usize::from(link.len())) as u16;
            let (offset, len) = (
                link.offset().wrapping_add(here),
                link.len().wrapping_sub(here),
            );
            self.set_link(page, link.with_bytes(offset, len));
            self.set_len(self.bytes().wrapping_sub(u32::from(here)));
            rest = rest.wrapping_sub(usize::from(here));
            page = link.next();
        }
    }

    /// Joins `other` to the end: scatter-gather.
    ///
    /// # Errors
    /// [`AppendError`], with `other`; this buffer is then unchanged.
    pub fn append(&mut self, other: Buf) -> Result<(), (AppendError, Buf)> {
        if self.records() != other.records() {
            return Err((AppendError::OtherPool, other));
        }
        let first = self.first_link();
        let (Some(len), Some(pages)) = (
            self.bytes().checked_add(other.bytes()),
            first.pages().checked_add(other.first_link().pages()),
        ) else {
            return Err((AppendError::TooLarge, other));
        };
        let other = ManuallyDrop::new(other);
        self.set_first(first.with_pages(pages));
        self.set_len(len);
        let mut tail = self.first().index();
        let mut link = self.link(tail);
        while link.next() != NONE {
            tail = link.next();
            link = self.link(tail);
        }
        // The pages of `other` are ours now.
        self.set_link(tail, link.with_next(other.first().index()));
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
                // SAFETY: this buffer's pages keep the header.
                let header = unsafe { self.records().header() };
                header.copied.fetch_add(len as u64, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(OutOfSpan),
        }
    }

    /// Shows `each` the pieces from byte `offset` on, until it answers `None`.
    fn walk(&self, offset: usize, mut each: impl FnMut(Span<'_>) -> Option<()>) {
        let mut skip = offset;
        let mut page = self.first().index();
        while page != NONE {
            let link = self.link(page);
            let len = usize::from(link.len());
            let here = skip.min(len);
            skip = skip.wrapping_sub(here);
            if here < len {
                let start = usize::from(link.offset()).wrapping_add(here);
                // SAFETY: the page is this buffer's, so it exists and is lent memory without
                // references; the part is inside it because `offset + len <= 4096`.
                let whole = unsafe { Span::new(self.records().data(page), PAGE_SIZE) };
                let Ok(part) = whole.part(start, len.wrapping_sub(here)) else {
                    return;
                };
                if each(part).is_none() {
                    return;
                }
            }
            page = link.next();
        }
    }
}

impl Drop for Buf {
    #[inline]
    fn drop(&mut self) {
        if self.first_link().next() != NONE {
            // SAFETY: the pages are this buffer's, which is going.
            unsafe { self.first().give_back_linked() };
        }
        // SAFETY: as above; what was linked to it is gone.
        unsafe { Meta::give_back(self.head) };
    }
}
