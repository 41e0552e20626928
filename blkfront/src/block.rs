//! The block trait: what every queue of disks does, whichever host it is on.

use crate::limits::Unit;
use crate::request::{Completion, Request, SubmitError, Tag};
use core::task::Waker;
use hypercall::HostFault;
use hypercall::shm::Buf;

/// The disks of one queue, and the way to them. It names no host, and works as `dyn Block`.
///
/// A queue belongs to one owner at a time (`&mut self`), may be sent to another thread, and takes
/// no lock in `submit` and `poll`.
pub trait Block {
    /// The disks: a request names one by its index here.
    fn units(&self) -> &[Unit];

    /// A buffer of `len` bytes that the device can reach. `None` while the pool is short: complete
    /// requests or drop buffers, then ask again. Its bytes are whatever was there.
    fn alloc(&self, len: usize) -> Option<Buf>;

    /// Bytes copied in and out of this queue's buffers so far.
    fn copied(&self) -> u64;

    /// How many requests fit at once.
    fn depth(&self) -> usize;

    /// How many requests the host has.
    fn in_flight(&self) -> usize;

    /// Queues a request. The host learns of it at the next [`publish`](Self::publish) or
    /// [`poll_dyn`](Self::poll_dyn), so that a batch costs one notification.
    ///
    /// # Errors
    /// [`SubmitError`], with the request: nothing was done.
    fn submit(&mut self, request: Request) -> Result<Tag, (SubmitError, Request)>;

    /// Has the host start on what was submitted.
    fn publish(&mut self);

    /// Publishes, then shows up to `budget` completions to `sink`; returns how many. Fewer than
    /// `budget` means there are no more for now, and the device will interrupt for the next.
    fn poll_dyn(&mut self, budget: usize, sink: &mut dyn FnMut(Completion)) -> usize;

    /// What the device failed with, if it did. Its requests have failed, and it takes no more
    /// until [`reconnect`](Self::reconnect).
    fn fault(&self) -> Option<HostFault>;

    /// Like polling, but keeps the completions to be collected by tag. For adaptors.
    fn reap(&mut self);

    /// Takes the completion of one request, once [`reap`](Self::reap) has found it.
    fn collect(&mut self, tag: Tag) -> Option<Completion>;

    /// Whether a request is in flight or waits to be collected.
    fn is_live(&mut self, tag: Tag) -> bool;

    /// Gives up on a request. It may still be done; its buffer returns to the pool by itself.
    fn abandon(&mut self, tag: Tag);

    /// Has `waker` woken when [`reap`](Self::reap) finds the completion, or may find it.
    fn watch(&mut self, tag: Tag, waker: &Waker);

    /// Waits for news of the device, at most until `until` of [`now`](Self::now); may return
    /// early.
    fn pause(&mut self, until: u64);

    /// The platform's clock, in nanoseconds.
    fn now(&self) -> u64;

    /// Fails what is in flight and ends the connection in order. After `Ok` the host touches no
    /// buffer any more, and all but those the caller still owns are back in the pool.
    ///
    /// # Errors
    /// [`HostFault`] when the host did not let go in time. What it may still write is kept from
    /// reuse; closing may be tried again.
    fn close(&mut self) -> Result<(), HostFault>;

    /// Closes if need be, and connects anew.
    ///
    /// # Errors
    /// [`HostFault`], which the queue stays failed with.
    fn reconnect(&mut self) -> Result<(), HostFault>;
}

/// A borrowed queue is a queue.
impl<B: Block + ?Sized> Block for &mut B {
    fn units(&self) -> &[Unit] {
        (**self).units()
    }
    fn alloc(&self, len: usize) -> Option<Buf> {
        (**self).alloc(len)
    }
    fn copied(&self) -> u64 {
        (**self).copied()
    }
    fn depth(&self) -> usize {
        (**self).depth()
    }
    fn in_flight(&self) -> usize {
        (**self).in_flight()
    }
    fn submit(&mut self, request: Request) -> Result<Tag, (SubmitError, Request)> {
        (**self).submit(request)
    }
    fn publish(&mut self) {
        (**self).publish();
    }
    fn poll_dyn(&mut self, budget: usize, sink: &mut dyn FnMut(Completion)) -> usize {
        (**self).poll_dyn(budget, sink)
    }
    fn fault(&self) -> Option<HostFault> {
        (**self).fault()
    }
    fn reap(&mut self) {
        (**self).reap();
    }
    fn collect(&mut self, tag: Tag) -> Option<Completion> {
        (**self).collect(tag)
    }
    fn is_live(&mut self, tag: Tag) -> bool {
        (**self).is_live(tag)
    }
    fn abandon(&mut self, tag: Tag) {
        (**self).abandon(tag);
    }
    fn watch(&mut self, tag: Tag, waker: &Waker) {
        (**self).watch(tag, waker);
    }
    fn pause(&mut self, until: u64) {
        (**self).pause(until);
    }
    fn now(&self) -> u64 {
        (**self).now()
    }
    fn close(&mut self) -> Result<(), HostFault> {
        (**self).close()
    }
    fn reconnect(&mut self) -> Result<(), HostFault> {
        (**self).reconnect()
    }
}
