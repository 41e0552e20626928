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
use crate::{counters, paths, table};

/// What the guest measures on each host: a name and its settings.
const JOBS: [(&str, &str); 4] = [
    ("one-by-one", "job=bench rw=randread bs=4k qd=1 secs=2"),
    ("in-flight", "job=bench rw=randread bs=4k qd=32 secs=2"),
    ("streaming", "job=bench rw=read bs=32k qd=8 secs=2"),
    ("writing", "job=bench rw=randwrite bs=4k qd=32 secs=2"),
];

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
                "On real hosts, under whatever emulation there is:\n{}",
                text(&rows)
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
    let hosts = Host::ALL
        .into_iter()
        .filter(|host| host.is_real() && host.has_disk());
    hosts
        .flat_map(|host| {
            JOBS.map(|(name, job)| {
                let trial = Trial::of_disk(host, name, job, Duration::from_secs(60));
                Trial {
                    expect: Expect::DiskUsed,
                    ..trial
                }
            })
        })
        .collect()
}

fn text(rows: &[Row]) -> String {
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
    let mut below = String::new();
    for row in rows {
        if let State::Failed(why) = &row.state {
            below += &format!("{} {}: {}\n", row.host, row.trial, why.join("; "));
        }
        let Some(bench) = row.report.as_ref().and_then(|report| report.bench.as_ref()) else {
            continue;
        };
        let number = |name: &str| bench.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN);
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
    let mut text = table::align(&cells);
    if !below.is_empty() {
        text += &format!("\n{below}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Report;

    #[test]
    fn numbers_and_failures_are_shown() {
        let numbers = json!({"rw": "read", "block": 4096, "depth": 32, "requests": 100, "iops": 50, "bytes_per_second": 2_000_000, "interrupts": 25});
        let trial = &trials()[0];
        let mut row = Row::failed(trial, "slow".into());
        row.report = Some(Report {
            bench: Some(numbers),
            ..Report::default()
        });
        let text = text(&[row]);
        let line = text.lines().nth(1).unwrap_or_default();
        let cells: Vec<_> = line.split_whitespace().collect();
        assert_eq!(cells, ["xen", "read", "4096", "32", "50", "2.0", "0.25"]);
        assert!(text.ends_with("xen one-by-one: slow\n"), "{text}");
    }
}
