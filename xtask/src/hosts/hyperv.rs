//! The project's own KVM host, which puts a Hyper-V with a VMBus and a SCSI disk behind a real guest.

use std::path::PathBuf;

use anyhow::Result;

use super::jobs::Job;
use super::{Boot, Host};
use crate::cargo;

/// Builds the host: one file without shared libraries, to run in a Linux that has none.
pub fn build() -> Result<PathBuf> {
    cargo::build_static("kvm-host")
}

/// The guest on it.
pub fn job(boot: &Boot<'_>, kvm_host: PathBuf) -> Job {
    let (limit, line, bytes) = (boot.limit.as_secs(), boot.quoted(), boot.disk.bytes());
    let script = format!(
        "keep\nwatch {limit} ./kvm-host --kernel guest --disk disk.vhd --cmdline {line}\nleft {bytes}\n"
    );
    let mut job = boot.job(Host::HyperV, &script);
    job.files.push(("kvm-host".to_owned(), kvm_host));
    job
}
