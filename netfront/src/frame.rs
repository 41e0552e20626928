//! Frames: bytes in memory that the host may still write, and what is known of them.

use crate::offload::{RxMeta, TxMeta};
use hypercall::shm::{Buf, OutOfSpan, Piece, Section, Withdrawn};

/// Where a frame's bytes are.
#[derive(Debug)]
pub enum Body {
    /// In one page of a pool.
    Piece(Piece),
    /// In pages of a pool.
    Buf(Buf),
    /// In a part of a run that is one piece to the host.
    Section(Section),
}

impl Body {
    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Self::Piece(piece) => piece.len().into(),
            Self::Buf(buf) => buf.len(),
            Self::Section(section) => section.len(),
        }
    }

    /// Whether it holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn read_at(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfSpan> {
        match self {
            Self::Piece(piece) => piece.read_at(offset, into),
            Self::Buf(buf) => buf.read_at(offset, into),
            Self::Section(section) => section.read_at(offset, into),
        }
    }

    #[inline]
    fn write_at(&mut self, offset: usize, from: &[u8]) -> Result<(), OutOfSpan> {
        match self {
            Self::Piece(piece) => piece.write_at(offset, from),
            Self::Buf(buf) => buf.write_at(offset, from),
            Self::Section(section) => section.write_at(offset, from),
        }
    }

    fn truncate(&mut self, len: usize) {
        match self {
            Self::Piece(piece) => piece.truncate(len),
            Self::Buf(buf) => buf.truncate(len),
            Self::Section(section) => section.truncate(len),
        }
    }
}

/// A received frame. The host may go on writing its bytes, so they are copied out, never borrowed:
/// what was copied once is private. Dropping it gives its memory back.
#[derive(Debug)]
pub struct RxFrame {
    body: Body,
    meta: RxMeta,
}

impl RxFrame {
    /// A frame of these bytes.
    #[inline]
    pub fn new(body: Body, meta: RxMeta) -> Self {
        Self { body, meta }
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether it holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// What the host says of it.
    pub fn meta(&self) -> &RxMeta {
        &self.meta
    }

    /// Where it is, and what the host says of it.
    pub fn into_parts(self) -> (Body, RxMeta) {
        (self.body, self.meta)
    }

    /// Copies `into.len()` bytes out from byte `offset` on.
    ///
    /// # Errors
    /// [`OutOfSpan`] when the frame is shorter; nothing is copied then.
    #[inline]
    pub fn read_at(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfSpan> {
        self.body.read_at(offset, into)
    }
}

/// A received frame whose memory the host can reach no more: see
/// [`NetQueue::claim`](crate::NetQueue::claim). Dropping it gives its memory back.
#[derive(Debug)]
pub struct Claimed {
    memory: Withdrawn,
    meta: RxMeta,
}

impl Claimed {
    /// A frame of these bytes.
    pub fn new(memory: Withdrawn, meta: RxMeta) -> Self {
        Self { memory, meta }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether it holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// What the host says of it.
    pub fn meta(&self) -> &RxMeta {
        &self.meta
    }

    /// All its bytes, if they are in one page; a long frame has more [`pieces`](Self::pieces).
    pub fn as_slice(&self) -> Option<&[u8]> {
        self.memory.as_slice()
    }

    /// Its bytes, a page at a time; none of them is empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.memory.pieces()
    }

    /// The same, to be changed.
    pub fn pieces_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.memory.pieces_mut()
    }
}

/// A frame to be sent. Its bytes are whatever was there until they are written; dropping it
/// instead of sending it gives its memory back.
#[derive(Debug)]
pub struct TxFrame {
    body: Body,
    /// Bytes before the frame that are the back end's.
    headroom: u16,
    /// What is to be done to it.
    pub meta: TxMeta,
}

impl TxFrame {
    /// A frame that starts `headroom` bytes into `body`; `None` when the body is shorter.
    #[inline]
    pub fn new(body: Body, headroom: u16) -> Option<Self> {
        (body.len() >= usize::from(headroom)).then_some(Self {
            body,
            headroom,
            meta: TxMeta::default(),
        })
    }

    /// The body, headroom included, and what is to be done.
    #[inline]
    pub fn into_parts(self) -> (Body, TxMeta) {
        (self.body, self.meta)
    }

    /// The body, headroom included.
    #[inline]
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The body, headroom included.
    #[inline]
    pub fn body_mut(&mut self) -> &mut Body {
        &mut self.body
    }

    /// Bytes before the frame that are the back end's.
    #[inline]
    pub fn headroom(&self) -> u16 {
        self.headroom
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        // A body is never shorter than its headroom.
        self.body.len().wrapping_sub(usize::from(self.headroom))
    }

    /// Whether it holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shortens to `len` bytes; does nothing when it is not longer.
    pub fn truncate(&mut self, len: usize) {
        self.body
            .truncate(len.saturating_add(usize::from(self.headroom)));
    }

    /// Copies `into.len()` bytes out from byte `offset` on.
    ///
    /// # Errors
    /// [`OutOfSpan`] when the frame is shorter; nothing is copied then.
    #[inline]
    pub fn read_at(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfSpan> {
        self.body
            .read_at(offset.saturating_add(usize::from(self.headroom)), into)
    }

    /// Copies `from` in from byte `offset` on.
    ///
    /// # Errors
    /// [`OutOfSpan`] when the frame is shorter; nothing is copied then.
    #[inline]
    pub fn write_at(&mut self, offset: usize, from: &[u8]) -> Result<(), OutOfSpan> {
        self.body
            .write_at(offset.saturating_add(usize::from(self.headroom)), from)
    }
}
