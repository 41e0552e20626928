//! The queue: one ring of one device, whichever host it is on.

use crate::block::Block;
use crate::limits::{Limits, Unit};
use crate::request::{Completion, Op, Request, SubmitError, Tag};
use crate::slots::Slots;
use crate::transport::{Data, PageWire, PushError, Transport, Wire};
use core::fmt;
use core::task::Waker;
use hypercall::bus::{Rest, Verdict};
use hypercall::shm::{Buf, PAGE_SIZE};
use hypercall::{HostFault, Platform};

/// How often a look at the ring may come up empty again after the host claimed there is more, before
/// the host is left alone until the next poll.
const PATIENCE: u32 = 3;

/// A queue over a back end.
pub struct Queue<T: Transport> {
    transport: T,
    slots: Slots,
    fault: Option<HostFault>,
    connected: bool,
    /// Something was submitted that the host was not told of.
    fresh: bool,
}

impl<T: Transport + fmt::Debug> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("transport", &self.transport)
            .field("in_flight", &self.slots.in_flight())
            .field("fault", &self.fault)
            .finish()
    }
}

impl<T: Transport> Queue<T> {
    /// A queue over a connected back end.
    pub fn new(transport: T) -> Self {
        let slots = Slots::new(transport.depth());
        Self {
            transport,
            slots,
            fault: None,
            connected: true,
            fresh: false,
        }
    }

    /// The back end.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// The back end, to ask what is particular to it.
    pub fn transport_mut(&mut self) -> &mut T {
        &mut self.transport
    }

    /// What the queue's only or first disk can do.
    pub fn limits(&self) -> Option<&Limits> {
        self.transport.units().first().map(|u| &u.limits)
    }

    /// See [`Block::poll_dyn`].
    #[inline]
    pub fn poll(&mut self, budget: usize, mut sink: impl FnMut(Completion)) -> usize {
        let mut shown = 0usize;
        let mut patience = PATIENCE;
        self.publish_fresh();
        if self.slots.has_done() {
            shown = self.show_kept(budget, &mut sink);
        }
        while shown < budget {
            let slots = &mut self.slots;
            let rest = self.transport.pop_plain(|id, says| {
                let Some(completion) = slots.finish(id, says) else {
                    return Verdict::Leave;
                };
                sink(completion);
                shown = shown.wrapping_add(1);
                if shown < budget {
                    Verdict::Next
                } else {
                    Verdict::Stop
                }
            });
            let found = match rest {
                Rest::Enough => break,
                Rest::Empty => Ok(None),
                Rest::Odd => self.show_odd(&mut sink),
            };
            let more = match found {
                Ok(Some(more)) => {
                    shown = shown.wrapping_add(more);
                    continue;
                }
                Ok(None) => self.look_again(&mut patience),
                Err(fault) => Err(fault),
            };
            match more {
                Ok(true) => {}
                Ok(false) => break,
                Err(fault) => return shown.wrapping_add(self.fail(fault, &mut sink)),
            }
        }
        shown
    }

    /// Has the host start on what was submitted since this was last done.
    #[inline(always)]
    fn publish_fresh(&mut self) {
        if self.fresh {
            self.fresh = false;
            self.transport.publish();
        }
    }

    /// Shows completions that [`Block::reap`] kept.
    #[cold]
    fn show_kept(&mut self, budget: usize, sink: &mut dyn FnMut(Completion)) -> usize {
        let mut shown = 0usize;
        while shown < budget
            && let Some(completion) = self.slots.collect_any()
        {
            sink(completion);
            shown = shown.wrapping_add(1);
        }
        shown
    }

    /// Takes an answer of whatever form, if there is one, and shows the completion that it makes.
    /// How many that is.
    #[cold]
    fn show_odd(&mut self, sink: &mut dyn FnMut(Completion)) -> Result<Option<usize>, HostFault> {
        let Some(answer) = self.transport.pop()? else {
            return Ok(None);
        };
        Ok(Some(match self.slots.answer(answer)? {
            Some(completion) => {
                sink(completion);
                1
            }
            None => 0,
        }))
    }

    /// The ring came up empty: whether there is more after all.
    #[inline(always)]
    fn look_again(&mut self, patience: &mut u32) -> Result<bool, HostFault> {
        Ok(self.transport.arm()? && spend(patience))
    }

    #[cold]
    fn fail(&mut self, fault: HostFault, sink: &mut dyn FnMut(Completion)) -> usize {
        self.latch(fault);
        let mut shown = 0usize;
        self.slots.fail(fault, |completion| {
            sink(completion);
            shown = shown.wrapping_add(1);
        });
        shown
    }

    #[cold]
    fn latch(&mut self, fault: HostFault) {
        if self.fault.is_none() {
            log::warn!("block device failed: {fault}");
            self.fault = Some(fault);
            self.fresh = false;
        }
    }

    /// Whether the disk could take the request.
    fn accept<'r>(&self, request: &'r Request) -> Result<Option<Data<'r>>, SubmitError> {
        let limits = match self.transport.units().get(usize::from(request.unit)) {
            Some(unit) => &unit.limits,
            None => return Err(SubmitError::NoSuchUnit),
        };
        let mut data = None;
        if let Some(buf) = &request.buf {
            if request.op == Op::Write && limits.read_only {
                return Err(SubmitError::ReadOnly);
            }
            data = Some(accept_buf(limits, buf)?);
        } else if let Some(answer) = accept_bare(limits, request) {
            return answer.map(|()| None);
        }
        let unaligned = u64::from(limits.sector_size >> 9).wrapping_sub(1);
        if (request.sector | request.sectors()) & unaligned != 0 {
            return Err(SubmitError::Misaligned);
        }
        match request.sector.checked_add(request.sectors()) {
            Some(end) if end <= limits.sectors => Ok(data),
            _ => Err(SubmitError::BeyondEnd),
        }
    }

    /// Submits any request.
    #[inline(never)]
    fn submit_any(&mut self, request: Request) -> Result<Tag, (SubmitError, Request)> {
        // A queue that failed has no slots, so the fault needs no look of its own.
        let Some(room) = self.slots.room() else {
            let why = self
                .fault
                .map_or(SubmitError::QueueFull, SubmitError::Failed);
            return Err((why, request));
        };
        let wire = match self.accept(&request) {
            Ok(data) => Wire {
                id: room.id,
                op: request.op,
                unit: request.unit,
                sector: request.sector,
                count: request.sectors(),
                data,
            },
            Err(why) => return Err((why, request)),
        };
        match self.transport.push(wire) {
            Ok(expected) => {
                self.fresh = true;
                Ok(self.slots.fill(room, expected, request))
            }
            Err(why) => Err((self.refused(why), request)),
        }
    }

    #[cold]
    fn refused(&mut self, why: PushError) -> SubmitError {
        match why {
            PushError::Full => SubmitError::QueueFull,
            PushError::Fault(fault) => {
                self.latch(fault);
                SubmitError::Failed(fault)
            }
        }
    }
}

/// Whether there was patience left, of which some is spent now.
#[cold]
#[inline(never)]
fn spend(patience: &mut u32) -> bool {
    let before = *patience;
    *patience = before.saturating_sub(1);
    before != 0
}

/// What is left to decide of a request without a buffer; `None`: its range.
#[cold]
fn accept_bare(limits: &Limits, request: &Request) -> Option<Result<(), SubmitError>> {
    match request.op {
        Op::Flush if limits.flush => Some(Ok(())),
        Op::Discard if limits.discard && limits.read_only => Some(Err(SubmitError::ReadOnly)),
        Op::Discard if limits.discard && request.sectors() == 0 => Some(Err(SubmitError::Empty)),
        Op::Discard if limits.discard => None,
        _ => Some(Err(SubmitError::Unsupported)),
    }
}

fn accept_buf<'r>(limits: &Limits, buf: &'r Buf) -> Result<Data<'r>, SubmitError> {
    let Some(data) = Data::of(buf) else {
        return Err(SubmitError::Empty);
    };
    if data.bytes > limits.max_bytes {
        return Err(SubmitError::TooLarge);
    }
    if buf.pages() != 1 {
        accept_pieces(limits, data)?;
    } else if (u32::from(data.first.offset) | data.bytes) & 511 != 0 {
        return Err(SubmitError::Misaligned);
    }
    Ok(data)
}

fn accept_pieces(limits: &Limits, data: Data<'_>) -> Result<(), SubmitError> {
    let mut count = 0u16;
    // Every piece but the first starts a page, every piece but the last ends one.
    let mut ended = true;
    for piece in core::iter::once(data.first).chain(data.rest) {
        let partial = limits.sector_size.wrapping_sub(1);
        if piece.offset & 511 != 0 || u32::from(piece.len) & partial != 0 {
            return Err(SubmitError::Misaligned);
        }
        if limits.gapless && count != 0 && (piece.offset != 0 || !ended) {
            return Err(SubmitError::Gap);
        }
        ended = usize::from(piece.offset.wrapping_add(piece.len)) == PAGE_SIZE;
        count = count.saturating_add(1);
    }
    if count > limits.max_segments {
        return Err(SubmitError::TooManySegments);
    }
    Ok(())
}

impl<T: Transport> Block for Queue<T> {
    fn units(&self) -> &[Unit] {
        self.transport.units()
    }

    fn alloc(&self, len: usize) -> Option<Buf> {
        self.transport.pool()?.alloc(len)
    }

    fn copied(&self) -> u64 {
        self.transport.pool().map_or(0, |p| p.copied())
    }

    fn depth(&self) -> usize {
        self.slots.depth()
    }

    fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    #[inline]
    fn submit(&mut self, request: Request) -> Result<Tag, (SubmitError, Request)> {
        // Whatever the short way does not take gets its answer, if it is one, on the long way.
        let (Some(room), Some(token)) = (self.slots.room(), request.whole_page()) else {
            return self.submit_any(request);
        };
        let page = PageWire {
            id: room.id,
            write: request.op == Op::Write,
            unit: request.unit,
            sector: request.sector,
            token,
        };
        match self.transport.push_page(page) {
            Some(expected) => {
                self.fresh = true;
                Ok(self.slots.fill(room, expected, request))
            }
            None => self.submit_any(request),
        }
    }

    #[inline]
    fn publish(&mut self) {
        self.publish_fresh();
    }

    fn poll_dyn(&mut self, budget: usize, sink: &mut dyn FnMut(Completion)) -> usize {
        self.poll(budget, sink)
    }

    fn fault(&self) -> Option<HostFault> {
        self.fault
    }

    fn reap(&mut self) {
        self.publish_fresh();
        let mut patience = PATIENCE;
        while self.fault.is_none() {
            let more = match self.transport.pop() {
                // The table bounds these: an answer to nothing in flight is a fault.
                Ok(Some(answer)) => self.slots.keep(answer).map(|()| true),
                Ok(None) => {
                    self.transport.take_pending();
                    self.look_again(&mut patience)
                }
                Err(fault) => Err(fault),
            };
            match more {
                Ok(true) => {}
                Ok(false) => return,
                Err(fault) => self.latch(fault),
            }
        }
        let fault = self.fault.unwrap_or(HostFault::Withdrawn);
        self.slots.fail(fault, drop);
    }

    fn collect(&mut self, tag: Tag) -> Option<Completion> {
        self.slots.collect(tag)
    }

    fn is_live(&mut self, tag: Tag) -> bool {
        self.slots.is_live(tag)
    }

    fn abandon(&mut self, tag: Tag) {
        // The abandoned request's task may have been the one to be woken by the device.
        if let Some(next) = self.slots.abandon(tag) {
            self.transport.register_waker(&next);
        }
    }

    fn watch(&mut self, tag: Tag, waker: &Waker) {
        self.slots.watch(tag, waker);
        self.transport.register_waker(waker);
    }

    fn pause(&mut self, until: u64) {
        let platform = self.transport.platform().clone();
        let token = platform.wait_token();
        // What came between the caller's last look and the token must not be slept over.
        if self.fault.is_none() && self.transport.arm() == Ok(false) {
            platform.wait(token, until);
        }
    }

    fn now(&self) -> u64 {
        self.transport.platform().now()
    }

    fn close(&mut self) -> Result<(), HostFault> {
        let fault = self.fault.unwrap_or(HostFault::Withdrawn);
        self.fault = Some(fault);
        self.fresh = false;
        self.slots.fail(fault, drop);
        if self.connected {
            self.transport.disconnect()?;
            self.connected = false;
        }
        self.slots.release_held();
        Ok(())
    }

    fn reconnect(&mut self) -> Result<(), HostFault> {
        self.close()?;
        if let Err(fault) = self.transport.reconnect() {
            self.fault = Some(fault);
            return Err(fault);
        }
        self.connected = true;
        self.fault = None;
        self.slots.open();
        Ok(())
    }
}
