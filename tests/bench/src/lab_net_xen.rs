//! The net lab over simulated Xen.

use super::lab::Counts;
use super::net_lab::{NET_RAM_PAGES, NetLab, NetSetup};
use crate::disk::Latency;
use crate::net::{Cable, cable};
use crate::sim_xen::{SimDriver, SimXen};
use crate::xen::netback::NetHabits;
use crate::xen::vif::VifSpec;
use hypercall::Hypervisor;
use hypercall::bus::{Bus, BusEvent};
use netfront::netif::Netif;
use netfront::{Net, NetQueue, Offloads};
use std::sync::{Arc, Mutex, PoisonError};
use xenbus::XenBus;

/// `EVTCHNOP_send` of `event_channel_op`.
const SEND: (u32, u64) = (32, 4);
const MAC: [u8; 6] = [0, 0x16, 0x3e, 0xaa, 0xbb, 0xcc];

/// A simulated Xen host with one interface, `vif` 0.
#[derive(Clone)]
pub struct XenNetLab {
    sim: SimXen,
    setup: NetSetup,
    habits: NetHabits,
    /// Behind the interface, and the test's end.
    line: (Cable, Cable),
    driver: Arc<Mutex<Option<Arc<SimDriver>>>>,
}

/// The driver over simulated Xen.
type SimNetif<'b, 'h> = Netif<'b, 'h, crate::sim_xen::Platform, SimXen>;

impl XenNetLab {
    /// A machine whose back end has other habits than the setup asks for.
    pub fn with_habits(setup: NetSetup, change: impl FnOnce(&mut NetHabits)) -> Self {
        let sim = SimXen::new(NET_RAM_PAGES, |config| {
            config.seed = setup.shuffle.unwrap_or(0)
        });
        let offered = |offload| setup.offered.intersects(offload);
        let mut habits = NetHabits {
            checksum_v4: offered(super::net::V4),
            checksum_v6: offered(super::net::V6),
            gso_tcpv4: offered(Offloads::SEGMENT_V4),
            gso_tcpv6: offered(Offloads::SEGMENT_V6),
            max_queues: Some(setup.queues.into()),
            ..NetHabits::default()
        };
        if let Some(seed) = setup.shuffle {
            habits.latency = Latency {
                min_steps: 0,
                max_steps: 20,
                out_of_order: true,
            };
            habits.scattered_answers = seed & 1 != 0;
            habits.rx_piecemeal = seed & 2 != 0;
            habits.lazy_events = seed & 4 != 0;
            habits.split_event_channels = seed & 8 != 0;
            habits.mac_in_back_end = seed & 16 != 0;
            habits.rx_minimum = if seed & 32 != 0 { 18 } else { 1 };
            habits.rx_offset = if seed & 64 != 0 { 256 } else { 0 };
        }
        change(&mut habits);
        let lab = Self {
            sim,
            setup,
            habits,
            line: cable(),
            driver: Arc::default(),
        };
        lab.replug();
        lab
    }

    /// The machine, to look at and to set knobs of.
    pub fn sim(&self) -> &SimXen {
        &self.sim
    }

    /// Boots the guest, opens its interface and runs `f`; closes it and checks that every page it
    /// took was given back.
    pub fn run_netif<R>(&self, f: impl FnOnce(&mut SimNetif<'_, '_>) -> R) -> R {
        let xen = self.sim.start();
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(xen.clone());
        let result = {
            let bus = XenBus::connect(&*xen, xenbus::Config::default()).expect("a xenstore");
            bus.wait_devices(1_000_000_000).expect("a list of devices");
            let Ok(Some(BusEvent::Offered(device))) = bus.poll() else {
                panic!("no interface was offered");
            };
            // Frames of the grant table stay when it has grown.
            let own_pages = || {
                let table = self.sim.host().grants().frames() as usize;
                self.sim.ram().used_pages() - table
            };
            let before = own_pages();
            let mut netif = Netif::connect(&bus, &device, self.setup.config())
                .expect("an interface that connects");
            let result = f(&mut netif);
            if netif.close().is_ok() {
                assert_eq!(netif.buffers_out(), 0, "frames are still out");
                assert!(netif.release(), "a pool is still in use");
                assert_eq!(own_pages(), before, "pages leaked");
            }
            result
        };
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = None;
        result
    }
}

impl NetLab for XenNetLab {
    fn new(setup: NetSetup) -> Self {
        Self::with_habits(setup, |_| {})
    }

    fn mac(&self) -> [u8; 6] {
        MAC
    }

    fn line(&self) -> Cable {
        self.line.1.clone()
    }

    fn run<R>(&self, f: impl FnOnce(&mut dyn Net) -> R) -> R {
        self.run_netif(|netif| f(netif))
    }

    fn run_queues<R>(&self, f: impl FnOnce(Vec<&mut dyn NetQueue>) -> R) -> R {
        self.run_netif(|netif| {
            let queues = netif.queues().iter_mut();
            f(queues.map(|queue| queue as &mut dyn NetQueue).collect())
        })
    }

    fn stall(&self, stall: bool) {
        self.sim.host().stall_nic(0, stall);
    }

    fn unplug(&self) {
        self.sim.host().detach_nic(0);
    }

    fn replug(&self) {
        let mut host = self.sim.host();
        host.destroy_nic(0);
        host.attach_nic(VifSpec {
            mac: MAC,
            mtu: self.setup.mtu,
            ..VifSpec::new(Box::new(self.line.0.clone())).habits(self.habits)
        });
    }

    fn set_link(&self, up: bool) {
        self.sim.host().set_link(0, up);
    }

    fn set_mtu(&self, mtu: u16) -> bool {
        self.sim.host().set_mtu(0, mtu);
        true
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
