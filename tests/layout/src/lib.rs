//! Compares wire structs with Xen's C headers, by compiling them.
//!
//! Every claim pairs a C expression with the number the Rust side has for it: a size, an offset, a
//! constant. One generated C program prints them all; whatever differs is a mistake of ours.
//!
//! The headers come from Debian's `libxen-dev` (or any `xen/include/public` installed as `xen/`).
//! They are looked for in the directory that `PV_XEN_HEADERS` names, in an unpacked `libxen-dev`
//! under `target/cache/debian`, and in the system's include directories.

#![forbid(unsafe_code)]

pub mod claims;
pub mod drivers;
pub mod model;
mod program;

use claims::Claims;
use std::fmt;
use std::path::{Path, PathBuf};

/// A claim the headers contradict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Where on the Rust side the number is stated.
    pub from: &'static str,
    /// The C expression.
    pub c: String,
    pub rust: i64,
    pub header: i64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch {
            from,
            c,
            rust,
            header,
        } = self;
        write!(f, "{from}: {c} is {header} in C and {rust} in Rust")
    }
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Claims compared.
    pub compared: usize,
    /// Macros these headers do not have yet, so not compared.
    pub absent: Vec<String>,
    pub mismatches: Vec<Mismatch>,
}

/// Why nothing could be compared.
#[derive(Debug)]
pub enum Error {
    /// No directory with `xen/event_channel.h` in it; what was tried.
    NoHeaders(Vec<PathBuf>),
    /// The C compiler is missing or does not take the program; what it said.
    Compiler(String),
    /// The program did not print a number for every claim.
    Output(String),
    Io(std::io::Error),
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::Io(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoHeaders(tried) => write!(
                f,
                "no Xen headers (Debian package libxen-dev) in {tried:?}; \
                 name their include directory in PV_XEN_HEADERS"
            ),
            Error::Compiler(text) => write!(f, "cc: {text}"),
            Error::Output(text) => write!(f, "the generated program printed {text:?}"),
            Error::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Everything both sides state about Xen's interface.
pub fn claims() -> Claims {
    let mut claims = Claims::default();
    model::state(&mut claims);
    drivers::state(&mut claims);
    claims
}

/// The include directory to use: the named one and no other, or the first that has the headers.
pub fn headers(named: Option<&Path>) -> Result<PathBuf, Error> {
    let tried = match named {
        Some(named) => vec![named.to_path_buf()],
        None => {
            let cache =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/cache/debian/root");
            let unpacked = cache.read_dir().into_iter().flatten().flatten();
            let mut tried: Vec<PathBuf> = unpacked
                .map(|entry| entry.path())
                .filter(|path| path.ends_with_name("libxen-dev"))
                .map(|path| path.join("usr/include"))
                .collect();
            tried.extend(["/usr/include".into(), "/usr/local/include".into()]);
            tried
        }
    };
    let found = tried
        .iter()
        .find(|dir| dir.join("xen/event_channel.h").is_file());
    found.cloned().ok_or(Error::NoHeaders(tried))
}

trait EndsWithName {
    fn ends_with_name(&self, package: &str) -> bool;
}

impl EndsWithName for PathBuf {
    /// Whether the last component is a package's, with or without a version behind `_`.
    fn ends_with_name(&self, package: &str) -> bool {
        let name = self.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.split('_').next()) == Some(package)
    }
}

/// Compiles and runs the comparison against the headers in `include`.
pub fn compare(claims: &Claims, include: &Path) -> Result<Report, Error> {
    program::compare(claims, include)
}
