//! The simulated hosts: the guest's jobs over them in a process of this machine.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::jobs::Outcome;
use super::{Boot, Host};
use crate::qemu::{Ended, Line, run};
use crate::{cargo, paths};

/// Builds the program that is the guest and its host in one.
pub fn build() -> Result<PathBuf> {
    cargo::build("simulated")
}

/// Runs the job.
pub fn boot(host: Host, boot: &Boot<'_>, program: &Path, log: &Path) -> Result<Outcome> {
    let copy = paths::work().join(format!("{}.vhd", boot.name));
    fs::copy(&boot.disk.vhd, &copy)?;
    let mut command = Command::new(program);
    command
        .arg(if host == Host::SimulatedXen {
            "xen"
        } else {
            "hyperv"
        })
        .arg(&copy)
        .arg(&boot.command_line);
    let run = run(command, log, boot.limit, |_| false)?;
    let status = match run.ended {
        Ended::Exit(status) => status.code(),
        Ended::Marker | Ended::Deadline => None,
    };
    let mut lines = run.lines;
    let left = if same(&boot.disk.vhd, &copy, boot.disk.bytes())? {
        "same"
    } else {
        "changed"
    };
    lines.push(Line {
        at: run.took,
        text: format!("HARNESS disk {left}"),
    });
    fs::remove_file(copy)?;
    Ok(Outcome {
        lines,
        status,
        took: run.took,
    })
}

/// Whether the first bytes of two files are equal.
fn same(one: &Path, other: &Path, bytes: u64) -> Result<bool> {
    let read = |path: &Path| -> Result<Vec<u8>> {
        let mut content = Vec::new();
        File::open(path)?.take(bytes).read_to_end(&mut content)?;
        Ok(content)
    };
    Ok(read(one)? == read(other)?)
}
