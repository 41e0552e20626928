//! The fixed VHD: a disk's bytes and a footer.
//! Source: Microsoft's Virtual Hard Disk Image Format Specification 1.0, "Hard Disk Footer Format".

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::MIB;
use crate::hex;

/// Bytes in a footer.
pub const FOOTER: u64 = 512;

/// A footer for a disk of `size` bytes. Its geometry is what the specification's appendix computes for disks
/// this small: four heads and seventeen sectors a track.
pub fn footer(size: u64) -> [u8; FOOTER as usize] {
    let mut footer = [0; FOOTER as usize];
    let mut put = |at: usize, bytes: &[u8]| footer[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"conectix");
    put(8, &2_u32.to_be_bytes()); // features: reserved, always set
    put(12, &0x1_0000_u32.to_be_bytes()); // version
    put(16, &u64::MAX.to_be_bytes()); // no further structures
    put(28, b"pvdr");
    put(40, &size.to_be_bytes()); // original and current size
    put(48, &size.to_be_bytes());
    let cylinders = u16::try_from(size / 512 / 17 / 4).unwrap_or(u16::MAX);
    put(56, &cylinders.to_be_bytes());
    put(58, &[4, 17]);
    put(60, &2_u32.to_be_bytes()); // fixed
    put(68, b"pv-drivers disk!"); // unique id
    let sum: u32 = footer.iter().map(|b| u32::from(*b)).sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    footer
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
    fn the_hash_leaves_the_footer_out() {
        let path = std::env::temp_dir().join(format!("vhd-test-{}", std::process::id()));
        fs::write(&path, [&[7; 4096][..], &footer(4096)].concat()).unwrap();
        assert_eq!(hash(&path).unwrap(), hex(&Sha256::digest([7; 4096])));
        fs::write(&path, [7; 4096]).unwrap();
        assert!(hash(&path).is_err());
        fs::remove_file(path).unwrap();
    }
}
