//! A queue that is connected: what comes over its channel, sorted.

use super::control::Control;
use super::nvsp;
use super::nvsp::kind::{SEND_RNDIS_PACKET, SEND_RNDIS_PACKET_COMPLETE};
use super::rx::{self, ONE_RANGE, Receive, Taken};
use super::tx::Transmit;
use crate::capabilities::Stats;
use crate::frame::RxFrame;
use hypercall::bus::Doorbell;
use hypercall::platform::{deadline, wait_for};
use hypercall::{Gate, HostFault, Platform};
use vmbus::abi::packet::PacketKind;
use vmbus::{Channel, Form, Incoming};

/// Packets taken in one call that bring the caller no frame, at most.
const BUDGET: u32 = 1024;

/// How often the host may claim that there is more where there is nothing.
const PATIENCE: u32 = 4;

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

impl<P: Platform, G: Gate> Live<'_, '_, P, G> {
    /// Takes one packet. With `defer` its frames wait.
    #[inline(never)]
    fn step(&mut self, defer: bool) -> Result<Step, HostFault> {
        if !self.channel.is_ready()? {
            return Ok(Step::Empty);
        }
        let any = self.rx.tickets.is_any() && (!defer || self.rx.has_room());
        let (tx, stats, form) = (&mut self.tx, &mut self.stats, &mut self.rx.form);
        let short = self.channel.receive_short(|first, id, words: [u64; 3]| {
            let [head, range, message] = words;
            match first as u32 {
                SENT if head as u32 == SEND_RNDIS_PACKET_COMPLETE => {
                    if !tx.complete(id) {
                        return None;
                    }
                    let failed = head >> 32 != nvsp::SUCCESS.into();
                    stats.tx_errors = stats.tx_errors.wrapping_add(failed.into());
                    tx.form = Form::of(first, 1);
                    Some(Short::Sent)
                }
                RANGE if any && head == ONE_RANGE && message as u32 == SEND_RNDIS_PACKET => {
                    *form = Form::of(first, 3);
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
        const DONE: u64 = SEND_RNDIS_PACKET_COMPLETE as u64 | (nvsp::SUCCESS as u64) << 32;
        let tx = &mut self.tx;
        let form = tx.form;
        self.channel
            .take_while(form, |id, head| head == DONE && tx.complete(id));
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
    pub(super) fn count_sent(&mut self, len: u64) {
        self.stats.tx_bytes = self.stats.tx_bytes.wrapping_add(len);
    }

    /// Answers the host, and has it start on everything.
    pub(super) fn publish(&mut self) -> Result<(), HostFault> {
        self.rx.answer(&mut self.channel)?;
        if let Some(control) = &mut self.control {
            control.pump(&mut self.channel)?;
        }
        self.channel.flush();
        Ok(())
    }

    /// Looks for packets when all that were seen are taken; whether [`next_plain`](Self::next_plain)
    /// may find one now.
    #[inline(never)]
    pub(super) fn look(&mut self) -> bool {
        // A fault is found again by the long way.
        self.rx.is_open() && self.channel.is_ready() == Ok(true)
    }

    /// What was counted.
    pub(super) fn stats(&self) -> Stats {
        let short = self.rx.usual_frames();
        Stats {
            rx_frames: self.stats.rx_frames.wrapping_add(short),
            tx_frames: self.stats.tx_frames.wrapping_add(self.tx.frames),
            ..self.stats
        }
    }

    /// The next frame, if it comes as most do.
    #[inline(always)]
    pub(super) fn next_plain(&mut self) -> Option<rx::Short> {
        let frame = self.rx.next_usual(&mut self.channel)?;
        let stats = &mut self.stats;
        stats.rx_bytes = stats.rx_bytes.wrapping_add(frame.len() as u64);
        Some(frame)
    }

    #[inline(never)]
    pub(super) fn next(&mut self) -> Result<Option<RxFrame>, HostFault> {
        if self.rx.is_due() {
            self.rx.answer(&mut self.channel)?;
        }
        let mut patience = PATIENCE;
        for _ in 0..BUDGET {
            let step = if self.rx.is_waiting() {
                let taken = self.rx.pop()?;
                self.taken(taken)?
            } else if let Some(frame) = self.next_plain() {
                return Ok(Some(frame.into_frame()));
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
    pub(super) fn rest(&mut self) -> Result<bool, HostFault> {
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
