//! `job=verify`: patterns over a whole disk, written and read back in several sizes and depths.

use alloc::vec;
use alloc::vec::Vec;

use super::{JobError, chosen, outline};
use crate::command_line;
use crate::disk::{DiskError, Geometry, JobDisk, Payload, Request, Workload};
use crate::machine::Machine;
use crate::pattern::{Pattern, Shuffle};
use crate::report::{self, Report};

/// One way over the disk.
#[derive(Clone, Copy)]
struct Pass {
    /// Bytes in a request, before limits.
    bytes: usize,
    depth: usize,
    /// Requests at most, spread over the disk; all of it where there is no limit.
    most: u64,
}

/// From few large requests to many small ones; an odd size, and single sectors one at a time, at a sample of places.
const PASSES: [Pass; 5] = [
    Pass {
        bytes: usize::MAX,
        depth: 2,
        most: u64::MAX,
    },
    Pass {
        bytes: 64 << 10,
        depth: 8,
        most: u64::MAX,
    },
    Pass {
        bytes: 4 << 10,
        depth: 32,
        most: u64::MAX,
    },
    Pass {
        bytes: 13 << 10,
        depth: 5,
        most: 512,
    },
    Pass {
        bytes: 1,
        depth: 1,
        most: 256,
    },
];

pub fn run<M: Machine>(
    settings: command_line::Verify,
    machine: &mut M,
    report: &mut Report,
) -> Result<(), JobError> {
    let disk = chosen(machine, settings.disk)?;
    report.disks.push(outline(disk));
    let geometry = disk.geometry();
    let mut summary = report::Verify {
        seed: settings.seed,
        ..report::Verify::default()
    };
    let mut outcome = Ok(());
    for (number, pass) in (1_u32..).zip(PASSES) {
        let start = machine.now();
        let mut sweep = Sweep::new(geometry, pass, settings.seed, u64::from(number));
        let disk = chosen(machine, settings.disk)?;
        outcome = sweep.run(disk, pass.depth);
        summary.passes = number;
        summary.bytes = summary.bytes.saturating_add(sweep.compared);
        summary.mismatches = summary.mismatches.saturating_add(sweep.wrong);
        let milliseconds = machine.now().saturating_sub(start) / 1_000_000;
        machine.say(format_args!(
            "pass {number}: {} requests of {} sectors, {} in flight: {} sectors wrong ({milliseconds} ms)",
            sweep.count,
            sweep.sectors,
            pass.depth,
            sweep.wrong,
        ));
        if let Some(at) = sweep.first_wrong {
            machine.say(format_args!("pass {number}: first wrong at byte {at}"));
        }
        if outcome.is_err() {
            break;
        }
    }
    let wrong = summary.mismatches;
    report.verify = Some(summary);
    outcome?;
    match wrong {
        0 => Ok(()),
        _ => Err(JobError(alloc::format!(
            "{wrong} sectors are not as they were written"
        ))),
    }
}

/// The start of no sector of a pattern, as far as 64 bits go.
const STALE: [u8; 8] = [0xa5; 8];

/// One pass: all its requests written, then all read.
struct Sweep {
    geometry: Geometry,
    pattern: Pattern,
    /// Sectors in a request; the last one on the disk may have fewer.
    sectors: u64,
    /// Requests, `gap` times `sectors` apart.
    count: u64,
    gap: u64,
    order: Shuffle,
    seed: u64,
    writing: bool,
    scratch: Vec<u8>,
    compared: u64,
    wrong: u64,
    first_wrong: Option<u64>,
}

impl Sweep {
    fn new(geometry: Geometry, pass: Pass, seed: u64, number: u64) -> Self {
        let bytes = pass.bytes.min(geometry.largest);
        let sectors = geometry.sectors_of(bytes as u64).max(1);
        let sectors = sectors.min(geometry.sectors_of(geometry.largest as u64).max(1));
        let all = geometry.sectors.div_ceil(sectors);
        let count = all.min(pass.most);
        let gap = all.checked_div(count).unwrap_or(1).max(1);
        // Each pass has its own pattern, so that none is satisfied by an earlier one's bytes.
        let seed = seed.wrapping_add(number << 48);
        Self {
            geometry,
            pattern: Pattern::new(seed),
            sectors,
            count,
            gap,
            order: Shuffle::new(count, seed),
            seed,
            writing: true,
            scratch: vec![0; bytes.next_multiple_of(geometry.sector_bytes().max(1))],
            compared: 0,
            wrong: 0,
            first_wrong: None,
        }
    }

    fn run(&mut self, disk: &mut dyn JobDisk, depth: usize) -> Result<(), JobError> {
        let failed = |what: &'static str| {
            move |error: DiskError| JobError(alloc::format!("{what}: {error}"))
        };
        let bytes = self.scratch.len();
        self.writing = true;
        disk.drive(depth, bytes, self).map_err(failed("writing"))?;
        if self.geometry.flush {
            disk.flush().map_err(failed("flushing"))?;
        }
        self.writing = false;
        self.order = Shuffle::new(self.count, self.seed.wrapping_add(1));
        disk.drive(depth, bytes, self).map_err(failed("reading"))
    }

    fn offset(&self, request: &Request) -> u64 {
        request
            .sector
            .saturating_mul(u64::from(self.geometry.sector_size))
    }
}

impl Workload for Sweep {
    fn next(&mut self, payload: &mut dyn Payload) -> Option<Request> {
        let place = self.order.next()?.saturating_mul(self.gap);
        let sector = place.saturating_mul(self.sectors);
        let sectors = self
            .sectors
            .min(self.geometry.sectors.saturating_sub(sector));
        let bytes = sectors.saturating_mul(u64::from(self.geometry.sector_size)) as usize;
        let request = Request {
            write: self.writing,
            sector,
            bytes,
        };
        if self.writing {
            let offset = self.offset(&request);
            let scratch = self.scratch.get_mut(..bytes)?;
            self.pattern.fill(offset, scratch);
            payload.write_at(0, scratch);
        } else {
            // What is read must have been read now: no right sector is left in the buffer.
            for sector in (0..bytes).step_by(self.geometry.sector_bytes().max(1)) {
                payload.write_at(sector, &STALE);
            }
        }
        Some(request)
    }

    fn done(&mut self, request: &Request, payload: &dyn Payload) -> Result<(), DiskError> {
        if request.write {
            return Ok(());
        }
        let offset = self.offset(request);
        let size = self.geometry.sector_bytes().max(1);
        let read = self
            .scratch
            .get_mut(..request.bytes)
            .ok_or(DiskError::Memory)?;
        payload.read_at(0, read);
        let places = (offset..).step_by(size);
        for (place, sector) in places.zip(read.chunks(size)) {
            if let Some(at) = self.pattern.differs(place, sector) {
                self.wrong = self.wrong.saturating_add(1);
                self.first_wrong = self.first_wrong.or(Some(at));
            }
        }
        self.compared = self.compared.saturating_add(request.bytes as u64);
        Ok(())
    }
}
