//! Pages of a pool one by one, and bytes in one page.

use super::buf::Buf;
use super::pool::PoolId;
use super::records::Meta;
use super::{OutOfSpan, PAGE_SIZE, Span};
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

/// A page of a pool that is no buffer yet, or none any more: for tables of what the host may
/// write, and of what it is to write next. It returns by itself when dropped, as a [`Buf`] does.
pub struct PoolPage {
    at: NonNull<Meta>,
}

// SAFETY: a page has one owner, and the pool is reached by atomics.
unsafe impl Send for PoolPage {}
// SAFETY: through a shared reference only its name is read, which never changes.
unsafe impl Sync for PoolPage {}

impl fmt::Debug for PoolPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolPage({})", self.token())
    }
}

impl PoolPage {
    /// # Safety
    /// The page is the caller's, who passes it on.
    #[inline(always)]
    pub(super) unsafe fn new(at: NonNull<Meta>) -> Self {
        Self { at }
    }

    #[inline(always)]
    fn meta(&self) -> &Meta {
        // SAFETY: the page is owned, so its record is there.
        unsafe { self.at.as_ref() }
    }

    /// What names it to the host: grant reference or frame number.
    #[inline(always)]
    pub fn token(&self) -> u64 {
        self.meta().token()
    }

    /// Its number in the pool, for whoever links it to other pages, which then own it.
    #[inline(always)]
    pub(super) fn into_index(self) -> u16 {
        ManuallyDrop::new(self).meta().index()
    }
}

impl Drop for PoolPage {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the page is owned, and going.
        unsafe { Meta::give_back(self.at) };
    }
}

/// A number of bytes that is in a page: 0 to 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct InPage(u16);

impl InPage {
    /// A whole page.
    pub const WHOLE: Self = Self(PAGE_SIZE as u16);

    /// So many bytes, or a whole page if they are more.
    pub const fn clamped(bytes: usize) -> Self {
        match bytes < PAGE_SIZE {
            true => Self(bytes as u16),
            false => Self::WHOLE,
        }
    }

    /// So many bytes, if they are 1 to `most`.
    #[inline(always)]
    pub const fn some(bytes: usize, most: Self) -> Option<Self> {
        match bytes.wrapping_sub(1) < most.0 as usize {
            true => Some(Self(bytes as u16)),
            false => None,
        }
    }

    /// In bytes.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// Bytes in one page of a pool: what a [`Buf`] of one page is, but what it holds is beside it and
/// not in the pool's records, so that a frame that is looked at once costs no store. As of a
/// buffer's, there is no slice of its bytes.
pub struct Piece {
    page: PoolPage,
    /// `offset + len <= 4096`. As long as those of a [`Section`](super::Section), so that what may be
    /// either has the same places for both.
    offset: u32,
    len: u32,
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Piece({} bytes at {})", self.len, self.offset)
    }
}

impl Piece {
    /// The `len` bytes of a page from byte `offset` on.
    ///
    /// # Errors
    /// The page, when the bytes leave it.
    #[inline(always)]
    pub fn new(page: PoolPage, offset: u16, len: u16) -> Result<Self, PoolPage> {
        let (offset, len) = (u32::from(offset), u32::from(len));
        let end = offset.wrapping_add(len);
        match end <= PAGE_SIZE as u32 {
            true => Ok(Self { page, offset, len }),
            false => Err(page),
        }
    }

    /// The first `len` bytes of a page.
    #[inline(always)]
    pub fn start(page: PoolPage, len: InPage) -> Self {
        Self {
            page,
            offset: 0,
            len: len.0.into(),
        }
    }

    /// What names its page to the host: grant reference or frame number.
    #[inline(always)]
    pub fn token(&self) -> u64 {
        self.page.token()
    }

    /// Where it starts in its page, in bytes.
    #[inline(always)]
    pub fn offset(&self) -> u16 {
        self.offset as u16
    }

    /// Length in bytes.
    #[inline(always)]
    pub fn len(&self) -> u16 {
        self.len as u16
    }

    /// Whether it holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its page.
    #[inline(always)]
    pub fn into_page(self) -> PoolPage {
        self.page
    }

    /// Which pool it came from.
    #[inline(always)]
    pub fn pool(&self) -> PoolId {
        PoolId(self.page.meta().records())
    }

    /// Shortens to `len` bytes; does nothing when it is not longer.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(InPage::clamped(len).0.into());
    }

    /// A view of its bytes. What is copied by it is not counted.
    pub fn span(&self) -> Span<'_> {
        let (meta, offset) = (self.page.meta(), self.offset as usize);
        // SAFETY: the page is owned, so it exists and is lent memory without references, for as
        // long as the piece is borrowed; its bytes are inside the page.
        unsafe {
            let start = meta.records().data(meta.index()).add(offset);
            Span::new(start, self.len as usize)
        }
    }

    fn count_copied(&self, bytes: usize) {
        // SAFETY: the page is owned.
        let header = unsafe { self.page.meta().records().header() };
        header.copied.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Copies `into.len()` bytes out, from byte `offset` of the piece on.
    ///
    /// # Errors
    /// [`OutOfSpan`] when it is shorter; nothing is copied then.
    pub fn read_at(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfSpan> {
        self.span().copy_out(offset, into)?;
        self.count_copied(into.len());
        Ok(())
    }

    /// Copies `from` in, from byte `offset` of the piece on.
    ///
    /// # Errors
    /// [`OutOfSpan`] when it is shorter; nothing is copied then.
    pub fn write_at(&mut self, offset: usize, from: &[u8]) -> Result<(), OutOfSpan> {
        self.span().copy_in(offset, from)?;
        self.count_copied(from.len());
        Ok(())
    }
}

impl From<Piece> for Buf {
    #[inline(always)]
    fn from(piece: Piece) -> Self {
        let Piece { page, offset, len } = piece;
        let at = ManuallyDrop::new(page).at;
        // SAFETY: the page is passed on, and the bytes are inside it.
        unsafe { Self::placed(at, offset as u16, len as u16) }
    }
}
