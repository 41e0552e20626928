//! The disk as anybody would make it: sgdisk, mkfs.fat, mcopy, qemu-img.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use super::{FAT, MIB, SIZE};
use crate::debian::Debian;

/// Every file's time of change, so that the same disk comes out each time: 17 July 2006.
const CHANGED: Duration = Duration::from_secs(1_153_130_400);

/// Makes the VHD in `dir`, with these files in its FAT partition.
pub fn make(debian: &Debian, contents: &[(&str, Vec<u8>)], dir: &Path) -> Result<PathBuf> {
    let source = dir.join("disk-files");
    let _ = fs::remove_dir_all(&source);
    fs::create_dir_all(&source)?;
    let raw = dir.join("disk.raw");
    File::create(&raw)?.set_len(SIZE)?;

    let mut sgdisk = debian.command("gdisk", "usr/sbin/sgdisk")?;
    let (start, size) = FAT;
    sgdisk.args([
        "--disk-guid=50560001-0000-4000-8000-000000000001",
        &format!("--new=1:{start}MiB:+{size}MiB"),
    ]);
    sgdisk.args([
        "--typecode=1:0700",
        "--change-name=1:files",
        "--partition-guid=1:50560001-0000-4000-8000-000000000002",
    ]);
    sgdisk.args([
        &format!("--new=2:{}MiB:{}MiB", start + size, SIZE / MIB - 1),
        "--typecode=2:8300",
        "--change-name=2:scratch",
    ]);
    sgdisk
        .arg("--partition-guid=2:50560001-0000-4000-8000-000000000003")
        .arg(&raw);
    tool(sgdisk, "sgdisk")?;

    let mut mkfs = debian.command("dosfstools", "usr/sbin/mkfs.fat")?;
    let offset = (start * MIB / 512).to_string();
    mkfs.args([
        "--invariant",
        "-i",
        "20060717",
        "-n",
        "PVDRIVERS",
        "--offset",
        &offset,
        "-h",
        &offset,
    ]);
    mkfs.arg(&raw).arg((size * 1024).to_string());
    tool(mkfs, "mkfs.fat")?;

    let at = format!("{}@@{}M", raw.display(), start);
    for (path, bytes) in contents {
        let copy = source.join(path);
        if let Some(parent) = copy.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&copy, bytes)?;
        File::options()
            .write(true)
            .open(&copy)?
            .set_modified(SystemTime::UNIX_EPOCH + CHANGED)?;
    }
    let mut mcopy = debian.command("mtools", "usr/bin/mcopy")?;
    mcopy
        .env("MTOOLS_SKIP_CHECK", "1")
        .env("TZ", "UTC")
        .env("SOURCE_DATE_EPOCH", CHANGED.as_secs().to_string());
    mcopy.args(["-s", "-m", "-Q", "-i", &at]);
    let mut tops: Vec<PathBuf> = fs::read_dir(&source)?
        .map(|e| Ok(e?.path()))
        .collect::<Result<_>>()?;
    tops.sort();
    mcopy.args(tops).arg("::/");
    tool(mcopy, "mcopy")?;

    let vhd = dir.join("disk.vhd");
    let mut convert = debian.command("qemu-utils", "usr/bin/qemu-img")?;
    convert
        .args([
            "convert",
            "-f",
            "raw",
            "-O",
            "vpc",
            "-o",
            "subformat=fixed,force_size=on",
        ])
        .arg(&raw)
        .arg(&vhd);
    tool(convert, "qemu-img")?;
    fs::remove_file(&raw)?;
    fs::remove_dir_all(&source)?;
    Ok(vhd)
}

fn tool(mut command: Command, name: &str) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{name} could not be started"))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        bail!(
            "{name} failed: {}",
            text.lines()
                .rfind(|l| !l.trim().is_empty())
                .unwrap_or("it said nothing")
        );
    }
    Ok(())
}
