//! The synthetic interrupt controller of one virtual processor: message slots, event flags, timers.
//!
//! Sources: TLFS chapters 11 (inter-partition communication) and 12 (timers); Linux
//! `include/asm-generic/hyperv-tlfs.h` for layouts.

mod slots;
mod timer;

use crate::memory::{BadAddress, GuestMemory};
pub use slots::{MessageSlots, set_event_flag};
use std::collections::VecDeque;
use timer::Timer;

/// Number of synthetic interrupt sources.
pub const SINTS: usize = 16;

/// MSRs of the SynIC and its timers.
pub mod msr {
    pub const SCONTROL: u32 = 0x4000_0080;
    pub const SVERSION: u32 = 0x4000_0081;
    pub const SIEFP: u32 = 0x4000_0082;
    pub const SIMP: u32 = 0x4000_0083;
    pub const EOM: u32 = 0x4000_0084;
    pub const SINT0: u32 = 0x4000_0090;
    pub const SINT15: u32 = 0x4000_009f;
    pub const STIMER0_CONFIG: u32 = 0x4000_00b0;
    pub const STIMER3_COUNT: u32 = 0x4000_00b7;
}

const ENABLE: u64 = 1;
const SINT_MASKED: u64 = 1 << 16;
const SINT_POLLING: u64 = 1 << 18;
const MESSAGE_TYPE_TIMER: u32 = 0x8000_0010;

/// One processor's SynIC.
#[derive(Debug)]
pub struct Synic {
    control: u64,
    flags_page: u64,
    message_page: u64,
    sints: [u64; SINTS],
    slots: MessageSlots,
    timers: [Timer; 4],
    /// Vectors raised and not taken, each once, as in an APIC's request register.
    pending: VecDeque<u8>,
    raised: u64,
    /// Events that found no page, no enabled SynIC or a masked SINT.
    lost_events: u64,
}

impl Default for Synic {
    fn default() -> Self {
        Synic {
            control: 0,
            flags_page: 0,
            message_page: 0,
            sints: [SINT_MASKED; SINTS],
            slots: MessageSlots::default(),
            timers: Default::default(),
            pending: VecDeque::new(),
            raised: 0,
            lost_events: 0,
        }
    }
}

impl Synic {
    /// Reads a register; `None`: not one of the SynIC's.
    pub fn read(&self, msr: u32) -> Option<u64> {
        Some(match msr {
            msr::SCONTROL => self.control,
            msr::SVERSION => 1,
            msr::SIEFP => self.flags_page,
            msr::SIMP => self.message_page,
            msr::EOM => 0,
            msr::SINT0..=msr::SINT15 => self.sints[(msr - msr::SINT0) as usize],
            msr::STIMER0_CONFIG..=msr::STIMER3_COUNT => {
                let at = msr - msr::STIMER0_CONFIG;
                let timer = &self.timers[at as usize / 2];
                if at.is_multiple_of(2) {
                    timer.config()
                } else {
                    timer.count()
                }
            }
            _ => return None,
        })
    }

    /// Writes a register at reference time `now` (100 ns); `None`: not one of the SynIC's, or not
    /// writable, or not with this value.
    pub fn write(&mut self, msr: u32, value: u64, now: u64) -> Option<()> {
        match msr {
            msr::SCONTROL => self.control = value,
            msr::SIEFP => self.flags_page = value,
            msr::SIMP => self.message_page = value,
            msr::EOM => self.slots.end_of_message(),
            msr::SINT0..=msr::SINT15 => {
                // Vectors below 16 are the processor's own, so they need the mask.
                if value & SINT_MASKED == 0 && value & 0xff < 16 {
                    return None;
                }
                self.sints[(msr - msr::SINT0) as usize] = value;
            }
            msr::STIMER0_CONFIG..=msr::STIMER3_COUNT => {
                let at = msr - msr::STIMER0_CONFIG;
                let timer = &mut self.timers[at as usize / 2];
                if at.is_multiple_of(2) {
                    timer.set_config(value, now);
                } else {
                    timer.set_count(value, now);
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// Queues a message for a SINT.
    pub fn post(&mut self, sint: u8, kind: u32, sender: u64, payload: &[u8]) {
        self.slots.post(sint, kind, sender, payload);
    }

    /// Sets an event flag (below 2048) and interrupts if it was clear.
    pub fn set_event(
        &mut self,
        memory: &dyn GuestMemory,
        sint: u8,
        flag: u32,
    ) -> Result<(), BadAddress> {
        let ready = self.control & ENABLE != 0 && self.flags_page & ENABLE != 0;
        if !ready || self.sints[usize::from(sint)] & SINT_MASKED != 0 {
            self.lost_events += 1;
            return Ok(());
        }
        if set_event_flag(memory, self.flags_page & !0xfff, sint, flag)? {
            self.interrupt(sint);
        }
        Ok(())
    }

    /// Does one thing: fires one timer or tries to fill one slot. False: nothing to do.
    pub fn step(&mut self, memory: &dyn GuestMemory, now: u64) -> Result<bool, BadAddress> {
        for index in 0..self.timers.len() {
            if let Some(due) = self.timers[index].fire(now) {
                match self.timers[index].direct_vector() {
                    Some(vector) => self.raise(vector),
                    None => {
                        let payload = [index as u64, due, now].map(u64::to_le_bytes).concat();
                        let sint = self.timers[index].sint();
                        self.post(sint, MESSAGE_TYPE_TIMER, 0, &payload);
                    }
                }
                return Ok(true);
            }
        }
        for sint in 0..SINTS {
            if self.slots.wants(sint) && self.can_receive(sint) {
                if self.slots.fill(memory, self.message_page & !0xfff, sint)? {
                    self.interrupt(sint as u8);
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn can_receive(&self, sint: usize) -> bool {
        self.control & ENABLE != 0
            && self.message_page & ENABLE != 0
            && self.sints[sint] & SINT_MASKED == 0
    }

    fn interrupt(&mut self, sint: u8) {
        let sint = self.sints[usize::from(sint)];
        if sint & (SINT_MASKED | SINT_POLLING) == 0 {
            self.raise(sint as u8);
        }
    }

    fn raise(&mut self, vector: u8) {
        if !self.pending.contains(&vector) {
            self.pending.push_back(vector);
            self.raised += 1;
        }
    }

    /// Takes the oldest vector raised.
    pub fn take_interrupt(&mut self) -> Option<u8> {
        self.pending.pop_front()
    }

    /// Whether a vector waits to be taken.
    pub fn has_interrupt(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Interrupts raised so far.
    pub fn raised(&self) -> u64 {
        self.raised
    }

    /// Events so far that nobody could have seen.
    pub fn lost_events(&self) -> u64 {
        self.lost_events
    }

    /// Reference time (100 ns) when the next timer fires, if one is armed.
    pub fn next_timer(&self) -> Option<u64> {
        self.timers.iter().filter_map(Timer::due).min()
    }
}

#[cfg(test)]
mod tests;
