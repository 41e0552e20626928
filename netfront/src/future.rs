//! Async use of a queue, on any executor.
//!
//! The kernel's interrupt handler wakes the task. A future borrows the queue and nothing else, so
//! one that is dropped loses nothing: a frame that it did not give is still to be received, and a
//! frame that it did not send is still the caller's.

use crate::capabilities::Event;
use crate::frame::{RxFrame, TxFrame};
use crate::net::{NetQueue, ReserveError, SendError};
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use hypercall::HostFault;

/// Waits for a frame. Its output is the frame, or what the queue failed with.
pub fn recv<Q: NetQueue + ?Sized>(queue: &mut Q) -> Recv<'_, Q> {
    Recv { queue }
}

/// Waits for room for a frame of `len` bytes. Its output is the frame, or why there will be none:
/// never [`ReserveError::Full`].
pub fn reserve<Q: NetQueue + ?Sized>(queue: &mut Q, len: usize) -> Reserve<'_, Q> {
    Reserve { queue, len }
}

/// Sends a frame and publishes it, waiting for room on the ring; a `frame` of `None` is sent
/// already. When it is refused it is left in `frame`, and the output says why: never
/// [`SendError::Full`].
pub fn send<'q, Q: NetQueue + ?Sized>(
    queue: &'q mut Q,
    frame: &'q mut Option<TxFrame>,
) -> Sending<'q, Q> {
    Sending { queue, frame }
}

/// Waits for something to happen to the interface of this queue, its first. Its output is what
/// happened, or what the queue failed with.
pub fn event<Q: NetQueue + ?Sized>(queue: &mut Q) -> Events<'_, Q> {
    Events { queue }
}

/// See [`recv`].
pub struct Recv<'q, Q: ?Sized> {
    queue: &'q mut Q,
}

/// See [`reserve`].
pub struct Reserve<'q, Q: ?Sized> {
    queue: &'q mut Q,
    len: usize,
}

/// See [`send`].
pub struct Sending<'q, Q: ?Sized> {
    queue: &'q mut Q,
    frame: &'q mut Option<TxFrame>,
}

/// See [`event`].
pub struct Events<'q, Q: ?Sized> {
    queue: &'q mut Q,
}

/// They are known by their names: a queue need not be printable.
macro_rules! named {
    ($($future:ident)*) => {$(
        impl<Q: ?Sized> fmt::Debug for $future<'_, Q> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($future))
            }
        }
    )*};
}

named!(Recv Reserve Sending Events);

// In each of these the waker goes in before the look, so that nothing in between is slept over.

impl<Q: NetQueue + ?Sized> Future for Recv<'_, Q> {
    type Output = Result<RxFrame, HostFault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.queue.register_waker(cx.waker());
        match self.queue.rx().transpose() {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }
}

impl<Q: NetQueue + ?Sized> Future for Reserve<'_, Q> {
    type Output = Result<TxFrame, ReserveError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let len = self.len;
        self.queue.register_waker(cx.waker());
        match self.queue.tx_reserve(len) {
            Err(ReserveError::Full) => Poll::Pending,
            outcome => Poll::Ready(outcome),
        }
    }
}

impl<Q: NetQueue + ?Sized> Future for Sending<'_, Q> {
    type Output = Result<(), SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { queue, frame } = &mut *self;
        let Some(unsent) = frame.take() else {
            return Poll::Ready(Ok(()));
        };
        queue.register_waker(cx.waker());
        let Err((why, back)) = queue.send(unsent) else {
            queue.publish();
            return Poll::Ready(Ok(()));
        };
        **frame = Some(back);
        match why {
            SendError::Full => Poll::Pending,
            why => Poll::Ready(Err(why)),
        }
    }
}

impl<Q: NetQueue + ?Sized> Future for Events<'_, Q> {
    type Output = Result<Event, HostFault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.queue.register_waker(cx.waker());
        if let Some(event) = self.queue.event() {
            return Poll::Ready(Ok(event));
        }
        match self.queue.fault() {
            Some(fault) => Poll::Ready(Err(fault)),
            None => Poll::Pending,
        }
    }
}
