//! `job=tour`: look at everything there is, and touch a scratch area of each disk without leaving a trace.

use alloc::format;
use alloc::vec;

use super::{JobError, Size, outline, whole_disk};
use crate::disk::JobDisk;
use crate::fat::{self, Extent, FatError};
use crate::machine::Machine;
use crate::partition::{self, Table};
use crate::pattern::Pattern;
use crate::report::{self, Partition, Report};

/// Bytes of scratch area used at most.
const SCRATCH: u64 = 1 << 20;

/// Says what there is below, disks or no disks.
pub fn show_host<M: Machine>(machine: &mut M) {
    let host = machine.host().clone();
    machine.say(format_args!(
        "host: {} {}, {}",
        host.kind, host.version, host.bus
    ));
    for device in &host.devices {
        machine.say(format_args!("device: {device}"));
    }
    for nic in &host.nics {
        let (name, mac, mtu, queues) = (&nic.name, &nic.mac, nic.mtu, nic.queues);
        let line = if nic.link { "up" } else { "down" };
        machine.say(format_args!(
            "{name}: {mac}, MTU {mtu}, {queues} queues, line {line}, offloads {}",
            nic.tx_offloads.join(" ")
        ));
    }
}

pub fn run<M: Machine>(machine: &mut M, report: &mut Report) -> Result<(), JobError> {
    let mut outcome = Ok(());
    for index in 0..machine.disks().len() {
        // A disk that fails does not keep the others from being shown.
        let seen = visit(machine, index, report);
        outcome = outcome.and(seen);
    }
    outcome
}

fn visit<M: Machine>(machine: &mut M, index: usize, report: &mut Report) -> Result<(), JobError> {
    let Some(disk) = machine.disks().get_mut(index) else {
        return Ok(());
    };
    let geometry = disk.geometry();
    let mut found = outline(disk);
    let name = found.name.clone();
    let (table, trouble) = match Table::read(disk) {
        Ok(table) => (table, None),
        Err((error, table)) => (table, Some(JobError(format!("{name}: {error}")))),
    };
    machine.say(format_args!(
        "{name}: {}, {} sectors of {} bytes{}, {}",
        Size(geometry.bytes()),
        geometry.sectors,
        geometry.sector_size,
        if geometry.read_only {
            ", read-only"
        } else {
            ""
        },
        table.scheme,
    ));
    for partition in &table.partitions {
        machine.say(format_args!(
            "{name}: partition {} {} {}: sectors {} to {}",
            partition.index,
            partition.kind,
            partition.name.as_deref().unwrap_or("-"),
            partition.first,
            partition.last,
        ));
    }
    let steps = match trouble {
        // A table that lies says nothing about where files or a free area are.
        Some(trouble) => Err(trouble),
        None => list_files(machine, index, &table, &mut found)
            .and_then(|()| use_scratch(machine, index, &table.partitions)),
    };
    found.partitions = table.partitions;
    let hashed = digest(machine, index, &mut found);
    report.disks.push(found);
    steps.and(hashed)
}

fn list_files<M: Machine>(
    machine: &mut M,
    index: usize,
    table: &Table,
    found: &mut report::Disk,
) -> Result<(), JobError> {
    let Some(disk) = machine.disks().get_mut(index) else {
        return Ok(());
    };
    let name = found.name.clone();
    let Some(extent) = first_fat(disk, table)? else {
        machine.say(format_args!("{name}: no FAT file system"));
        return Ok(());
    };
    found.files = fat::files(disk, extent).map_err(|error| JobError(format!("{name}: {error}")))?;
    for file in &found.files {
        machine.say(format_args!(
            "{name}: {} {} {}",
            file.sha256, file.size, file.path
        ));
    }
    Ok(())
}

/// The first partition with a FAT file system, or the whole disk if that is one.
pub fn first_fat(disk: &mut dyn JobDisk, table: &Table) -> Result<Option<Extent>, JobError> {
    let name = |error| JobError(format!("{error}"));
    let whole = Extent {
        first: 0,
        sectors: disk.geometry().sectors,
    };
    if table.partitions.is_empty() {
        let fat = whole.sectors > 0 && fat::is_fat(disk, whole).map_err(name)?;
        return Ok(fat.then_some(whole));
    }
    for partition in &table.partitions {
        let extent = extent(partition);
        if fat::is_fat(disk, extent).map_err(name)? {
            return Ok(Some(extent));
        }
        if partition::promises_fat(partition) {
            let what = FatError::NoSignature;
            return Err(JobError(format!(
                "{}: partition {}: {what}",
                disk.name(),
                partition.index
            )));
        }
    }
    Ok(None)
}

fn extent(partition: &Partition) -> Extent {
    let length = partition.last.saturating_sub(partition.first);
    Extent {
        first: partition.first,
        sectors: length.saturating_add(1),
    }
}

/// Writes a pattern, flushes, reads it back, and puts back what was there: in the second partition if there is one,
/// else at the disk's end.
fn use_scratch<M: Machine>(
    machine: &mut M,
    index: usize,
    partitions: &[Partition],
) -> Result<(), JobError> {
    let Some(disk) = machine.disks().get_mut(index) else {
        return Ok(());
    };
    let geometry = disk.geometry();
    let name = alloc::string::String::from(disk.name());
    let most = geometry.sectors_of(SCRATCH).min(geometry.sectors);
    let area = match partitions.get(1) {
        Some(second) => extent(second),
        None => Extent {
            first: geometry.sectors.saturating_sub(most),
            sectors: most,
        },
    };
    let sectors = area.sectors.min(most);
    if geometry.read_only || sectors == 0 {
        machine.say(format_args!("{name}: nowhere to write"));
        return Ok(());
    }
    let outcome = cycle(disk, area.first, sectors);
    outcome.map_err(|error| JobError(format!("{name}: scratch area: {error}")))?;
    let flushed = if geometry.flush { "flushed, " } else { "" };
    let last = area.first.saturating_add(sectors).saturating_sub(1);
    machine.say(format_args!(
        "{name}: wrote sectors {} to {last}, {flushed}read back, restored",
        area.first
    ));
    Ok(())
}

fn cycle(disk: &mut dyn JobDisk, first: u64, sectors: u64) -> Result<(), JobError> {
    let geometry = disk.geometry();
    let bytes = sectors.saturating_mul(u64::from(geometry.sector_size)) as usize;
    let mut before = vec![0; bytes];
    disk.read(first, &mut before).map_err(JobError::new)?;
    let tried = write_and_compare(disk, first, bytes);
    // Whatever came of it, what was there goes back.
    let restored = disk.write(first, &before).and_then(|()| flush(disk));
    let mut after = vec![0; bytes];
    let read = disk.read(first, &mut after);
    tried?;
    restored
        .and(read)
        .map_err(|error| JobError(format!("restoring: {error}")))?;
    if before != after {
        return Err(JobError::new("what was there did not come back"));
    }
    Ok(())
}

fn write_and_compare(disk: &mut dyn JobDisk, first: u64, bytes: usize) -> Result<(), JobError> {
    let pattern = Pattern::new(first);
    let mut buffer = vec![0; bytes];
    pattern.fill(0, &mut buffer);
    disk.write(first, &buffer)
        .and_then(|()| flush(disk))
        .map_err(|error| JobError(format!("writing: {error}")))?;
    buffer.fill(0);
    disk.read(first, &mut buffer)
        .map_err(|error| JobError(format!("reading back: {error}")))?;
    match pattern.differs(0, &buffer) {
        Some(at) => Err(JobError(format!("byte {at} is not what was written"))),
        None => Ok(()),
    }
}

/// A flush where the host has one.
fn flush(disk: &mut dyn JobDisk) -> Result<(), crate::disk::DiskError> {
    if disk.geometry().flush {
        disk.flush()
    } else {
        Ok(())
    }
}

fn digest<M: Machine>(
    machine: &mut M,
    index: usize,
    found: &mut report::Disk,
) -> Result<(), JobError> {
    let Some(disk) = machine.disks().get_mut(index) else {
        return Ok(());
    };
    let sha256 = whole_disk(disk)?;
    machine.say(format_args!("{}: sha256 {sha256}", found.name));
    found.sha256 = Some(sha256);
    Ok(())
}
