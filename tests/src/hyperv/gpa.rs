//! Guest-physical ranges: what GPADLs and GPA-direct packets describe memory with.

use super::abi::PAGE;
use crate::memory::{BadAddress, GuestMemory};

/// Bytes that look contiguous to both sides, scattered over guest pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpaRange {
    /// Bytes to skip in the first page.
    pub offset: u32,
    /// Bytes in the range.
    pub bytes: u32,
    /// Guest frame numbers, 4 KiB each.
    pub frames: Vec<u64>,
}

impl GpaRange {
    /// Takes `count` ranges from 8-byte words; `None` if the words do not hold them. With the ranges
    /// comes the number of words they took.
    pub fn parse(count: usize, words: &[u64]) -> Option<(Vec<GpaRange>, usize)> {
        let mut ranges = Vec::new();
        let mut at = 0;
        for _ in 0..count {
            let &head = words.get(at)?;
            let (bytes, offset) = (head as u32, (head >> 32) as u32);
            if u64::from(offset) >= PAGE {
                return None;
            }
            let pages = (u64::from(offset) + u64::from(bytes)).div_ceil(PAGE) as usize;
            let frames = words.get(at + 1..at + 1 + pages)?.to_vec();
            at += 1 + pages;
            ranges.push(GpaRange {
                offset,
                bytes,
                frames,
            });
        }
        Some((ranges, at))
    }

    /// The guest-physical pieces of `len` bytes from `start` in the range: address and length.
    fn pieces(&self, start: usize, len: usize) -> Result<Vec<(u64, usize)>, BadAddress> {
        let end = start
            .checked_add(len)
            .filter(|&end| end <= self.bytes as usize);
        let Some(end) = end else {
            return Err(BadAddress(u64::MAX));
        };
        let mut pieces = Vec::new();
        let mut at = start;
        while at < end {
            let place = self.offset as usize + at;
            let (page, within) = (place / PAGE as usize, place % PAGE as usize);
            let size = (PAGE as usize - within).min(end - at);
            let frame = *self.frames.get(page).ok_or(BadAddress(u64::MAX))?;
            let base = frame.checked_mul(PAGE).ok_or(BadAddress(frame))?;
            pieces.push((base + within as u64, size));
            at += size;
        }
        Ok(pieces)
    }

    /// Copies bytes from `start` in the range out of guest memory.
    pub fn read(
        &self,
        memory: &dyn GuestMemory,
        start: usize,
        into: &mut [u8],
    ) -> Result<(), BadAddress> {
        let mut rest = into;
        for (gpa, size) in self.pieces(start, rest.len())? {
            let (part, after) = rest.split_at_mut(size);
            memory.read(gpa, part)?;
            rest = after;
        }
        Ok(())
    }

    /// Copies bytes into guest memory at `start` in the range.
    pub fn write(
        &self,
        memory: &dyn GuestMemory,
        start: usize,
        from: &[u8],
    ) -> Result<(), BadAddress> {
        let mut rest = from;
        for (gpa, size) in self.pieces(start, rest.len())? {
            let (part, after) = rest.split_at(size);
            memory.write(gpa, part)?;
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hyperv::flat::FlatMemory;

    #[test]
    fn ranges_cross_scattered_pages() {
        let memory = FlatMemory::new(4);
        // 5000 bytes from offset 4000 touch three pages, in the order 3, 0, 2.
        let words = [5000 | 4000 << 32, 3, 0, 2, 77];
        let (ranges, used) = GpaRange::parse(1, &words).unwrap();
        assert_eq!(used, 4);
        let data: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
        ranges[0].write(&memory, 0, &data).unwrap();
        let mut back = vec![0; 5000];
        ranges[0].read(&memory, 0, &mut back).unwrap();
        assert_eq!(back, data);
        let mut one = [0];
        memory.read(0, &mut one).unwrap();
        assert_eq!(one[0], data[96]);
        assert!(ranges[0].write(&memory, 1, &data).is_err());
        assert!(GpaRange::parse(2, &words).is_none());
        assert!(GpaRange::parse(1, &[5000 | 4096 << 32, 3, 0, 2]).is_none());
    }
}
