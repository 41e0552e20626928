//! Which shared libraries a program needs, all the way down.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use object::Endianness;
use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn, FileHeader};

/// glibc opens this one itself when a thread is cancelled; no NEEDED entry names it.
const OPENED_BY_NAME: &str = "libgcc_s.so.1";
/// The program loader, under the name programs ask for it by.
pub const LOADER: &str = "ld-linux-x86-64.so.2";

/// The library closure of `programs` by name, each found in `libraries`.
///
/// # Errors
/// A program that is no 64-bit ELF file, or a library that is not there.
pub fn closure(programs: &[PathBuf], libraries: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut names = vec![
        (OPENED_BY_NAME.to_owned(), "glibc".to_owned()),
        (LOADER.to_owned(), "ELF".to_owned()),
    ];
    for program in programs {
        let bytes =
            fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        names.extend(
            needed(&bytes)?
                .into_iter()
                .map(|n| (n, program.display().to_string())),
        );
    }
    while let Some((name, by)) = names.pop() {
        if found.contains_key(&name) {
            continue;
        }
        let path = fs::canonicalize(libraries.join(&name))
            .map_err(|_| anyhow!("library {name}, needed by {by}, is in no cached package"))?;
        names.extend(
            needed(&fs::read(&path)?)?
                .into_iter()
                .map(|n| (n, name.clone())),
        );
        found.insert(name, path);
    }
    Ok(found)
}

/// The DT_NEEDED names of an ELF file (none for a static one).
pub fn needed(bytes: &[u8]) -> Result<Vec<String>> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let Some((entries, link)) = sections.dynamic(endian, bytes)? else {
        return Ok(Vec::new());
    };
    let strings = sections.strings(endian, bytes, link)?;
    entries
        .iter()
        .filter(|entry| entry.tag(endian) == DT_NEEDED)
        .map(|entry| {
            let name = entry.string(endian, strings)?;
            Ok(String::from_utf8_lossy(name).into_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_needs_libc_and_noise_is_refused() {
        let me = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(
            needed(&me)
                .unwrap()
                .iter()
                .any(|n| n.starts_with("libc.so"))
        );
        assert!(needed(b"no ELF at all").is_err());
    }
}
