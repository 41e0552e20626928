//! `cargo xtask …`: what a person types.
#![forbid(unsafe_code)]

mod closure;
mod debian;
mod hosts;
mod initramfs;
mod kmod;
mod patch;
mod paths;
mod progress;
mod qemu;
mod vmlinux;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

/// Builds, boots and checks pv-drivers.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
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
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn main() -> std::process::ExitCode {
    match run(Cli::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let progress = progress::Progress::new();
    match cli.command {
        Task::L1 {
            files,
            run,
            linux,
            limit,
        } => {
            let files = files
                .iter()
                .map(|f| named_file(f))
                .collect::<Result<Vec<_>>>()?;
            let debian = debian::Debian::prepare(&progress)?;
            let job = hosts::l1::Job {
                name: "run".into(),
                script: run,
                files,
                limit: Duration::from_secs(limit),
            };
            let log = paths::work().join("logs/l1.log");
            let outcomes = hosts::l1::boot(&debian, &[job], linux, &log, &progress)?;
            progress.finish();
            for line in outcomes.iter().flat_map(|o| &o.lines) {
                println!("{:8.2} {}", line.at.as_secs_f64(), line.text);
            }
            match outcomes[0].status {
                Some(0) => Ok(()),
                Some(status) => bail!("the commands ended with status {status}"),
                None => bail!("the commands did not end; see {}", log.display()),
            }
        }
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
