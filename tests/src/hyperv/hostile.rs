//! A host that breaks the protocol on purpose: what it does, and when.
//!
//! Give the server a list of [`Misdeed`]s; each happens once (or always, where it says so) when its
//! count is reached. Everything else stays as a good host does it.

use super::abi::{OfferChannel, StorvspHeader, message};
use super::ring::{Kind, Packet};
use std::mem::offset_of;

/// One wrong thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misdeed {
    /// Never answer INITIATE_CONTACT.
    IgnoreContact,
    /// Drop the message of this type (`abi::message`) instead of sending it, every time.
    DropMessage(u32),
    /// Send the message of this type twice, once.
    RepeatMessage(u32),
    /// Cut the message of this type to so many bytes, every time.
    CutMessage { kind: u32, bytes: usize },
    /// Put another number into the first word after the header of this message, once: a channel or
    /// GPADL id the guest never saw.
    WrongId { kind: u32, id: u32 },
    /// Rescind every open channel right after the n-th message to the guest (from 0).
    RescindAfterMessage(u64),
    /// Rescind the channel right after its n-th packet to the guest (from 0).
    RescindAfterPacket(u64),
    /// Packet n carries this transaction id.
    TransactionId { packet: u64, id: u64 },
    /// Packet n carries the transaction id of the packet before it.
    Replay { packet: u64 },
    /// Packet n ends after so many bytes of payload.
    CutPacket { packet: u64, bytes: usize },
    /// Packet n says it moved this many bytes (storvsp's transfer length).
    TransferLength { packet: u64, bytes: u32 },
    /// Packet n is of the in-band kind: an answer that is none.
    InBand { packet: u64 },
    /// Packet n's descriptor states these places and lengths, in 8-byte units.
    Descriptor {
        packet: u64,
        offset8: u16,
        length8: u16,
    },
    /// With packet n the write index jumps here.
    WriteIndex { packet: u64, value: u32 },
}

/// What is to be done to a packet below its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Twist {
    Descriptor { offset8: u16, length8: u16 },
    WriteIndex(u32),
}

/// The plan and how far it has come.
#[derive(Debug, Default)]
pub struct Hostile {
    plan: Vec<Misdeed>,
    messages: u64,
    packets: u64,
    last_transaction: u64,
    rescind: bool,
}

impl Hostile {
    /// A host with these misdeeds before it.
    pub fn new(plan: Vec<Misdeed>) -> Self {
        Hostile {
            plan,
            ..Hostile::default()
        }
    }

    /// Adds one more.
    pub fn add(&mut self, misdeed: Misdeed) {
        self.plan.push(misdeed);
    }

    /// Packets sent to the guest so far: the next one's number.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Messages sent to the guest so far: the next one's number.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Whether the open channels shall be rescinded now.
    pub(super) fn take_rescind(&mut self) -> bool {
        std::mem::take(&mut self.rescind)
    }

    /// Whether contact goes unanswered.
    pub(super) fn ignores_contact(&self) -> bool {
        self.plan.contains(&Misdeed::IgnoreContact)
    }

    /// What becomes of a message to the guest.
    pub(super) fn message(&mut self, mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
        let number = self.messages;
        self.messages += 1;
        let kind = bytes
            .first_chunk()
            .map_or(0, |word| u32::from_le_bytes(*word));
        let mut copies = 1;
        self.plan.retain(|misdeed| match *misdeed {
            Misdeed::DropMessage(which) if which == kind => {
                copies = 0;
                true
            }
            Misdeed::RepeatMessage(which) if which == kind => {
                copies = 2;
                false
            }
            Misdeed::CutMessage {
                kind: which,
                bytes: size,
            } if which == kind => {
                bytes.truncate(size);
                true
            }
            Misdeed::WrongId { kind: which, id } if which == kind => {
                // An offer's id lies behind its GUIDs; all others start with it.
                let within = offset_of!(OfferChannel, relid);
                let at = 8 + if kind == message::OFFER_CHANNEL {
                    within
                } else {
                    0
                };
                if let Some(word) = bytes.get_mut(at..at + 4) {
                    word.copy_from_slice(&id.to_le_bytes());
                }
                false
            }
            Misdeed::RescindAfterMessage(n) if n == number => {
                self.rescind = true;
                false
            }
            _ => true,
        });
        vec![bytes; copies]
    }

    /// What becomes of a packet to the guest.
    pub(super) fn packet(&mut self, mut packet: Packet) -> (Packet, Option<Twist>) {
        let number = self.packets;
        self.packets += 1;
        let before = self.last_transaction;
        self.last_transaction = packet.transaction_id;
        let mut twist = None;
        self.plan.retain(|misdeed| {
            match *misdeed {
                Misdeed::RescindAfterPacket(n) if n == number => self.rescind = true,
                Misdeed::TransactionId { packet: n, id } if n == number => {
                    packet.transaction_id = id;
                }
                Misdeed::Replay { packet: n } if n == number => packet.transaction_id = before,
                Misdeed::CutPacket { packet: n, bytes } if n == number => {
                    packet.payload.truncate(bytes);
                }
                Misdeed::TransferLength { packet: n, bytes } if n == number => {
                    let at = size_of::<StorvspHeader>() + 12;
                    if let Some(word) = packet.payload.get_mut(at..at + 4) {
                        word.copy_from_slice(&bytes.to_le_bytes());
                    }
                }
                Misdeed::InBand { packet: n } if n == number => packet.kind = Kind::InBand,
                Misdeed::Descriptor {
                    packet: n,
                    offset8,
                    length8,
                } if n == number => {
                    twist = Some(Twist::Descriptor { offset8, length8 });
                }
                Misdeed::WriteIndex { packet: n, value } if n == number => {
                    twist = Some(Twist::WriteIndex(value));
                }
                _ => return true,
            }
            false
        });
        (packet, twist)
    }
}
