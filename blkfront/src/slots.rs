//! The table of requests in flight: what an answer is checked against.

use crate::request::{Completion, IoError, Op, Request, Tag};
use crate::transport::{Answer, Says};
use core::task::Waker;
use hypercall::HostFault;
use hypercall::shm::Buf;

/// Entries of the table. The first never has a request: it stands for the end of a list.
const TABLE: usize = 64;

/// The most requests of one queue.
pub(crate) const SLOTS: usize = TABLE - 1;

/// An id is a generation, a slot's index, and [`INDEX_SHIFT`] bits that are 0: as wide as a slot,
/// so that the index is a place in the table already.
const INDEX_SHIFT: u32 = size_of::<Slot>().trailing_zeros();

/// The bits of an id that are the index.
const INDEX: u64 = (TABLE as u64 - 1) << INDEX_SHIFT;

/// From one generation to the next.
const GENERATION: u64 = (TABLE as u64) << INDEX_SHIFT;

/// The end of a list of free slots. No id, since the first entry has none.
const END: u64 = 0;

/// What is looked at for every request comes first.
#[repr(C)]
struct Slot {
    /// In flight and nothing more to it: the id that the host was told. Never used twice: 2^53
    /// generations do not wrap around. Free: the id of the next free slot, or [`END`], which both
    /// have another index. In any other [`State`]: the id with another index. So an answer is for
    /// a plain request in flight if it names exactly this.
    key: u64,
    buf: Option<Buf>,
    asked: Asked,
    state: State,
}

const _: () = assert!(size_of::<Slot>() == 32);

/// What was asked: what an answer of plain success says, as
/// [`Transport::push`](crate::transport::Transport::push) foretold (32 bits), and above it the
/// operation. One word, because both are written at once.
#[derive(Debug, Clone, Copy)]
struct Asked(u64);

impl Asked {
    #[inline(always)]
    fn new(op: Op, expected: u32) -> Self {
        let op = match op {
            Op::Read => 0,
            Op::Write => 1,
            Op::Flush => 2,
            Op::Discard => 3,
        };
        Self(op << 32 | u64::from(expected))
    }

    #[inline(always)]
    fn expected(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    fn op(self) -> Op {
        match self.0 >> 32 {
            0 => Op::Read,
            1 => Op::Write,
            2 => Op::Flush,
            _ => Op::Discard,
        }
    }
}

/// What a slot is in. Only what is out of the ordinary changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Free, or in flight.
    Plain,
    /// In flight, and somebody is to be woken.
    Watched,
    /// In flight, and nobody wants the completion.
    Abandoned,
    /// Answered like this, and not yet collected.
    Done(Result<(), IoError>),
    /// Failed with the device; the buffer stays until that is closed.
    Held,
}

/// The slots, those that are free in lists.
pub(crate) struct Slots {
    /// The id for the next request, whose slot has the one for the request after that. [`END`]
    /// when the table is full or shut.
    free: u64,
    /// How many are to be collected.
    done: usize,
    table: [Slot; TABLE],
    wakers: [Option<Waker>; TABLE],
    depth: usize,
    /// Slots that would be free, were the queue not shut.
    parked: u64,
    is_shut: bool,
}

/// A free slot, found for a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// What the host is to be told.
    pub(crate) id: u64,
}

#[inline(always)]
fn index_of(id: u64) -> usize {
    ((id & INDEX) >> INDEX_SHIFT) as usize
}

/// An id with another index, to be kept in the slot that the id names; and back.
fn aside(id: u64) -> u64 {
    id ^ INDEX
}

impl Slot {
    /// Whether this slot, of the index that `id` has, is in this state with that id.
    fn is(&self, state: State, id: u64) -> bool {
        let key = if state == State::Plain { id } else { aside(id) };
        self.state == state && self.key == key
    }

    /// Whether the host has the request of this id.
    fn is_flying(&self, id: u64) -> bool {
        [State::Plain, State::Watched, State::Abandoned]
            .iter()
            .any(|state| self.is(*state, id))
    }

    /// The id of the request that the host has, if it has one of this slot.
    fn flying(&self, index: usize) -> Option<u64> {
        let id = match self.state {
            State::Plain => self.key,
            State::Watched | State::Abandoned => aside(self.key),
            State::Done(_) | State::Held => return None,
        };
        (index_of(id) == index && id != END).then_some(id)
    }

    fn set(&mut self, state: State, id: u64) {
        self.state = state;
        self.key = if state == State::Plain { id } else { aside(id) };
    }

    /// How an answered request went, unless the answer cannot be one to it.
    fn judge(&self, answer: &Answer) -> Result<Result<(), IoError>, HostFault> {
        let asked = self.buf.as_ref().map_or(0, |buf| buf.len() as u32);
        match answer.says {
            Says::Operation(operation) if u32::from(operation) != self.asked.expected() => {
                Err(HostFault::WrongOperation)
            }
            Says::Moved(moved) if answer.result.is_ok() && moved > asked => Err(HostFault::Length),
            Says::Moved(moved) if answer.result.is_ok() && moved < asked => {
                Ok(Err(IoError::Short { moved }))
            }
            _ => Ok(answer.result),
        }
    }
}

impl Slots {
    /// A table of `depth` slots, at most [`SLOTS`], at least one.
    pub(crate) fn new(depth: usize) -> Self {
        let depth = depth.clamp(1, SLOTS);
        let mut index = 0u64;
        let table = [(); TABLE].map(|()| {
            let next = index.wrapping_add(1);
            let key = match index {
                // Never free and never in flight.
                0 => u64::MAX,
                _ if next <= depth as u64 => GENERATION | next << INDEX_SHIFT,
                _ => END,
            };
            index = next;
            Slot {
                key,
                buf: None,
                asked: Asked(0),
                state: State::Plain,
            }
        });
        Self {
            free: GENERATION | 1 << INDEX_SHIFT,
            done: 0,
            table,
            wakers: [const { None }; TABLE],
            depth,
            parked: END,
            is_shut: false,
        }
    }

    /// How many requests the table holds.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// How many requests the host has.
    pub(crate) fn in_flight(&self) -> usize {
        let slots = self.table.iter().enumerate();
        slots.filter(|(i, slot)| slot.flying(*i).is_some()).count()
    }

    /// Whether a completion was kept.
    #[inline(always)]
    pub(crate) fn has_done(&self) -> bool {
        self.done != 0
    }

    /// A slot for the next request; `None` when the table is full or shut.
    #[inline(always)]
    pub(crate) fn room(&self) -> Option<Room> {
        (self.free != END).then_some(Room { id: self.free })
    }

    /// Puts the request into the slot that [`room`](Self::room) just found.
    #[inline(always)]
    pub(crate) fn fill(&mut self, room: Room, expected: u32, request: Request) -> Tag {
        if let Some(slot) = self.table.get_mut(index_of(room.id)) {
            self.free = slot.key;
            slot.key = room.id;
            slot.asked = Asked::new(request.op, expected);
            // The slot was free, so there is no old buffer to drop.
            core::mem::forget(core::mem::replace(&mut slot.buf, request.buf));
        }
        Tag(room.id)
    }

    /// As [`answer`](Self::answer), for plain success: `None` when there is anything about it that
    /// needs a closer look; then nothing was done.
    #[inline(always)]
    pub(crate) fn finish(&mut self, id: u64, says: u32) -> Option<Completion> {
        let slot = self.table.get_mut(index_of(id))?;
        if slot.key != id || slot.asked.expected() != says {
            return None;
        }
        // It is in flight, so the table is not shut.
        slot.key = self.free;
        self.free = id.wrapping_add(GENERATION);
        Some(Completion {
            tag: Tag(id),
            op: slot.asked.op(),
            buf: slot.buf.take(),
            result: Ok(()),
        })
    }

    /// Checks an answer against what is in flight. With `Ok(Some)` the request is done and its
    /// slot free again; `Ok(None)` was abandoned by its owner.
    pub(crate) fn answer(&mut self, answer: Answer) -> Result<Option<Completion>, HostFault> {
        let result = self.check(&answer)?;
        let abandoned = self.land(answer.id);
        let completion = self.vacate(answer.id, result);
        Ok(completion.filter(|_| !abandoned))
    }

    /// Like [`answer`](Self::answer), but leaves the completion in its slot to be collected by
    /// tag.
    pub(crate) fn keep(&mut self, answer: Answer) -> Result<(), HostFault> {
        let result = self.check(&answer)?;
        if self.land(answer.id) {
            drop(self.vacate(answer.id, result));
        } else if let Some(slot) = self.table.get_mut(index_of(answer.id)) {
            slot.set(State::Done(result), answer.id);
            self.done = self.done.wrapping_add(1);
        }
        Ok(())
    }

    /// How the request went that an answer is for.
    fn check(&self, answer: &Answer) -> Result<Result<(), IoError>, HostFault> {
        match self.table.get(index_of(answer.id)) {
            Some(slot) if slot.is_flying(answer.id) => slot.judge(answer),
            _ => Err(HostFault::UnknownId),
        }
    }

    /// The host has a request no longer: wakes who watched it. Whether it was abandoned.
    fn land(&mut self, id: u64) -> bool {
        let index = index_of(id);
        if let Some(waker) = self.wakers.get_mut(index).and_then(Option::take) {
            waker.wake();
        }
        let slot = self.table.get(index);
        slot.is_some_and(|slot| slot.state == State::Abandoned)
    }

    /// Empties a slot and puts it into the list.
    fn vacate(&mut self, id: u64, result: Result<(), IoError>) -> Option<Completion> {
        let list = if self.is_shut {
            &mut self.parked
        } else {
            &mut self.free
        };
        let slot = self.table.get_mut(index_of(id))?;
        slot.state = State::Plain;
        slot.key = core::mem::replace(list, id.wrapping_add(GENERATION));
        Some(Completion {
            tag: Tag(id),
            op: slot.asked.op(),
            buf: slot.buf.take(),
            result,
        })
    }

    /// Collects any completion that was kept.
    #[cold]
    pub(crate) fn collect_any(&mut self) -> Option<Completion> {
        if self.done == 0 {
            return None;
        }
        let mut slots = self.table.iter();
        let done = slots.find(|slot| matches!(slot.state, State::Done(_)))?;
        self.collect(Tag(aside(done.key)))
    }

    /// Collects a completion that was kept.
    pub(crate) fn collect(&mut self, Tag(id): Tag) -> Option<Completion> {
        let slot = self.table.get(index_of(id))?;
        let State::Done(result) = slot.state else {
            return None;
        };
        if slot.key != aside(id) {
            return None;
        }
        self.done = self.done.saturating_sub(1);
        self.vacate(id, result)
    }

    /// Whether the tag is still to be collected.
    pub(crate) fn is_live(&self, Tag(id): Tag) -> bool {
        let slot = self.table.get(index_of(id));
        slot.is_some_and(|slot| {
            let done = matches!(slot.state, State::Done(_)) && slot.key == aside(id);
            done || slot.is(State::Plain, id) || slot.is(State::Watched, id)
        })
    }

    /// Gives up on a request: nobody will collect it, its buffer returns when it is done.
    /// Returns a waker of another request in flight, which must now watch the ring.
    pub(crate) fn abandon(&mut self, tag: Tag) -> Option<Waker> {
        let index = index_of(tag.0);
        if self.is_live(tag) {
            if let Some(waker) = self.wakers.get_mut(index) {
                *waker = None;
            }
            if self.collect(tag).is_none()
                && let Some(slot) = self.table.get_mut(index)
            {
                slot.set(State::Abandoned, tag.0);
            }
        }
        self.wakers.iter().find_map(Clone::clone)
    }

    /// Has `waker` woken when the request is done.
    pub(crate) fn watch(&mut self, Tag(id): Tag, waker: &Waker) {
        let index = index_of(id);
        let (Some(slot), Some(place)) = (self.table.get_mut(index), self.wakers.get_mut(index))
        else {
            return;
        };
        if slot.is(State::Plain, id) || slot.is(State::Watched, id) {
            slot.set(State::Watched, id);
            match place {
                Some(old) => old.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
    }

    /// Fails everything in flight and shuts the table. The buffers stay in their slots: the host
    /// may still write them. Each failure is shown to `show`.
    pub(crate) fn fail(&mut self, fault: HostFault, mut show: impl FnMut(Completion)) {
        if !core::mem::replace(&mut self.is_shut, true) {
            self.parked = core::mem::replace(&mut self.free, END);
        }
        for index in 0..TABLE {
            let Some(id) = self.table.get(index).and_then(|slot| slot.flying(index)) else {
                continue;
            };
            let abandoned = self.land(id);
            let Some(slot) = self.table.get_mut(index) else {
                continue;
            };
            slot.set(State::Held, id);
            if !abandoned {
                show(Completion {
                    tag: Tag(id),
                    op: slot.asked.op(),
                    buf: None,
                    result: Err(IoError::Host(fault)),
                });
            }
        }
    }

    /// The host has let go: buffers that were held go back to their pool.
    pub(crate) fn release_held(&mut self) {
        for index in 0..TABLE {
            if let Some(slot) = self.table.get(index)
                && slot.state == State::Held
            {
                drop(self.vacate(aside(slot.key), Ok(())));
            }
        }
    }

    /// Takes requests again.
    pub(crate) fn open(&mut self) {
        if core::mem::replace(&mut self.is_shut, false) {
            self.free = core::mem::replace(&mut self.parked, END);
        }
    }
}
