//! Finding out about a disk and agreeing with its back end, through xenstore
//! (`xen/include/public/io/blkif.h`, "State Diagrams").

use super::abi::{self, RequestHeader};
use super::ring::Ring;
use super::{Blkif, Link};
use crate::limits::{Limits, Unit};
use crate::places::PagePlaces;
use core::fmt;
use hypercall::host::{HostError, Hypervisor};
use hypercall::shm::{Access, Pages, Pool};
use hypercall::xen::Xen;
use hypercall::{Gate, HostFault, Platform, Port};
use xenbus::{Device, FrontendError, State, StoreError, XenBus};

/// How a disk is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Pages in the pool, all granted for as long as the disk is open: 4 KiB each. The default
    /// of 352 fills the ring with the largest requests it can hold.
    pub pool_pages: usize,
    /// How long each step of connecting or closing may take, in nanoseconds.
    pub timeout: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pool_pages: 352,
            timeout: 10_000_000_000,
        }
    }
}

/// Why a disk could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// Xenstore failed, or the back end did not play its part.
    Frontend(FrontendError),
    /// The hypervisor refused a grant or an event channel.
    Host(HostError),
    /// The platform has no pages for ring or pool.
    OutOfPages,
    /// The back end described the disk in a way that makes no sense.
    BadDisk(&'static str),
    /// The device is a CD-ROM or the like.
    NotADisk,
    /// The pool is granted to another domain than the one that now serves the disk.
    OtherPeer,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frontend(why) => why.fmt(f),
            Self::Host(why) => why.fmt(f),
            Self::OutOfPages => f.write_str("no pages for the ring or the pool"),
            Self::BadDisk(what) => write!(f, "the back end gives a bad {what}"),
            Self::NotADisk => f.write_str("not a disk"),
            Self::OtherPeer => f.write_str("another domain serves the disk now"),
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

impl<'b, 'h, P: Platform, G: Gate> Blkif<'b, 'h, P, G> {
    /// Connects to a `vbd`.
    ///
    /// # Errors
    /// [`ConnectError`]; nothing stays granted that the host could not hold on to.
    pub fn connect(
        bus: &'b XenBus<'h, P, G>,
        device: &Device,
        config: Config,
    ) -> Result<Self, ConnectError> {
        let frontend = bus.frontend(device)?;
        let mut blkif = Self {
            peer: frontend.backend_domid(),
            frontend,
            xen: bus.store().xen(),
            config,
            link: None,
            pool: None,
            unit: [Unit {
                address: device.id,
                limits: Limits::new(0),
            }],
            pages: PagePlaces::default(),
            flush: abi::OP_FLUSH_DISKCACHE,
            // The low half is what the handle of a request has room for; back ends ignore it.
            handle: device.id as u16,
            page: RequestHeader::of_page(device.id as u16),
        };
        blkif.open_link()?;
        Ok(blkif)
    }

    /// From whatever state the device is in to Connected.
    pub(super) fn open_link(&mut self) -> Result<(), ConnectError> {
        self.frontend.prepare(self.config.timeout)?;
        let peer = self.frontend.backend_domid();
        if self.pool.is_some() && peer != self.peer {
            return Err(ConnectError::OtherPeer);
        }
        self.peer = peer;
        if self.pool.is_none() {
            self.pool = Some(lend_pool(self.xen, peer, self.config.pool_pages)?);
        }
        let page = Pages::alloc(self.xen.platform(), 1).map_err(|_| ConnectError::OutOfPages)?;
        let page = self
            .xen
            .share(page, peer, Access::ReadWrite)
            .map_err(|(why, _)| why)?;
        let Some(grant) = page.grant() else {
            return Err(ConnectError::Host(HostError::Unsupported));
        };
        let channel = match self.xen.alloc_unbound(peer) {
            Ok(channel) => channel,
            Err(why) => {
                drop(self.xen.unshare(page));
                return Err(ConnectError::Host(why));
            }
        };
        self.link = Some(Link {
            ring: Ring::new(page),
            port: Port {
                to: channel,
                from: channel,
            },
        });
        let agreed = self.agree(grant, channel);
        if agreed.is_err() {
            // The back end may have mapped the ring already; closing waits for it to let go.
            let _ = self.close_link();
        }
        agreed
    }

    fn agree(&mut self, grant: u32, channel: u32) -> Result<(), ConnectError> {
        self.frontend.publish(&[
            ("ring-ref", &grant),
            ("event-channel", &channel),
            ("protocol", &"x86_64-abi"),
        ])?;
        self.frontend.set_state(State::Initialised)?;
        self.frontend
            .wait_backend(State::Connected, self.config.timeout)?;
        let limits = self.read_limits()?;
        self.pages = PagePlaces::of(&limits, u64::MAX);
        let [unit] = &mut self.unit;
        unit.limits = limits;
        self.frontend.set_state(State::Connected)?;
        Ok(())
    }

    fn read_limits(&mut self) -> Result<Limits, ConnectError> {
        let number = |key| self.frontend.read_backend::<u64>(key);
        let info = number("info")?.unwrap_or(0) as u32;
        if info & abi::INFO_CDROM != 0 {
            return Err(ConnectError::NotADisk);
        }
        let sectors = number("sectors")?.ok_or(ConnectError::BadDisk("size"))?;
        let size = number("sector-size")?.unwrap_or(512);
        let sector_size = u32::try_from(size).unwrap_or(0);
        if !(512..=4096).contains(&sector_size) || !sector_size.is_power_of_two() {
            return Err(ConnectError::BadDisk("sector size"));
        }
        let per_sector = u64::from(sector_size >> 9);
        // `mode` is the toolstack's word, `info` the back end's; either may forbid writing.
        let mode = self.frontend.read_backend_str::<4>("mode")?;
        let flush = self.frontend.feature("feature-flush-cache");
        let barrier = self.frontend.feature("feature-barrier");
        self.flush = if flush {
            abi::OP_FLUSH_DISKCACHE
        } else {
            abi::OP_WRITE_BARRIER
        };
        let mut limits = Limits::new(sectors & !per_sector.wrapping_sub(1));
        limits.sector_size = sector_size;
        limits.max_segments = abi::MAX_SEGMENTS as u16;
        limits.max_bytes = (abi::MAX_SEGMENTS as u32).wrapping_mul(4096);
        limits.gapless = false;
        limits.read_only = info & abi::INFO_READONLY != 0 || mode.is_some_and(|m| !m.contains('w'));
        limits.flush = flush || barrier;
        limits.discard = self.frontend.feature("feature-discard");
        Ok(limits)
    }

    /// To Closed, and the ring back.
    pub(super) fn close_link(&mut self) -> Result<(), HostFault> {
        let closed = self.frontend.close(self.config.timeout);
        let Some(Link { ring, port }) = self.link.take() else {
            return Ok(());
        };
        self.xen.close_port(port.to);
        // The grant entry itself tells whether the back end has unmapped the ring; that it says
        // Closed, or nothing, decides nothing about memory.
        let freed = self.xen.unshare(ring.into_page());
        match (closed, freed) {
            (Ok(()), Ok(_)) => Ok(()),
            (Err(why), Ok(_)) => {
                log::warn!("{}: closing: {why}", self.frontend.device());
                Ok(())
            }
            (_, Err(_)) => Err(HostFault::MemoryHeld),
        }
    }
}

fn lend_pool<P: Platform, G: Gate>(
    xen: &Xen<P, G>,
    peer: u16,
    pages: usize,
) -> Result<Pool<P>, ConnectError> {
    let pages = Pages::alloc(xen.platform(), pages).map_err(|_| ConnectError::OutOfPages)?;
    let lent = xen
        .share(pages, peer, Access::ReadWrite)
        .map_err(|(why, _)| why)?;
    Pool::new(lent).map_err(|(_, lent)| {
        drop(xen.unshare(lent));
        ConnectError::OutOfPages
    })
}
