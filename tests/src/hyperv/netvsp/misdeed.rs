//! What a bad host does to the messages of an adapter.
//!
//! Numbers count from 0, since the adapter was made. Words are 32 bits; a word beyond a message's
//! end changes nothing.

use super::nvsp;
use super::rndis;
use crate::hyperv::ring::{Kind, Packet};

/// One wrong thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetMisdeed {
    /// This word of every NVSP message of this type to the guest is this.
    NvspWord { kind: u32, word: usize, value: u32 },
    /// Every NVSP message of this type ends after so many bytes.
    NvspCut { kind: u32, bytes: usize },
    /// NVSP messages of this type never come.
    NvspNever(u32),
    /// This word of every RNDIS control message of this type to the guest is this.
    ControlWord { kind: u32, word: usize, value: u32 },
    /// Every RNDIS control message of this type ends after so many bytes.
    ControlCut { kind: u32, bytes: usize },
    /// RNDIS control messages of this type never come.
    ControlNever(u32),
    /// RNDIS control messages of this type come twice.
    ControlTwice(u32),
    /// The next RNDIS control message of this type comes only after the one that follows it.
    ControlLate(u32),
    /// So many indications of this status, one after the other.
    Indications { count: u32, status: u32 },
    /// This word of the RNDIS packet that brings frame n is this.
    FrameWord { frame: u64, word: usize, value: u32 },
    /// In transfer-page packet n, this range is this.
    Range {
        packet: u64,
        range: usize,
        offset: u32,
        bytes: u32,
    },
    /// Transfer-page packet n says that it has so many ranges.
    RangeCount { packet: u64, count: u32 },
    /// Transfer-page packet n names another buffer.
    Set { packet: u64, set: u16 },
    /// Every range of transfer-page packet n is the first one.
    Overlap { packet: u64 },
    /// Completion n has this transaction id.
    CompletionId { completion: u64, id: u64 },
    /// Completion n comes twice.
    CompletionTwice { completion: u64 },
    /// Completion n never comes.
    CompletionNever { completion: u64 },
}

/// The plan and how far it has come.
#[derive(Debug, Default)]
pub struct Misdeeds {
    plan: Vec<NetMisdeed>,
    completions: u64,
    frames: u64,
    transfers: u64,
    late: Vec<Vec<u8>>,
}

fn put(bytes: &mut [u8], word: usize, value: u32) {
    if let Some(place) = bytes.get_mut(word * 4..).and_then(<[u8]>::first_chunk_mut) {
        *place = value.to_le_bytes();
    }
}

fn kind_of(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |b| u32::from_le_bytes(*b))
}

impl Misdeeds {
    pub fn add(&mut self, misdeed: NetMisdeed) {
        self.plan.push(misdeed);
    }

    /// Changes an NVSP message for the guest.
    pub fn answer(&self, payload: &mut Vec<u8>) {
        let kind = kind_of(payload);
        for misdeed in &self.plan {
            match *misdeed {
                NetMisdeed::NvspWord {
                    kind: which,
                    word,
                    value,
                } if which == kind => put(payload, word, value),
                NetMisdeed::NvspCut { kind: which, bytes } if which == kind => {
                    payload.truncate(bytes);
                }
                _ => {}
            }
        }
    }

    /// What becomes of a completion.
    pub fn completions(&mut self, mut packet: Packet) -> Vec<Packet> {
        let number = self.completions;
        self.completions += 1;
        let mut copies = 1;
        for misdeed in &self.plan {
            match *misdeed {
                NetMisdeed::NvspNever(kind) if kind == kind_of(&packet.payload) => copies = 0,
                NetMisdeed::CompletionId { completion, id } if completion == number => {
                    packet.transaction_id = id;
                }
                NetMisdeed::CompletionTwice { completion } if completion == number => copies = 2,
                NetMisdeed::CompletionNever { completion } if completion == number => copies = 0,
                _ => {}
            }
        }
        vec![packet; copies]
    }

    /// What becomes of an RNDIS control message.
    pub fn control(&mut self, mut message: Vec<u8>) -> Vec<Vec<u8>> {
        let kind = kind_of(&message);
        let mut copies = 1;
        let mut late = false;
        self.plan.retain(|misdeed| {
            match *misdeed {
                NetMisdeed::ControlWord {
                    kind: which,
                    word,
                    value,
                } if which == kind => put(&mut message, word, value),
                NetMisdeed::ControlCut { kind: which, bytes } if which == kind => {
                    message.truncate(bytes);
                }
                NetMisdeed::ControlNever(which) if which == kind => copies = 0,
                NetMisdeed::ControlTwice(which) if which == kind => copies = 2,
                NetMisdeed::ControlLate(which) if which == kind => {
                    late = true;
                    return false;
                }
                _ => {}
            }
            true
        });
        if late {
            self.late.push(message);
            return Vec::new();
        }
        let mut messages = vec![message; copies];
        messages.append(&mut self.late);
        messages
    }

    /// Whether there is a control message that nothing asked for.
    pub fn wants_control(&self) -> bool {
        self.plan
            .iter()
            .any(|misdeed| matches!(misdeed, NetMisdeed::Indications { count, .. } if *count != 0))
    }

    /// A control message that nothing asked for.
    pub fn more_control(&mut self) -> Option<Vec<u8>> {
        self.plan.iter_mut().find_map(|misdeed| match misdeed {
            NetMisdeed::Indications { count, status } if *count != 0 => {
                *count -= 1;
                let body = rndis::IndicateStatus {
                    status: *status,
                    length: 0,
                    offset: 0,
                };
                Some(rndis::build(rndis::message::INDICATE_STATUS, &body, &[]))
            }
            _ => None,
        })
    }

    /// What becomes of a frame's RNDIS packet.
    pub fn frame(&mut self, mut message: Vec<u8>) -> Vec<u8> {
        let number = self.frames;
        self.frames += 1;
        for misdeed in &self.plan {
            if let NetMisdeed::FrameWord { frame, word, value } = *misdeed
                && frame == number
            {
                put(&mut message, word, value);
            }
        }
        message
    }

    /// Changes a transfer-page packet.
    pub fn transfer(&mut self, packet: &mut Packet) {
        let number = self.transfers;
        self.transfers += 1;
        if kind_of(&packet.payload) != nvsp::message::SEND_RNDIS_PACKET {
            return;
        }
        let Kind::TransferPages { set, count, ranges } = &mut packet.kind else {
            return;
        };
        for misdeed in &self.plan {
            match *misdeed {
                NetMisdeed::Range {
                    packet,
                    range,
                    offset,
                    bytes,
                } if packet == number => {
                    if let Some(range) = ranges.get_mut(range) {
                        (range.offset, range.bytes) = (offset, bytes);
                    }
                }
                NetMisdeed::RangeCount { packet, count: n } if packet == number => *count = n,
                NetMisdeed::Set { packet, set: other } if packet == number => *set = other,
                NetMisdeed::Overlap { packet } if packet == number => {
                    let first = ranges[0];
                    ranges.fill(first);
                }
                _ => {}
            }
        }
        self.answer(&mut packet.payload);
    }
}
