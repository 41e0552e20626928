//! A network front end by hand, over the guest by hand: one pair of rings.

use super::guest::Guest;
use crate::memory::GuestMemory;
use crate::net::{Cable, cable};
use crate::xen::abi::PAGE;
use crate::xen::abi::netif::*;
use crate::xen::config::Config;
use crate::xen::netback::NetHabits;
use crate::xen::vif::VifSpec;
use zerocopy::{FromBytes, IntoBytes};

pub const TX: u64 = 8;
pub const RX: u64 = 9;
/// The frame of the first transmit page; the next follow. Its grant is 64.
pub const TX_DATA: u64 = 16;
pub const TX_GREF: u32 = 64;
/// The frame of the first receive page; the next follow. Its grant is 128.
pub const RX_DATA: u64 = 36;
pub const RX_GREF: u32 = 128;
/// Pages for received frames.
pub const BUFFERS: u16 = 24;
pub const FRONT: &str = "device/vif/0";

pub struct NetGuest {
    pub guest: Guest,
    /// The other end of the line.
    pub line: Cable,
    pub port: u32,
    tx_prod: u32,
    tx_cons: u32,
    rx_prod: u32,
    rx_cons: u32,
}

impl NetGuest {
    /// A guest with an interface that is offered, and not connected.
    pub fn offered(habits: NetHabits) -> NetGuest {
        NetGuest::seeded(habits, |_| {})
    }

    pub fn seeded(habits: NetHabits, change: impl FnOnce(&mut Config)) -> NetGuest {
        let mut guest = Guest::booted(change);
        let (near, line) = cable();
        guest
            .host
            .attach_nic(VifSpec::new(Box::new(near)).habits(habits));
        guest.host.run(1000);
        NetGuest {
            guest,
            line,
            port: 0,
            tx_prod: 0,
            tx_cons: 0,
            rx_prod: 0,
            rx_cons: 0,
        }
    }

    /// A guest with an interface that is connected, with every offload, and buffers posted.
    pub fn connected(habits: NetHabits) -> NetGuest {
        let mut net = NetGuest::offered(habits);
        net.write_keys(&[
            ("feature-sg", "1"),
            ("feature-gso-tcpv4", "1"),
            ("feature-gso-tcpv6", "1"),
            ("feature-ipv6-csum-offload", "1"),
        ]);
        assert_eq!(net.connect(), 4);
        net.post(0..BUFFERS);
        net
    }

    pub fn write_keys(&mut self, keys: &[(&str, &str)]) {
        for (key, value) in keys {
            self.guest.write(&format!("{FRONT}/{key}"), value);
        }
    }

    /// Writes the keys every front end has to, and goes to Connected; the back end's state then.
    pub fn connect(&mut self) -> u32 {
        self.write_keys(&[("request-rx-copy", "1"), ("feature-rx-notify", "1")]);
        self.connect_with_less()
    }

    pub fn connect_with_less(&mut self) -> u32 {
        for (gref, frame) in [(32, TX), (33, RX)] {
            self.guest.grant(gref, frame, 1);
            self.guest.set(frame, 0, 0);
            self.guest.set(frame, 4, 1);
            self.guest.set(frame, 8, 0);
            self.guest.set(frame, 12, 1);
        }
        (self.tx_prod, self.tx_cons, self.rx_prod, self.rx_cons) = (0, 0, 0, 0);
        for n in 0..18 {
            self.guest.grant(TX_GREF + n, TX_DATA + u64::from(n), 1 | 4);
        }
        for n in 0..u32::from(BUFFERS) {
            self.guest.grant(RX_GREF + n, RX_DATA + u64::from(n), 1);
        }
        self.port = self.guest.alloc_unbound(0);
        let port = self.port.to_string();
        self.write_keys(&[
            ("tx-ring-ref", "32"),
            ("rx-ring-ref", "33"),
            ("event-channel", &port),
            ("state", "4"),
        ]);
        self.guest.host.run(1000);
        self.back_state()
    }

    pub fn back_state(&self) -> u32 {
        self.guest.host.vif(0).map_or(0, |vif| vif.pair.state())
    }

    /// Posts receive buffers by their numbers.
    pub fn post(&mut self, buffers: std::ops::Range<u16>) {
        for n in buffers {
            self.post_as(n, RX_GREF + u32::from(n));
        }
    }

    pub fn post_as(&mut self, id: u16, gref: u32) {
        let request = RxRequest { id, pad: 0, gref };
        let at = RX * PAGE + 64 + u64::from(self.rx_prod % ENTRIES) * 8;
        self.guest.ram.write(at, request.as_bytes()).unwrap();
        self.rx_prod += 1;
        self.guest.set(RX, 0, self.rx_prod);
        self.guest.send(self.port);
    }

    /// Responses on the receive ring now.
    pub fn received(&mut self) -> Vec<RxResponse> {
        let mut responses = Vec::new();
        while self.rx_cons != self.guest.word(RX, 8) {
            let at = RX * PAGE + 64 + u64::from(self.rx_cons % ENTRIES) * 8;
            let mut bytes = [0; 8];
            self.guest.ram.read(at, &mut bytes).unwrap();
            responses.push(RxResponse::read_from_bytes(&bytes).unwrap());
            self.rx_cons += 1;
        }
        self.guest.set(RX, 12, self.rx_cons + 1);
        responses
    }

    /// The bytes of a received slot.
    pub fn bytes_of(&self, response: &RxResponse) -> Vec<u8> {
        let page = (RX_DATA + u64::from(response.id)) * PAGE;
        let mut bytes = vec![0; response.status as usize];
        let at = page + u64::from(response.offset);
        self.guest.ram.read(at, &mut bytes).unwrap();
        bytes
    }

    /// Puts a raw entry on the transmit ring and does not tell.
    pub fn push(&mut self, entry: &[u8]) {
        let at = TX * PAGE + 64 + u64::from(self.tx_prod % ENTRIES) * 12;
        self.guest.ram.write(at, entry).unwrap();
        self.tx_prod += 1;
    }

    /// Shows the entries pushed, and lets the host run.
    pub fn kick(&mut self) {
        self.guest.set(TX, 0, self.tx_prod);
        self.guest.send(self.port);
        self.guest.host.run(10_000);
    }

    /// Writes a frame into the transmit pages.
    pub fn place(&mut self, bytes: &[u8]) {
        self.guest.ram.write(TX_DATA * PAGE, bytes).unwrap();
    }

    /// Sends bytes as one chain of whole pages, with an extra.
    pub fn send(&mut self, bytes: &[u8], flags: u16, extra: Option<Extra>) {
        self.place(bytes);
        let pages = bytes.len().div_ceil(PAGE as usize);
        for n in 0..pages {
            let last = n + 1 == pages;
            let size = match n {
                0 => bytes.len(),
                _ => (bytes.len() - n * PAGE as usize).min(PAGE as usize),
            };
            let slot = TxRequest {
                gref: TX_GREF + n as u32,
                offset: 0,
                flags: if n == 0 { flags } else { 0 }
                    | if last { 0 } else { TX_MORE_DATA }
                    | if n == 0 && extra.is_some() {
                        TX_EXTRA_INFO
                    } else {
                        0
                    },
                id: n as u16,
                size: size as u16,
            };
            self.push(slot.as_bytes());
            if let Some(extra) = extra
                && n == 0
            {
                self.push(extra.as_bytes());
            }
        }
        self.kick();
    }

    /// Responses on the transmit ring now.
    pub fn answers(&mut self) -> Vec<TxResponse> {
        let mut responses = Vec::new();
        while self.tx_cons != self.guest.word(TX, 8) {
            let at = TX * PAGE + 64 + u64::from(self.tx_cons % ENTRIES) * 12;
            let mut bytes = [0; 4];
            self.guest.ram.read(at, &mut bytes).unwrap();
            responses.push(TxResponse::read_from_bytes(&bytes).unwrap());
            self.tx_cons += 1;
        }
        self.guest.set(TX, 12, self.tx_cons + 1);
        responses
    }

    pub fn statuses(&mut self) -> Vec<i16> {
        self.answers().iter().map(|answer| answer.status).collect()
    }

    /// What the host found wrong with frames and buffers so far, forgotten.
    pub fn complaints(&self) -> Vec<String> {
        let complaints = self.guest.host.complaints();
        complaints.iter().map(|c| format!("{c:?}")).collect()
    }
}
