//! `cargo xtask demo`: the same image with the same disk on every host there is here.

use std::fs;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use serde_json::json;

use crate::debian::Debian;
use crate::disk::Disk;
use crate::hosts::Host;
use crate::judge::{Expect, Row, State};
use crate::progress::Progress;
use crate::session::{self, Trial};
use crate::visit::Plan;
use crate::{paths, table};

/// How long a guest may take on a host, in seconds; everything is slow under emulation.
const LIMIT: Duration = Duration::from_secs(120);

/// How long a guest may be left up.
const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// What is shown.
#[derive(Clone, Debug)]
pub enum What {
    /// The disk, and then a client gets every file from the guest.
    Everything,
    /// The guest's job of this command line.
    Job(String),
    /// The guest serves its files until it is told that it is enough.
    Stay,
}

/// Which hosts can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// Both simulated hosts, in a process of this machine
    Simulated,
    /// Debian's Xen with a Linux dom0
    Xen,
    /// QEMU's Xen emulation over KVM
    QemuXen,
    /// QEMU's Hyper-V flags over KVM (no disk)
    QemuHyperv,
    /// The project's own KVM host, with a VMBus and a SCSI disk
    Hyperv,
    /// All of them
    All,
}

impl Choice {
    /// The hosts it stands for.
    pub fn hosts(self) -> Vec<Host> {
        match self {
            Self::Simulated => vec![Host::SimulatedXen, Host::SimulatedHyperV],
            Self::Xen => vec![Host::Xen],
            Self::QemuXen => vec![Host::QemuXen],
            Self::QemuHyperv => vec![Host::QemuHyperV],
            Self::Hyperv => vec![Host::HyperV],
            Self::All => Host::ALL.to_vec(),
        }
    }
}

/// Runs the demonstration and prints its table, or the same as JSON.
///
/// # Errors
/// When a host failed; one that could not be tried is said so and does not count.
pub fn demo(choice: Choice, what: &What, as_json: bool, progress: &Progress) -> Result<()> {
    let (rows, disk) = run(&choice.hosts(), what, progress)?;
    let rows = by_host(rows);
    progress.finish();
    if as_json {
        println!(
            "{}",
            serde_json::to_string_pretty(&json!({ "disk": disk, "hosts": rows }))?
        );
    } else {
        println!("{}", table::demo(&rows, &disk).trim_end());
    }
    let failed = rows
        .iter()
        .filter(|row| matches!(row.state, State::Failed(_)))
        .count();
    if failed > 0 {
        bail!("{failed} of {} hosts failed", rows.len());
    }
    Ok(())
}

/// Shows `what` on the hosts; a host may have several rows.
fn run(hosts: &[Host], what: &What, progress: &Progress) -> Result<(Vec<Row>, Disk)> {
    let mut trials = Vec::new();
    match what {
        What::Job(job) if job.contains(['\n', '"', '\'']) => {
            bail!("a job is one line without quotes, as in --job 'job=verify seed=7'")
        }
        What::Job(job) => trials.extend(hosts.iter().map(|host| trial(*host, job))),
        What::Everything => {
            trials.extend(hosts.iter().map(|host| trial(*host, "job=tour")));
            let with_nic = hosts.iter().filter(|host| host.has_nic());
            trials
                .extend(with_nic.map(|host| Trial::of_server(*host, "serve", Plan::FILES, LIMIT)));
        }
        What::Stay => {
            let plan = Plan {
                stay: true,
                ..Plan::FILES
            };
            let with_nic = hosts.iter().filter(|host| host.has_nic());
            trials.extend(with_nic.map(|host| Trial::of_server(*host, "serve", plan, A_DAY)));
        }
    }
    fs::create_dir_all(paths::work().join("logs"))?;
    let real = hosts.iter().copied().filter(|host| host.is_real());
    let any_real = real.clone().next().is_some();
    // The simulated hosts alone are not worth a download.
    let debian = match Debian::ready() {
        Some(debian) => Ok(debian),
        None if any_real => Debian::prepare(progress),
        None => Err(anyhow!("not needed")),
    };
    progress.step("making the disk");
    let disk = Disk::make(debian.as_ref().ok(), &paths::work())?;
    let mut rows = Vec::new();
    rows.extend(session::simulated(
        &trials,
        &disk,
        debian.as_ref().ok(),
        progress,
    )?);
    match debian {
        Ok(debian) if any_real => rows.extend(session::real(&trials, &disk, &debian, progress)?),
        Ok(_) => {}
        Err(error) => rows.extend(real.map(|host| Row::skipped(host, format!("{error:#}")))),
    }
    Ok((rows, disk))
}

/// One row for each host, with what all of its rows say.
fn by_host(rows: Vec<Row>) -> Vec<Row> {
    let mut merged: Vec<Row> = Vec::new();
    for row in rows {
        match merged.iter_mut().find(|known| known.host == row.host) {
            Some(known) => known.add(row),
            None => merged.push(row),
        }
    }
    merged.sort_by_key(|row| row.host);
    merged
}

/// The job on a host; one that writes all over the disk need not find or leave it as it was made.
fn trial(host: Host, job: &str) -> Trial {
    let mut trial = Trial::of_disk(host, "demo", job, LIMIT);
    if host.has_disk()
        && ["job=verify", "job=bench"]
            .iter()
            .any(|word| job.contains(word))
    {
        trial.expect = Expect::DiskUsed;
    }
    trial
}
