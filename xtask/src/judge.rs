//! Holds what came out of a trial against what is known here.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::hosts::Host;
use crate::hosts::jobs::Outcome;
use crate::result::{self, Report};
use crate::session::Trial;
use crate::visit::{self, Visited};

/// Bytes of the longest frame that is one packet.
const PACKET: u64 = 1514;
/// Statuses of a command that `timeout` ended.
const TIME_UP: [i32; 3] = [124, 137, 143];

/// What must come out of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The disk and all files as they are known here, and the disk left as it was.
    SameDisk,
    /// The disk found and the job done; its contents are the guest's to change.
    DiskUsed,
    /// Files served to a client, to its end; the disk left as it was.
    Served {
        /// Queue pairs of the NIC. Of several more than one must have been of use.
        queues: u16,
    },
    /// A file of the disk, got from this machine's web server.
    Fetched,
    /// A VMBus, negotiated, with no disk on it.
    Bus,
    /// A failure in an orderly way whose reason contains this word.
    Refusal(&'static str),
    /// A stock Linux that reads, writes and restores the disk.
    Linux,
}

/// How it went.
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

/// What came of a trial: one line of a table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The host.
    pub host: Host,
    /// The trial's name.
    pub trial: String,
    /// How it went.
    #[serde(flatten)]
    pub state: State,
    /// What the guest reported.
    pub report: Option<Report>,
    /// What came of a client's visit to it.
    pub visited: Option<Visited>,
    /// From the host's start to the guest's end, in seconds.
    pub seconds: f64,
    /// What else a reader should know.
    pub remarks: Vec<String>,
}

impl Row {
    /// A host that was not tried.
    pub fn skipped(host: Host, why: impl Into<String>) -> Self {
        Self::new(host, "", State::Skipped(why.into()))
    }

    /// A trial that failed before it began.
    pub fn failed(trial: &Trial, why: String) -> Self {
        Self::new(trial.host, trial.name, State::Failed(vec![why]))
    }

    /// Adds what another trial on the same host came to.
    pub fn add(&mut self, other: Self) {
        let failed = |state: &State| match state {
            State::Failed(why) => why.clone(),
            State::Passed | State::Skipped(_) => Vec::new(),
        };
        let why = [failed(&self.state), failed(&other.state)].concat();
        if !why.is_empty() {
            self.state = State::Failed(why);
        }
        self.report = match (self.report.take(), other.report) {
            (Some(mut known), Some(more)) => {
                known.nic = known.nic.or(more.nic);
                known.traffic = known.traffic.or(more.traffic);
                known.serve = known.serve.or(more.serve);
                Some(known)
            }
            (known, more) => known.or(more),
        };
        self.visited = self.visited.take().or(other.visited);
        self.seconds += other.seconds;
        self.remarks.extend(other.remarks);
    }

    fn new(host: Host, trial: &str, state: State) -> Self {
        Self {
            host,
            trial: trial.to_owned(),
            state,
            report: None,
            visited: None,
            seconds: 0.0,
            remarks: Vec::new(),
        }
    }
}

/// Why the machine below, and not the guest, may be to blame: neither a last line nor a crash of the guest.
pub fn unfinished(trial: &Trial, outcome: &Outcome) -> Option<String> {
    let last = if trial.expect == Expect::Linux {
        "LINUX done"
    } else {
        "RESULT "
    };
    let guests_own = |text: &str| text.starts_with(last) || text.contains("panic");
    if outcome.lines.iter().any(|l| guests_own(&l.text)) {
        return None;
    }
    Some(match outcome.status {
        None => "the machine around the guest went down or its time was up".into(),
        Some(status) if TIME_UP.contains(&status) => "the time was up".into(),
        Some(_) => format!("the guest ended without a line of {}", last.trim_end()),
    })
}

/// The trial's row.
pub fn judge(trial: &Trial, outcome: &Outcome, disk: &Disk, log: &Path) -> Row {
    let mut row = Row::new(trial.host, trial.name, State::Passed);
    row.seconds = outcome.took.as_secs_f64();
    let mut wrong = Vec::new();
    if let Some(why) = unfinished(trial, outcome) {
        wrong.push(format!("{why}; see {}", log.display()));
    } else if trial.expect == Expect::Linux {
        wrong.extend(linux(outcome, disk));
        if trial.visit.is_some() {
            wrong.extend(linux_net(outcome, disk));
        }
    } else {
        match result::find(&outcome.lines) {
            None => wrong.push(format!("the guest crashed; see {}", log.display())),
            Some(Err(error)) => wrong.push(error),
            Some(Ok(report)) => {
                let replugged = trial.visit.is_some_and(|plan| plan.replug);
                wrong.extend(guest(trial.expect, &report, disk, replugged));
                row.report = Some(report);
            }
        }
    }
    if trial.host == Host::HyperV {
        wrong.extend(kvm_host(trial, outcome));
    }
    if trial.visit.is_some() {
        row.visited = visit::find(outcome.lines.iter().map(|l| l.text.as_str()));
        match &row.visited {
            None if trial.visit.is_some_and(|plan| plan.stay) => {}
            None => wrong.push("no client came to see the guest".into()),
            Some(visited) => wrong.extend(visited.wrong.iter().cloned()),
        }
    }
    for line in &outcome.lines {
        let Some(word) = line.text.strip_prefix("HARNESS ") else {
            continue;
        };
        match word {
            "disk changed" if trial.expect == Expect::DiskUsed => {}
            "disk changed" => wrong.push("the disk was left changed".into()),
            "disk same" | "status 0" | "1 RESULT lines on the PV console" => {}
            // A command line that cannot be followed is refused before the host is looked for.
            "0 RESULT lines on the PV console"
                if matches!(trial.expect, Expect::Refusal(_) | Expect::Linux) => {}
            // QEMU 10 crashes when it takes a Xen NIC down, after everything is done.
            "status 139" if trial.host == Host::QemuXen && trial.visit.is_some() => {
                row.remarks
                    .push("QEMU crashed after the guest's end".into());
            }
            _ => row.remarks.push(word.to_owned()),
        }
    }
    if !wrong.is_empty() {
        row.state = State::Failed(wrong);
    }
    row
}

/// What is wrong with the account of a NIC: every buffer has to be back.
fn served(report: &Report, replugged: bool) -> Vec<String> {
    let Some(traffic) = &report.traffic else {
        return vec!["the guest tells of no traffic".into()];
    };
    let mut wrong = Vec::new();
    // A frame that came before the first look is a buffer that was out, and is not any more.
    if traffic.buffers_after > traffic.buffers_before {
        wrong.push(format!(
            "{} buffers were out at first, and {} at the end",
            traffic.buffers_before, traffic.buffers_after
        ));
    }
    if replugged && traffic.replugs == 0 {
        wrong.push("the guest did not see its NIC go and come back".into());
    }
    wrong
}

/// What is wrong with how a NIC's frames were spread over its queue pairs: both ways, as soon as there are several.
fn spread(report: &Report, queues: u16) -> Option<String> {
    let each = report.traffic.as_ref()?.queues.as_slice();
    let used = each.iter().filter(|q| q.rx_frames > 0 && q.tx_frames > 0);
    if queues == 1 || each.len() == usize::from(queues) && used.count() > 1 {
        return None;
    }
    Some(format!(
        "{queues} queue pairs were asked for, and frames went over them like this: {each:?}"
    ))
}

/// What is wrong with a report.
fn guest(expect: Expect, report: &Report, disk: &Disk, replugged: bool) -> Vec<String> {
    let reason = report
        .error
        .as_deref()
        .unwrap_or("the guest reports failure without a reason");
    let mut wrong = Vec::new();
    match expect {
        Expect::SameDisk => wrong.extend(result::differences(report, disk)),
        Expect::DiskUsed if !report.ok => wrong.push(reason.to_owned()),
        Expect::DiskUsed if report.disks.is_empty() => wrong.push("the guest found no disk".into()),
        Expect::Bus => {
            if !report.bus.to_lowercase().contains("vmbus") {
                wrong.push(format!("no VMBus was negotiated; the guest says: {reason}"));
            } else if !report.ok && !reason.to_lowercase().contains("disk") {
                wrong.push(reason.to_owned());
            }
        }
        Expect::Refusal(_) if report.ok => {
            wrong.push("the guest should have failed, but says that all is well".into())
        }
        Expect::Refusal(word) if !reason.to_lowercase().contains(word) => {
            wrong.push(format!(
                "the guest should have said something of {word:?}, but says: {reason}"
            ));
        }
        Expect::Served { .. } | Expect::Fetched if !report.ok => wrong.push(reason.to_owned()),
        Expect::Served { queues } => {
            wrong.extend(served(report, replugged));
            wrong.extend(spread(report, queues));
        }
        Expect::Fetched => {
            let sum = report.fetch.as_ref().map(|fetched| &fetched.sha256);
            if !disk.files.iter().any(|f| Some(&f.sha256) == sum) {
                wrong.push("what the guest got is not what was asked for".into());
            }
            wrong.extend(served(report, false));
        }
        Expect::DiskUsed | Expect::Refusal(_) | Expect::Linux => {}
    }
    wrong
}

/// What is wrong with a stock Linux's account of the disk.
fn linux(outcome: &Outcome, disk: &Disk) -> Vec<String> {
    let said = |words: [String; 2]| {
        outcome.lines.iter().any(|l| {
            l.text.starts_with("LINUX disk") && words.iter().all(|w| l.text.contains(w.as_str()))
        })
    };
    let sum = format!("sha256 {}", disk.sha256);
    let mut wrong = Vec::new();
    if !said([format!("{} sectors", disk.sectors), sum.clone()]) {
        wrong.push("Linux did not read the disk as it is".into());
    }
    if !said(["write verified".into(), String::new()]) {
        wrong.push("Linux did not read back what it wrote".into());
    }
    if !said(["restored".into(), sum]) {
        wrong.push("Linux could not restore what it overwrote".into());
    }
    wrong
}

/// What is wrong with a stock Linux's account of its NIC.
fn linux_net(outcome: &Outcome, disk: &Disk) -> Vec<String> {
    let said = |start: &str, part: &str| {
        let mut lines = outcome.lines.iter().map(|l| l.text.as_str());
        lines.any(|l| l.starts_with(start) && l.contains(part))
    };
    let mut wrong = Vec::new();
    if !said("LINUX net eth0 address", "") {
        wrong.push("Linux got no address by DHCP".into());
    }
    if !said("LINUX net ping", " 0% packet loss") {
        wrong.push("Linux's pings were not all answered".into());
    }
    if !disk
        .files
        .iter()
        .any(|f| said("LINUX net fetched", &f.sha256))
    {
        wrong.push("Linux did not get the file from here as it is".into());
    }
    wrong
}

/// What the project's KVM host says of itself at the end.
#[derive(Default, Deserialize)]
#[serde(default)]
struct KvmHost {
    /// What the guest did against the protocol.
    violations: Vec<String>,
    /// The NIC's line.
    line: Option<KvmLine>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct KvmLine {
    /// Frames the guest left to be cut.
    segments: u64,
    /// Bytes of the longest frame it sent.
    longest: u64,
    /// Frames the line did not take.
    refused: u64,
}

/// What is wrong with the account of the project's KVM host. Linux sends what is longer than a packet in one
/// piece: it would not if the NIC's offers were not to its liking.
fn kvm_host(trial: &Trial, outcome: &Outcome) -> Vec<String> {
    let mut lines = outcome.lines.iter().rev();
    let Some(text) = lines.find(|l| l.text.starts_with("{\"ending\":")) else {
        return Vec::new();
    };
    let host: KvmHost = match serde_json::from_str(&text.text) {
        Ok(host) => host,
        Err(error) => return vec![format!("the KVM host's account is malformed: {error}")],
    };
    let mut wrong: Vec<String> = host.violations;
    if trial.expect == Expect::Linux && trial.visit.is_some() {
        let line = host.line.unwrap_or_default();
        if line.segments == 0 || line.longest <= PACKET {
            wrong.push("Linux sent nothing that is longer than a packet".into());
        }
        if line.refused != 0 {
            wrong.push(format!("{} frames could not be sent on", line.refused));
        }
    }
    wrong
}

#[cfg(test)]
mod tests;
