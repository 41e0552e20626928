//! Boots one image with one disk on a set of hosts, and judges what came out of it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::debian::Debian;
use crate::disk::Disk;
use crate::hosts::jobs::{Job, Outcome};
use crate::hosts::{Boot, Host, hyperv, kvm, qemu_hyperv, qemu_xen, xen};
use crate::progress::Progress;
use crate::result::{self, Report};
use crate::{cargo, paths};

/// Status of a command that `timeout` ended.
const TIME_UP: [i32; 3] = [124, 137, 143];

/// How it went on a host.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "why")]
pub enum State {
    /// As it should.
    Passed,
    /// Each reason is a sentence.
    Failed(Vec<String>),
    /// It was not tried, for this reason.
    Skipped(String),
}

/// One host's line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The host.
    pub host: Host,
    /// How it went.
    #[serde(flatten)]
    pub state: State,
    /// What the guest reported.
    pub report: Option<Report>,
    /// From the host's start to the guest's end, in seconds.
    pub seconds: f64,
    /// What else a reader should know.
    pub remarks: Vec<String>,
}

impl Row {
    /// A host that was not tried.
    pub fn skipped(host: Host, why: impl Into<String>) -> Self {
        Self {
            host,
            state: State::Skipped(why.into()),
            report: None,
            seconds: 0.0,
            remarks: Vec::new(),
        }
    }

    fn failed(host: Host, why: String) -> Self {
        Self {
            host,
            state: State::Failed(vec![why]),
            report: None,
            seconds: 0.0,
            remarks: Vec::new(),
        }
    }
}

/// A job for the guest: its command line, and whether it leaves the disk as it was.
pub struct Task<'a> {
    /// The kernel's command line.
    pub command_line: &'a str,
    /// How long the guest may take on each host.
    pub limit: Duration,
}

impl Task<'_> {
    /// Whether the disk must be unchanged afterwards.
    fn restores(&self) -> bool {
        !["job=verify", "rw=write", "rw=randwrite"]
            .iter()
            .any(|word| self.command_line.contains(word))
    }
}

/// Runs the task on the real ones of `hosts`.
///
/// # Errors
/// Only what keeps every host from being tried, such as a guest that does not build.
pub fn real(
    hosts: &[Host],
    task: &Task<'_>,
    disk: &Disk,
    debian: &Debian,
    progress: &Progress,
) -> Result<Vec<Row>> {
    progress.step("building the guest kernel");
    let image = cargo::build_guest()?;
    let boot = Boot {
        image,
        disk,
        command_line: task.command_line.to_owned(),
        limit: task.limit,
    };
    fs::create_dir_all(paths::work().join("logs"))?;

    let mut rows = Vec::new();
    let mut in_kvm = Vec::new();
    for &host in hosts {
        let job = match host {
            Host::QemuXen => qemu_xen::job(&boot),
            Host::QemuHyperV => qemu_hyperv::job(&boot),
            Host::HyperV => {
                progress.step("building the KVM host");
                match hyperv::build() {
                    Ok(program) => hyperv::job(&boot, program),
                    Err(error) => {
                        rows.push(Row::failed(host, format!("{error:#}")));
                        continue;
                    }
                }
            }
            _ => continue,
        };
        in_kvm.push((host, job));
    }
    let on_xen = if hosts.contains(&Host::Xen) {
        vec![(Host::Xen, xen::job(&boot))]
    } else {
        Vec::new()
    };

    rows.extend(group(on_xen, "xen", task, disk, progress, &|jobs, log| {
        xen::boot(debian, jobs, log, progress)
    }));
    rows.extend(group(in_kvm, "kvm", task, disk, progress, &|jobs, log| {
        kvm::boot(debian, jobs, log, progress)
    }));
    rows.sort_by_key(|row| row.host);
    Ok(rows)
}

type BootJobs<'a> = &'a dyn Fn(&[Job], &std::path::Path) -> Result<Vec<Outcome>>;

/// Runs jobs that share a machine, and once more those that the machine (not the guest) left without an end.
fn group(
    mut jobs: Vec<(Host, Job)>,
    name: &str,
    task: &Task<'_>,
    disk: &Disk,
    progress: &Progress,
    boot: BootJobs<'_>,
) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut first_try: Vec<(Host, String)> = Vec::new();
    for attempt in 1..=2 {
        if jobs.is_empty() {
            break;
        }
        let began = Instant::now();
        let (hosts, list): (Vec<Host>, Vec<Job>) = jobs.drain(..).unzip();
        let log = paths::work().join(format!("logs/{name}-{attempt}.log"));
        let outcomes = match boot(&list, &log) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                rows.extend(
                    hosts
                        .into_iter()
                        .map(|host| Row::failed(host, format!("{error:#}"))),
                );
                break;
            }
        };
        progress.step(&format!(
            "{name}: over after {:.0} s",
            began.elapsed().as_secs_f64()
        ));
        for ((host, job), outcome) in hosts.into_iter().zip(list).zip(outcomes) {
            match unfinished(&outcome) {
                Some(why) if attempt == 1 => {
                    progress.note(&format!(
                        "{host}: {why} ({}); trying once more",
                        log.display()
                    ));
                    first_try.push((host, why));
                    jobs.push((host, job));
                }
                _ => rows.push(judge(
                    host,
                    &outcome,
                    task,
                    disk,
                    &log.display().to_string(),
                )),
            }
        }
    }
    for (host, why) in first_try {
        if let Some(row) = rows.iter_mut().find(|row| row.host == host) {
            row.remarks.push(format!("tried twice: at first {why}"));
        }
    }
    rows
}

/// Why the machine below, and not the guest, may be to blame: neither a last line nor a crash of the guest.
fn unfinished(outcome: &Outcome) -> Option<String> {
    let spoke = outcome
        .lines
        .iter()
        .any(|l| l.text.starts_with("RESULT ") || l.text.contains("panic"));
    if spoke {
        return None;
    }
    match outcome.status {
        None => Some("the machine around the guest went down or its time was up".into()),
        Some(status) if TIME_UP.contains(&status) => Some("the time was up".into()),
        Some(_) => Some("the guest ended without a RESULT line".into()),
    }
}

/// Holds what the guest said against what is known here.
fn judge(host: Host, outcome: &Outcome, task: &Task<'_>, disk: &Disk, log: &str) -> Row {
    let mut row = Row {
        host,
        state: State::Passed,
        report: None,
        seconds: outcome.took.as_secs_f64(),
        remarks: Vec::new(),
    };
    let mut wrong = Vec::new();
    match result::find(&outcome.lines) {
        None => wrong.push(format!(
            "{}; see {log}",
            unfinished(outcome).unwrap_or_else(|| "the guest crashed".into())
        )),
        Some(Err(error)) => wrong.push(error),
        Some(Ok(report)) => {
            if host.has_disk() {
                wrong.extend(result::differences(&report, disk));
            } else {
                wrong.extend(without_disk(&report));
            }
            row.report = Some(report);
        }
    }
    for line in &outcome.lines {
        let Some(word) = line.text.strip_prefix("HARNESS ") else {
            continue;
        };
        match word.split_once(' ') {
            Some(("disk", "changed")) if task.restores() => {
                wrong.push("the guest left the disk changed".into())
            }
            Some(("disk" | "console", _)) => {}
            Some(("status", "0")) => {}
            _ => row.remarks.push(word.to_owned()),
        }
    }
    if !wrong.is_empty() {
        row.state = State::Failed(wrong);
    }
    row
}

/// What must hold where there is a VMBus but no disk on it.
fn without_disk(report: &Report) -> Vec<String> {
    let mut wrong = Vec::new();
    if !report.bus.to_lowercase().contains("vmbus") {
        wrong.push(format!(
            "VMBus was not negotiated: the guest's bus is {:?}",
            report.bus
        ));
    }
    if let (false, Some(error)) = (report.ok, &report.error)
        && !error.to_lowercase().contains("disk")
    {
        wrong.push(error.clone());
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::Line;

    fn outcome(text: &[&str], status: Option<i32>) -> Outcome {
        let lines = text
            .iter()
            .map(|t| Line {
                at: Duration::ZERO,
                text: (*t).to_owned(),
            })
            .collect();
        Outcome {
            lines,
            status,
            took: Duration::from_secs(1),
        }
    }

    fn disk() -> Disk {
        Disk {
            vhd: "x".into(),
            sectors: 8,
            sha256: "d".into(),
            files: Vec::new(),
        }
    }

    const TASK: Task<'_> = Task {
        command_line: "job=tour",
        limit: Duration::from_secs(1),
    };
    const GOOD: &str = r#"RESULT {"bus":"xenbus","job":"tour","ok":true,"disks":[{"sectors":8,"sector_size":512,"sha256":"d"}]}"#;

    #[test]
    fn only_the_machine_below_gets_a_second_chance() {
        assert!(unfinished(&outcome(&["hello"], None)).is_some());
        assert!(unfinished(&outcome(&["hello"], Some(124))).is_some());
        assert!(unfinished(&outcome(&["hello"], Some(0))).is_some());
        assert!(unfinished(&outcome(&["RESULT {\"ok\":false}"], None)).is_none());
        assert!(unfinished(&outcome(&["panic: at x"], Some(0))).is_none());
    }

    #[test]
    fn a_changed_disk_is_a_failure_unless_the_job_is_to_write() {
        let changed = outcome(&[GOOD, "HARNESS disk changed"], Some(0));
        let row = judge(Host::Xen, &changed, &TASK, &disk(), "log");
        assert!(matches!(&row.state, State::Failed(why) if why[0].contains("changed")));
        let same = outcome(&[GOOD, "HARNESS disk same", "HARNESS status 139"], Some(0));
        let row = judge(Host::Xen, &same, &TASK, &disk(), "log");
        assert_eq!(
            (row.state, row.remarks),
            (State::Passed, vec!["status 139".to_owned()])
        );
        assert!(
            !Task {
                command_line: "job=verify seed=1",
                ..TASK
            }
            .restores()
        );
    }

    #[test]
    fn a_guest_that_says_nothing_fails() {
        assert!(matches!(
            judge(Host::Xen, &outcome(&[], Some(0)), &TASK, &disk(), "log").state,
            State::Failed(_)
        ));
    }

    #[test]
    fn without_a_disk_the_bus_decides() {
        let line = r#"RESULT {"bus":"vmbus 4.0","ok":false,"error":"no disk"}"#;
        assert_eq!(
            judge(
                Host::QemuHyperV,
                &outcome(&[line], Some(0)),
                &TASK,
                &disk(),
                "log"
            )
            .state,
            State::Passed
        );
        let line = r#"RESULT {"bus":"","ok":false,"error":"no disk"}"#;
        assert!(matches!(
            judge(
                Host::QemuHyperV,
                &outcome(&[line], Some(0)),
                &TASK,
                &disk(),
                "log"
            )
            .state,
            State::Failed(_)
        ));
    }
}
