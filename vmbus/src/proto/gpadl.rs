//! Naming pages to the host: a list of frames cut into messages.

use super::outgoing::Outgoing;
use crate::abi::message::{BODY_WORDS, GpadlBody, GpadlHeader, HEADER_WORDS};
use crate::abi::packet::GpaRange;
use hypercall::platform::PAGE_SIZE;
use zerocopy::IntoBytes;

/// The messages that make one GPADL of whole pages.
#[derive(Debug, Clone)]
pub struct Messages<I> {
    relid: u32,
    gpadl: u32,
    pages: usize,
    frames: I,
    /// Whether the header was made.
    begun: bool,
    /// Frames that are still to be named.
    left: usize,
}

impl<I: Iterator<Item = u64>> Messages<I> {
    /// For `pages` frames. `None` for none, or more than the length in the header can say (8190).
    pub fn new(relid: u32, gpadl: u32, pages: usize, frames: I) -> Option<Self> {
        let words = u16::try_from(pages.checked_add(1)?).ok()?;
        let fits = pages != 0 && words <= u16::MAX / 8;
        fits.then_some(Self {
            relid,
            gpadl,
            pages,
            frames,
            begun: false,
            left: pages,
        })
    }

    fn header(&mut self) -> Outgoing {
        // `new` made sure that these fit.
        let words = self.pages.wrapping_add(1);
        let mut message = Outgoing::new(&GpadlHeader {
            relid: self.relid,
            gpadl: self.gpadl,
            range_bytes: words.wrapping_mul(8) as u16,
            range_count: 1,
        });
        let range = GpaRange {
            bytes: self.pages.wrapping_mul(PAGE_SIZE) as u32,
            offset: 0,
        };
        message.push(range.as_bytes());
        self.fill(&mut message, const { HEADER_WORDS - 1 });
        message
    }

    fn fill(&mut self, message: &mut Outgoing, words: usize) {
        for frame in self.frames.by_ref().take(words.min(self.left)) {
            message.push(frame.as_bytes());
            self.left = self.left.saturating_sub(1);
        }
    }
}

impl<I: Iterator<Item = u64>> Iterator for Messages<I> {
    type Item = Outgoing;

    fn next(&mut self) -> Option<Outgoing> {
        if !self.begun {
            self.begun = true;
            return Some(self.header());
        }
        if self.left == 0 {
            return None;
        }
        let mut message = Outgoing::new(&GpadlBody {
            message_number: 0,
            gpadl: self.gpadl,
        });
        let before = self.left;
        self.fill(&mut message, BODY_WORDS);
        (self.left < before).then_some(message)
    }
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows fails"
)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// The frames that the messages for `pages` pages name, and how many messages.
    fn named(pages: u64) -> (Vec<u64>, usize) {
        let messages: Vec<_> = Messages::new(5, 0xe1e10, pages as usize, 100..100 + pages)
            .unwrap()
            .collect();
        let word =
            |m: &Outgoing, at: usize| u64::from_le_bytes(m.bytes()[at..at + 8].try_into().unwrap());
        let mut frames = Vec::new();
        for (i, message) in messages.iter().enumerate() {
            assert!(message.bytes().len() <= 240);
            let start = if i == 0 {
                assert_eq!(word(message, 0), 8);
                assert_eq!(word(message, 8), 5 | 0xe1e10 << 32);
                let range_bytes = (pages + 1) * 8;
                assert_eq!(word(message, 16) & 0xffff_ffff, range_bytes | 1 << 16);
                assert_eq!(word(message, 20), pages * 4096);
                28
            } else {
                assert_eq!(word(message, 0), 9);
                assert_eq!(word(message, 8), 0xe1e10 << 32);
                16
            };
            for at in (start..message.bytes().len()).step_by(8) {
                frames.push(word(message, at));
            }
        }
        (frames, messages.len())
    }

    #[test]
    fn frames_are_named_in_order_and_once() {
        // Miri would take minutes over the longest list.
        let longest = if cfg!(miri) { (82, 3) } else { (8190, 293) };
        for (pages, messages) in [(1, 1), (26, 1), (27, 2), (54, 2), (55, 3), longest] {
            let (frames, count) = named(pages);
            assert_eq!(frames, (100..100 + pages).collect::<Vec<_>>());
            assert_eq!(count, messages, "{pages}");
        }
    }

    #[test]
    fn lists_that_a_header_cannot_describe_are_refused() {
        assert!(Messages::new(1, 1, 0, 0..0).is_none());
        assert!(Messages::new(1, 1, 8191, 0..8191).is_none());
        assert!(Messages::new(1, 1, usize::MAX, 0..1).is_none());
    }

    #[test]
    fn a_short_list_ends() {
        assert_eq!(Messages::new(1, 1, 100, 0..30).unwrap().count(), 2);
    }
}
