//! The NVSP messages that set an adapter up and take it down.

use super::buffers::{ReceiveBuffer, Shared};
use super::nvsp::{self, BodyBytes, message, status, version};
use super::receive::section_bytes;
use super::{Netvsp, Phase, TableForm, rndis};
use crate::hyperv::channel::Turn;
use crate::hyperv::ring::{Kind, Packet};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Frames may be this long at most and at least, Ethernet header included.
const FRAME_LIMITS: std::ops::RangeInclusive<u32> = 1514..=9216;

fn body<T: FromBytes + KnownLayout + Immutable>(packet: &Packet) -> Option<T> {
    let body = packet.payload.get(4..)?;
    T::read_from_prefix(body).ok().map(|(body, _)| body)
}

impl Netvsp {
    /// A message of the version agreed on.
    pub(super) fn message(&self, kind: u32, body: &impl BodyBytes) -> Vec<u8> {
        nvsp::build(self.version, kind, body)
    }

    pub(super) fn handshake(
        &mut self,
        kind: u32,
        phase: Phase,
        packet: &Packet,
        turn: &mut Turn<'_>,
    ) {
        let since = |oldest: u32| phase == Phase::Setup && self.version >= oldest;
        let answer = match kind {
            message::INIT if phase == Phase::Init => self.init(packet),
            message::SEND_NDIS_VERSION if since(version::V1) => self.ndis_version(packet),
            message::SEND_NDIS_CONFIG if since(version::V2) => self.ndis_config(packet),
            message::SEND_RECEIVE_BUFFER if since(version::V1) => {
                self.share_receive_buffer(packet, turn)
            }
            message::SEND_SEND_BUFFER if since(version::V1) => self.share_send_buffer(packet, turn),
            message::REVOKE_RECEIVE_BUFFER if phase != Phase::Init => self.revoke(packet, 0),
            message::REVOKE_SEND_BUFFER if phase != Phase::Init => self.revoke(packet, 1),
            message::SUB_CHANNEL if since(version::V5) => self.sub_channels(packet),
            message::OID_QUERY_EX if since(version::V5) => {
                let complete = nvsp::OidQueryExComplete {
                    status: rndis::status::NOT_SUPPORTED,
                    bytes: 0,
                };
                Ok(self.message(message::OID_QUERY_EX_COMPLETE, &complete))
            }
            // There is no other path, so it is always the one chosen.
            message::SWITCH_DATA_PATH if since(version::V4) => Ok(Vec::new()),
            _ => Err(format!("message {kind} in phase {phase:?}")),
        };
        match answer {
            Ok(payload) => self.complete(turn.channel, packet, payload),
            Err(what) => turn.counters.violation(format!("netvsp: {what}")),
        }
    }

    fn init(&mut self, packet: &Packet) -> Result<Vec<u8>, String> {
        let asked: nvsp::Init = body(packet).ok_or("INIT cut off")?;
        let known = self.config.versions.contains(&asked.lowest);
        let complete = nvsp::InitComplete {
            version: if asked.lowest == version::V1 {
                version::V1
            } else {
                u32::MAX
            },
            max_mdl_chain: nvsp::MAX_MDL_CHAIN,
            status: if known { status::SUCCESS } else { status::NONE },
        };
        // The answer has the old size, whatever the version.
        let answer = nvsp::build(0, message::INIT_COMPLETE, &complete);
        if known {
            self.version = asked.lowest;
            self.phase = Phase::Setup;
        }
        Ok(answer)
    }

    fn ndis_version(&mut self, packet: &Packet) -> Result<Vec<u8>, String> {
        let asked: nvsp::NdisVersion = body(packet).ok_or("NDIS version cut off")?;
        if self.miniport.ndis != (0, 0) {
            return Err("NDIS version twice".into());
        }
        self.miniport.ndis = (asked.major, asked.minor);
        Ok(Vec::new())
    }

    fn ndis_config(&mut self, packet: &Packet) -> Result<Vec<u8>, String> {
        let asked: nvsp::NdisConfig = body(packet).ok_or("NDIS configuration cut off")?;
        if std::mem::replace(&mut self.configured, true) {
            return Err("NDIS configuration twice".into());
        }
        // A size out of bounds counts as the usual one.
        if FRAME_LIMITS.contains(&asked.mtu) {
            self.miniport.frame = asked.mtu;
        }
        self.vlan = asked.capabilities & nvsp::CONFIG_VLAN != 0;
        Ok(Vec::new())
    }

    fn share(&self, packet: &Packet, which: usize, turn: &Turn<'_>) -> Result<Shared, String> {
        let asked: nvsp::ShareBuffer = body(packet).ok_or("a buffer cut off")?;
        if self.gpadls[which].is_some() {
            return Err("a buffer shared twice".into());
        }
        if !self.configured && self.version >= version::V2 {
            return Err("a buffer shared before the NDIS configuration".into());
        }
        Shared::new(asked.gpadl, asked.id, turn.gpadls).ok_or_else(|| {
            format!(
                "a buffer in GPADL {:#x}, which is no run of pages",
                asked.gpadl
            )
        })
    }

    fn share_receive_buffer(
        &mut self,
        packet: &Packet,
        turn: &Turn<'_>,
    ) -> Result<Vec<u8>, String> {
        let shared = self.share(packet, 0, turn)?;
        let size = self
            .config
            .section_bytes
            .unwrap_or_else(|| section_bytes(self.miniport.frame));
        let buffer = ReceiveBuffer::new(shared, size)
            .ok_or_else(|| format!("a receive buffer of {} bytes", shared.bytes))?;
        let complete = nvsp::ReceiveBufferComplete {
            status: status::SUCCESS,
            sections: 1,
            offset: 0,
            size,
            count: buffer.sections,
            end: size * buffer.sections,
        };
        self.gpadls[0] = Some(shared.gpadl);
        self.receive = Some(buffer);
        Ok(self.message(message::SEND_RECEIVE_BUFFER_COMPLETE, &complete))
    }

    fn share_send_buffer(&mut self, packet: &Packet, turn: &Turn<'_>) -> Result<Vec<u8>, String> {
        let shared = self.share(packet, 1, turn)?;
        self.gpadls[1] = Some(shared.gpadl);
        self.send = Some(shared);
        let complete = nvsp::SendBufferComplete {
            status: status::SUCCESS,
            section_size: self.config.send_section_bytes,
        };
        Ok(self.message(message::SEND_SEND_BUFFER_COMPLETE, &complete))
    }

    /// After this the host touches neither buffer, and nothing more happens on the channel.
    fn revoke(&mut self, packet: &Packet, which: usize) -> Result<Vec<u8>, String> {
        let id: u16 = body(packet).ok_or("REVOKE cut off")?;
        let shared = if which == 0 {
            self.receive.take().map(|buffer| buffer.shared)
        } else {
            self.send.take()
        };
        self.gpadls[which] = None;
        self.phase = Phase::Revoked;
        self.control.clear();
        self.queues
            .iter_mut()
            .for_each(|queue| queue.frames.clear());
        match shared {
            Some(shared) if shared.id == id => Ok(Vec::new()),
            Some(shared) => Err(format!("buffer {id:#x} revoked, it is {:#x}", shared.id)),
            None => Err("a buffer revoked that was not shared".into()),
        }
    }

    fn sub_channels(&mut self, packet: &Packet) -> Result<Vec<u8>, String> {
        let asked: nvsp::SubChannel = body(packet).ok_or("SUB_CHANNEL cut off")?;
        let good = asked.operation == nvsp::ALLOCATE
            && asked.count < self.config.queues.into()
            && self.miniport.is_operational();
        let granted = if good {
            (asked.count as u16).min(self.config.grants)
        } else {
            0
        };
        let complete = nvsp::SubChannel {
            operation: if good {
                status::SUCCESS
            } else {
                status::FAILURE
            },
            count: granted.into(),
        };
        if good {
            (self.subchannels, self.table_sent) = (granted, false);
            self.send_table();
        }
        Ok(self.message(message::SUB_CHANNEL, &complete))
    }

    /// Says over which channels to send, once all that were asked for are open.
    pub(super) fn send_table(&mut self) {
        let channels = usize::from(self.subchannels) + 1;
        let open = self.queues.iter().take(channels).all(|queue| queue.open);
        if self.subchannels == 0 || !open || self.table_sent || self.version < version::V5 {
            return;
        }
        self.table_sent = true;
        let behind = 4 + size_of::<nvsp::IndirectionTable>();
        let (at, said) = match self.config.table {
            TableForm::Behind => (behind, behind),
            TableForm::Apart => (nvsp::SIZE_6_1, nvsp::SIZE_6_1),
            TableForm::Misplaced => (nvsp::SIZE_6_1, nvsp::SIZE),
        };
        let table = nvsp::IndirectionTable {
            entries: nvsp::TABLE_ENTRIES as u32,
            offset: said as u32,
        };
        let mut payload = message::SEND_INDIRECTION_TABLE.to_le_bytes().to_vec();
        payload.extend_from_slice(table.bytes());
        payload.resize(at, 0);
        for entry in 0..nvsp::TABLE_ENTRIES {
            let channel = (entry % channels) as u32;
            payload.extend_from_slice(&channel.to_le_bytes());
        }
        self.misdeeds.answer(&mut payload);
        self.queues[0].replies.push_back(Packet {
            kind: Kind::InBand,
            transaction_id: 0,
            completion_requested: false,
            payload,
        });
    }
}
