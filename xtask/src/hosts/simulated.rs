//! The simulated hosts: the guest's jobs over them in a process of this machine.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::jobs::{Outcome, open};
use super::{Boot, Host};
use crate::progress::Progress;
use crate::qemu::{Ended, Line, run_heard};
use crate::{cargo, net, paths, visit};

/// Builds the program that is the guest and its host in one.
pub fn build() -> Result<PathBuf> {
    cargo::build("simulated")
}

/// Runs the job. Its guest is on a network of its own, from which a port of this machine's loopback leads to
/// its web server.
pub fn boot(
    host: Host,
    boot: &Boot<'_>,
    program: &Path,
    log: &Path,
    progress: &Progress,
) -> Result<Outcome> {
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
    let port = net::free_port()?;
    if boot.nic {
        command.arg(port.to_string());
    }
    let mut visited = false;
    let run = run_heard(command, log, boot.limit, |line, voice| {
        if let Some(url) = line.text.strip_prefix(visit::OPEN) {
            progress.note(&open(&host.to_string(), url));
        }
        if let Some(visitor) = &boot.visitor
            && line.text.starts_with(visit::SERVING)
            && !visited
        {
            visited = true;
            visitor.start(port, voice);
        }
        false
    })?;
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
