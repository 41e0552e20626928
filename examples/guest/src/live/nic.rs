//! The network interface of a host, through unplugging and plugging in.

use alloc::string::{String, ToString};

use pv_drivers::hypercall::bus::{Bus as _, BusEvent, Class, Device as _};
use pv_drivers::netfront::Config;
use pv_drivers::{Bus, Device, Gate, HostFault, Net, NetDevice, Platform};

use crate::nic::Nic;

/// Nanoseconds between attempts to connect an interface anew.
const RETRY: u64 = 200_000_000;
/// Events of the bus that are looked at in one go.
const EVENTS: usize = 64;

/// The first network interface of a host.
pub struct LiveNic<'b, 'h, P: Platform, G: Gate> {
    bus: &'b Bus<'h, P, G>,
    platform: P,
    config: Config,
    name: String,
    /// The device it is, or was.
    device: Option<Device>,
    /// What the bus offered since: a bus may say so before it says that the old one is gone.
    offered: Option<Device>,
    net: Option<NetDevice<'b, 'h, P, G>>,
    next_try: u64,
    /// The last reason why there is none.
    pub trouble: Option<String>,
}

impl<'b, 'h, P: Platform, G: Gate> LiveNic<'b, 'h, P, G> {
    /// An interface that is yet to be opened, if it was offered already, with so many queue pairs.
    pub fn new(bus: &'b Bus<'h, P, G>, platform: P, device: Option<Device>, queues: u16) -> Self {
        let mut config = Config::default();
        config.queues = queues;
        Self {
            config,
            bus,
            platform,
            name: device.as_ref().map(ToString::to_string).unwrap_or_default(),
            device,
            offered: None,
            net: None,
            next_try: 0,
            trouble: None,
        }
    }

    /// Lets go of the interface and of its memory, as far as the host lets go of it too.
    pub fn shut(&mut self) -> Result<(), String> {
        let Some(mut net) = self.net.take() else {
            return Ok(());
        };
        let closed = net.close().map_err(|fault| fault.to_string());
        if net.release() || closed.is_err() {
            closed
        } else {
            Err("frames are still out".into())
        }
    }

    /// Takes note of what came and went.
    fn look(&mut self) {
        for _ in 0..EVENTS {
            match self.bus.poll() {
                Ok(Some(BusEvent::Offered(device))) if device.class() == Class::Net => {
                    self.offered = Some(device);
                    self.next_try = 0;
                }
                Ok(Some(BusEvent::Gone(gone))) => {
                    let gone = gone.to_string();
                    let is_gone = |device: &Option<Device>| {
                        device.as_ref().is_some_and(|d| d.to_string() == gone)
                    };
                    if is_gone(&self.offered) {
                        self.offered = None;
                    }
                    if is_gone(&self.device) {
                        self.device = None;
                        self.trouble = self.shut().err();
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn works(&self) -> bool {
        self.net.as_ref().is_some_and(|net| net.fault().is_none())
    }
}

impl<P: Platform, G: Gate> Nic for LiveNic<'_, '_, P, G> {
    fn name(&self) -> &str {
        &self.name
    }

    fn net(&mut self) -> Option<&mut dyn Net> {
        match &mut self.net {
            Some(net) => Some(net),
            None => None,
        }
    }

    fn revive(&mut self) -> bool {
        self.look();
        if self.works() {
            return true;
        }
        let now = self.platform.now();
        if now < self.next_try {
            return false;
        }
        self.next_try = now.saturating_add(RETRY);
        if let Some(net) = &mut self.net {
            // One that was taken away is let go: only then may the bus say what became of it.
            let withdrawn = net.fault() == Some(HostFault::Withdrawn);
            if !withdrawn && net.reconnect().is_ok() {
                return self.works();
            }
            self.trouble = self.shut().err();
            self.look();
        }
        if let Some(device) = self.offered.take() {
            self.name = device.to_string();
            self.device = Some(device);
        }
        let Some(device) = self.device.clone() else {
            return false;
        };
        match self.bus.open_net(&device, self.config) {
            Ok(net) => self.net = Some(net),
            Err(error) => self.trouble = Some(error.to_string()),
        }
        self.works()
    }

    fn wait(&mut self, until: u64) {
        let token = self.platform.wait_token();
        self.platform
            .wait(token, until.min(self.next_try.max(self.now())));
    }

    fn now(&self) -> u64 {
        self.platform.now()
    }
}
