//! The table of requests in flight: what an answer is checked against.

use crate::request::{Completion, IoError, Op, Request, Tag};
use crate::transport::{Answer, Wire};
use core::task::Waker;
use hypercall::HostFault;
use hypercall::shm::Buf;

/// The most requests of one queue.
pub(crate) const SLOTS: usize = 64;

/// What an answer changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not in use.
    Free,
    /// The host has it, and somebody wants the completion.
    InFlight,
    /// The host has it, and nobody wants the completion.
    Abandoned,
    /// Answered, and not yet collected.
    Done(Result<(), IoError>),
    /// The device failed; the buffer stays until it is closed.
    Held,
}

struct Slot {
    /// Generation and index, as the host sees it: never 0, never used twice.
    id: u64,
    state: State,
    op: Op,
    bytes: u32,
    buf: Option<Buf>,
    waker: Option<Waker>,
}

/// Slots as bits, lowest first: free, done.
pub(crate) struct Slots {
    table: [Slot; SLOTS],
    usable: u64,
    free: u64,
    done: u64,
}

/// Index of an id; the generation is above it.
const INDEX_BITS: u32 = 6;

impl Slots {
    /// A table of `depth` slots, at most [`SLOTS`], at least one.
    pub(crate) fn new(depth: usize) -> Self {
        let depth = depth.clamp(1, SLOTS) as u32;
        let usable = u64::MAX >> 64u32.saturating_sub(depth);
        let mut index = 0u64;
        let table = [(); SLOTS].map(|()| {
            let id = 1 << INDEX_BITS | index;
            index = index.wrapping_add(1);
            Slot {
                id,
                state: State::Free,
                op: Op::Flush,
                bytes: 0,
                buf: None,
                waker: None,
            }
        });
        Self {
            table,
            usable,
            free: usable,
            done: 0,
        }
    }

    /// How many requests the table holds.
    pub(crate) fn depth(&self) -> usize {
        self.usable.count_ones() as usize
    }

    /// How many are neither free nor done.
    pub(crate) fn in_flight(&self) -> usize {
        (self.usable & !self.free & !self.done).count_ones() as usize
    }

    /// The request as it would go onto the wire, under the id of the next free slot.
    #[inline]
    pub(crate) fn next<'r>(&self, request: &'r Request) -> Option<Wire<'r>> {
        let slot = self.table.get(self.free.trailing_zeros() as usize)?;
        Some(Wire {
            id: slot.id,
            op: request.op,
            unit: request.unit,
            sector: request.sector,
            count: request.count,
            buf: request.buf.as_ref(),
        })
    }

    /// Puts the request into the slot that [`next`](Self::next) named.
    #[inline]
    pub(crate) fn fill(&mut self, request: Request) -> Tag {
        let index = self.free.trailing_zeros();
        self.free &= self.free.wrapping_sub(1);
        let Some(slot) = self.table.get_mut(index as usize) else {
            return Tag(0);
        };
        slot.state = State::InFlight;
        slot.op = request.op;
        slot.bytes = request.buf.as_ref().map_or(0, |b| b.len() as u32);
        slot.buf = request.buf;
        Tag(slot.id)
    }

    fn find(&mut self, tag: Tag) -> Option<&mut Slot> {
        let index = (tag.0 & (SLOTS as u64).wrapping_sub(1)) as usize;
        self.table.get_mut(index).filter(|s| s.id == tag.0)
    }

    /// Checks an answer against what is in flight. With `Ok(Some)` the request is done and its
    /// slot free again; `Ok(None)` was abandoned by its owner.
    #[inline]
    pub(crate) fn answer(&mut self, answer: Answer) -> Result<Option<Completion>, HostFault> {
        let index = answer.id & (SLOTS as u64).wrapping_sub(1);
        let slot = self
            .table
            .get_mut(index as usize)
            .ok_or(HostFault::UnknownId)?;
        if slot.id != answer.id || !matches!(slot.state, State::InFlight | State::Abandoned) {
            return Err(HostFault::UnknownId);
        }
        if answer.op.is_some_and(|op| op != slot.op) {
            return Err(HostFault::WrongOperation);
        }
        let result = match (answer.result, answer.moved) {
            (Ok(()), Some(moved)) if moved > slot.bytes => return Err(HostFault::Length),
            (Ok(()), Some(moved)) if moved < slot.bytes => Err(IoError::Short { moved }),
            (result, _) => result,
        };
        let wanted = slot.state == State::InFlight;
        let completion = Completion {
            tag: Tag(slot.id),
            op: slot.op,
            buf: slot.buf.take(),
            result,
        };
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
        slot.recycle();
        self.free |= 1 << index;
        Ok(wanted.then_some(completion))
    }

    /// Like [`answer`](Self::answer), but leaves the completion in its slot to be collected by
    /// tag.
    pub(crate) fn keep(&mut self, answer: Answer) -> Result<(), HostFault> {
        let index = (answer.id & (SLOTS as u64).wrapping_sub(1)) as usize;
        let Some(done) = self.answer(answer)? else {
            return Ok(());
        };
        // The slot was just recycled; take it back under its old id.
        if let Some(slot) = self.table.get_mut(index) {
            slot.id = done.tag.0;
            slot.op = done.op;
            slot.buf = done.buf;
            slot.state = State::Done(done.result);
            self.free &= !(1 << index);
            self.done |= 1 << index;
        }
        Ok(())
    }

    /// Collects any completion that was kept.
    #[inline]
    pub(crate) fn collect_any(&mut self) -> Option<Completion> {
        if self.done == 0 {
            return None;
        }
        let slot = self.table.get(self.done.trailing_zeros() as usize)?;
        let tag = Tag(slot.id);
        self.collect(tag)
    }

    /// Collects a completion that was kept.
    pub(crate) fn collect(&mut self, tag: Tag) -> Option<Completion> {
        let slot = self.find(tag)?;
        let State::Done(result) = slot.state else {
            return None;
        };
        let completion = Completion {
            tag,
            op: slot.op,
            buf: slot.buf.take(),
            result,
        };
        // A buffer that must stay was moved aside by `fail`, so the slot is free in any case.
        slot.recycle();
        let bit = 1 << (tag.0 & (SLOTS as u64).wrapping_sub(1));
        self.done &= !bit;
        self.free |= bit;
        Some(completion)
    }

    /// Whether the tag is still to be collected.
    pub(crate) fn is_live(&mut self, tag: Tag) -> bool {
        self.find(tag)
            .is_some_and(|s| matches!(s.state, State::InFlight | State::Done(_)))
    }

    /// Gives up on a request: nobody will collect it, its buffer returns when it is done.
    /// Returns a waker of another request in flight, which must now watch the ring.
    pub(crate) fn abandon(&mut self, tag: Tag) -> Option<Waker> {
        if let Some(slot) = self.find(tag) {
            slot.waker = None;
            if slot.state == State::InFlight {
                slot.state = State::Abandoned;
            } else {
                drop(self.collect(tag));
            }
        }
        self.table.iter().find_map(|s| s.waker.clone())
    }

    /// Has `waker` woken when the request is done.
    pub(crate) fn watch(&mut self, tag: Tag, waker: &Waker) {
        if let Some(slot) = self.find(tag) {
            match &mut slot.waker {
                Some(old) => old.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
    }

    /// Fails everything in flight. The buffers stay in their slots: the host may still write
    /// them. Each failure is shown to `each`.
    pub(crate) fn fail(&mut self, fault: HostFault, mut each: impl FnMut(Completion)) {
        for slot in &mut self.table {
            let wanted = slot.state == State::InFlight;
            if wanted || slot.state == State::Abandoned {
                let tag = Tag(slot.id);
                slot.recycle();
                slot.state = State::Held;
                if wanted {
                    each(Completion {
                        tag,
                        op: slot.op,
                        buf: None,
                        result: Err(IoError::Host(fault)),
                    });
                }
                if let Some(waker) = slot.waker.take() {
                    waker.wake();
                }
            }
        }
    }

    /// The host has let go: buffers that were held go back to their pool.
    pub(crate) fn release_held(&mut self) {
        for (index, slot) in self.table.iter_mut().enumerate() {
            if slot.state == State::Held {
                slot.buf = None;
                slot.state = State::Free;
                self.free |= 1 << index;
            }
        }
    }
}

impl Slot {
    /// Makes the slot free under a new id.
    #[inline]
    fn recycle(&mut self) {
        self.state = State::Free;
        let next = self.id.wrapping_add(1 << INDEX_BITS);
        // Generation 0 would let slot 0 have id 0, which Hyper-V never answers.
        self.id = if next >> INDEX_BITS == 0 {
            next | 1 << INDEX_BITS
        } else {
            next
        };
    }
}
