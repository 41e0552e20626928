//! Our own back ends over the simulated hosts.

use crate::{Measure, measured, outside};
use blkfront::transport::Transport;
use blkfront::{Block, Buf, Queue, Request};
use hypercall::bus::{Bus, BusEvent};
use hypercall::gate::{Gate, HvCall, HvGet, HvSet, XenCall};
use hypercall::host::{Counters, Hypervisor};
use pv_tests::disk::MemDisk;
use pv_tests::sim_xen::SimXen;
use pv_tests::xen::xenbus::VbdSpec;
use std::time::Instant;

/// A gate whose host's instructions are not counted.
#[derive(Clone)]
struct Quiet<G>(G);

impl<G: Gate> Gate for Quiet<G> {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        outside(|| self.0.cpuid(leaf, subleaf))
    }
    fn ticks(&self) -> u64 {
        outside(|| self.0.ticks())
    }
    fn xen_call(&self, call: XenCall<'_>) -> i64 {
        outside(|| self.0.xen_call(call))
    }
    fn hv_call(&self, call: HvCall) -> u64 {
        outside(|| self.0.hv_call(call))
    }
    fn hv_get(&self, get: HvGet) -> u64 {
        outside(|| self.0.hv_get(get))
    }
    fn hv_set(&self, set: HvSet) {
        outside(|| self.0.hv_set(set));
    }
}

/// Reads 4 KiB blocks of a 2 MiB disk, `depth` at a time.
fn reads<T: Transport>(
    queue: &mut Queue<T>,
    depth: usize,
    batches: u64,
    counters: impl Fn() -> Counters,
    mut host: impl FnMut(),
) -> Measure {
    let mut bufs: Vec<Buf> = (0..depth)
        .map(|_| queue.alloc(4096).expect("the pool is large enough"))
        .collect();
    let mut spent = 0;
    // One batch to warm up: then nothing is done for the first time any more.
    let mut before = (counters(), queue.copied());
    for batch in 0..=batches {
        if batch == 1 {
            before = (counters(), queue.copied());
            spent = 0;
        }
        let start = Instant::now();
        measured(|| {
            let mut sector = 0;
            while let Some(buf) = bufs.pop() {
                queue.submit(Request::read(sector, buf)).expect("room");
                sector += 8;
            }
            queue.publish();
        });
        spent += start.elapsed().as_nanos() as u64;
        host();
        let start = Instant::now();
        let done = measured(|| {
            queue.poll(64, |done| {
                done.result.expect("the disk is sound");
                if let Some(buf) = done.buf {
                    bufs.push(buf);
                }
            })
        });
        spent += start.elapsed().as_nanos() as u64;
        assert_eq!(
            (done, bufs.len()),
            (depth, depth),
            "the host did not finish"
        );
    }
    let after = counters();
    Measure {
        requests: batches * depth as u64,
        hypercalls: after.hypercalls - before.0.hypercalls,
        signals: after.signals - before.0.signals,
        interrupts: after.interrupts - before.0.interrupts,
        grants: after.pages_lent - before.0.pages_lent + after.pages_reclaimed
            - before.0.pages_reclaimed,
        copied: queue.copied() - before.1,
        nanoseconds: spent,
    }
}

/// Xen's block interface.
pub fn blkif(depth: usize, batches: u64) -> Measure {
    use blkfront::blkif::{Blkif, Config};
    use hypercall::detect::{Detected, detect};
    use hypercall::xen::Xen;
    use pv_tests::sim_xen::VECTOR;

    let sim = SimXen::new(1024, |_| {});
    let spec = VbdSpec::new("xvda", Box::new(MemDisk::new(4096, 512)));
    sim.host().attach_disk(spec).expect("a disk's name");
    let Detected::Xen(leaves) = detect(&sim) else {
        panic!("the simulated host is Xen");
    };
    let xen = Xen::new(sim.platform(), Quiet(sim.clone()), leaves, VECTOR).expect("a host");
    let xen = &*Box::leak(Box::new(xen));
    sim.on_interrupt(move || xen.on_interrupt());
    let bus = xenbus::XenBus::connect(xen, xenbus::Config::default()).expect("a bus");
    bus.wait_devices(1_000_000_000).expect("devices");
    let Ok(Some(BusEvent::Offered(device))) = bus.poll() else {
        panic!("the disk was not offered");
    };
    let blkif = Blkif::connect(&bus, &device, Config::default()).expect("a disk");
    let mut queue = Queue::new(blkif);
    reads(
        &mut queue,
        depth,
        batches,
        || xen.counters(),
        || sim.settle(),
    )
}

/// Hyper-V's storage.
pub fn storvsc(depth: usize, batches: u64) -> Measure {
    use blkfront::storvsc::{Config, Storvsc};
    use hypercall::detect::{Detected, detect};
    use hypercall::hyperv::HyperV;
    use pv_tests::hyperv::scsi::Lun;
    use pv_tests::hyperv::storvsp::{Address, Storvsp, StorvspConfig};
    use pv_tests::sim_hyperv::{SimHyperV, VECTOR};

    let sim = SimHyperV::new(1024, |_| {});
    let mut scsi = Storvsp::new(StorvspConfig::default());
    let disk = Box::new(MemDisk::new(4096, 512));
    scsi.attach(Address::lun(0), Lun::disk(disk, 1));
    sim.host().bus.add(Box::new(scsi));
    let Detected::HyperV(leaves) = detect(&sim) else {
        panic!("the simulated host is Hyper-V");
    };
    let hv = HyperV::new(sim.platform(), Quiet(sim.clone()), leaves, VECTOR).expect("a host");
    let hv = &*Box::leak(Box::new(hv));
    sim.on_interrupt(move || hv.on_interrupt());
    let bus = vmbus::VmBus::connect(hv, vmbus::Config::default()).expect("a bus");
    bus.wait_offers(1_000_000_000).expect("offers");
    let Ok(Some(BusEvent::Offered(offer))) = bus.poll() else {
        panic!("the controller was not offered");
    };
    let storvsc = Storvsc::connect(&bus, &offer, Config::default()).expect("a controller");
    let mut queue = Queue::new(storvsc);
    reads(
        &mut queue,
        depth,
        batches,
        || hv.counters(),
        || sim.settle(),
    )
}
