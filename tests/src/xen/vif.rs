//! Virtual network interfaces in xenstore: what the toolstack creates and removes, and the back
//! end's half of the connection (`io/xenbus.h`, `io/netif.h`; habits of libxl and of Linux's
//! netback).

use super::abi::state::*;
use super::ledger::Complaint;
use super::netback::{NetBack, NetHabits, QueueKeys, Terms};
use super::site::Site;
use super::xenbus::Leftover;
use super::xenstored::Xenstored;
use crate::memory::GuestMemory;
use crate::net::{Port, Takes};

/// An interface to attach.
pub struct VifSpec {
    /// Its number: 0 for the guest's first.
    pub device: u32,
    pub mac: [u8; 6],
    /// The largest packet, in bytes.
    pub mtu: u16,
    /// What is behind it.
    pub line: Box<dyn Port>,
    pub habits: NetHabits,
    pub leftover: Leftover,
    /// The front end's `trusted` key.
    pub trusted: bool,
}

impl VifSpec {
    /// The first interface, for packets of 1500 bytes.
    pub fn new(line: Box<dyn Port>) -> Self {
        VifSpec {
            device: 0,
            mac: [0, 0x16, 0x3e, 0, 0, 1],
            mtu: 1500,
            line,
            habits: NetHabits::default(),
            leftover: Leftover::None,
            trusted: true,
        }
    }

    /// The same with other habits.
    pub fn habits(mut self, habits: NetHabits) -> Self {
        self.habits = habits;
        self
    }

    /// The same as an earlier owner left it.
    pub fn leftover(mut self, leftover: Leftover) -> Self {
        self.leftover = leftover;
        self
    }
}

/// One device: its two directories, its state, its back end.
#[derive(Debug)]
pub struct Vif {
    pub device: u32,
    pub front: String,
    pub back: String,
    pub net: NetBack,
    state: u32,
    mtu: u16,
    /// The front end's directory changed since the back end looked.
    attention: bool,
    /// The toolstack waits for Closed to remove the device.
    leaving: bool,
}

impl Vif {
    /// Creates both directories as libxl does, and the back end in its first state.
    pub fn create(store: &mut Xenstored, guest: u16, spec: VifSpec, seed: u64) -> Vif {
        let device = spec.device;
        let front = format!("/local/domain/{guest}/device/vif/{device}");
        let back = format!("/local/domain/0/backend/vif/{guest}/{device}");
        let habits = spec.habits;
        let mut vif = Vif {
            device,
            state: INITIALISING,
            mtu: spec.mtu,
            attention: true,
            leaving: false,
            net: NetBack::new(device, spec.line, habits, seed),
            front,
            back,
        };
        let (front, back) = (vif.front.clone(), vif.back.clone());
        store.write(&front, "");
        store.set_perms(&front, &[&format!("n{guest}"), "r0"]);
        store.write(&back, "");
        store.set_perms(&back, &["n0", &format!("r{guest}")]);
        let [a, b, c, d, e, f] = spec.mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let number = |value: u32| value.to_string();
        for (key, value) in [
            ("frontend", front.clone()),
            ("frontend-id", guest.to_string()),
            ("online", number(1)),
            ("state", number(INITIALISING)),
            ("script", "/etc/xen/scripts/vif-bridge".to_string()),
            ("mac", mac.clone()),
            ("bridge", "xenbr0".to_string()),
            ("handle", number(device)),
            ("type", "vif".to_string()),
        ] {
            store.write(&format!("{back}/{key}"), &value);
        }
        for (key, value) in [
            ("backend", back.clone()),
            ("backend-id", number(0)),
            ("state", number(INITIALISING)),
            ("handle", number(device)),
            ("trusted", number(spec.trusted.into())),
        ] {
            store.write(&format!("{front}/{key}"), &value);
        }
        if !habits.mac_in_back_end {
            store.write(&format!("{front}/mac"), &mac);
        }
        if habits.mtu_key {
            store.write(&format!("{front}/mtu"), &vif.mtu.to_string());
        }
        vif.leave_over(store, spec.leftover);
        vif
    }

    fn leave_over(&mut self, store: &mut Xenstored, leftover: Leftover) {
        let state = match leftover {
            Leftover::None => return,
            Leftover::Closed => CLOSED,
            Leftover::Connected => CONNECTED,
        };
        self.publish_features(store);
        let front = &self.front;
        for (key, value) in [
            ("tx-ring-ref", "8"),
            ("rx-ring-ref", "9"),
            ("event-channel", "3"),
            ("request-rx-copy", "1"),
            ("feature-rx-notify", "1"),
            // What the next owner may not want, or spells otherwise.
            ("feature-gso-tcpv4", "1"),
            ("feature-sg", "1"),
            ("multi-queue-num-queues", "1"),
        ] {
            store.write(&format!("{front}/{key}"), value);
        }
        store.write(&format!("{front}/state"), &state.to_string());
        self.attention = false;
        self.switch(store, state);
    }

    /// The back end's state.
    pub fn state(&self) -> u32 {
        self.state
    }

    /// Whether the toolstack has been told to remove the device.
    pub fn leaving(&self) -> bool {
        self.leaving
    }

    /// Notes a change in xenstore.
    pub fn path_changed(&mut self, path: &str) {
        let rest = path.strip_prefix(&self.front);
        self.attention |= rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    }

    /// `xl network-detach`: asks both ends to close; the directories go when the back end is
    /// Closed.
    pub fn detach(&mut self, store: &mut Xenstored) {
        store.write(&format!("{}/online", self.back), "0");
        self.leaving = true;
        self.switch(store, CLOSING);
    }

    /// The back end closes of its own accord and stays.
    pub fn close<M: GuestMemory>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>) {
        self.net.disconnect(site);
        self.switch(store, CLOSED);
    }

    /// Gives the rings up and removes both directories, at once.
    pub fn destroy<M: GuestMemory>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>) {
        self.net.disconnect(site);
        store.remove(&self.back.clone());
        store.remove(&self.front.clone());
    }

    /// Changes the largest packet, as the toolstack may at any time.
    pub fn set_mtu(&mut self, store: &mut Xenstored, mtu: u16) {
        self.mtu = mtu;
        self.net.largest_mtu = self.net.largest_mtu.max(mtu);
        store.write(&format!("{}/mtu", self.front), &mtu.to_string());
    }

    /// Takes the line down, or up again.
    pub fn set_link(&mut self, store: &mut Xenstored, up: bool) {
        self.net.link = up;
        store.write(
            &format!("{}/carrier", self.back),
            &u32::from(up).to_string(),
        );
    }

    fn switch(&mut self, store: &mut Xenstored, state: u32) {
        self.state = state;
        store.write(&format!("{}/state", self.back), &state.to_string());
    }

    /// Looks at the front end's state if it may have changed, and answers it. False if it has not.
    pub fn step<M: GuestMemory>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>) -> bool {
        if !std::mem::take(&mut self.attention) {
            return false;
        }
        if self.state == INITIALISING {
            store.write(&format!("{}/hotplug-status", self.back), "connected");
            self.publish_features(store);
            self.switch(store, INIT_WAIT);
            // The front end may have been quicker.
            self.attention = true;
            return true;
        }
        let front_state = store.read_number(&format!("{}/state", self.front));
        match front_state.unwrap_or(UNKNOWN) {
            INITIALISING if self.state == CLOSED && !self.leaving => {
                self.publish_features(store);
                self.switch(store, INIT_WAIT);
            }
            INITIALISED if self.state == INIT_WAIT && self.net.habits.connects_early => {
                self.connect(store, site);
            }
            CONNECTED if self.state == INIT_WAIT => self.connect(store, site),
            CLOSING if self.state != CLOSED => {
                self.net.disconnect(site);
                self.switch(store, CLOSING);
            }
            CLOSED if self.state != CLOSED => {
                self.net.disconnect(site);
                self.switch(store, CLOSED);
            }
            UNKNOWN if self.state != CLOSED || !self.leaving => {
                self.net.disconnect(site);
                self.leaving = true;
                self.switch(store, CLOSED);
            }
            _ => {}
        }
        true
    }

    /// Whether the toolstack can remove the directories now.
    pub fn gone(&self) -> bool {
        self.leaving && self.state == CLOSED
    }

    fn connect<M: GuestMemory>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>) {
        let connected = self
            .front_keys(store)
            .and_then(|(queues, terms)| self.net.connect(site, &queues, terms, self.mtu));
        match connected {
            Ok(()) => self.switch(store, CONNECTED),
            Err(why) => {
                let device = self.device;
                site.ledger.complain(Complaint::BadKeys { device, why });
                store.write(&format!("{}/error", self.back), why);
                self.switch(store, CLOSING);
            }
        }
    }

    /// Where the rings are, and what received frames may be, as the front end wrote it.
    fn front_keys(&self, store: &Xenstored) -> Result<(Vec<QueueKeys>, Terms), &'static str> {
        let number = |name: &str| store.read_number::<u32>(&format!("{}/{name}", self.front));
        let on = |name: &str| number(name).is_some_and(|value| value != 0);
        if !on("request-rx-copy") {
            return Err("no request-rx-copy");
        }
        if self.net.habits.needs_rx_notify && !on("feature-rx-notify") {
            return Err("no feature-rx-notify");
        }
        let most = self.net.habits.max_queues.unwrap_or(1);
        let count = number("multi-queue-num-queues").unwrap_or(1);
        if count == 0 || count > most {
            return Err("multi-queue-num-queues out of bounds");
        }
        let split = self.net.habits.split_event_channels;
        let queue = |prefix: &str| {
            let number = |name: &str| number(&format!("{prefix}{name}"));
            let ports = match (number("event-channel-tx"), number("event-channel-rx")) {
                (Some(tx), Some(rx)) if split => (tx, rx),
                _ => {
                    let both = number("event-channel").ok_or("no event-channel")?;
                    (both, both)
                }
            };
            Ok(QueueKeys {
                tx_ring: number("tx-ring-ref").ok_or("no tx-ring-ref")?,
                rx_ring: number("rx-ring-ref").ok_or("no rx-ring-ref")?,
                tx_port: ports.0,
                rx_port: ports.1,
            })
        };
        let queues: Result<Vec<_>, _> = match count {
            1 => queue("").map(|keys| vec![keys]),
            _ => (0..count).map(|n| queue(&format!("queue-{n}/"))).collect(),
        };
        let terms = Terms {
            takes: Takes {
                checksum_v4: !on("feature-no-csum-offload"),
                checksum_v6: on("feature-ipv6-csum-offload"),
                segment_v4: on("feature-gso-tcpv4"),
                segment_v6: on("feature-gso-tcpv6"),
                vlan: false,
            },
            sg: on("feature-sg"),
        };
        let gso = terms.takes.segment_v4 || terms.takes.segment_v6;
        if gso && !terms.sg {
            return Err("segmentation without feature-sg");
        }
        Ok((queues?, terms))
    }

    fn publish_features(&self, store: &mut Xenstored) {
        let habits = self.net.habits;
        let mut keys = vec![("feature-rx-copy", 1), ("feature-rx-flip", 0)];
        for (key, on) in [
            ("feature-sg", habits.sg),
            ("feature-gso-tcpv4", habits.gso_tcpv4),
            ("feature-gso-tcpv6", habits.gso_tcpv6),
            ("feature-ipv6-csum-offload", habits.checksum_v6),
            ("feature-no-csum-offload", !habits.checksum_v4),
            ("feature-split-event-channels", habits.split_event_channels),
            (
                "feature-dynamic-multicast-control",
                habits.dynamic_multicast,
            ),
            ("feature-multicast-control", habits.dynamic_multicast),
        ] {
            if on {
                keys.push((key, 1));
            }
        }
        if let Some(queues) = habits.max_queues {
            keys.push(("multi-queue-max-queues", queues));
        }
        if habits.carrier_key {
            keys.push(("carrier", self.net.link.into()));
        }
        for (key, value) in keys {
            store.write(&format!("{}/{key}", self.back), &value.to_string());
        }
    }
}
