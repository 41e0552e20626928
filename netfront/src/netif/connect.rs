//! Finding out about an interface and agreeing with its back end, through xenstore
//! (`xen/include/public/io/netif.h`).

use super::features::{self, Ask, Offer};
use super::news::News;
use super::queue::{Ports, Queue, RX_ACCESS};
use super::{Netif, QUEUES};
use crate::capabilities::{Capabilities, Config, Mac};
use crate::line::Line;
use core::fmt::{self, Display, Write};
use hypercall::host::{HostError, Hypervisor};
use hypercall::shm::{Access, Lent, Pages, Pool};
use hypercall::xen::Xen;
use hypercall::{Gate, HostFault, Platform, Port};
use xenbus::{Device, FrontendError, State, StoreError, XenBus};

/// Pages of a pool at the least: what a back end must find posted, and a few for the caller.
const FEWEST_PAGES: usize = 32;
/// Bytes of a key below the front end's directory.
const KEY: usize = 32;
/// Keys of all queues at most: four each.
const QUEUE_KEYS: usize = 4 * QUEUES;
/// And those of the interface.
const KEYS: usize = QUEUE_KEYS + 10;

/// Why an interface could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// Xenstore failed, or the back end did not play its part.
    Frontend(FrontendError),
    /// The hypervisor refused a grant or an event channel.
    Host(HostError),
    /// The platform has no pages for rings, tables or pools.
    OutOfPages,
    /// Neither end's directory has an address, or it is none.
    BadMac,
    /// The pools are granted to another domain than the one that now serves the interface.
    OtherPeer,
    /// The back end still holds on to the rings of an earlier connection.
    MemoryHeld,
}

impl Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frontend(why) => why.fmt(f),
            Self::Host(why) => why.fmt(f),
            Self::OutOfPages => f.write_str("no pages for the rings, tables or pools"),
            Self::BadMac => f.write_str("the interface has no sound address"),
            Self::OtherPeer => f.write_str("another domain serves the interface now"),
            Self::MemoryHeld => HostFault::MemoryHeld.fmt(f),
        }
    }
}

impl core::error::Error for ConnectError {}

impl From<FrontendError> for ConnectError {
    fn from(why: FrontendError) -> Self {
        Self::Frontend(why)
    }
}

impl From<StoreError> for ConnectError {
    fn from(why: StoreError) -> Self {
        Self::Frontend(why.into())
    }
}

impl From<HostError> for ConnectError {
    fn from(why: HostError) -> Self {
        Self::Host(why)
    }
}

/// What one queue is to the back end.
#[derive(Debug, Clone, Copy)]
struct QueueKeys {
    tx_ring: u32,
    rx_ring: u32,
    ports: Ports,
}

impl<'b, 'h, P: Platform, G: Gate> Netif<'b, 'h, P, G> {
    /// Connects to a `vif`.
    ///
    /// # Errors
    /// [`ConnectError`]; nothing stays granted that the host could not hold on to.
    pub fn connect(
        bus: &'b XenBus<'h, P, G>,
        device: &Device,
        config: Config,
    ) -> Result<Self, ConnectError> {
        let frontend = bus.frontend(device)?;
        let mut netif = Self {
            peer: frontend.backend_domid(),
            frontend,
            xen: bus.store().xen(),
            config,
            can: Capabilities::new(Mac([0; 6]), features::MTU),
            line: None,
            queues: heapless::Vec::new(),
            active: 0,
            connected: false,
        };
        match netif.open_link() {
            Ok(()) => Ok(netif),
            Err(why) => {
                netif.release();
                Err(why)
            }
        }
    }

    /// From whatever state the device is in to Connected.
    pub(super) fn open_link(&mut self) -> Result<(), ConnectError> {
        self.frontend.prepare(self.config.timeout)?;
        let peer = self.frontend.backend_domid();
        if !self.queues.is_empty() && peer != self.peer {
            return Err(ConnectError::OtherPeer);
        }
        self.peer = peer;
        let offer = self.read_offer()?;
        let mac = self.read_mac()?;
        let count = offer.queues(self.config.queues.min(QUEUES as u16));
        let ask = Ask::new(self.config.offloads);
        let mut keys = heapless::Vec::<QueueKeys, QUEUES>::new();
        self.connected = true;
        let agreed = self
            .open_queues(count.into(), offer, ask, &mut keys)
            .and_then(|()| self.agree(offer, ask, &keys))
            .and_then(|()| self.start(offer, mac));
        if agreed.is_err() {
            // The back end may have mapped the rings already; closing waits for it to let go.
            let _ = self.close_link();
        }
        agreed
    }

    fn open_queues(
        &mut self,
        count: usize,
        offer: Offer,
        ask: Ask,
        keys: &mut heapless::Vec<QueueKeys, QUEUES>,
    ) -> Result<(), ConnectError> {
        let line = match self.line.take() {
            Some(line) => line,
            None => {
                Line::new(self.xen.platform(), &self.can).map_err(|_| ConnectError::OutOfPages)?
            }
        };
        let line = self.line.insert(line);
        while self.queues.len() < count {
            let is_first = self.queues.is_empty();
            let queue = Queue::new(self.xen, self.can, line.clone(), is_first);
            let queue = queue.ok_or(ConnectError::OutOfPages)?;
            // There is a place for each of them.
            let _ = self.queues.push(queue);
        }
        self.active = count;
        let (xen, peer, config) = (self.xen, self.peer, self.config);
        for queue in self.queues.iter_mut().take(count) {
            let opened = queue.open(xen, peer, &config, offer.split, ask)?;
            let _ = keys.push(opened);
        }
        Ok(())
    }

    fn agree(&self, offer: Offer, ask: Ask, queues: &[QueueKeys]) -> Result<(), ConnectError> {
        let mut names = heapless::Vec::<(heapless::String<KEY>, u32), QUEUE_KEYS>::new();
        for (index, queue) in queues.iter().enumerate() {
            let ports = queue.ports;
            let mut name = |key: &str, value: u32| {
                let mut name = heapless::String::new();
                // Of one queue the keys are where they were before there were several.
                let _ = match queues.len() {
                    1 => write!(name, "{key}"),
                    _ => write!(name, "queue-{index}/{key}"),
                };
                let _ = names.push((name, value));
            };
            name("tx-ring-ref", queue.tx_ring);
            name("rx-ring-ref", queue.rx_ring);
            if offer.split {
                name("event-channel-tx", ports.tx.to);
                name("event-channel-rx", ports.rx.to);
            } else {
                name("event-channel", ports.tx.to);
            }
        }
        let count = queues.len();
        let number = u32::from;
        let fixed: [(&str, &dyn Display); 9] = [
            ("request-rx-copy", &1),
            ("feature-rx-notify", &1),
            ("feature-sg", &1),
            ("feature-gso-tcpv4", &number(ask.gso_v4)),
            ("feature-gso-tcpv6", &number(ask.gso_v6)),
            ("feature-no-csum-offload", &number(ask.no_checksum)),
            ("feature-ipv6-csum-offload", &number(ask.checksum_v6)),
            // What an earlier owner may have asked for.
            ("request-multicast-control", &0),
            ("xdp-headroom", &0),
        ];
        let mut values = heapless::Vec::<(&str, &dyn Display), KEYS>::new();
        // There is a place for each of them.
        let _ = values.extend_from_slice(&fixed);
        if offer.queues != 0 {
            let _ = values.push(("multi-queue-num-queues", &count));
        }
        for (name, value) in &names {
            let _ = values.push((name.as_str(), value));
        }
        self.frontend.publish(&values)?;
        self.frontend.set_state(State::Connected)?;
        self.frontend
            .wait_backend(State::Connected, self.config.timeout)?;
        Ok(())
    }

    /// The back end is connected: learns what came of it, and begins.
    fn start(&mut self, offer: Offer, mac: Mac) -> Result<(), ConnectError> {
        let backend = self.frontend.backend_path();
        let store = self.frontend.bus().store();
        let own = self.frontend.read_own_str::<16>("mtu")?;
        let said = match &own {
            Some(mtu) => Some(mtu.clone()),
            None => self.frontend.read_backend_str::<16>("mtu")?,
        };
        let mtu = offer.mtu(said.as_deref());
        let mut can = offer.capabilities(mac, mtu, self.active as u16, self.config.offloads);
        let carrier = self.frontend.read_backend_str::<16>("carrier")?;
        can.link = features::link(carrier.as_deref());
        self.can = can;
        if let Some(line) = &self.line {
            line.tell(&can);
        }
        for (index, queue) in self.queues.iter_mut().take(self.active).enumerate() {
            queue.news = News::of_state(store, backend)?;
            if index == 0 {
                // The tool stack's word is in the front end's directory, if anywhere.
                let directory = match (&own, &said) {
                    (None, Some(_)) => backend,
                    _ => self.frontend.path(),
                };
                queue.news.and_of_line(store, backend, directory, offer);
            }
            queue.learn(can, offer.sg);
        }
        for queue in self.queues.iter_mut().take(self.active) {
            queue.start();
        }
        Ok(())
    }

    fn read_offer(&self) -> Result<Offer, ConnectError> {
        let feature = |name| self.frontend.feature(name);
        let queues = self.frontend.read_backend::<u16>("multi-queue-max-queues");
        Ok(Offer {
            sg: feature("feature-sg"),
            gso_v4: feature("feature-gso-tcpv4"),
            gso_v6: feature("feature-gso-tcpv6"),
            no_checksum: feature("feature-no-csum-offload"),
            checksum_v6: feature("feature-ipv6-csum-offload"),
            split: feature("feature-split-event-channels"),
            // What is no number is no offer.
            queues: queues.ok().flatten().unwrap_or(0),
        })
    }

    /// The address: in the front end's directory, or only in the back end's where a stub domain
    /// stands between.
    fn read_mac(&self) -> Result<Mac, ConnectError> {
        let said = match self.frontend.read_own_str::<32>("mac")? {
            Some(said) => Some(said),
            None => self.frontend.read_backend_str::<32>("mac")?,
        };
        said.and_then(|text| features::parse_mac(&text))
            .ok_or(ConnectError::BadMac)
    }

    /// To Closed, and the rings back.
    pub(super) fn close_link(&mut self) -> Result<(), HostFault> {
        if !self.connected {
            return Ok(());
        }
        for queue in &mut self.queues {
            queue.fail(HostFault::Withdrawn);
        }
        let closed = self.frontend.close(self.config.timeout);
        let mut freed = true;
        for queue in &mut self.queues {
            freed &= queue.close();
        }
        if !freed {
            return Err(HostFault::MemoryHeld);
        }
        if let Err(why) = closed {
            // The grant entries themselves tell whether the back end has unmapped the rings; that
            // it says Closed, or nothing, decides nothing about memory.
            log::warn!("{}: closing: {why}", self.frontend.device());
        }
        self.connected = false;
        for queue in &mut self.queues {
            queue.tx.release();
            queue.rx.release();
        }
        Ok(())
    }
}

impl<'h, P: Platform, G: Gate> Queue<'_, 'h, P, G> {
    /// Makes rings and event channels, and posts pages to receive into.
    fn open(
        &mut self,
        xen: &'h Xen<P, G>,
        peer: u16,
        config: &Config,
        split: bool,
        ask: Ask,
    ) -> Result<QueueKeys, ConnectError> {
        // What an earlier connection could not take back.
        if !self.close() {
            return Err(ConnectError::MemoryHeld);
        }
        if self.tx.pool().is_none() {
            // The host only reads what is sent.
            let pool = lend_pool(xen, peer, config.tx_pages, Access::ReadOnly)?;
            *self.tx.pool_mut() = Some(pool);
        }
        if self.rx.pool().is_none() {
            let pool = lend_pool(xen, peer, config.rx_pages, RX_ACCESS)?;
            *self.rx.pool_mut() = Some(pool);
        }
        self.lend_returned();
        let tx = new_port(xen, peer)?;
        self.ports = Some(Ports { tx, rx: tx });
        let rx = if split { new_port(xen, peer)? } else { tx };
        let ports = Ports { tx, rx };
        self.ports = Some(ports);
        let tx_ring = self.tx.open(lend_ring(xen, peer)?);
        let rx_ring = self.rx.open(lend_ring(xen, peer)?, ask.rules());
        let (Some(tx_ring), Some(rx_ring)) = (tx_ring, rx_ring) else {
            return Err(ConnectError::Host(HostError::Unsupported));
        };
        self.rx.publish();
        Ok(QueueKeys {
            tx_ring,
            rx_ring,
            ports,
        })
    }

    /// Closes the event channels and takes the rings back; whether the host has let go of both.
    pub(super) fn close(&mut self) -> bool {
        if let Some(Ports { tx, rx }) = self.ports.take() {
            self.xen.close_port(tx.to);
            if rx != tx {
                self.xen.close_port(rx.to);
            }
        }
        self.news = News::none();
        for page in [self.tx.close(), self.rx.close()].into_iter().flatten() {
            // There is a place for each of them.
            let _ = self.held.push(page);
        }
        while let Some(page) = self.held.pop() {
            if let Err((_, page)) = self.xen.unshare(page) {
                let _ = self.held.push(page);
                return false;
            }
        }
        true
    }
}

fn new_port<P: Platform, G: Gate>(xen: &Xen<P, G>, peer: u16) -> Result<Port, HostError> {
    let channel = xen.alloc_unbound(peer)?;
    Ok(Port {
        to: channel,
        from: channel,
    })
}

fn lend_ring<P: Platform, G: Gate>(xen: &Xen<P, G>, peer: u16) -> Result<Lent<P>, ConnectError> {
    let page = Pages::alloc(xen.platform(), 1).map_err(|_| ConnectError::OutOfPages)?;
    let lent = xen.share(page, peer, Access::ReadWrite);
    Ok(lent.map_err(|(why, _)| why)?)
}

fn lend_pool<P: Platform, G: Gate>(
    xen: &Xen<P, G>,
    peer: u16,
    pages: usize,
    access: Access,
) -> Result<Pool<P>, ConnectError> {
    let pages = Pages::alloc(xen.platform(), pages.max(FEWEST_PAGES))
        .map_err(|_| ConnectError::OutOfPages)?;
    let lent = xen.share(pages, peer, access).map_err(|(why, _)| why)?;
    Pool::new(lent).map_err(|(_, lent)| {
        drop(xen.unshare(lent));
        ConnectError::OutOfPages
    })
}
