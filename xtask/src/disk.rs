//! The one disk every host serves: a fixed VHD with a GPT, a FAT file system with a few files and a
//! scratch partition, made by the ordinary tools; and what a guest must find on it, computed here.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::debian::Debian;
use crate::hex;

const MIB: u64 = 1 << 20;
/// The disk's size in bytes, its footer not counted.
const SIZE: u64 = 32 * MIB;
/// The FAT partition's start and size in MiB; the rest but the last MiB is scratch.
const FAT: (u64, u64) = (1, 24);
/// A fixed VHD ends with a footer of this many bytes.
/// Source: Microsoft's Virtual Hard Disk Image Format Specification 1.0, "Hard Disk Footer Format".
pub const FOOTER: u64 = 512;
/// Every file's time of change, so that the same disk comes out each time: 17 July 2006.
const CHANGED: Duration = Duration::from_secs(1_153_130_400);

/// A file a guest must find.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// From the file system's root, with slashes.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// In lower-case hexadecimal.
    pub sha256: String,
}

/// The disk and what is on it.
#[derive(Clone, Debug, Serialize)]
pub struct Disk {
    /// The VHD.
    pub vhd: PathBuf,
    /// Its capacity in sectors of 512 bytes.
    pub sectors: u64,
    /// Of all its bytes but the footer.
    pub sha256: String,
    /// All files of the FAT file system.
    pub files: Vec<Content>,
}

impl Disk {
    /// The disk's size in bytes: what to show a guest of the VHD.
    pub fn bytes(&self) -> u64 {
        self.sectors * 512
    }

    /// Makes the disk in `dir`.
    ///
    /// # Errors
    /// When one of the tools fails, with its last words.
    pub fn make(debian: &Debian, dir: &Path) -> Result<Self> {
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

        let files = contents();
        let at = format!("{}@@{}M", raw.display(), start);
        for (path, bytes) in &files {
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

        let files = files
            .into_iter()
            .map(|(path, bytes)| Content {
                path: path.to_owned(),
                size: bytes.len() as u64,
                sha256: hex(&Sha256::digest(&bytes)),
            })
            .collect();
        Ok(Self {
            sectors: SIZE / 512,
            sha256: hash(&vhd)?,
            files,
            vhd,
        })
    }
}

/// What the FAT partition holds.
fn contents() -> Vec<(&'static str, Vec<u8>)> {
    let numbers: String = (1..=2000).map(|n| format!("line {n} of 2000\n")).collect();
    let mut state = 0x2006_0717_u64;
    let noise = (0..3 * MIB / 8).flat_map(|_| {
        // xorshift64: no meaning, but never the same in two sectors
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    vec![
        (
            "README.TXT",
            b"One disk for every hypervisor.\r\nWhoever reads this is a paravirtual guest.\r\n"
                .to_vec(),
        ),
        ("A text with a rather long name.txt", numbers.into_bytes()),
        ("noise.bin", noise.collect()),
        ("nothing", Vec::new()),
        ("sub directory/deeper/last.txt", b"found\n".to_vec()),
    ]
}

/// SHA-256 of the disk in a fixed VHD: all bytes before the footer, which is checked.
pub fn hash(vhd: &Path) -> Result<String> {
    let mut file = File::open(vhd)?;
    let length = file.metadata()?.len();
    ensure!(
        length > FOOTER,
        "{} is too short to be a VHD",
        vhd.display()
    );
    file.seek(SeekFrom::Start(length - FOOTER))?;
    let mut footer = [0; FOOTER as usize];
    file.read_exact(&mut footer)?;
    check_footer(&footer, length - FOOTER)
        .with_context(|| format!("{} is no fixed VHD", vhd.display()))?;
    file.rewind()?;
    let mut hash = Sha256::new();
    let mut disk = file.take(length - FOOTER);
    let mut buffer = vec![0; MIB as usize];
    loop {
        match disk.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Checks a fixed VHD's footer against the bytes that lie before it.
fn check_footer(footer: &[u8; FOOTER as usize], size: u64) -> Result<()> {
    ensure!(footer.starts_with(b"conectix"), "its footer has no cookie");
    let word = |at: usize| {
        u32::from_be_bytes([footer[at], footer[at + 1], footer[at + 2], footer[at + 3]])
    };
    let current = u64::from(word(48)) << 32 | u64::from(word(52));
    ensure!(
        current == size,
        "its footer says {current} bytes, {size} are there"
    );
    ensure!(
        word(60) == 2,
        "its footer says disk type {}, not 2 for fixed",
        word(60)
    );
    let sum = footer
        .iter()
        .enumerate()
        .filter(|(at, _)| !(64..68).contains(at))
        .map(|(_, b)| u32::from(*b))
        .sum::<u32>();
    ensure!(word(64) == !sum, "its footer's checksum is wrong");
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn footer(size: u64) -> [u8; 512] {
        let mut footer = [0; 512];
        footer[..8].copy_from_slice(b"conectix");
        footer[48..56].copy_from_slice(&size.to_be_bytes());
        footer[63] = 2;
        let sum: u32 = footer.iter().map(|b| u32::from(*b)).sum();
        footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
        footer
    }

    #[test]
    fn a_footer_is_believed_only_if_it_is_right() {
        check_footer(&footer(4096), 4096).unwrap();
        assert!(check_footer(&footer(4096), 8192).is_err());
        let mut damaged = footer(4096);
        damaged[100] = 1;
        assert!(
            check_footer(&damaged, 4096)
                .unwrap_err()
                .to_string()
                .contains("checksum")
        );
        assert!(check_footer(&[0; 512], 0).is_err());
    }

    #[test]
    fn the_contents_stay_what_they_are() {
        let sums: Vec<_> = contents()
            .iter()
            .map(|(path, bytes)| {
                (
                    *path,
                    bytes.len(),
                    hex(&Sha256::digest(bytes))[..8].to_owned(),
                )
            })
            .collect();
        assert_eq!(sums[2].1, 3 << 20);
        assert_eq!(sums[3], ("nothing", 0, "e3b0c442".to_owned()));
        assert_eq!(contents(), contents());
    }

    #[test]
    fn the_hash_leaves_the_footer_out() {
        let path = std::env::temp_dir().join(format!("vhd-test-{}", std::process::id()));
        fs::write(&path, [&[7; 4096][..], &footer(4096)].concat()).unwrap();
        assert_eq!(hash(&path).unwrap(), hex(&Sha256::digest([7; 4096])));
        fs::write(&path, [7; 4096]).unwrap();
        assert!(hash(&path).is_err());
        fs::remove_file(path).unwrap();
    }
}
