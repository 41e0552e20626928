//! The whole guest but its kernel over simulated hosts: front door, buses, queues, jobs.

use std::sync::{Arc, Mutex};

use guest::command_line::Job;
use guest::live;
use guest::report::Report;
use pv_drivers::{Gate, Host, HostUnknown, Hypervisor, Platform};
use pv_tests::disk::MemDisk;
use pv_tests::hyperv::hostile::Misdeed;
use pv_tests::hyperv::machine::HostConfig;
use pv_tests::hyperv::scsi::Lun;
use pv_tests::hyperv::storvsp::{Address, Storvsp, StorvspConfig};
use pv_tests::sim_hyperv::{self, SimHyperV};
use pv_tests::sim_xen::{self, SimXen};
use pv_tests::xen::hostile::{BlkMischief, Plan, StoreMischief, Strike};
use pv_tests::xen::xenbus::VbdSpec;

use crate::image;
use crate::machine::sha256;
use crate::tour::{expected, gpt_with_fat, some_files, sorted};

/// Pages of a simulated machine.
const MEMORY: usize = 4096;
/// Simulated nanoseconds that pass with each step of Hyper-V's host; else a benchmark would never end.
const STEP: u64 = 20_000;

type Shared = Arc<Mutex<MemDisk>>;

fn shared(bytes: Vec<u8>, sector_size: u32) -> Shared {
    Arc::new(Mutex::new(MemDisk::from_bytes(bytes, sector_size)))
}

fn contents(disk: &Shared) -> Vec<u8> {
    disk.lock().unwrap().contents()
}

/// A report and what was said on the way to it.
type Run = (Report, Vec<String>);

fn run<P: Platform + 'static, G: Gate>(host: &Host<P, G>, command_line: &str) -> Run {
    let mut lines = Vec::new();
    let job = Job::parse(command_line).unwrap();
    let report = live::run(host, &job, &mut |line| lines.push(line.to_string()));
    (report, lines)
}

/// A job on simulated Xen with these disks, after `disturb` had its way with the host.
fn on_xen(disks: &[&Shared], command_line: &str, disturb: impl FnOnce(&SimXen)) -> Run {
    let sim = SimXen::new(MEMORY, |_| {});
    for (disk, name) in disks.iter().zip(["xvda", "xvdb"]) {
        let spec = VbdSpec::new(name, Box::new(Arc::clone(disk)));
        sim.host().attach_disk(spec).unwrap();
    }
    let host = Host::find(sim.platform(), sim.clone(), sim_xen::VECTOR).unwrap();
    let host = Arc::new(host);
    let handler = Arc::downgrade(&host);
    sim.on_interrupt(move || {
        if let Some(host) = handler.upgrade() {
            host.on_interrupt();
        }
    });
    disturb(&sim);
    let done = run(&host, command_line);
    let complaints = format!("{:?}", sim.host().complaints());
    assert_eq!(complaints, "[]");
    done
}

/// A job on simulated Hyper-V with these disks on one controller.
fn on_hyperv(disks: &[&Shared], command_line: &str, disturb: impl FnOnce(&SimHyperV)) -> Run {
    let sim = SimHyperV::new(MEMORY, |config: &mut HostConfig| config.ns_per_step = STEP);
    if !disks.is_empty() {
        let mut scsi = Storvsp::new(StorvspConfig::default());
        for (lun, disk) in (0..).zip(disks) {
            scsi.attach(Address::lun(lun), Lun::disk(Box::new(Arc::clone(disk)), 1));
        }
        scsi.attach(Address::lun(7), Lun::dvd());
        sim.host().bus.add(Box::new(scsi));
    }
    let host = Host::find(sim.platform(), sim.clone(), sim_hyperv::VECTOR).unwrap();
    let host = Arc::new(host);
    let handler = Arc::downgrade(&host);
    sim.on_interrupt(move || {
        if let Some(host) = handler.upgrade() {
            host.on_interrupt();
        }
    });
    disturb(&sim);
    let done = run(&host, command_line);
    assert_eq!(sim.host().counters().violations, Vec::<String>::new());
    done
}

/// The same job on either host, left alone.
fn on_both(disk: &Shared, command_line: &str, check: impl Fn(&str, Run)) {
    check("xen", on_xen(&[disk], command_line, |_| {}));
    check("hyperv", on_hyperv(&[disk], command_line, |_| {}));
}

#[test]
fn a_tour_is_the_same_on_both_hosts() {
    let bytes = gpt_with_fat(16 << 20);
    let disk = shared(bytes.clone(), 512);
    on_both(&disk, "job=tour", |kind, (report, lines)| {
        assert!(report.ok, "{kind}: {:?}", report.error);
        assert_eq!(report.host, kind);
        assert_eq!(report.disks.len(), 1);
        let found = &report.disks[0];
        assert_eq!(found.sectors as usize, bytes.len() / 512);
        assert_eq!(found.sha256.as_deref(), Some(sha256(&bytes).as_str()));
        assert_eq!(sorted(found.files.clone()), expected(&some_files()));
        assert_eq!(found.partitions.len(), 2);
        assert_eq!(
            contents(&disk),
            bytes,
            "{kind}: the scratch area is restored"
        );
        assert!(
            lines
                .iter()
                .any(|line| line.contains("read back, restored"))
        );
    });
}

#[test]
fn disks_have_the_names_people_know() {
    let (a, b) = (shared(vec![1; 4096], 512), shared(vec![2; 8192], 512));
    let names = |(report, _): Run| -> Vec<String> {
        assert!(report.ok, "{:?}", report.error);
        report.disks.into_iter().map(|disk| disk.name).collect()
    };
    assert_eq!(
        names(on_xen(&[&a, &b], "job=hash", |_| {})),
        ["xvda", "xvdb"]
    );
    assert_eq!(
        names(on_hyperv(&[&a, &b], "job=hash", |_| {})),
        ["scsi0:0", "scsi0:1"]
    );
}

#[test]
fn verify_passes_on_both_hosts() {
    for sector_size in [512, 4096] {
        let disk = shared(vec![0; 1 << 20], sector_size);
        on_both(&disk, "job=verify seed=9", |kind, (report, _)| {
            assert!(report.ok, "{kind} {sector_size}: {:?}", report.error);
            assert_eq!(report.disks[0].sector_size, sector_size);
            let verify = report.verify.unwrap();
            assert_eq!((verify.passes, verify.mismatches), (5, 0));
            assert!(contents(&disk).chunks(512).all(|sector| sector != [0; 512]));
        });
    }
}

#[test]
fn a_benchmark_runs_on_both_hosts() {
    let disk = shared(image::noise(1 << 20), 512);
    // Simulated Xen's clock moves only while the guest waits, so there its end comes by a fault instead.
    let (report, _) = on_hyperv(&[&disk], "job=bench rw=randread qd=16 secs=1", |_| {});
    assert!(report.ok, "{:?}", report.error);
    let bench = report.bench.unwrap();
    assert!(bench.depth == 16 && bench.requests > 100 && bench.interrupts > 0);
    assert!(bench.nanoseconds >= 1_000_000_000);
}

#[test]
fn no_disk_is_a_clear_line_on_both_hosts() {
    for (report, lines) in [
        on_xen(&[], "job=tour", |_| {}),
        on_hyperv(&[], "job=tour", |_| {}),
    ] {
        assert!(!report.ok);
        assert!(report.error.unwrap().starts_with("no disk"));
        assert!(lines.iter().any(|line| line.starts_with("error: no disk")));
        assert!(!report.bus.is_empty());
    }
}

#[test]
fn a_host_that_never_answers_is_a_clear_line() {
    let disk = shared(vec![0; 4096], 512);
    let (report, lines) = on_xen(&[&disk], "job=hash", |sim| {
        sim.host().hostile().store = Some(Plan {
            what: StoreMischief::Silent,
            when: Strike::ALWAYS,
        });
    });
    assert!(!report.ok && report.host == "xen");
    assert_eq!(lines, [format!("error: {}", report.error.unwrap())]);
    let (report, lines) = on_hyperv(&[&disk], "job=hash", |sim| {
        sim.host().bus.hostile.add(Misdeed::IgnoreContact);
    });
    assert!(!report.ok && report.host == "hyperv");
    assert_eq!(lines, [format!("error: {}", report.error.unwrap())]);
}

#[test]
fn a_back_end_that_goes_away_ends_the_job_with_an_error() {
    for steps in [300, 1000, 4000] {
        let disk = shared(vec![0; 2 << 20], 512);
        let (report, _) = on_xen(&[&disk], "job=verify", |sim| {
            sim.host().hostile().close_back_ends_in = Some(steps);
        });
        assert!(!report.ok, "{steps}");
        assert!(report.error.is_some());
        let (report, _) = on_hyperv(&[&disk], "job=verify", |sim| {
            sim.host()
                .bus
                .hostile
                .add(Misdeed::RescindAfterPacket(steps / 10));
        });
        assert!(!report.ok, "{steps}");
        assert!(report.error.is_some());
    }
}

#[test]
fn a_back_end_that_falls_silent_ends_the_job_with_an_error() {
    let disk = shared(vec![0; 1 << 20], 512);
    for job in ["job=hash", "job=verify", "job=bench", "job=tour"] {
        let (report, _) = on_xen(&[&disk], job, |sim| {
            sim.host().hostile().blk = Some(Plan {
                what: BlkMischief::Silent,
                when: Strike {
                    after: 3,
                    times: u64::MAX,
                },
            });
        });
        assert!(!report.ok, "{job}");
        assert!(report.error.unwrap().contains("gone"), "{job}");
    }
}

#[test]
fn other_machines_are_named() {
    use pv_tests::hyperv::cpuid;
    let line = |leaves| {
        let sim = SimHyperV::new(MEMORY, |config: &mut HostConfig| config.cpuid = leaves);
        match Host::find(sim.platform(), sim.clone(), sim_hyperv::VECTOR) {
            Err(HostUnknown::BareMetal) => "bare metal".into(),
            Err(other) => other.to_string(),
            Ok(host) => panic!("{host:?}"),
        }
    };
    assert_eq!(line(cpuid::bare_metal()), "bare metal");
    assert!(line(cpuid::plain_kvm()).contains("KVMKVMKVM"));
}
