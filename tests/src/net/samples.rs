//! Frames to try things with: made here byte by byte, with nothing left undone or on purpose.

use super::headers::{Headers, TCP, UDP, add};
use super::{Checksum, Frame, Segment};

/// Who sends to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub v6: bool,
    pub tcp: bool,
    pub to: [u8; 6],
    pub from: [u8; 6],
    /// The last byte of either address, and either port.
    pub source: (u8, u16),
    pub target: (u8, u16),
}

impl Flow {
    /// TCP over IPv4 between two hosts.
    pub fn tcp4() -> Self {
        Flow {
            v6: false,
            tcp: true,
            to: [2, 0, 0, 0, 0, 2],
            from: [2, 0, 0, 0, 0, 1],
            source: (1, 1000),
            target: (2, 2000),
        }
    }

    /// Bytes of all headers.
    pub fn headers(&self) -> usize {
        14 + if self.v6 { 40 } else { 20 } + if self.tcp { 20 } else { 8 }
    }

    /// The frame with a checksum that is right.
    pub fn frame(&self, payload: &[u8]) -> Frame {
        let mut frames = super::finish::finish(self.partial(payload), super::Takes::default());
        let mut frame = frames.remove(0);
        frame.checksum = Checksum::InFrame;
        frame
    }

    /// The frame with its checksum to be filled in.
    pub fn partial(&self, payload: &[u8]) -> Frame {
        let mut bytes = Vec::new();
        bytes.extend(self.to);
        bytes.extend(self.from);
        let transport = if self.tcp { 20 } else { 8 } + payload.len();
        let protocol = if self.tcp { TCP } else { UDP };
        let (a, b) = (self.source.0, self.target.0);
        if self.v6 {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend((transport as u16).to_be_bytes());
            bytes.extend([protocol, 64]);
            for last in [a, b] {
                bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
            }
        } else {
            bytes.extend([8, 0, 0x45, 0]);
            bytes.extend((transport as u16).wrapping_add(20).to_be_bytes());
            bytes.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
            bytes.extend([10, 0, 0, a, 10, 0, 0, b]);
            let sum = !add(0, &bytes[14..34]);
            bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        let start = bytes.len();
        bytes.extend(self.source.1.to_be_bytes());
        bytes.extend(self.target.1.to_be_bytes());
        if self.tcp {
            bytes.extend([
                0, 0, 0x10, 0, 0, 0, 0x20, 0, 0x50, 0x18, 0x40, 0, 0, 0, 0, 0,
            ]);
        } else {
            bytes.extend((transport as u16).to_be_bytes());
            bytes.extend([0, 0]);
        }
        bytes.extend(payload);
        let offset = if self.tcp { 16 } else { 6 };
        if let Some(headers) = Headers::find(&bytes) {
            let sum = headers.pseudo(&bytes, transport);
            bytes[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
        }
        Frame {
            bytes,
            checksum: Checksum::Partial {
                start: start as u16,
                offset: offset as u16,
            },
            ..Frame::default()
        }
    }

    /// The frame to be cut into packets of `mss` bytes of payload.
    pub fn long(&self, payload: &[u8], mss: u16) -> Frame {
        Frame {
            segment: Some(Segment { v6: self.v6, mss }),
            ..self.partial(payload)
        }
    }
}

/// `len` bytes that differ by `seed` and place.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = crate::rng::Rng::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(rng.draw().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
