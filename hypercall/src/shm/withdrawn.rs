//! Pages of a pool that were taken back from the host for a while.

use super::buf::Buf;
use super::pool::PoolId;
use super::records::{Link, Meta, NONE};
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::slice;

/// What a [`Buf`] holds, in pages that the host cannot reach any more: so there may be slices of
/// it. Dropping it gives the pages to their pool, which lends them again before they are used.
///
/// The promise is as good as a grant: a host that reaches memory it was not granted (a domain 0
/// that maps what it likes) is not kept from anything.
pub struct Withdrawn {
    buf: ManuallyDrop<Buf>,
}

impl fmt::Debug for Withdrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Withdrawn({} bytes)", self.len())
    }
}

impl Withdrawn {
    /// Only for a lender that has seen the host let go of every page of the buffer.
    #[cfg(feature = "xen")]
    pub(crate) fn new(buf: Buf) -> Self {
        Self {
            buf: ManuallyDrop::new(buf),
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Whether it holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// Which pool it came from.
    pub fn pool(&self) -> PoolId {
        PoolId(self.buf.records())
    }

    /// The bytes, a page at a time; none of them is empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.places().map(|(at, len)| {
            // SAFETY: the bytes are in a page of this buffer, which is zeroed memory that the
            // platform gave, and that neither the host nor anything but `self` reaches.
            unsafe { slice::from_raw_parts(at.as_ptr(), len) }
        })
    }

    /// The same, to be changed.
    pub fn pieces_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.places().map(|(at, len)| {
            // SAFETY: as in `pieces`; `&mut self` excludes other slices, and no byte is in two of
            // the pieces.
            unsafe { slice::from_raw_parts_mut(at.as_ptr(), len) }
        })
    }

    /// All bytes, if they are in one page.
    pub fn as_slice(&self) -> Option<&[u8]> {
        let mut pieces = self.pieces();
        let first = pieces.next().unwrap_or_default();
        pieces.next().is_none().then_some(first)
    }

    /// Where the pieces are, and their lengths.
    fn places(&self) -> Places<'_> {
        Places {
            next: Some(self.buf.first().into()),
            life: PhantomData,
        }
    }
}

/// Iterates over the pieces of a buffer that are not empty.
struct Places<'a> {
    next: Option<NonNull<Meta>>,
    life: PhantomData<&'a Buf>,
}

/// A page's link, and the record of the page after it.
///
/// # Safety
/// The page is owned, and its links do not change meanwhile.
unsafe fn step(at: NonNull<Meta>) -> (Link, Option<NonNull<Meta>>) {
    // SAFETY: the caller's promise.
    unsafe {
        let meta = at.as_ref();
        let link = *meta.link.get();
        let next = (link.next() != NONE).then(|| meta.records().meta(link.next()));
        (link, next)
    }
}

impl Iterator for Places<'_> {
    type Item = (NonNull<u8>, usize);

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(at) = self.next {
            // SAFETY: the page is the borrowed buffer's; links change only through `&mut Buf`.
            let (link, next) = unsafe { step(at) };
            self.next = next;
            if link.len() != 0 {
                // SAFETY: the page exists, and `offset + len <= 4096`.
                let start = unsafe {
                    let meta = at.as_ref();
                    meta.records().data(meta.index()).add(link.offset().into())
                };
                return Some((start, link.len().into()));
            }
        }
        None
    }
}

impl Drop for Withdrawn {
    fn drop(&mut self) {
        let mut next = Some(NonNull::from(self.buf.first()));
        while let Some(at) = next {
            // SAFETY: the pages are this buffer's, which is going; a link is read before its page
            // is given back.
            next = unsafe {
                let (_, after) = step(at);
                Meta::give_back_withdrawn(at);
                after
            };
        }
    }
}
