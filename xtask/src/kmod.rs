//! Kernel modules: decompresses them and finds the order to insert them in.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A module ready for `insmod`.
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The decompressed object file.
    pub object: Vec<u8>,
}

/// The modules `wanted` from the tree `modules` and what they depend on, dependencies first.
pub fn load_order(modules: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut index = BTreeMap::new();
    walk(modules, &mut index)?;
    let mut order = Vec::new();
    for name in wanted {
        add(name, &index, &mut order, 0)?;
    }
    Ok(order)
}

fn walk(dir: &Path, index: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), index)?;
        } else if let Some((stem, "" | ".xz")) = name.split_once(".ko") {
            index.insert(stem.replace('-', "_"), entry.path());
        }
    }
    Ok(())
}

fn add(
    name: &str,
    index: &BTreeMap<String, PathBuf>,
    order: &mut Vec<Module>,
    depth: usize,
) -> Result<()> {
    let name = name.replace('-', "_");
    if order.iter().any(|m| m.name == name) {
        return Ok(());
    }
    if depth > 32 {
        bail!("kernel module {name} depends on itself");
    }
    let path = index
        .get(&name)
        .with_context(|| format!("the kernel has no module {name}"))?;
    let file = fs::read(path)?;
    let object = if path.extension().is_some_and(|e| e == "xz") {
        let mut object = Vec::new();
        lzma_rs::xz_decompress(&mut file.as_slice(), &mut object)
            .with_context(|| format!("cannot decompress {}", path.display()))?;
        object
    } else {
        file
    };
    for dependency in depends(&object) {
        add(&dependency, index, order, depth + 1)?;
    }
    order.push(Module { name, object });
    Ok(())
}

/// What a module's `.modinfo` says it depends on.
fn depends(object: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = object.windows(KEY.len()).position(|w| w == KEY) else {
        return Vec::new();
    };
    let value = object[at + KEY.len()..]
        .split(|&b| b == 0)
        .next()
        .unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|d| !d.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_is_read_from_modinfo() {
        assert_eq!(
            depends(b"x\0license=GPL\0depends=a,b-c\0intree=Y\0"),
            ["a", "b-c"]
        );
        assert!(depends(b"\0depends=\0name=x\0").is_empty());
        assert!(depends(b"no modinfo").is_empty());
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let dir = std::env::temp_dir().join(format!("kmod-test-{}", std::process::id()));
        fs::create_dir_all(dir.join("kernel/sub")).unwrap();
        fs::write(dir.join("kernel/top-most.ko"), b"\0depends=mid,base\0").unwrap();
        fs::write(dir.join("kernel/sub/mid.ko"), b"\0depends=base\0").unwrap();
        fs::write(dir.join("kernel/base.ko"), b"\0depends=\0").unwrap();
        let order = load_order(&dir, &["top_most", "base"]).unwrap();
        let names: Vec<_> = order.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["base", "mid", "top_most"]);
        assert!(load_order(&dir, &["absent"]).is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
