//! Results side by side, in aligned columns.

use crate::disk::Disk;
use crate::judge::{Row, State};

/// Pads every column to its widest cell; numbers of columns may differ.
pub fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|c| {
            rows.iter()
                .filter_map(|row| row.get(c))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            line += &format!("{cell:<width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// The demonstration's table with what a reader must know below it.
pub fn demo(rows: &[Row], disk: &Disk) -> String {
    let head = [
        "host", "says", "bus", "disk", "files", "hashes", "net", "seconds", "",
    ];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    let mut below = String::new();
    for row in rows {
        cells.push(line(row, disk));
        let reasons = match &row.state {
            State::Passed => Vec::new(),
            State::Failed(why) => why.clone(),
            State::Skipped(why) => vec![why.clone()],
        };
        for text in reasons.iter().chain(&row.remarks) {
            below += &format!("{}: {text}\n", row.host);
        }
    }
    let mut text = align(&cells);
    if !below.is_empty() {
        text += &format!("\n{below}");
    }
    text
}

fn line(row: &Row, disk: &Disk) -> Vec<String> {
    let verdict = match row.state {
        State::Passed => "ok",
        State::Failed(_) => "FAILED",
        State::Skipped(_) => "skipped",
    };
    let Some(report) = &row.report else {
        return [&row.host.to_string(), "", "", "", "", "", "", "", verdict]
            .map(str::to_owned)
            .to_vec();
    };
    let (mut size, mut files, mut hashes) = ("-".to_owned(), "-".to_owned(), "-".to_owned());
    if let Some(seen) = report.disks.first() {
        size = format!(
            "{} {} MiB",
            seen.name,
            seen.sectors.saturating_mul(seen.sector_size) >> 20
        );
        files = seen.files.len().to_string();
        let equal = disk
            .files
            .iter()
            .filter(|f| seen.files.iter().any(|s| s.sha256 == f.sha256))
            .count()
            + usize::from(seen.sha256.as_ref() == Some(&disk.sha256));
        let all = disk.files.len() + 1;
        hashes = if equal == all {
            format!("all {all} equal")
        } else {
            format!("{equal} of {all} equal")
        };
    }
    let says = format!("{} {}", report.host, report.host_version);
    vec![
        row.host.to_string(),
        says,
        report.bus.clone(),
        size,
        files,
        hashes,
        net(row),
        format!("{:.1}", row.seconds),
        verdict.to_owned(),
    ]
}

/// The guest's address, and what a client got from there.
fn net(row: &Row) -> String {
    let Some(v) = &row.visited else {
        return "-".to_owned();
    };
    let nic = row.report.as_ref().and_then(|report| report.nic.as_ref());
    let address = nic.and_then(|nic| nic.address.as_deref()).unwrap_or("?");
    let rate = v.megabytes_per_second();
    format!("{address} {} of {} files, {rate:.1} MB/s", v.equal, v.files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::Host;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a", "bb", "c"], vec!["long", "ü", ""], vec!["x"]];
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|r| r.iter().map(|c| (*c).to_owned()).collect())
            .collect();
        assert_eq!(align(&rows), "a     bb  c\nlong  ü\nx\n");
    }

    #[test]
    fn a_skipped_host_says_why() {
        let disk = Disk {
            vhd: "x".into(),
            sectors: 8,
            sha256: "d".into(),
            files: Vec::new(),
        };
        let text = demo(&[Row::skipped(Host::Xen, "no network")], &disk);
        assert!(text.contains("xen: no network"), "{text}");
        assert!(
            text.lines()
                .nth(1)
                .is_some_and(|l| l.starts_with("xen") && l.ends_with("skipped")),
            "{text}"
        );
    }
}
