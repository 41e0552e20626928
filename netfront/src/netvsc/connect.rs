//! The hand-shake: versions, buffers, what the NIC is, and further channels.

use super::control::Control;
use super::live::Live;
use super::ndis::{self, Hardware, OffloadParameters, filter, oid};
use super::nvsp::{self, SubChannel, Version, kind};
use super::opening::Opening;
use super::queue::Queue;
use super::rx::Receive;
use super::tx::{HEADROOM, Transmit};
use super::{Netvsc, QUEUES, longest, rss};
use crate::capabilities::{Capabilities, Mac, Offloads};
use crate::line::Line;
use crate::net::Net;
use core::fmt;
use hypercall::host::{HostError, Hypervisor};
use hypercall::platform::{deadline, wait_for};
use hypercall::shm::{Access, Lent, PAGE_SIZE, Pages, Pool, Sections, Tickets};
use hypercall::{Gate, HostFault, Platform};
use vmbus::{Channel, Offer, OpenError};
use zerocopy::IntoBytes;

/// Why an interface could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The channel did not open.
    Channel(OpenError),
    /// The host broke the protocol.
    Host(HostFault),
    /// The host would not lend or take memory.
    Refused(HostError),
    /// The platform has no pages left.
    OutOfPages,
    /// The host accepts no version of NVSP.
    NoVersion,
    /// The host failed an NVSP message of this type, with this status.
    Nvsp(u32, u32),
    /// The host failed an RNDIS request about this object (0: INITIALIZE), with this status.
    Rndis(u32, u32),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(why) => why.fmt(f),
            Self::Host(fault) => fault.fmt(f),
            Self::Refused(why) => why.fmt(f),
            Self::OutOfPages => f.write_str("the platform has no pages left"),
            Self::NoVersion => f.write_str("the host accepts no version of NVSP"),
            Self::Nvsp(kind, status) => {
                write!(f, "the host failed NVSP message {kind} with {status:#x}")
            }
            Self::Rndis(oid, status) => {
                write!(f, "the host failed RNDIS object {oid:#x} with {status:#x}")
            }
        }
    }
}

impl core::error::Error for ConnectError {}

impl From<HostFault> for ConnectError {
    fn from(fault: HostFault) -> Self {
        Self::Host(fault)
    }
}

impl From<ConnectError> for HostFault {
    fn from(why: ConnectError) -> Self {
        match why {
            ConnectError::Host(fault) | ConnectError::Channel(OpenError::Fault(fault)) => fault,
            ConnectError::Channel(OpenError::Gone) => Self::Withdrawn,
            _ => Self::NoAnswer,
        }
    }
}

/// Data pages of each ring.
const RING_PAGES: usize = 32;

/// Pages of a buffer at most: 31 MiB to receive, 15 MiB to send.
const MOST_RX_PAGES: usize = 31 << 8;
const MOST_TX_PAGES: usize = 15 << 8;

/// Bytes of the longest segment that IP can describe, with its headers.
const LONGEST_SEGMENT: u32 = 65535 + 14;

impl<'b, 'h, P: Platform, G: Gate> Netvsc<'b, 'h, P, G> {
    pub(super) fn open(&mut self) -> Result<(), ConnectError> {
        let opened = self.open_first().and_then(|()| self.set_up());
        if opened.is_err() {
            // It says why where that matters.
            let _ = self.disconnect();
        }
        opened
    }

    fn lend(&self, pages: usize) -> Result<Lent<P>, ConnectError> {
        let pages =
            Pages::alloc(self.hv.platform(), pages).map_err(|_| ConnectError::OutOfPages)?;
        let lent = self.hv.share(pages, 0, Access::ReadWrite);
        lent.map_err(|(why, _)| ConnectError::Refused(why))
    }

    fn wanted(&self) -> u16 {
        self.config.queues.clamp(1, QUEUES as u16)
    }

    /// Pages for the send buffer, and for the pool of each queue.
    fn tx_pages(&self) -> (usize, usize) {
        let each = self.config.tx_pages.max(2);
        let sections = each / 2;
        let pool = each.saturating_sub(sections);
        let all = sections.saturating_mul(self.wanted().into());
        (all.min(MOST_TX_PAGES), pool)
    }

    /// Opens the first channel and shares the buffers.
    fn open_first(&mut self) -> Result<(), ConnectError> {
        let Some(offer) = self.bus.current(&self.offer) else {
            return Err(ConnectError::Channel(OpenError::Gone));
        };
        self.offer = offer;
        // Everything is there to receive with before the channel is open.
        let rx = self.lend(self.config.rx_pages.clamp(1, MOST_RX_PAGES))?;
        let (rx, tx) = match self.lend(self.tx_pages().0) {
            Ok(tx) => (rx, tx),
            Err(why) => {
                let _ = self.hv.unshare(rx);
                return Err(why);
            }
        };
        let channel = match self.bus.open(&self.offer, RING_PAGES, &[]) {
            Ok(channel) => channel,
            Err(why) => {
                let _ = (self.hv.unshare(rx), self.hv.unshare(tx));
                return Err(ConnectError::Channel(why));
            }
        };
        let mut opening = Opening {
            channel,
            platform: self.hv.platform().clone(),
            timeout: self.config.timeout,
            version: Version::V1,
            shared: heapless::Vec::new(),
        };
        let shared = opening
            .negotiate()
            .and_then(|()| opening.configure(self.config.mtu, self.config.offloads))
            .and_then(|()| Ok((opening.share_rx(&rx)?, opening.share_tx(&tx)?)));
        let (parts, section_size) = match shared {
            Ok(shared) => shared,
            Err(why) => {
                if opening.abort() {
                    let _ = (self.hv.unshare(rx), self.hv.unshare(tx));
                }
                return Err(why);
            }
        };
        self.version = opening.version;
        self.undivided = Some(tx);
        let each = parts.count.min(Tickets::MOST.into()) as u16;
        let blocks = each.div_ceil(64).saturating_mul(self.wanted());
        match Sections::new(rx, blocks) {
            Ok(sections) => self.rx = Some(sections),
            Err((_, rx)) => {
                let tx = self.undivided.take();
                if opening.abort() {
                    let _ = self.hv.unshare(rx);
                    let _ = tx.map(|tx| self.hv.unshare(tx));
                }
                return Err(ConnectError::OutOfPages);
            }
        }
        self.tickets = each;
        self.section_size = section_size;
        self.attach(0, opening.channel)
    }

    /// Makes a queue of an open channel.
    fn attach(&mut self, index: u16, channel: Channel<'b, 'h, P, G>) -> Result<(), ConnectError> {
        let each = self.tickets;
        let first = each.div_ceil(64).saturating_mul(index);
        let tickets = self.rx.as_ref().and_then(|rx| rx.tickets(first, each));
        let made = tickets
            .ok_or(ConnectError::OutOfPages)
            .and_then(|tickets| self.halves(index, tickets));
        let (rx, tx, control) = match made {
            Ok(made) => made,
            Err(why) => {
                // Nothing was sent over it yet; if it is the first, what it was lent stays so.
                if channel.close().is_err() {
                    log::warn!("{}: the host keeps a channel", self.offer);
                }
                return Err(why);
            }
        };
        if let Some(queue) = self.queues.get_mut(usize::from(index)) {
            queue.live = Some(Live {
                channel,
                rx,
                tx,
                control,
                stats: queue.past,
            });
        }
        Ok(())
    }

    #[expect(clippy::type_complexity, reason = "it is taken apart at once")]
    fn halves(
        &mut self,
        index: u16,
        tickets: Tickets,
    ) -> Result<(Receive<P>, Transmit<P>, Option<Control<P>>), ConnectError> {
        let platform = self.hv.platform();
        if usize::from(index) >= self.queues.len() {
            let queue = Queue::new(self.hv, *self.capabilities());
            let _ = self.queues.push(queue);
        }
        let rx = Receive::new(platform, tickets).map_err(|_| ConnectError::OutOfPages)?;
        let control = match index {
            0 => Some(Control::new(self.version, self.lend(1)?, self.config.mtu)),
            _ => None,
        };
        let pages = self.tx_pages().1;
        let pool = self
            .queues
            .get_mut(usize::from(index))
            .and_then(|q| q.pool.take());
        let pool = match pool {
            Some(pool) => pool,
            None => Pool::new(self.lend(pages)?).map_err(|_| ConnectError::OutOfPages)?,
        };
        let tx = Transmit::new(pool, self.version.words() == nvsp::WORDS);
        Ok((rx, tx, control))
    }

    /// Learns what the NIC is, opens further channels, and has the host pass frames on.
    fn set_up(&mut self) -> Result<(), ConnectError> {
        let (platform, timeout) = (self.hv.platform(), self.config.timeout);
        let (version, config) = (self.version, self.config);
        let live = self.first().ok_or(HostFault::Withdrawn)?;
        match live.initialize(platform, timeout)?.status()? {
            0 => {}
            status => return Err(ConnectError::Rndis(0, status)),
        }
        let mut mac = live.query(platform, timeout, oid::PERMANENT_ADDRESS, &[])?;
        if mac.information()?.is_none() {
            mac = live.query(platform, timeout, oid::CURRENT_ADDRESS, &[])?;
        }
        let Some(mac) = mac.information()? else {
            return Err(ConnectError::Rndis(oid::CURRENT_ADDRESS, mac.status()?));
        };
        let mac = Mac(*mac.first_chunk().ok_or(HostFault::Length)?);
        let said = live
            .query(platform, timeout, oid::MAXIMUM_FRAME_SIZE, &[])?
            .number()?
            .and_then(|mtu| u16::try_from(mtu).ok())
            .filter(|mtu| *mtu >= super::LEAST_MTU);
        let mtu = said.unwrap_or(config.mtu).min(config.mtu);
        let link = live
            .query(platform, timeout, oid::MEDIA_CONNECT_STATUS, &[])?
            .number()?
            .is_none_or(|status| status == 0);
        let mut capabilities = Capabilities::new(mac, mtu);
        capabilities.link = link;
        live.agree_on_offloads(
            platform,
            timeout,
            version,
            config.offloads,
            &mut capabilities,
        )?;
        if let Some(control) = &mut live.control {
            (control.mtu, control.link) = (mtu, link);
        }
        let queues = self.open_others()?;
        capabilities.queues = queues;
        self.divide(queues)?;
        let room = (self.tx_pages().1.saturating_mul(PAGE_SIZE)).saturating_sub(HEADROOM.into());
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        capabilities.max_segmented = capabilities.max_segmented.min(room);
        let line = Line::new(platform, &capabilities).map_err(|_| ConnectError::OutOfPages)?;
        for queue in &mut self.queues {
            queue.capabilities = capabilities;
            queue.line = Some(line.clone());
            if let Some(live) = &mut queue.live {
                live.tx.set_lengths(mtu, capabilities.max_segmented);
                live.rx.set_longest(longest(mtu).saturating_add(4));
            }
        }
        let mut pass = filter::DIRECTED | filter::BROADCAST | filter::ALL_MULTICAST;
        if config.promiscuous {
            pass |= filter::PROMISCUOUS;
        }
        let live = self.first().ok_or(HostFault::Withdrawn)?;
        match live.set(
            platform,
            timeout,
            oid::CURRENT_PACKET_FILTER,
            pass.as_bytes(),
        )? {
            0 => Ok(()),
            status => Err(ConnectError::Rndis(oid::CURRENT_PACKET_FILTER, status)),
        }
    }

    /// Opens as many sub-channels as there are to be, and has the host spread frames over them.
    /// How many queues there are then.
    fn open_others(&mut self) -> Result<u16, ConnectError> {
        let (platform, timeout) = (self.hv.platform(), self.config.timeout);
        let wanted = match self.version >= Version::V5 {
            true => self.wanted(),
            false => 1,
        };
        let live = self.first().ok_or(HostFault::Withdrawn)?;
        if wanted == 1 {
            return Ok(1);
        }
        let answer = live.query(platform, timeout, oid::RECEIVE_SCALE_CAPABILITIES, &[])?;
        let most = answer.information()?.map_or(1, rss::queues);
        let others = u32::from(wanted).min(most).saturating_sub(1);
        if others == 0 {
            return Ok(1);
        }
        let ask = SubChannel {
            operation: nvsp::ALLOCATE,
            count: others,
        };
        let message = nvsp::message(kind::SUB_CHANNEL, &ask);
        let words = live.nvsp(platform, timeout, &message, true)?;
        let (what, answer) = nvsp::parse::<SubChannel>(&words);
        if what != kind::SUB_CHANNEL {
            return Err(HostFault::WrongOperation.into());
        }
        if answer.operation != nvsp::SUCCESS {
            log::debug!("{}: no sub-channels", self.offer);
            return Ok(1);
        }
        let granted = answer.count.min(others) as u16;
        let mut queues = 1u16;
        while queues <= granted {
            let Some(offer) = self.await_subchannel(queues) else {
                log::warn!("{}: sub-channel {queues} was not offered", self.offer);
                break;
            };
            let channel = self.bus.open(&offer, RING_PAGES, &[]);
            self.attach(queues, channel.map_err(ConnectError::Channel)?)?;
            queues = queues.saturating_add(1);
        }
        if queues > 1 {
            let parameters = rss::Parameters::new(queues.into());
            let live = self.first().ok_or(HostFault::Withdrawn)?;
            let oid = oid::RECEIVE_SCALE_PARAMETERS;
            let status = live.set(platform, timeout, oid, parameters.as_bytes())?;
            if status != 0 {
                log::warn!("{}: receive-side scaling: {status:#x}", self.offer);
            }
        }
        Ok(queues)
    }

    fn await_subchannel(&self, index: u16) -> Option<Offer> {
        let platform = self.hv.platform();
        let until = deadline(platform, self.config.timeout);
        wait_for(platform, until, || self.bus.subchannel(&self.offer, index)).ok()
    }

    /// Divides the send buffer among the queues.
    fn divide(&mut self, queues: u16) -> Result<(), ConnectError> {
        let size = self.section_size;
        let Some(lent) = self.undivided.take() else {
            return Ok(());
        };
        let bytes = lent.span().len() as u32;
        let count = bytes.checked_div(size).unwrap_or(0);
        let each = count.checked_div(queues.into()).unwrap_or(0);
        let each = each.min(Tickets::MOST.into()) as u16;
        let least = u32::from(HEADROOM).saturating_add(longest(super::LEAST_MTU));
        if each == 0 || size < least {
            // Every frame goes by its pages then.
            self.undivided = Some(lent);
            return Ok(());
        }
        let blocks = each.div_ceil(64);
        let sections = match Sections::new(lent, blocks.saturating_mul(queues)) {
            Ok(sections) => sections,
            Err((_, lent)) => {
                self.undivided = Some(lent);
                return Err(ConnectError::OutOfPages);
            }
        };
        for (index, queue) in (0..queues).zip(&mut self.queues) {
            let first = blocks.saturating_mul(index);
            if let Some(live) = &mut queue.live {
                let first_section = u32::from(each).saturating_mul(index.into());
                let mut tickets = sections.tickets(first, each);
                if let Some(tickets) = &mut tickets {
                    // All of them are inside the buffer.
                    tickets.cut(first_section.saturating_mul(size), size);
                }
                live.tx.tickets = tickets;
                live.tx.first_section = first_section;
                live.tx.section_size = size;
            }
        }
        self.tx = Some(sections);
        Ok(())
    }
}

impl<P: Platform, G: Gate> Live<'_, '_, P, G> {
    /// Has the host do what it can of what is asked for.
    fn agree_on_offloads(
        &mut self,
        platform: &P,
        timeout: u64,
        version: Version,
        asked: Offloads,
        capabilities: &mut Capabilities,
    ) -> Result<(), ConnectError> {
        let query = ndis::capabilities_query(version);
        let size = usize::from(query.get(2).copied().unwrap_or(0));
        let query = query.get(..size).unwrap_or(&query);
        let answer = self.query(platform, timeout, oid::OFFLOAD_HARDWARE_CAPABILITIES, query)?;
        let hardware = answer
            .information()?
            .map_or(Hardware::default(), Hardware::parse);
        let mut tx = hardware.tx() & asked;
        // A segment's checksum is always the host's.
        if !tx.contains(Offloads::CHECKSUM_TCP_V4) {
            tx.remove(Offloads::SEGMENT_V4);
        }
        if !tx.contains(Offloads::CHECKSUM_TCP_V6) {
            tx.remove(Offloads::SEGMENT_V6);
        }
        let mut rx = hardware.rx() & asked;
        let parameters = OffloadParameters::new(version, tx, rx);
        let size = usize::from(parameters.header.size);
        let bytes = parameters.as_bytes();
        let bytes = bytes.get(..size).unwrap_or(bytes);
        let status = self.set(platform, timeout, oid::OFFLOAD_PARAMETERS, bytes)?;
        if status != 0 {
            log::debug!("netvsc: nothing is offloaded, status {status:#x}");
            (tx, rx) = (Offloads::empty(), Offloads::empty());
        }
        if tx.intersects(Offloads::SEGMENT_V4 | Offloads::SEGMENT_V6) {
            capabilities.max_segmented = hardware.most.min(LONGEST_SEGMENT);
        }
        if version >= Version::V2 && asked.contains(Offloads::VLAN) {
            tx |= Offloads::VLAN;
            rx |= Offloads::VLAN;
        }
        (capabilities.tx, capabilities.rx) = (tx, rx);
        Ok(())
    }
}
