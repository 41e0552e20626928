//! How an adapter behaves, and what it counts.

use super::nvsp;
use super::offload::Offloads;
use crate::disk::Latency;
use crate::hyperv::abi::Guid;

/// What becomes of frames for which no section of the receive buffer is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// They wait.
    Wait,
    /// They are lost.
    Drop,
}

/// Where a send-indirection table lies in its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableForm {
    /// Right behind the numbers that speak of it.
    Behind,
    /// Behind a message of full size, and the offset says so.
    Apart,
    /// The same, but the offset says what is true of shorter messages, as hosts up to version 6.0
    /// of NVSP do it.
    Misplaced,
}

/// How this adapter behaves.
#[derive(Debug, Clone)]
pub struct NetvspConfig {
    pub instance: Guid,
    pub mac: [u8; 6],
    /// The versions accepted; `nvsp::version`.
    pub versions: Vec<u32>,
    /// Bytes of the longest frame of the line, Ethernet header included.
    pub max_frame: u32,
    /// Bytes of a section of the receive buffer; `None`: what the guest's longest frame needs.
    pub section_bytes: Option<u32>,
    /// Bytes of a section of the send buffer.
    pub send_section_bytes: u32,
    pub offloads: Offloads,
    /// Queue pairs, the first channel's included.
    pub queues: u16,
    /// Of sub-channels asked for, grant no more than this.
    pub grants: u16,
    /// Bits in a second.
    pub link_speed: u64,
    /// Frames in one packet to the guest, at most.
    pub batch: usize,
    pub no_room: NoRoom,
    /// Where the frame starts in a section, in bytes.
    pub data_at: u32,
    /// Say of every received packet that it is as long as its section.
    pub whole_section: bool,
    /// Hand over TCP packets whose checksum was never filled in, and say so.
    pub blank_checksums: bool,
    /// Look at the checksums of received frames, and tell which are wrong.
    pub verify_checksums: bool,
    /// Tell the guest the hash that led a frame to its channel.
    pub tell_hash: bool,
    pub table: TableForm,
    /// Data packets taken in and not looked at, before a ring is left to fill up.
    pub max_in_flight: usize,
    /// How long completions of sent packets take.
    pub latency: Latency,
    /// Do what can be done in an order by this seed; `None`: in a fixed one.
    pub seed: Option<u64>,
}

impl Default for NetvspConfig {
    fn default() -> Self {
        NetvspConfig {
            instance: *b"pv-tests-net--00",
            mac: [0x00, 0x15, 0x5d, 0x70, 0x76, 0x01],
            versions: nvsp::version::ALL.to_vec(),
            max_frame: 9216,
            section_bytes: None,
            send_section_bytes: 6144,
            offloads: Offloads::ALL,
            queues: 8,
            grants: u16::MAX,
            link_speed: 10_000_000_000,
            batch: 16,
            no_room: NoRoom::Wait,
            data_at: super::receive::HEADERS,
            whole_section: false,
            blank_checksums: false,
            verify_checksums: false,
            tell_hash: true,
            table: TableForm::Behind,
            max_in_flight: 256,
            latency: Latency::NONE,
            seed: None,
        }
    }
}

/// Counts since the adapter was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetvspStats {
    /// Frames from the guest.
    pub sent: u64,
    /// Packets from the guest that brought them.
    pub sent_packets: u64,
    /// Those whose headers came in the send buffer.
    pub sent_in_sections: u64,
    /// Packets refused.
    pub refused: u64,
    /// Frames to the guest.
    pub received: u64,
    /// Packets to the guest that brought them.
    pub received_packets: u64,
    /// Frames for the guest that its filter kept away, or that are longer than it wants.
    pub filtered: u64,
    /// Frames for the guest for which there was no section.
    pub dropped: u64,
    /// Questions whether it lives that the guest answered.
    pub keepalives: u64,
    /// Sections of the receive buffer that the guest has now.
    pub sections_out: usize,
}
