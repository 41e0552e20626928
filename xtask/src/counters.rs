//! What a block request costs the driver, counted over the simulated hosts, where it is exact: instructions
//! by callgrind (the driver's own; set-up cancelled between two runs), and whatever reaches the host.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::progress::Progress;
use crate::{cargo, paths, table};

/// Optimised as a kernel is.
const PROFILE: &str = "measure";
/// The drivers, and the others they stand beside.
const DRIVERS: [&str; 4] = ["blkif", "storvsc", "virtio", "virtio-indirect"];
const DEPTHS: [u32; 2] = [1, 32];
/// The two runs' lengths in requests; what is spent once is the same in both.
const REQUESTS: [u32; 2] = [3200, 6400];

/// What `pv-bench` prints.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Counts {
    /// As it was run, which may be less than was asked for.
    depth: u32,
    requests: u64,
    hypercalls: u64,
    signals: u64,
    interrupts: u64,
    grants: u64,
    copied: u64,
    nanoseconds: u64,
}

/// A driver at a depth, all per request.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    driver: &'static str,
    depth: u32,
    /// `None` without valgrind.
    instructions: Option<f64>,
    hypercalls: f64,
    notifications: f64,
    interrupts: f64,
    grants: f64,
    bytes_copied: f64,
    nanoseconds: f64,
}

/// Measures all drivers at all depths.
///
/// # Errors
/// When the program does not build or run.
pub fn measure(progress: &Progress) -> Result<Vec<Cost>> {
    progress.step("building the counters");
    let mut build = cargo::command(None);
    build.args(["build", "--profile", PROFILE, "--package", "pv-bench"]);
    cargo::run(build, "building pv-bench")?;
    let program = paths::target().join(PROFILE).join("pv-bench");
    let valgrind = Command::new("valgrind")
        .arg("--version")
        .output()
        .is_ok_and(|out| out.status.success());
    if !valgrind {
        progress.note("there is no valgrind here, so instructions are not counted");
    }
    let mut costs = Vec::new();
    for driver in DRIVERS {
        for depth in DEPTHS {
            progress.step(&format!("counting {driver} at depth {depth}"));
            costs.push(cost(&program, driver, depth, valgrind)?);
        }
    }
    Ok(costs)
}

fn cost(program: &Path, driver: &'static str, depth: u32, valgrind: bool) -> Result<Cost> {
    let batches = REQUESTS.map(|requests| (requests / depth).to_string());
    let run = |batches: &str| -> Result<Counts> {
        let output = Command::new(program)
            .args([driver, &depth.to_string(), batches])
            .output()?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("pv-bench {driver} printed no counters"))
    };
    let [short, long] = [run(&batches[0])?, run(&batches[1])?];
    let requests = long.requests.saturating_sub(short.requests);
    if requests == 0 {
        bail!("pv-bench {driver} did no more requests in more batches");
    }
    let per = |field: fn(&Counts) -> u64| {
        field(&long).saturating_sub(field(&short)) as f64 / requests as f64
    };
    let instructions = if valgrind {
        let [short, long] = [
            instructions(program, driver, depth, &batches[0])?,
            instructions(program, driver, depth, &batches[1])?,
        ];
        Some(long.saturating_sub(short) as f64 / requests as f64)
    } else {
        None
    };
    Ok(Cost {
        driver,
        depth: long.depth,
        instructions,
        hypercalls: per(|c| c.hypercalls),
        notifications: per(|c| c.signals),
        interrupts: per(|c| c.interrupts),
        grants: per(|c| c.grants),
        bytes_copied: per(|c| c.copied),
        nanoseconds: per(|c| c.nanoseconds),
    })
}

/// Instructions inside the driver in one whole run.
fn instructions(program: &Path, driver: &str, depth: u32, batches: &str) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args([
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        "--collect-atstart=no",
    ]);
    command.args([
        "--toggle-collect=pv_bench::count::measured*",
        "--toggle-collect=pv_bench::count::excluded*",
    ]);
    let program: PathBuf = program.to_owned();
    let output = command
        .arg(program)
        .args([driver, &depth.to_string(), batches])
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    collected(&text).with_context(|| {
        format!(
            "callgrind counted nothing for {driver}: {}",
            text.lines().last().unwrap_or_default()
        )
    })
}

/// The number in callgrind's `==123== Collected : 456`.
fn collected(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
}

/// The table, per request.
pub fn text(costs: &[Cost]) -> String {
    let head = [
        "driver",
        "depth",
        "instructions",
        "hypercalls",
        "notifications",
        "interrupts",
        "grants",
        "bytes copied",
        "ns",
    ];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    for cost in costs {
        let mut line = vec![cost.driver.to_owned(), cost.depth.to_string()];
        line.push(cost.instructions.map_or("-".into(), |n| format!("{n:.0}")));
        for number in [
            cost.hypercalls,
            cost.notifications,
            cost.interrupts,
            cost.grants,
            cost.bytes_copied,
        ] {
            line.push(format!("{number:.3}"));
        }
        line.push(format!("{:.0}", cost.nanoseconds));
        cells.push(line);
    }
    table::align(&cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callgrinds_count_is_found() {
        assert_eq!(
            collected("==1== Events    : Ir\n==1== Collected : 23456\n==1==\n"),
            Some(23456)
        );
        assert_eq!(collected("nothing"), None);
    }

    #[test]
    fn the_program_s_line_is_understood() {
        let line = r#"{"which":"blkif","depth":5,"requests":10,"hypercalls":1,"signals":1,"interrupts":1,"grants":0,"copied":0,"nanoseconds":77}"#;
        let counts: Counts = serde_json::from_str(line).unwrap();
        assert_eq!(
            (counts.depth, counts.requests, counts.nanoseconds),
            (5, 10, 77)
        );
    }
}
