//! The jobs, and the way from a command line to a report.

mod bench;
mod echo;
mod fetch;
mod hash;
mod netbench;
mod serve;
mod tour;
mod verify;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::command_line::{Addressing, Job, USAGE};
use crate::disk::{DiskError, JobDisk};
use crate::hash::Sha256;
use crate::machine::Machine;
use crate::net::{self, Facts, Service};
use crate::nic::Nic;
use crate::report::{self, Report};

/// Why a job failed; a line for a person.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobError(String);

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for JobError {}

impl JobError {
    fn new(what: impl fmt::Display) -> Self {
        Self(format!("{what}"))
    }

    fn disk(name: &str, what: &str, error: DiskError) -> Self {
        Self(format!("{name}: {what}: {error}"))
    }
}

/// Reads the command line.
///
/// # Errors
/// The report of a run that goes no further; `say` has then been given the reason and the usage.
pub fn parse(
    command_line: &str,
    say: &mut dyn FnMut(fmt::Arguments<'_>),
) -> Result<Job, Box<Report>> {
    Job::parse(command_line).map_err(|error| {
        say(format_args!("{error}"));
        say(format_args!("{USAGE}"));
        Box::new(Report::failure("", error))
    })
}

/// Does a job on a machine that is up.
pub fn run<M: Machine>(job: &Job, machine: &mut M) -> Report {
    let host = machine.host().clone();
    let mut report = Report {
        host: host.kind,
        host_version: host.version,
        bus: host.bus,
        job: job.name().into(),
        ..Report::default()
    };
    report.devices.clone_from(&host.devices);
    if let Job::Tour = job {
        tour::show_host(machine);
    }
    report.nic = host.nics.first().cloned();
    let needs_disk = !matches!(job, Job::Fetch(_) | Job::Echo(_) | Job::NetBench(_));
    let done = match job {
        _ if needs_disk && machine.disks().is_empty() => Err(JobError::new(
            "no disk: the host offers none that this kernel can drive",
        )),
        Job::Tour => tour::run(machine, &mut report),
        Job::Hash => hash::run(machine, &mut report),
        Job::Verify(settings) => verify::run(*settings, machine, &mut report),
        Job::Bench(settings) => bench::run(*settings, machine, &mut report),
        Job::Serve(settings) => serve::run(*settings, machine, &mut report),
        Job::Fetch(settings) => fetch::run(settings, machine, &mut report),
        Job::Echo(settings) => echo::run(*settings, machine, &mut report),
        Job::NetBench(settings) => netbench::run(*settings, machine, &mut report),
    };
    match done {
        Ok(()) => report.ok = true,
        Err(error) => {
            machine.say(format_args!("error: {error}"));
            report.error = Some(error.0);
        }
    }
    report
}

/// Drives a service over the machine's network interface until it is done.
fn network(
    nic: Option<&mut dyn Nic>,
    addressing: Addressing,
    service: &mut dyn Service,
    facts: &mut Facts,
    say: &mut dyn FnMut(fmt::Arguments<'_>),
) -> Result<(), JobError> {
    let nic = nic.ok_or_else(|| JobError("no network interface".into()))?;
    net::run(nic, addressing, service, facts, say).map_err(JobError)
}

/// What is reported of each disk whatever the job.
fn outline(disk: &dyn JobDisk) -> report::Disk {
    let geometry = disk.geometry();
    report::Disk {
        name: disk.name().into(),
        sectors: geometry.sectors,
        sector_size: geometry.sector_size,
        ..report::Disk::default()
    }
}

/// The disk a setting names.
fn chosen<M: Machine>(machine: &mut M, index: usize) -> Result<&mut M::Disk, JobError> {
    let count = machine.disks().len();
    let disk = machine.disks().get_mut(index);
    disk.ok_or_else(|| JobError(format!("disk={index}: there are {count} disks")))
}

/// Bytes read at a time where a disk is read in order.
const STRIDE: u64 = 1 << 20;

/// The SHA-256 of a whole disk.
fn whole_disk(disk: &mut dyn JobDisk) -> Result<String, JobError> {
    let geometry = disk.geometry();
    let stride = geometry.sectors_of(STRIDE);
    let mut buffer: Vec<u8> = Vec::new();
    let mut sha = Sha256::new();
    let mut sector = 0;
    while sector < geometry.sectors {
        let count = stride.min(geometry.sectors.saturating_sub(sector));
        let bytes = count.saturating_mul(u64::from(geometry.sector_size));
        buffer.resize(bytes as usize, 0);
        disk.read(sector, &mut buffer).map_err(|error| {
            JobError(format!("{}: reading sector {sector}: {error}", disk.name()))
        })?;
        sha.update(&buffer);
        sector = sector.saturating_add(count);
    }
    Ok(sha.hex())
}

/// A size for people.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ 0..0x40_0000 => write!(f, "{} KiB", bytes >> 10),
            bytes => write!(f, "{} MiB", bytes >> 20),
        }
    }
}
