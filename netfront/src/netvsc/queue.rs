//! One queue pair: a channel, and both halves over it.

use super::control::Control;
use super::nvsp;
use super::nvsp::kind::{SEND_RNDIS_PACKET, SEND_RNDIS_PACKET_COMPLETE};
use super::rx::{Receive, Taken};
use super::tx::Transmit;
use crate::capabilities::{Capabilities, Event, Stats};
use crate::frame::{RxFrame, TxFrame};
use crate::net::{NetQueue, ReserveError, SendError};
use core::fmt;
use core::task::Waker;
use hypercall::bus::Doorbell;
use hypercall::host::Hypervisor;
use hypercall::hyperv::HyperV;
use hypercall::platform::{deadline, wait_for};
use hypercall::shm::Pool;
use hypercall::{Gate, HostFault, Platform};
use vmbus::abi::packet::PacketKind;
use vmbus::{Channel, Incoming};

/// Packets taken in one call that bring the caller no frame, at most.
const BUDGET: u32 = 1024;

/// Frames handed out before packets are answered, if the ring does not come up empty before.
const BATCH: u32 = 32;

/// How often the host may claim that there is more where there is nothing.
const PATIENCE: u32 = 4;

/// One queue pair of a Hyper-V network interface.
pub struct Queue<'b, 'h, P: Platform, G: Gate> {
    pub(super) hv: &'h HyperV<P, G>,
    pub(super) capabilities: Capabilities,
    pub(super) fault: Option<HostFault>,
    pub(super) live: Option<Live<'b, 'h, P, G>>,
    /// What frames are sent from, while it is not in use by a connection.
    pub(super) pool: Option<Pool<P>>,
    /// What was counted over earlier connections; of copies, without those of the pool in use.
    pub(super) past: Stats,
}

/// A queue that is connected.
pub(super) struct Live<'b, 'h, P: Platform, G: Gate> {
    pub(super) channel: Channel<'b, 'h, P, G>,
    pub(super) rx: Receive<P>,
    pub(super) tx: Transmit<P>,
    /// Of the first queue.
    pub(super) control: Option<Control<P>>,
    pub(super) stats: Stats,
}

/// What became of a look at the ring.
enum Step {
    /// A frame came.
    Frame(RxFrame),
    /// Something else came.
    Done,
    /// There is nothing.
    Empty,
    /// There is something that has no room.
    Full,
}

/// The number of ranges of a packet that has one, and whose buffer it is in.
const ONE_RANGE: u64 = 1 << 32 | nvsp::RECEIVE_BUFFER_ID as u64;

/// The start of a completion, and of a packet with one range.
const SENT: u32 = PacketKind::COMPLETION.0 as u32 | 2 << 16;
const RANGE: u32 = PacketKind::TRANSFER_PAGES.0 as u32 | 4 << 16;

/// A packet of the usual form.
enum Short {
    /// The host is done with a frame.
    Sent,
    /// One range: its packet, its place, its length.
    Range(u64, u32, u32),
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

impl<P: Platform, G: Gate> Live<'_, '_, P, G> {
    /// Takes one packet. With `defer` its frames wait.
    #[inline(always)]
    fn step(&mut self, defer: bool) -> Result<Step, HostFault> {
        if !self.channel.is_ready()? {
            return Ok(Step::Empty);
        }
        let any = self.rx.tickets.is_any() && (!defer || self.rx.has_room());
        let (tx, stats) = (&mut self.tx, &mut self.stats);
        let short = self.channel.receive_short(|first, id, words: [u64; 3]| {
            let [head, range, message] = words;
            match first as u32 {
                SENT if head as u32 == SEND_RNDIS_PACKET_COMPLETE => {
                    if !tx.complete(id) {
                        return None;
                    }
                    let failed = head >> 32 != nvsp::SUCCESS.into();
                    stats.tx_errors = stats.tx_errors.wrapping_add(failed.into());
                    Some(Short::Sent)
                }
                RANGE if any && head == ONE_RANGE && message as u32 == SEND_RNDIS_PACKET => {
                    Some(Short::Range(id, (range >> 32) as u32, range as u32))
                }
                _ => None,
            }
        });
        match short {
            Some(Short::Sent) => Ok(Step::Done),
            Some(Short::Range(id, offset, len)) if !defer => {
                let taken = self.rx.take(id, offset, len)?;
                self.taken(taken)
            }
            Some(Short::Range(id, offset, len)) => {
                let control = self.rx.defer(id, offset, len)?;
                self.taken(Some(control.map_or(Taken::Deferred, Taken::Control)))
            }
            None => self.step_slowly(),
        }
    }

    #[inline(always)]
    fn taken(&mut self, taken: Option<Taken>) -> Result<Step, HostFault> {
        match taken {
            Some(Taken::Frame(frame)) => {
                let stats = &mut self.stats;
                stats.rx_frames = stats.rx_frames.wrapping_add(1);
                stats.rx_bytes = stats.rx_bytes.wrapping_add(frame.len() as u64);
                Ok(Step::Frame(frame))
            }
            Some(Taken::Dropped) => {
                self.stats.rx_dropped = self.stats.rx_dropped.wrapping_add(1);
                Ok(Step::Done)
            }
            Some(Taken::Deferred) => Ok(Step::Done),
            Some(Taken::Control(section)) => {
                if let Some(control) = &mut self.control {
                    control.message(&section)?;
                }
                Ok(Step::Done)
            }
            None => Ok(Step::Empty),
        }
    }

    /// Takes a packet of any form.
    #[inline(never)]
    fn step_slowly(&mut self) -> Result<Step, HostFault> {
        let mut kind = None;
        let _ = self.channel.receive_short(|first, _, []| {
            kind = Some(PacketKind(first as u16));
            None::<()>
        });
        let ranges = kind.is_none_or(|kind| kind == PacketKind::TRANSFER_PAGES);
        if ranges && !(self.rx.tickets.is_any() && self.rx.has_room()) {
            return Ok(Step::Full);
        }
        let Some(packet) = self.rx.receive(&mut self.channel)? else {
            return Ok(Step::Empty);
        };
        match packet.kind {
            PacketKind::TRANSFER_PAGES => {
                let control = &mut self.control;
                self.rx.defer_ranges(&packet, |section| match control {
                    Some(control) => control.message(&section),
                    None => Ok(()),
                })?;
            }
            PacketKind::COMPLETION => self.completed(&packet)?,
            PacketKind::IN_BAND => {
                if let Some(control) = &mut self.control {
                    control.unasked(self.rx.words(0, &packet), packet.len);
                }
            }
            other => log::debug!("netvsc: passed over a packet of kind {}", other.0),
        }
        Ok(Step::Done)
    }

    fn completed(&mut self, packet: &Incoming) -> Result<(), HostFault> {
        let words = self.rx.words(0, packet);
        let id = packet.transaction_id;
        if let Some(control) = &mut self.control
            && control.completed(id, words)
        {
            return Ok(());
        }
        let [head, ..] = words;
        if head as u32 != SEND_RNDIS_PACKET_COMPLETE {
            return Err(HostFault::WrongOperation);
        }
        if !self.tx.complete(id) {
            return Err(HostFault::UnknownId);
        }
        let failed = head >> 32 != nvsp::SUCCESS.into();
        self.stats.tx_errors = self.stats.tx_errors.wrapping_add(failed.into());
        Ok(())
    }

    /// Takes completions of frames that were sent, as long as nothing else comes.
    #[inline(always)]
    fn collect_sent(&mut self) {
        let tx = &mut self.tx;
        const DONE: u64 = SEND_RNDIS_PACKET_COMPLETE as u64 | (nvsp::SUCCESS as u64) << 32;
        while self
            .channel
            .receive_short(|first, id, [head]: [u64; 1]| {
                (first as u32 == SENT && head == DONE && tx.complete(id)).then_some(())
            })
            .is_some()
        {}
    }

    /// Takes what is there; frames wait for the caller.
    pub(super) fn collect(&mut self) -> Result<(), HostFault> {
        for _ in 0..BUDGET {
            self.collect_sent();
            match self.step(true)? {
                Step::Frame(_) | Step::Done => {}
                Step::Empty => {
                    self.channel.done();
                    return self.channel.check();
                }
                Step::Full => return Ok(()),
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn count_sent(&mut self, len: u64) {
        let stats = &mut self.stats;
        stats.tx_frames = stats.tx_frames.wrapping_add(1);
        stats.tx_bytes = stats.tx_bytes.wrapping_add(len);
    }

    /// Answers the host, and has it start on everything.
    fn publish(&mut self) -> Result<(), HostFault> {
        self.rx.answer(&mut self.channel)?;
        if let Some(control) = &mut self.control {
            control.pump(&mut self.channel)?;
        }
        self.channel.flush();
        Ok(())
    }

    /// The next frame, if it comes as most do.
    #[inline(always)]
    fn next_plain(&mut self) -> Option<RxFrame> {
        if self.rx.is_waiting() || self.rx.since >= BATCH {
            return None;
        }
        let rx = &mut self.rx;
        let frame = self.channel.receive_short(|first, id, words: [u64; 3]| {
            let [head, range, message] = words;
            if first as u32 != RANGE || head != ONE_RANGE || message as u32 != SEND_RNDIS_PACKET {
                return None;
            }
            rx.frame_of(id, (range >> 32) as u32, range as u32)
        })?;
        let stats = &mut self.stats;
        stats.rx_frames = stats.rx_frames.wrapping_add(1);
        stats.rx_bytes = stats.rx_bytes.wrapping_add(frame.len() as u64);
        Some(frame)
    }

    #[inline(never)]
    fn next(&mut self) -> Result<Option<RxFrame>, HostFault> {
        if self.rx.since >= BATCH {
            self.rx.answer(&mut self.channel)?;
        }
        let mut patience = PATIENCE;
        for _ in 0..BUDGET {
            let step = if self.rx.is_waiting() {
                let taken = self.rx.pop()?;
                self.taken(taken)?
            } else if let Some(frame) = self.next_plain() {
                return Ok(Some(frame));
            } else {
                self.step(false)?
            };
            match step {
                Step::Frame(frame) => return Ok(Some(frame)),
                Step::Done => {}
                Step::Empty => {
                    if self.rest()? && patience != 0 {
                        patience = patience.wrapping_sub(1);
                        continue;
                    }
                    return Ok(None);
                }
                Step::Full => {
                    self.publish()?;
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// There was nothing: shows the host everything, and has it interrupt. Whether something came
    /// meanwhile.
    #[inline(never)]
    fn rest(&mut self) -> Result<bool, HostFault> {
        self.publish()?;
        // The signal is only a hint to look, which is what happens next in any case.
        let _ = self.channel.take_pending();
        let more = self.channel.arm()?;
        self.channel.check()?;
        Ok(more)
    }

    /// Takes packets until `ready` has an answer.
    pub(super) fn wait<T>(
        &mut self,
        platform: &P,
        timeout: u64,
        mut ready: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T, HostFault> {
        let until = deadline(platform, timeout);
        wait_for(platform, until, || {
            for _ in 0..PATIENCE {
                if let Err(fault) = self.collect() {
                    return Some(Err(fault));
                }
                if let Some(answer) = ready(self) {
                    return Some(Ok(answer));
                }
                match self.rest() {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(fault) => return Some(Err(fault)),
                }
            }
            None
        })
        .unwrap_or(Err(HostFault::NoAnswer))
    }
}

impl<'b, 'h, P: Platform, G: Gate> Queue<'b, 'h, P, G> {
    pub(super) fn new(hv: &'h HyperV<P, G>, capabilities: Capabilities) -> Self {
        Self {
            hv,
            capabilities,
            fault: None,
            live: None,
            pool: None,
            past: Stats::default(),
        }
    }

    /// Latches a fault.
    #[cold]
    pub(super) fn fail(&mut self, fault: HostFault) -> HostFault {
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

    /// Takes over what the control half has learned.
    fn learn(&mut self) {
        if let Some(live) = &mut self.live
            && let Some(control) = &live.control
        {
            self.capabilities.link = control.link;
            self.capabilities.mtu = control.mtu;
            let most = self.capabilities.max_segmented;
            live.tx.set_lengths(control.mtu, most);
            let longest = super::longest(control.mtu).saturating_add(4);
            live.rx.longest = live.rx.longest.max(longest);
        }
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
        let live = self.live.take()?;
        let copied = self.past.copied.wrapping_add(Self::copied_by(&live));
        self.past = Stats {
            copied,
            ..live.stats
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
    fn reserve_slowly(&mut self, len: usize) -> Result<TxFrame, ReserveError> {
        for last in [false, true] {
            let (Some(live), None) = (&mut self.live, self.fault) else {
                break;
            };
            live.tx.check_length(len, &self.capabilities)?;
            if let Some(frame) = live.tx.reserve(len) {
                return Ok(frame);
            }
            // A short frame has pages of its own only when no section comes back.
            if (last || !live.tx.is_short(len))
                && let Some(frame) = live.tx.reserve_long(len)
            {
                return Ok(frame);
            }
            if last {
                return Err(ReserveError::Full);
            }
            self.turn();
        }
        let fault = self.fault.unwrap_or(HostFault::Withdrawn);
        Err(ReserveError::Failed(fault))
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
        if let (Some(live), None) = (&mut self.live, self.fault)
            && let Some(frame) = live.next_plain()
        {
            return Ok(Some(frame));
        }
        self.poll()
    }

    #[inline(always)]
    fn tx_reserve(&mut self, len: usize) -> Result<TxFrame, ReserveError> {
        if let (Some(live), None) = (&mut self.live, self.fault)
            && let Some(frame) = live.tx.reserve(len)
        {
            return Ok(frame);
        }
        self.reserve_slowly(len)
    }

    #[inline(always)]
    fn send(&mut self, frame: TxFrame) -> Result<(), (SendError, TxFrame)> {
        let (Some(live), None) = (&mut self.live, self.fault) else {
            return self.send_slowly(frame);
        };
        match live.tx.send_plain(&mut live.channel, frame) {
            Ok(len) => {
                live.count_sent(len.into());
                Ok(())
            }
            Err(frame) => self.send_slowly(frame),
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
            .map_or(0, |live| live.tx.in_flight as usize)
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
            ..live.stats
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
