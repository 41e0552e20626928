//! The project's own KVM host, which puts a Hyper-V with a VMBus and a SCSI disk behind a real guest.

use std::path::PathBuf;

use anyhow::Result;

use super::Boot;
use super::jobs::Job;
use crate::cargo;
use crate::session::Offer;

/// Builds the host: one file without shared libraries, to run in a Linux that has none.
pub fn build() -> Result<PathBuf> {
    cargo::build_static("kvm-host")
}

/// The guest on it, or a stock Linux.
pub fn job(boot: &Boot<'_>, kvm_host: PathBuf) -> Job {
    let (limit, line) = (boot.limit.as_secs(), boot.quoted());
    let kernel = if boot.offer == Offer::Linux {
        "$L2/vmlinux --initrd $L2/initrd --memory 512"
    } else {
        "guest"
    };
    let disk = if boot.disk_bytes().is_some() {
        "--disk disk.vhd"
    } else {
        ""
    };
    let habit = match boot.offer {
        Offer::Rescinded(after) => format!("--rescind-after {after}"),
        Offer::Silence => "--ignore-contact".to_owned(),
        Offer::OldBus => "--vmbus-version 2.4 --few-cpuid-bits".to_owned(),
        _ => String::new(),
    };
    let mut job = boot.job(&format!(
        "watch {limit} ./kvm-host --kernel {kernel} {disk} {habit} --timeout {limit} --cmdline {line}\n"
    ));
    job.files.push(("kvm-host".to_owned(), kvm_host));
    job
}
