//! `simulated HOST DISK COMMAND_LINE`: what the guest kernel does on a machine, in this process over a
//! simulated host. The same drivers, the same jobs, the same last line; HOST is `xen` or `hyperv`, and
//! DISK is a raw image or a fixed VHD.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use guest::command_line::Job;
use guest::report::Report;
use guest::{jobs, live};
use pv_drivers::{Gate, Host, Hypervisor, Platform};
use pv_tests::disk::FileDisk;
use pv_tests::hyperv::scsi::Lun;
use pv_tests::hyperv::storvsp::{Address, Storvsp, StorvspConfig};
use pv_tests::sim_hyperv::{self, SimHyperV};
use pv_tests::sim_xen::{self, SimXen};
use pv_tests::xen::xenbus::VbdSpec;

/// Pages of each machine.
const MEMORY: usize = 8192;

/// Simulated Xen, with the disk as `xvda`.
fn xen(job: &Job, disk: FileDisk) -> Result<(Report, Vec<String>), String> {
    let sim = SimXen::new(MEMORY, |_| {});
    let spec = VbdSpec::new("xvda", Box::new(disk));
    sim.host()
        .attach_disk(spec)
        .ok_or("the simulated Xen takes no such disk")?;
    let handler = sim.clone();
    let report = run(
        job,
        sim.platform(),
        sim.clone(),
        sim_xen::VECTOR,
        move |f| handler.on_interrupt(f),
    )?;
    let complaints = sim
        .host()
        .complaints()
        .iter()
        .map(|c| format!("{c:?}"))
        .collect();
    Ok((report, complaints))
}

/// Simulated Hyper-V, with the disk as LUN 0 of a SCSI controller.
fn hyperv(job: &Job, disk: FileDisk) -> Result<(Report, Vec<String>), String> {
    let sim = SimHyperV::new(MEMORY, |_| {});
    let mut scsi = Storvsp::new(StorvspConfig::default());
    scsi.attach(Address::lun(0), Lun::disk(Box::new(disk), 1));
    sim.host().bus.add(Box::new(scsi));
    let handler = sim.clone();
    let report = run(
        job,
        sim.platform(),
        sim.clone(),
        sim_hyperv::VECTOR,
        move |f| handler.on_interrupt(f),
    )?;
    let violations = sim.host().counters().violations;
    Ok((report, violations))
}

/// Finds the host as a kernel would, gives it the interrupts, does the job.
fn run<P: Platform + 'static, G: Gate + 'static>(
    job: &Job,
    platform: P,
    gate: G,
    vector: u8,
    on_interrupt: impl FnOnce(Box<dyn Fn() + Send + Sync>),
) -> Result<Report, String>
where
    Host<P, G>: Send + Sync,
{
    let host = Host::find(platform, gate, vector).map_err(said)?;
    let host = Arc::new(host);
    let weak = Arc::downgrade(&host);
    on_interrupt(Box::new(move || {
        if let Some(host) = weak.upgrade() {
            host.on_interrupt();
        }
    }));
    Ok(live::run(&host, job, &mut |line| println!("{line}")))
}

fn said(error: impl Display) -> String {
    error.to_string()
}

/// Does what the command line says, and holds the host's complaints about the guest against it.
fn follow(host: &str, disk: &Path, command_line: &str) -> Report {
    let job = match jobs::parse(command_line, &mut |line| println!("{line}")) {
        Ok(job) => job,
        Err(report) => return *report,
    };
    let opened =
        FileDisk::open(disk, false).map_err(|error| format!("{}: {error}", disk.display()));
    let done = opened.and_then(|disk| match host {
        "xen" => xen(&job, disk),
        "hyperv" => hyperv(&job, disk),
        other => Err(format!(
            "there is no simulated {other}, only xen and hyperv"
        )),
    });
    match done {
        Ok((mut report, complaints)) => {
            for complaint in &complaints {
                println!("the simulated host complains: {complaint}");
            }
            if let Some(complaint) = complaints.into_iter().next() {
                report.ok = false;
                report
                    .error
                    .get_or_insert(format!("the simulated host complains: {complaint}"));
            }
            report
        }
        Err(error) => Report::failure(job.name(), error),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, disk, command_line] = arguments.as_slice() else {
        eprintln!("usage: simulated xen|hyperv DISK COMMAND_LINE");
        return ExitCode::FAILURE;
    };
    println!("{}", follow(host, Path::new(disk), command_line));
    ExitCode::SUCCESS
}
