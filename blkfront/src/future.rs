//! Async use, on any executor.

use crate::block::Block;
use crate::limits::Unit;
use crate::request::{Completion, IoError, Request, SubmitError, Tag};
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use hypercall::HostFault;
use hypercall::shm::Buf;
use spin::Mutex;

/// A queue that many tasks use at once. The lock is held for the length of a `submit` or a reap,
/// never across an `await`.
///
/// The kernel's interrupt handler wakes the task that last looked at the queue, and that task
/// wakes every other whose request it finds done.
pub struct AsyncQueue<B: Block> {
    queue: Mutex<B>,
}

impl<B: Block + fmt::Debug> fmt::Debug for AsyncQueue<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncQueue").field(&self.queue).finish()
    }
}

impl<B: Block> AsyncQueue<B> {
    /// Wraps a queue.
    pub fn new(queue: B) -> Self {
        Self {
            queue: Mutex::new(queue),
        }
    }

    /// The queue again.
    pub fn into_inner(self) -> B {
        self.queue.into_inner()
    }

    /// Runs `f` on the queue, for what needs no waiting.
    pub fn with<R>(&self, f: impl FnOnce(&mut B) -> R) -> R {
        f(&mut self.queue.lock())
    }

    /// What is known of disk `unit`.
    pub fn unit(&self, unit: u8) -> Option<Unit> {
        self.queue.lock().units().get(usize::from(unit)).cloned()
    }

    /// See [`Block::alloc`].
    pub fn alloc(&self, len: usize) -> Option<Buf> {
        self.queue.lock().alloc(len)
    }

    /// Submits a request, to be awaited. Dropping or forgetting the future abandons the request:
    /// it may still be done, and its buffer returns by itself when it is.
    ///
    /// # Errors
    /// [`SubmitError`], with the request.
    pub fn submit(&self, request: Request) -> Result<Pending<'_, B>, (SubmitError, Request)> {
        let mut queue = self.queue.lock();
        let tag = queue.submit(request)?;
        queue.publish();
        Ok(Pending { queue: self, tag })
    }
}

/// A request in flight, from [`AsyncQueue::submit`]. Its output is the completion, or the fault
/// that the device failed with.
pub struct Pending<'q, B: Block> {
    queue: &'q AsyncQueue<B>,
    tag: Tag,
}

impl<B: Block> fmt::Debug for Pending<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pending").field(&self.tag).finish()
    }
}

impl<B: Block> Future for Pending<'_, B> {
    type Output = Result<Completion, IoError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut queue = self.queue.queue.lock();
        // The waker goes in before the look, so an answer in between is not slept over.
        queue.watch(self.tag, cx.waker());
        queue.reap();
        if let Some(completion) = queue.collect(self.tag) {
            return Poll::Ready(Ok(completion));
        }
        if queue.is_live(self.tag) {
            return Poll::Pending;
        }
        let fault = queue.fault().unwrap_or(HostFault::Withdrawn);
        Poll::Ready(Err(IoError::Host(fault)))
    }
}

impl<B: Block> Drop for Pending<'_, B> {
    fn drop(&mut self) {
        self.queue.queue.lock().abandon(self.tag);
    }
}
