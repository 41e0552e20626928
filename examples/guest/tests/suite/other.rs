//! Hash, verify and bench, and how a job is chosen.

use guest::command_line::Job;
use guest::disk::{DiskError, Geometry, JobDisk, Workload};
use guest::jobs;
use guest::machine::{Host, Machine, Parts};
use guest::memory::MemoryDisk;

use crate::image;
use crate::machine::{TestMachine, disk, error_of, one, sha256};
use crate::tour::gpt_with_fat;

#[test]
fn no_disk_is_a_clear_line() {
    let mut machine = TestMachine::new(vec![]);
    let report = machine.run("job=hash");
    assert!(!report.ok && report.error.unwrap().starts_with("no disk"));
    // A tour still says what there is instead.
    let report = machine.run("job=tour");
    assert!(!report.ok && machine.said("device: vbd-51712"));
    assert_eq!(report.devices, ["vbd-51712"]);
}

#[test]
fn hash_says_what_sha256_says() {
    let bytes = image::noise((1 << 20) + 512 * 3);
    let mut machine = TestMachine::new(vec![disk(bytes.clone()), disk(vec![0; 512])]);
    let report = machine.run("job=hash");
    assert!(report.ok);
    assert_eq!(
        report.disks[0].sha256.as_deref(),
        Some(sha256(&bytes).as_str())
    );
    assert_eq!(
        report.disks[1].sha256.as_deref(),
        Some(sha256(&[0; 512]).as_str())
    );
}

#[test]
fn an_unreadable_sector_is_an_error_not_a_hang() {
    for job in [
        "job=hash",
        "job=tour",
        "job=verify seed=3",
        "job=bench secs=1",
    ] {
        let mut disk = disk(gpt_with_fat(16 << 20));
        disk.bad = 7000..7001;
        let error = error_of(disk, job);
        assert!(error.contains("I/O error"), "{job}: {error}");
    }
}

#[test]
fn verify_covers_the_whole_disk_in_every_size() {
    for (sector_size, bytes) in [
        (512, (1 << 20) + 512 * 3),
        (4096, 1 << 20),
        (512, 512),
        (512, 13 << 10),
    ] {
        let (report, machine) = one(
            MemoryDisk::new("d", sector_size, vec![0; bytes]),
            "job=verify seed=5",
        );
        assert!(report.ok, "{:?}", report.error);
        let verify = report.verify.unwrap();
        assert_eq!((verify.seed, verify.passes, verify.mismatches), (5, 5, 0));
        assert!(
            verify.bytes >= 3 * bytes as u64,
            "three passes go over all of it"
        );
        assert!(
            machine.disks[0]
                .bytes()
                .chunks(512)
                .all(|sector| sector != [0; 512])
        );
        assert_eq!(machine.disks[0].flushes, 5);
    }
}

#[test]
fn verify_notices_a_disk_that_loses_writes() {
    /// Writes to one sector vanish.
    struct Forgetful(MemoryDisk);
    impl JobDisk for Forgetful {
        fn name(&self) -> &str {
            self.0.name()
        }
        fn geometry(&self) -> Geometry {
            self.0.geometry()
        }
        fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
            self.0.read(sector, into)
        }
        fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
            self.0.write(sector, from)
        }
        fn flush(&mut self) -> Result<(), DiskError> {
            // As late as can be: the sector is there when it is written and gone after the flush.
            let blank = [0; 512];
            self.0.write(77, &blank)
        }
        fn drive(
            &mut self,
            depth: usize,
            bytes: usize,
            work: &mut dyn Workload,
        ) -> Result<(), DiskError> {
            self.0.drive(depth, bytes, work)
        }
    }
    struct One(TestMachine, [Forgetful; 1]);
    impl Machine for One {
        type Disk = Forgetful;
        fn host(&self) -> &Host {
            self.0.host()
        }
        fn disks(&mut self) -> &mut [Forgetful] {
            &mut self.1
        }
        fn parts(&mut self) -> Parts<'_, Forgetful> {
            let parts = self.0.parts();
            Parts {
                disks: &mut self.1,
                nic: parts.nic,
                say: parts.say,
            }
        }
        fn say(&mut self, line: std::fmt::Arguments<'_>) {
            self.0.say(line);
        }
        fn clock(&self) -> Box<dyn Fn() -> u64> {
            self.0.clock()
        }
        fn interrupts(&self) -> u64 {
            0
        }
    }
    let mut machine = One(
        TestMachine::new(vec![]),
        [Forgetful(disk(vec![0; 1 << 20]))],
    );
    let report = jobs::run(&Job::parse("job=verify").unwrap(), &mut machine);
    assert!(!report.ok);
    assert!(report.verify.unwrap().mismatches >= 3);
    assert!(machine.0.said(&format!("first wrong at byte {}", 77 * 512)));
    let report = jobs::run(&Job::Tour, &mut machine);
    assert!(report.error.unwrap().contains("is not what was written"));
}

#[test]
fn bench_counts_requests() {
    let (report, _) = one(
        disk(image::noise(1 << 20)),
        "job=bench rw=randread bs=4k qd=8 secs=1",
    );
    assert!(report.ok, "{:?}", report.error);
    let bench = report.bench.unwrap();
    assert_eq!(
        (bench.rw.as_str(), bench.block, bench.depth),
        ("randread", 4096, 8)
    );
    // The clock moves a millisecond a look, one look a request and one at each end.
    assert!((990..=1001).contains(&bench.requests), "{}", bench.requests);
    assert!(
        bench.iops > 900
            && bench.bytes_per_second == bench.iops * 4096 + bench.bytes_per_second % 4096
    );
    let before = image::noise(1 << 20);
    let (report, machine) = one(disk(before.clone()), "job=bench rw=read bs=512 qd=1 secs=1");
    assert!(report.ok);
    assert_eq!(
        machine.disks[0].bytes(),
        before,
        "a read benchmark writes nothing"
    );
    assert!(error_of(disk(vec![0; 4096]), "job=bench bs=8k").contains("smaller than one request"));
    assert!(error_of(disk(vec![0; 4096]), "job=bench bs=1m").contains("bs=1048576"));
    assert!(error_of(disk(vec![0; 4096]), "job=bench disk=1").contains("there are 1 disks"));
}

#[test]
fn a_wrong_command_line_prints_the_usage() {
    let mut lines = Vec::new();
    let report = jobs::parse("job=dance", &mut |line| lines.push(line.to_string())).unwrap_err();
    assert!(!report.ok);
    assert_eq!(lines[0], "unknown job: dance");
    assert!(lines[1].starts_with("usage: "));
}
