//! MODE SENSE 6 and 10: the write-protect bit and the caching page (SPC-4 7.5, SBC-3 6.4.5).

use super::{Data, Outcome, Sense, op};

const WRITE_PROTECTED: u8 = 0x80;
const FUA_KNOWN: u8 = 0x10;

pub(super) fn sense(cdb: &[u8; 16], read_only: bool, data: &Data<'_>) -> Outcome {
    let mut caching = [0; 20];
    caching[..3].copy_from_slice(&[0x08, 18, 0x04]); // a volatile write cache is on
    let pages: &[u8] = match cdb[2] & 0x3f {
        0x08 | 0x3f => &caching,
        _ => return Outcome::check(Sense::INVALID_FIELD),
    };
    let specific = FUA_KNOWN | if read_only { WRITE_PROTECTED } else { 0 };
    let (mut answer, allocated) = if cdb[0] == op::MODE_SENSE_6 {
        (
            vec![3 + pages.len() as u8, 0, specific, 0],
            usize::from(cdb[4]),
        )
    } else {
        let length = 6 + pages.len() as u8;
        (
            vec![0, length, 0, specific, 0, 0, 0, 0],
            usize::from(cdb[7]) << 8 | usize::from(cdb[8]),
        )
    };
    answer.extend_from_slice(pages);
    data.give(&answer[..answer.len().min(allocated)])
}
