//! A hand-driven guest with a network adapter.
//!
//! Pages 40..72 are the receive buffer, 72..88 the send buffer, 90.. messages.

use crate::hyperv::flat::FlatMemory;
use crate::hyperv::hand_guest::{HandGuest, words};
use crate::hyperv::machine::HostConfig;
use crate::hyperv::netvsp::{Netvsp, NetvspConfig};
use crate::hyperv::vmbus_server::DeviceId;
use crate::memory::GuestMemory;
use crate::net::{Cable, cable};

const RECEIVE_PAGE: u64 = 40;
const SEND_PAGE: u64 = 72;
const MESSAGE_PAGE: u64 = 90;
pub const RECEIVE_GPADL: u32 = 0xe1e20;
pub const SEND_GPADL: u32 = 0xe1e21;
const SET: u16 = 0xcafe;
const NO_SECTION: u32 = u32::MAX;

pub struct NetGuest {
    pub hand: HandGuest,
    pub line: Cable,
    pub device: DeviceId,
    pub relid: u32,
    /// Bytes of a message in the version spoken, as on the wire.
    message: usize,
    pub section_bytes: u32,
    /// Channels that went away with the first one.
    pub rescinded: Vec<u32>,
}

/// What came in one transfer-page packet.
pub struct Transfer {
    pub id: u64,
    pub control: bool,
    pub messages: Vec<Vec<u8>>,
}

/// A frame and the information that came with it: values by type.
pub type Received = (Vec<u8>, Vec<(u32, u32)>);

/// A piece of per-packet information.
pub fn ppi(kind: u32, value: u32) -> Vec<u8> {
    words(&[16, kind, 12, value])
}

/// RNDIS's INITIALIZE.
fn initialize() -> Vec<u8> {
    words(&[2, 24, 1, 1, 0, 0x4000])
}

/// An RNDIS packet with its header.
pub fn rndis_packet(information: &[u8], frame: &[u8]) -> Vec<u8> {
    let (own, ppi) = (44 + information.len(), information.len() as u32);
    let length = (own + frame.len()) as u32;
    let offset = if ppi == 0 { 0 } else { 36 };
    let head = words(&[1, length, own as u32 - 8, frame.len() as u32]);
    let rest = words(&[0, 0, 0, offset, ppi, 0, 0]);
    [head, rest, information.to_vec(), frame.to_vec()].concat()
}

impl NetGuest {
    /// A guest that has opened the adapter's first channel.
    pub fn new(configure: impl FnOnce(&mut NetvspConfig)) -> NetGuest {
        let mut config = NetvspConfig::default();
        configure(&mut config);
        let (near, far) = cable();
        let mut hand = HandGuest::new(HostConfig::default());
        let device = hand
            .host
            .bus
            .add(Box::new(Netvsp::new(config, Box::new(near))));
        hand.contact(5 << 16 | 2);
        let relid = hand.offers()[0];
        hand.open(relid);
        NetGuest {
            hand,
            line: far,
            device,
            relid,
            message: 32,
            section_bytes: 0,
            rescinded: Vec::new(),
        }
    }

    /// One that has shared its buffers and initialized the adapter, with the filter open.
    pub fn ready(version: u32, configure: impl FnOnce(&mut NetvspConfig)) -> NetGuest {
        let mut guest = Self::new(configure);
        guest.set_up(version);
        guest.set(0x0001_010e, &words(&[0xb]));
        guest
    }

    pub fn memory(&self) -> &FlatMemory {
        self.hand.host.memory()
    }

    pub fn netvsp(&mut self) -> &mut Netvsp {
        self.hand.host.bus.device_mut(self.device).unwrap()
    }

    pub fn violations(&self) -> Vec<String> {
        self.hand.host.counters().violations
    }

    /// Forgets what was noted.
    pub fn forgive(&mut self) {
        self.hand.host.bus.counters.violations.clear();
    }

    /// Sends an NVSP message; the completion's words, if one comes.
    pub fn nvsp(&mut self, body: &[u32]) -> Option<Vec<u32>> {
        self.nvsp_at(0, body, &[])
    }

    fn nvsp_at(&mut self, channel: usize, body: &[u32], between: &[u64]) -> Option<Vec<u32>> {
        let mut payload = words(body);
        payload.resize(self.message, 0);
        let kind = if between.is_empty() { 6 } else { 9 };
        self.hand.turn_to(channel);
        if self.hand.put(kind, 0x1234, between, &payload) {
            self.hand.signal(self.relid + channel as u32);
        }
        self.hand.settle();
        self.hand.turn_to(channel);
        let (kind, id, answer) = self.hand.get()?;
        assert_eq!((kind, id), (11, 0x1234), "a completion");
        Some(in_words(&answer))
    }

    /// INIT; whether the version was taken.
    pub fn init(&mut self, version: u32) -> bool {
        let answer = self.nvsp(&[1, version, version]).unwrap();
        assert_eq!((answer.len(), answer[0], answer[2]), (8, 2, 34));
        if answer[3] == 1 && version == 0x6_0001 {
            self.message = 40;
        }
        answer[3] == 1
    }

    /// Everything up to and with RNDIS's INITIALIZE.
    pub fn set_up(&mut self, version: u32) {
        self.share(version);
        let complete = self.control(&initialize());
        assert_eq!(in_words(&complete)[..4], [0x8000_0002, 52, 1, 0]);
    }

    /// The same, but INITIALIZE's answer stays in the ring.
    pub fn quietly_set_up(&mut self, version: u32) {
        self.share(version);
        let message = initialize();
        assert_eq!(self.send_ranges(1, &message, &[message.len()]), Some(1));
    }

    fn share(&mut self, version: u32) {
        assert!(self.init(version));
        if version > 2 {
            // 1514 bytes, and VLAN tags beside the frames.
            let answer = self.nvsp(&[125, 1514, 0, 8, 0]);
            assert_eq!(answer.as_deref(), Some(&[][..]));
        }
        let minor = if version >= 0x5_0000 { 30 } else { 1 };
        assert_eq!(self.nvsp(&[100, 6, minor]).as_deref(), Some(&[][..]));
        let relid = self.relid;
        self.hand
            .gpadl(relid, RECEIVE_GPADL, RECEIVE_PAGE..SEND_PAGE);
        let answer = self.nvsp(&[101, RECEIVE_GPADL, SET.into()]).unwrap();
        assert_eq!(answer[..4], [102, 1, 1, 0]);
        assert_eq!(answer[6], answer[4] * answer[5], "the section's end");
        assert_eq!(answer.len() * 4, self.message);
        self.section_bytes = answer[4];
        self.hand
            .gpadl(relid, SEND_GPADL, SEND_PAGE..SEND_PAGE + 16);
        let answer = self.nvsp(&[104, SEND_GPADL, 0]).unwrap();
        assert_eq!(answer[..3], [105, 1, 6144]);
    }

    /// Sends an RNDIS message in pages of its own, split into ranges of these lengths; the status it
    /// is completed with.
    pub fn send_ranges(&mut self, kind: u32, message: &[u8], split: &[usize]) -> Option<u32> {
        self.memory().write(MESSAGE_PAGE << 12, message).unwrap();
        let mut between = vec![(split.len() as u64) << 32];
        let mut at = 0;
        for &length in split {
            let (page, offset) = (MESSAGE_PAGE + at as u64 / 4096, at as u64 % 4096);
            between.push(length as u64 | offset << 32);
            let pages = (offset + length as u64).div_ceil(4096);
            between.extend(page..page + pages);
            at += length;
        }
        assert_eq!(at, message.len());
        let answer = self.nvsp_at(0, &[107, kind, NO_SECTION, 0], &between)?;
        assert_eq!(answer[0], 108);
        Some(answer[1])
    }

    /// Sends a frame's RNDIS packet in pages of its own; its status.
    pub fn send(&mut self, message: &[u8]) -> Option<u32> {
        self.send_ranges(0, message, &[message.len()])
    }

    /// Sends RNDIS packets in a section of the send buffer; their status.
    pub fn send_in_section(&mut self, section: u32, messages: &[u8]) -> Option<u32> {
        let at = (SEND_PAGE << 12) + u64::from(section) * 6144;
        self.memory().write(at, messages).unwrap();
        let answer = self.nvsp(&[107, 0, section, messages.len() as u32])?;
        assert_eq!(answer[0], 108);
        Some(answer[1])
    }

    /// Sends the start of an RNDIS packet in a section and the rest in a page of its own, as Linux
    /// does; its status.
    pub fn send_split(&mut self, section: u32, message: &[u8], at: usize) -> Option<u32> {
        let (first, rest) = message.split_at(at);
        let place = (SEND_PAGE << 12) + u64::from(section) * 6144;
        self.memory().write(place, first).unwrap();
        self.memory().write(MESSAGE_PAGE << 12, rest).unwrap();
        let between = [1 << 32, rest.len() as u64, MESSAGE_PAGE];
        let answer = self.nvsp_at(0, &[107, 0, section, first.len() as u32], &between)?;
        assert_eq!(answer[0], 108);
        Some(answer[1])
    }

    /// Sends a control message and takes the answer.
    pub fn control(&mut self, message: &[u8]) -> Vec<u8> {
        assert_eq!(self.send_ranges(1, message, &[message.len()]), Some(1));
        let transfer = self.transfer(0).expect("an answer");
        assert!(transfer.control && transfer.messages.len() == 1);
        self.give_back(0, transfer.id);
        transfer.messages[0].clone()
    }

    /// Status and information.
    pub fn query(&mut self, oid: u32) -> (u32, Vec<u8>) {
        let answer = self.control(&words(&[4, 28, 7, oid, 0, 20, 0]));
        let head = in_words(&answer[..24]);
        assert_eq!((head[0], head[2], head[5]), (0x8000_0004, 7, 16));
        assert_eq!(head[4] as usize + 24, answer.len());
        (head[3], answer[24..].to_vec())
    }

    /// Its status.
    pub fn set(&mut self, oid: u32, information: &[u8]) -> u32 {
        let length = information.len() as u32;
        let head = words(&[5, 28 + length, 8, oid, length, 20, 0]);
        let answer = in_words(&self.control(&[&head, information].concat()));
        assert_eq!(answer[..3], [0x8000_0005, 16, 8]);
        answer[3]
    }

    /// The next transfer-page packet on a channel.
    pub fn transfer(&mut self, channel: usize) -> Option<Transfer> {
        self.hand.settle();
        self.hand.turn_to(channel);
        let (kind, id, payload) = self.hand.get()?;
        let all = in_words(&payload);
        assert_eq!(
            (kind, all[0]),
            (7, u32::from(SET)),
            "a transfer of our buffer"
        );
        let ranges = all[1] as usize;
        let nvsp = &all[2 + 2 * ranges..];
        assert_eq!((nvsp[0], nvsp[2], nvsp[3]), (107, NO_SECTION, 0));
        assert_eq!(nvsp.len() * 4, self.message);
        let read = |range: &[u32]| {
            let mut message = vec![0; range[0] as usize];
            assert_eq!(range[1] % self.section_bytes, 0);
            let at = (RECEIVE_PAGE << 12) + u64::from(range[1]);
            self.memory().read(at, &mut message).unwrap();
            assert_eq!(in_words(&message[..8])[1], range[0], "the message's length");
            message
        };
        Some(Transfer {
            id,
            control: nvsp[1] == 1,
            messages: all[2..2 + 2 * ranges].chunks(2).map(read).collect(),
        })
    }

    /// Completes a transfer-page packet.
    pub fn give_back(&mut self, channel: usize, id: u64) {
        self.hand.turn_to(channel);
        if self.hand.put(11, id, &[], &words(&[108, 1])) {
            self.hand.signal(self.relid + channel as u32);
        }
        self.hand.settle();
    }

    /// The next frame on a channel, and what came with it: information by type.
    pub fn frame(&mut self, channel: usize) -> Option<Received> {
        let transfer = self.transfer(channel)?;
        assert!(!transfer.control && transfer.messages.len() == 1);
        self.give_back(channel, transfer.id);
        Some(take_apart(&transfer.messages[0]))
    }

    /// Takes the adapter down in order, up to the closed channel.
    pub fn close(&mut self) {
        self.set(0x0001_010e, &words(&[0]));
        let halt = words(&[3, 12, 9]);
        assert_eq!(self.send_ranges(1, &halt, &[halt.len()]), Some(1));
        self.nvsp(&[103, SET.into()]);
        self.nvsp(&[106, 0]);
        self.hand.tell(7, &words(&[self.relid]));
        while self.hand.messages.front().is_some_and(|m| m[0] == 2) {
            self.rescinded.extend(self.hand.expect(2));
        }
        for gpadl in [RECEIVE_GPADL, SEND_GPADL] {
            self.hand.tell(11, &words(&[self.relid, gpadl]));
            assert_eq!(self.hand.expect(12), [gpadl]);
        }
    }
}

/// A received packet's frame and information.
pub fn take_apart(message: &[u8]) -> Received {
    let head = in_words(&message[..44]);
    assert_eq!(head[0], 1, "a packet");
    assert_eq!(head[4..7], [0; 3], "no out-of-band data");
    let data = 8 + head[2] as usize;
    let mut at = 8 + head[7] as usize;
    let end = at + head[8] as usize;
    let mut information = Vec::new();
    while at < end && head[8] != 0 {
        let piece = in_words(&message[at..at + 16]);
        assert_eq!((piece[0], piece[2]), (16, 12));
        information.push((piece[1], piece[3]));
        at += 16;
    }
    (message[data..data + head[3] as usize].to_vec(), information)
}

pub fn in_words(bytes: &[u8]) -> Vec<u32> {
    let word = |word: &[u8]| u32::from_le_bytes(word.try_into().unwrap());
    bytes.chunks_exact(4).map(word).collect()
}
