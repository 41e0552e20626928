//! The requests of which there are most, made of words: READ (10) and WRITE (10) of one page, in the
//! form that hosts have from Windows 8 on.

use super::abi::{
    DATA_READ, DATA_WRITE, Operation, REQUEST_COMPLETION, SrbFlags, SrbStatus, Version,
};
use crate::limits::{Limits, SECTOR};
use crate::places::PagePlaces;
use hypercall::shm::{PAGE_SIZE, Words};

/// Sectors of 512 bytes in a page.
const SECTORS: usize = PAGE_SIZE / SECTOR;

/// What all such requests to one disk have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageSrb {
    /// Where they go; nowhere, if the version has another form.
    places: PagePlaces,
    /// The third word of a READ.
    address: u64,
    /// Of the fifth word, how many logical blocks a page is.
    blocks: u64,
    /// log2 of 512-byte sectors in a logical block.
    shift: u32,
}

/// Operation code and length of READ (10).
const READ: u64 = 0x28;
/// What makes a WRITE (10) of it.
const WRITE: u64 = 0x02;
const CDB_LENGTH: u64 = 10;

impl PageSrb {
    /// To the disk with these limits.
    pub(super) fn new(version: Version, target: u8, lun: u8, limits: &Limits) -> Self {
        let shift = (limits.sector_size >> 9).trailing_zeros();
        let places = if version >= Version::WIN8 {
            // A block's number has 32 bits.
            PagePlaces::of(limits, (1u64 << 32).wrapping_shl(shift))
        } else {
            PagePlaces::default()
        };
        let blocks = (SECTORS as u16).wrapping_shr(shift);
        Self {
            places,
            address: u64::from(target) << 16
                | u64::from(lun) << 24
                | CDB_LENGTH << 32
                | u64::from(version.sense_size()) << 40
                | u64::from(DATA_READ) << 48,
            blocks: u64::from(blocks.swap_bytes()) << 24,
            shift,
        }
    }

    /// A packet for the page of disk from a sector on, unless that takes another form. Built from
    /// words it stays in registers.
    #[inline(always)]
    pub(super) fn words(&self, write: bool, sector: u64) -> Option<[u64; 8]> {
        const FLAGS: u32 = SrbFlags::DISABLE_SYNCH_TRANSFER
            .union(SrbFlags::QUEUE_ACTION_ENABLE)
            .bits();
        if !self.places.contains(write, sector) {
            return None;
        }
        let (code, way, flag) = if write {
            const { assert!(DATA_WRITE == 0) };
            let way = self.address & !(u64::from(DATA_READ) << 48);
            (READ | WRITE, way, SrbFlags::DATA_OUT)
        } else {
            (READ, self.address, SrbFlags::DATA_IN)
        };
        // Big-endian, from byte 2 of the command on.
        let lba = u64::from((sector.wrapping_shr(self.shift) as u32).swap_bytes());
        Some([
            const { Operation::EXECUTE_SRB.0 as u64 | (REQUEST_COMPLETION as u64) << 32 },
            0x34 << 32,
            way,
            const { PAGE_SIZE as u64 } | code << 32 | lba << 48,
            lba >> 16 | self.blocks,
            0,
            0xff << 16 | 0x20 << 24 | u64::from(FLAGS | flag.bits()) << 32,
            60,
        ])
    }
}

/// How many bytes a request moved that succeeded, from its answer; `None` of any other packet.
#[inline(always)]
pub(super) fn success(answer: Words<'_>) -> Option<u32> {
    // The packet's status, the request's without its flags, and the device's.
    const STATUS: u64 = 0xff3f_0000_ffff_ffff;
    let sound = answer.load(0).ok()? as u32 == Operation::COMPLETE_IO.0
        && answer.load(1).ok()? & STATUS == const { (SrbStatus::SUCCESS as u64) << 48 };
    let moved = answer.load(3).ok()?;
    sound.then_some(moved as u32)
}

#[cfg(test)]
mod tests {
    use super::super::abi::{Packet, ShortPacket, Srb, Win8};
    use super::super::scsi::Cdb;
    use super::*;
    use hypercall::shm::Pages;
    use hypercall::shm::hosted::{Alone, Hosted, Ram};
    use zerocopy::IntoBytes;

    #[test]
    fn words_are_the_same_bytes() {
        for write in [false, true] {
            let (way, flag) = if write { (0, 0x80) } else { (1, 0x40) };
            let cdb = Cdb::transfer(write, 0x1234_5678, 4);
            let packet = Packet {
                short: ShortPacket {
                    operation: Operation::EXECUTE_SRB,
                    flags: REQUEST_COMPLETION,
                    status: 0,
                    srb: Srb {
                        length: 0x34,
                        srb_status: 0,
                        scsi_status: 0,
                        port_number: 0,
                        path_id: 0,
                        target_id: 2,
                        lun: 5,
                        cdb_length: cdb.len,
                        sense_info_length: 0x14,
                        data_in: way,
                        reserved: 0,
                        data_transfer_length: 4096,
                        cdb: cdb.bytes,
                    },
                },
                win8: Win8 {
                    reserved: 0,
                    queue_tag: 0xff,
                    queue_action: 0x20,
                    srb_flags: flag | 0x0a,
                    time_out_value: 60,
                    queue_sort_key: 0,
                },
            };
            let page = PageSrb::new(Version::WIN8, 2, 5, &limits());
            let words = page.words(write, 0x2468_acf0).unwrap();
            assert_eq!(words.as_bytes(), packet.as_bytes());
        }
    }

    /// Of a disk of 1024-byte blocks, more than 32 bits can number.
    fn limits() -> Limits {
        let mut limits = Limits::new(1 << 34);
        limits.sector_size = 1024;
        limits
    }

    #[test]
    fn what_has_another_form_takes_another_way() {
        let old = PageSrb::new(Version::WIN7, 0, 0, &limits());
        assert_eq!(old.words(false, 0), None);
        let page = PageSrb::new(Version::WIN8, 0, 0, &limits());
        assert!(page.words(false, (1 << 33) - 2).is_some());
        assert_eq!(page.words(false, 1 << 33), None);
        assert_eq!(page.words(false, 1), None);
        let page = PageSrb::new(Version::WIN8, 0, 0, &Limits::new(16));
        assert!(page.words(true, 8).is_some());
        assert_eq!(page.words(true, 9), None);
    }

    #[test]
    fn only_success_is_success() {
        let platform = Hosted::new(Ram::new(4, 0x100), Alone::default());
        let page = Pages::alloc(&platform, 1).unwrap();
        let success = |words: [u64; 4]| {
            page.words().write(0, &words).unwrap();
            success(page.words())
        };
        let good = [1, 1 << 48, 0, 4096];
        assert_eq!(success(good), Some(4096));
        // Flags of the request's status say nothing about it.
        assert_eq!(success([1, 0xc1 << 48, 0, 512]), Some(512));
        for bad in [
            [11, 1 << 48, 0, 0],
            [1, 1 << 48 | 1, 0, 0],
            [1, 4 << 48, 0, 0],
            [1, 1 << 48 | 2 << 56, 0, 0],
        ] {
            assert_eq!(success(bad), None);
        }
    }
}
