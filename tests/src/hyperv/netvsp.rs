//! netvsp: the host's end of a synthetic network adapter.
//!
//! Over the first channel the guest negotiates NVSP (INIT, NDIS_VERSION, NDIS_CONFIG, the two
//! buffers), then RNDIS (INITIALIZE, queries, the packet filter), and may ask for sub-channels.
//! Frames go over every channel: from the guest in its send buffer or in pages named in the packet,
//! to the guest in sections of the receive buffer, which come back by completion.
//! Source: OpenVMM `netvsp/src/lib.rs` for the order of things and what is answered.

mod buffers;
mod config;
mod deliver;
mod handshake;
mod miniport;
mod misdeed;
pub mod nvsp;
pub mod offload;
pub mod oid;
mod receive;
pub mod rndis;
pub mod rss;
mod transmit;

pub use config::{NetvspConfig, NetvspStats, NoRoom, TableForm};
pub use miniport::filter;
pub use misdeed::NetMisdeed;

use super::abi::{self, Guid};
use super::channel::{Closing, Device, Turn, Work};
use super::counters::Counters;
use super::ring::{Kind, Packet};
use crate::disk::InFlight;
use crate::net::{Frame, Port};
use crate::rng::Rng;
use buffers::{ReceiveBuffer, Shared};
use miniport::{Hardware, Miniport};
use misdeed::Misdeeds;
use nvsp::{message, status};
use std::collections::VecDeque;

/// One channel's work.
struct Queue {
    open: bool,
    /// Completions and messages for the guest.
    replies: VecDeque<Packet>,
    /// Data packets of the guest that were not looked at yet.
    taken: VecDeque<Packet>,
    /// Those that were: transaction id and status.
    completing: InFlight<(u64, u32)>,
    /// Frames for the guest.
    frames: VecDeque<Frame>,
}

/// How far NVSP has come on the first channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No version is agreed on.
    Init,
    /// A version is.
    Setup,
    /// A buffer was revoked: nothing more happens until the channel is closed.
    Revoked,
}

/// The adapter.
pub struct Netvsp {
    config: NetvspConfig,
    port: Box<dyn Port>,
    phase: Phase,
    version: u32,
    vlan: bool,
    configured: bool,
    receive: Option<ReceiveBuffer>,
    /// Buffers that were shared and not revoked, the receive buffer's GPADL first.
    gpadls: [Option<u32>; 2],
    send: Option<Shared>,
    miniport: Miniport,
    /// RNDIS control messages for the guest: each takes a section.
    control: VecDeque<Vec<u8>>,
    queues: Vec<Queue>,
    subchannels: u16,
    table_sent: bool,
    stalled: bool,
    stats: NetvspStats,
    misdeeds: Misdeeds,
    chance: Option<Rng>,
}

/// The things that can be done on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Reply,
    Control,
    Complete,
    Transmit,
    Fetch,
    Deliver,
}

/// Frames taken off the line and not yet with the guest, at most.
const WAITING: usize = 512;

impl Netvsp {
    /// An adapter with its line.
    pub fn new(config: NetvspConfig, port: Box<dyn Port>) -> Self {
        let hardware = Hardware {
            mac: config.mac,
            max_frame: config.max_frame,
            offloads: config.offloads,
            queues: config.queues,
            link_speed: config.link_speed,
            link: true,
        };
        let queue = |index: u16| Queue {
            open: false,
            replies: VecDeque::new(),
            taken: VecDeque::new(),
            completing: InFlight::new(config.latency, config.seed.unwrap_or(0) ^ u64::from(index)),
            frames: VecDeque::new(),
        };
        Netvsp {
            port,
            phase: Phase::Init,
            version: 0,
            vlan: false,
            configured: false,
            receive: None,
            gpadls: [None; 2],
            send: None,
            miniport: Miniport::new(hardware),
            control: VecDeque::new(),
            queues: (0..config.queues).map(queue).collect(),
            subchannels: 0,
            table_sent: false,
            stalled: false,
            stats: NetvspStats::default(),
            misdeeds: Misdeeds::default(),
            chance: config.seed.map(Rng::new),
            config,
        }
    }

    /// What it counted.
    pub fn stats(&self) -> NetvspStats {
        let mut stats = self.stats;
        stats.keepalives = self.miniport.keepalives;
        stats.sections_out = self.receive.as_ref().map_or(0, ReceiveBuffer::out);
        stats
    }

    /// The NVSP version agreed on.
    pub fn version(&self) -> Option<u32> {
        (self.phase != Phase::Init).then_some(self.version)
    }

    /// What the guest set the packet filter to.
    pub fn filter(&self) -> u32 {
        self.miniport.filter
    }

    /// What is offloaded now.
    pub fn offloads(&self) -> offload::Offloads {
        self.miniport.offloads
    }

    /// How flows are spread over channels, if they are.
    pub fn rss(&self) -> Option<&rss::Rss> {
        self.miniport.rss.as_ref()
    }

    /// Keeps everything the guest sends in flight (true) or lets it go on (false).
    pub fn stall(&mut self, stall: bool) {
        self.stalled = stall;
    }

    /// Packets with frames that the guest sent and that are not completed.
    pub fn in_flight(&self) -> usize {
        let each = |queue: &Queue| queue.taken.len() + queue.completing.len();
        self.queues.iter().map(each).sum()
    }

    /// Plugs the line in or out, and tells the guest.
    pub fn set_link(&mut self, up: bool) {
        self.miniport.hardware.link = up;
        self.indicate(if up {
            rndis::status::MEDIA_CONNECT
        } else {
            rndis::status::MEDIA_DISCONNECT
        });
    }

    /// Changes the longest frame of the line (bytes, Ethernet header included) and tells the guest
    /// that the network is another one. False, and nothing done: a guest is connected that did
    /// not ask for frames of this length.
    pub fn set_max_frame(&mut self, bytes: u32) -> bool {
        if self.miniport.is_operational() && bytes > self.miniport.frame {
            return false;
        }
        self.miniport.hardware.max_frame = bytes;
        self.indicate(rndis::status::NETWORK_CHANGE);
        true
    }

    /// Tells the guest a status, without anything that belongs to it.
    pub fn indicate(&mut self, status: u32) {
        if self.miniport.is_operational() {
            let body = rndis::IndicateStatus {
                status,
                length: 0,
                offset: 0,
            };
            let message = rndis::build(rndis::message::INDICATE_STATUS, &body, &[]);
            self.control.push_back(message);
        }
    }

    /// Asks the guest whether it lives. Its answer is counted.
    pub fn keep_alive(&mut self) {
        if let Some(request) = self.miniport.keep_alive() {
            let message = rndis::build(rndis::message::KEEPALIVE, &request, &[]);
            self.control.push_back(message);
        }
    }

    /// Adds something to do wrong.
    pub fn misbehave(&mut self, misdeed: NetMisdeed) {
        self.misdeeds.add(misdeed);
    }

    /// Does nothing wrong any more.
    pub fn behave(&mut self) {
        self.misdeeds = Misdeeds::default();
    }

    /// The line's end.
    pub fn port_mut(&mut self) -> &mut dyn Port {
        self.port.as_mut()
    }

    fn restart(&mut self) {
        self.phase = Phase::Init;
        self.version = 0;
        (self.vlan, self.configured) = (false, false);
        self.receive = None;
        self.send = None;
        self.gpadls = [None; 2];
        self.miniport.restart();
        self.control.clear();
        (self.subchannels, self.table_sent) = (0, false);
    }

    fn clear(&mut self, channel: u16) {
        let queue = &mut self.queues[usize::from(channel)];
        queue.replies.clear();
        queue.taken.clear();
        queue.completing.drain().for_each(drop);
        queue.frames.clear();
    }

    /// Answers a packet, if it asked for that.
    fn complete(&mut self, channel: u16, packet: &Packet, payload: Vec<u8>) {
        if packet.completion_requested {
            self.complete_id(channel, packet.transaction_id, payload);
        }
    }

    fn complete_id(&mut self, channel: u16, transaction_id: u64, mut payload: Vec<u8>) {
        self.misdeeds.answer(&mut payload);
        let replies = &mut self.queues[usize::from(channel)].replies;
        let completion = Packet {
            kind: Kind::Completion,
            transaction_id,
            completion_requested: false,
            payload,
        };
        replies.extend(self.misdeeds.completions(completion));
    }

    /// Everything that could be done on a channel now.
    fn jobs(&self, channel: u16) -> Vec<Job> {
        let queue = &self.queues[usize::from(channel)];
        let first = channel == 0;
        let free = self.receive.as_ref().map_or(0, ReceiveBuffer::free);
        let room = self.receive.as_ref().map_or(0, ReceiveBuffer::for_frames);
        let waiting: usize = self.queues.iter().map(|queue| queue.frames.len()).sum();
        let mut jobs = Vec::new();
        let mut may = |job, when| {
            if when {
                jobs.push(job);
            }
        };
        may(Job::Reply, !queue.replies.is_empty());
        let wants_control = !self.control.is_empty() || self.misdeeds.wants_control();
        may(Job::Control, first && free != 0 && wants_control);
        may(Job::Complete, !self.stalled && !queue.completing.is_empty());
        may(Job::Transmit, !self.stalled && !queue.taken.is_empty());
        // What comes before the filter is opened for the first time waits on the line.
        let fetches = self.miniport.opened && waiting < WAITING;
        may(Job::Fetch, fetches && self.port.is_ready());
        let drops = self.config.no_room == NoRoom::Drop;
        may(
            Job::Deliver,
            !queue.frames.is_empty() && (room != 0 || drops),
        );
        jobs
    }
}

impl Device for Netvsp {
    fn interface(&self) -> Guid {
        abi::interface::NETWORK
    }

    fn instance(&self) -> Guid {
        self.config.instance
    }

    fn subchannels(&self) -> u16 {
        self.subchannels
    }

    fn opened(&mut self, channel: u16) {
        if channel == 0 {
            self.restart();
        }
        self.clear(channel);
        self.queues[usize::from(channel)].open = true;
        self.send_table();
    }

    fn closed(&mut self, channel: u16, why: Closing, counters: &mut Counters) {
        if why == Closing::Closed && channel == 0 {
            if self.gpadls.iter().any(Option::is_some) {
                counters.violation("netvsp: closed with buffers that were not revoked");
            }
            if self.miniport.filter != 0 {
                counters.violation("netvsp: closed with the packet filter open");
            }
        }
        self.clear(channel);
        self.queues[usize::from(channel)].open = false;
        match channel {
            0 => self.restart(),
            _ => {
                if let Some(buffer) = &mut self.receive {
                    buffer.forget(channel);
                }
            }
        }
    }

    fn gpadl_gone(&mut self, gpadl: u32, early: bool, counters: &mut Counters) {
        if self.gpadls.contains(&Some(gpadl)) {
            counters.violation("netvsp: a buffer's GPADL torn down, and it was not revoked");
        } else if early && self.phase == Phase::Revoked {
            counters.violation("netvsp: a buffer's GPADL torn down before the channel was closed");
        }
    }

    fn accepts_more(&self, channel: u16) -> bool {
        self.queues[usize::from(channel)].taken.len() < self.config.max_in_flight
    }

    fn packet(&mut self, packet: Packet, turn: &mut Turn<'_>) {
        let channel = turn.channel;
        if packet.kind == Kind::Completion {
            self.given_back(&packet, turn);
            return;
        }
        if packet.payload.len() < nvsp::SIZE_MIN.max(nvsp::size(self.version)) {
            let what = format!("netvsp: a message of {} bytes", packet.payload.len());
            turn.counters.violation(what);
            return;
        }
        let kind = packet.payload.first_chunk().map(|b| u32::from_le_bytes(*b));
        match (kind.unwrap_or(0), self.phase) {
            (message::SEND_RNDIS_PACKET, Phase::Setup) if self.is_data(&packet) => {
                if !self.miniport.is_operational() {
                    turn.counters
                        .violation("netvsp: a frame before INITIALIZE or after HALT");
                }
                self.queues[usize::from(channel)].taken.push_back(packet);
            }
            (message::SEND_RNDIS_PACKET, Phase::Setup) => {
                let status = match self.control_message(&packet, turn) {
                    Ok(()) => status::SUCCESS,
                    Err(what) => {
                        turn.counters.violation(format!("netvsp: {what}"));
                        status::FAILURE
                    }
                };
                let answer = self.message(message::SEND_RNDIS_PACKET_COMPLETE, &status);
                self.complete(channel, &packet, answer);
            }
            (kind, _) if channel != 0 => {
                let what = format!("netvsp: message {kind} on sub-channel {channel}");
                turn.counters.violation(what);
            }
            (kind, phase) => self.handshake(kind, phase, &packet, turn),
        }
    }

    fn has_work(&self, channel: u16) -> bool {
        !self.jobs(channel).is_empty()
    }

    fn work(&mut self, turn: &mut Turn<'_>) -> Work {
        let jobs = self.jobs(turn.channel);
        let chosen = match &mut self.chance {
            Some(chance) => chance.below(jobs.len() as u64) as usize,
            None => 0,
        };
        let channel = usize::from(turn.channel);
        match jobs.get(chosen) {
            None => Work::Idle,
            Some(Job::Reply) => match self.queues[channel].replies.pop_front() {
                Some(packet) => Work::Send(packet),
                None => Work::Idle,
            },
            Some(Job::Control) => self.deliver_control(turn),
            Some(Job::Complete) => {
                let completing = &mut self.queues[channel].completing;
                if let Some((id, status)) = completing.pop_due() {
                    let answer = self.message(message::SEND_RNDIS_PACKET_COMPLETE, &status);
                    self.complete_id(turn.channel, id, answer);
                } else {
                    completing.tick();
                }
                Work::Waited
            }
            Some(Job::Transmit) => {
                self.transmit(turn);
                Work::Waited
            }
            Some(Job::Fetch) => {
                self.fetch();
                Work::Waited
            }
            Some(Job::Deliver) => self.deliver(turn),
        }
    }
}

#[cfg(test)]
mod tests;
