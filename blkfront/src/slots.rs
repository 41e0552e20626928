//! The table of requests in flight: what an answer is checked against.

use crate::request::{Completion, IoError, Op, Request, Tag};
use crate::transport::Answer;
use core::task::Waker;
use hypercall::HostFault;
use hypercall::shm::Buf;

/// The most requests of one queue: a bit each in a word.
pub(crate) const SLOTS: usize = 64;

/// Bits of an id that are the slot's index; the generation is above them.
const INDEX_BITS: u32 = 6;

struct Slot {
    /// What the host will be, or was, told: generation and index. Never 0, and never used twice:
    /// 2^58 generations do not wrap around.
    id: u64,
    buf: Option<Buf>,
    bytes: u32,
    op: Op,
    /// What the answer must carry.
    kind: u8,
    /// What a request that is done came to.
    result: Result<(), IoError>,
    waker: Option<Waker>,
}

/// The slots, and what each is in, as sets of bits. A slot is in at most one of `flying`, `done`
/// and `held`.
pub(crate) struct Slots {
    table: [Slot; SLOTS],
    /// Slots that may be used at all.
    usable: u64,
    /// Slots that are not free; all of them while the queue is shut.
    taken: u64,
    /// The host has the request.
    flying: u64,
    /// Answered, and not yet collected.
    done: u64,
    /// The device failed; the buffer stays until it is closed.
    held: u64,
    /// Of those flying: nobody wants the completion.
    abandoned: u64,
    /// Of those flying: somebody is to be woken.
    watched: u64,
}

#[inline(always)]
fn index_of(id: u64) -> u32 {
    (id & const { (1u64 << INDEX_BITS).wrapping_sub(1) }) as u32
}

/// The bits of a set, lowest first.
fn each(mut set: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let index = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (index < u64::BITS).then_some(index)
    })
}

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
                buf: None,
                bytes: 0,
                op: Op::Flush,
                kind: 0,
                result: Ok(()),
                waker: None,
            }
        });
        Self {
            table,
            usable,
            taken: !usable,
            flying: 0,
            done: 0,
            held: 0,
            abandoned: 0,
            watched: 0,
        }
    }

    /// How many requests the table holds.
    pub(crate) fn depth(&self) -> usize {
        self.usable.count_ones() as usize
    }

    /// How many requests the host has.
    pub(crate) fn in_flight(&self) -> usize {
        self.flying.count_ones() as usize
    }

    /// The id of the next request; `None` when the table is full or shut.
    #[inline(always)]
    pub(crate) fn next_id(&self) -> Option<u64> {
        let index = (!self.taken).trailing_zeros();
        self.table.get(index as usize).map(|slot| slot.id)
    }

    /// Puts the request into the slot that [`next_id`](Self::next_id) named.
    #[inline(always)]
    pub(crate) fn fill(&mut self, id: u64, kind: u8, request: Request) -> Tag {
        let index = index_of(id);
        let bit = 1u64 << index;
        self.taken |= bit;
        self.flying |= bit;
        if let Some(slot) = self.table.get_mut(index as usize) {
            slot.op = request.op;
            slot.kind = kind;
            slot.bytes = request.buf.as_ref().map_or(0, |b| b.len() as u32);
            // The slot was free, so there is no old buffer to drop.
            core::mem::forget(core::mem::replace(&mut slot.buf, request.buf));
        }
        Tag(id)
    }

    fn find(&mut self, tag: Tag) -> Option<&mut Slot> {
        let index = index_of(tag.0) as usize;
        self.table.get_mut(index).filter(|slot| slot.id == tag.0)
    }

    /// Checks an answer against what is in flight. With `Ok(Some)` the request is done and its
    /// slot free again; `Ok(None)` was abandoned by its owner.
    #[inline(always)]
    pub(crate) fn answer(&mut self, answer: Answer) -> Result<Option<Completion>, HostFault> {
        let index = index_of(answer.id);
        let bit = 1u64 << index;
        let Some(slot) = self.table.get_mut(index as usize) else {
            return Err(HostFault::UnknownId);
        };
        if slot.id != answer.id || self.flying & bit == 0 {
            return Err(HostFault::UnknownId);
        }
        if answer.kind != slot.kind {
            return Err(HostFault::WrongOperation);
        }
        let mut result = answer.result;
        if let Some(moved) = answer.moved
            && moved != slot.bytes
            && result.is_ok()
        {
            if moved > slot.bytes {
                return Err(HostFault::Length);
            }
            result = Err(IoError::Short { moved });
        }
        let completion = Completion {
            tag: Tag(answer.id),
            op: slot.op,
            buf: slot.buf.take(),
            result,
        };
        slot.id = answer.id.wrapping_add(1 << INDEX_BITS);
        self.flying ^= bit;
        self.taken ^= bit;
        if (self.abandoned | self.watched) & bit != 0 && self.notice(index) {
            return Ok(None);
        }
        Ok(Some(completion))
    }

    /// Wakes who watched a slot that is no longer flying; whether its request was abandoned.
    #[cold]
    fn notice(&mut self, index: u32) -> bool {
        let bit = 1u64 << (index & 63);
        if let Some(slot) = self.table.get_mut(index as usize)
            && let Some(waker) = slot.waker.take()
        {
            waker.wake();
        }
        self.watched &= !bit;
        let abandoned = self.abandoned & bit != 0;
        self.abandoned &= !bit;
        abandoned
    }

    /// Like [`answer`](Self::answer), but leaves the completion in its slot to be collected by
    /// tag.
    pub(crate) fn keep(&mut self, answer: Answer) -> Result<(), HostFault> {
        let Some(done) = self.answer(answer)? else {
            return Ok(());
        };
        // The slot was just freed; take it back under its old id.
        let index = index_of(done.tag.0);
        if let Some(slot) = self.table.get_mut(index as usize) {
            slot.id = done.tag.0;
            slot.op = done.op;
            slot.buf = done.buf;
            slot.result = done.result;
            self.taken |= 1 << index;
            self.done |= 1 << index;
        }
        Ok(())
    }

    /// Collects any completion that was kept.
    #[inline(always)]
    pub(crate) fn collect_any(&mut self) -> Option<Completion> {
        if self.done == 0 {
            return None;
        }
        self.collect_first()
    }

    #[cold]
    fn collect_first(&mut self) -> Option<Completion> {
        let slot = self.table.get(self.done.trailing_zeros() as usize)?;
        let tag = Tag(slot.id);
        self.collect(tag)
    }

    /// Collects a completion that was kept.
    pub(crate) fn collect(&mut self, tag: Tag) -> Option<Completion> {
        let bit = 1u64 << index_of(tag.0);
        if self.done & bit == 0 {
            return None;
        }
        let slot = self.find(tag)?;
        let completion = Completion {
            tag,
            op: slot.op,
            buf: slot.buf.take(),
            result: slot.result,
        };
        slot.id = tag.0.wrapping_add(1 << INDEX_BITS);
        self.done &= !bit;
        self.taken &= !bit;
        Some(completion)
    }

    /// Whether the tag is still to be collected.
    pub(crate) fn is_live(&mut self, tag: Tag) -> bool {
        let live = (self.flying & !self.abandoned) | self.done;
        live & 1 << index_of(tag.0) != 0 && self.find(tag).is_some()
    }

    /// Gives up on a request: nobody will collect it, its buffer returns when it is done.
    /// Returns a waker of another request in flight, which must now watch the ring.
    pub(crate) fn abandon(&mut self, tag: Tag) -> Option<Waker> {
        let bit = 1u64 << index_of(tag.0);
        let flying = self.flying & bit != 0;
        if let Some(slot) = self.find(tag) {
            slot.waker = None;
            self.watched &= !bit;
            if flying {
                self.abandoned |= bit;
            } else {
                drop(self.collect(tag));
            }
        }
        self.table.iter().find_map(|slot| slot.waker.clone())
    }

    /// Has `waker` woken when the request is done.
    pub(crate) fn watch(&mut self, tag: Tag, waker: &Waker) {
        let bit = 1u64 << index_of(tag.0);
        if self.flying & !self.abandoned & bit != 0
            && let Some(slot) = self.find(tag)
        {
            match &mut slot.waker {
                Some(old) => old.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
            self.watched |= bit;
        }
    }

    /// Fails everything in flight and shuts the table. The buffers stay in their slots: the host
    /// may still write them. Each failure is shown to `show`.
    pub(crate) fn fail(&mut self, fault: HostFault, mut show: impl FnMut(Completion)) {
        let flying = core::mem::take(&mut self.flying);
        self.held |= flying;
        self.taken = u64::MAX;
        for index in each(flying) {
            let abandoned = self.notice(index);
            let Some(slot) = self.table.get_mut(index as usize) else {
                continue;
            };
            let tag = Tag(slot.id);
            slot.id = slot.id.wrapping_add(1 << INDEX_BITS);
            if !abandoned {
                show(Completion {
                    tag,
                    op: slot.op,
                    buf: None,
                    result: Err(IoError::Host(fault)),
                });
            }
        }
    }

    /// The host has let go: buffers that were held go back to their pool.
    pub(crate) fn release_held(&mut self) {
        for index in each(core::mem::take(&mut self.held)) {
            if let Some(slot) = self.table.get_mut(index as usize) {
                slot.buf = None;
            }
        }
    }

    /// Takes requests again.
    pub(crate) fn open(&mut self) {
        self.taken = !self.usable | self.flying | self.done | self.held;
    }
}
