//! The block queue of whichever host it is.

#[cfg(feature = "xen")]
use blkfront::blkif::Blkif;
use blkfront::limits::Unit;
#[cfg(feature = "hyperv")]
use blkfront::storvsc::Storvsc;
use blkfront::{Block, Buf, Completion, Queue, Request, SubmitError, Tag};
use core::task::Waker;
use hypercall::{Gate, HostFault, Platform};

/// A block queue on either host. It implements [`Block`] by passing every call on; code that is
/// generic over `Block` can also be given one of its parts, and then no call is decided at run
/// time.
#[derive(Debug)]
#[non_exhaustive]
pub enum BlockQueue<'b, 'h, P: Platform, G: Gate> {
    /// A Xen virtual block device.
    #[cfg(feature = "xen")]
    Xen(Queue<Blkif<'b, 'h, P, G>>),
    /// A Hyper-V SCSI controller.
    #[cfg(feature = "hyperv")]
    HyperV(Queue<Storvsc<'b, 'h, P, G>>),
}

/// Calls a method of whichever queue it is.
macro_rules! either {
    ($self:ident, $queue:ident => $call:expr) => {
        match $self {
            #[cfg(feature = "xen")]
            BlockQueue::Xen($queue) => $call,
            #[cfg(feature = "hyperv")]
            BlockQueue::HyperV($queue) => $call,
        }
    };
}

impl<P: Platform, G: Gate> Block for BlockQueue<'_, '_, P, G> {
    fn units(&self) -> &[Unit] {
        either!(self, q => q.units())
    }
    fn alloc(&self, len: usize) -> Option<Buf> {
        either!(self, q => q.alloc(len))
    }
    fn copied(&self) -> u64 {
        either!(self, q => q.copied())
    }
    fn depth(&self) -> usize {
        either!(self, q => q.depth())
    }
    fn in_flight(&self) -> usize {
        either!(self, q => q.in_flight())
    }
    fn submit(&mut self, request: Request) -> Result<Tag, (SubmitError, Request)> {
        either!(self, q => q.submit(request))
    }
    fn publish(&mut self) {
        either!(self, q => q.publish());
    }
    fn poll_dyn(&mut self, budget: usize, sink: &mut dyn FnMut(Completion)) -> usize {
        either!(self, q => q.poll_dyn(budget, sink))
    }
    fn fault(&self) -> Option<HostFault> {
        either!(self, q => q.fault())
    }
    fn reap(&mut self) {
        either!(self, q => q.reap());
    }
    fn collect(&mut self, tag: Tag) -> Option<Completion> {
        either!(self, q => q.collect(tag))
    }
    fn is_live(&mut self, tag: Tag) -> bool {
        either!(self, q => q.is_live(tag))
    }
    fn abandon(&mut self, tag: Tag) {
        either!(self, q => q.abandon(tag));
    }
    fn watch(&mut self, tag: Tag, waker: &Waker) {
        either!(self, q => q.watch(tag, waker));
    }
    fn pause(&mut self, until: u64) {
        either!(self, q => q.pause(until));
    }
    fn now(&self) -> u64 {
        either!(self, q => q.now())
    }
    fn close(&mut self) -> Result<(), HostFault> {
        either!(self, q => q.close())
    }
    fn reconnect(&mut self) -> Result<(), HostFault> {
        either!(self, q => q.reconnect())
    }
}
