//! The one disk every host serves: a fixed VHD with a GPT, a FAT file system with a few files and a
//! scratch partition; and what a guest must find on it, computed here.

mod plain;
mod tools;
mod vhd;

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::debian::Debian;
use crate::hex;

const MIB: u64 = 1 << 20;
/// The disk's size in bytes, its footer not counted.
const SIZE: u64 = 32 * MIB;
/// The FAT partition's start and size in MiB; the rest but the last MiB is scratch.
const FAT: (u64, u64) = (1, 24);

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

    /// Makes the disk in `dir`, with Debian's tools if they are there.
    ///
    /// # Errors
    /// When a tool fails, with its last words, or a file cannot be written.
    pub fn make(debian: Option<&Debian>, dir: &Path) -> Result<Self> {
        let contents = contents();
        let vhd = match debian {
            Some(debian) => tools::make(debian, &contents, dir)?,
            None => plain::make(&contents, dir)?,
        };
        let files = contents.iter().map(|(path, bytes)| Content {
            path: (*path).to_owned(),
            size: bytes.len() as u64,
            sha256: hex(&Sha256::digest(bytes)),
        });
        Ok(Self {
            sectors: SIZE / 512,
            sha256: vhd::hash(&vhd)?,
            files: files.collect(),
            vhd,
        })
    }
}

/// What the FAT partition holds.
pub fn contents() -> Vec<(&'static str, Vec<u8>)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contents_stay_what_they_are() {
        let contents = contents();
        assert_eq!(contents[2].1.len(), 3 << 20);
        assert_eq!(contents[3], ("nothing", Vec::new()));
        assert_eq!(contents, super::contents());
        // No two sectors of the noise are equal, so that a sector in the wrong place is noticed.
        let sectors: std::collections::BTreeSet<&[u8]> = contents[2].1.chunks(512).collect();
        assert_eq!(sectors.len(), (3 << 20) / 512);
    }
}
