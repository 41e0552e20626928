//! A private copy of a few Debian packages: downloaded by apt with its own lists and cache, unpacked
//! with `dpkg-deb -x`, never installed, and run with their own loader and libraries. Needs no root.

mod sources;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};

use crate::progress::Progress;
use crate::{hex, paths};

/// The release everything comes from.
const SUITE: &str = "trixie";
/// The table of packages; see its head.
const PINNED: &str = include_str!("../packages.txt");
/// The metapackage that names the current kernel package.
const KERNEL: &str = "linux-image-amd64";

/// The unpacked packages.
pub struct Debian {
    /// Each package's directory, by name.
    packages: BTreeMap<String, PathBuf>,
    /// One directory with a link to every shared library.
    libraries: PathBuf,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pin {
    name: String,
    version: String,
}

/// What apt knows about one package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Candidate {
    name: String,
    version: String,
    architecture: String,
    depends: String,
    sha256: String,
}

impl Debian {
    /// The cache as it is, if nothing is missing from it.
    pub fn ready() -> Option<Self> {
        let home = home();
        Self::open(&home, &stamp(&home))
    }

    /// Opens the cache, first downloading and unpacking what is missing from it.
    ///
    /// # Errors
    /// One sentence when this is no Debian, the network is away, or a tool is missing.
    pub fn prepare(progress: &Progress) -> Result<Self> {
        let home = home();
        fs::create_dir_all(&home)?;
        // Another checkout may share the cache; the lock goes with the file.
        let lock = fs::File::create(home.join("lock"))?;
        lock.lock()?;
        let stamp = stamp(&home);
        if let Some(found) = Self::open(&home, &stamp) {
            return Ok(found);
        }
        let directories = fetch(&home, progress)?;
        link_libraries(&home, &directories)?;
        fs::write(&stamp, directories.join("\n"))?;
        Self::open(&home, &stamp).ok_or_else(|| {
            anyhow!(
                "the Debian cache {} does not hold what was just unpacked",
                home.display()
            )
        })
    }

    fn open(home: &Path, stamp: &Path) -> Option<Self> {
        let mut packages = BTreeMap::new();
        for directory in fs::read_to_string(stamp).ok()?.lines() {
            let path = home.join("root").join(directory);
            if !path.is_dir() {
                return None;
            }
            packages.insert(directory.split('_').next()?.to_owned(), path);
        }
        Some(Self {
            packages,
            libraries: home.join("lib"),
        })
    }

    /// The file `path` (relative, as in `usr/bin/x`) of package `name`.
    pub fn file(&self, name: &str, path: &str) -> Result<PathBuf> {
        let root = self
            .packages
            .get(name)
            .with_context(|| format!("no package {name} in the Debian cache"))?;
        let full = root.join(path);
        if fs::symlink_metadata(&full).is_err() {
            bail!("the Debian package {name} has no {path}");
        }
        Ok(full)
    }

    /// The kernel's package directory and its release name.
    pub fn kernel(&self) -> Result<(&Path, String)> {
        let (_, root) = self
            .packages
            .iter()
            .find(|(name, _)| is_kernel(name))
            .context("no kernel package in the Debian cache")?;
        let modules = fs::read_dir(root.join("usr/lib/modules"))?
            .flatten()
            .next()
            .context("the kernel has no modules")?;
        Ok((root, modules.file_name().to_string_lossy().into_owned()))
    }

    /// The directory with a link to every shared library.
    pub fn libraries(&self) -> &Path {
        &self.libraries
    }

    /// A command that runs a cached program by its own loader and libraries.
    pub fn command(&self, package: &str, path: &str) -> Result<Command> {
        Ok(self.run(self.file(package, path)?))
    }

    /// The same for any program built against the cached libraries.
    pub fn run(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(self.libraries.join("ld-linux-x86-64.so.2"));
        command
            .arg("--library-path")
            .arg(&self.libraries)
            .arg(program);
        command
    }
}

fn home() -> PathBuf {
    paths::cache().join("debian")
}

/// Says which table of packages was unpacked last.
fn stamp(home: &Path) -> PathBuf {
    home.join(format!("unpacked-{}", &hex(&Sha256::digest(PINNED))[..16]))
}

fn is_kernel(name: &str) -> bool {
    name.strip_prefix("linux-image-")
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn pins() -> Vec<Pin> {
    PINNED
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, version)| Pin {
            name: name.to_owned(),
            version: version.trim().to_owned(),
        })
        .collect()
}

/// apt's options: everything of it lives under `home`.
fn apt(home: &Path, tool: &str) -> Command {
    let mut command = Command::new(tool);
    let mut option = |key: &str, value: String| {
        command.arg("-o").arg(format!("{key}={value}"));
    };
    option(
        "Dir::Etc::sourcelist",
        home.join("sources.list").display().to_string(),
    );
    option("Dir::Etc::sourceparts", "/dev/null".into());
    option("Dir::State", home.join("state").display().to_string());
    option(
        "Dir::State::lists",
        home.join("lists").display().to_string(),
    );
    option("Dir::State::status", "/dev/null".into());
    option("Dir::Cache", home.join("apt").display().to_string());
    // Only root drops to another user, who could not write here.
    if fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0) {
        option("APT::Sandbox::User", "root".into());
    }
    command
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Writes the private sources list and refreshes apt's lists.
fn update(home: &Path, progress: &Progress) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |key: &str| {
        release
            .lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
            .map(|v| v.trim_matches('"').to_owned())
    };
    if field("ID").as_deref() != Some("debian") {
        bail!(
            "real hosts are made of Debian packages and this machine is no Debian (its ID is {})",
            field("ID").unwrap_or_else(|| "unknown".into())
        );
    }
    let codename = field("VERSION_CODENAME").unwrap_or_else(|| SUITE.to_owned());
    let files = sources::read(Path::new("/etc/apt"));
    let mirror = sources::find(&files, &codename)
        .or_else(|| sources::find(&files, SUITE))
        .with_context(|| format!("no apt source of this machine serves Debian's {codename}, so there is no mirror to ask"))?;
    for dir in [
        "lists/partial",
        "apt/archives/partial",
        "state",
        "debs",
        "root",
    ] {
        fs::create_dir_all(home.join(dir))?;
    }
    let signed = mirror
        .signed_by
        .map(|k| format!(" signed-by={k}"))
        .unwrap_or_default();
    fs::write(
        home.join("sources.list"),
        format!("deb [arch=amd64{signed}] {} {SUITE} main\n", mirror.uri),
    )?;
    progress.step("asking the Debian mirror for its package lists");
    // Without this a mirror that is away is only a warning.
    let mut command = apt(home, "apt-get");
    command.args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]);
    run(command, "apt-get update")
}

/// Runs a command to its end; its last error line becomes the error.
fn run(mut command: Command, name: &str) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{name} could not be started"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text
            .lines()
            .rfind(|l| !l.trim().is_empty())
            .unwrap_or("it said nothing");
        bail!("{name} failed: {}", line.trim());
    }
    Ok(())
}

/// Downloads and unpacks everything; returns the directories' names under `root/`.
fn fetch(home: &Path, progress: &Progress) -> Result<Vec<String>> {
    update(home, progress)?;
    let pins = pins();
    let mut candidates = show(home, pins.iter().map(|p| p.name.as_str()))?;
    for pin in &pins {
        let candidate = candidates
            .get(&pin.name)
            .with_context(|| format!("the mirror has no package {} in {SUITE}", pin.name))?;
        if candidate.version != pin.version {
            progress.note(&format!(
                "{} {} is no longer in the archive; taking {}",
                pin.name, pin.version, candidate.version
            ));
        }
    }
    // The kernel's package name contains its version; the metapackage knows it.
    let meta = candidates.remove(KERNEL).context("no kernel metapackage")?;
    let kernel = meta
        .depends
        .split([',', ' '])
        .find(|d| is_kernel(d))
        .context("the kernel metapackage names no kernel")?;
    candidates.extend(show(home, [kernel].into_iter())?);

    let named = |c: &Candidate| format!("{}_{}", c.name, c.version.replace(':', "%3a"));
    let missing: Vec<&Candidate> = candidates
        .values()
        .filter(|c| !home.join("root").join(named(c)).is_dir())
        .collect();
    let total = missing.len();
    for (at, batch) in missing.chunks(8).enumerate() {
        progress.step(&format!(
            "downloading Debian packages ({} of {total})",
            at * 8 + batch.len()
        ));
        download(home, batch)?;
        for candidate in batch {
            unpack(home, candidate, &named(candidate))?;
        }
    }
    Ok(candidates.values().map(named).collect())
}

fn show<'a>(
    home: &Path,
    names: impl Iterator<Item = &'a str>,
) -> Result<BTreeMap<String, Candidate>> {
    let mut command = apt(home, "apt-cache");
    let output = command
        .args(["show", "--no-all-versions"])
        .args(names)
        .output()
        .context("apt-cache could not be started")?;
    Ok(parse_show(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_show(text: &str) -> BTreeMap<String, Candidate> {
    let mut all = BTreeMap::new();
    for paragraph in text.split("\n\n") {
        let mut c = Candidate::default();
        for line in paragraph.lines() {
            let Some((key, value)) = line.split_once(": ") else {
                continue;
            };
            match key {
                "Package" => c.name = value.to_owned(),
                "Version" => c.version = value.to_owned(),
                "Architecture" => c.architecture = value.to_owned(),
                "Depends" => c.depends = value.to_owned(),
                "SHA256" => c.sha256 = value.to_owned(),
                _ => {}
            }
        }
        if !c.name.is_empty() {
            all.insert(c.name.clone(), c);
        }
    }
    all
}

/// The file `apt-get download` writes.
fn deb_name(c: &Candidate) -> String {
    format!(
        "{}_{}_{}.deb",
        c.name,
        c.version.replace(':', "%3a"),
        c.architecture
    )
}

fn download(home: &Path, batch: &[&Candidate]) -> Result<()> {
    let debs = home.join("debs");
    let whole = |c: &Candidate| {
        fs::read(debs.join(deb_name(c))).is_ok_and(|bytes| hex(&Sha256::digest(bytes)) == c.sha256)
    };
    let wanted: Vec<String> = batch
        .iter()
        .filter(|c| !whole(c))
        .map(|c| format!("{}={}", c.name, c.version))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let mut command = apt(home, "apt-get");
    command
        .args(["-qq", "-o", "Acquire::Retries=3", "download"])
        .args(wanted)
        .current_dir(&debs);
    run(command, "apt-get download")?;
    match batch.iter().find(|c| !whole(c)) {
        Some(c) => bail!("{} arrived damaged", deb_name(c)),
        None => Ok(()),
    }
}

/// Unpacks into a temporary directory and renames it, so that a directory that exists is whole.
fn unpack(home: &Path, candidate: &Candidate, directory: &str) -> Result<()> {
    let deb = home.join("debs").join(deb_name(candidate));
    let root = home.join("root");
    let partial = root.join(format!(".partial-{directory}"));
    let _ = fs::remove_dir_all(&partial);
    let mut command = Command::new("dpkg-deb");
    command.arg("-x").arg(&deb).arg(&partial);
    run(command, "dpkg-deb")?;
    fs::rename(&partial, root.join(directory))?;
    fs::remove_file(&deb)?;
    Ok(())
}

/// Links every shared library into one directory, the library path of whatever runs from here.
fn link_libraries(home: &Path, directories: &[String]) -> Result<()> {
    let partial = home.join(".partial-lib");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    for directory in directories {
        for sub in [
            "usr/lib/x86_64-linux-gnu",
            "usr/lib/xen-4.20/lib/x86_64-linux-gnu",
            "lib/x86_64-linux-gnu",
        ] {
            let Ok(entries) = fs::read_dir(home.join("root").join(directory).join(sub)) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                // A link is resolved here, so that a chain of links inside a package is no matter.
                if name.to_string_lossy().contains(".so")
                    && let Ok(real) = fs::canonicalize(entry.path())
                    && real.is_file()
                {
                    let _ = fs::remove_file(partial.join(&name));
                    symlink(real, partial.join(&name))?;
                }
            }
        }
    }
    let _ = fs::remove_dir_all(home.join("lib"));
    fs::rename(partial, home.join("lib"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_well_formed() {
        let pins = pins();
        assert!(pins.iter().any(|p| p.name == KERNEL));
        for pin in &pins {
            assert!(
                !pin.version.is_empty() && !pin.version.contains(char::is_whitespace),
                "{pin:?}"
            );
        }
        let mut names: Vec<_> = pins.iter().map(|p| &p.name).collect();
        names.dedup();
        assert_eq!(names.len(), pins.len(), "a package is listed twice");
    }

    #[test]
    fn paragraphs_of_apt_cache_are_read() {
        let text = "Package: a\nVersion: 1:2-3\nArchitecture: amd64\nDescription: x\n more: text\nSHA256: ff\n\nPackage: b\nVersion: 9\nArchitecture: all\nDepends: linux-image-6.1-amd64 (= 1), c\n";
        let all = parse_show(text);
        assert_eq!(deb_name(&all["a"]), "a_1%3a2-3_amd64.deb");
        assert_eq!(all["a"].sha256, "ff");
        assert_eq!(
            all["b"].depends.split([',', ' ']).find(|d| is_kernel(d)),
            Some("linux-image-6.1-amd64")
        );
        assert!(!is_kernel("linux-image-amd64"));
    }
}
