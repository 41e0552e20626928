//! A job on a real host, or on a simulated one: bus, devices, disks and network through the drivers' front door.

mod nic;

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;

use pv_drivers::hypercall::bus::{Bus as _, BusEvent, Class, Device as _};
use pv_drivers::{Block, Bus, Device, Gate, Host, Hypervisor, Net as _, Platform};

use crate::command_line::Job;
use crate::jobs;
use crate::machine::{self, Machine, Parts};
use crate::nic::Nic;
use crate::queue_disk::{QueueDisk, Shared};
use crate::report::{self, Report};
use nic::LiveNic;

/// How long the host may take to list its devices, in nanoseconds.
const LISTING: u64 = 20_000_000_000;
/// More events than this at start are not waited for.
const MOST_EVENTS: usize = 256;

/// What prints a line.
pub type Say<'a> = &'a mut dyn FnMut(fmt::Arguments<'_>);

/// Brings the bus up, opens its disks, does the job, and lets go of the disks.
pub fn run<P: Platform + 'static, G: Gate>(host: &Host<P, G>, job: &Job, say: Say<'_>) -> Report {
    let identity = host.identity();
    let mut facts = machine::Host {
        kind: kind(host).into(),
        version: format!("{}.{}", identity.major, identity.minor),
        ..machine::Host::default()
    };
    let bus = match host.bus() {
        Ok(bus) => bus,
        Err(error) => return failure(&facts, job, &error, say),
    };
    facts.bus = bus.protocol().to_string();
    let devices = match list(&bus) {
        Ok(devices) => devices,
        Err(error) => return failure(&facts, job, &error, say),
    };
    facts.devices = devices
        .iter()
        .map(|d| format!("{d} ({})", d.class()))
        .collect();
    let net = |device: &&Device| device.class() == Class::Net;
    if matches!(job, Job::Tour) {
        for device in devices.iter().filter(net) {
            match look_at(&bus, device) {
                Ok(nic) => facts.nics.push(nic),
                Err(error) => say(format_args!("{device}: {error}")),
            }
        }
    }
    let nic = job.network().map(|network| {
        let device = devices.iter().find(net).cloned();
        LiveNic::new(&bus, host.platform().clone(), device, network.queues)
    });
    let mut queues: Vec<(Device, Shared<'_>)> = Vec::new();
    let mut trouble = None;
    for device in devices
        .iter()
        .filter(|device| device.class() == Class::Block)
    {
        match bus.open_block(device) {
            Ok(queue) => {
                let queue: Box<dyn Block + '_> = Box::new(queue);
                queues.push((device.clone(), Rc::new(RefCell::new(queue))));
            }
            Err(error) => {
                say(format_args!("{device}: {error}"));
                trouble = trouble.or(Some(format!("{device}: {error}")));
            }
        }
    }
    let mut disks = Vec::new();
    for (controller, (device, queue)) in queues.iter().enumerate() {
        disks.extend(QueueDisk::all(queue, |address| {
            name(device, controller, address)
        }));
    }
    let mut live = Live {
        facts,
        platform: host.platform().clone(),
        host,
        disks,
        nic,
        say,
    };
    let mut report = jobs::run(job, &mut live);
    if let Some(mut nic) = live.nic {
        // That there was none is the job's to say; here is why.
        if let (false, Some(why)) = (report.ok, nic.trouble.take()) {
            trouble = trouble.or(Some(format!("{}: {why}", nic.name())));
        }
        if let Err(why) = nic.shut() {
            trouble = trouble.or(Some(format!("closing {}: {why}", nic.name())));
        }
    }
    drop(live.disks);
    for (device, queue) in &queues {
        let closed = queue.try_borrow_mut().map(|mut queue| queue.close());
        if let Ok(Err(fault)) = closed {
            trouble = trouble.or(Some(format!("closing {device}: {fault}")));
        }
    }
    // A disk that could not be had is a failure even if the job was happy with the others.
    if let Some(trouble) = trouble {
        report.ok = false;
        report.error = report.error.or(Some(trouble));
    }
    report
}

/// What an interface says of itself.
fn look_at<P: Platform, G: Gate>(
    bus: &Bus<'_, P, G>,
    device: &Device,
) -> Result<report::Nic, String> {
    let config = pv_drivers::netfront::Config::default();
    let mut net = bus
        .open_net(device, config)
        .map_err(|error| error.to_string())?;
    let capabilities = *net.capabilities();
    let nic = report::Nic::of(&device.to_string(), &capabilities, capabilities.queues);
    net.close().map_err(|fault| fault.to_string())?;
    net.release();
    Ok(nic)
}

/// A run that did not get as far as its disks.
fn failure(facts: &machine::Host, job: &Job, error: &dyn fmt::Display, say: Say<'_>) -> Report {
    say(format_args!("error: {error}"));
    let mut report = Report::failure(job.name(), error);
    report.host.clone_from(&facts.kind);
    report.host_version.clone_from(&facts.version);
    report.bus.clone_from(&facts.bus);
    report
}

/// What is on the bus at start.
fn list<P: Platform, G: Gate>(bus: &Bus<'_, P, G>) -> Result<Vec<Device>, String> {
    let failed = |fault: &dyn fmt::Display| format!("listing the devices: {fault}");
    bus.wait_devices(LISTING).map_err(|error| failed(&error))?;
    let mut devices: Vec<Device> = Vec::new();
    for _ in 0..MOST_EVENTS {
        match bus.poll().map_err(|fault| failed(&fault))? {
            Some(BusEvent::Offered(device)) => devices.push(device),
            Some(BusEvent::Gone(gone)) => {
                let gone = gone.to_string();
                devices.retain(|device| device.to_string() != gone);
            }
            Some(_) => {}
            None => break,
        }
    }
    Ok(devices)
}

fn kind<P: Platform, G: Gate>(host: &Host<P, G>) -> &'static str {
    match host {
        Host::Xen(_) => "xen",
        Host::HyperV(_) => "hyperv",
        _ => "",
    }
}

/// What people call a disk: `xvda` on Xen, controller and unit on Hyper-V.
fn name(device: &Device, controller: usize, address: u32) -> String {
    const XVD: u32 = 202;
    match device {
        // xen/docs/man/xen-vbd-interface: major 202, sixteen minors a disk.
        Device::Xen(_) if address >> 8 == XVD => {
            let letter = u8::try_from((address >> 4) & 0xf).unwrap_or(0);
            format!("xvd{}", char::from(b'a'.saturating_add(letter)))
        }
        Device::Xen(_) => format!("vbd-{address}"),
        _ => format!("scsi{controller}:{address}"),
    }
}

/// A machine with a host's disks and network interface.
struct Live<'a, 'q, 'b, P: Platform, G: Gate> {
    facts: machine::Host,
    platform: P,
    host: &'a Host<P, G>,
    disks: Vec<QueueDisk<'q>>,
    nic: Option<LiveNic<'b, 'a, P, G>>,
    say: Say<'a>,
}

impl<'q, P: Platform + 'static, G: Gate> Machine for Live<'_, 'q, '_, P, G> {
    type Disk = QueueDisk<'q>;

    fn host(&self) -> &machine::Host {
        &self.facts
    }

    fn disks(&mut self) -> &mut [QueueDisk<'q>] {
        &mut self.disks
    }

    fn parts(&mut self) -> Parts<'_, QueueDisk<'q>> {
        Parts {
            disks: &mut self.disks,
            nic: self.nic.as_mut().map(|nic| nic as &mut dyn Nic),
            say: &mut *self.say,
        }
    }

    fn say(&mut self, line: fmt::Arguments<'_>) {
        (self.say)(line);
    }

    fn clock(&self) -> Box<dyn Fn() -> u64> {
        let platform = self.platform.clone();
        Box::new(move || platform.now())
    }

    fn interrupts(&self) -> u64 {
        self.host.counters().interrupts
    }
}
