//! `cargo xtask test`: everything that is checked, step by step, and the count at the end.

mod features;
mod steps;
mod wireshark;

use std::time::Instant;

use anyhow::{Result, bail};

use crate::progress::Progress;

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was done and found nothing.
    Passed,
    /// It was done and this is what it found.
    Failed(String),
    /// It was not done, for this reason.
    Skipped(String),
}

impl From<Result<()>> for Verdict {
    fn from(result: Result<()>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }
}

/// The steps' verdicts as they come.
pub struct Record<'a> {
    progress: &'a Progress,
    verdicts: Vec<(String, Verdict)>,
}

impl<'a> Record<'a> {
    fn new(progress: &'a Progress) -> Self {
        Self {
            progress,
            verdicts: Vec::new(),
        }
    }

    /// Does a step and notes how it went.
    pub fn step(&mut self, name: &str, run: impl FnOnce() -> Verdict) {
        self.progress.step(name);
        let began = Instant::now();
        let verdict = run();
        let seconds = began.elapsed().as_secs_f64();
        self.note(name, verdict, seconds);
    }

    /// Notes how a step went that is already over.
    pub fn note(&mut self, name: &str, verdict: Verdict, seconds: f64) {
        let text = match &verdict {
            Verdict::Passed => format!("pass  {seconds:6.1} s  {name}"),
            Verdict::Failed(why) => format!("FAIL  {seconds:6.1} s  {name}: {why}"),
            Verdict::Skipped(why) => format!("skip            {name}: {why}"),
        };
        self.progress.print(&text);
        self.verdicts.push((name.to_owned(), verdict));
    }

    /// The last line: a step that was skipped has not passed.
    fn summary(&self) -> (String, usize) {
        let count =
            |wanted: fn(&Verdict) -> bool| self.verdicts.iter().filter(|(_, v)| wanted(v)).count();
        let failed = count(|v| matches!(v, Verdict::Failed(_)));
        let passed = count(|v| *v == Verdict::Passed);
        let skipped = count(|v| matches!(v, Verdict::Skipped(_)));
        (
            format!("{passed} passed, {failed} failed, {skipped} skipped"),
            failed,
        )
    }
}

/// Runs all steps, or with `quick` those that need neither network nor QEMU.
///
/// # Errors
/// When a step failed.
pub fn test(quick: bool, progress: &Progress) -> Result<()> {
    let mut record = Record::new(progress);
    steps::code(&mut record, quick);
    if !quick {
        steps::hosts(&mut record, steps::trials(), progress);
    }
    finish(&record, progress)
}

/// Boots only those trials on the real hosts whose host or name is among `wanted`.
///
/// # Errors
/// When one failed, or there is none of them.
pub fn some(wanted: &[String], progress: &Progress) -> Result<()> {
    let mut trials = steps::trials();
    trials.retain(|trial| {
        let (host, name) = (trial.host.to_string(), trial.name);
        let both = format!("{host}/{name}");
        wanted.iter().any(|w| *w == host || w == name || *w == both)
    });
    if trials.is_empty() {
        bail!("there is no such trial; a trial is named by HOST, NAME or HOST/NAME");
    }
    let mut record = Record::new(progress);
    steps::hosts(&mut record, trials, progress);
    finish(&record, progress)
}

/// Prints the summary.
fn finish(record: &Record<'_>, progress: &Progress) -> Result<()> {
    progress.finish();
    let (summary, failed) = record.summary();
    let names: Vec<&str> = record
        .verdicts
        .iter()
        .filter(|(_, v)| matches!(v, Verdict::Failed(_)))
        .map(|(name, _)| name.as_str())
        .collect();
    println!("{summary}");
    if failed > 0 {
        bail!("failed: {}", names.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_step_is_not_a_pass() {
        let progress = Progress::new();
        let mut record = Record::new(&progress);
        record.step("a", || Verdict::Passed);
        record.step("b", || Verdict::Skipped("no nightly".into()));
        record.step("c", || {
            Err(anyhow::anyhow!("outer").context("inner")).into()
        });
        assert_eq!(
            record.summary(),
            ("1 passed, 1 failed, 1 skipped".to_owned(), 1)
        );
        assert_eq!(record.verdicts[2].1, Verdict::Failed("inner: outer".into()));
    }
}
