//! The two SynIC pages: message slots with their queues, and event flags.

use crate::hyperv::abi::MESSAGE_PAYLOAD;
use crate::memory::{BadAddress, GuestMemory};
use std::collections::VecDeque;

use super::SINTS;

const MESSAGE_PENDING: u32 = 1 << 8;

#[derive(Debug, Clone)]
struct Message {
    kind: u32,
    sender: u64,
    payload: Vec<u8>,
}

/// Messages on their way into the slots of one message page.
#[derive(Debug, Default)]
pub struct MessageSlots {
    queues: [VecDeque<Message>; SINTS],
    /// The slot was full; only an end of message makes the host look again.
    blocked: [bool; SINTS],
}

impl MessageSlots {
    /// Queues a message for a SINT (below 16), cut to what a slot holds.
    pub fn post(&mut self, sint: u8, kind: u32, sender: u64, payload: &[u8]) {
        let payload = payload[..payload.len().min(MESSAGE_PAYLOAD)].to_vec();
        self.queues[usize::from(sint) % SINTS].push_back(Message {
            kind,
            sender,
            payload,
        });
    }

    /// The guest wrote EOM.
    pub fn end_of_message(&mut self) {
        self.blocked = [false; SINTS];
    }

    /// Whether `fill` would try anything for this SINT.
    pub fn wants(&self, sint: usize) -> bool {
        !self.queues[sint].is_empty() && !self.blocked[sint]
    }

    /// Writes the next message into its slot in the page at `page`; true: interrupt the guest. A full
    /// slot gets its pending flag instead.
    pub fn fill(
        &mut self,
        memory: &dyn GuestMemory,
        page: u64,
        sint: usize,
    ) -> Result<bool, BadAddress> {
        let slot = page + sint as u64 * 256;
        if memory.load_u32(slot)? != 0 {
            memory.fetch_or_u32(slot + 4, MESSAGE_PENDING)?;
            // The guest may have emptied the slot before it could see the flag.
            self.blocked[sint] = memory.load_u32(slot)? != 0;
            return Ok(false);
        }
        let Some(message) = self.queues[sint].pop_front() else {
            return Ok(false);
        };
        let more = if self.queues[sint].is_empty() {
            0
        } else {
            MESSAGE_PENDING
        };
        // With more to come the guest owes an EOM; the next try without one is in vain.
        self.blocked[sint] = more != 0;
        memory.write(slot + 16, &message.payload)?;
        memory.store_u64(slot + 8, message.sender)?;
        memory.store_u32(slot + 4, message.payload.len() as u32 | more)?;
        memory.store_u32(slot, message.kind)?;
        Ok(true)
    }
}

/// Sets an event flag (below 2048) of a SINT in the page at `page`; true: it was clear.
pub fn set_event_flag(
    memory: &dyn GuestMemory,
    page: u64,
    sint: u8,
    flag: u32,
) -> Result<bool, BadAddress> {
    let word = page + u64::from(sint) * 256 + u64::from(flag / 32) * 4;
    let bit = 1 << (flag % 32);
    Ok(memory.fetch_or_u32(word, bit)? & bit == 0)
}
