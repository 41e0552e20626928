//! SCSI logical units behind a storvsp controller: what each command does.
//!
//! Sources: SPC-4 (INQUIRY, REPORT LUNS, MODE SENSE, sense data), SBC-3 (block commands); SRB status
//! values from OpenVMM `scsi_defs/src/srb.rs`.

mod inquiry;
mod mode;

use super::counters::Counters;
use super::gpa::GpaRange;
use crate::disk::{Disk, DiskError};
use crate::memory::GuestMemory;
use std::collections::VecDeque;

/// SRB status: six bits of outcome and two flags.
pub mod srb {
    pub const SUCCESS: u8 = 0x01;
    pub const ERROR: u8 = 0x04;
    pub const BUSY: u8 = 0x05;
    pub const INVALID_REQUEST: u8 = 0x06;
    pub const TIMEOUT: u8 = 0x09;
    pub const DATA_OVERRUN: u8 = 0x12;
    pub const INVALID_LUN: u8 = 0x20;
    /// The port failed inside; the command was not done.
    pub const INTERNAL_ERROR: u8 = 0x30;
    pub const AUTOSENSE_VALID: u8 = 0x80;
}

/// SCSI status bytes.
pub mod scsi_status {
    pub const GOOD: u8 = 0x00;
    pub const CHECK_CONDITION: u8 = 0x02;
    pub const BUSY: u8 = 0x08;
}

/// Operation codes.
pub mod op {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const REQUEST_SENSE: u8 = 0x03;
    pub const READ_6: u8 = 0x08;
    pub const WRITE_6: u8 = 0x0a;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SENSE_6: u8 = 0x1a;
    pub const START_STOP_UNIT: u8 = 0x1b;
    pub const PREVENT_ALLOW_REMOVAL: u8 = 0x1e;
    pub const READ_CAPACITY_10: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const WRITE_10: u8 = 0x2a;
    pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub const UNMAP: u8 = 0x42;
    pub const MODE_SENSE_10: u8 = 0x5a;
    pub const READ_16: u8 = 0x88;
    pub const WRITE_16: u8 = 0x8a;
    pub const SYNCHRONIZE_CACHE_16: u8 = 0x91;
    pub const SERVICE_ACTION_IN_16: u8 = 0x9e;
    pub const REPORT_LUNS: u8 = 0xa0;
    pub const READ_12: u8 = 0xa8;
    pub const WRITE_12: u8 = 0xaa;
}

/// Sense key, additional sense code and its qualifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    pub key: u8,
    pub code: u8,
    pub qualifier: u8,
}

impl Sense {
    pub const fn new(key: u8, code: u8, qualifier: u8) -> Self {
        Sense {
            key,
            code,
            qualifier,
        }
    }
    pub const NOT_READY_NO_MEDIUM: Sense = Sense::new(0x2, 0x3a, 0);
    pub const READ_ERROR: Sense = Sense::new(0x3, 0x11, 0);
    pub const WRITE_ERROR: Sense = Sense::new(0x3, 0x0c, 0);
    pub const INVALID_COMMAND: Sense = Sense::new(0x5, 0x20, 0);
    pub const OUT_OF_RANGE: Sense = Sense::new(0x5, 0x21, 0);
    pub const INVALID_FIELD: Sense = Sense::new(0x5, 0x24, 0);
    pub const RESET_OCCURRED: Sense = Sense::new(0x6, 0x29, 0);
    pub const WRITE_PROTECTED: Sense = Sense::new(0x7, 0x27, 0);

    /// Fixed-format sense data, current error (SPC-4 4.5.3).
    pub fn bytes(self) -> [u8; 18] {
        let mut data = [0; 18];
        data[0] = 0x70;
        data[2] = self.key;
        data[7] = 10;
        data[12] = self.code;
        data[13] = self.qualifier;
        data
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Without the flag for sense data.
    pub srb_status: u8,
    pub scsi_status: u8,
    pub sense: Option<Sense>,
    /// Bytes moved.
    pub moved: u32,
}

impl Outcome {
    /// Done, with so many bytes moved.
    pub fn good(moved: u32) -> Self {
        let (srb_status, scsi_status) = (srb::SUCCESS, scsi_status::GOOD);
        Outcome {
            srb_status,
            scsi_status,
            sense: None,
            moved,
        }
    }

    /// CHECK CONDITION with sense data.
    pub fn check(sense: Sense) -> Self {
        let (srb_status, scsi_status) = (srb::ERROR, scsi_status::CHECK_CONDITION);
        Outcome {
            srb_status,
            scsi_status,
            sense: Some(sense),
            moved: 0,
        }
    }

    /// Refused by the port, not by the unit.
    pub fn port(srb_status: u8) -> Self {
        Outcome {
            srb_status,
            scsi_status: scsi_status::GOOD,
            sense: None,
            moved: 0,
        }
    }
}

/// What shall go wrong with the next READ or WRITE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not done at all; this is the answer.
    Refuse(Outcome),
    /// Done for so many bytes only, and said to be a success.
    Short(u32),
    /// Done, but the length answered is this one.
    LieAboutLength(u32),
}

/// The data buffer of one command: one range of guest memory and a direction.
pub struct Data<'a> {
    pub memory: &'a dyn GuestMemory,
    pub range: Option<&'a GpaRange>,
    /// Bytes the guest allows to be moved.
    pub length: u32,
    /// Device to guest.
    pub to_guest: bool,
}

impl Data<'_> {
    /// Gives `bytes` to the guest, cut to what it asked for.
    fn give(&self, bytes: &[u8]) -> Outcome {
        let length = bytes.len().min(self.length as usize);
        match self.range {
            _ if length == 0 => Outcome::good(0),
            Some(range) if self.to_guest => match range.write(self.memory, 0, &bytes[..length]) {
                Ok(()) => Outcome::good(length as u32),
                Err(_) => Outcome::port(srb::INVALID_REQUEST),
            },
            _ => Outcome::port(srb::INVALID_REQUEST),
        }
    }

    /// Takes `length` bytes from the guest.
    fn take(&self, length: usize) -> Option<Vec<u8>> {
        let range = self
            .range
            .filter(|_| !self.to_guest && length <= self.length as usize)?;
        let mut bytes = vec![0; length];
        range.read(self.memory, 0, &mut bytes).ok()?;
        Some(bytes)
    }
}

/// What a logical unit is.
pub enum Unit {
    /// A direct-access device.
    Disk(Box<dyn Disk + Send>),
    /// An empty DVD drive: a unit that drivers for disks must leave alone.
    Dvd,
}

/// One logical unit.
pub struct Lun {
    unit: Unit,
    /// Shown as serial number and as part of the device identifier.
    serial: u64,
    /// Whether UNMAP is offered. It zeroes what it unmaps.
    pub unmap: bool,
    /// Bytes one command may move; advertised in VPD page 0xB0 (0: no limit).
    pub max_transfer_bytes: u32,
    faults: VecDeque<Fault>,
    unit_attention: Option<Sense>,
    last_sense: Option<Sense>,
}

impl Lun {
    /// A disk with a serial number.
    pub fn disk(disk: Box<dyn Disk + Send>, serial: u64) -> Self {
        Self::new(Unit::Disk(disk), serial)
    }

    /// An empty DVD drive.
    pub fn dvd() -> Self {
        Self::new(Unit::Dvd, 0)
    }

    fn new(unit: Unit, serial: u64) -> Self {
        Lun {
            unit,
            serial,
            unmap: false,
            max_transfer_bytes: 0,
            faults: VecDeque::new(),
            unit_attention: None,
            last_sense: None,
        }
    }

    /// Spoils the next READ or WRITE that has none waiting before it.
    pub fn inject(&mut self, fault: Fault) {
        self.faults.push_back(fault);
    }

    /// Reports this with the next command that reports unit attentions.
    pub fn raise_unit_attention(&mut self, sense: Sense) {
        self.unit_attention = Some(sense);
    }

    /// Executes one command. `cdb` is 16 bytes, `data` what the guest lent for it.
    pub fn execute(&mut self, cdb: &[u8; 16], data: &Data<'_>, counters: &mut Counters) -> Outcome {
        counters.commands += 1;
        let quiet = [op::INQUIRY, op::REPORT_LUNS, op::REQUEST_SENSE].contains(&cdb[0]);
        let outcome = match self.unit_attention.take_if(|_| !quiet) {
            Some(sense) => Outcome::check(sense),
            None => self.dispatch(cdb, data, counters),
        };
        if !quiet {
            self.last_sense = outcome.sense;
        }
        outcome
    }

    fn dispatch(&mut self, cdb: &[u8; 16], data: &Data<'_>, counters: &mut Counters) -> Outcome {
        match cdb[0] {
            op::INQUIRY => return self.inquiry(cdb, data),
            op::REQUEST_SENSE => {
                let sense = self.last_sense.take().unwrap_or(Sense::new(0, 0, 0));
                let bytes = sense.bytes();
                return data.give(&bytes[..bytes.len().min(cdb[4].into())]);
            }
            _ => {}
        }
        let Unit::Disk(disk) = &mut self.unit else {
            return Outcome::check(Sense::NOT_READY_NO_MEDIUM);
        };
        let (be32, be64) = (
            |at: usize| u32::from_be_bytes(cdb[at..at + 4].try_into().expect("4 bytes")),
            |at: usize| u64::from_be_bytes(cdb[at..at + 8].try_into().expect("8 bytes")),
        );
        let be16 = |at: usize| u32::from(cdb[at]) << 8 | u32::from(cdb[at + 1]);
        match cdb[0] {
            op::TEST_UNIT_READY | op::START_STOP_UNIT | op::PREVENT_ALLOW_REMOVAL => {
                Outcome::good(0)
            }
            op::READ_CAPACITY_10 => {
                let last = u32::try_from(disk.sectors().saturating_sub(1)).unwrap_or(u32::MAX);
                data.give(&[last.to_be_bytes(), disk.sector_size().to_be_bytes()].concat())
            }
            op::SERVICE_ACTION_IN_16 if cdb[1] & 0x1f == 0x10 => {
                let mut answer = [0; 32];
                answer[..8].copy_from_slice(&disk.sectors().saturating_sub(1).to_be_bytes());
                answer[8..12].copy_from_slice(&disk.sector_size().to_be_bytes());
                answer[14] = if self.unmap { 0xc0 } else { 0 };
                data.give(&answer[..answer.len().min(be32(10) as usize)])
            }
            op::SYNCHRONIZE_CACHE_10 | op::SYNCHRONIZE_CACHE_16 => match disk.flush() {
                Ok(()) => Outcome::good(0),
                Err(_) => Outcome::check(Sense::WRITE_ERROR),
            },
            op::MODE_SENSE_6 => mode::sense(cdb, disk.read_only(), data),
            op::MODE_SENSE_10 => mode::sense(cdb, disk.read_only(), data),
            op::UNMAP if self.unmap => Self::unmap(disk.as_mut(), be16(7), data),
            op::READ_6 | op::WRITE_6 => {
                let lba = be32(0) & 0x1f_ffff;
                let count = if cdb[4] == 0 { 256 } else { cdb[4].into() };
                self.transfer(
                    cdb[0] == op::WRITE_6,
                    lba.into(),
                    count,
                    false,
                    data,
                    counters,
                )
            }
            op::READ_10 | op::WRITE_10 => {
                let (lba, count, fua) = (be32(2).into(), be16(7), cdb[1] & 8 != 0);
                self.transfer(cdb[0] == op::WRITE_10, lba, count, fua, data, counters)
            }
            op::READ_12 | op::WRITE_12 => {
                let (lba, count, fua) = (be32(2).into(), be32(6), cdb[1] & 8 != 0);
                self.transfer(cdb[0] == op::WRITE_12, lba, count, fua, data, counters)
            }
            op::READ_16 | op::WRITE_16 => {
                let (lba, count, fua) = (be64(2), be32(10), cdb[1] & 8 != 0);
                self.transfer(cdb[0] == op::WRITE_16, lba, count, fua, data, counters)
            }
            _ => Outcome::check(Sense::INVALID_COMMAND),
        }
    }

    /// READ or WRITE of `count` sectors from `lba`.
    fn transfer(
        &mut self,
        write: bool,
        lba: u64,
        count: u32,
        fua: bool,
        data: &Data<'_>,
        counters: &mut Counters,
    ) -> Outcome {
        let Unit::Disk(disk) = &mut self.unit else {
            return Outcome::check(Sense::NOT_READY_NO_MEDIUM);
        };
        let fault = self.faults.pop_front();
        if let Some(Fault::Refuse(outcome)) = fault {
            return outcome;
        }
        let size = u64::from(disk.sector_size());
        let mut bytes = u64::from(count) * size;
        let outside = lba
            .checked_add(count.into())
            .is_none_or(|end| end > disk.sectors());
        if outside {
            return Outcome::check(Sense::OUT_OF_RANGE);
        }
        if self.max_transfer_bytes != 0 && bytes > self.max_transfer_bytes.into() {
            counters.violation(format!(
                "{bytes} bytes in one command, more than advertised"
            ));
            return Outcome::check(Sense::INVALID_FIELD);
        }
        if bytes > data.length.into() {
            counters.violation(format!("{bytes} bytes asked, {} lent", data.length));
            return Outcome::port(srb::DATA_OVERRUN);
        }
        if let Some(Fault::Short(limit)) = fault {
            bytes = bytes.min(u64::from(limit) / size * size);
        }
        let outcome = match Self::move_bytes(disk.as_mut(), write, lba, bytes as usize, data) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::check(sense_of(error, write)),
        };
        if outcome.srb_status == srb::SUCCESS {
            let counter = if write {
                &mut counters.bytes_written
            } else {
                &mut counters.bytes_read
            };
            *counter += bytes;
        }
        if write && fua && outcome.srb_status == srb::SUCCESS && disk.flush().is_err() {
            return Outcome::check(Sense::WRITE_ERROR);
        }
        match fault {
            Some(Fault::LieAboutLength(length)) => Outcome {
                moved: length,
                ..outcome
            },
            _ => outcome,
        }
    }

    fn move_bytes(
        disk: &mut dyn Disk,
        write: bool,
        lba: u64,
        bytes: usize,
        data: &Data<'_>,
    ) -> Result<Outcome, DiskError> {
        if bytes == 0 {
            return Ok(Outcome::good(0));
        }
        if write {
            let Some(from_guest) = data.take(bytes) else {
                return Ok(Outcome::port(srb::INVALID_REQUEST));
            };
            disk.write(lba, &from_guest)?;
            Ok(Outcome::good(bytes as u32))
        } else {
            let mut to_guest = vec![0; bytes];
            disk.read(lba, &mut to_guest)?;
            Ok(data.give(&to_guest))
        }
    }

    /// UNMAP (SBC-3 5.28): a list of ranges, here read as zeroes afterwards.
    fn unmap(disk: &mut dyn Disk, list_length: u32, data: &Data<'_>) -> Outcome {
        let Some(list) = data.take(list_length as usize) else {
            return Outcome::port(srb::INVALID_REQUEST);
        };
        let Some(ranges) = list.get(8..) else {
            return Outcome::check(Sense::INVALID_FIELD);
        };
        for range in ranges.chunks_exact(16) {
            let lba = u64::from_be_bytes(range[..8].try_into().expect("8 bytes"));
            let count = u32::from_be_bytes(range[8..12].try_into().expect("4 bytes"));
            if lba
                .checked_add(count.into())
                .is_none_or(|end| end > disk.sectors())
            {
                return Outcome::check(Sense::OUT_OF_RANGE);
            }
            let zeroes = vec![0; disk.sector_size() as usize];
            for lba in lba..lba + u64::from(count) {
                if let Err(error) = disk.write(lba, &zeroes) {
                    return Outcome::check(sense_of(error, true));
                }
            }
        }
        Outcome::good(list_length)
    }
}

fn sense_of(error: DiskError, write: bool) -> Sense {
    match error {
        DiskError::OutOfRange { .. } => Sense::OUT_OF_RANGE,
        DiskError::ReadOnly => Sense::WRITE_PROTECTED,
        DiskError::Medium { .. } if write => Sense::WRITE_ERROR,
        DiskError::Medium { .. } => Sense::READ_ERROR,
    }
}

/// REPORT LUNS (SPC-4 6.33) for units below 256.
pub fn report_luns(luns: impl Iterator<Item = u8>, cdb: &[u8; 16], data: &Data<'_>) -> Outcome {
    let luns: Vec<u8> = luns.collect();
    let mut list = (luns.len() as u32 * 8).to_be_bytes().to_vec();
    list.extend_from_slice(&[0; 4]);
    for lun in luns {
        list.extend_from_slice(&[0, lun, 0, 0, 0, 0, 0, 0]);
    }
    let allocated = u32::from_be_bytes(cdb[6..10].try_into().expect("4 bytes")) as usize;
    data.give(&list[..list.len().min(allocated)])
}

/// INQUIRY to an address where no unit is.
pub fn inquire_nobody(cdb: &[u8; 16], data: &Data<'_>) -> Outcome {
    inquiry::nobody(cdb, data)
}

#[cfg(test)]
mod tests;
