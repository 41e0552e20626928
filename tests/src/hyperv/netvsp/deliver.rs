//! RNDIS in both directions: control messages, frames from the guest and frames to it.

use super::nvsp::{self, message, status};
use super::receive::{self, Form};
use super::transmit::{self, Rules};
use super::{Netvsp, NoRoom, Phase, rndis};
use crate::hyperv::channel::{Turn, Work};
use crate::hyperv::ring::{Kind, Packet, TransferRange};
use crate::net::headers::TCP;
use crate::net::{Frame, Headers, Takes, finish};
use zerocopy::FromBytes;

/// A message of the guest longer than this is not read.
const LONGEST: usize = 1 << 18;

impl Netvsp {
    /// Whether a SEND_RNDIS_PACKET says that it brings frames.
    pub(super) fn is_data(&self, packet: &Packet) -> bool {
        packet.payload.get(4..8) == Some(&nvsp::DATA.to_le_bytes())
    }

    /// The bytes of an RNDIS message, and how many of them are in its first range.
    fn gather(&self, packet: &Packet, turn: &Turn<'_>) -> Result<(Vec<u8>, usize), String> {
        let head = packet.payload.get(4..).unwrap_or(&[]);
        let (head, _) =
            nvsp::RndisPacket::read_from_prefix(head).map_err(|_| "SEND_RNDIS_PACKET cut off")?;
        let mut whole = Vec::new();
        let mut first = None;
        if head.section != nvsp::NO_SECTION {
            let section = self.config.send_section_bytes;
            let start = u64::from(head.section) * u64::from(section);
            let end = start + u64::from(head.section_bytes);
            let fits = |shared: &super::Shared| end <= shared.bytes.into();
            let shared = self.send.as_ref().filter(|shared| fits(shared));
            let shared = shared.ok_or_else(|| format!("section {} is not there", head.section))?;
            if head.section_bytes > section {
                return Err(format!("{} bytes in a section", head.section_bytes));
            }
            whole.resize(head.section_bytes as usize, 0);
            let range = shared
                .range(turn.gpadls)
                .ok_or("the send buffer's GPADL is gone")?;
            range
                .read(turn.memory, start as usize, &mut whole)
                .map_err(|bad| format!("the send buffer is not memory: {bad:?}"))?;
            first = Some(whole.len());
        }
        if let Kind::GpaDirect(ranges) = &packet.kind {
            if ranges.len() > nvsp::MAX_MDL_CHAIN as usize {
                return Err(format!("{} ranges", ranges.len()));
            }
            for range in ranges {
                let at = whole.len();
                if at + range.bytes as usize > LONGEST {
                    return Err("a message too long to read".into());
                }
                whole.resize(at + range.bytes as usize, 0);
                range
                    .read(turn.memory, 0, &mut whole[at..])
                    .map_err(|bad| format!("a range is not memory: {bad:?}"))?;
                first = first.or(Some(whole.len()));
            }
        }
        Ok((whole, first.ok_or("an RNDIS message nowhere")?))
    }

    /// An RNDIS message that is not a frame.
    pub(super) fn control_message(
        &mut self,
        packet: &Packet,
        turn: &mut Turn<'_>,
    ) -> Result<(), String> {
        if turn.channel != 0 {
            return Err("a control message on a sub-channel".into());
        }
        if !packet.completion_requested {
            turn.counters
                .violation("netvsp: a control message without asking for its completion");
        }
        if self.receive.is_none() || self.miniport.ndis == (0, 0) {
            return Err("a control message before the adapter is set up".into());
        }
        let (whole, _) = self.gather(packet, turn)?;
        let kind = whole.first_chunk().map(|b| u32::from_le_bytes(*b));
        if kind == Some(rndis::message::PACKET) {
            return Err("a frame as a control message".into());
        }
        let answer = self.miniport.control(&whole, turn.counters);
        if let Some(answer) = answer {
            self.control.extend(self.misdeeds.control(answer));
        }
        if !self.miniport.is_operational() || self.miniport.filter == 0 {
            self.queues
                .iter_mut()
                .for_each(|queue| queue.frames.clear());
        }
        Ok(())
    }

    /// Puts the next packet of the guest on the line.
    pub(super) fn transmit(&mut self, turn: &mut Turn<'_>) {
        let queue = usize::from(turn.channel);
        let Some(packet) = self.queues[queue].taken.pop_front() else {
            return;
        };
        if !packet.completion_requested {
            turn.counters
                .violation("netvsp: a data packet without asking for its completion");
        }
        let rules = Rules {
            longest: self.miniport.longest(),
            vlan: self.vlan,
            offloads: self.miniport.offloads,
        };
        // Frames that the guest gave up, by HALT or by revoking the send buffer, go nowhere.
        let given_up = self.phase != Phase::Setup || !self.miniport.is_operational();
        if given_up {
            if packet.completion_requested {
                let completing = &mut self.queues[queue].completing;
                completing.push((packet.transaction_id, status::FAILURE));
            }
            return;
        }
        let result = self.gather(&packet, turn).and_then(|(whole, first)| {
            let mut complain = |what| turn.counters.violation(format!("netvsp: {what}"));
            transmit::frames(&whole, first, &rules, &mut complain)
        });
        self.stats.sent_packets += 1;
        let status = match result {
            Ok(frames) => {
                self.stats.sent += frames.len() as u64;
                let section = packet.payload.get(8..12) != Some(&nvsp::NO_SECTION.to_le_bytes());
                self.stats.sent_in_sections += u64::from(section);
                if self.miniport.hardware.link {
                    frames.into_iter().for_each(|frame| self.port.send(frame));
                }
                status::SUCCESS
            }
            Err(what) => {
                self.stats.refused += 1;
                turn.counters.violation(format!("netvsp: {what}"));
                status::FAILURE
            }
        };
        let completing = &mut self.queues[queue].completing;
        if packet.completion_requested {
            completing.push((packet.transaction_id, status));
        }
    }

    /// Takes a frame off the line, finishes what the guest does not take unfinished, and finds the
    /// channel it goes to.
    pub(super) fn fetch(&mut self) {
        let Some(frame) = self.port.receive() else {
            return;
        };
        let ready = self.phase == Phase::Setup && self.miniport.hardware.link;
        if !ready || !self.miniport.wants(&frame.bytes) {
            self.stats.filtered += 1;
            return;
        }
        let tcp = |bytes: &[u8]| Headers::find(bytes).is_some_and(|found| found.protocol == TCP);
        let blank = self.config.blank_checksums && tcp(&frame.bytes);
        let takes = Takes {
            checksum_v4: blank && self.miniport.offloads.rx.tcp4,
            checksum_v6: blank && self.miniport.offloads.rx.tcp6,
            vlan: self.vlan,
            ..Takes::default()
        };
        for frame in finish(frame, takes) {
            self.enqueue(frame);
        }
    }

    fn enqueue(&mut self, mut frame: Frame) {
        let tagged = frame.bytes.get(12..14) == Some(&[0x81, 0]);
        let tag = if tagged { 4 } else { 0 };
        if frame.bytes.len() > self.miniport.longest() as usize + tag {
            self.stats.filtered += 1;
            return;
        }
        let mut channel = 0;
        frame.hash = None;
        if let Some(rss) = &self.miniport.rss
            && let Some(hash) = rss.hash(&frame.bytes)
        {
            channel = usize::from(rss.channel(hash));
            frame.hash = Some(hash).filter(|_| self.config.tell_hash);
        }
        if !self.queues[channel].open {
            channel = 0;
        }
        self.queues[channel].frames.push_back(frame);
    }

    /// Gives the guest what waits for it on a channel, as much as one packet may hold.
    pub(super) fn deliver(&mut self, turn: &mut Turn<'_>) -> Work {
        let Some(buffer) = &mut self.receive else {
            self.queues[usize::from(turn.channel)].frames.clear();
            return Work::Waited;
        };
        let frames = &mut self.queues[usize::from(turn.channel)].frames;
        let room = buffer.for_frames();
        if room == 0 && self.config.no_room == NoRoom::Drop {
            self.stats.dropped += frames.len() as u64;
            frames.clear();
            return Work::Waited;
        }
        let form = Form {
            data_at: self.config.data_at,
            whole_section: self.config.whole_section.then_some(buffer.section_bytes),
            verify: self.config.verify_checksums,
            checksums: self.miniport.offloads.rx != super::offload::Checksums::default(),
        };
        let most = self.config.batch.clamp(1, nvsp::MAX_RANGES).min(room);
        let count = frames.len().min(most);
        let messages: Vec<Vec<u8>> = frames
            .drain(..count)
            .map(|frame| self.misdeeds.frame(receive::packet(&frame, &form)))
            .collect();
        self.stats.received += messages.len() as u64;
        self.stats.received_packets += 1;
        self.hand_over(messages, nvsp::DATA, turn)
    }

    /// Gives the guest the next control message.
    pub(super) fn deliver_control(&mut self, turn: &mut Turn<'_>) -> Work {
        let message = self
            .misdeeds
            .more_control()
            .or_else(|| self.control.pop_front());
        match message {
            Some(message) => self.hand_over(vec![message], nvsp::CONTROL, turn),
            None => Work::Waited,
        }
    }

    /// Writes messages into sections, and the packet that tells of them.
    fn hand_over(&mut self, messages: Vec<Vec<u8>>, kind: u32, turn: &mut Turn<'_>) -> Work {
        let Some(buffer) = &mut self.receive else {
            return Work::Waited;
        };
        let Some(memory) = buffer.shared.range(turn.gpadls) else {
            turn.counters
                .violation("netvsp: the receive buffer's GPADL is gone");
            return Work::Waited;
        };
        let (mut sections, mut ranges) = (Vec::new(), Vec::new());
        for message in messages {
            // A frame that is longer than a section has no place.
            let fits = message.len() <= buffer.section_bytes as usize;
            let Some(section) = Some(()).filter(|()| fits).and_then(|()| buffer.take()) else {
                self.stats.dropped += 1;
                continue;
            };
            let offset = section * buffer.section_bytes;
            if let Err(bad) = memory.write(turn.memory, offset as usize, &message) {
                turn.counters
                    .violation(format!("netvsp: the receive buffer is not memory: {bad:?}"));
            }
            sections.push(section);
            ranges.push(TransferRange {
                offset,
                bytes: message.len() as u32,
            });
        }
        if sections.is_empty() {
            return Work::Waited;
        }
        let body = nvsp::RndisPacket {
            channel_type: kind,
            section: nvsp::NO_SECTION,
            section_bytes: 0,
        };
        let mut packet = Packet {
            kind: Kind::TransferPages {
                set: buffer.shared.id,
                count: ranges.len() as u32,
                ranges,
            },
            transaction_id: buffer.lend(turn.channel, sections),
            completion_requested: true,
            payload: nvsp::build(self.version, message::SEND_RNDIS_PACKET, &body),
        };
        self.misdeeds.transfer(&mut packet);
        Work::Send(packet)
    }

    /// A completion of the guest: sections that it is done with.
    pub(super) fn given_back(&mut self, packet: &Packet, turn: &mut Turn<'_>) {
        let status = packet
            .payload
            .split_first_chunk()
            .filter(|(kind, _)| u32::from_le_bytes(**kind) == message::SEND_RNDIS_PACKET_COMPLETE)
            .and_then(|(_, rest)| rest.first_chunk())
            .map(|status| u32::from_le_bytes(*status));
        match status {
            None => turn.counters.violation("netvsp: a completion that is none"),
            Some(status::SUCCESS) => {}
            Some(other) => {
                let what = format!("netvsp: a completion with status {other}");
                turn.counters.violation(what);
            }
        }
        let id = packet.transaction_id;
        let known = match &mut self.receive {
            Some(buffer) => buffer.give_back(turn.channel, id),
            // The buffer was revoked meanwhile, and everything in it with it.
            None => self.phase == Phase::Revoked,
        };
        if !known {
            let what = format!("netvsp: completion of {id:#x}, which is not out");
            turn.counters.violation(what);
        }
    }
}
