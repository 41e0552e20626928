//! `cargo xtask …`: what a person types.
#![forbid(unsafe_code)]

mod bench;
mod cargo;
mod check;
mod closure;
mod counters;
mod debian;
mod demo;
mod disk;
mod hosts;
mod initramfs;
mod judge;
mod kmod;
mod net;
mod patch;
mod paths;
mod progress;
mod qemu;
mod result;
mod session;
mod table;
mod tiny;
mod visit;
mod vmlinux;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use hosts::jobs::{Job, Outcome};

/// Builds, boots and checks pv-drivers.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Boot the same guest image with the same disk on every host, and compare
    Demo {
        /// Which host
        #[arg(long, value_enum, default_value = "all")]
        host: demo::Choice,
        /// Print JSON in place of the table
        #[arg(long)]
        json: bool,
        /// Have the guest do this instead, as in 'job=verify seed=7'
        #[arg(long, value_name = "LINE", conflicts_with = "serve")]
        job: Option<String>,
        /// Leave the guest up as a web server and say where; several hosts take turns
        #[arg(long)]
        serve: bool,
    },
    /// Check everything: formatting, lints, documentation, tests, targets, Miri, real hosts
    Test {
        /// Only what needs neither network nor QEMU
        #[arg(long)]
        quick: bool,
    },
    /// Boot only some of the check's trials on real hosts
    Trial {
        /// Trials by host, by name, or as HOST/NAME
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Measure what a block request costs on the hosts
    Bench {
        /// Print JSON in place of the tables
        #[arg(long)]
        json: bool,
        /// Only the counters, which need neither network nor QEMU
        #[arg(long)]
        quick: bool,
    },
    /// Build the guest image and print its path
    Guest,
    /// Forget what was downloaded and made for the real hosts
    Clean,
    /// Run shell commands in a Linux with KVM (nested in software emulation)
    #[command(hide = true)]
    L1 {
        /// A file to have in the current directory there, as NAME=PATH or PATH
        #[arg(long = "file", value_name = "NAME=PATH")]
        files: Vec<String>,
        /// The commands
        #[arg(long)]
        run: String,
        /// Have a stock Linux as /l2/vmlinux, /l2/bzImage and /l2/initrd
        #[arg(long)]
        linux: bool,
        /// Seconds the commands may take
        #[arg(long, default_value_t = 120)]
        limit: u64,
    },
    /// Run shell commands in the dom0 of a real Xen (in software emulation)
    #[command(hide = true)]
    Dom0 {
        /// A file to have in the current directory there, as NAME=PATH or PATH
        #[arg(long = "file", value_name = "NAME=PATH")]
        files: Vec<String>,
        /// The commands
        #[arg(long)]
        run: String,
        /// Have a stock Linux as /l2/vmlinux, /l2/bzImage and /l2/initrd
        #[arg(long)]
        linux: bool,
        /// Seconds the commands may take
        #[arg(long, default_value_t = 120)]
        limit: u64,
    },
    /// Make the disk that every host serves, and print what is on it
    #[command(hide = true)]
    Disk,
    /// Write the smallest PVH kernel to a file
    #[command(hide = true)]
    Tiny {
        /// The file
        path: PathBuf,
    },
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help is asked for; anything else is one sentence.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            eprintln!("{}", sentence(&error.to_string()));
            return ExitCode::FAILURE;
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The part of clap's message that says what is wrong, in one line.
fn sentence(message: &str) -> String {
    let what = message.split("\n\n").next().unwrap_or_default();
    what.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn run(cli: Cli) -> Result<()> {
    let progress = progress::Progress::new();
    match cli.command {
        Task::Demo {
            host,
            json,
            job,
            serve,
        } => {
            let what = match job {
                Some(job) => demo::What::Job(job),
                None if serve => demo::What::Stay,
                None => demo::What::Everything,
            };
            demo::demo(host, &what, json, &progress)
        }
        Task::Test { quick } => check::test(quick, &progress),
        Task::Trial { names } => check::some(&names, &progress),
        Task::Bench { json, quick } => bench::bench(json, quick, &progress),
        Task::Guest => {
            progress.step("building the guest kernel");
            let image = cargo::build_guest()?;
            progress.finish();
            println!("{}", image.display());
            Ok(())
        }
        Task::Clean => clean(),
        Task::L1 {
            files,
            run,
            linux,
            limit,
        } => {
            let debian = debian::Debian::prepare(&progress)?;
            let log = paths::work().join("logs/l1.log");
            let outcomes = hosts::l1::boot(
                &debian,
                &[shell(&files, run, limit)?],
                linux,
                &log,
                &progress,
            )?;
            progress.finish();
            show(&outcomes[0], &log)
        }
        Task::Dom0 {
            files,
            run,
            linux,
            limit,
        } => {
            let debian = debian::Debian::prepare(&progress)?;
            let log = paths::work().join("logs/dom0.log");
            let outcomes = hosts::xen::boot(
                &debian,
                &[shell(&files, run, limit)?],
                linux,
                &log,
                &progress,
            )?;
            progress.finish();
            show(&outcomes[0], &log)
        }
        Task::Disk => {
            let debian = debian::Debian::prepare(&progress)?;
            std::fs::create_dir_all(paths::work())?;
            let disk = disk::Disk::make(Some(&debian), &paths::work())?;
            progress.finish();
            println!("{}", serde_json::to_string_pretty(&disk)?);
            Ok(())
        }
        Task::Tiny { path } => Ok(std::fs::write(path, tiny::elf())?),
    }
}

/// Removes what only this checkout uses.
fn clean() -> Result<()> {
    for dir in [paths::work(), paths::target().join("cache")] {
        if dir.exists() {
            std::fs::remove_dir_all(&dir)
                .with_context(|| format!("cannot remove {}", dir.display()))?;
        }
    }
    Ok(())
}

fn shell(files: &[String], script: String, limit: u64) -> Result<Job> {
    let files = files
        .iter()
        .map(|f| named_file(f))
        .collect::<Result<Vec<_>>>()?;
    Ok(Job {
        name: "run".into(),
        script,
        files,
        limit: Duration::from_secs(limit),
        visitor: None,
    })
}

fn show(outcome: &Outcome, log: &Path) -> Result<()> {
    for line in &outcome.lines {
        println!("{:8.2} {}", line.at.as_secs_f64(), line.text);
    }
    match outcome.status {
        Some(0) => Ok(()),
        Some(status) => bail!("the commands ended with status {status}"),
        None => bail!("the commands did not end; see {}", log.display()),
    }
}

fn named_file(text: &str) -> Result<(String, PathBuf)> {
    let (name, path) = match text.split_once('=') {
        Some((name, path)) => (name.to_owned(), PathBuf::from(path)),
        None => {
            let path = PathBuf::from(text);
            let name = path
                .file_name()
                .context("a file needs a name")?
                .to_string_lossy()
                .into_owned();
            (name, path)
        }
    };
    if !path.is_file() {
        bail!("there is no file {}", path.display());
    }
    Ok((name, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_arguments_are_answered_in_one_sentence() {
        for (arguments, part) in [
            (
                ["xtask", "demo", "--host", "bochs"],
                "invalid value 'bochs'",
            ),
            (
                ["xtask", "demo", "--frob", "x"],
                "unexpected argument '--frob'",
            ),
            (["xtask", "fly", "x", "y"], "unrecognized subcommand 'fly'"),
        ] {
            let error = Cli::try_parse_from(arguments)
                .err()
                .map(|e| sentence(&e.to_string()));
            let text = error.unwrap_or_default();
            assert!(
                text.starts_with("error: ") && text.contains(part) && !text.contains('\n'),
                "{text}"
            );
        }
    }
}
