//! The simulated hosts, brought up to where a device's driver starts.

use crate::Counted;
use crate::count::outside;
use hypercall::bus::{Bus, BusEvent};
use hypercall::detect::{Detected, detect};
use hypercall::gate::{Gate, HvCall, HvGet, HvSet, XenCall};
use hypercall::host::Hypervisor;
use hypercall::hyperv::HyperV;
use hypercall::xen::Xen;
use pv_tests::sim_hyperv::{self, SimHyperV};
use pv_tests::sim_xen::{self, SimXen};
use vmbus::{Offer, VmBus};
use xenbus::{Device, XenBus};

/// Pages of a machine.
const PAGES: usize = 1024;
/// How long buses may take to say what there is, in simulated nanoseconds.
const TIMEOUT: u64 = 1_000_000_000;

/// A gate behind which nothing is counted: what is there is the host's.
#[derive(Clone)]
pub struct Quiet<G>(G);

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

/// What drivers see of the hosts here.
pub type XenHere = Xen<sim_xen::Platform, Quiet<SimXen>>;
pub type HyperVHere = HyperV<sim_hyperv::Platform, Quiet<SimHyperV>>;
type XenBusHere = XenBus<'static, sim_xen::Platform, Quiet<SimXen>>;
type VmBusHere = VmBus<'static, sim_hyperv::Platform, Quiet<SimHyperV>>;

/// A machine: what it counts, and how its host gets to work.
pub trait Machine {
    fn counted(&self) -> Counted;
    fn settle(&self);
}

/// A machine on Xen.
pub struct OnXen {
    sim: SimXen,
    xen: &'static XenHere,
}

impl Machine for OnXen {
    fn counted(&self) -> Counted {
        counted(self.xen)
    }
    fn settle(&self) {
        self.sim.settle();
    }
}

/// A machine on Hyper-V.
pub struct OnHyperV {
    sim: SimHyperV,
    hv: &'static HyperVHere,
}

impl Machine for OnHyperV {
    fn counted(&self) -> Counted {
        counted(self.hv)
    }
    fn settle(&self) {
        self.sim.settle();
    }
}

fn counted(host: &impl Hypervisor) -> Counted {
    let counters = host.counters();
    Counted {
        hypercalls: counters.hypercalls,
        signals: counters.signals,
        interrupts: counters.interrupts,
        grants: counters.pages_lent + counters.pages_reclaimed,
        copied: 0,
    }
}

/// Runs `job` on a machine on Xen, with the first device that is there after `attach`.
pub fn on_xen<R>(
    attach: impl FnOnce(&SimXen),
    job: impl FnOnce(&OnXen, &XenBusHere, &Device) -> R,
) -> R {
    let sim = SimXen::new(PAGES, |_| {});
    attach(&sim);
    let Detected::Xen(leaves) = detect(&sim) else {
        panic!("the simulated host is Xen");
    };
    let gate = Quiet(sim.clone());
    let xen = Xen::new(sim.platform(), gate, leaves, sim_xen::VECTOR).expect("a host");
    let xen: &'static XenHere = Box::leak(Box::new(xen));
    sim.on_interrupt(move || xen.on_interrupt());
    let bus = XenBus::connect(xen, xenbus::Config::default()).expect("a bus");
    bus.wait_devices(TIMEOUT).expect("devices");
    let Ok(Some(BusEvent::Offered(device))) = bus.poll() else {
        panic!("the device was not offered");
    };
    job(&OnXen { sim, xen }, &bus, &device)
}

/// Runs `job` on a machine on Hyper-V, with the first device that is there after `attach`.
pub fn on_hyperv<R>(
    attach: impl FnOnce(&SimHyperV),
    job: impl FnOnce(&OnHyperV, &VmBusHere, &Offer) -> R,
) -> R {
    let sim = SimHyperV::new(PAGES, |_| {});
    attach(&sim);
    let Detected::HyperV(leaves) = detect(&sim) else {
        panic!("the simulated host is Hyper-V");
    };
    let gate = Quiet(sim.clone());
    let hv = HyperV::new(sim.platform(), gate, leaves, sim_hyperv::VECTOR).expect("a host");
    let hv: &'static HyperVHere = Box::leak(Box::new(hv));
    sim.on_interrupt(move || hv.on_interrupt());
    let bus = VmBus::connect(hv, vmbus::Config::default()).expect("a bus");
    bus.wait_offers(TIMEOUT).expect("offers");
    let Ok(Some(BusEvent::Offered(offer))) = bus.poll() else {
        panic!("the device was not offered");
    };
    job(&OnHyperV { sim, hv }, &bus, &offer)
}
