//! `job=bench`: how many requests of one kind a disk serves in a second.

use super::{JobError, chosen, outline};
use crate::command_line;
use crate::disk::{DiskError, JobDisk, Payload, Request, Workload};
use crate::machine::Machine;
use crate::pattern::mix;
use crate::report::{self, Report};

pub fn run<M: Machine>(
    settings: command_line::Bench,
    machine: &mut M,
    report: &mut Report,
) -> Result<(), JobError> {
    let disk = chosen(machine, settings.disk)?;
    let geometry = disk.geometry();
    report.disks.push(outline(disk));
    let name = alloc::string::String::from(disk.name());
    let sectors = geometry.sectors_of(settings.block as u64);
    let whole = settings
        .block
        .is_multiple_of(geometry.sector_bytes().max(1));
    if !whole || settings.block > geometry.largest {
        return Err(JobError(alloc::format!(
            "bs={}: {name} takes {} to {} bytes in whole sectors",
            settings.block,
            geometry.sector_size,
            geometry.largest
        )));
    }
    let places = geometry.sectors.checked_div(sectors).unwrap_or(0);
    if places == 0 {
        return Err(JobError(alloc::format!("{name}: smaller than one request")));
    }
    let depth = settings.depth.min(geometry.depth);
    let interrupts = machine.interrupts();
    let clock = machine.clock();
    let start = clock();
    let budget = settings.seconds.saturating_mul(1_000_000_000);
    let mut stream = Stream {
        settings,
        places,
        sectors,
        started: 0,
        completed: 0,
        until: start.saturating_add(budget),
        clock: &*clock,
    };
    chosen(machine, settings.disk)?
        .drive(depth, settings.block, &mut stream)
        .map_err(|error| JobError::disk(&name, settings.access.name(), error))?;
    let nanoseconds = clock().saturating_sub(start).max(1);
    let in_a_second = |count: u64| {
        let scaled = u128::from(count).saturating_mul(1_000_000_000);
        let rate = scaled.checked_div(u128::from(nanoseconds)).unwrap_or(0);
        u64::try_from(rate).unwrap_or(u64::MAX)
    };
    let requests = stream.completed;
    let summary = report::Bench {
        rw: settings.access.name().into(),
        block: settings.block as u64,
        depth: depth as u64,
        requests,
        nanoseconds,
        iops: in_a_second(requests),
        bytes_per_second: in_a_second(requests.saturating_mul(settings.block as u64)),
        interrupts: machine.interrupts().saturating_sub(interrupts),
    };
    machine.say(format_args!(
        "{name}: {} {} bytes, {} in flight: {} requests/s, {} KiB/s",
        summary.rw,
        summary.block,
        summary.depth,
        summary.iops,
        summary.bytes_per_second >> 10,
    ));
    report.bench = Some(summary);
    Ok(())
}

/// Requests until the time is up.
struct Stream<'a> {
    settings: command_line::Bench,
    /// Places for a request on the disk, and the sectors of one.
    places: u64,
    sectors: u64,
    started: u64,
    completed: u64,
    until: u64,
    clock: &'a dyn Fn() -> u64,
}

impl Workload for Stream<'_> {
    fn next(&mut self, _: &mut dyn Payload) -> Option<Request> {
        if (self.clock)() >= self.until {
            return None;
        }
        let turn = if self.settings.access.random {
            mix(self.started)
        } else {
            self.started
        };
        self.started = self.started.wrapping_add(1);
        let place = turn.checked_rem(self.places)?;
        Some(Request {
            write: self.settings.access.write,
            sector: place.saturating_mul(self.sectors),
            bytes: self.settings.block,
        })
    }

    fn done(&mut self, _: &Request, _: &dyn Payload) -> Result<(), DiskError> {
        self.completed = self.completed.saturating_add(1);
        Ok(())
    }
}
