//! Numbers and records of Hyper-V's own interface.
//!
//! Source: Hypervisor Top-Level Functional Specification (TLFS) 6.0b; chapter names are given.
//! Everything is little-endian.

use bitflags::bitflags;
use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags! {
    /// What the guest may use: EAX of leaf 0x40000003 (TLFS, "Partition privilege mask").
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Privileges: u32 {
        /// The reference counter.
        const REFERENCE_COUNTER = 1 << 1;
        /// The registers of the synthetic interrupt controller.
        const SYNIC = 1 << 2;
        /// The registers of the synthetic timers.
        const SYNTHETIC_TIMERS = 1 << 3;
        /// The guest OS id and the hypercall page.
        const HYPERCALL = 1 << 5;
        /// The index of the virtual processor.
        const VP_INDEX = 1 << 6;
        /// The reset register.
        const RESET = 1 << 7;
        /// The reference TSC page.
        const REFERENCE_TSC = 1 << 9;
        const _ = !0;
    }
}

/// EDX of leaf 0x40000003: the guest crash registers exist.
pub const CRASH_REGISTERS: u32 = 1 << 10;

/// HvPostMessage (TLFS, "Inter-partition communication").
pub const POST_MESSAGE: u64 = 0x5c;
/// HvSignalEvent.
pub const SIGNAL_EVENT: u64 = 0x5d;
/// The input is in registers, not in memory (TLFS, "Hypercall inputs").
pub const FAST: u64 = 1 << 16;

/// The status part of a hypercall's result (TLFS, "Hypercall outputs"). Unknown values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    /// Done.
    pub const SUCCESS: Self = Self(0);
    /// The host is short of memory for the message.
    pub const INSUFFICIENT_MEMORY: Self = Self(0x0b);
    /// No such connection; some hosts also say so when messages come too fast.
    pub const INVALID_CONNECTION_ID: Self = Self(0x12);
    /// The host's buffers for messages are full.
    pub const INSUFFICIENT_BUFFERS: Self = Self(0x13);

    /// From what a hypercall returned.
    pub fn of(result: u64) -> Self {
        Self(result as u16)
    }
}

/// Bytes of payload that a message holds at most.
pub const PAYLOAD: usize = 240;

/// Input of HvPostMessage.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PostMessage {
    /// Where to.
    pub connection: u32,
    /// Zero.
    pub reserved: u32,
    /// Type of the message; the host keeps those with the top bit to itself.
    pub kind: u32,
    /// Bytes of payload in use.
    pub size: u32,
    /// The payload, zeroes behind it.
    pub payload: [u8; PAYLOAD],
}
const _: () = assert!(size_of::<PostMessage>() == 256);
const _: () = assert!(offset_of!(PostMessage, kind) == 8);
const _: () = assert!(offset_of!(PostMessage, payload) == 16);

/// A message as it lies in its slot of the message page (TLFS, "SynIC message page").
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MessageSlot {
    /// Type; 0 while the slot is free.
    pub kind: u32,
    /// Bytes of payload in use.
    pub size: u8,
    /// Bit 0: another message waits for the slot.
    pub flags: u8,
    /// Zero.
    pub reserved: u16,
    /// Who sent it: a port, or a partition.
    pub sender: u64,
    /// The payload.
    pub payload: [u8; PAYLOAD],
}
const _: () = assert!(size_of::<MessageSlot>() == 256);
const _: () = assert!(offset_of!(MessageSlot, size) == 4);
const _: () = assert!(offset_of!(MessageSlot, flags) == 5);
const _: () = assert!(offset_of!(MessageSlot, payload) == 16);

/// `MessageSlot::flags`: another message waits for the slot.
pub const MESSAGE_PENDING: u8 = 1;
/// Type of a message from another partition, VMBus among them.
pub const KIND_POSTED: u32 = 1;
/// Type of the message that a synthetic timer sends.
pub const KIND_TIMER_EXPIRED: u32 = 0x8000_0010;

/// Slots in the message page and in the event-flags page, one for each SINT.
pub const SINTS: usize = 16;
/// Event flags of one SINT.
pub const EVENT_FLAGS: u32 = 2048;

/// Bit 0 of the hypercall, SIMP, SIEFP, SCONTROL and reference TSC registers: enabled. The page
/// registers hold a frame number from bit 12 on; bits 1 to 11 are to be preserved.
pub const ENABLE: u64 = 1;
/// The preserved bits of a page register.
pub const PRESERVED: u64 = 0xffe;

/// SINT register: the source raises no interrupt and gets no message.
pub const SINT_MASKED: u64 = 1 << 16;
/// SINT register: bits that are to be preserved.
pub const SINT_PRESERVED: u64 = !0 << 19;

/// Synthetic timer configuration: running.
pub const STIMER_ENABLED: u64 = 1;
/// Synthetic timer configuration: where the SINT's number starts.
pub const STIMER_SINT: u32 = 16;

/// Crash control: tell the host now (TLFS, "Guest crash enlightenment").
pub const CRASH_NOTIFY: u64 = 1 << 63;
/// Crash control: parameters 3 and 4 are address and length of a text.
pub const CRASH_MESSAGE: u64 = 1 << 62;

/// The reference TSC page (TLFS, "Partition reference TSC mechanism"):
/// `time = (tsc * scale >> 64) + offset`, in units of 100 ns.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReferenceTsc {
    /// Changes with the others; 0 while they are of no use.
    pub sequence: u32,
    /// Reserved.
    pub reserved: u32,
    /// Scale, a 64-bit fraction.
    pub scale: u64,
    /// Offset, signed, in units of 100 ns.
    pub offset: i64,
}
const _: () = assert!(size_of::<ReferenceTsc>() == 24);
const _: () = assert!(offset_of!(ReferenceTsc, scale) == 8);
const _: () = assert!(offset_of!(ReferenceTsc, offset) == 16);
