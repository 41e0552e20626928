//! Virtual network interfaces in xenstore: what the toolstack creates and removes, and the back
//! end's half of the connection (`io/xenbus.h`, `io/netif.h`; habits of libxl and of Linux's
//! netback).

use super::abi::state::*;
use super::netback::{NetBack, NetHabits, QueueKeys, Terms};
use super::pair::{Leftover, Pair};
use super::site::Site;
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

/// One device: its two ends, and the back end's line.
#[derive(Debug)]
pub struct Vif {
    pub pair: Pair,
    pub net: NetBack,
    mtu: u16,
}

impl Vif {
    /// Creates both directories as libxl does, and the back end in its first state.
    pub fn create(store: &mut Xenstored, guest: u16, spec: VifSpec, seed: u64) -> Vif {
        let (device, habits) = (spec.device, spec.habits);
        let pair = Pair::create(store, guest, "vif", device, spec.trusted);
        let [a, b, c, d, e, f] = spec.mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let handle = device.to_string();
        pair.write_back(
            store,
            &[
                ("script", "/etc/xen/scripts/vif-bridge"),
                ("mac", &mac),
                ("bridge", "xenbr0"),
                ("handle", &handle),
                ("type", "vif"),
            ],
        );
        pair.write_front(store, &[("handle", &handle)]);
        if !habits.mac_in_back_end {
            pair.write_front(store, &[("mac", &mac)]);
        }
        if habits.mtu_key {
            pair.write_front(store, &[("mtu", &spec.mtu.to_string())]);
        }
        let mut vif = Vif {
            pair,
            mtu: spec.mtu,
            net: NetBack::new(device, spec.line, habits, seed),
        };
        vif.leave_over(store, spec.leftover);
        vif
    }

    fn leave_over(&mut self, store: &mut Xenstored, leftover: Leftover) {
        let Some(state) = leftover.state() else {
            return;
        };
        self.publish_features(store);
        let keys = [
            ("tx-ring-ref", "8"),
            ("rx-ring-ref", "9"),
            ("event-channel", "3"),
            ("request-rx-copy", "1"),
            ("feature-rx-notify", "1"),
            // What the next owner may not want, or spells otherwise.
            ("feature-gso-tcpv4", "1"),
            ("feature-sg", "1"),
            ("multi-queue-num-queues", "1"),
        ];
        self.pair.write_front(store, &keys);
        self.pair.leave_over(store, state);
    }

    /// The back end closes of its own accord and stays.
    pub fn close<M: GuestMemory>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>) {
        self.net.disconnect(site);
        self.pair.switch(store, CLOSED);
    }

    /// Gives the rings up and removes both directories, at once.
    pub fn destroy<M: GuestMemory>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>) {
        self.net.disconnect(site);
        self.pair.remove(store);
    }

    /// Changes the largest packet, as the toolstack may at any time.
    pub fn set_mtu(&mut self, store: &mut Xenstored, mtu: u16) {
        self.mtu = mtu;
        self.net.largest_mtu = self.net.largest_mtu.max(mtu);
        self.pair.write_front(store, &[("mtu", &mtu.to_string())]);
    }

    /// Takes the line down, or up again.
    pub fn set_link(&mut self, store: &mut Xenstored, up: bool) {
        self.net.link = up;
        let carrier = if up { "1" } else { "0" };
        self.pair.write_back(store, &[("carrier", carrier)]);
    }

    /// Looks at the front end's state if it may have changed, and answers it. False if it has not.
    pub fn step<M: GuestMemory>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>) -> bool {
        if !self.pair.take_attention() {
            return false;
        }
        let state = self.pair.state();
        if state == INITIALISING {
            self.pair
                .write_back(store, &[("hotplug-status", "connected")]);
            self.publish_features(store);
            self.pair.switch(store, INIT_WAIT);
            // The front end may have been quicker.
            self.pair.look_again();
            return true;
        }
        match self.pair.front_state(store) {
            INITIALISING if state == CLOSED && !self.pair.leaving() => {
                self.publish_features(store);
                self.pair.switch(store, INIT_WAIT);
            }
            INITIALISED if state == INIT_WAIT && self.net.habits.connects_early => {
                self.connect(store, site);
            }
            CONNECTED if state == INIT_WAIT => self.connect(store, site),
            CLOSING if state != CLOSED => {
                self.net.disconnect(site);
                self.pair.switch(store, CLOSING);
            }
            CLOSED if state != CLOSED => self.close(store, site),
            UNKNOWN if !self.pair.gone() => {
                self.net.disconnect(site);
                self.pair.leave(store);
            }
            _ => {}
        }
        true
    }

    fn connect<M: GuestMemory>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>) {
        let connected = self
            .front_keys(store)
            .and_then(|(queues, terms)| self.net.connect(site, &queues, terms, self.mtu));
        match connected {
            Ok(()) => self.pair.switch(store, CONNECTED),
            Err(why) => self.pair.refuse(store, site, why),
        }
    }

    /// Where the rings are, and what received frames may be, as the front end wrote it.
    fn front_keys(&self, store: &Xenstored) -> Result<(Vec<QueueKeys>, Terms), &'static str> {
        let number = |name: &str| self.pair.front_number(store, name);
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
            self.pair.write_back(store, &[(key, &value.to_string())]);
        }
    }
}
