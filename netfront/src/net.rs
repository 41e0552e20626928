//! The traits: an interface, and each of its queue pairs.

use crate::capabilities::{Capabilities, Event, Stats};
use crate::frame::{Claimed, RxFrame, TxFrame};
use core::fmt;
use core::task::Waker;
use hypercall::HostFault;

/// Why there is no room for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReserveError {
    /// Not now: ask again when frames were sent, or received ones dropped.
    Full,
    /// Never: the interface takes no frame of this length.
    TooLong,
    /// The queue failed.
    Failed(HostFault),
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("no room for a frame now"),
            Self::TooLong => f.write_str("the frame is longer than the interface takes"),
            Self::Failed(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for ReserveError {}

/// Why a frame was not taken to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The ring is full: send it again when frames were sent.
    Full,
    /// It is empty, shorter than an Ethernet header, or longer than the interface takes as it is.
    BadLength,
    /// What is to be done to it is more than the interface offers, or does not fit the frame.
    Unsupported,
    /// It was reserved on another queue.
    OtherQueue,
    /// The queue failed.
    Failed(HostFault),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the ring is full"),
            Self::BadLength => f.write_str("the frame's length is out of bounds"),
            Self::Unsupported => f.write_str("the interface does not offer what the frame asks"),
            Self::OtherQueue => f.write_str("the frame was reserved on another queue"),
            Self::Failed(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for SendError {}

/// Why a received frame's memory was not taken back from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClaimError {
    /// The host can reach it whatever its guest does (Hyper-V).
    Unsupported,
    /// The host holds on to it.
    StillInUse,
    /// It was received by another queue.
    OtherQueue,
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "this host cannot be kept from its guest's memory",
            Self::StillInUse => "the host still uses the frame's memory",
            Self::OtherQueue => "the frame was received by another queue",
        })
    }
}

impl core::error::Error for ClaimError {}

/// One queue pair of an interface: a ring each way.
///
/// A queue belongs to one owner at a time (`&mut self`), may be sent to another thread, and takes
/// no lock in any of its methods. It works as `dyn NetQueue`.
pub trait NetQueue: Send {
    /// What the interface can do, as far as this queue knows. News of link and MTU reaches the first
    /// queue, when its [`event`](Self::event) is asked for or it pauses, and from there the others,
    /// when [`rx`](Self::rx) finds nothing.
    fn capabilities(&self) -> &Capabilities;

    /// The next received frame. When there is none it shows the host what was sent, gives room
    /// back, and has the host interrupt for the next: so take frames until there is none before
    /// waiting.
    ///
    /// # Errors
    /// The latched [`HostFault`].
    fn rx(&mut self) -> Result<Option<RxFrame>, HostFault>;

    /// Takes a received frame's memory back from the host, so that its bytes can be borrowed: no
    /// copy, for one look at the grant of each page, and one more when it is lent again after the
    /// frame was dropped. That is worth it for long frames; short ones are copied faster.
    ///
    /// # Errors
    /// [`ClaimError`], with the frame: copy it out.
    fn claim(&mut self, frame: RxFrame) -> Result<Claimed, (ClaimError, RxFrame)> {
        Err((ClaimError::Unsupported, frame))
    }

    /// Room for a frame of `len` bytes, Ethernet header included.
    ///
    /// # Errors
    /// [`ReserveError`].
    fn tx_reserve(&mut self, len: usize) -> Result<TxFrame, ReserveError>;

    /// Queues a frame. It leaves at the next [`publish`](Self::publish), or when
    /// [`rx`](Self::rx) finds nothing, so that a batch costs one notification. Its completion
    /// needs no attention.
    ///
    /// # Errors
    /// [`SendError`], with the frame: nothing was done.
    fn send(&mut self, frame: TxFrame) -> Result<(), (SendError, TxFrame)>;

    /// Has the host start on what was sent.
    fn publish(&mut self);

    /// Frames that the host has to send still. It collects what the host is done with.
    fn in_flight(&mut self) -> usize;

    /// What the queue did so far.
    fn stats(&self) -> Stats;

    /// What the queue failed with, if it did.
    fn fault(&self) -> Option<HostFault>;

    /// What happened to the interface since this was last asked. Only the first queue knows.
    fn event(&mut self) -> Option<Event>;

    /// Has `waker` woken when there may be a frame, room to send, or an event.
    fn register_waker(&mut self, waker: &Waker);

    /// Waits for frames, room or events, at most until `until` of [`now`](Self::now); may return
    /// early. While an [`event`](Self::event) has not been taken it returns at once.
    fn pause(&mut self, until: u64);

    /// The platform's clock, in nanoseconds.
    fn now(&self) -> u64;
}

/// A borrowed queue is a queue.
impl<Q: NetQueue + ?Sized> NetQueue for &mut Q {
    fn capabilities(&self) -> &Capabilities {
        (**self).capabilities()
    }
    fn rx(&mut self) -> Result<Option<RxFrame>, HostFault> {
        (**self).rx()
    }
    fn claim(&mut self, frame: RxFrame) -> Result<Claimed, (ClaimError, RxFrame)> {
        (**self).claim(frame)
    }
    fn tx_reserve(&mut self, len: usize) -> Result<TxFrame, ReserveError> {
        (**self).tx_reserve(len)
    }
    fn send(&mut self, frame: TxFrame) -> Result<(), (SendError, TxFrame)> {
        (**self).send(frame)
    }
    fn publish(&mut self) {
        (**self).publish();
    }
    fn in_flight(&mut self) -> usize {
        (**self).in_flight()
    }
    fn stats(&self) -> Stats {
        (**self).stats()
    }
    fn fault(&self) -> Option<HostFault> {
        (**self).fault()
    }
    fn event(&mut self) -> Option<Event> {
        (**self).event()
    }
    fn register_waker(&mut self, waker: &Waker) {
        (**self).register_waker(waker);
    }
    fn pause(&mut self, until: u64) {
        (**self).pause(until);
    }
    fn now(&self) -> u64 {
        (**self).now()
    }
}

/// A network interface: its queue pairs, and what concerns all of them.
pub trait Net {
    /// What it can do now.
    fn capabilities(&self) -> &Capabilities;

    /// Its queue pairs, at least one; `None` beyond them. News of the interface comes by the
    /// first.
    fn queue(&mut self, index: usize) -> Option<&mut dyn NetQueue>;

    /// Shows `each` all of its queue pairs at once, in order: for who keeps them apart.
    fn each_queue<'a>(&'a mut self, each: &mut dyn FnMut(&'a mut dyn NetQueue));

    /// By which queue the host would have a frame sent whose flow hashes to `hash`, so that it
    /// meets its answers; see [`toeplitz`](crate::toeplitz). An index of [`queue`](Self::queue).
    fn queue_for(&self, hash: u32) -> usize;

    /// What the interface failed with, if it did. It sends and receives no more until
    /// [`reconnect`](Self::reconnect).
    fn fault(&self) -> Option<HostFault>;

    /// Buffers that are neither free nor posted for the host to receive into: held by the caller,
    /// or in flight. It collects what the host is done with.
    fn buffers_out(&mut self) -> usize;

    /// Drops what is in flight and ends the connection in order. After `Ok` the host touches no
    /// frame any more.
    ///
    /// # Errors
    /// [`HostFault`] when the host did not let go in time. What it may still write is kept from
    /// reuse; closing may be tried again.
    fn close(&mut self) -> Result<(), HostFault>;

    /// Closes if need be, and connects anew: after a fault, or when the host withdrew the
    /// interface and offers it again.
    ///
    /// # Errors
    /// [`HostFault`], which the interface stays failed with.
    fn reconnect(&mut self) -> Result<(), HostFault>;
}
