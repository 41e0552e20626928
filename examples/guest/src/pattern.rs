//! Bytes that tell where they belong: a function of a seed and of the place on the disk.

/// A pattern; no two places and no two seeds have the same bytes, as far as 64 bits go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pattern {
    seed: u64,
}

impl Pattern {
    /// The pattern of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The bytes at byte `offset` of the disk, a multiple of 8.
    pub fn fill(&self, offset: u64, into: &mut [u8]) {
        let (words, rest) = into.as_chunks_mut();
        let mut place = offset >> 3;
        for word in words {
            *word = self.word(place);
            place = place.wrapping_add(1);
        }
        let last = self.word(place);
        rest.iter_mut().zip(last).for_each(|(to, from)| *to = from);
    }

    /// Where `bytes` first differ from what belongs at byte `offset` of the disk.
    pub fn differs(&self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let (words, rest) = bytes.as_chunks();
        let mut place = offset >> 3;
        for word in words {
            if *word != self.word(place) {
                return Some(place << 3);
            }
            place = place.wrapping_add(1);
        }
        let same = self.word(place).starts_with(rest);
        (!same).then_some(place << 3)
    }

    fn word(&self, place: u64) -> [u8; 8] {
        mix(place ^ self.seed.rotate_left(32)).to_le_bytes()
    }
}

/// The finalizer of splitmix64: a bijection in which every input bit moves every output bit.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// Visits each of `0..count` once, in an order that jumps about.
#[derive(Clone, Copy, Debug)]
pub struct Shuffle {
    count: u64,
    step: u64,
    at: u64,
    left: u64,
}

impl Shuffle {
    /// An order of `0..count` that depends on `seed`.
    pub fn new(count: u64, seed: u64) -> Self {
        // A step without a common divisor comes back to the start only after all have been visited.
        let start = mix(seed).checked_rem(count).unwrap_or(0);
        let mut step = (count.saturating_mul(5) / 8) | 1;
        while divisor(step, count) > 1 {
            step = step.saturating_add(2);
        }
        Self {
            count,
            step,
            at: start,
            left: count,
        }
    }
}

impl Iterator for Shuffle {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        let here = self.at;
        let next = u128::from(here).wrapping_add(u128::from(self.step));
        self.at = next.checked_rem(u128::from(self.count)).unwrap_or(0) as u64;
        Some(here)
    }
}

/// The greatest common divisor.
fn divisor(mut a: u64, mut b: u64) -> u64 {
    while let Some(rest) = a.checked_rem(b) {
        (a, b) = (b, rest);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_pattern_knows_its_place() {
        let pattern = Pattern::new(7);
        let mut bytes = [0; 64];
        pattern.fill(4096, &mut bytes);
        assert_eq!(pattern.differs(4096, &bytes), None);
        assert_eq!(pattern.differs(4104, &bytes), Some(4104));
        assert_eq!(Pattern::new(8).differs(4096, &bytes), Some(4096));
        bytes[41] ^= 1;
        assert_eq!(pattern.differs(4096, &bytes), Some(4096 + 40));
    }

    #[test]
    fn a_shuffle_visits_everything_once() {
        for count in [0, 1, 2, 3, 4, 5, 8, 10, 64, 97, 1000, 1024] {
            let mut seen = vec![false; count as usize];
            for at in Shuffle::new(count, 3) {
                assert!(!core::mem::replace(&mut seen[at as usize], true), "{count}");
            }
            assert!(seen.iter().all(|seen| *seen), "{count}");
        }
    }
}
