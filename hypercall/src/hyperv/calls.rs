//! Hypercalls: by registers, and by a private page of input.

use super::abi::{FAST, POST_MESSAGE, PostMessage, SIGNAL_EVENT, Status};
use super::overlay::Overlay;
use crate::gate::{Gate, HvCall, HvRegister};
use crate::host::HostError;
use crate::platform::Platform;
use crate::shm::Pages;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;
use zerocopy::FromZeros;

/// Why a message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostError {
    /// The host has no room for it just now, or says that it does not know the connection, which
    /// some hosts also say when messages come too fast. Worth another try.
    Busy(Status),
    /// The host refused for good.
    Refused(Status),
    /// A message holds 240 bytes at most.
    TooLong,
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(status) => write!(f, "the host takes no message now ({:#x})", status.0),
            Self::Refused(status) => write!(f, "the host refused a message ({:#x})", status.0),
            Self::TooLong => f.write_str("a message holds 240 bytes at most"),
        }
    }
}

impl core::error::Error for PostError {}

/// The hypercall page and the page of input.
#[derive(Debug)]
pub(super) struct Calls<P: Platform, G: Gate> {
    gate: G,
    /// The address of the hypercall page, which `code` keeps.
    entry: usize,
    input: Mutex<Pages<P>>,
    /// Hypercalls but for signals.
    count: AtomicU64,
    signals: AtomicU64,
    code: Overlay<P, G>,
}

impl<P: Platform, G: Gate> Calls<P, G> {
    /// Has the host fill `code` with its calling sequence. The guest must have named itself.
    ///
    /// # Errors
    /// [`HostError::Unsupported`] when the host does not.
    pub(super) fn new(gate: &G, code: Pages<P>, input: Pages<P>) -> Result<Self, HostError> {
        let entry = code.entry();
        let code = Overlay::new(gate, HvRegister::Hypercall, code);
        let calls = Self {
            gate: gate.clone(),
            entry,
            input: Mutex::new(input),
            count: AtomicU64::new(0),
            signals: AtomicU64::new(0),
            code,
        };
        if calls.code.is_on() {
            Ok(calls)
        } else {
            Err(HostError::Unsupported)
        }
    }

    /// Makes a call that is counted already.
    #[inline(always)]
    fn call(&self, control: u64, input: u64, output: u64) -> Status {
        let call = HvCall::new(control, input, output, self.entry);
        Status::of(self.gate.hv_call(call))
    }

    /// Hypercalls made so far.
    pub(super) fn count(&self) -> u64 {
        let others = self.count.load(Ordering::Relaxed);
        others.wrapping_add(self.signals())
    }

    /// Signals among them.
    pub(super) fn signals(&self) -> u64 {
        self.signals.load(Ordering::Relaxed)
    }

    /// HvSignalEvent, flag 0 of the connection.
    #[inline]
    pub(super) fn signal_event(&self, connection: u32) -> Status {
        self.signals.fetch_add(1, Ordering::Relaxed);
        self.call(SIGNAL_EVENT | FAST, connection.into(), 0)
    }

    /// HvPostMessage, once. The input is written anew for every try, because a host may have
    /// changed it.
    pub(super) fn post(&self, connection: u32, kind: u32, payload: &[u8]) -> Result<(), PostError> {
        let mut message = PostMessage::new_zeroed();
        message.connection = connection;
        message.kind = kind;
        message.size = u32::try_from(payload.len()).map_err(|_| PostError::TooLong)?;
        message
            .payload
            .get_mut(..payload.len())
            .ok_or(PostError::TooLong)?
            .copy_from_slice(payload);
        self.count.fetch_add(1, Ordering::Relaxed);
        let status = {
            let input = self.input.lock();
            input.first().write::<PostMessage, 0>(&message);
            self.call(POST_MESSAGE, input.first_gfn() << 12, 0)
        };
        match status {
            Status::SUCCESS => Ok(()),
            Status::INSUFFICIENT_MEMORY
            | Status::INSUFFICIENT_BUFFERS
            | Status::INVALID_CONNECTION_ID => Err(PostError::Busy(status)),
            _ => Err(PostError::Refused(status)),
        }
    }
}
