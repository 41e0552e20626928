//! The guest's last line, `RESULT {json}`, and whether it says what this side knows to be true.

use serde::{Deserialize, Serialize};

use crate::disk::{Content, Disk};
use crate::qemu::Line;

/// What the guest found out. Fields it does not write are left at their defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The hypervisor it woke up on.
    pub host: String,
    /// As that hypervisor states it.
    pub host_version: String,
    /// The bus and its version.
    pub bus: String,
    /// The job it did.
    pub job: String,
    /// Whether all went well.
    pub ok: bool,
    /// Why not.
    pub error: Option<String>,
    /// The disks it found.
    pub disks: Vec<GuestDisk>,
    /// `job=bench`'s numbers, whatever they are.
    pub bench: Option<serde_json::Value>,
    /// `job=verify`'s numbers, whatever they are.
    pub verify: Option<serde_json::Value>,
    /// Its network interface, if the job has to do with it.
    pub nic: Option<Nic>,
    /// What went over it.
    pub traffic: Option<Traffic>,
    /// `job=serve`'s numbers, whatever they are.
    pub serve: Option<serde_json::Value>,
    /// `job=fetch`'s.
    pub fetch: Option<Fetched>,
    /// `job=netbench`'s numbers, whatever they are.
    pub netbench: Option<serde_json::Value>,
}

/// A network interface as the guest sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Nic {
    /// The host's name for it.
    pub name: String,
    /// Its address and prefix, once it has one.
    pub address: Option<String>,
    /// The rest, whatever it is.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

/// What went over an interface, and whether all buffers came back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Buffers that were neither free nor posted before anything was sent.
    pub buffers_before: u64,
    /// The same when everything was sent.
    pub buffers_after: u64,
    /// How often the interface was away and came back.
    pub replugs: u64,
    /// What went over each queue pair.
    pub queues: Vec<QueueTraffic>,
    /// The rest, whatever it is.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

/// What went over a queue pair.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueTraffic {
    /// Frames received.
    pub rx_frames: u64,
    /// Frames sent.
    pub tx_frames: u64,
}

/// What the guest got from a web server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fetched {
    /// Bytes of contents.
    pub bytes: u64,
    /// SHA-256 of them, in hexadecimal.
    pub sha256: String,
    /// The rest, whatever it is.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

/// A disk as the guest sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestDisk {
    /// The host's name for it.
    pub name: String,
    /// Its size in sectors.
    pub sectors: u64,
    /// Bytes in a sector.
    pub sector_size: u64,
    /// Of all its sectors, in hexadecimal.
    pub sha256: Option<String>,
    /// Its partitions, whatever they are.
    pub partitions: Vec<serde_json::Value>,
    /// The files of its first FAT partition.
    pub files: Vec<Content>,
}

/// The last `RESULT` line of a console, if there is one.
///
/// # Errors
/// The line's text if it is not the JSON it should be.
pub fn find(lines: &[Line]) -> Option<Result<Report, String>> {
    let text = lines
        .iter()
        .rev()
        .find_map(|l| l.text.strip_prefix("RESULT "))?;
    Some(
        serde_json::from_str(text.trim())
            .map_err(|error| format!("the guest's RESULT line is malformed ({error}): {text}")),
    )
}

/// Everything in which the guest's report differs from what this side knows.
pub fn differences(report: &Report, disk: &Disk) -> Vec<String> {
    let mut found = Vec::new();
    if !report.ok {
        found.push(
            report
                .error
                .clone()
                .unwrap_or_else(|| "the guest reports failure without a reason".into()),
        );
    }
    let [seen] = report.disks.as_slice() else {
        found.push(format!(
            "one disk was offered, the guest found {}",
            report.disks.len()
        ));
        return found;
    };
    let bytes = seen.sectors.saturating_mul(seen.sector_size);
    if bytes != disk.bytes() {
        found.push(format!(
            "the disk has {} bytes, the guest sees {bytes}",
            disk.bytes()
        ));
    }
    match &seen.sha256 {
        Some(sum) if *sum != disk.sha256 => found.push(format!(
            "the disk's SHA-256 is {}, the guest's is {sum}",
            disk.sha256
        )),
        None if report.job != "bench" && report.job != "verify" => {
            found.push("the guest hashed no disk".into())
        }
        _ => {}
    }
    if report.job == "tour" {
        for file in &disk.files {
            match seen.files.iter().find(|f| same_name(&f.path, &file.path)) {
                None => found.push(format!("the guest did not find the file {}", file.path)),
                Some(f) if f.size != file.size => found.push(format!(
                    "{} has {} bytes, the guest sees {}",
                    file.path, file.size, f.size
                )),
                Some(f) if f.sha256 != file.sha256 => found.push(format!(
                    "the guest's SHA-256 of {} is wrong: {}",
                    file.path, f.sha256
                )),
                Some(_) => {}
            }
        }
        if seen.files.len() > disk.files.len() {
            found.push(format!(
                "the disk has {} files, the guest found {}",
                disk.files.len(),
                seen.files.len()
            ));
        }
    }
    found
}

/// FAT's names are the same in upper and lower case, and its readers show short ones in either.
fn same_name(seen: &str, known: &str) -> bool {
    seen.trim_start_matches('/').eq_ignore_ascii_case(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn disk() -> Disk {
        let file = Content {
            path: "a/b.txt".into(),
            size: 3,
            sha256: "f1".into(),
        };
        Disk {
            vhd: "x".into(),
            sectors: 8,
            sha256: "d1".into(),
            files: vec![file],
        }
    }

    fn report() -> Report {
        let text = r#"RESULT {"host":"xen","bus":"xenbus","job":"tour","ok":true,"disks":[{"name":"xvda","sectors":8,"sector_size":512,
            "sha256":"d1","partitions":[{"index":1}],"files":[{"path":"/a/b.txt","size":3,"sha256":"f1"}]}],"unknown":1}"#;
        let line = Line {
            at: Duration::ZERO,
            text: text.replace('\n', ""),
        };
        find(&[line]).unwrap().unwrap()
    }

    #[test]
    fn a_true_report_has_no_differences() {
        assert_eq!(differences(&report(), &disk()), Vec::<String>::new());
    }

    #[test]
    fn every_lie_is_found() {
        type Lie = fn(&mut Report);
        let lies: [(&str, Lie); 8] = [
            ("without a reason", |r| r.ok = false),
            ("found 0", |r| r.disks.clear()),
            ("guest sees 4608", |r| r.disks[0].sectors = 9),
            ("guest's is d2", |r| r.disks[0].sha256 = Some("d2".into())),
            ("hashed no disk", |r| r.disks[0].sha256 = None),
            ("did not find the file a/b.txt", |r| {
                r.disks[0].files[0].path = "b.txt".into()
            }),
            ("has 3 bytes, the guest sees 4", |r| {
                r.disks[0].files[0].size = 4
            }),
            ("SHA-256 of a/b.txt is wrong", |r| {
                r.disks[0].files[0].sha256 = "f2".into()
            }),
        ];
        for (expected, lie) in lies {
            let mut report = report();
            lie(&mut report);
            let found = differences(&report, &disk());
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(expected), "{found:?}");
        }
    }

    #[test]
    fn a_malformed_line_is_an_error_and_none_is_none() {
        let line = |text: &str| Line {
            at: Duration::ZERO,
            text: text.into(),
        };
        assert!(find(&[line("RESULT {\"ok\":")]).unwrap().is_err());
        assert!(find(&[line("hello")]).is_none());
    }
}
