//! `cargo xtask bench`: what a request costs. Counts come from the simulated hosts, where they are exact;
//! times from the real ones, where they say how things feel under emulation and no more.

use std::fs;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::debian::Debian;
use crate::disk::Disk;
use crate::hosts::Host;
use crate::judge::{Expect, Row, State};
use crate::progress::Progress;
use crate::session::{self, Trial};
use crate::visit::Plan;
use crate::{counters, paths, table};

/// What the guest measures on each host: a name and its settings.
const JOBS: [(&str, &str); 4] = [
    ("one-by-one", "job=bench rw=randread bs=4k qd=1 secs=2"),
    ("in-flight", "job=bench rw=randread bs=4k qd=32 secs=2"),
    ("streaming", "job=bench rw=read bs=32k qd=8 secs=2"),
    ("writing", "job=bench rw=randwrite bs=4k qd=32 secs=2"),
];

/// What clients ask of the guest's web server on each host with a NIC: every file, and then many requests.
const VISIT: Plan = Plan {
    requests: 3000,
    ..Plan::FILES
};

/// Counts, measures unless `quick`, and prints tables, or the same as JSON.
///
/// # Errors
/// When something that should be there could not be counted or measured, or a driver costs more than
/// it aims at.
pub fn bench(as_json: bool, quick: bool, progress: &Progress) -> Result<()> {
    let costs = counters::measure(progress)?;
    let rows = if quick {
        Vec::new()
    } else {
        measure(progress)?
    };
    progress.finish();
    if as_json {
        println!(
            "{}",
            serde_json::to_string_pretty(
                &json!({ "per_request": costs.block, "per_frame": costs.net, "hosts": rows })
            )?
        );
    } else {
        println!(
            "A block request of 4 KiB over the simulated hosts, driver's side:\n{}",
            counters::text(&costs.block)
        );
        println!(
            "A frame of 64 bytes (or 1514, or a TCP segment of 64 KiB), likewise:\n{}",
            counters::text(&costs.net)
        );
        if !quick {
            print!(
                "On real hosts, under whatever emulation there is:\n{}\n\
                 The guest's web server there, its files on the disk; curl, then ab over 8 connections:\n{}{}",
                disks(&rows),
                web(&rows),
                failures(&rows)
            );
        }
    }
    let missed = counters::missed(&costs);
    if !missed.is_empty() {
        bail!("more than aimed at:\n{}", missed.join("\n"));
    }
    let failed = rows
        .iter()
        .filter(|row| matches!(row.state, State::Failed(_)))
        .count();
    if failed > 0 {
        bail!("{failed} of {} measurements failed", rows.len());
    }
    Ok(())
}

/// The guest's own measurements on the real hosts.
fn measure(progress: &Progress) -> Result<Vec<Row>> {
    let debian = Debian::prepare(progress)?;
    fs::create_dir_all(paths::work().join("logs"))?;
    progress.step("making the disk");
    let disk = Disk::make(Some(&debian), &paths::work())?;
    session::real(&trials(), &disk, &debian, progress)
}

fn trials() -> Vec<Trial> {
    let real = || Host::ALL.into_iter().filter(|host| host.is_real());
    let disks = real().filter(|host| host.has_disk()).flat_map(|host| {
        JOBS.map(|(name, job)| {
            let trial = Trial::of_disk(host, name, job, Duration::from_secs(60));
            Trial {
                expect: Expect::DiskUsed,
                ..trial
            }
        })
    });
    let nics = real().filter(|host| host.has_nic());
    let web = nics.map(|host| Trial::of_server(host, "web", VISIT, Duration::from_secs(180)));
    disks.chain(web).collect()
}

/// A number that a report should have.
fn number(value: Option<&Value>) -> f64 {
    value.and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn disks(rows: &[Row]) -> String {
    let head = [
        "host",
        "access",
        "block",
        "depth",
        "requests/s",
        "MB/s",
        "interrupts/request",
    ];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        let Some(bench) = row.report.as_ref().and_then(|report| report.bench.as_ref()) else {
            continue;
        };
        let number = |name| number(bench.get(name));
        cells.push(vec![
            row.host.to_string(),
            bench
                .get("rw")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            format!("{}", number("block")),
            format!("{}", number("depth")),
            format!("{:.0}", number("iops")),
            format!("{:.1}", number("bytes_per_second") / 1e6),
            format!("{:.2}", number("interrupts") / number("requests")),
        ]);
    }
    table::align(&cells)
}

fn web(rows: &[Row]) -> String {
    let head = [
        "host",
        "files",
        "MB/s",
        "requests",
        "requests/s",
        "frames/request",
        "bytes/frame sent",
        "interrupts/request",
    ];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        let (Some(report), Some(visited)) = (&row.report, &row.visited) else {
            continue;
        };
        let (Some(serve), Some(traffic), Some(load)) =
            (&report.serve, &report.traffic, &visited.load)
        else {
            continue;
        };
        let serve = |name| number(serve.get(name));
        let traffic = |name| number(traffic.more.get(name));
        let (sent, all) = (traffic("tx_frames"), serve("requests"));
        cells.push(vec![
            row.host.to_string(),
            format!("{} of {}", visited.equal, visited.files),
            format!("{:.1}", visited.megabytes_per_second()),
            format!("{}", load.requests),
            format!("{:.0}", f64::from(load.requests) / load.seconds),
            format!("{:.2}", (sent + traffic("rx_frames")) / all),
            format!("{:.0}", traffic("tx_bytes") / sent),
            format!("{:.2}", serve("interrupts") / all),
        ]);
    }
    table::align(&cells)
}

/// A line for each measurement that failed.
fn failures(rows: &[Row]) -> String {
    let lines = rows.iter().filter_map(|row| match &row.state {
        State::Failed(why) => Some(format!("\n{} {}: {}", row.host, row.trial, why.join("; "))),
        State::Passed | State::Skipped(_) => None,
    });
    let text: String = lines.collect();
    if text.is_empty() { text } else { text + "\n" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Report, Traffic};
    use crate::visit::Visited;

    #[test]
    fn numbers_and_failures_are_shown() {
        let numbers = json!({"rw": "read", "block": 4096, "depth": 32, "requests": 100, "iops": 50, "bytes_per_second": 2_000_000, "interrupts": 25});
        let trial = &trials()[0];
        let mut row = Row::failed(trial, "slow".into());
        row.report = Some(Report {
            bench: Some(numbers),
            ..Report::default()
        });
        let text = disks(std::slice::from_ref(&row));
        let line = text.lines().nth(1).unwrap_or_default();
        let cells: Vec<_> = line.split_whitespace().collect();
        assert_eq!(cells, ["xen", "read", "4096", "32", "50", "2.0", "0.25"]);
        assert_eq!(web(std::slice::from_ref(&row)).lines().count(), 1);
        assert_eq!(failures(&[row]), "\nxen one-by-one: slow\n");
    }

    #[test]
    fn what_a_web_server_did_is_shown_per_request() {
        let traffic =
            json!({"tx_frames": 600, "tx_bytes": 600_000, "rx_frames": 300, "buffers_after": 0});
        let load = json!({"requests": 295, "failed": 0, "refused": 0, "kept": 295, "seconds": 2.0});
        let row = Row {
            host: Host::HyperV,
            trial: "web".into(),
            state: State::Passed,
            report: Some(Report {
                serve: Some(json!({"requests": 300, "interrupts": 150})),
                traffic: serde_json::from_value::<Traffic>(traffic).ok(),
                ..Report::default()
            }),
            visited: Some(Visited {
                equal: 5,
                files: 5,
                bytes: 3_000_000,
                seconds: 2.0,
                load: serde_json::from_value(load).ok(),
                ..Visited::default()
            }),
            seconds: 9.0,
            remarks: Vec::new(),
        };
        let text = web(&[row]);
        let cells: Vec<_> = text
            .lines()
            .nth(1)
            .unwrap_or_default()
            .split("  ")
            .collect();
        let cells: Vec<_> = cells
            .iter()
            .map(|c| c.trim())
            .filter(|c| !c.is_empty())
            .collect();
        assert_eq!(
            cells,
            [
                "hyperv", "5 of 5", "1.5", "295", "148", "3.00", "1000", "0.50"
            ]
        );
    }
}
