//! What a back end gives the queue: a ring to put requests on and take answers from.

use crate::limits::Unit;
use crate::request::{IoError, Op};
use core::task::Waker;
use hypercall::bus::{Rest, Verdict};
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

/// What most requests are: a read or a write of one whole page.
#[derive(Debug, Clone, Copy)]
pub struct PageWire {
    /// As in [`Wire`].
    pub id: u64,
    /// Whether it writes the disk.
    pub write: bool,
    /// As in [`Wire`]; not checked.
    pub unit: u8,
    /// As in [`Wire`]; not checked.
    pub sector: u64,
    /// What names the page to the host: [`Segment::token`].
    pub token: u64,
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
    /// What it says by which it can be told that it answers that request.
    pub says: Says,
    /// How it went.
    pub result: Result<(), IoError>,
}

/// What an answer says besides an id, as the protocol has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// Which operation it answers; must be what [`Transport::push`] foretold.
    Operation(u8),
    /// How many bytes it moved.
    Moved(u32),
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

    /// As [`push`](Self::push), for one whole page, by the shortest way. `None` when it takes the
    /// long way, where it is checked what is wrong with it if anything; then nothing was done.
    #[inline(always)]
    fn push_page(&mut self, page: PageWire) -> Option<u32> {
        let _ = page;
        None
    }

    /// Writes a request onto the ring, not yet visible to the host. Returns what an answer of plain
    /// success to it will say: see [`pop_plain`](Self::pop_plain). At most
    /// [`depth`](Self::depth) requests are on the ring at once.
    ///
    /// # Errors
    /// [`PushError`].
    fn push(&mut self, wire: Wire<'_>) -> Result<u32, PushError>;

    /// Makes what was pushed visible, if anything, and rings the bell if the host wants it.
    fn publish(&mut self);

    /// Shows answers of plain success to `each`, by the shortest way: their ids and what they say,
    /// nothing of it checked. Those of another form are for [`pop`](Self::pop).
    #[inline(always)]
    fn pop_plain(&mut self, each: impl FnMut(u64, u32) -> Verdict) -> Rest {
        let _ = each;
        Rest::Odd
    }

    /// Takes one answer.
    ///
    /// # Errors
    /// [`HostFault`] when the ring is broken or the device is gone.
    fn pop(&mut self) -> Result<Option<Answer>, HostFault>;

    /// Forgets the host's signals so far: the ring is being looked at. Only who waits for signals
    /// needs it.
    fn take_pending(&mut self);

    /// Ends a run of [`pop`](Self::pop)s that came up empty: asks to be interrupted for the next
    /// answer, and for news of the device. Returns whether an answer has come meanwhile, so that it
    /// is not missed.
    ///
    /// # Errors
    /// [`HostFault::Withdrawn`] when the device is going or gone.
    fn arm(&mut self) -> Result<bool, HostFault>;

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
