//! Where things are kept: all of it under the workspace's `target/`, so `cargo clean` forgets everything.

use std::path::{Path, PathBuf};

/// The workspace root.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// Downloads and what is made of them alone; `PV_DRIVERS_CACHE` shares one cache between checkouts.
pub fn cache() -> PathBuf {
    match std::env::var_os("PV_DRIVERS_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => target().join("cache"),
    }
}

/// Logs, disks and boot images of this checkout.
pub fn work() -> PathBuf {
    target().join("hosts")
}
