//! What a back end gives the queue: a ring to put requests on and take answers from.

use crate::limits::Unit;
use crate::request::{IoError, Op};
use core::task::Waker;
use hypercall::shm::{Buf, Pool, Segment, Segments};
use hypercall::{HostFault, Platform};

/// A request as a back end sees it: checked, and its buffer only to be named to the host.
#[derive(Debug, Clone, Copy)]
pub struct Wire<'a> {
    /// What the answer will name; never 0.
    pub id: u64,
    /// What to do.
    pub op: Op,
    /// Which of [`Transport::units`].
    pub unit: u8,
    /// Where, in 512-byte sectors.
    pub sector: u64,
    /// How many 512-byte sectors.
    pub count: u64,
    /// The bytes, for reads and writes.
    pub data: Option<Data<'a>>,
}

/// What most requests are: a read or a write whose data is in one page.
#[derive(Debug, Clone, Copy)]
pub struct PageWire {
    /// As in [`Wire`].
    pub id: u64,
    /// Whether it writes the disk.
    pub write: bool,
    /// As in [`Wire`].
    pub unit: u8,
    /// As in [`Wire`].
    pub sector: u64,
    /// The data. The queue lets no empty piece through.
    pub data: Segment,
}

/// A buffer as it is named to the host.
#[derive(Debug, Clone, Copy)]
pub struct Data<'a> {
    /// How many bytes.
    pub bytes: u32,
    /// The first piece.
    pub first: Segment,
    /// The other pieces.
    pub rest: Segments<'a>,
}

impl<'a> Data<'a> {
    /// Of a buffer that holds at least one byte; `None` of an empty one.
    #[inline(always)]
    pub fn of(buf: &'a Buf) -> Option<Self> {
        let mut rest = buf.segments();
        let first = rest.next()?;
        Some(Self {
            bytes: buf.len() as u32,
            first,
            rest,
        })
    }
}

/// An answer taken off the ring. Nothing in it was checked against what is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Which request, by the host's account.
    pub id: u64,
    /// Which kind of request it answers, as [`Transport::push`] numbered it.
    pub kind: u8,
    /// How it went.
    pub result: Result<(), IoError>,
    /// How many bytes it moved, where the protocol says.
    pub moved: Option<u32>,
}

/// What [`Transport::pop_success`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Popped {
    /// An answer, taken off the ring: as in [`Answer`], with success for its result.
    Success {
        /// Which request, by the host's account.
        id: u64,
        /// Which kind of request it answers.
        kind: u8,
        /// How many bytes it moved, where the protocol says.
        moved: Option<u32>,
    },
    /// The ring is empty.
    Empty,
    /// Something else, left for [`Transport::pop`].
    Other,
}

/// Why a request did not go onto the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushError {
    /// No room; nothing changed.
    Full,
    /// The host broke the protocol.
    Fault(HostFault),
}

/// A ring to one device, with a pool lent to it.
pub trait Transport: Send {
    /// The kernel below.
    type Platform: Platform;

    /// The kernel below.
    fn platform(&self) -> &Self::Platform;

    /// The pool whose pages the device may reach; `None` once closed.
    fn pool(&self) -> Option<&Pool<Self::Platform>>;

    /// The disks behind the ring, at least one.
    fn units(&self) -> &[Unit];

    /// How many requests the ring holds.
    fn depth(&self) -> usize;

    /// As [`push`](Self::push), for a read or a write of one page, by the shortest way. `None` when
    /// it takes the long way; then nothing was done.
    #[inline(always)]
    fn push_page(&mut self, page: PageWire) -> Option<u8> {
        let _ = page;
        None
    }

    /// Writes a request onto the ring, not yet visible to the host. Returns the kind that its
    /// answer must carry. At most [`depth`](Self::depth) requests are on the ring at once.
    ///
    /// # Errors
    /// [`PushError`].
    fn push(&mut self, wire: Wire<'_>) -> Result<u8, PushError>;

    /// Makes what was pushed visible, if anything, and rings the bell if the host wants it.
    fn publish(&mut self);

    /// As [`pop`](Self::pop), for an answer that says success in the usual form, by the shortest
    /// way.
    #[inline(always)]
    fn pop_success(&mut self) -> Popped {
        Popped::Other
    }

    /// Takes one answer.
    ///
    /// # Errors
    /// [`HostFault`] when the ring is broken or the device is gone.
    fn pop(&mut self) -> Result<Option<Answer>, HostFault>;

    /// Ends a run of [`pop`](Self::pop)s that came up empty: asks to be interrupted for the next
    /// answer. Returns whether one has come meanwhile, so that it is not missed.
    fn arm(&mut self) -> bool;

    /// Whether the device is still there; cheap.
    ///
    /// # Errors
    /// [`HostFault::Withdrawn`] when it is going or gone.
    fn check(&mut self) -> Result<(), HostFault>;

    /// Has `waker` woken when there may be answers, or news of the device.
    fn register_waker(&self, waker: &Waker);

    /// Ends the connection and takes the ring back; the pool stays lent. After `Ok` the host no
    /// longer touches any buffer.
    ///
    /// # Errors
    /// [`HostFault`] when the host did not let go in time; its memory is then kept from reuse.
    fn disconnect(&mut self) -> Result<(), HostFault>;

    /// Connects anew after [`disconnect`](Self::disconnect).
    ///
    /// # Errors
    /// [`HostFault`].
    fn reconnect(&mut self) -> Result<(), HostFault>;
}
