//! The lab over simulated Xen.

use super::lab::{Counts, Lab, Setup};
use crate::disk::{Latency, MemDisk};
use crate::sim_xen::{SimDriver, SimXen};
use crate::xen::blkback::BlkHabits;
use crate::xen::xenbus::VbdSpec;
use blkfront::blkif::{Blkif, Config};
use blkfront::{Block, Queue};
use hypercall::Hypervisor;
use hypercall::bus::{Bus, BusEvent};
use std::sync::{Arc, Mutex, PoisonError};
use xenbus::XenBus;

/// `EVTCHNOP_send` of `event_channel_op`.
const SEND: (u32, u64) = (32, 4);

/// A simulated Xen host with one disk, `xvda`.
#[derive(Clone)]
pub struct XenLab {
    sim: SimXen,
    disk: Arc<Mutex<MemDisk>>,
    device: u32,
    driver: Arc<Mutex<Option<Arc<SimDriver>>>>,
}

impl XenLab {
    /// The machine, to look at and to set knobs of.
    pub fn sim(&self) -> &SimXen {
        &self.sim
    }

    /// The virtual device number of the disk.
    pub fn device(&self) -> u32 {
        self.device
    }
}

impl Lab for XenLab {
    fn new(setup: Setup) -> Self {
        let sim = SimXen::new(super::lab::RAM_PAGES, |config| {
            config.seed = setup.shuffle.unwrap_or(0)
        });
        let own = u64::from(setup.sector_size / 512);
        let mut disk = MemDisk::new(setup.sectors / own, setup.sector_size);
        disk.set_read_only(setup.read_only);
        let disk = Arc::new(Mutex::new(disk));
        let mut habits = BlkHabits::default();
        if setup.shuffle.is_some() {
            habits.latency = Latency {
                min_steps: 0,
                max_steps: 20,
                out_of_order: true,
            };
        }
        let spec = VbdSpec::new("xvda", Box::new(disk.clone())).habits(habits);
        let device = sim.host().attach_disk(spec).expect("a disk's name");
        Self {
            sim,
            disk,
            device,
            driver: Arc::default(),
        }
    }

    fn disk(&self) -> Arc<Mutex<MemDisk>> {
        self.disk.clone()
    }

    fn run<R>(&self, f: impl FnOnce(&mut dyn Block) -> R) -> R {
        let xen = self.sim.start();
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(xen.clone());
        let result = {
            let bus = XenBus::connect(&*xen, xenbus::Config::default()).expect("a xenstore");
            bus.wait_devices(1_000_000_000).expect("a list of devices");
            let Ok(Some(BusEvent::Offered(device))) = bus.poll() else {
                panic!("no disk was offered");
            };
            let before = self.sim.ram().used_pages();
            let mut config = Config::default();
            config.pool_pages = super::lab::POOL_PAGES;
            let blkif = Blkif::connect(&bus, &device, config).expect("a disk that connects");
            let mut queue = Queue::new(blkif);
            let result = f(&mut queue);
            if queue.close().is_ok() {
                assert!(
                    queue.transport_mut().release_pool(),
                    "a buffer is still out"
                );
                assert_eq!(self.sim.ram().used_pages(), before, "pages leaked");
            }
            result
        };
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = None;
        result
    }

    fn stall(&self, stall: bool) {
        self.sim.host().stall_disk(self.device, stall);
    }

    fn unplug(&self) {
        self.sim.host().detach_disk(self.device);
    }

    fn step(&self) -> bool {
        let stepped = self.sim.host().step();
        self.sim.deliver() || stepped
    }

    fn counts(&self) -> Counts {
        let counters = self.sim.host().counters();
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        let own = driver
            .as_ref()
            .map(|xen| xen.counters())
            .unwrap_or_default();
        Counts {
            hypercalls: counters.hypercalls_total(),
            signals: counters.command(SEND.0, SEND.1),
            interrupts: counters.interrupts,
            grants: own.pages_lent + own.pages_reclaimed,
        }
    }

    fn violations(&self) -> Vec<String> {
        let host = self.sim.host();
        host.complaints().iter().map(|c| format!("{c:?}")).collect()
    }
}
