//! `simulated HOST DISK COMMAND_LINE [PORT]`: what the guest kernel does on a machine, in this process over a
//! simulated host. The same drivers, the same jobs, the same last line; HOST is `xen` or `hyperv`, and
//! DISK is a raw image or a fixed VHD. A job for the network has a network of its own, whose router is this
//! machine: connections to PORT of the loopback reach the guest's web server, and a server that the job is to
//! fetch from is found at 10.0.2.2.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use guest::command_line::{Fetch, Job};
use guest::report::Report;
use guest::{jobs, live};
use hypercall::shm::hosted::Hosted;
use pv_drivers::{Gate, Host, Hypervisor, Platform};
use pv_tests::disk::FileDisk;
use pv_tests::hyperv::netvsp::{Netvsp, NetvspConfig};
use pv_tests::hyperv::scsi::Lun;
use pv_tests::hyperv::storvsp::{Address, Storvsp, StorvspConfig};
use pv_tests::net::gateway::{Gateway, Paced, ROUTER};
use pv_tests::sim_hyperv::{self, SimHyperV};
use pv_tests::sim_xen::{self, SimXen};
use pv_tests::xen::vif::VifSpec;
use pv_tests::xen::xenbus::VbdSpec;

/// Pages of each machine.
const MEMORY: usize = 8192;

/// Where a guest's web server listens.
const HTTP: u16 = 80;

/// The network of a job, if it is one for the network.
fn network(job: &Job, port: Option<u16>) -> Result<Option<Gateway>, String> {
    if job.network().is_none() {
        return Ok(None);
    }
    let gateway = Gateway::new();
    if let Some(port) = port {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .map_err(|error| format!("port {port}: {error}"))?;
        gateway.forward(listener, HTTP).map_err(said)?;
    }
    if let Job::Fetch(Fetch { url: Some(url), .. }) = job
        && url.host == ROUTER
    {
        gateway.allow(url.port);
    }
    Ok(Some(gateway))
}

/// Simulated Xen, with the disk as `xvda`.
fn xen(
    job: &Job,
    disk: FileDisk,
    network: Option<Gateway>,
) -> Result<(Report, Vec<String>), String> {
    let sim = SimXen::new(MEMORY, |_| {});
    let spec = VbdSpec::new("xvda", Box::new(disk));
    sim.host()
        .attach_disk(spec)
        .ok_or("the simulated Xen takes no such disk")?;
    let handler = sim.clone();
    let interrupts = move |f: Handler| handler.on_interrupt(f);
    let (gate, vector) = (sim.clone(), sim_xen::VECTOR);
    let report = match network {
        Some(gateway) => {
            sim.host()
                .attach_nic(VifSpec::new(Box::new(gateway.port())));
            let paced = Hosted::new(sim.ram().clone(), Paced::new(sim.clone(), gateway));
            run(job, paced, gate, vector, interrupts)?
        }
        None => run(job, sim.platform(), gate, vector, interrupts)?,
    };
    let complaints = sim
        .host()
        .complaints()
        .iter()
        .map(|c| format!("{c:?}"))
        .collect();
    Ok((report, complaints))
}

/// Simulated Hyper-V, with the disk as LUN 0 of a SCSI controller.
fn hyperv(
    job: &Job,
    disk: FileDisk,
    network: Option<Gateway>,
) -> Result<(Report, Vec<String>), String> {
    let sim = SimHyperV::new(MEMORY, |_| {});
    let mut scsi = Storvsp::new(StorvspConfig::default());
    scsi.attach(Address::lun(0), Lun::disk(Box::new(disk), 1));
    sim.host().bus.add(Box::new(scsi));
    let handler = sim.clone();
    let interrupts = move |f: Handler| handler.on_interrupt(f);
    let (gate, vector) = (sim.clone(), sim_hyperv::VECTOR);
    let report = match network {
        Some(gateway) => {
            let adapter = Netvsp::new(NetvspConfig::default(), Box::new(gateway.port()));
            sim.host().bus.add(Box::new(adapter));
            let paced = Hosted::new(sim.ram().clone(), Paced::new(sim.clone(), gateway));
            run(job, paced, gate, vector, interrupts)?
        }
        None => run(job, sim.platform(), gate, vector, interrupts)?,
    };
    let violations = sim.host().counters().violations;
    Ok((report, violations))
}

/// What runs when the host interrupts.
type Handler = Box<dyn Fn() + Send + Sync>;

/// Finds the host as a kernel would, gives it the interrupts, does the job.
fn run<P: Platform + 'static, G: Gate + 'static>(
    job: &Job,
    platform: P,
    gate: G,
    vector: u8,
    on_interrupt: impl FnOnce(Handler),
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
fn follow(host: &str, disk: &Path, command_line: &str, port: Option<u16>) -> Report {
    let job = match jobs::parse(command_line, &mut |line| println!("{line}")) {
        Ok(job) => job,
        Err(report) => return *report,
    };
    let opened =
        FileDisk::open(disk, false).map_err(|error| format!("{}: {error}", disk.display()));
    let done = opened.and_then(|disk| {
        let network = network(&job, port)?;
        match host {
            "xen" => xen(&job, disk, network),
            "hyperv" => hyperv(&job, disk, network),
            other => Err(format!(
                "there is no simulated {other}, only xen and hyperv"
            )),
        }
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
    let (first, port) = match arguments.split_at_checked(3) {
        Some((first, [])) => (first, Ok(None)),
        Some((first, [port])) => (first, port.parse().map(Some)),
        _ => (&[][..], Ok(None)),
    };
    let ([host, disk, command_line], Ok(port)) = (first, port) else {
        eprintln!("usage: simulated xen|hyperv DISK COMMAND_LINE [PORT]");
        return ExitCode::FAILURE;
    };
    println!("{}", follow(host, Path::new(disk), command_line, port));
    ExitCode::SUCCESS
}
