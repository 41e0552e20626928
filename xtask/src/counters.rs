//! What a request or a frame costs the driver, counted over the simulated hosts, where it is exact: instructions
//! by callgrind (the driver's own; set-up cancelled between two runs), and whatever reaches the host.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::progress::Progress;
use crate::{cargo, paths, table};

/// Optimised as a kernel is.
const PROFILE: &str = "measure";
/// The drivers of disks, and the others they stand beside, a request of 4 KiB at a time.
const BLOCK: [&str; 4] = ["blkif", "storvsc", "virtio", "virtio-indirect"];
/// The same of networks, a frame at a time.
const NET: [&str; 15] = [
    "netif-tx",
    "netif-rx",
    "netvsc-tx",
    "netvsc-rx",
    "virtio-net-tx",
    "virtio-net-rx",
    "netif-tx-1514",
    "netif-rx-1514",
    "netif-rx-claimed",
    "netvsc-tx-1514",
    "netvsc-rx-1514",
    "netif-tx-tso",
    "netif-rx-tso",
    "netif-rx-claimed-tso",
    "netvsc-tx-tso",
];
/// Alone, and in batches.
const DEPTHS: [u32; 2] = [1, 32];
/// The two runs' lengths in requests; what is spent once is the same in both.
const REQUESTS: [u32; 2] = [3200, 6400];

/// What our drivers aim at: instructions per request or frame at a depth.
const AIMS: [(&str, u32, f64); 8] = [
    ("blkif", 1, 200.0),
    ("blkif", 32, 100.0),
    ("storvsc", 1, 300.0),
    ("storvsc", 32, 200.0),
    ("netif-tx", 32, 75.0),
    ("netif-rx", 32, 60.0),
    ("netvsc-tx", 32, 180.0),
    ("netvsc-rx", 32, 150.0),
];
/// An aim is missed by more than this, because compilers differ.
const SLACK: f64 = 1.05;

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

/// What was counted.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Costs {
    /// Per request of 4 KiB.
    pub block: Vec<Cost>,
    /// Per frame: 64 bytes where the name says nothing else, 1514 bytes, or a TCP segment of 64 KiB.
    pub net: Vec<Cost>,
}

/// Measures all drivers at all depths.
///
/// # Errors
/// When the program does not build or run.
pub fn measure(progress: &Progress) -> Result<Costs> {
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
    let mut costs = Costs::default();
    for (drivers, depths, into) in [
        (&BLOCK[..], &DEPTHS[..], &mut costs.block),
        (&NET[..], &DEPTHS[1..], &mut costs.net),
    ] {
        for driver in drivers {
            for depth in depths {
                progress.step(&format!("counting {driver} at depth {depth}"));
                into.push(cost(&program, driver, *depth, valgrind)?);
            }
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

/// What our drivers cost beyond their aims: a line for each. Besides instructions there are no
/// grant and no copy per request, and one notification per batch at most.
pub fn missed(costs: &Costs) -> Vec<String> {
    let mut lines = Vec::new();
    for (driver, depth, aim) in AIMS {
        let found = (costs.block.iter())
            .chain(&costs.net)
            .find(|c| (c.driver, c.depth) == (driver, depth));
        let Some(cost) = found else {
            lines.push(format!("{driver} at depth {depth} was not counted"));
            continue;
        };
        let instructions = cost.instructions.map(|n| ("instructions", n, aim * SLACK));
        let counted = [
            ("notifications", cost.notifications, 1.0 / f64::from(depth)),
            ("grants", cost.grants, 0.0),
            ("bytes copied", cost.bytes_copied, 0.0),
        ];
        for (what, number, most) in instructions.into_iter().chain(counted) {
            if number > most {
                lines.push(format!(
                    "{driver} at depth {depth}: {number:.3} {what} per request, {most:.3} at most"
                ));
            }
        }
    }
    lines
}

/// A table, per request or frame.
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

    /// At every aim exactly.
    fn on_aim() -> Costs {
        let cost = |(driver, depth, aim): (&'static str, u32, f64)| Cost {
            driver,
            depth,
            instructions: Some(aim),
            hypercalls: 1.0 / f64::from(depth),
            notifications: 1.0 / f64::from(depth),
            interrupts: 0.0,
            grants: 0.0,
            bytes_copied: 0.0,
            nanoseconds: 0.0,
        };
        Costs {
            block: AIMS.map(cost).to_vec(),
            net: Vec::new(),
        }
    }

    #[test]
    fn a_missed_aim_is_told() {
        let mut costs = on_aim();
        assert!(missed(&costs).is_empty());
        // Without valgrind there is nothing to say of instructions.
        costs.block[0].instructions = None;
        costs.block[1].instructions = Some(104.0);
        assert!(missed(&costs).is_empty());
        costs.block[1].instructions = Some(106.0);
        costs.block[2].grants = 0.5;
        costs.block[3].notifications = 0.04;
        let lines = missed(&costs);
        assert_eq!(lines.len(), 3, "{lines:?}");
        let line = "blkif at depth 32: 106.000 instructions per request, 105.000 at most";
        assert_eq!(lines[0], line);
        costs.block.truncate(3);
        assert_eq!(missed(&costs).len(), AIMS.len() - 1, "the rest is missing");
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
