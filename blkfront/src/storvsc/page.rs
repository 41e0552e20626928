//! The requests of which there are most, made of words: READ (10) and WRITE (10) of one page, in the
//! form that hosts have from Windows 8 on.

use super::abi::{
    DATA_READ, DATA_WRITE, Operation, REQUEST_COMPLETION, SrbFlags, SrbStatus, Version,
};

/// What all such requests to one disk have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageSrb {
    /// The third word of a READ.
    address: u64,
}

/// Operation code and length of READ (10).
const READ: u64 = 0x28;
/// What makes a WRITE (10) of it.
const WRITE: u64 = 0x02;
const CDB_LENGTH: u64 = 10;

impl PageSrb {
    /// `None` when the version has another form.
    pub(super) fn new(version: Version, target: u8, lun: u8) -> Option<Self> {
        let address = u64::from(target) << 16
            | u64::from(lun) << 24
            | CDB_LENGTH << 32
            | u64::from(version.sense_size()) << 40
            | u64::from(DATA_READ) << 48;
        (version >= Version::WIN8).then_some(Self { address })
    }

    /// A packet for `blocks` logical blocks from `lba` on. Built from words it stays in registers.
    #[inline(always)]
    pub(super) fn words(self, write: bool, lba: u32, blocks: u16, bytes: u32) -> [u64; 8] {
        const FLAGS: u32 = SrbFlags::DISABLE_SYNCH_TRANSFER
            .union(SrbFlags::QUEUE_ACTION_ENABLE)
            .bits();
        let (code, way, flag) = if write {
            const { assert!(DATA_WRITE == 0) };
            let way = self.address & !(u64::from(DATA_READ) << 48);
            (READ | WRITE, way, SrbFlags::DATA_OUT)
        } else {
            (READ, self.address, SrbFlags::DATA_IN)
        };
        // Both are big-endian, at bytes 2 and 7 of the command.
        let lba = u64::from(lba.swap_bytes());
        let blocks = u64::from(blocks.swap_bytes());
        [
            const { Operation::EXECUTE_SRB.0 as u64 | (REQUEST_COMPLETION as u64) << 32 },
            0x34 << 32,
            way,
            u64::from(bytes) | code << 32 | lba << 48,
            lba >> 16 | blocks << 24,
            0,
            0xff << 16 | 0x20 << 24 | u64::from(FLAGS | flag.bits()) << 32,
            60,
        ]
    }
}

/// How many bytes a request moved that succeeded, from the first words of its answer; `None` of
/// any other packet.
#[inline(always)]
pub(super) fn success([first, second, _, fourth]: [u64; 4]) -> Option<u32> {
    // The packet's status, the request's without its flags, and the device's.
    const STATUS: u64 = 0xff3f_0000_ffff_ffff;
    let sound = first as u32 == Operation::COMPLETE_IO.0
        && second & STATUS == const { (SrbStatus::SUCCESS as u64) << 48 };
    sound.then_some(fourth as u32)
}

#[cfg(test)]
mod tests {
    use super::super::abi::{Packet, ShortPacket, Srb, Win8};
    use super::super::scsi::Cdb;
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn words_are_the_same_bytes() {
        for write in [false, true] {
            let (way, flag) = if write { (0, 0x80) } else { (1, 0x40) };
            let cdb = Cdb::transfer(write, 0x1234_5678, 0x0102);
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
            let page = PageSrb::new(Version::WIN8, 2, 5).unwrap();
            let words = page.words(write, 0x1234_5678, 0x0102, 4096);
            assert_eq!(words.as_bytes(), packet.as_bytes());
        }
        assert_eq!(PageSrb::new(Version::WIN7, 0, 0), None);
    }

    #[test]
    fn only_success_is_success() {
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
