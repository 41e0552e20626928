//! The table of requests in flight: what an answer is checked against.

use crate::request::{Completion, IoError, Op, Request, Tag};
use crate::transport::Answer;
use core::num::NonZeroU64;
use core::task::Waker;
use hypercall::HostFault;
use hypercall::shm::Buf;

/// The most requests of one queue: a bit each in a word.
pub(crate) const SLOTS: usize = 64;

/// Bits of an id that are the slot's index; the generation is above them.
const INDEX_BITS: u32 = 6;

/// From the id of a request that is done to what its free slot holds: the next generation's id, and
/// one more. That is an id of another index, so no answer is ever found to be for a free slot.
const FREED: u64 = (1 << INDEX_BITS) + 1;

/// Of [`Slot::kind`]: the request is abandoned or watched.
const NOTED: u16 = 1 << 8;
/// Of [`Slot::kind`]: the request is answered already.
const DONE: u16 = 1 << 9;

/// What is looked at for every request comes first, within one cache line.
#[repr(C)]
struct Slot {
    /// What the host was told while it has the request or it waits to be collected: generation and
    /// index. Never 0, and never used twice: 2^58 generations do not wrap around. In a slot that
    /// is free or held, one more than the id to be used next.
    id: u64,
    buf: Option<Buf>,
    /// What the answer must carry (8 bits). A flag above it makes no answer fit, so that the
    /// common one needs no further look.
    kind: u16,
    op: Op,
    /// What a request that is done came to.
    result: Result<(), IoError>,
    waker: Option<Waker>,
}

/// The slots, and what each is in, as sets of bits. A usable slot is in one of `free`, `done`,
/// `held` and `shut`, or else the host has its request.
pub(crate) struct Slots {
    /// Slots for the next requests.
    free: u64,
    /// Answered, and not yet collected.
    done: u64,
    table: [Slot; SLOTS],
    /// Slots that may be used at all.
    usable: u64,
    /// The device failed; the buffer stays until it is closed.
    held: u64,
    /// Slots that would be free, were the queue not shut.
    shut: u64,
    is_shut: bool,
    /// Of those flying: nobody wants the completion.
    abandoned: u64,
    /// Of those flying: somebody is to be woken.
    watched: u64,
}

/// A free slot, found for a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    index: u32,
    /// What the host is to be told.
    pub(crate) id: u64,
}

impl Slot {
    /// Whether an answer of this kind may be for a slot it does not match outright.
    #[cold]
    fn fits(&self, kind: u8) -> Result<(), HostFault> {
        if self.kind & DONE != 0 {
            Err(HostFault::UnknownId)
        } else if self.kind & !NOTED != u16::from(kind) {
            Err(HostFault::WrongOperation)
        } else {
            Ok(())
        }
    }

    /// How many bytes were asked for.
    #[inline(always)]
    fn asked(&self) -> u32 {
        self.buf.as_ref().map_or(0, |buf| buf.len() as u32)
    }

    /// What success comes to that moved so many bytes.
    fn moved(&self, moved: u32) -> Result<Result<(), IoError>, HostFault> {
        let asked = self.asked();
        if moved == asked {
            Ok(Ok(()))
        } else if moved > asked {
            Err(HostFault::Length)
        } else {
            Ok(Err(IoError::Short { moved }))
        }
    }
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
            let id = FREED.wrapping_add(index);
            index = index.wrapping_add(1);
            Slot {
                id,
                buf: None,
                kind: 0,
                op: Op::Flush,
                result: Ok(()),
                waker: None,
            }
        });
        Self {
            free: usable,
            done: 0,
            table,
            usable,
            held: 0,
            shut: 0,
            is_shut: false,
            abandoned: 0,
            watched: 0,
        }
    }

    /// Slots whose request the host has.
    fn flying(&self) -> u64 {
        self.usable & !(self.free | self.done | self.held | self.shut)
    }

    /// How many requests the table holds.
    pub(crate) fn depth(&self) -> usize {
        self.usable.count_ones() as usize
    }

    /// How many requests the host has.
    pub(crate) fn in_flight(&self) -> usize {
        self.flying().count_ones() as usize
    }

    /// Whether a completion was kept.
    #[inline(always)]
    pub(crate) fn has_done(&self) -> bool {
        self.done != 0
    }

    /// A slot for the next request; `None` when the table is full or shut.
    #[inline(always)]
    pub(crate) fn room(&self) -> Option<Room> {
        let index = NonZeroU64::new(self.free)?.trailing_zeros();
        let slot = self.table.get(index as usize)?;
        Some(Room {
            index,
            id: slot.id.wrapping_sub(1),
        })
    }

    /// Puts the request into the slot that [`room`](Self::room) just found.
    #[inline(always)]
    pub(crate) fn fill(&mut self, room: Room, kind: u8, request: Request) -> Tag {
        // It is the lowest.
        self.free &= self.free.wrapping_sub(1);
        if let Some(slot) = self.table.get_mut(room.index as usize) {
            slot.id = room.id;
            slot.kind = kind.into();
            slot.op = request.op;
            // The slot was free, so there is no old buffer to drop.
            core::mem::forget(core::mem::replace(&mut slot.buf, request.buf));
        }
        Tag(room.id)
    }

    fn find(&mut self, tag: Tag) -> Option<&mut Slot> {
        let index = index_of(tag.0) as usize;
        self.table.get_mut(index).filter(|slot| slot.id == tag.0)
    }

    /// As [`answer`](Self::answer), for success as it should be: `None` when there is anything
    /// about it that needs a closer look; then nothing was done.
    #[inline(always)]
    pub(crate) fn finish(&mut self, id: u64, kind: u8, moved: Option<u32>) -> Option<Completion> {
        let index = index_of(id);
        let slot = self.table.get_mut(index as usize)?;
        if slot.id != id || slot.kind != u16::from(kind) {
            return None;
        }
        if let Some(moved) = moved
            && moved != slot.asked()
        {
            return None;
        }
        slot.id = id.wrapping_add(FREED);
        self.free |= 1 << index;
        Some(Completion {
            tag: Tag(id),
            op: slot.op,
            buf: slot.buf.take(),
            result: Ok(()),
        })
    }

    /// Checks an answer against what is in flight. With `Ok(Some)` the request is done and its
    /// slot free again; `Ok(None)` was abandoned by its owner.
    pub(crate) fn answer(&mut self, answer: Answer) -> Result<Option<Completion>, HostFault> {
        let index = index_of(answer.id);
        let Some(slot) = self.table.get_mut(index as usize) else {
            return Err(HostFault::UnknownId);
        };
        if slot.id != answer.id {
            return Err(HostFault::UnknownId);
        }
        if slot.kind != u16::from(answer.kind) {
            slot.fits(answer.kind)?;
        }
        let mut result = answer.result;
        if let Some(moved) = answer.moved
            && result.is_ok()
        {
            result = slot.moved(moved)?;
        }
        let completion = Completion {
            tag: Tag(answer.id),
            op: slot.op,
            buf: slot.buf.take(),
            result,
        };
        slot.id = answer.id.wrapping_add(FREED);
        self.free |= 1 << index;
        let abandoned = slot.kind != u16::from(answer.kind) && self.notice(index);
        Ok((!abandoned).then_some(completion))
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
            slot.kind = DONE;
            slot.buf = done.buf;
            slot.result = done.result;
            self.free &= !(1 << index);
            self.done |= 1 << index;
        }
        Ok(())
    }

    /// Collects any completion that was kept.
    #[cold]
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
        slot.id = tag.0.wrapping_add(FREED);
        self.done &= !bit;
        if self.is_shut {
            self.shut |= bit;
        } else {
            self.free |= bit;
        }
        Some(completion)
    }

    /// Whether the tag is still to be collected.
    pub(crate) fn is_live(&mut self, tag: Tag) -> bool {
        let live = (self.flying() & !self.abandoned) | self.done;
        live & 1 << index_of(tag.0) != 0 && self.find(tag).is_some()
    }

    /// Gives up on a request: nobody will collect it, its buffer returns when it is done.
    /// Returns a waker of another request in flight, which must now watch the ring.
    pub(crate) fn abandon(&mut self, tag: Tag) -> Option<Waker> {
        let bit = 1u64 << index_of(tag.0);
        let flying = self.flying() & bit != 0;
        if let Some(slot) = self.find(tag) {
            slot.waker = None;
            if flying {
                slot.kind |= NOTED;
            }
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
        if self.flying() & !self.abandoned & bit != 0
            && let Some(slot) = self.find(tag)
        {
            match &mut slot.waker {
                Some(old) => old.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
            slot.kind |= NOTED;
            self.watched |= bit;
        }
    }

    /// Fails everything in flight and shuts the table. The buffers stay in their slots: the host
    /// may still write them. Each failure is shown to `show`.
    pub(crate) fn fail(&mut self, fault: HostFault, mut show: impl FnMut(Completion)) {
        let flying = self.flying();
        self.held |= flying;
        self.shut |= core::mem::take(&mut self.free);
        self.is_shut = true;
        for index in each(flying) {
            let abandoned = self.notice(index);
            let Some(slot) = self.table.get_mut(index as usize) else {
                continue;
            };
            let tag = Tag(slot.id);
            slot.id = slot.id.wrapping_add(FREED);
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
        let held = core::mem::take(&mut self.held);
        self.shut |= held;
        for index in each(held) {
            if let Some(slot) = self.table.get_mut(index as usize) {
                slot.buf = None;
            }
        }
    }

    /// Takes requests again.
    pub(crate) fn open(&mut self) {
        self.free |= core::mem::take(&mut self.shut);
        self.is_shut = false;
    }
}
