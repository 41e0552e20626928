//! One queue pair: a channel, and both halves over it.

use super::live::Live;
use super::tx::HEADROOM;
use crate::capabilities::{Capabilities, Event, Stats};
use crate::frame::{Body, RxFrame, TxFrame};
use crate::line::Line;
use crate::net::{NetQueue, ReserveError, SendError};
use crate::offload::TxMeta;
use core::fmt;
use core::task::Waker;
use hypercall::host::Hypervisor;
use hypercall::hyperv::HyperV;
use hypercall::shm::Pool;
use hypercall::{Gate, HostFault, Platform};

/// One queue pair of a Hyper-V network interface.
pub struct Queue<'b, 'h, P: Platform, G: Gate> {
    pub(super) hv: &'h HyperV<P, G>,
    pub(super) capabilities: Capabilities,
    /// While it is connected.
    pub(super) line: Option<Line<P>>,
    pub(super) fault: Option<HostFault>,
    pub(super) live: Option<Live<'b, 'h, P, G>>,
    /// What frames are sent from, while it is not in use by a connection.
    pub(super) pool: Option<Pool<P>>,
    /// What was counted over earlier connections; of copies, without those of the pool in use.
    pub(super) past: Stats,
}

impl<P: Platform, G: Gate> fmt::Debug for Queue<'_, '_, P, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("connected", &self.live.is_some())
            .field("fault", &self.fault)
            .field("stats", &self.stats())
            .finish()
    }
}

impl<'b, 'h, P: Platform, G: Gate> Queue<'b, 'h, P, G> {
    pub(super) fn new(hv: &'h HyperV<P, G>, capabilities: Capabilities) -> Self {
        Self {
            hv,
            capabilities,
            line: None,
            fault: None,
            live: None,
            pool: None,
            past: Stats::default(),
        }
    }

    /// Latches a fault.
    #[cold]
    pub(super) fn fail(&mut self, fault: HostFault) -> HostFault {
        if let Some(live) = &mut self.live {
            live.rx.stop();
            live.tx.stop();
        }
        *self.fault.get_or_insert(fault)
    }

    /// Does something with the connection, unless it failed; a fault is latched.
    #[inline(always)]
    fn with<T>(
        &mut self,
        f: impl FnOnce(&mut Live<'b, 'h, P, G>) -> Result<T, HostFault>,
    ) -> Result<T, HostFault> {
        match (&mut self.live, self.fault) {
            (Some(live), None) => match f(live) {
                Ok(done) => Ok(done),
                Err(fault) => Err(self.fail(fault)),
            },
            (_, fault) => Err(fault.unwrap_or(HostFault::Withdrawn)),
        }
    }

    /// Takes what came, and shows the host what there is for it.
    fn turn(&mut self) {
        let _ = self.with(|live| {
            live.collect()?;
            live.publish()
        });
        self.learn();
    }

    /// Takes over what the control half has learned, or what the first queue told.
    fn learn(&mut self) {
        let (None, Some(live), Some(line)) = (self.fault, &mut self.live, &self.line) else {
            return;
        };
        let can = &mut self.capabilities;
        match &live.control {
            Some(control) if (can.link, can.mtu) != (control.link, control.mtu) => {
                (can.link, can.mtu) = (control.link, control.mtu);
                line.tell(can);
            }
            None if line.hear(can) => {}
            _ => return,
        }
        live.tx.set_lengths(can.mtu, can.max_segmented);
        let longest = super::longest(can.mtu).saturating_add(4);
        live.rx.set_longest(longest);
    }

    /// Buffers that are neither free nor the host's to receive into.
    pub(super) fn out(&mut self) -> usize {
        self.turn();
        match (&self.live, &self.pool) {
            (Some(live), _) => live.rx.tickets.noted().saturating_add(live.tx.out()),
            (None, Some(pool)) => pool.pages().saturating_sub(pool.free_pages()),
            (None, None) => 0,
        }
    }

    /// Bytes copied by way of a connection, pool apart.
    fn copied_by(live: &Live<'b, 'h, P, G>) -> u64 {
        let sent = live
            .tx
            .tickets
            .as_ref()
            .map_or(0, |tickets| tickets.copied());
        live.rx.tickets.copied().wrapping_add(sent)
    }

    /// Takes the connection away; what it counted stays known.
    pub(super) fn detach(&mut self) -> Option<Live<'b, 'h, P, G>> {
        self.line = None;
        let live = self.live.take()?;
        let copied = self.past.copied.wrapping_add(Self::copied_by(&live));
        self.past = Stats {
            copied,
            ..live.stats()
        };
        Some(live)
    }

    /// Gives the pool's pages back, unless a frame has some.
    pub(super) fn release_pool(&mut self) -> bool {
        let Some(pool) = self.pool.take() else {
            return true;
        };
        let copied = pool.copied();
        match pool.close() {
            Ok(lent) => {
                self.past.copied = self.past.copied.wrapping_add(copied);
                self.hv.unshare(lent).is_ok()
            }
            Err(pool) => {
                self.pool = Some(pool);
                false
            }
        }
    }

    #[inline(never)]
    fn poll(&mut self) -> Result<Option<RxFrame>, HostFault> {
        let frame = self.with(Live::next);
        if let Ok(None) = frame {
            self.learn();
        }
        frame
    }

    #[cold]
    fn reserve_slowly(&mut self, len: usize) -> Result<Body, ReserveError> {
        for last in [false, true] {
            let (Some(live), None) = (&mut self.live, self.fault) else {
                break;
            };
            live.tx.check_length(len, &self.capabilities)?;
            if let Some(section) = live.tx.reserve(len) {
                return Ok(Body::Section(section));
            }
            // A short frame has pages of its own only when no section comes back.
            if (last || !live.tx.is_short(len))
                && let Some(buf) = live.tx.reserve_long(len)
            {
                return Ok(Body::Buf(buf));
            }
            if last {
                return Err(ReserveError::Full);
            }
            self.turn();
        }
        let fault = self.fault.unwrap_or(HostFault::Withdrawn);
        Err(ReserveError::Failed(fault))
    }

    /// As [`send_slowly`](Self::send_slowly), for a frame with the usual headroom.
    #[cold]
    fn send_parts(&mut self, body: Body, meta: TxMeta) -> Result<(), (SendError, TxFrame)> {
        match TxFrame::new(body, HEADROOM) {
            Some(mut frame) => {
                frame.meta = meta;
                self.send_slowly(frame)
            }
            // It had that headroom a moment ago.
            None => Ok(()),
        }
    }

    #[inline(never)]
    fn send_slowly(&mut self, frame: TxFrame) -> Result<(), (SendError, TxFrame)> {
        let mut frame = frame;
        for last in [false, true] {
            let (Some(live), None) = (&mut self.live, self.fault) else {
                break;
            };
            let len = frame.len() as u64;
            match live.tx.send(&mut live.channel, &self.capabilities, frame) {
                Ok(()) => {
                    live.count_sent(len);
                    return Ok(());
                }
                Err((SendError::Full, back)) if !last => {
                    frame = back;
                    self.turn();
                }
                Err((SendError::Failed(fault), back)) => {
                    frame = back;
                    self.fail(fault);
                }
                Err(refused) => return Err(refused),
            }
        }
        let fault = self.fault.unwrap_or(HostFault::Withdrawn);
        Err((SendError::Failed(fault), frame))
    }
}

impl<P: Platform, G: Gate> NetQueue for Queue<'_, '_, P, G> {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    #[inline(always)]
    fn rx(&mut self) -> Result<Option<RxFrame>, HostFault> {
        // After a fault none goes the short way.
        if let Some(live) = &mut self.live {
            let mut frame = live.next_plain();
            if frame.is_none() && live.look() {
                frame = live.next_plain();
            }
            if let Some(frame) = frame {
                return Ok(Some(frame.into_frame()));
            }
        }
        self.poll()
    }

    #[inline(always)]
    fn tx_reserve(&mut self, len: usize) -> Result<TxFrame, ReserveError> {
        // After a fault none goes the short way.
        let section = match &mut self.live {
            Some(live) => live.tx.reserve(len),
            None => None,
        };
        let body = match section {
            Some(section) => Body::Section(section),
            None => self.reserve_slowly(len)?,
        };
        // It has that headroom.
        TxFrame::new(body, HEADROOM).ok_or(ReserveError::Full)
    }

    #[inline(always)]
    fn send(&mut self, frame: TxFrame) -> Result<(), (SendError, TxFrame)> {
        let (Some(live), None) = (&mut self.live, self.fault) else {
            return self.send_slowly(frame);
        };
        if !frame.meta.is_plain() || frame.headroom() != HEADROOM {
            return self.send_slowly(frame);
        }
        let section = match frame.into_parts() {
            (Body::Section(section), _) => section,
            (body, meta) => return self.send_parts(body, meta),
        };
        match live.tx.send_plain(&mut live.channel, section) {
            Ok(len) => {
                live.count_sent(len.into());
                Ok(())
            }
            Err(section) => self.send_parts(Body::Section(section), TxMeta::default()),
        }
    }

    fn publish(&mut self) {
        let _ = self.with(|live| {
            live.publish()?;
            live.channel.check()
        });
    }

    fn in_flight(&mut self) -> usize {
        self.turn();
        self.live
            .as_ref()
            .map_or(0, |live| live.tx.in_flight() as usize)
    }

    fn stats(&self) -> Stats {
        let pool = self.pool.as_ref().map_or(0, Pool::copied);
        let Some(live) = &self.live else {
            return Stats {
                copied: self.past.copied.wrapping_add(pool),
                ..self.past
            };
        };
        let copied = self
            .past
            .copied
            .wrapping_add(Self::copied_by(live))
            .wrapping_add(live.tx.pool.copied());
        Stats {
            copied,
            ..live.stats()
        }
    }

    fn fault(&self) -> Option<HostFault> {
        self.fault
    }

    fn event(&mut self) -> Option<Event> {
        self.turn();
        let control = self.live.as_mut()?.control.as_mut()?;
        control.events.pop_front()
    }

    fn register_waker(&mut self, waker: &Waker) {
        let more = self.with(|live| {
            if live.channel.register_waker(waker).is_err() {
                // No place to wait in: have the task look again at once rather than never.
                return Ok(true);
            }
            Ok(live.rx.is_waiting() || live.rest()?)
        });
        if more.unwrap_or(true) {
            waker.wake_by_ref();
        }
    }

    fn pause(&mut self, until: u64) {
        let platform = self.hv.platform();
        let token = platform.wait_token();
        // What came between the caller's last look and the token must not be slept over.
        let more = self.with(|live| Ok(live.rx.is_waiting() || live.rest()?));
        if let Ok(false) = more {
            platform.wait(token, until);
        }
    }

    fn now(&self) -> u64 {
        self.hv.platform().now()
    }
}
