//! A captured session of a guest on either simulated host, as Wireshark reads it.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::debian::Debian;
use crate::{cargo, paths};

/// Checksums are looked at only where that is asked for.
const OPTIONS: [&str; 6] = [
    "-o",
    "ip.check_checksum:TRUE",
    "-o",
    "tcp.check_checksum:TRUE",
    "-o",
    "udp.check_checksum:TRUE",
];
/// Frames that no honest sender puts on a wire.
const BAD: &str = "_ws.malformed || _ws.short || _ws.expert.severity == error || \
                   ip.checksum.status == Bad || tcp.checksum.status == Bad || \
                   udp.checksum.status == Bad";
/// Frames whose transport checksum was found right.
const GOOD: &str = "tcp.checksum.status == Good || udp.checksum.status == Good";
/// Fewer of them than the session has.
const MANY: usize = 500;

/// Nothing is wrong with the session, and a frame that is spoilt on purpose is found.
pub fn check(debian: &Debian) -> Result<()> {
    std::fs::create_dir_all(paths::work())?;
    let file = paths::work().join("session.pcap");
    for (host, spoil) in [("xen", false), ("xen", true), ("hyperv", false)] {
        let mut command = cargo::command(None);
        command.args(["run", "--quiet", "-p", "pv-tests", "--bin", "capture", "--"]);
        command
            .args(spoil.then_some("--spoil"))
            .arg(host)
            .arg(&file);
        cargo::run(command, "the capture")?;
        let (bad, good) = (count(debian, &file, BAD)?, count(debian, &file, GOOD)?);
        if bad != usize::from(spoil) {
            bail!(
                "{host}: {bad} bad frames, and {} are so on purpose",
                usize::from(spoil)
            );
        }
        if good < MANY {
            bail!("{host}: only {good} checksums were found right");
        }
    }
    Ok(())
}

/// Frames of a capture that `filter` lets through.
fn count(debian: &Debian, file: &Path, filter: &str) -> Result<usize> {
    let output = debian
        .command("tshark", "usr/bin/tshark")?
        // It looks for settings there, and finds none.
        .env("HOME", paths::work())
        .arg("-r")
        .arg(file)
        .args(OPTIONS)
        .args(["-Y", filter, "-T", "fields", "-e", "frame.number"])
        .output()
        .context("tshark could not be started")?;
    if !output.status.success() {
        bail!(
            "tshark failed:\n{}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().count())
}
