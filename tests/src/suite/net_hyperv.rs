//! The net lab over simulated Hyper-V.

use super::lab::Counts;
use super::net_lab::{NET_RAM_PAGES, NetLab, NetSetup};
use crate::disk::Latency;
use crate::hyperv::netvsp::offload::{Checksums, Offloads as HostOffloads};
use crate::hyperv::netvsp::{Netvsp, NetvspConfig, TableForm};
use crate::hyperv::vmbus_server::DeviceId;
use crate::net::samples::Flow;
use crate::net::{Cable, cable};
use crate::sim_hyperv::{SimDriver, SimHyperV};
use hypercall::Hypervisor;
use hypercall::bus::{Bus, BusEvent};
use netfront::netvsc::{ConnectError, Netvsc};
use netfront::{Config, Net, NetQueue, Offloads};
use std::sync::{Arc, Mutex, PoisonError};
use vmbus::VmBus;

/// `HvSignalEvent`.
const SIGNAL_EVENT: u16 = 0x5d;
/// The largest packet that a test has, in bytes.
const LARGEST_MTU: u16 = 9000;
/// Bytes of an Ethernet header.
const ETHERNET: u32 = 14;

/// A simulated Hyper-V host with one network adapter.
#[derive(Clone)]
pub struct HyperVNetLab {
    sim: SimHyperV,
    setup: NetSetup,
    mac: [u8; 6],
    adapter: DeviceId,
    line: Cable,
    driver: Arc<Mutex<Option<Arc<SimDriver>>>>,
}

/// The driver over simulated Hyper-V.
pub type SimNetvsc<'b, 'h> = Netvsc<'b, 'h, crate::sim_hyperv::Platform, SimHyperV>;

/// What the host does, in its own terms.
fn offloads(offered: Offloads) -> HostOffloads {
    let checksums = Checksums {
        ip: true,
        tcp4: offered.contains(Offloads::CHECKSUM_TCP_V4),
        udp4: offered.contains(Offloads::CHECKSUM_UDP_V4),
        tcp6: offered.contains(Offloads::CHECKSUM_TCP_V6),
        udp6: offered.contains(Offloads::CHECKSUM_UDP_V6),
    };
    HostOffloads {
        tx: checksums,
        rx: checksums,
        large_send_v4: offered.contains(Offloads::SEGMENT_V4),
        large_send_v6: offered.contains(Offloads::SEGMENT_V6),
    }
}

impl HyperVNetLab {
    /// A machine whose adapter is another than the setup asks for.
    pub fn with_adapter(setup: NetSetup, change: impl FnOnce(&mut NetvspConfig)) -> Self {
        Self::with_memory(NET_RAM_PAGES, setup, change)
    }

    /// The same with so many pages of memory.
    pub fn with_memory(
        pages: usize,
        setup: NetSetup,
        change: impl FnOnce(&mut NetvspConfig),
    ) -> Self {
        let sim = SimHyperV::new(pages, |config| config.shuffle = setup.shuffle);
        let mut config = NetvspConfig {
            // Whom the suite's frames are for: others do not pass the filter.
            mac: Flow::tcp4().to,
            max_frame: u32::from(setup.mtu) + ETHERNET,
            queues: setup.queues,
            offloads: offloads(setup.offered),
            ..NetvspConfig::default()
        };
        if let Some(seed) = setup.shuffle {
            config.seed = Some(seed);
            config.latency = Latency {
                min_steps: 0,
                max_steps: 50,
                out_of_order: true,
            };
            config.batch = [1, 2, 16, 375][seed as usize % 4];
            config.whole_section = seed & 4 != 0;
            config.data_at = if seed & 8 != 0 { 256 } else { 100 };
            config.tell_hash = seed & 16 != 0;
            config.table = if seed & 32 != 0 {
                TableForm::Apart
            } else {
                TableForm::Behind
            };
        }
        change(&mut config);
        let (near, line) = cable();
        let mac = config.mac;
        let adapter = sim
            .host()
            .bus
            .add(Box::new(Netvsp::new(config, Box::new(near))));
        Self {
            sim,
            setup,
            mac,
            adapter,
            line,
            driver: Arc::default(),
        }
    }

    /// The machine, to look at and to set knobs of.
    pub fn sim(&self) -> &SimHyperV {
        &self.sim
    }

    /// Looks at the adapter or sets its knobs.
    pub fn adapter<R>(&self, f: impl FnOnce(&mut Netvsp) -> R) -> R {
        let mut host = self.sim.host();
        f(host.bus.device_mut(self.adapter).expect("the adapter"))
    }

    /// Boots the guest, opens its interface and runs `f`; closes it and checks that every page it
    /// took was given back.
    pub fn run_netvsc<R>(&self, f: impl FnOnce(&mut SimNetvsc<'_, '_>) -> R) -> R {
        let mut config = self.setup.config();
        // The line's packets can only grow later as far as the guest asked for. An interface of
        // several queues asks for no more than the line has, so that both ways are tried.
        config.mtu = match self.setup.queues {
            1 if !cfg!(miri) => self.setup.mtu.max(LARGEST_MTU),
            _ => self.setup.mtu,
        };
        self.try_netvsc(config, |netvsc| {
            let netvsc = netvsc.unwrap_or_else(|why| panic!("an interface that connects: {why}"));
            f(netvsc)
        })
    }

    /// The same with what the driver is told, whether or not it connects.
    pub fn try_netvsc<R>(
        &self,
        config: Config,
        f: impl FnOnce(Result<&mut SimNetvsc<'_, '_>, ConnectError>) -> R,
    ) -> R {
        let hv = self.sim.start();
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(hv.clone());
        let result = {
            let bus = VmBus::connect(&*hv, vmbus::Config::default()).expect("a VMBus");
            bus.wait_offers(1_000_000_000).expect("a list of offers");
            let Ok(Some(BusEvent::Offered(offer))) = bus.poll() else {
                panic!("no adapter was offered");
            };
            let before = self.sim.ram().used_pages();
            match Netvsc::connect(&bus, &offer, config) {
                Err(why) => {
                    assert_eq!(self.sim.ram().used_pages(), before, "pages leaked: {why}");
                    f(Err(why))
                }
                Ok(mut netvsc) => {
                    let result = f(Ok(&mut netvsc));
                    if netvsc.close().is_ok() {
                        assert_eq!(netvsc.buffers_out(), 0, "frames are still out");
                        assert!(netvsc.release(), "a pool is still in use");
                        assert_eq!(self.sim.ram().used_pages(), before, "pages leaked");
                    }
                    result
                }
            }
        };
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = None;
        result
    }
}

impl NetLab for HyperVNetLab {
    fn new(setup: NetSetup) -> Self {
        Self::with_adapter(setup, |_| {})
    }

    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn line(&self) -> Cable {
        self.line.clone()
    }

    fn run<R>(&self, f: impl FnOnce(&mut dyn Net) -> R) -> R {
        self.run_netvsc(|netvsc| f(netvsc))
    }

    fn run_queues<R>(&self, f: impl FnOnce(Vec<&mut dyn NetQueue>) -> R) -> R {
        self.run_netvsc(|netvsc| {
            let queues = netvsc.queues().iter_mut();
            f(queues.map(|queue| queue as &mut dyn NetQueue).collect())
        })
    }

    fn stall(&self, stall: bool) {
        self.adapter(|adapter| adapter.stall(stall));
    }

    fn unplug(&self) {
        self.sim.host().bus.rescind(self.adapter);
    }

    fn replug(&self) {
        self.sim.host().bus.offer_again(self.adapter);
        // An offer is on its way for a while; a guest that asks before it came finds nothing.
        self.sim.settle();
    }

    fn set_link(&self, up: bool) {
        self.adapter(|adapter| adapter.set_link(up));
    }

    fn set_mtu(&self, mtu: u16) -> bool {
        self.adapter(|adapter| adapter.set_max_frame(u32::from(mtu) + ETHERNET))
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
            hypercalls: counters.all_hypercalls(),
            signals: counters.hypercalls.get(&SIGNAL_EVENT).copied().unwrap_or(0),
            interrupts: counters.interrupts,
            grants: own.pages_lent + own.pages_reclaimed,
        }
    }

    fn violations(&self) -> Vec<String> {
        self.sim.host().counters().violations
    }
}
