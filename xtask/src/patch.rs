//! A private copy of QEMU without one fault of its SVM emulation.
//!
//! When VMRUN injects an external interrupt, QEMU both notes the vector as pending and delivers it. An exit
//! request right after VMRUN then finds the note and delivers the vector once more, with interrupts disabled,
//! which a guest's kernel does not survive for long. The store of the note is made a no-operation.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// The instructions around the store; `?` stands for any nibble. The store is within the parentheses.
const PATTERN: &str = "
    41 0f b6 f? 44 89 ?? ?? ?? 00 00
    ( 89 b3 ?? ?? ff ff )
    c7 83 ?? ?? 00 00 00 00 00 00
    48 c7 83 ?? ?? 00 00 ff ff ff ff
    f6 05 ?? ?? ?? ?? 02 0f 85 ?? ?? ?? ??
    ba 01 00 00 00 48 89 df e8";
/// A six-byte NOP.
const NOP: [u8; 6] = [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00];

/// The patched copy of `qemu` in `dir`, or how many places the pattern was found at, if not exactly one.
pub fn patched(qemu: &Path, dir: &Path) -> Result<std::result::Result<PathBuf, usize>> {
    let copy = dir.join("qemu-system-x86_64");
    let mut binary = fs::read(qemu)?;
    let at = match places(&binary).as_slice() {
        [at] => *at,
        other => return Ok(Err(other.len())),
    };
    binary[at..at + NOP.len()].copy_from_slice(&NOP);
    if fs::read(&copy).ok().as_ref() != Some(&binary) {
        fs::create_dir_all(dir)?;
        let partial = copy.with_extension("partial");
        fs::copy(qemu, &partial)?;
        fs::write(&partial, &binary)?;
        fs::rename(partial, &copy)?;
    }
    Ok(Ok(copy))
}

/// Offsets of the store wherever the whole pattern matches.
fn places(binary: &[u8]) -> Vec<usize> {
    let mut pattern = Vec::new();
    let mut store = 0;
    for word in PATTERN.split_whitespace() {
        match word.as_bytes() {
            b"(" => store = pattern.len(),
            b")" => {}
            digits => pattern.push(digits.iter().fold((0u8, 0u8), |(mask, value), &digit| {
                match (digit as char).to_digit(16) {
                    Some(d) => (mask << 4 | 0xf, value << 4 | d as u8),
                    None => (mask << 4, value << 4),
                }
            })),
        }
    }
    let matches = |window: &[u8]| {
        window
            .iter()
            .zip(&pattern)
            .all(|(byte, (mask, value))| byte & mask == *value)
    };
    binary
        .windows(pattern.len())
        .enumerate()
        .filter(|(_, w)| matches(w))
        .map(|(at, _)| at + store)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<u8> {
        let hex: String = PATTERN.replace('?', "5");
        hex.split_whitespace()
            .filter(|w| w.len() == 2)
            .map(|w| u8::from_str_radix(w, 16).unwrap())
            .collect()
    }

    #[test]
    fn the_store_is_found_where_it_is() {
        let mut binary = vec![0x90; 10];
        binary.extend(example());
        binary.extend([0x90; 10]);
        assert_eq!(places(&binary), [10 + 11]);
        binary[10 + 11] = 0x90;
        assert!(places(&binary).is_empty());
    }

    #[test]
    fn two_places_are_one_too_many() {
        let mut binary = example();
        binary.extend(example());
        assert_eq!(places(&binary).len(), 2);
    }
}
