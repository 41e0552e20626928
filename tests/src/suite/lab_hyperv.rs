//! The lab over simulated Hyper-V.

use super::lab::{Counts, Lab, Setup};
use crate::disk::{Latency, MemDisk};
use crate::hyperv::scsi::Lun;
use crate::hyperv::storvsp::{Address, Storvsp, StorvspConfig};
use crate::hyperv::vmbus_server::DeviceId;
use crate::sim_hyperv::{SimDriver, SimHyperV};
use blkfront::storvsc::{Config, Storvsc};
use blkfront::{Block, Queue};
use hypercall::Hypervisor;
use hypercall::bus::{Bus, BusEvent};
use std::sync::{Arc, Mutex, PoisonError};
use vmbus::VmBus;

/// `HvSignalEvent`.
const SIGNAL_EVENT: u16 = 0x5d;

/// A simulated Hyper-V host with one SCSI controller and one disk on it.
#[derive(Clone)]
pub struct HyperVLab {
    sim: SimHyperV,
    disk: Arc<Mutex<MemDisk>>,
    controller: DeviceId,
    driver: Arc<Mutex<Option<Arc<SimDriver>>>>,
}

impl HyperVLab {
    /// The machine, to look at and to set knobs of.
    pub fn sim(&self) -> &SimHyperV {
        &self.sim
    }

    /// The SCSI controller on its bus.
    pub fn controller(&self) -> DeviceId {
        self.controller
    }
}

impl Lab for HyperVLab {
    fn new(setup: Setup) -> Self {
        let sim = SimHyperV::new(super::lab::RAM_PAGES, |config| {
            config.shuffle = setup.shuffle
        });
        let own = u64::from(setup.sector_size / 512);
        let mut disk = MemDisk::new(setup.sectors / own, setup.sector_size);
        disk.set_read_only(setup.read_only);
        let disk = Arc::new(Mutex::new(disk));
        let mut config = StorvspConfig::default();
        if let Some(seed) = setup.shuffle {
            config.seed = seed;
            config.latency = Latency {
                min_steps: 0,
                max_steps: 20,
                out_of_order: true,
            };
        }
        let mut scsi = Storvsp::new(config);
        scsi.attach(Address::lun(0), Lun::disk(Box::new(disk.clone()), 1));
        let controller = sim.host().bus.add(Box::new(scsi));
        Self {
            sim,
            disk,
            controller,
            driver: Arc::default(),
        }
    }

    fn disk(&self) -> Arc<Mutex<MemDisk>> {
        self.disk.clone()
    }

    fn run<R>(&self, f: impl FnOnce(&mut dyn Block) -> R) -> R {
        let hv = self.sim.start();
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(hv.clone());
        let result = {
            let bus = VmBus::connect(&*hv, vmbus::Config::default()).expect("a VMBus");
            bus.wait_offers(1_000_000_000).expect("a list of offers");
            let Ok(Some(BusEvent::Offered(offer))) = bus.poll() else {
                panic!("no controller was offered");
            };
            let before = self.sim.ram().used_pages();
            let mut config = Config::default();
            config.pool_pages = super::lab::POOL_PAGES;
            let storvsc =
                Storvsc::connect(&bus, &offer, config).expect("a controller that connects");
            let mut queue = Queue::new(storvsc);
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
        let mut host = self.sim.host();
        let scsi = host.bus.device_mut::<Storvsp>(self.controller);
        scsi.expect("the controller").stall(stall);
    }

    fn unplug(&self) {
        self.sim.host().bus.rescind(self.controller);
    }

    fn step(&self) -> bool {
        let stepped = self.sim.host().step();
        self.sim.deliver() || stepped
    }

    fn counts(&self) -> Counts {
        let counters = self.sim.host().counters();
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        let own = driver.as_ref().map(|hv| hv.counters()).unwrap_or_default();
        Counts {
            hypercalls: counters.hypercalls.values().sum(),
            signals: counters.hypercalls.get(&SIGNAL_EVENT).copied().unwrap_or(0),
            interrupts: counters.interrupts,
            grants: own.pages_lent + own.pages_reclaimed,
        }
    }

    fn violations(&self) -> Vec<String> {
        self.sim.host().counters().violations
    }
}
