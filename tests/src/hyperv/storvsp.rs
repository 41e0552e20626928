//! storvsp: the host's end of the SCSI controller channel.
//!
//! The guest negotiates (BEGIN_INITIALIZATION, QUERY_PROTOCOL_VERSION, QUERY_PROPERTIES, perhaps
//! CREATE_SUB_CHANNELS, END_INITIALIZATION), then sends EXECUTE_SRB. Each request that asks for it and
//! has a transaction id gets one completion; id 0 is never answered.
//! Source: OpenVMM `storvsp/src/lib.rs` for the order of things and what is answered.

use super::abi::{self, ChannelProperties, Guid, ScsiRequest, StorvspHeader, operation};
use super::channel::{Closing, Device, Turn, Work};
use super::counters::Counters;
use super::gpa::GpaRange;
use super::ring::{Kind, Packet};
use super::scsi::{self, Data, Lun, Outcome, op, srb};
use crate::disk::{InFlight, Latency};
use crate::memory::GuestMemory;
use std::collections::{BTreeMap, VecDeque};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// NTSTATUS values storvsp answers with.
mod nt {
    pub const SUCCESS: u32 = 0;
    pub const DEVICE_BUSY: u32 = 0x8000_0011;
    pub const INVALID_PARAMETER: u32 = 0xc000_000d;
    pub const INVALID_DEVICE_REQUEST: u32 = 0xc000_0010;
    pub const REVISION_MISMATCH: u32 = 0xc000_0059;
    pub const IO_TIMEOUT: u32 = 0xc000_00b5;
    pub const DEVICE_DOES_NOT_EXIST: u32 = 0xc000_00c0;
    pub const INVALID_DEVICE_STATE: u32 = 0xc000_0184;
    pub const IO_DEVICE_ERROR: u32 = 0xc000_0185;
    pub const BUFFER_OVERFLOW: u32 = 0x8000_0005;
}

/// Where a unit sits on the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    pub path: u8,
    pub target: u8,
    pub lun: u8,
}

impl Address {
    /// Path 0, target 0: where Hyper-V puts disks.
    pub fn lun(lun: u8) -> Self {
        Address {
            path: 0,
            target: 0,
            lun,
        }
    }
}

/// How this controller behaves.
#[derive(Debug, Clone)]
pub struct StorvspConfig {
    pub instance: Guid,
    /// The newest version accepted, `major << 8 | minor`; older known ones are accepted too.
    pub max_version: u16,
    /// Bytes one request may move, as QUERY_PROPERTIES answers.
    pub max_transfer_bytes: u32,
    /// Requests taken in before the ring is left to fill up.
    pub max_in_flight: usize,
    pub latency: Latency,
    pub seed: u64,
    /// Say DATA_OVERRUN where less was moved than the guest's buffer holds, as some hosts do.
    pub short_is_overrun: bool,
    /// Send ENUMERATE_BUS by itself right after END_INITIALIZATION.
    pub enumerate_after_init: bool,
}

impl Default for StorvspConfig {
    fn default() -> Self {
        StorvspConfig {
            instance: *b"pv-tests-scsi-00",
            max_version: abi::STORVSP_VERSIONS[0],
            max_transfer_bytes: 512 * 1024,
            max_in_flight: 256,
            latency: Latency::NONE,
            seed: 0,
            short_is_overrun: false,
            enumerate_after_init: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Begin,
    Version,
    Properties,
    End,
    Ready,
}

/// A SCSI command the guest sent.
#[derive(Debug)]
struct Command {
    transaction_id: u64,
    request: ScsiRequest,
    /// Bytes of `ScsiRequest` the guest sent, and gets back.
    request_size: usize,
    range: Option<GpaRange>,
}

/// The controller and its units.
pub struct Storvsp {
    config: StorvspConfig,
    luns: BTreeMap<Address, Lun>,
    phase: Phase,
    commands: InFlight<Command>,
    replies: VecDeque<Packet>,
    stalled: bool,
    completed: u64,
}

impl Storvsp {
    /// A controller without units.
    pub fn new(config: StorvspConfig) -> Self {
        Storvsp {
            commands: InFlight::new(config.latency, config.seed),
            luns: BTreeMap::new(),
            phase: Phase::Begin,
            replies: VecDeque::new(),
            stalled: false,
            completed: 0,
            config,
        }
    }

    /// Puts a unit at an address; one that was there is gone.
    pub fn attach(&mut self, at: Address, mut lun: Lun) {
        lun.max_transfer_bytes = self.config.max_transfer_bytes;
        self.luns.insert(at, lun);
        self.bus_changed();
    }

    /// Takes a unit away; commands to it fail from now on.
    pub fn detach(&mut self, at: Address) -> Option<Lun> {
        let lun = self.luns.remove(&at);
        self.bus_changed();
        lun
    }

    /// The unit at an address.
    pub fn lun_mut(&mut self, at: Address) -> Option<&mut Lun> {
        self.luns.get_mut(&at)
    }

    /// Keeps every command in flight (true) or lets them finish again (false).
    pub fn stall(&mut self, stall: bool) {
        self.stalled = stall;
    }

    /// Takes every unit away, as when disks are unplugged: commands in flight and later ones are
    /// answered with INVALID_LUN.
    pub fn detach_all(&mut self) {
        self.luns.clear();
        self.bus_changed();
    }

    /// Changes how long commands take that arrive from now on.
    pub fn set_latency(&mut self, latency: Latency) {
        self.commands.set_latency(latency);
    }

    /// Commands taken and not finished.
    pub fn in_flight(&self) -> usize {
        self.commands.len()
    }

    /// Commands finished since the controller was made.
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// Whether the guest has finished initialization.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Tells the guest, unasked, to look at the bus again.
    pub fn bus_changed(&mut self) {
        if self.phase == Phase::Ready {
            let header = StorvspHeader {
                operation: operation::ENUMERATE_BUS,
                flags: 0,
                status: nt::SUCCESS,
            };
            let mut payload = header.as_bytes().to_vec();
            payload.resize(size_of::<StorvspHeader>() + size_of::<ScsiRequest>(), 0);
            self.replies.push_back(Packet {
                kind: Kind::InBand,
                transaction_id: 0,
                completion_requested: false,
                payload,
            });
        }
    }

    /// From the beginning, with nothing in flight.
    fn start(&mut self) {
        self.phase = Phase::Begin;
        self.replies.clear();
        self.commands.drain().for_each(drop);
    }

    /// The version negotiation and everything else that is not a SCSI command.
    fn control(&mut self, operation: u32, body: &[u8], counters: &mut Counters) -> (u32, Vec<u8>) {
        let step = |phase| (nt::SUCCESS, phase);
        let mut answer = Vec::new();
        let (status, next) = match (operation, self.phase) {
            // A guest that starts anew on an open channel starts from the beginning.
            (operation::BEGIN_INITIALIZATION, _) => step(Phase::Version),
            (operation::QUERY_PROTOCOL_VERSION, Phase::Version) => {
                let asked = body
                    .get(..2)
                    .map_or(0, |v| u16::from_le_bytes([v[0], v[1]]));
                answer.extend_from_slice(&[asked as u8, (asked >> 8) as u8, 0, 0]);
                if abi::STORVSP_VERSIONS.contains(&asked) && asked <= self.config.max_version {
                    step(Phase::Properties)
                } else {
                    (nt::REVISION_MISMATCH, Phase::Version)
                }
            }
            (operation::QUERY_PROPERTIES, Phase::Properties) => {
                let mut properties = ChannelProperties::new_zeroed();
                properties.max_transfer_bytes = self.config.max_transfer_bytes;
                answer.extend_from_slice(properties.as_bytes());
                step(Phase::End)
            }
            // Zero sub-channels were offered, so only zero can be asked for.
            (operation::CREATE_SUB_CHANNELS, Phase::End | Phase::Ready) => {
                let asked = body
                    .get(..2)
                    .map_or(0, |v| u16::from_le_bytes([v[0], v[1]]));
                let status = if asked == 0 {
                    nt::SUCCESS
                } else {
                    nt::INVALID_PARAMETER
                };
                (status, self.phase)
            }
            (operation::END_INITIALIZATION, Phase::End) => step(Phase::Ready),
            (
                operation::RESET_BUS | operation::RESET_ADAPTER | operation::RESET_LUN,
                Phase::Ready,
            ) => step(Phase::Ready),
            (other, phase) => {
                counters.violation(format!("storvsp operation {other} in phase {phase:?}"));
                (nt::INVALID_DEVICE_STATE, phase)
            }
        };
        self.phase = next;
        (status, answer)
    }

    fn reply(&mut self, transaction_id: u64, status: u32, body: &[u8], request_size: usize) {
        if transaction_id == 0 {
            return;
        }
        let header = StorvspHeader {
            operation: operation::COMPLETE_IO,
            flags: 0,
            status,
        };
        let mut payload = header.as_bytes().to_vec();
        payload.extend_from_slice(body);
        payload.resize(size_of::<StorvspHeader>() + request_size, 0);
        self.replies.push_back(Packet {
            kind: Kind::Completion,
            transaction_id,
            completion_requested: false,
            payload,
        });
    }

    fn execute(
        &mut self,
        command: &Command,
        memory: &dyn GuestMemory,
        counters: &mut Counters,
    ) -> Outcome {
        let request = &command.request;
        let at = Address {
            path: request.path,
            target: request.target,
            lun: request.lun,
        };
        let data = Data {
            memory,
            range: command.range.as_ref(),
            length: request.transfer_length,
            to_guest: request.data_in == 1,
        };
        let cdb: [u8; 16] = request.cdb_or_sense[..16]
            .try_into()
            .expect("16 of 20 bytes");
        if cdb[0] == op::REPORT_LUNS {
            let here = |a: &&Address| (a.path, a.target) == (at.path, at.target);
            return scsi::report_luns(self.luns.keys().filter(here).map(|a| a.lun), &cdb, &data);
        }
        match self.luns.get_mut(&at) {
            Some(lun) => lun.execute(&cdb, &data, counters),
            None if cdb[0] == op::INQUIRY => scsi::inquire_nobody(&cdb, &data),
            None => Outcome::port(srb::INVALID_LUN),
        }
    }

    fn finish(&mut self, command: &Command, outcome: Outcome) {
        let mut response = ScsiRequest::new_zeroed();
        response.length = size_of::<ScsiRequest>() as u16;
        response.srb_status = outcome.srb_status;
        if self.config.short_is_overrun
            && outcome.srb_status == srb::SUCCESS
            && outcome.moved < command.request.transfer_length
        {
            response.srb_status = srb::DATA_OVERRUN;
        }
        response.scsi_status = outcome.scsi_status;
        response.cdb_length = 16;
        response.sense_length = 20;
        response.transfer_length = outcome.moved;
        if let Some(sense) = outcome.sense {
            response.srb_status |= srb::AUTOSENSE_VALID;
            response.cdb_or_sense[..18].copy_from_slice(&sense.bytes());
        }
        let status = match outcome.srb_status {
            srb::SUCCESS => nt::SUCCESS,
            srb::BUSY => nt::DEVICE_BUSY,
            srb::INVALID_LUN => nt::DEVICE_DOES_NOT_EXIST,
            srb::TIMEOUT => nt::IO_TIMEOUT,
            srb::DATA_OVERRUN => nt::BUFFER_OVERFLOW,
            srb::INVALID_REQUEST => nt::INVALID_DEVICE_REQUEST,
            _ => nt::IO_DEVICE_ERROR,
        };
        self.completed += 1;
        self.reply(
            command.transaction_id,
            status,
            response.as_bytes(),
            command.request_size,
        );
    }

    /// An EXECUTE_SRB's parts, if they fit together.
    fn parse(packet: Packet) -> Result<Command, &'static str> {
        let mut ranges = match packet.kind {
            Kind::GpaDirect(ranges) => ranges,
            Kind::InBand => Vec::new(),
            Kind::Completion | Kind::TransferPages { .. } => {
                return Err("a completion nobody waits for");
            }
        };
        if !packet.completion_requested {
            return Err("EXECUTE_SRB without asking for its completion");
        }
        let body = &packet.payload[size_of::<StorvspHeader>()..];
        let request_size = body.len().min(size_of::<ScsiRequest>());
        if request_size < abi::SCSI_REQUEST_OLD {
            return Err("EXECUTE_SRB too short");
        }
        let mut whole = [0; size_of::<ScsiRequest>()];
        whole[..request_size].copy_from_slice(&body[..request_size]);
        let request = ScsiRequest::read_from_bytes(&whole).map_err(|_| "unreachable size")?;
        if ranges.len() > 1 {
            return Err("more than one range");
        }
        let range = ranges.pop();
        let lent = range.as_ref().map_or(0, |range| range.bytes);
        if request.transfer_length > lent {
            return Err("transfer length beyond the range");
        }
        if request.cdb_length > 16 {
            return Err("CDB longer than its field");
        }
        Ok(Command {
            transaction_id: packet.transaction_id,
            request,
            request_size,
            range,
        })
    }
}

impl Device for Storvsp {
    fn interface(&self) -> Guid {
        abi::interface::SCSI
    }

    fn instance(&self) -> Guid {
        self.config.instance
    }

    fn opened(&mut self, _channel: u16) {
        self.start();
    }

    fn closed(&mut self, _channel: u16, _why: Closing, _counters: &mut Counters) {
        self.start();
    }

    fn accepts_more(&self, _channel: u16) -> bool {
        self.commands.len() < self.config.max_in_flight
    }

    fn packet(&mut self, packet: Packet, turn: &mut Turn<'_>) {
        let counters = &mut *turn.counters;
        let Ok((header, body)) = StorvspHeader::read_from_prefix(&packet.payload) else {
            counters.violation("storvsp packet without a header");
            return;
        };
        if header.operation != operation::EXECUTE_SRB {
            let size = body.len().min(size_of::<ScsiRequest>());
            let id = if packet.completion_requested {
                packet.transaction_id
            } else {
                0
            };
            let (status, answer) = self.control(header.operation, body, counters);
            self.reply(id, status, &answer, size);
            if header.operation == operation::END_INITIALIZATION && self.config.enumerate_after_init
            {
                self.bus_changed();
            }
            return;
        }
        let (id, size) = (
            packet.transaction_id,
            body.len().min(size_of::<ScsiRequest>()),
        );
        if self.phase != Phase::Ready {
            counters.violation("EXECUTE_SRB before END_INITIALIZATION");
            self.reply(id, nt::INVALID_DEVICE_STATE, &[], size);
            return;
        }
        match Self::parse(packet) {
            Ok(command) => self.commands.push(command),
            Err(what) => {
                counters.violation(format!("storvsp: {what}"));
                self.reply(id, nt::INVALID_PARAMETER, &[], size);
            }
        }
    }

    fn has_work(&self, _channel: u16) -> bool {
        !self.replies.is_empty() || (!self.stalled && !self.commands.is_empty())
    }

    fn work(&mut self, turn: &mut Turn<'_>) -> Work {
        if let Some(reply) = self.replies.pop_front() {
            return Work::Send(reply);
        }
        if self.stalled {
            return Work::Idle;
        }
        let Some(command) = self.commands.pop_due() else {
            self.commands.tick();
            return if self.commands.is_empty() {
                Work::Idle
            } else {
                Work::Waited
            };
        };
        let outcome = self.execute(&command, turn.memory, turn.counters);
        self.finish(&command, outcome);
        self.replies.pop_front().map_or(Work::Waited, Work::Send)
    }
}
