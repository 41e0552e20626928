//! Xenstore and the Xen bus over the simulated host.

mod devices;
mod store;

use hypercall::bus::{Bus, BusEvent, Class, Device as _};
use hypercall::platform::Platform as _;
use hypercall::shm::{Access, Pages};
use hypercall::{HostFault, Hypervisor};
use pv_tests::disk::MemDisk;
use pv_tests::sim_xen::{Platform, SimDriver, SimXen};
use pv_tests::xen::hostile::{Plan, StoreMischief, Strike};
use pv_tests::xen::pair::Leftover;
use pv_tests::xen::xenbus::VbdSpec;
use pv_tests::xen::xenstored::StoreHabits;
use std::collections::BTreeSet;
use xenbus::{
    Config, ConnectError, Device, FrontendError, Kind, State, StoreError, Watched, XenBus, XsError,
};

const SECOND: u64 = 1_000_000_000;

type SimBus<'h> = XenBus<'h, Platform, SimXen>;

fn connect(xen: &SimDriver) -> SimBus<'_> {
    XenBus::connect(xen, Config::default()).expect("a willing host")
}

fn disk(name: &str) -> VbdSpec {
    VbdSpec::new(name, Box::new(MemDisk::new(2048, 512)))
}

fn vbd(id: u32) -> Device {
    Device {
        kind: Kind::Vbd,
        id,
    }
}

/// Every event that is there, once the host has come to rest.
fn events(sim: &SimXen, bus: &SimBus<'_>) -> Vec<BusEvent<Device>> {
    let mut events = Vec::new();
    for _ in 0..20 {
        sim.settle();
        while let Some(event) = bus.poll().expect("a sound bus") {
            events.push(event);
        }
    }
    events
}

fn odd_habits() -> StoreHabits {
    StoreHabits {
        partial_writes: true,
        reorder: true,
        spurious_watches: true,
        ring_start: 0xffff_ff00,
        ..StoreHabits::default()
    }
}

/// Publishes a ring as a block front end does; the memory lent for it.
fn ring(
    xen: &SimDriver,
    frontend: &xenbus::Frontend<'_, '_, Platform, SimXen>,
) -> hypercall::shm::Lent<Platform> {
    let page = Pages::alloc(xen.platform(), 1).unwrap();
    // Both sides' events at 1, as an empty ring has them.
    page.first().store_u32::<4>(1);
    page.first().store_u32::<12>(1);
    let lent = xen
        .share(page, frontend.backend_domid(), Access::ReadWrite)
        .unwrap();
    let port = xen.alloc_unbound(frontend.backend_domid()).unwrap();
    frontend
        .publish(&[
            ("ring-ref", &lent.grant().unwrap()),
            ("event-channel", &port),
            ("protocol", &"x86_64-abi"),
            ("feature-persistent", &0),
        ])
        .unwrap();
    frontend.set_state(State::Initialised).unwrap();
    lent
}
