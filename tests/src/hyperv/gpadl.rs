//! GPADLs: guest memory described once, in one message or several, and named by a handle.

use super::gpa::GpaRange;
use std::collections::BTreeMap;

/// Why a GPADL message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpadlError {
    /// Handle 0, or one that is in use.
    Handle,
    /// A handle nobody created, or one that is complete where it must not be.
    Unknown,
    /// More bytes than announced, or not whole 8-byte words.
    Length,
    /// The words do not hold the announced ranges.
    Ranges,
}

#[derive(Debug)]
struct Gpadl {
    relid: u32,
    range_count: usize,
    words_expected: usize,
    words: Vec<u64>,
    ranges: Option<Vec<GpaRange>>,
}

/// Every GPADL of a connection.
#[derive(Debug, Default)]
pub struct Gpadls {
    table: BTreeMap<u32, Gpadl>,
}

impl Gpadls {
    /// Starts a GPADL with the words of its header message. True: complete.
    pub fn header(
        &mut self,
        relid: u32,
        handle: u32,
        range_bytes: u16,
        range_count: u16,
        body: &[u8],
    ) -> Result<bool, GpadlError> {
        if handle == 0 || self.table.contains_key(&handle) {
            return Err(GpadlError::Handle);
        }
        if !range_bytes.is_multiple_of(8) || range_count == 0 {
            return Err(GpadlError::Length);
        }
        let gpadl = Gpadl {
            relid,
            range_count: range_count.into(),
            words_expected: usize::from(range_bytes) / 8,
            words: Vec::new(),
            ranges: None,
        };
        self.table.insert(handle, gpadl);
        self.body(handle, body)
    }

    /// Adds the words of a body message; on an error the GPADL is gone. True: complete.
    pub fn body(&mut self, handle: u32, body: &[u8]) -> Result<bool, GpadlError> {
        let Some(gpadl) = self
            .table
            .get_mut(&handle)
            .filter(|gpadl| gpadl.ranges.is_none())
        else {
            return Err(GpadlError::Unknown);
        };
        let result = gpadl.extend(body);
        if result.is_err() {
            self.table.remove(&handle);
        }
        result
    }

    /// The channel a GPADL was made for.
    pub fn relid(&self, handle: u32) -> Option<u32> {
        self.table.get(&handle).map(|gpadl| gpadl.relid)
    }

    /// The ranges of a complete GPADL of this channel.
    pub fn ranges(&self, relid: u32, handle: u32) -> Option<&[GpaRange]> {
        let gpadl = self
            .table
            .get(&handle)
            .filter(|gpadl| gpadl.relid == relid)?;
        gpadl.ranges.as_deref()
    }

    /// Forgets a GPADL; false if this channel has none by that handle.
    pub fn tear_down(&mut self, relid: u32, handle: u32) -> bool {
        self.table
            .get(&handle)
            .is_some_and(|gpadl| gpadl.relid == relid)
            && self.table.remove(&handle).is_some()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.table.clear();
    }

    /// GPADLs that exist.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none exists.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Forgets all of a channel.
    pub fn release(&mut self, relid: u32) {
        self.table.retain(|_, gpadl| gpadl.relid != relid);
    }
}

/// The complete GPADLs of one channel.
#[derive(Debug, Clone, Copy)]
pub struct GpadlView<'a> {
    all: &'a Gpadls,
    relid: u32,
}

impl<'a> GpadlView<'a> {
    /// Those of the channel with this id.
    pub fn new(all: &'a Gpadls, relid: u32) -> Self {
        GpadlView { all, relid }
    }

    /// The range of a GPADL that has exactly one.
    pub fn range(&self, handle: u32) -> Option<&'a GpaRange> {
        match self.all.ranges(self.relid, handle) {
            Some([range]) => Some(range),
            _ => None,
        }
    }
}

impl Gpadl {
    fn extend(&mut self, body: &[u8]) -> Result<bool, GpadlError> {
        // A message may be longer than what it has to say, as its sender rounds it up.
        let missing = self.words_expected - self.words.len();
        let words = body.chunks_exact(8).take(missing);
        self.words
            .extend(words.map(|w| u64::from_le_bytes(w.try_into().expect("8 bytes"))));
        if self.words.len() < self.words_expected {
            // A part that brings nothing would never end.
            return if body.len() < 8 {
                Err(GpadlError::Length)
            } else {
                Ok(false)
            };
        }
        match GpaRange::parse(self.range_count, &self.words) {
            Some((ranges, used)) if used == self.words.len() => {
                self.ranges = Some(ranges);
                Ok(true)
            }
            _ => Err(GpadlError::Ranges),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn bodies_complete_what_a_header_began() {
        let mut gpadls = Gpadls::default();
        let three_pages = 3 * 4096;
        assert_eq!(
            gpadls.header(1, 9, 32, 1, &bytes(&[three_pages, 7])),
            Ok(false)
        );
        assert_eq!(gpadls.ranges(1, 9), None);
        assert_eq!(gpadls.body(9, &bytes(&[5])), Ok(false));
        assert_eq!(gpadls.body(9, &bytes(&[6, 999])), Ok(true));
        assert_eq!(gpadls.ranges(1, 9).unwrap()[0].frames, [7, 5, 6]);
        assert_eq!(gpadls.ranges(2, 9), None);
        assert_eq!(gpadls.body(9, &bytes(&[6])), Err(GpadlError::Unknown));
        assert_eq!(
            gpadls.header(1, 9, 16, 1, &bytes(&[8, 1])),
            Err(GpadlError::Handle)
        );
        assert!(!gpadls.tear_down(2, 9) && gpadls.tear_down(1, 9));
    }

    #[test]
    fn nonsense_leaves_nothing_behind() {
        let mut gpadls = Gpadls::default();
        assert_eq!(
            gpadls.header(1, 0, 16, 1, &bytes(&[8, 1])),
            Err(GpadlError::Handle)
        );
        assert_eq!(
            gpadls.header(1, 2, 12, 1, &bytes(&[8, 1])),
            Err(GpadlError::Length)
        );
        assert_eq!(
            gpadls.header(1, 2, 24, 1, &bytes(&[8, 1, 2])),
            Err(GpadlError::Ranges)
        );
        assert_eq!(
            gpadls.header(1, 2, 16, 1, &bytes(&[8192, 1])),
            Err(GpadlError::Ranges)
        );
        assert_eq!(gpadls.header(1, 2, 24, 1, &bytes(&[8192, 1])), Ok(false));
        assert_eq!(gpadls.body(2, &[]), Err(GpadlError::Length));
        assert!(gpadls.is_empty());
    }
}
