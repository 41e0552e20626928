//! Where KVM is: on this machine, if it really runs guests and knows Hyper-V's and Xen's ways; else in a
//! Linux under software emulation.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::slice;
use std::time::Duration;

use anyhow::Result;

use super::jobs::{self, Guide, Job, Outcome};
use super::{l1, linux, quote};
use crate::debian::Debian;
use crate::progress::Progress;
use crate::qemu::{Ended, run, run_heard, turn};
use crate::{net, paths, tiny};

/// Set to anything, it keeps this machine's KVM out of the game.
const REFUSE: &str = "PV_DRIVERS_NO_KVM";
/// What the debug-exit device makes of the tiny kernel's last written byte, a zero.
const LEFT: i32 = 1;

/// Runs the jobs wherever KVM is. `stock` has the files of a stock Linux in the directory `$L2`.
pub fn boot(
    debian: &Debian,
    jobs: &[Job],
    stock: bool,
    log: &Path,
    progress: &Progress,
) -> Result<Vec<Outcome>> {
    match refusal(debian)? {
        None => {
            progress.note("this machine's own KVM works; using it");
            jobs.iter()
                .map(|job| direct(debian, job, stock, progress))
                .collect()
        }
        Some(why) => {
            progress.step(&format!("this machine's own KVM is of no use ({why})"));
            l1::boot(debian, jobs, stock, log, progress)
        }
    }
}

/// Why this machine's KVM is of no use; `None` if it is. A device node proves nothing: a guest is run with
/// each of the two hosts' features.
fn refusal(debian: &Debian) -> Result<Option<String>> {
    if std::env::var_os(REFUSE).is_some() {
        return Ok(Some(format!("{REFUSE} is set")));
    }
    if fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(Some("/dev/kvm cannot be opened".into()));
    }
    fs::create_dir_all(paths::work())?;
    let kernel = paths::work().join("tiny");
    fs::write(&kernel, tiny::elf())?;
    for (name, machine) in [
        (
            "Hyper-V's",
            [
                "-M",
                "q35",
                "-accel",
                "kvm",
                "-cpu",
                "host,kvm=off,hv-vpindex,hv-synic,hv-time,hv-stimer",
            ],
        ),
        (
            "Xen's",
            [
                "-M",
                "pc",
                "-accel",
                "kvm,xen-version=0x4000a,kernel-irqchip=split",
                "-cpu",
                "host,+xen-vapic",
            ],
        ),
    ] {
        let mut command = debian.run(debian.file("qemu-system-x86", "usr/bin/qemu-system-x86_64")?);
        command
            .arg("-L")
            .arg(debian.file("qemu-system-data", "usr/share/qemu")?);
        command
            .arg("-L")
            .arg(debian.file("seabios", "usr/share/seabios")?);
        command
            .args([
                "-nodefaults",
                "-display",
                "none",
                "-serial",
                "stdio",
                "-no-reboot",
                "-m",
                "64",
            ])
            .args(machine);
        command
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
            .arg("-kernel")
            .arg(&kernel);
        let log = paths::work().join("logs/kvm-probe.log");
        let _turn = turn()?;
        let run = run(command, &log, Duration::from_secs(10), |_| false)?;
        let said = run.lines.iter().any(|l| l.text.contains("TINY"));
        let left = matches!(run.ended, Ended::Exit(status) if status.code() == Some(LEFT));
        if !(said && left) {
            return Ok(Some(format!(
                "a guest with {name} features does not run, see {}",
                log.display()
            )));
        }
    }
    Ok(None)
}

/// Runs a job on this machine as it would run in the other: busybox's shell, the files at hand, QEMU on the path.
fn direct(debian: &Debian, job: &Job, stock: bool, progress: &Progress) -> Result<Outcome> {
    progress.step(&format!("on this machine's KVM: {}", job.name));
    let dir = paths::work().join("direct").join(&job.name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("bin"))?;
    for (name, from) in &job.files {
        fs::copy(from, dir.join(name))?;
    }
    if stock {
        fs::create_dir_all(dir.join("l2"))?;
        for (name, from) in linux::stock_files(debian)? {
            symlink(from, dir.join("l2").join(name))?;
        }
    }
    let data = [
        debian.file("qemu-system-data", "usr/share/qemu")?,
        debian.file("seabios", "usr/share/seabios")?,
    ];
    let qemu = debian.file("qemu-system-x86", "usr/bin/qemu-system-x86_64")?;
    let mut qemu = debian.run(qemu);
    data.iter().for_each(|d| _ = qemu.arg("-L").arg(d));
    wrapper(&dir.join("bin/qemu-system-x86_64"), &qemu)?;
    wrapper(
        &dir.join("bin/gnu-cmp"),
        &debian.command("diffutils", "usr/bin/cmp")?,
    )?;

    let busybox = debian.file("busybox-static", "usr/bin/busybox")?;
    let mut command = Command::new(busybox);
    let path = std::env::var("PATH").unwrap_or_default();
    command.arg("sh").arg("-c").arg(format!(
        "echo \"@@ begin {} 0\"\n{}\necho \"@@ end {} $? 0\"",
        job.name, job.script, job.name
    ));
    let port = net::free_port()?;
    command
        .current_dir(&dir)
        .env("PATH", format!("{}:{path}", dir.join("bin").display()))
        .env("FORWARD", port.to_string());
    let log = paths::work().join(format!("logs/{}.log", job.name));
    let _turn = turn()?;
    let mut guide = Guide::new(slice::from_ref(job), port);
    let run = run_heard(command, &log, job.limit, |line, voice| {
        guide.hear(line, voice);
        false
    })?;
    Ok(
        jobs::outcomes(std::iter::once(job.name.as_str()), &run.lines)
            .pop()
            .unwrap_or_default(),
    )
}

/// A script that runs `command` with further arguments.
fn wrapper(path: &Path, command: &Command) -> Result<()> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(|w| quote(&w.to_string_lossy())).collect();
    fs::write(
        path,
        format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")),
    )?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
