//! Captures: a classic pcap file with nanoseconds, and a line that writes one.

use super::{Frame, Port, finish};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// When, in nanoseconds, and what.
type Record = (u64, Vec<u8>);

/// A capture in memory. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Capture {
    records: Arc<Mutex<Vec<Record>>>,
}

impl Capture {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a frame as it is on a wire, nothing left undone. One that leaves something undone is
    /// finished first; one that was cut for it is several.
    pub fn record(&self, frame: &Frame) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        for frame in finish(frame.clone(), Default::default()) {
            // A microsecond apart: who looks at a capture wants order, and runs to be the same.
            let at = records.len() as u64 * 1000;
            records.push((at, frame.bytes));
        }
    }

    /// Frames captured so far.
    pub fn len(&self) -> usize {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.len()
    }

    /// The frames captured so far.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.iter().map(|(_, bytes)| bytes.clone()).collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file: magic 0xa1b23c4d (nanoseconds), version 2.4, LINKTYPE_ETHERNET
    /// (draft-ietf-opsawg-pcap).
    pub fn file(&self) -> Vec<u8> {
        let mut file = Vec::new();
        for word in [0xa1b2_3c4d, 4 << 16 | 2, 0, 0, 262_144, 1u32] {
            file.extend(word.to_le_bytes());
        }
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, bytes) in records.iter() {
            let len = bytes.len() as u32;
            let seconds = (at / 1_000_000_000) as u32;
            for word in [seconds, (at % 1_000_000_000) as u32, len, len] {
                file.extend(word.to_le_bytes());
            }
            file.extend(bytes);
        }
        file
    }

    /// Writes the file.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        std::fs::File::create(path)?.write_all(&self.file())
    }
}

/// A line that captures what passes it, both ways.
#[derive(Debug)]
pub struct Tapped<P> {
    line: P,
    capture: Capture,
}

impl<P: Port> Tapped<P> {
    /// Captures what passes `line`.
    pub fn new(line: P, capture: Capture) -> Self {
        Tapped { line, capture }
    }
}

impl<P: Port> Port for Tapped<P> {
    fn send(&mut self, frame: Frame) {
        self.capture.record(&frame);
        self.line.send(frame);
    }

    fn receive(&mut self) -> Option<Frame> {
        let frame = self.line.receive()?;
        self.capture.record(&frame);
        Some(frame)
    }

    fn is_ready(&self) -> bool {
        self.line.is_ready()
    }

    fn step(&mut self) -> bool {
        self.line.step()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::samples::{Flow, pattern};
    use crate::net::{Cable, cable};

    #[test]
    fn the_file_says_what_passed() {
        let capture = Capture::new();
        let (near, mut far): (Cable, Cable) = cable();
        let mut line = Tapped::new(near, capture.clone());
        line.send(Frame::new([1; 60]));
        far.send(Flow::tcp4().long(&pattern(2500, 3), 1000));
        assert!(line.receive().is_some());
        assert_eq!(capture.len(), 4);
        let file = capture.file();
        assert_eq!(file[..8], [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(file[20..24], [1, 0, 0, 0]);
        // Seconds, nanoseconds, two lengths, bytes.
        assert_eq!(
            file[24..40],
            [0, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 60, 0, 0, 0]
        );
        assert_eq!(file[104..108], [232, 3, 0, 0]);
        assert_eq!(file.len(), 24 + 4 * 16 + 60 + 3 * 54 + 2500);
    }
}
