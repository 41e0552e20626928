//! Simulated Xen with one disk, as a real one would serve it: xenstore, a ring, grants, event channels.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use blkfront::blkif::{Blkif, Config};
use blkfront::{Block, Queue};
use guest::command_line::Job;
use guest::jobs;
use guest::machine::Host;
use guest::queue_disk::QueueDisk;
use guest::report::Report;
use hypercall::Hypervisor;
use hypercall::bus::{Bus, BusEvent};
use hypercall::shm::hosted::Machine as _;
use pv_tests::disk::FileDisk;
use pv_tests::sim_xen::SimXen;
use pv_tests::xen::xenbus::VbdSpec;
use xenbus::XenBus;

use crate::Process;

/// Pages of the machine.
const MEMORY: usize = 4096;
/// Simulated nanoseconds to wait for the bus's first list of devices.
const PATIENCE: u64 = 5_000_000_000;

/// Does the job on it.
pub fn run(job: &Job, disk: &Path) -> Result<Report, String> {
    let backing =
        FileDisk::open(disk, false).map_err(|error| format!("{}: {error}", disk.display()))?;
    let sim = SimXen::new(MEMORY, |_| {});
    sim.host()
        .attach_disk(VbdSpec::new("xvda", Box::new(backing)))
        .ok_or("the simulated host takes no such disk")?;
    let xen = sim.start();
    let bus = XenBus::connect(&*xen, xenbus::Config::default())
        .map_err(|error| format!("xenbus: {error:?}"))?;
    bus.wait_devices(PATIENCE)
        .map_err(|error| format!("xenbus: {error:?}"))?;
    let mut devices = Vec::new();
    let mut disks = Vec::new();
    while let Ok(Some(event)) = bus.poll() {
        let BusEvent::Offered(device) = event else {
            continue;
        };
        devices.push(device.to_string());
        let blkif = Blkif::connect(&bus, &device, Config::default())
            .map_err(|error| format!("{device}: {error:?}"))?;
        let queue: Box<dyn Block + '_> = Box::new(Queue::new(blkif));
        disks.extend(QueueDisk::all(&Rc::new(RefCell::new(queue)), |_| {
            "xvda".into()
        }));
    }
    let host = Host {
        kind: "xen".into(),
        version: version(&xen.identity()),
        bus: "xenbus".into(),
        devices,
    };
    let waits = sim.clone();
    let mut machine = Process {
        host,
        disks,
        interrupts: Box::new(move || waits.wait_token()),
    };
    let mut report = jobs::run(job, &mut machine);
    drop(machine);
    for complaint in sim.host().complaints() {
        println!("the simulated host complains: {complaint:?}");
        report.ok = false;
        report
            .error
            .get_or_insert_with(|| format!("the simulated host complains: {complaint:?}"));
    }
    Ok(report)
}

fn version(identity: &hypercall::host::Identity) -> String {
    format!("{identity} (simulated)")
}
