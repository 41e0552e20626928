//! Runs cargo for the things that are booted.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::paths;

/// The bare-metal target.
pub const BARE: &str = "x86_64-unknown-none";
const LINUX: &str = "x86_64-unknown-linux-gnu";

/// A cargo command in the workspace; `toolchain` as in `cargo +nightly`.
pub fn command(toolchain: Option<&str>) -> Command {
    // Through rustup's proxy where there is one; the variable points past it, at one toolchain.
    let mut command = match toolchain {
        Some(_) => Command::new("cargo"),
        None => Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())),
    };
    if let Some(name) = toolchain {
        command
            .arg(format!("+{name}"))
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTC");
    }
    command.current_dir(paths::workspace());
    command
}

/// Runs it; the error holds its last words.
pub fn run(mut command: Command, what: &str) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{what}: cargo could not be started"))?;
    if !output.status.success() {
        bail!(
            "{what} failed:\n{}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(())
}

/// Adds a target to the toolchain if it is not there yet; without rustup cargo will say what is missing.
pub fn add_target(target: &str) {
    let sysroot = Command::new("rustc")
        .args(["--print", "sysroot"])
        .current_dir(paths::workspace())
        .output();
    let there = sysroot.is_ok_and(|out| {
        let root = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
        root.join("lib/rustlib").join(target).is_dir()
    });
    if !there {
        let _ = Command::new("rustup")
            .args(["target", "add", target])
            .current_dir(paths::workspace())
            .output();
    }
}

/// Builds the guest kernel and returns the image.
pub fn build_guest() -> Result<PathBuf> {
    add_target(BARE);
    let mut build = command(None);
    build.args(["build", "--release", "--package", "guest", "--target", BARE]);
    run(build, "building the guest kernel")?;
    Ok(paths::target().join(BARE).join("release/guest"))
}

/// Builds a program of the workspace for this machine.
pub fn build(package: &str) -> Result<PathBuf> {
    let mut build = command(None);
    build.args(["build", "--release", "--package", package]);
    run(build, &format!("building {package}"))?;
    Ok(paths::target().join("release").join(package))
}

/// Builds a program of the workspace as one file that needs no shared libraries.
pub fn build_static(package: &str) -> Result<PathBuf> {
    let mut build = command(None);
    build.args([
        "build",
        "--release",
        "--package",
        package,
        "--target",
        LINUX,
    ]);
    build.env(
        "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
        "-C target-feature=+crt-static",
    );
    run(build, &format!("building {package}"))?;
    Ok(paths::target().join(LINUX).join("release").join(package))
}
