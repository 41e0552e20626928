//! One queue pair: a ring each way, their event channels, and what is known of the interface.

use super::accept::{Chain, Terms, VLAN_TAG};
use super::news::News;
use super::rx::Rx;
use super::tx::Tx;
use crate::ETHERNET_HEADER;
use crate::capabilities::{Capabilities, Event, Stats};
use crate::frame::{Body, Claimed, RxFrame, TxFrame};
use crate::line::Line;
use crate::net::{ClaimError, NetQueue, ReserveError, SendError};
use core::fmt;
use core::task::Waker;
use hypercall::host::Hypervisor;
use hypercall::shm::{Access, Buf, Lent};
use hypercall::xen::Xen;
use hypercall::{Gate, HostFault, Platform, Port};

/// How often a look at the ring may come up empty after the host claimed there is more, before
/// the host is left alone until the next call.
const PATIENCE: u32 = 4;
/// How long is slept at most while the host has hardly a page to receive into, in nanoseconds: no
/// interrupt tells of dropped frames.
const STARVED: u64 = 1_000_000;

/// What the back end may do with pages that it receives into for us.
pub(super) const RX_ACCESS: Access = Access::ReadWrite;

/// One queue pair of a [`Netif`](super::Netif).
pub struct Queue<'b, 'h, P: Platform, G: Gate> {
    pub(super) xen: &'h Xen<P, G>,
    pub(super) tx: Tx<P>,
    pub(super) rx: Rx<P>,
    pub(super) can: Capabilities,
    rx_bytes: u64,
    tx_bytes: u64,
    /// Whether the back end takes frames of more pieces.
    pub(super) sg: bool,
    pub(super) fault: Option<HostFault>,
    pub(super) ports: Option<Ports>,
    pub(super) news: News<'b, 'h, P, G>,
    pub(super) line: Line<P>,
    /// The one that has the news.
    is_first: bool,
    pub(super) stats: Stats,
    /// Somebody waits for room, and the host will tell of it.
    waits: bool,
    /// Pages of frames that were claimed, and not lent again yet.
    withdrawn: usize,
    /// Rings that the host did not let go of.
    pub(super) held: heapless::Vec<Lent<P>, 2>,
}

/// The event channels of a queue; the same one twice where they are not split.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) tx: Port,
    pub(super) rx: Port,
}

impl<P: Platform, G: Gate> fmt::Debug for Queue<'_, '_, P, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("in_flight", &self.tx.in_flight())
            .field("posted", &self.rx.posted())
            .field("fault", &self.fault)
            .finish()
    }
}

impl<'b, 'h, P: Platform, G: Gate> Queue<'b, 'h, P, G> {
    pub(super) fn new(
        xen: &'h Xen<P, G>,
        can: Capabilities,
        line: Line<P>,
        is_first: bool,
    ) -> Option<Self> {
        let platform = xen.platform();
        Some(Self {
            xen,
            tx: Tx::new(platform).ok()?,
            rx: Rx::new(platform).ok()?,
            can,
            rx_bytes: 0,
            tx_bytes: 0,
            sg: false,
            fault: Some(HostFault::Withdrawn),
            ports: None,
            news: News::none(),
            line,
            is_first,
            stats: Stats::default(),
            waits: false,
            withdrawn: 0,
            held: heapless::Vec::new(),
        })
    }

    /// Latches a fault: nothing is sent or received until the interface is connected anew.
    #[cold]
    pub(super) fn fail(&mut self, fault: HostFault) {
        if self.fault.is_none() {
            log::warn!("network queue failed: {fault}");
            self.fault = Some(fault);
        }
        self.tx.set_most(0);
        self.tx.stop();
        self.rx.stop();
    }

    /// Takes note of what the interface can do now.
    pub(super) fn learn(&mut self, can: Capabilities, sg: bool) {
        self.can = can;
        self.sg = sg;
        self.tx.set_most(match self.fault {
            None => usize::from(can.mtu).saturating_add(ETHERNET_HEADER),
            Some(_) => 0,
        });
    }

    /// Begins to work over a connection that was just made.
    pub(super) fn start(&mut self) {
        self.fault = None;
        self.learn(self.can, self.sg);
        self.waits = false;
        if let Some(ports) = self.ports {
            // The back end may have looked at the rings before it could be told of them.
            self.tx.publish();
            self.rx.publish();
            self.xen.signal(ports.rx);
            self.xen.signal(ports.tx);
        }
    }

    #[inline]
    fn publish_tx(&mut self) {
        if self.tx.publish()
            && let Some(ports) = self.ports
        {
            self.xen.signal(ports.tx);
        }
    }

    #[inline]
    fn publish_rx(&mut self) {
        if self.rx.publish()
            && let Some(ports) = self.ports
        {
            self.xen.signal(ports.rx);
        }
    }

    fn reap(&mut self) -> Result<(), HostFault> {
        let reaped = self.tx.reap();
        if let Err(fault) = reaped {
            self.fail(fault);
        }
        reaped
    }

    /// Asks to be told when there is room; whether there may be some now.
    #[cold]
    fn wait_for_room(&mut self, all: bool) -> bool {
        if let Some(ports) = self.ports {
            // The signal is only a hint to look, which is what happens next in any case.
            let _ = self.xen.take_pending(ports.tx);
        }
        self.waits = true;
        self.publish_tx();
        self.tx.arm(all)
    }

    #[inline(never)]
    fn reserve_any(&mut self, len: usize) -> Result<Body, ReserveError> {
        if let Some(fault) = self.fault {
            return Err(ReserveError::Failed(fault));
        }
        let frame = usize::from(self.can.mtu)
            .saturating_add(ETHERNET_HEADER)
            .saturating_add(VLAN_TAG);
        if len > frame.max(self.can.max_segmented as usize) {
            return Err(ReserveError::TooLong);
        }
        for _ in 0..PATIENCE {
            self.reap().map_err(ReserveError::Failed)?;
            if let Some(body) = self.tx.alloc(len) {
                return Ok(body);
            }
            if self.tx.in_flight() == 0 || !self.wait_for_room(false) {
                break;
            }
        }
        Err(ReserveError::Full)
    }

    #[inline(never)]
    fn send_any(&mut self, frame: TxFrame) -> Result<(), (SendError, TxFrame)> {
        if let Some(fault) = self.fault {
            return Err((SendError::Failed(fault), frame));
        }
        let chain = match self.accept(&frame) {
            Ok(chain) => chain,
            Err(why) => return Err((why, frame)),
        };
        let (len, headroom) = (frame.len(), usize::from(frame.headroom()));
        let mut buf = match frame.into_parts() {
            (Body::Piece(piece), _) => Buf::from(piece),
            (Body::Buf(buf), _) => buf,
            // It was none a moment ago.
            (Body::Section(_), _) => return Ok(()),
        };
        buf.advance(headroom);
        self.tx.send_chain(buf, chain);
        self.count_sent(len);
        Ok(())
    }

    /// What a frame will be on the wire, for which there is room on the ring.
    fn accept(&mut self, frame: &TxFrame) -> Result<Chain, SendError> {
        let is_ours = match (frame.body(), self.tx.pool()) {
            (Body::Piece(piece), Some(pool)) => piece.pool() == pool.id(),
            (Body::Buf(buf), Some(pool)) => buf.is_from(pool),
            _ => false,
        };
        if !is_ours {
            return Err(SendError::OtherQueue);
        }
        let (can, sg) = (&self.can, self.sg);
        let chain = Terms { can, sg }.accept(frame)?;
        self.make_room(chain.slots())?;
        Ok(chain)
    }

    #[inline(always)]
    fn count_sent(&mut self, bytes: usize) {
        self.tx_bytes = self.tx_bytes.wrapping_add(bytes as u64);
    }

    fn make_room(&mut self, slots: usize) -> Result<(), SendError> {
        for _ in 0..PATIENCE {
            if self.tx.make_room(slots) {
                return Ok(());
            }
            self.reap().map_err(SendError::Failed)?;
            if self.tx.make_room(slots) {
                return Ok(());
            }
            if !self.wait_for_room(false) {
                break;
            }
        }
        Err(SendError::Full)
    }

    /// The next frame, by the long way; whether there may be one.
    #[inline(never)]
    fn rx_any(&mut self, some: bool) -> Result<Option<RxFrame>, HostFault> {
        let taken = self.rx_or_rest(some);
        match &taken {
            Ok(Some(frame)) => self.count_received(frame.len()),
            Ok(None) => {}
            Err(fault) => self.fail(*fault),
        }
        taken
    }

    #[inline(always)]
    fn count_received(&mut self, bytes: usize) {
        self.rx_bytes = self.rx_bytes.wrapping_add(bytes as u64);
    }

    fn rx_or_rest(&mut self, some: bool) -> Result<Option<RxFrame>, HostFault> {
        let mut some = some;
        self.lend_returned();
        for _ in 0..PATIENCE {
            if some && let Some(frame) = self.rx.take()? {
                if self.rx.is_due() {
                    self.publish_rx();
                }
                return Ok(Some(frame));
            }
            some = true;
            if self.news.is_gone() {
                return Err(HostFault::Withdrawn);
            }
            if !self.rest()? {
                break;
            }
        }
        Ok(None)
    }

    /// There is nothing to receive: does what is put off until then, and has the host interrupt
    /// for the next frame. Whether there is one after all.
    fn rest(&mut self) -> Result<bool, HostFault> {
        self.hear();
        self.publish_tx();
        self.tx.reap()?;
        self.rx.fill();
        self.publish_rx();
        if let Some(ports) = self.ports {
            // The signal is only a hint to look, which is what happens next in any case.
            let _ = self.xen.take_pending(ports.rx);
        }
        Ok(self.rx.arm())
    }

    /// Lends again what was claimed and dropped.
    pub(super) fn lend_returned(&mut self) {
        if self.withdrawn != 0
            && let Some(pool) = self.rx.pool()
        {
            let lent = self.xen.lend_returned(pool, RX_ACCESS);
            self.withdrawn = self.withdrawn.wrapping_sub(lent);
        }
    }

    fn has_events(&mut self) -> bool {
        let any = self.news.has_events(&mut self.can);
        if any {
            self.line.tell(&self.can);
            self.learn(self.can, self.sg);
        }
        any
    }

    /// Takes over what the first queue knows.
    fn hear(&mut self) {
        if !self.is_first && self.line.hear(&mut self.can) {
            self.learn(self.can, self.sg);
        }
    }

    /// Whether there is no reason to wait.
    fn is_busy(&mut self) -> bool {
        self.fault.is_some()
            || self.has_events()
            || self.news.is_gone()
            || self.rest().unwrap_or(true)
            || (self.waits && self.tx.has_answers())
    }
}

impl<P: Platform, G: Gate> NetQueue for Queue<'_, '_, P, G> {
    fn capabilities(&self) -> &Capabilities {
        &self.can
    }

    #[inline(always)]
    fn rx(&mut self) -> Result<Option<RxFrame>, HostFault> {
        let mut plain = self.rx.take_plain();
        if plain.is_none() {
            if let Some(fault) = self.fault {
                return Err(fault);
            }
            if self.rx.is_due() {
                self.publish_rx();
            }
            match self.rx.look() {
                Ok(true) => plain = self.rx.take_plain(),
                Ok(false) => return self.rx_any(false),
                // It is found again by the long way.
                Err(_) => return self.rx_any(true),
            }
        }
        let Some(plain) = plain else {
            return self.rx_any(true);
        };
        self.count_received(plain.len().into());
        Ok(Some(plain.into_frame()))
    }

    fn claim(&mut self, frame: RxFrame) -> Result<Claimed, (ClaimError, RxFrame)> {
        let (body, meta) = frame.into_parts();
        let refuse = |why, body| Err((why, RxFrame::new(body, meta)));
        let buf = match body {
            Body::Piece(piece) => Buf::from(piece),
            Body::Buf(buf) => buf,
            Body::Section(_) => return refuse(ClaimError::OtherQueue, body),
        };
        match self.rx.pool() {
            Some(pool) if buf.is_from(pool) => {
                let pages = buf.pages();
                match self.xen.withdraw(pool, buf, RX_ACCESS) {
                    Ok(memory) => {
                        self.withdrawn = self.withdrawn.wrapping_add(pages);
                        Ok(Claimed::new(memory, meta))
                    }
                    Err((_, buf)) => refuse(ClaimError::StillInUse, Body::Buf(buf)),
                }
            }
            _ => refuse(ClaimError::OtherQueue, Body::Buf(buf)),
        }
    }

    #[inline(always)]
    fn tx_reserve(&mut self, len: usize) -> Result<TxFrame, ReserveError> {
        // A length of 0 goes the long way.
        let body = match self.tx.reuse(len) {
            Some(piece) => Body::Piece(piece),
            None => self.reserve_any(len)?,
        };
        // Its headroom is none, so it always has one.
        TxFrame::new(body, 0).ok_or(ReserveError::Full)
    }

    #[inline(always)]
    fn send(&mut self, frame: TxFrame) -> Result<(), (SendError, TxFrame)> {
        if !self.tx.is_plain(&frame) {
            return self.send_any(frame);
        }
        if let (Body::Piece(piece), _) = frame.into_parts() {
            self.count_sent(piece.len().into());
            self.tx.send_plain(piece);
        }
        Ok(())
    }

    #[inline]
    fn publish(&mut self) {
        self.publish_tx();
    }

    fn in_flight(&mut self) -> usize {
        // A fault shows elsewhere.
        let _ = self.reap();
        if self.tx.in_flight() != 0 && self.fault.is_none() && self.wait_for_room(true) {
            let _ = self.reap();
        }
        self.tx.in_flight()
    }

    fn stats(&self) -> Stats {
        let mut stats = self.stats;
        stats.rx_frames = self.rx.frames();
        stats.tx_frames = self.tx.frames();
        stats.rx_bytes = self.rx_bytes;
        stats.tx_bytes = self.tx_bytes;
        stats.rx_dropped = self.rx.dropped;
        stats.tx_errors = self.tx.errors;
        for pool in [self.tx.pool(), self.rx.pool()].into_iter().flatten() {
            stats.copied = stats.copied.wrapping_add(pool.copied());
        }
        stats
    }

    fn fault(&self) -> Option<HostFault> {
        self.fault
    }

    fn event(&mut self) -> Option<Event> {
        if !self.has_events() {
            return None;
        }
        self.news.event()
    }

    fn register_waker(&mut self, waker: &Waker) {
        let Some(ports) = self.ports else {
            waker.wake_by_ref();
            return;
        };
        let lines = [ports.tx, ports.rx];
        for port in lines {
            // What was signalled until now is seen by the look that follows.
            let _ = self.xen.take_pending(port);
        }
        let mut registered = lines
            .iter()
            .map(|port| self.xen.register_waker(*port, waker).is_ok());
        if registered.any(|registered| !registered) || self.rx.is_starved() {
            // No place to wait in, or nobody who wakes: have the task look again at once rather
            // than never.
            waker.wake_by_ref();
        }
    }

    fn pause(&mut self, until: u64) {
        let platform = self.xen.platform();
        let token = platform.wait_token();
        // What came between the caller's last look and the token must not be slept over.
        if self.is_busy() {
            return;
        }
        let mut until = until;
        if self.rx.is_starved() {
            until = until.min(platform.now().saturating_add(STARVED));
        }
        platform.wait(token, until);
    }

    fn now(&self) -> u64 {
        self.xen.platform().now()
    }
}
