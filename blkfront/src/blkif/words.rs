//! Records of a block ring as the words they are written in: made from fields, they stay in
//! registers.

use super::abi::{RequestHeader, Response, Segment};

impl Segment {
    /// The same bytes as one word. Built from its fields it stays in a register.
    #[inline(always)]
    pub(super) const fn word(self) -> u64 {
        self.gref as u64 | (self.first_sect as u64) << 32 | (self.last_sect as u64) << 40
    }
}

impl Segment {
    /// The word of a whole page.
    #[inline(always)]
    pub(super) const fn of_page(gref: u32) -> u64 {
        gref as u64 | 7 << 40
    }
}

/// What a response says besides its id and its padding, of its second word: operation and status.
#[inline(always)]
pub(super) const fn says(rest: u64) -> u32 {
    rest as u32 & 0xffff_00ff
}

impl RequestHeader {
    /// The first word of a request of one segment, but for its operation, which is added to it.
    pub(super) const fn of_page(handle: u16) -> u64 {
        1 << 8 | (handle as u64) << 16
    }

    /// The same bytes as words. Built from its fields they stay in registers.
    #[inline(always)]
    pub(super) const fn words(self) -> [u64; 3] {
        let first = self.operation as u64 | (self.nr_segments as u64) << 8;
        [
            first | (self.handle as u64) << 16,
            self.id,
            self.sector_number,
        ]
    }
}

impl Response {
    /// From the words that hold it.
    #[inline(always)]
    pub(super) const fn from_words([id, rest]: [u64; 2]) -> Self {
        Self {
            id,
            operation: rest as u8,
            pad: 0,
            status: (rest >> 16) as i16,
            pad2: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::{FromBytes, IntoBytes};

    #[test]
    fn words_are_the_same_bytes() {
        let segment = Segment {
            gref: 0x0403_0201,
            first_sect: 5,
            last_sect: 6,
            pad: 0,
        };
        assert_eq!(segment.word().to_le_bytes(), segment.as_bytes());
        let whole = Segment {
            first_sect: 0,
            last_sect: 7,
            ..segment
        };
        assert_eq!(Segment::of_page(segment.gref), whole.word());
        let header = RequestHeader {
            operation: 1,
            nr_segments: 2,
            handle: 0x0403,
            pad: 0,
            id: 0x1122_3344_5566_7788,
            sector_number: 9,
        };
        assert_eq!(header.words().as_bytes(), header.as_bytes());
        let response = Response {
            id: 7,
            operation: 3,
            pad: 0,
            status: -2,
            pad2: 0,
        };
        let words = <[u64; 2]>::read_from_bytes(response.as_bytes()).unwrap();
        assert_eq!(Response::from_words(words), response);
        assert_eq!(says(words[1] | 0xff << 8 | 0xff << 32), 0xfffe_0003);
    }
}
