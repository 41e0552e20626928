//! The one line of JSON a run ends with: `RESULT {…}`.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use serde::Serialize;

mod net;

pub use net::{Echo, Fetch, NetBench, Nic, QueueTraffic, Serve, Traffic};

/// Everything a run found out. Fields that a job has nothing to say about are left out of the line.
#[derive(Clone, Default, Debug, Serialize)]
pub struct Report {
    /// The hypervisor below: `xen`, `hyperv` or `none`.
    pub host: String,
    /// Its version, as the host states it.
    pub host_version: String,
    /// The bus the disks are on and its version: `xenbus` or `vmbus 5.3`.
    pub bus: String,
    /// The job's name.
    pub job: String,
    /// Whether the job did all it should.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The devices the bus offers, as the host names them, each with its class.
    pub devices: Vec<String>,
    /// Each disk, in the host's order.
    pub disks: Vec<Disk>,
    /// What `job=verify` did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// What `job=bench` measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bench: Option<Bench>,
    /// The network interface, where the job uses or shows one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nic: Option<Nic>,
    /// What went over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// What `job=serve` did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serve: Option<Serve>,
    /// What `job=fetch` got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fetch: Option<Fetch>,
    /// What `job=echo` sent back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo: Option<Echo>,
    /// What `job=netbench` measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netbench: Option<NetBench>,
}

/// A disk and what is on it.
#[derive(Clone, Default, Debug, Serialize)]
pub struct Disk {
    /// The host's name for it.
    pub name: String,
    /// Its size in sectors.
    pub sectors: u64,
    /// Bytes in a sector.
    pub sector_size: u32,
    /// SHA-256 of all its sectors, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Its partition table's entries in use.
    pub partitions: Vec<Partition>,
    /// Files of the first FAT partition.
    pub files: Vec<File>,
}

/// A partition.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub struct Partition {
    /// Its number in the table, from 1.
    pub index: u32,
    /// Its type: a GUID, or an MBR type as `0x0c`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name, where the table has names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// First sector.
    pub first: u64,
    /// Last sector.
    pub last: u64,
}

/// A file.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub struct File {
    /// Its path from the root, with `/` between names.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of its contents, in hexadecimal.
    pub sha256: String,
}

/// What `job=verify` did.
#[derive(Clone, Default, Debug, Serialize)]
pub struct Verify {
    /// What the pattern was derived from.
    pub seed: u64,
    /// Passes over the disk, each with its own request size and depth.
    pub passes: u32,
    /// Bytes written, and read back and compared.
    pub bytes: u64,
    /// Sectors that differed.
    pub mismatches: u64,
}

/// What `job=bench` measured.
#[derive(Clone, Default, Debug, Serialize)]
pub struct Bench {
    /// The access pattern.
    pub rw: String,
    /// Bytes in a request.
    pub block: u64,
    /// Requests in flight.
    pub depth: u64,
    /// Requests completed.
    pub requests: u64,
    /// Nanoseconds it took.
    pub nanoseconds: u64,
    /// Requests in a second.
    pub iops: u64,
    /// Bytes in a second.
    pub bytes_per_second: u64,
    /// Interrupts taken meanwhile.
    pub interrupts: u64,
}

impl Report {
    /// The report of a run that failed before it found anything out.
    pub fn failure(job: &str, error: impl fmt::Display) -> Self {
        Self {
            host: "none".into(),
            job: job.into(),
            error: Some(alloc::format!("{error}")),
            ..Self::default()
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        write!(f, "RESULT {json}")
    }
}

/// The line for a kernel that fell over, which must need no memory.
pub struct Crash<T>(pub T);

impl<T: fmt::Display> fmt::Display for Crash<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"RESULT {"ok":false,"error":""#)?;
        write!(JsonText(f), "panic: {}", self.0)?;
        f.write_str("\"}")
    }
}

/// Escapes what JSON does not allow in a string.
struct JsonText<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for JsonText<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            match letter {
                '"' | '\\' => write!(self.0, "\\{letter}")?,
                '\0'..' ' => write!(self.0, "\\u{:04x}", u32::from(letter))?,
                _ => self.0.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_report_is_one_line_of_json() {
        let mut report = Report::failure("hash", "two\nlines and a \"quote\"");
        report.disks.push(Disk {
            name: "xvda".into(),
            ..Disk::default()
        });
        let line = report.to_string();
        assert!(!line.contains('\n'));
        let json = line.strip_prefix("RESULT ").unwrap();
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(value["ok"], false);
        assert_eq!(value["error"], "two\nlines and a \"quote\"");
        assert_eq!(value["disks"][0]["name"], "xvda");
        assert!(value.get("bench").is_none());
    }

    #[test]
    fn a_crash_is_json_too() {
        let line = Crash("at \"a\\b\"\n\u{1}").to_string();
        let json = line.strip_prefix("RESULT ").unwrap();
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(value["ok"], false);
        assert_eq!(value["error"], "panic: at \"a\\b\"\n\u{1}");
    }
}
