//! Messages to the host, as bytes.

use crate::abi::message::{Body, Header, MESSAGE_BYTES};
use core::fmt;
use zerocopy::IntoBytes;

/// A message of at most 240 bytes.
#[derive(Clone, Copy)]
pub struct Outgoing {
    len: usize,
    bytes: [u8; MESSAGE_BYTES],
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outgoing({:x?})", self.bytes())
    }
}

impl Outgoing {
    /// A header and its structure. Structures fit, which is checked when they are defined.
    pub fn new<T: Body>(body: &T) -> Self {
        let mut message = Self {
            len: 0,
            bytes: [0; MESSAGE_BYTES],
        };
        let header = Header {
            kind: T::KIND,
            padding: 0,
        };
        let _ = message.push(header.as_bytes()) && message.push(body.as_bytes());
        message
    }

    /// Adds bytes to the end; false, and nothing added, when they do not fit.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let end = self.len.saturating_add(bytes.len());
        let Some(place) = self.bytes.get_mut(self.len..end) else {
            return false;
        };
        place.copy_from_slice(bytes);
        self.len = end;
        true
    }

    /// What is sent.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}
