//! INQUIRY: who a logical unit says it is (SPC-4 6.4 and 7.8, SBC-3 6.5).

use super::{Data, Lun, Outcome, Sense, Unit};

const DISK: u8 = 0x00;
const DVD: u8 = 0x05;
/// Qualifier 3, type 0x1f: no unit here, and none possible.
const NOBODY: u8 = 0x7f;

impl Lun {
    pub(super) fn inquiry(&self, cdb: &[u8; 16], data: &Data<'_>) -> Outcome {
        let device = match self.unit {
            Unit::Disk(_) => DISK,
            Unit::Dvd => DVD,
        };
        let answer = match (cdb[1] & 1, cdb[2]) {
            (0, 0) => standard(device, self.product()),
            (1, page) => match self.vital_page(page) {
                Some(body) => {
                    let mut whole = vec![device, page];
                    whole.extend_from_slice(&(body.len() as u16).to_be_bytes());
                    whole.extend_from_slice(&body);
                    whole
                }
                None => return Outcome::check(Sense::INVALID_FIELD),
            },
            _ => return Outcome::check(Sense::INVALID_FIELD),
        };
        give(&answer, cdb, data)
    }

    fn product(&self) -> &'static [u8; 16] {
        match self.unit {
            Unit::Disk(_) => b"Virtual Disk    ",
            Unit::Dvd => b"Virtual CD/ROM  ",
        }
    }

    /// The body of a vital product data page.
    fn vital_page(&self, page: u8) -> Option<Vec<u8>> {
        let disk = match &self.unit {
            Unit::Disk(disk) => Some(disk),
            Unit::Dvd => None,
        };
        match page {
            0x00 if disk.is_some() => Some(vec![0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2]),
            0x00 => Some(vec![0x00, 0x83]),
            0x80 => disk.map(|_| format!("{:016x}", self.serial).into_bytes()),
            0x83 => Some(self.identifiers()),
            0xb0 => disk.map(|disk| {
                let mut limits = vec![0; 60];
                let blocks = self.max_transfer_bytes / disk.sector_size();
                limits[4..8].copy_from_slice(&blocks.to_be_bytes());
                if self.unmap {
                    limits[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
                    limits[20..24].copy_from_slice(&64u32.to_be_bytes());
                    limits[24..28].copy_from_slice(&1u32.to_be_bytes());
                }
                limits
            }),
            0xb1 => disk.map(|_| {
                let mut characteristics = vec![0; 60];
                characteristics[1] = 1; // does not rotate
                characteristics
            }),
            0xb2 => disk.map(|_| vec![0, if self.unmap { 0x80 } else { 0 }, 0, 0]),
            _ => None,
        }
    }

    /// One NAA identifier, locally assigned, made from the serial number.
    fn identifiers(&self) -> Vec<u8> {
        let mut identifier = vec![0x01, 0x03, 0, 8];
        let naa = 3 << 60 | self.serial & ((1 << 60) - 1);
        identifier.extend_from_slice(&naa.to_be_bytes());
        identifier
    }
}

pub(super) fn nobody(cdb: &[u8; 16], data: &Data<'_>) -> Outcome {
    if cdb[1] & 1 != 0 || cdb[2] != 0 {
        return Outcome::check(Sense::INVALID_FIELD);
    }
    give(&standard(NOBODY, b"                "), cdb, data)
}

fn give(answer: &[u8], cdb: &[u8; 16], data: &Data<'_>) -> Outcome {
    let allocated = usize::from(cdb[3]) << 8 | usize::from(cdb[4]);
    data.give(&answer[..answer.len().min(allocated)])
}

/// 36 bytes of standard data: SPC-3, response format 2, tagged queueing.
fn standard(device: u8, product: &[u8; 16]) -> Vec<u8> {
    let removable = if device == DVD { 0x80 } else { 0 };
    let mut answer = vec![device, removable, 5, 2, 31, 0, 0, 2];
    answer.extend_from_slice(b"Msft    ");
    answer.extend_from_slice(product);
    answer.extend_from_slice(b"1.0 ");
    answer
}
