//! Requests in flight and the messages that come back: values in, values out, no I/O.

use crate::wire::{HEADER, MessageType, PAYLOAD_MAX, XsdSockmsg};
use hypercall::HostFault;
use zerocopy::{FromBytes, IntoBytes};

/// Requests that can be in flight at once.
pub const SLOTS: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotState {
    Free,
    /// Sent, or being sent.
    Waiting,
    /// Nobody waits any more; the slot is free once the answer has come.
    Abandoned,
    /// Answered with so many bytes.
    Done {
        len: usize,
        error: bool,
    },
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    state: SlotState,
    id: u32,
    kind: MessageType,
}

/// The table of requests in flight. The number a request carries names its slot and its
/// generation, so that a late or invented answer finds nobody.
#[derive(Debug)]
pub struct Requests {
    slots: [Slot; SLOTS],
    next: u32,
}

/// A request in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    slot: usize,
    id: u32,
}

impl Ticket {
    /// Which of the [`SLOTS`]: where its answer is put.
    pub fn slot(self) -> usize {
        self.slot
    }

    /// The number it carries over the wire.
    pub fn id(self) -> u32 {
        self.id
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Bytes of the answer.
    pub len: usize,
    /// Whether it is an error's name.
    pub error: bool,
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// To the request in this slot.
    Slot(usize),
    /// A watch event.
    Event,
    /// To nobody: the answer to a request of an earlier owner of the ring.
    Nobody,
}

impl Requests {
    /// None in flight; numbers start somewhere after `seed`.
    pub fn new(seed: u32) -> Self {
        Self {
            slots: [Slot {
                state: SlotState::Free,
                id: 0,
                kind: MessageType::ERROR,
            }; SLOTS],
            next: seed | 1,
        }
    }

    /// Takes a slot; `None` while all are taken.
    pub fn begin(&mut self, kind: MessageType) -> Option<Ticket> {
        let slot = self.slots.iter().position(|s| s.state == SlotState::Free)?;
        // Generation above, slot below; the generation is odd, so no number is 0 (an event's).
        let id = self
            .next
            .wrapping_mul(SLOTS as u32)
            .wrapping_add(u32::try_from(slot).ok()?);
        self.next = self.next.wrapping_add(2);
        *self.slots.get_mut(slot)? = Slot {
            state: SlotState::Waiting,
            id,
            kind,
        };
        Some(Ticket { slot, id })
    }

    fn slot(&mut self, ticket: Ticket) -> Option<&mut Slot> {
        self.slots
            .get_mut(ticket.slot)
            .filter(|slot| slot.id == ticket.id)
    }

    /// The answer, if it is there.
    pub fn done(&self, ticket: Ticket) -> Option<Done> {
        match self.slots.get(ticket.slot) {
            Some(Slot {
                state: SlotState::Done { len, error },
                id,
                ..
            }) if *id == ticket.id => Some(Done {
                len: *len,
                error: *error,
            }),
            _ => None,
        }
    }

    /// Ends a request: its answer was taken, or is not wanted any more.
    pub fn release(&mut self, ticket: Ticket) {
        if let Some(slot) = self.slot(ticket) {
            slot.state = match slot.state {
                SlotState::Waiting => SlotState::Abandoned,
                SlotState::Done { .. } => SlotState::Free,
                other => other,
            };
        }
    }

    /// Ends a request of which not a byte was sent.
    pub fn cancel(&mut self, ticket: Ticket) {
        if let Some(slot) = self.slot(ticket) {
            slot.state = SlotState::Free;
        }
    }

    /// Where a message goes, by its header.
    fn route(&self, header: &XsdSockmsg) -> Result<Route, HostFault> {
        if header.len as usize > PAYLOAD_MAX {
            return Err(HostFault::Length);
        }
        if header.r#type == MessageType::WATCH_EVENT {
            return Ok(Route::Event);
        }
        let index = header.req_id as usize % SLOTS;
        match self.slots.get(index) {
            Some(slot) if slot.id == header.req_id => match slot.state {
                SlotState::Waiting | SlotState::Abandoned => {
                    if header.r#type == slot.kind || header.r#type == MessageType::ERROR {
                        Ok(Route::Slot(index))
                    } else {
                        Err(HostFault::WrongOperation)
                    }
                }
                // Answered twice.
                SlotState::Done { .. } => Err(HostFault::UnknownId),
                SlotState::Free => Ok(Route::Nobody),
            },
            _ => Ok(Route::Nobody),
        }
    }

    fn deliver(&mut self, index: usize, len: usize, error: bool) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.state = match slot.state {
                SlotState::Waiting => SlotState::Done { len, error },
                _ => SlotState::Free,
            };
        }
    }
}

/// Puts messages together from the bytes of a stream.
#[derive(Debug)]
pub struct Receiver {
    header: [u8; HEADER],
    got: usize,
    body: Option<Body>,
}

#[derive(Debug, Clone, Copy)]
struct Body {
    route: Route,
    error: bool,
    len: usize,
}

/// Where the next bytes of the stream belong.
#[derive(Debug, PartialEq, Eq)]
pub enum Room<'a> {
    /// Into the header: this much is missing.
    Header(&'a mut [u8]),
    /// Into the message's body.
    Body {
        /// Whose.
        route: Route,
        /// From this byte of it on.
        at: usize,
        /// So many bytes.
        left: usize,
    },
}

/// A message is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complete {
    /// Whose it is.
    pub route: Route,
    /// Bytes of its body.
    pub len: usize,
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

impl Receiver {
    /// At the start of a message.
    pub fn new() -> Self {
        Self {
            header: [0; HEADER],
            got: 0,
            body: None,
        }
    }

    /// Where the next bytes belong.
    pub fn room(&mut self) -> Room<'_> {
        match self.body {
            Some(body) => Room::Body {
                route: body.route,
                at: self.got,
                left: body.len.saturating_sub(self.got),
            },
            None => Room::Header(self.header.get_mut(self.got..).unwrap_or_default()),
        }
    }

    /// Notes that `count` bytes were put where [`room`](Self::room) said.
    ///
    /// # Errors
    /// [`HostFault`] for a header that cannot be; the stream is then beyond repair.
    pub fn filled(
        &mut self,
        count: usize,
        requests: &mut Requests,
    ) -> Result<Option<Complete>, HostFault> {
        self.got = self.got.saturating_add(count);
        let body = match self.body {
            Some(body) => body,
            None if self.got < HEADER => return Ok(None),
            None => {
                let header =
                    XsdSockmsg::read_from_bytes(&self.header).map_err(|_| HostFault::Malformed)?;
                let body = Body {
                    route: requests.route(&header)?,
                    error: header.r#type == MessageType::ERROR,
                    len: header.len as usize,
                };
                self.got = 0;
                self.body = Some(body);
                body
            }
        };
        if self.got < body.len {
            return Ok(None);
        }
        self.got = 0;
        self.body = None;
        if let Route::Slot(index) = body.route {
            requests.deliver(index, body.len, body.error);
        }
        Ok(Some(Complete {
            route: body.route,
            len: body.len,
        }))
    }
}

/// The header of a request.
pub fn header(kind: MessageType, id: u32, tx_id: u32, len: u32) -> [u8; HEADER] {
    let header = XsdSockmsg {
        r#type: kind,
        req_id: id,
        tx_id,
        len,
    };
    let mut bytes = [0; HEADER];
    bytes.copy_from_slice(header.as_bytes());
    bytes
}
