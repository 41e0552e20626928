//! The SCSI commands a disk needs, and what devices answer: SBC-3 and SPC-4.

use crate::request::IoError;

/// A command descriptor block in the room a request has for it, and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cdb {
    /// The bytes; those beyond `len` are 0.
    pub bytes: [u8; 20],
    /// How many are the command.
    pub len: u8,
}

/// `GOOD`.
pub const STATUS_GOOD: u8 = 0x00;
/// `CHECK CONDITION`: see the sense data.
pub const STATUS_CHECK_CONDITION: u8 = 0x02;
/// `BUSY`.
pub const STATUS_BUSY: u8 = 0x08;
/// `TASK SET FULL`.
pub const STATUS_TASK_SET_FULL: u8 = 0x28;

/// The most logical blocks a ten-byte READ or WRITE moves.
const TEN_BLOCKS: u64 = 0xffff;

impl Cdb {
    fn six(bytes: [u8; 6]) -> Self {
        Self::pad(&bytes)
    }

    fn pad(short: &[u8]) -> Self {
        let mut bytes = [0; 20];
        for (to, from) in bytes.iter_mut().zip(short) {
            *to = *from;
        }
        Self {
            bytes,
            len: short.len() as u8,
        }
    }

    /// `TEST UNIT READY`.
    pub fn test_unit_ready() -> Self {
        Self::six([0; 6])
    }

    /// `INQUIRY`, standard data.
    pub fn inquiry(room: u8) -> Self {
        Self::six([0x12, 0, 0, 0, room, 0])
    }

    /// `INQUIRY` of a vital product data page.
    pub fn inquiry_page(page: u8, room: u8) -> Self {
        Self::six([0x12, 1, page, 0, room, 0])
    }

    /// `MODE SENSE (6)` of the caching page.
    pub fn mode_sense_caching(room: u8) -> Self {
        Self::six([0x1a, 0x08, 0x08, 0, room, 0])
    }

    /// `READ CAPACITY (10)`.
    pub fn read_capacity10() -> Self {
        Self::pad(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// `READ CAPACITY (16)`.
    pub fn read_capacity16(room: u8) -> Self {
        Self::pad(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, room, 0, 0])
    }

    /// `REPORT LUNS`.
    pub fn report_luns(room: u16) -> Self {
        let [high, low] = room.to_be_bytes();
        Self::pad(&[0xa0, 0, 0, 0, 0, 0, 0, 0, high, low, 0, 0])
    }

    /// `SYNCHRONIZE CACHE (10)` of the whole disk.
    pub fn synchronize_cache() -> Self {
        Self::pad(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// `READ` or `WRITE` of `count` logical blocks from `lba` on, in ten bytes where they fit.
    #[inline]
    pub fn transfer(write: bool, lba: u64, count: u64) -> Self {
        let mut bytes = [0u8; 20];
        if lba <= u64::from(u32::MAX) && count <= TEN_BLOCKS {
            let [a, b, c, d] = (lba as u32).to_be_bytes();
            let [h, l] = (count as u16).to_be_bytes();
            bytes[0] = if write { 0x2a } else { 0x28 };
            [bytes[2], bytes[3], bytes[4], bytes[5]] = [a, b, c, d];
            [bytes[7], bytes[8]] = [h, l];
            return Self { bytes, len: 10 };
        }
        bytes[0] = if write { 0x8a } else { 0x88 };
        [
            bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7], bytes[8], bytes[9],
        ] = lba.to_be_bytes();
        [bytes[10], bytes[11], bytes[12], bytes[13]] = (count as u32).to_be_bytes();
        Self { bytes, len: 16 }
    }
}

/// What standard `INQUIRY` data says, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inquiry {
    /// The device type: 0 is a direct-access disk, 5 a DVD.
    pub kind: u8,
    /// The qualifier: 0 is connected.
    pub qualifier: u8,
}

impl Inquiry {
    /// Reads it; `None` when it is too short to say anything.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let first = *data.first()?;
        Some(Self {
            kind: first & 0x1f,
            qualifier: first >> 5,
        })
    }

    /// Whether it is a disk that is there.
    pub fn is_disk(self) -> bool {
        self.kind == 0 && self.qualifier == 0
    }
}

/// The size of a disk, as `READ CAPACITY` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// How many logical blocks.
    pub blocks: u64,
    /// Bytes in a logical block.
    pub block_size: u32,
}

impl Capacity {
    /// Reads `READ CAPACITY (10)` data. A last block of 0xffffffff means: ask for sixteen bytes.
    pub fn parse10(data: &[u8]) -> Option<Self> {
        let last = u32::from_be_bytes(*data.first_chunk()?);
        let block_size = u32::from_be_bytes(*data.get(4..)?.first_chunk()?);
        Some(Self {
            blocks: u64::from(last).checked_add(1)?,
            block_size,
        })
    }

    /// Reads `READ CAPACITY (16)` data.
    pub fn parse16(data: &[u8]) -> Option<Self> {
        let last = u64::from_be_bytes(*data.first_chunk()?);
        let block_size = u32::from_be_bytes(*data.get(8..)?.first_chunk()?);
        Some(Self {
            blocks: last.checked_add(1)?,
            block_size,
        })
    }
}

/// What `MODE SENSE (6)` says of protection and cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// The device refuses writes.
    pub write_protected: bool,
    /// The device has a write cache, if it says.
    pub write_cache: Option<bool>,
}

impl Mode {
    /// Reads it.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let protected = *data.get(2)? & 0x80 != 0;
        let descriptors = usize::from(*data.get(3)?);
        let page = data.get(4usize.checked_add(descriptors)?..)?;
        let write_cache = match page {
            [code, _, flags, ..] if code & 0x3f == 0x08 => Some(flags & 0x04 != 0),
            _ => None,
        };
        Some(Self {
            write_protected: protected,
            write_cache,
        })
    }
}

/// Sense data: why a device said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// The sense key.
    pub key: u8,
    /// The additional sense code.
    pub code: u8,
    /// Its qualifier.
    pub qualifier: u8,
}

impl Sense {
    /// Reads sense data in fixed (0x70) or descriptor (0x72) format.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let (key, code, qualifier) = match data.first()? & 0x7f {
            0x70 | 0x71 => (*data.get(2)?, *data.get(12)?, *data.get(13)?),
            0x72 | 0x73 => (*data.get(1)?, *data.get(2)?, *data.get(3)?),
            _ => return None,
        };
        Some(Self {
            key: key & 0x0f,
            code,
            qualifier,
        })
    }

    /// Whether the device only tells that something changed (UNIT ATTENTION): try again.
    pub fn is_attention(self) -> bool {
        self.key == 0x06
    }

    /// What it means for a request.
    pub fn error(self) -> IoError {
        match (self.key, self.code) {
            // ILLEGAL REQUEST: logical block address out of range, invalid operation code.
            (0x05, 0x21) => IoError::BeyondEnd,
            (0x05, 0x20) => IoError::Unsupported,
            // DATA PROTECT.
            (0x07, _) => IoError::ReadOnly,
            // NOT READY, UNIT ATTENTION.
            (0x02 | 0x06, _) => IoError::Busy,
            _ => IoError::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_takes_ten_bytes_where_it_fits() {
        let ten = Cdb::transfer(false, 0x0102_0304, 0x0506);
        assert_eq!(ten.len, 10);
        assert_eq!(ten.bytes[..10], [0x28, 0, 1, 2, 3, 4, 0, 5, 6, 0]);
        let far = Cdb::transfer(true, 1 << 32, 1);
        assert_eq!(far.len, 16);
        assert_eq!(
            far.bytes[..16],
            [0x8a, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
        );
        assert_eq!(Cdb::transfer(false, 0, 0x1_0000).len, 16);
    }

    #[test]
    fn capacity_is_one_more_than_the_last_block() {
        let ten = [0, 0, 0xff, 0xff, 0, 0, 2, 0];
        let c = Capacity::parse10(&ten).unwrap();
        assert_eq!((c.blocks, c.block_size), (0x1_0000, 512));
        assert_eq!(Capacity::parse10(&ten[..7]), None);
        // The last possible block would make the count overflow: refused.
        assert_eq!(Capacity::parse16(&[0xff; 12]), None);
    }

    #[test]
    fn sense_is_read_in_both_formats() {
        let mut fixed = [0u8; 18];
        fixed[0] = 0x70;
        fixed[2] = 0x05;
        fixed[12] = 0x21;
        assert_eq!(Sense::parse(&fixed).unwrap().error(), IoError::BeyondEnd);
        let descriptor = [0x72, 0x07, 0x27, 0];
        assert_eq!(
            Sense::parse(&descriptor).unwrap().error(),
            IoError::ReadOnly
        );
        assert_eq!(Sense::parse(&[0x70]), None);
        assert_eq!(Sense::parse(&[]), None);
    }

    #[test]
    fn mode_sense_tells_protection_and_cache() {
        let with_page = [20, 0, 0x80, 0, 0x08, 0x12, 0x04, 0];
        let mode = Mode::parse(&with_page).unwrap();
        assert!(mode.write_protected);
        assert_eq!(mode.write_cache, Some(true));
        assert_eq!(Mode::parse(&[3, 0, 0, 0]).unwrap().write_cache, None);
        assert_eq!(Mode::parse(&[3, 0, 0, 200]), None);
    }
}
