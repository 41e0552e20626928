//! What a host does when it means harm, or has gone mad. Each knob strikes at a chosen moment.

/// How xenstored misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreMischief {
    /// Reads requests and never answers.
    Silent,
    /// Does not even read.
    Deaf,
    /// Adds to the response producer index and writes nothing.
    ProducerJump(u32),
    /// Answers with another request's id.
    WrongReqId,
    /// Answers with a message type that is neither the request's nor an error.
    WrongType,
    /// States a payload of this many bytes; the bytes that follow are the honest ones.
    Length(u32),
    /// Leaves the last byte of the payload out, a terminating NUL where there is one.
    MissingNul,
    /// Sends the answer twice.
    Twice,
    /// Fires a watch with a token nobody registered.
    UnknownToken,
    /// Sends bytes that are not text in place of the payload.
    NotText,
}

/// How the block back end misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlkMischief {
    /// Takes requests and never answers.
    Silent,
    /// Adds to the response producer index.
    ProducerJump(u32),
    /// Answers with this id instead of the request's.
    Id(u64),
    /// Answers the request, and then once more.
    Twice,
    /// Answers with another operation than the request's.
    WrongOperation,
    /// Answers with this status instead of the honest one, the work left undone.
    Status(i16),
    /// Scribbles over requests in the ring before answering in the same slots.
    Scribble,
    /// Pushes the response and sends no event.
    NoEvent,
}

/// How the network back end misbehaves: to the guest's transmit ring, chance by chance of an
/// answered chain, or to its receive ring, chance by chance of a slot about to be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetMischief {
    /// Sends frames and never answers.
    TxSilent,
    /// Adds to the response producer index.
    TxJump(u32),
    /// Answers with this id instead of the request's.
    TxId(u16),
    /// Answers every slot twice.
    TxTwice,
    /// Answers with this status.
    TxStatus(i16),
    /// Scribbles over requests in the ring before answering in the same slots.
    TxScribble,
    /// Answers and sends no event.
    TxNoEvent,
    /// Takes the buffer and never answers.
    RxSilent,
    /// Adds to the response producer index.
    RxJump(u32),
    /// Answers with this id instead of the buffer's.
    RxId(u16),
    /// Answers every slot twice.
    RxTwice,
    /// States this size, or this error, whatever was written.
    RxStatus(i16),
    /// States this offset, whatever was written where.
    RxOffset(u16),
    /// Adds these flags: `more_data` without an end, an extra that does not come.
    RxFlags(u16),
    /// Adds an extra of this type, with these flags, to the frame.
    RxExtra { kind: u8, flags: u8 },
    /// Adds extras that never end.
    RxExtraForever,
    /// Adds a segmentation of this size and type.
    RxGso { size: u16, kind: u8 },
    /// Scribbles over requests in the ring before answering in the same slots.
    RxScribble,
    /// Answers and sends no event.
    RxNoEvent,
}

impl NetMischief {
    /// Whether it is done to the transmit ring.
    pub fn of_transmit(self) -> bool {
        use NetMischief::*;
        matches!(
            self,
            TxSilent | TxJump(_) | TxId(_) | TxTwice | TxStatus(_) | TxScribble | TxNoEvent
        )
    }

    /// Whether it is done to the receive ring.
    pub fn of_receive(self) -> bool {
        !self.of_transmit()
    }
}

/// When a mischief strikes: it lets `after` chances pass and takes the next `times`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strike {
    pub after: u64,
    pub times: u64,
}

impl Strike {
    /// The next chance, once.
    pub const ONCE: Strike = Strike { after: 0, times: 1 };
    /// Every chance.
    pub const ALWAYS: Strike = Strike {
        after: 0,
        times: u64::MAX,
    };

    /// Whether this chance is one to take.
    pub fn due(&mut self) -> bool {
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        let due = self.times > 0;
        self.times = self.times.saturating_sub(1);
        due
    }
}

/// A mischief and when it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan<T> {
    pub what: T,
    pub when: Strike,
}

impl<T: Copy> Plan<T> {
    /// The mischief, if this chance is one to take.
    pub fn strike(plan: &mut Option<Plan<T>>) -> Option<T> {
        let plan = plan.as_mut()?;
        plan.when.due().then_some(plan.what)
    }

    /// The same, where a chance is one only for mischiefs of some kind.
    pub fn strike_if(plan: &mut Option<Plan<T>>, kind: impl FnOnce(T) -> bool) -> Option<T> {
        match plan {
            Some(planned) if kind(planned.what) => Plan::strike(plan),
            _ => None,
        }
    }
}

/// Every knob, all off by default.
#[derive(Debug, Clone, Default)]
pub struct Hostile {
    /// Per message to the guest (`Silent`, `Deaf`: as long as the plan lasts).
    pub store: Option<Plan<StoreMischief>>,
    /// Per response to the guest.
    pub blk: Option<Plan<BlkMischief>>,
    /// Per chain answered, or per receive buffer.
    pub net: Option<Plan<NetMischief>>,
    /// Back ends do not give grant mappings back until this is off again.
    pub hold_grants: bool,
    /// Events on seeded ports of the guest, one a step, this many.
    pub event_storm: u64,
    /// Back ends close after this many more steps of the host.
    pub close_back_ends_in: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strike_lets_chances_pass_and_ends() {
        let mut strike = Strike { after: 2, times: 2 };
        let taken: Vec<_> = (0..6).map(|_| strike.due()).collect();
        assert_eq!(taken, [false, false, true, true, false, false]);
    }
}
