//! Shell jobs that run inside a booted Linux (the one with KVM, or Xen's dom0): how they get in by an
//! archive appended to the initramfs, and how their output is cut out of the console.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;

use super::quote;
use crate::initramfs::Tree;
use crate::paths;
use crate::progress::Progress;
use crate::qemu::{Ended, Line, Voice, run_heard, turn};
use crate::visit::{self, News, Visitor};

/// Boot and shutdown, beside the jobs' own limits.
const OVERHEAD: Duration = Duration::from_secs(60);

/// Something to run in the machine.
pub struct Job {
    /// A word.
    pub name: String,
    /// Shell commands; the files are in the current directory.
    pub script: String,
    /// Files by the name they get.
    pub files: Vec<(String, PathBuf)>,
    /// How long it may take.
    pub limit: Duration,
    /// Who comes when the job says that its guest serves.
    pub visitor: Option<Visitor>,
}

/// What became of a job.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What it printed.
    pub lines: Vec<Line>,
    /// The script's exit status; `None` if the machine went down before its end.
    pub status: Option<i32>,
    /// How long it took.
    pub took: Duration,
}

/// The last part of an `/init`: runs the jobs one after another.
pub const RUN: &str = include_str!("../../init/jobs.sh");

/// The line after which the machine has nothing more to say.
const DONE: &str = "@@ done";

/// Packs the jobs into an archive called `name`. A file that several jobs use is packed once; each job gets
/// copies of its own when its turn comes.
pub fn archive(jobs: &[Job], name: &str) -> Result<PathBuf> {
    pack(jobs).cached(&paths::work(), name)
}

fn pack(jobs: &[Job]) -> Tree {
    let mut tree = Tree::new();
    let mut order = String::new();
    let mut stored: Vec<&PathBuf> = Vec::new();
    for job in jobs {
        order += &format!("{}\n", job.name);
        let at = format!("jobs/{}", job.name);
        let mut copy = String::new();
        for (name, path) in &job.files {
            let number = stored
                .iter()
                .position(|known| *known == path)
                .unwrap_or_else(|| {
                    stored.push(path);
                    stored.len() - 1
                });
            tree.file(&format!("jobs/.store/{number}"), path);
            copy += &format!("cp /jobs/.store/{number} {}\n", quote(name));
        }
        tree.script(&format!("{at}/script"), &job.script);
        tree.bytes(&format!("{at}/copy"), copy);
        tree.bytes(
            &format!("{at}/limit"),
            format!("LIMIT={}\n", job.limit.as_secs()),
        );
    }
    tree.bytes("jobs/order", order);
    tree
}

/// What a console line says to someone waiting, if anything.
fn news(machine: &str, line: &Line) -> Option<String> {
    let words: Vec<&str> = line.text.strip_prefix("@@ ")?.split(' ').collect();
    match words.as_slice() {
        ["begin", name, _] => Some(format!("{machine}: {name}")),
        ["ready", _] => Some(format!(
            "{machine} is up after {:.0} s",
            line.at.as_secs_f64()
        )),
        _ => None,
    }
}

/// Listens to a console and sends each job's visitor in.
pub struct Guide<'a> {
    jobs: &'a [Job],
    /// The port of this machine's loopback that leads to the guests' web server.
    port: u16,
    at: Option<&'a Job>,
    news: Arc<News>,
}

impl<'a> Guide<'a> {
    /// A guide for a machine whose guests are reached by `port`.
    pub fn new(jobs: &'a [Job], port: u16) -> Self {
        Self {
            jobs,
            port,
            at: None,
            news: Arc::default(),
        }
    }

    /// Takes notice of a line.
    pub fn hear(&mut self, line: &Line, voice: &Voice) {
        let Some(words) = line.text.strip_prefix("@@ ") else {
            return;
        };
        match *words.split(' ').collect::<Vec<_>>() {
            ["begin", name, _] => self.at = self.jobs.iter().find(|job| job.name == name),
            ["serving"] => {
                if let Some(visitor) = self.at.and_then(|job| job.visitor.as_ref()) {
                    self.news = visitor.start(self.port, voice);
                }
            }
            ["replugged"] => self.news.replugged.store(true, Ordering::Release),
            _ => {}
        }
    }
}

/// Tells people where a server is that is left up.
pub fn open(machine: &str, url: &str) -> String {
    format!("{machine}: the guest serves its files at {url} until you type q")
}

/// Boots a machine and lets it run its jobs to their end. `port` of this machine's loopback leads to the web
/// server of its guests; `machine` is what people call it.
pub fn boot(
    command: Command,
    jobs: &[Job],
    port: u16,
    machine: &str,
    log: &Path,
    progress: &Progress,
) -> Result<Vec<Outcome>> {
    let limit = jobs.iter().fold(OVERHEAD, |sum, job| sum + job.limit);
    let _turn = turn()?;
    let mut guide = Guide::new(jobs, port);
    let run = run_heard(command, log, limit, |line, voice| {
        guide.hear(line, voice);
        if let Some(url) = line.text.strip_prefix(visit::OPEN) {
            progress.note(&open(machine, url));
        }
        if let Some(news) = news(machine, line) {
            progress.step(&news);
        }
        line.text.starts_with(DONE)
    })?;
    if run.ended != Ended::Marker {
        let took = run.took.as_secs_f64();
        progress.note(&format!(
            "{machine} did not reach its end ({:?} after {took:.0} s); see {}",
            run.ended,
            log.display()
        ));
    }
    Ok(outcomes(jobs.iter().map(|j| j.name.as_str()), &run.lines))
}

/// Cuts the console into the jobs' parts, in the jobs' order.
pub fn outcomes<'a>(names: impl Iterator<Item = &'a str>, lines: &[Line]) -> Vec<Outcome> {
    names.map(|name| outcome(name, lines)).collect()
}

fn outcome(name: &str, lines: &[Line]) -> Outcome {
    let (begin, end) = (format!("@@ begin {name} "), format!("@@ end {name} "));
    let mut outcome = Outcome::default();
    let Some(first) = lines.iter().position(|l| l.text.starts_with(&begin)) else {
        return outcome;
    };
    for line in &lines[first + 1..] {
        outcome.took = line.at.saturating_sub(lines[first].at);
        // A job's last line may lack its line end.
        if let Some(at) = line.text.find(&end) {
            outcome.status = line.text[at + end.len()..]
                .split(' ')
                .next()
                .and_then(|s| s.parse().ok());
            if at > 0 {
                outcome.lines.push(Line {
                    at: line.at,
                    text: line.text[..at].to_owned(),
                });
            }
            break;
        }
        outcome.lines.push(line.clone());
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_several_jobs_is_packed_once() {
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/packages.txt"));
        let job = |name: &str| Job {
            name: name.into(),
            script: "true".into(),
            files: vec![("it's".into(), path.clone())],
            limit: Duration::from_secs(5),
            visitor: None,
        };
        let mut archive = Vec::new();
        pack(&[job("a"), job("b")]).write(&mut archive).unwrap();
        let size = std::fs::metadata(&path).unwrap().len() as usize;
        assert!((size..size * 2).contains(&archive.len()));
        let text = String::from_utf8_lossy(&archive);
        assert_eq!(text.matches(r"cp /jobs/.store/0 'it'\''s'").count(), 2);
    }

    #[test]
    fn the_console_is_cut_into_jobs() {
        let lines: Vec<Line> = [
            "@@ ready 1",
            "@@ begin a 2.0",
            "x",
            "tail@@ end a 0 3.0",
            "@@ begin b 3.1",
            "y",
        ]
        .iter()
        .enumerate()
        .map(|(at, text)| Line {
            at: Duration::from_secs(at as u64),
            text: (*text).to_owned(),
        })
        .collect();
        let all = outcomes(["a", "b", "c"].into_iter(), &lines);
        assert_eq!(all[0].status, Some(0));
        assert_eq!(
            all[0]
                .lines
                .iter()
                .map(|l| l.text.as_str())
                .collect::<Vec<_>>(),
            ["x", "tail"]
        );
        assert_eq!(all[0].took, Duration::from_secs(2));
        assert_eq!((all[1].status, all[1].lines.len()), (None, 1));
        assert_eq!((all[2].status, all[2].lines.len()), (None, 0));
        assert_eq!(news("L1", &lines[1]).as_deref(), Some("L1: a"));
        assert_eq!(news("L1", &lines[2]), None);
    }
}
