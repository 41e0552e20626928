//! The project's own KVM host, which puts a Hyper-V with a VMBus and a SCSI disk behind a real guest.

use std::path::PathBuf;

use anyhow::Result;

use super::Boot;
use super::jobs::Job;
use crate::cargo;
use crate::net::MAC;
use crate::session::Offer;

/// Builds the host: one file without shared libraries, to run in a Linux that has none.
pub fn build() -> Result<PathBuf> {
    cargo::build_static("kvm-host")
}

/// Rescinds the NIC and offers it again.
const REPLUG: &str = r#"mkfifo orders
order() { timeout 2 sh -c "echo $1 >orders"; }
unplug() { order unplug; }
plug() { order plug; }
meanwhile() { replug; }
"#;
/// The same for Linux, which waits for ever for the answer to what it sent when the NIC was gone and it did not
/// know that yet: first the line goes down.
const GENTLY: &str = "unplug() { order disconnect; sleep 4; order unplug; }\n";

/// The guest on it, or a stock Linux.
pub fn job(boot: &Boot<'_>, kvm_host: PathBuf) -> Job {
    let (limit, line) = (boot.limit.as_secs(), boot.quoted());
    let linux = boot.offer == Offer::Linux;
    let kernel = if linux {
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
    let (nic, meanwhile) = match boot.replugs() {
        true if linux => ("$net --orders orders", [REPLUG, GENTLY].concat()),
        true => ("$net --orders orders", REPLUG.to_owned()),
        false if boot.nic => ("$net", String::new()),
        false => ("", String::new()),
    };
    let reachable = boot
        .reachable
        .map_or(String::new(), |port| format!(",{port}"));
    // On this machine's own KVM there is no tap, but the port that was kept free for the guest.
    let mut job = boot.job(&format!(
        "{meanwhile}net='--net tap=tap0 --mac {MAC}'\n\
         [ -z \"$FORWARD\" ] || net=\"--net gateway=$FORWARD{reachable}\"\n\
         watch {limit} ./kvm-host --kernel {kernel} {disk} {nic} {habit} --timeout {limit} --cmdline {line}\n"
    ));
    job.files.push(("kvm-host".to_owned(), kvm_host));
    job
}
