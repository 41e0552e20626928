//! Xen's block interface, blkif: the front end.
//!
//! `abi` is the wire, `words` how it is written, `ring` the shared page, `connect` the hand-shake
//! through xenstore, and [`Blkif`] joins them to grants and an event channel.

pub mod abi;
mod connect;
pub mod ring;
mod words;

use crate::limits::Unit;
use crate::places::PagePlaces;
use crate::request::{IoError, Op};
use crate::transport::{Answer, PageWire, PushError, Says, Transport, Wire};
use abi::{RequestHeader, Segment};
pub use connect::{Config, ConnectError};
use core::fmt;
use core::task::Waker;
use hypercall::bus::{Rest, Verdict};
use hypercall::host::Hypervisor;
use hypercall::shm::Pool;
use hypercall::xen::Xen;
use hypercall::{Gate, HostFault, Platform, Port};
use ring::Ring;
use xenbus::Frontend;

/// A Xen virtual block device: one ring of one page, its pool granted once and for good.
pub struct Blkif<'b, 'h, P: Platform, G: Gate> {
    frontend: Frontend<'b, 'h, P, G>,
    xen: &'h Xen<P, G>,
    config: Config,
    link: Option<Link<P>>,
    pool: Option<Pool<P>>,
    /// The domain the pool is granted to.
    peer: u16,
    unit: [Unit; 1],
    /// Where on it whole pages go.
    pages: PagePlaces,
    /// The operation that flushes here: a flush proper, or an empty barrier.
    flush: u8,
    handle: u16,
    /// The first word of a request of one page, but for its operation.
    page: u64,
}

/// What a connection has and a closed device has not.
struct Link<P: Platform> {
    ring: Ring<P>,
    port: Port,
}

impl<P: Platform, G: Gate> fmt::Debug for Blkif<'_, '_, P, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blkif")
            .field("device", self.frontend.device())
            .field("connected", &self.link.is_some())
            .finish()
    }
}

impl<P: Platform, G: Gate> Blkif<'_, '_, P, G> {
    /// Gives the pool's pages back to the platform, after
    /// [`disconnect`](Transport::disconnect). `false` while buffers are out or the back end still
    /// maps a page; nothing is lost then, and it may be tried again.
    pub fn release_pool(&mut self) -> bool {
        let Some(pool) = self.pool.take() else {
            return true;
        };
        match pool.close() {
            // A run that is still mapped is leaked by its drop, which is the safe thing.
            Ok(lent) => self.xen.unshare(lent).is_ok(),
            Err(pool) => {
                self.pool = Some(pool);
                false
            }
        }
    }
}

/// A piece of a buffer as a request names it. The queue lets no empty piece through.
#[inline(always)]
fn segment(piece: hypercall::shm::Segment) -> Segment {
    Segment {
        gref: piece.token as u32,
        first_sect: (piece.offset >> 9) as u8,
        last_sect: (u32::from(piece.offset)
            .wrapping_add(u32::from(piece.len))
            .wrapping_sub(1)
            >> 9) as u8,
        pad: 0,
    }
}

/// What a response's status means that is not success.
#[cold]
fn refusal(status: i16) -> Result<(), IoError> {
    match status {
        abi::RSP_EOPNOTSUPP => Err(IoError::Unsupported),
        _ => Err(IoError::Failed),
    }
}

/// What an answer of plain success says.
#[inline(always)]
const fn plain(operation: u8) -> u32 {
    words::says(operation as u64 | (abi::RSP_OKAY as u64) << 16)
}

impl<P: Platform, G: Gate> Transport for Blkif<'_, '_, P, G> {
    type Platform = P;

    fn platform(&self) -> &P {
        self.xen.platform()
    }

    fn pool(&self) -> Option<&Pool<P>> {
        self.pool.as_ref()
    }

    #[inline]
    fn units(&self) -> &[Unit] {
        &self.unit
    }

    fn depth(&self) -> usize {
        abi::RING_SIZE as usize
    }

    #[inline(always)]
    fn push_page(&mut self, page: PageWire) -> Option<u32> {
        // There is but one unit, and the queue lets no other through.
        if page.unit != 0 || !self.pages.contains(page.write, page.sector) {
            return None;
        }
        let operation = if page.write {
            abi::OP_WRITE
        } else {
            abi::OP_READ
        };
        self.link.as_mut()?.ring.write_page([
            u64::from(operation) | self.page,
            page.id,
            page.sector,
            Segment::of_page(page.token as u32),
        ]);
        Some(plain(operation))
    }

    #[inline]
    fn push(&mut self, wire: Wire<'_>) -> Result<u32, PushError> {
        let Some(link) = &mut self.link else {
            return Err(PushError::Fault(HostFault::Withdrawn));
        };
        let operation = match wire.op {
            Op::Read => abi::OP_READ,
            Op::Write => abi::OP_WRITE,
            Op::Flush => self.flush,
            Op::Discard => abi::OP_DISCARD,
        };
        let header = RequestHeader {
            operation,
            nr_segments: 0,
            handle: self.handle,
            pad: 0,
            id: wire.id,
            sector_number: wire.sector,
        };
        match wire.data {
            Some(data) => {
                let rest = data.rest.map(segment);
                link.ring.write(header, segment(data.first), rest);
            }
            None => link.ring.write_bare(header, wire.count),
        }
        Ok(plain(operation))
    }

    #[inline]
    fn publish(&mut self) {
        if let Some(link) = &mut self.link
            && link.ring.publish()
        {
            self.xen.signal(link.port);
        }
    }

    #[inline(always)]
    fn pop_plain(&mut self, mut each: impl FnMut(u64, u32) -> Verdict) -> Rest {
        let Some(link) = &mut self.link else {
            return Rest::Odd;
        };
        let shown = link.ring.show(|[id, rest]| each(id, words::says(rest)));
        // A fault shows again at the closer look.
        shown.unwrap_or(Rest::Odd)
    }

    #[inline]
    fn pop(&mut self) -> Result<Option<Answer>, HostFault> {
        let Some(link) = &mut self.link else {
            return Err(HostFault::Withdrawn);
        };
        let Some(response) = link.ring.take()? else {
            return Ok(None);
        };
        Ok(Some(Answer {
            id: response.id,
            says: Says::Operation(response.operation),
            result: match response.status {
                abi::RSP_OKAY => Ok(()),
                status => refusal(status),
            },
        }))
    }

    fn take_pending(&mut self) {
        if let Some(link) = &self.link {
            // The signal is only a hint to look.
            let _ = self.xen.take_pending(link.port);
        }
    }

    #[inline]
    fn arm(&mut self) -> Result<bool, HostFault> {
        match &mut self.link {
            Some(link) if !self.frontend.gone() => Ok(link.ring.arm()),
            _ => Err(HostFault::Withdrawn),
        }
    }

    fn register_waker(&self, waker: &Waker) {
        if let Some(link) = &self.link
            && self.xen.register_waker(link.port, waker).is_err()
        {
            // No place to wait in: have the task look again at once rather than never.
            waker.wake_by_ref();
        }
    }

    fn disconnect(&mut self) -> Result<(), HostFault> {
        self.close_link()
    }

    fn reconnect(&mut self) -> Result<(), HostFault> {
        self.open_link().map_err(|why| {
            log::warn!("{}: {why}", self.frontend.device());
            HostFault::NoAnswer
        })
    }
}
