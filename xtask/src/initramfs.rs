//! Initial RAM file systems: a tree of files described in memory, written as a newc cpio archive.
//! The kernel unpacks several archives one after another, so a base and a job can be joined by appending.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};
use sha2::{Digest, Sha256};

use crate::hex;

enum Node {
    Directory,
    Link(String),
    Bytes { bytes: Vec<u8>, mode: u32 },
    File { path: PathBuf, mode: u32 },
}

/// A tree to be packed. Paths are relative, without a leading slash.
#[derive(Default)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// A symbolic link at `path` to `target`.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.put(path, Node::Link(target.to_owned()))
    }

    /// A file with this content.
    pub fn bytes(&mut self, path: &str, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.put(
            path,
            Node::Bytes {
                bytes: bytes.into(),
                mode: 0o644,
            },
        )
    }

    /// An executable with this content.
    pub fn script(&mut self, path: &str, text: &str) -> &mut Self {
        self.put(
            path,
            Node::Bytes {
                bytes: text.as_bytes().to_vec(),
                mode: 0o755,
            },
        )
    }

    /// A copy of the file `from`, links followed, as an executable.
    pub fn file(&mut self, path: &str, from: &Path) -> &mut Self {
        self.put(
            path,
            Node::File {
                path: from.to_owned(),
                mode: 0o755,
            },
        )
    }

    fn put(&mut self, path: &str, node: Node) -> &mut Self {
        for (at, _) in path.match_indices('/') {
            self.nodes
                .entry(path[..at].to_owned())
                .or_insert(Node::Directory);
        }
        self.nodes.insert(path.to_owned(), node);
        self
    }

    /// Writes the archive.
    pub fn write(&self, out: impl Write) -> Result<()> {
        let mut out = out;
        for (ino, (path, node)) in self.nodes.iter().enumerate() {
            let entry = Builder::new(path).ino(ino as u32 + 1).nlink(1);
            let (entry, bytes) = match node {
                Node::Directory => (
                    entry
                        .mode(0o755)
                        .set_mode_file_type(ModeFileType::Directory),
                    Vec::new(),
                ),
                Node::Link(target) => (
                    entry.mode(0o777).set_mode_file_type(ModeFileType::Symlink),
                    target.clone().into_bytes(),
                ),
                Node::Bytes { bytes, mode } => (
                    entry.mode(*mode).set_mode_file_type(ModeFileType::Regular),
                    bytes.clone(),
                ),
                Node::File { path, mode } => {
                    let bytes = fs::read(path)
                        .with_context(|| format!("cannot read {}", path.display()))?;
                    (
                        entry.mode(*mode).set_mode_file_type(ModeFileType::Regular),
                        bytes,
                    )
                }
            };
            let mut writer = entry.write(out, u32::try_from(bytes.len())?);
            writer.write_all(&bytes)?;
            out = writer.finish()?;
        }
        trailer(out)?.flush()?;
        Ok(())
    }

    /// A name for the tree's content: equal trees, equal keys. Files count by size and time of change.
    fn key(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for (path, node) in &self.nodes {
            hash.update(path);
            match node {
                Node::Directory => hash.update(b"\0d"),
                Node::Link(target) => hash.update(format!("\0l{target}")),
                Node::Bytes { bytes, mode } => {
                    hash.update(format!("\0b{mode:o}{}", bytes.len()));
                    hash.update(bytes);
                }
                Node::File { path, mode } => {
                    let meta = fs::metadata(path)
                        .with_context(|| format!("cannot read {}", path.display()))?;
                    let (size, s, ns) = (meta.size(), meta.mtime(), meta.mtime_nsec());
                    hash.update(format!("\0f{mode:o} {} {size} {s}.{ns}", path.display()));
                }
            }
        }
        Ok(hex(&hash.finalize())[..16].to_owned())
    }

    /// The archive `name` in `dir`, written only if the tree changed since it last was.
    pub fn cached(&self, dir: &Path, name: &str) -> Result<PathBuf> {
        let path = dir.join(format!("{name}-{}.cpio", self.key()?));
        if !path.exists() {
            fs::create_dir_all(dir)?;
            for old in fs::read_dir(dir)?.flatten() {
                let file = old.file_name().to_string_lossy().into_owned();
                let key = file
                    .strip_prefix(name)
                    .and_then(|f| f.strip_prefix('-')?.strip_suffix(".cpio"));
                if key.is_some_and(|k| k.len() == 16 && k.bytes().all(|b| b.is_ascii_hexdigit())) {
                    let _ = fs::remove_file(old.path());
                }
            }
            let partial = path.with_extension("partial");
            self.write(BufWriter::new(fs::File::create(&partial)?))?;
            fs::rename(partial, &path)?;
        }
        Ok(path)
    }
}

/// Appends the archives to each other as `to`.
pub fn join(archives: &[PathBuf], to: &Path) -> Result<()> {
    let mut out = fs::File::create(to)?;
    for archive in archives {
        io::copy(&mut fs::File::open(archive)?, &mut out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_is_packed_can_be_read_back() {
        let mut tree = Tree::new();
        tree.script("a/b/run", "#!/bin/sh\n")
            .link("a/l", "b/run")
            .bytes("empty", "");
        let mut archive = Vec::new();
        tree.write(&mut archive).unwrap();
        assert_eq!(archive.len() % 4, 0);

        let mut rest = archive.as_slice();
        let mut seen = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            seen.push((
                reader.entry().name().to_owned(),
                reader.entry().mode(),
                bytes,
            ));
            rest = reader.finish().unwrap();
        }
        let names: Vec<_> = seen.iter().map(|(n, m, _)| (n.as_str(), *m)).collect();
        assert_eq!(
            names,
            [
                ("a", 0o40755),
                ("a/b", 0o40755),
                ("a/b/run", 0o100_755),
                ("a/l", 0o120_777),
                ("empty", 0o100_644)
            ]
        );
        assert_eq!(seen[2].2, b"#!/bin/sh\n");
        assert_eq!(seen[3].2, b"b/run");
    }

    #[test]
    fn the_key_follows_the_content() {
        let key = |text: &str| {
            let mut tree = Tree::new();
            tree.bytes("x", text);
            tree.key().unwrap()
        };
        assert_eq!(key("same"), key("same"));
        assert_ne!(key("same"), key("other"));
    }
}
