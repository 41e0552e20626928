//! Boots a list of trials on the real hosts, as many in one machine as possible, and judges each.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::debian::Debian;
use crate::disk::Disk;
use crate::hosts::jobs::{Job, Outcome};
use crate::hosts::{Boot, Host, hyperv, kvm, qemu_hyperv, qemu_xen, simulated, xen};
use crate::judge::{Expect, Row, judge, unfinished};
use crate::net::Files;
use crate::progress::Progress;
use crate::visit::{Plan, Visitor};
use crate::{cargo, paths};

/// In a command line: where a guest finds the web server with the disk's files on this machine.
pub const HERE: &str = "{here}";

/// One boot of something on a host.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Where.
    pub host: Host,
    /// A word that tells it from the host's other trials.
    pub name: &'static str,
    /// The guest's command line.
    pub command_line: String,
    /// What the host offers.
    pub offer: Offer,
    /// What must come out.
    pub expect: Expect,
    /// How long the guest may take.
    pub limit: Duration,
    /// What a client does to the guest's web server.
    pub visit: Option<Plan>,
}

/// What a host offers, or takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Its bus with the disk on it, if it can have one.
    Disk,
    /// Its bus with no disk.
    NoDisk,
    /// A disk that ends before its partition table says so, at this many bytes.
    ShortDisk(u64),
    /// The host's features without its bus.
    NoBus,
    /// A bus of the oldest version with the disk on it, and no more CPUID bits than KVM's own hosts set.
    OldBus,
    /// A host that never answers negotiation.
    Silence,
    /// The disk, withdrawn with a request in flight after so many of them.
    Rescinded(u32),
    /// The disk, detached by the toolstack or the monitor while the guest is at work on it.
    Detached,
    /// A stock Linux takes the guest's place.
    Linux,
}

impl Trial {
    /// A trial of the guest's `job` with the disk on offer.
    pub fn of_disk(host: Host, name: &'static str, job: &str, limit: Duration) -> Self {
        let expect = if host.has_disk() {
            Expect::SameDisk
        } else {
            Expect::Bus
        };
        Self {
            host,
            name,
            command_line: job.to_owned(),
            offer: Offer::Disk,
            expect,
            limit,
            visit: None,
        }
    }
}

impl Trial {
    /// A trial of the guest's web server, with the disk and a NIC on offer.
    pub fn of_server(host: Host, name: &'static str, plan: Plan, limit: Duration) -> Self {
        Self {
            expect: Expect::Served { queues: 1 },
            visit: Some(plan),
            ..Self::of_disk(host, name, "job=serve stop=1", limit)
        }
    }

    /// A trial in which the guest gets the largest file from this machine.
    pub fn of_client(host: Host, limit: Duration) -> Self {
        let job = format!("job=fetch url={HERE}/noise.bin");
        Self {
            expect: Expect::Fetched,
            ..Self::of_disk(host, "fetch", &job, limit)
        }
    }

    /// Whether the guest gets a NIC.
    pub fn has_nic(&self) -> bool {
        self.visit.is_some() || self.expect == Expect::Fetched
    }
}

type Jobs = Vec<(Trial, Job)>;
type BootJobs<'a> = &'a dyn Fn(&[Job], &Path) -> Result<Vec<Outcome>>;

/// Runs those trials that are on simulated hosts, in processes of this machine.
///
/// # Errors
/// When the log cannot be written, or the disk not copied.
pub fn simulated(
    trials: &[Trial],
    disk: &Disk,
    debian: Option<&Debian>,
    progress: &Progress,
) -> Result<Vec<Row>> {
    if trials.iter().all(|trial| trial.host.is_real()) {
        return Ok(Vec::new());
    }
    progress.step("building the simulated hosts");
    let program = simulated::build();
    let files = match debian {
        Some(debian) if trials.iter().any(Trial::has_nic) => {
            Some(Files::serve(debian, &paths::work().join("files"))?)
        }
        _ => None,
    };
    let mut rows = Vec::new();
    for trial in trials.iter().filter(|trial| !trial.host.is_real()) {
        let program = match &program {
            Ok(program) => program,
            Err(error) => {
                rows.push(Row::failed(trial, format!("{error:#}")));
                continue;
            }
        };
        let boot = boot(trial, program, disk, debian, files.as_ref())?;
        progress.step(&boot.name);
        let log = paths::work().join(format!("logs/{}.log", boot.name));
        let outcome = simulated::boot(trial.host, &boot, program, &log, progress)?;
        rows.push(judge(trial, &outcome, disk, &log));
    }
    Ok(rows)
}

/// Runs those trials that are on real hosts, and returns a row for each, in their order.
///
/// # Errors
/// Only what keeps every host from being tried, such as a guest that does not build.
pub fn real(
    trials: &[Trial],
    disk: &Disk,
    debian: &Debian,
    progress: &Progress,
) -> Result<Vec<Row>> {
    let trials: Vec<Trial> = trials
        .iter()
        .filter(|trial| trial.host.is_real())
        .cloned()
        .collect();
    if trials.is_empty() {
        return Ok(Vec::new());
    }
    progress.step("building the guest kernel");
    let image = cargo::build_guest()?;
    fs::create_dir_all(paths::work().join("logs"))?;
    let kvm_host = if trials.iter().any(|t| t.host == Host::HyperV) {
        progress.step("building the KVM host");
        Some(hyperv::build())
    } else {
        None
    };

    // Only who has a NIC can ask for something.
    let files = if trials.iter().any(Trial::has_nic) {
        Some(Files::serve(debian, &paths::work().join("files"))?)
    } else {
        None
    };
    let (mut rows, mut on_xen, mut in_kvm) = (Vec::new(), Jobs::new(), Jobs::new());
    for trial in &trials {
        let boot = boot(trial, &image, disk, Some(debian), files.as_ref())?;
        match (trial.host, &kvm_host) {
            (Host::Xen, _) => on_xen.push((trial.clone(), xen::job(&boot))),
            (Host::QemuXen, _) => in_kvm.push((trial.clone(), qemu_xen::job(&boot))),
            (Host::QemuHyperV, _) => in_kvm.push((trial.clone(), qemu_hyperv::job(&boot))),
            (Host::HyperV, Some(Ok(program))) => {
                in_kvm.push((trial.clone(), hyperv::job(&boot, program.clone())));
            }
            (Host::HyperV, Some(Err(error))) => rows.push(Row::failed(trial, format!("{error:#}"))),
            (Host::HyperV, None) | (Host::SimulatedXen | Host::SimulatedHyperV, _) => {}
        }
    }
    let stock = |jobs: &Jobs| jobs.iter().any(|(t, _)| t.offer == Offer::Linux);
    let (xen_too, kvm_too) = (stock(&on_xen), stock(&in_kvm));
    rows.extend(group(on_xen, "xen", disk, progress, &|jobs, log| {
        xen::boot(debian, jobs, xen_too, log, progress)
    }));
    rows.extend(group(in_kvm, "kvm", disk, progress, &|jobs, log| {
        kvm::boot(debian, jobs, kvm_too, log, progress)
    }));
    rows.sort_by_key(|row| {
        trials
            .iter()
            .position(|t| t.host == row.host && t.name == row.trial)
    });
    Ok(rows)
}

fn boot<'a>(
    trial: &Trial,
    image: &Path,
    disk: &'a Disk,
    debian: Option<&Debian>,
    files: Option<&Files>,
) -> Result<Boot<'a>> {
    let name = format!("{}-{}", trial.host, trial.name);
    let dir = paths::work().join("visits").join(&name);
    let visitor = trial
        .visit
        .map(|plan| Visitor::new(debian, disk, plan, dir))
        .transpose()?;
    let here = files.map_or(String::new(), Files::url);
    Ok(Boot {
        name,
        image: image.to_owned(),
        disk,
        command_line: trial.command_line.replace(HERE, &here),
        offer: trial.offer,
        limit: trial.limit,
        nic: trial.has_nic(),
        visitor,
        reachable: files.map(Files::port),
    })
}

/// Runs jobs that share a machine, and once more those that the machine (not the guest) left without an end.
fn group(
    mut jobs: Jobs,
    name: &str,
    disk: &Disk,
    progress: &Progress,
    boot: BootJobs<'_>,
) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut first_try: Vec<(Trial, String)> = Vec::new();
    for attempt in 1..=2 {
        if jobs.is_empty() {
            break;
        }
        let began = Instant::now();
        let (trials, list): (Vec<Trial>, Vec<Job>) = jobs.drain(..).unzip();
        let log = paths::work().join(format!("logs/{name}-{attempt}.log"));
        let outcomes = match boot(&list, &log) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                rows.extend(
                    trials
                        .iter()
                        .map(|trial| Row::failed(trial, format!("{error:#}"))),
                );
                break;
            }
        };
        progress.step(&format!(
            "{name}: over after {:.0} s",
            began.elapsed().as_secs_f64()
        ));
        for ((trial, job), outcome) in trials.into_iter().zip(list).zip(outcomes) {
            match unfinished(&trial, &outcome) {
                Some(why) if attempt == 1 => {
                    progress.note(&format!(
                        "{}: {why} ({}); trying once more",
                        job.name,
                        log.display()
                    ));
                    first_try.push((trial.clone(), why));
                    jobs.push((trial, job));
                }
                _ => rows.push(judge(&trial, &outcome, disk, &log)),
            }
        }
    }
    for (trial, why) in first_try {
        if let Some(row) = rows
            .iter_mut()
            .find(|row| row.host == trial.host && row.trial == trial.name)
        {
            row.remarks.push(format!("tried twice: at first {why}"));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::State;
    use crate::qemu::Line;
    use std::cell::RefCell;

    fn job(trial: &Trial) -> (Trial, Job) {
        let job = Job {
            name: trial.name.into(),
            script: String::new(),
            files: Vec::new(),
            limit: trial.limit,
            visitor: None,
        };
        (trial.clone(), job)
    }

    #[test]
    fn a_boot_without_an_end_is_repeated_once_and_said_to_be() {
        let disk = Disk {
            vhd: "x".into(),
            sectors: 8,
            sha256: "d".into(),
            files: Vec::new(),
        };
        let trials = [
            ("well", Host::QemuXen),
            ("lost", Host::QemuXen),
            ("wrong", Host::HyperV),
        ]
        .map(|(name, host)| Trial::of_disk(host, name, "job=hash", Duration::from_secs(1)));
        let good = r#"RESULT {"job":"hash","ok":true,"disks":[{"sectors":8,"sector_size":512,"sha256":"d"}]}"#;
        let boots = RefCell::new(Vec::new());
        let boot = |jobs: &[Job], _: &Path| {
            boots.borrow_mut().push(jobs.len());
            let first = boots.borrow().len() == 1;
            let text = |name: &str| match name {
                "lost" if first => None,
                "wrong" => Some(r#"RESULT {"ok":false,"error":"its own fault"}"#),
                _ => Some(good),
            };
            let line = |text: &str| Line {
                at: Duration::ZERO,
                text: text.to_owned(),
            };
            let outcome = |job: &Job| Outcome {
                lines: text(&job.name).map(line).into_iter().collect(),
                ..Outcome::default()
            };
            Ok(jobs.iter().map(outcome).collect())
        };
        let rows = group(
            trials.iter().map(job).collect(),
            "test",
            &disk,
            &Progress::new(),
            &boot,
        );
        assert_eq!(*boots.borrow(), [3, 1]);
        let row = |name: &str| rows.iter().find(|r| r.trial == name).unwrap();
        assert_eq!(
            (&row("well").state, row("well").remarks.len()),
            (&State::Passed, 0)
        );
        assert_eq!(
            (&row("lost").state, row("lost").remarks.len()),
            (&State::Passed, 1)
        );
        assert!(matches!(&row("wrong").state, State::Failed(why) if why[0] == "its own fault"));
    }
}
