//! Agreeing on a version, and finding the disks of a controller.

use super::abi::{Operation, Packet, Properties, ProtocolVersion, REQUEST_COMPLETION, Version};
use super::page::PageSrb;
use super::scsi::{Capacity, Cdb, Inquiry, Mode, Sense};
use super::{Place, Storvsc, Way, outcome};
use crate::limits::{Limits, Unit};
use crate::transport::Data;
use core::fmt;
use heapless::Vec;
use hypercall::host::{HostError, Hypervisor};
use hypercall::platform::{deadline, wait_for};
use hypercall::shm::{Access, Buf, Pages, Pool};
use hypercall::{Gate, HostFault, Platform};
use vmbus::{Offer, OpenError, SendError, VmBus};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// How a controller is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Pages in the pool: 4 KiB each.
    pub pool_pages: usize,
    /// Pages of ring each way.
    pub ring_pages: usize,
    /// How long each step may take, in nanoseconds.
    pub timeout: u64,
    /// The best version to propose; below it the others follow.
    pub version: Version,
    /// The most bytes of one request, if the host allows as many.
    pub max_bytes: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pool_pages: 512,
            ring_pages: 17,
            timeout: 10_000_000_000,
            version: Version::WIN10,
            max_bytes: 256 << 10,
        }
    }
}

/// Why a controller could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The channel did not open.
    Channel(OpenError),
    /// The host broke the protocol.
    Host(HostFault),
    /// The host would not lend or take memory.
    Refused(HostError),
    /// The platform has no pages for the pool.
    OutOfPages,
    /// The host accepts no version of the protocol.
    NoVersion,
    /// The host failed a step of the set-up, with this status.
    Setup(Operation, u32),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(why) => why.fmt(f),
            Self::Host(fault) => fault.fmt(f),
            Self::Refused(why) => why.fmt(f),
            Self::OutOfPages => f.write_str("no pages for the pool"),
            Self::NoVersion => f.write_str("the host accepts no version of the storage protocol"),
            Self::Setup(step, status) => {
                write!(f, "the host failed set-up step {} with {status:#x}", step.0)
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

/// Ids of set-up packets: above any that the queue makes, and never 0.
const SETUP_ID: u64 = 1 << 63;

/// Bytes that INQUIRY, capacity and mode data fit in.
const ROOM: u8 = 96;

/// How often a command is tried that meets a unit attention, or a busy device.
const TRIES: u32 = 5;

impl<'b, 'h, P: Platform, G: Gate> Storvsc<'b, 'h, P, G> {
    /// Opens a SCSI controller and finds its disks. A controller without disks has no units.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(
        bus: &'b VmBus<'h, P, G>,
        offer: &Offer,
        config: Config,
    ) -> Result<Self, ConnectError> {
        let mut storvsc = Self {
            bus,
            hv: bus.hypervisor(),
            offer: offer.clone(),
            config,
            channel: None,
            pool: None,
            version: config.version,
            units: Vec::new(),
            places: Vec::new(),
            changed: false,
        };
        storvsc.open()?;
        Ok(storvsc)
    }

    pub(super) fn open(&mut self) -> Result<(), ConnectError> {
        if self.pool.is_none() {
            let pages = Pages::alloc(self.hv.platform(), self.config.pool_pages)
                .map_err(|_| ConnectError::OutOfPages)?;
            let lent = self
                .hv
                .share(pages, 0, Access::ReadWrite)
                .map_err(|(why, _)| ConnectError::Refused(why))?;
            self.pool = Some(Pool::new(lent).map_err(|_| ConnectError::OutOfPages)?);
        }
        // The user data of a SCSI controller's channel carries nothing.
        let channel = self
            .bus
            .open(&self.offer, self.config.ring_pages, &[])
            .map_err(ConnectError::Channel)?;
        self.channel = Some(channel);
        let opened = self.set_up().and_then(|max| self.find_disks(max));
        if opened.is_err()
            && let Some(channel) = self.channel.take()
            && let Err(why) = channel.close()
        {
            log::warn!("{}: closing: {why}", self.offer);
        }
        opened
    }

    /// The hand-shake. Returns the most bytes the host takes in one request.
    fn set_up(&mut self) -> Result<u32, ConnectError> {
        // The first step comes before any version is agreed on.
        self.version = self.config.version;
        self.step(Operation::BEGIN_INITIALIZATION, &[])?;
        self.version = self.negotiate()?;
        let answer = self.step(Operation::QUERY_PROPERTIES, &[])?;
        let (properties, _) = Properties::read_from_prefix(answer.short.srb.as_bytes())
            .map_err(|_| HostFault::Malformed)?;
        self.step(Operation::END_INITIALIZATION, &[])?;
        Ok(properties.max_transfer_bytes)
    }

    fn negotiate(&mut self) -> Result<Version, ConnectError> {
        for version in Version::ALL {
            if version > self.config.version {
                continue;
            }
            let proposal = ProtocolVersion {
                major_minor: version,
                revision: 0,
            };
            // The proposal itself has the size that the proposed version has.
            self.version = version;
            match self.step(Operation::QUERY_PROTOCOL_VERSION, proposal.as_bytes()) {
                Ok(_) => return Ok(version),
                Err(ConnectError::Setup(..)) => {}
                Err(why) => return Err(why),
            }
        }
        Err(ConnectError::NoVersion)
    }

    /// One step of the hand-shake: a message whose body starts where a request would.
    fn step(&mut self, operation: Operation, body: &[u8]) -> Result<Packet, ConnectError> {
        let mut packet = Packet::new_zeroed();
        packet.short.operation = operation;
        packet.short.flags = REQUEST_COMPLETION;
        if let Some(room) = packet.short.srb.as_mut_bytes().get_mut(..body.len()) {
            room.copy_from_slice(body);
        }
        let answer = self.exchange(&packet, None)?;
        match answer.short.status {
            0 => Ok(answer),
            status => Err(ConnectError::Setup(operation, status)),
        }
    }

    /// Sends a packet and waits for its completion.
    fn exchange(&mut self, packet: &Packet, data: Option<&Buf>) -> Result<Packet, ConnectError> {
        self.write(SETUP_ID, packet, data.and_then(Data::of))
            .map_err(|why| match why {
                SendError::Fault(fault) => fault,
                _ => HostFault::NoAnswer,
            })?;
        if let Some(channel) = &mut self.channel {
            channel.flush();
        }
        let platform = self.hv.platform().clone();
        let until = deadline(&platform, self.config.timeout);
        let answer = wait_for(&platform, until, || {
            loop {
                let found = self.read();
                if let Some(channel) = &mut self.channel {
                    channel.done();
                    if channel.is_rescinded() {
                        return Some(Err(HostFault::Withdrawn));
                    }
                }
                match found {
                    Ok(Some((SETUP_ID, answer))) => return Some(Ok(answer)),
                    Ok(Some(_)) => return Some(Err(HostFault::UnknownId)),
                    Err(fault) => return Some(Err(fault)),
                    Ok(None) => match self.channel.as_mut().map(|c| c.arm()) {
                        Some(Ok(true)) => {}
                        Some(Err(fault)) => return Some(Err(fault)),
                        _ => return None,
                    },
                }
            }
        });
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(fault)) => Err(fault.into()),
            Err(_) => Err(HostFault::NoAnswer.into()),
        }
    }

    /// Runs a command that brings data. `None` when the device says no.
    fn ask(
        &mut self,
        target: u8,
        lun: u8,
        cdb: &Cdb,
        into: &mut [u8],
    ) -> Result<Option<usize>, ConnectError> {
        for _ in 0..TRIES {
            let data = match into.len() {
                0 => None,
                len => Some(
                    self.pool
                        .as_ref()
                        .and_then(|pool| pool.alloc(len))
                        .ok_or(ConnectError::OutOfPages)?,
                ),
            };
            let way = if data.is_some() { Way::In } else { Way::None };
            let packet = self.command(target, lun, cdb, way, into.len() as u32);
            let answer = self.exchange(&packet, data.as_ref())?;
            let srb = &answer.short.srb;
            if outcome(&answer).is_ok() {
                let moved = srb.data_transfer_length as usize;
                if moved > into.len() {
                    return Err(HostFault::Length.into());
                }
                if let (Some(data), Some(part)) = (&data, into.get_mut(..moved)) {
                    data.read_at(0, part).map_err(|_| HostFault::Length)?;
                }
                return Ok(Some(moved));
            }
            let room = usize::from(srb.sense_info_length).min(srb.cdb.len());
            let attention = srb
                .cdb
                .get(..room)
                .and_then(Sense::parse)
                .is_some_and(Sense::is_attention);
            if !attention {
                return Ok(None);
            }
        }
        Ok(None)
    }

    fn find_disks(&mut self, max_transfer: u32) -> Result<(), ConnectError> {
        self.units.clear();
        self.places.clear();
        for lun in self.luns()? {
            let Some((place, limits)) = self.probe(0, lun, max_transfer)? else {
                continue;
            };
            let unit = Unit {
                address: lun.into(),
                limits,
            };
            if self.units.push(unit).is_err() || self.places.push(place).is_err() {
                log::warn!("{}: more than {} disks", self.offer, super::UNITS);
                break;
            }
        }
        Ok(())
    }

    /// The logical units there may be: those the controller reports, or else all that could be.
    fn luns(&mut self) -> Result<Vec<u8, 64>, ConnectError> {
        // A header of 8 bytes, then 8 bytes for each.
        const BYTES: usize = 8 + 64 * 8;
        let mut list = [0u8; BYTES];
        let mut luns = Vec::new();
        let got = self.ask(0, 0, &Cdb::report_luns(BYTES as u16), &mut list)?;
        let entries = got.and_then(|got| list.get(8..got)).unwrap_or_default();
        let said = u32::from_be_bytes(*list.first_chunk().unwrap_or(&[0; 4])) as usize;
        for entry in entries.chunks_exact(8).take(said / 8) {
            // Peripheral addressing: the second byte is the unit, the first 0.
            if let [0, lun, ..] = entry {
                let _ = luns.push(*lun);
            }
        }
        if luns.is_empty() {
            luns.extend(0..64);
        }
        Ok(luns)
    }

    /// Looks at one logical unit. `None` when there is no disk.
    fn probe(
        &mut self,
        target: u8,
        lun: u8,
        max_transfer: u32,
    ) -> Result<Option<(Place, Limits)>, ConnectError> {
        let mut data = [0u8; ROOM as usize];
        let got = self.ask(target, lun, &Cdb::inquiry(ROOM), &mut data)?;
        let inquiry = got.and_then(|got| Inquiry::parse(data.get(..got)?));
        if !inquiry.is_some_and(Inquiry::is_disk) {
            return Ok(None);
        }
        self.ask(target, lun, &Cdb::test_unit_ready(), &mut [])?;
        let Some(capacity) = self.capacity(target, lun)? else {
            return Ok(None);
        };
        let size = capacity.block_size;
        if !(512..=65536).contains(&size) || !size.is_power_of_two() {
            log::warn!("{}: unit {lun} has blocks of {size} bytes", self.offer);
            return Ok(None);
        }
        let shift = (size >> 9).trailing_zeros();
        let Some(sectors) = capacity.blocks.checked_mul(u64::from(size >> 9)) else {
            return Err(HostFault::Malformed.into());
        };
        // Hosts may refuse MODE SENSE; then writes will tell.
        let got = self.ask(target, lun, &Cdb::mode_sense_caching(ROOM), &mut data)?;
        let mode = got.and_then(|got| Mode::parse(data.get(..got)?));
        let mut limits = Limits::new(sectors);
        limits.sector_size = size;
        limits.read_only = mode.is_some_and(|m| m.write_protected);
        limits.flush = mode.and_then(|m| m.write_cache).unwrap_or(true);
        let bytes = max_transfer.min(self.config.max_bytes) & !4095;
        limits.max_bytes = bytes.max(4096);
        // One more page than whole ones: the first piece may start inside its page.
        limits.max_segments = u16::try_from(limits.max_bytes >> 12)
            .unwrap_or(u16::MAX)
            .saturating_add(1);
        let place = Place {
            target,
            lun,
            shift: shift as u8,
            page: PageSrb::new(self.version, target, lun, &limits),
        };
        Ok(Some((place, limits)))
    }

    fn capacity(&mut self, target: u8, lun: u8) -> Result<Option<Capacity>, ConnectError> {
        let mut data = [0u8; 32];
        let ten = data.get_mut(..8).unwrap_or_default();
        let got = self.ask(target, lun, &Cdb::read_capacity10(), ten)?;
        let ten = got.and_then(|got| Capacity::parse10(data.get(..got)?));
        // Ten bytes say "too large for ten bytes" by the largest number they have.
        if ten.is_some_and(|c| c.blocks <= u64::from(u32::MAX)) {
            return Ok(ten);
        }
        let got = self.ask(target, lun, &Cdb::read_capacity16(32), &mut data)?;
        Ok(got.and_then(|got| Capacity::parse16(data.get(..got)?)))
    }
}
