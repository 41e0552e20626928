//! A guest written by hand, for the host's own tests: it knows the bytes and nothing else.
//!
//! Pages: 1 message page, 2 event-flag page, 3 hypercall page, 4 hypercall input, 8..16 and 16..24
//! rings of two channels (four pages each way), 32.. data.

use super::flat::FlatMemory;
use super::machine::{HostConfig, HyperVHost};
use crate::memory::GuestMemory;
use std::collections::VecDeque;

pub const VECTOR: u64 = 0x33;
const PAGE: u64 = 4096;
pub const RING_DATA: u32 = 3 * 4096;
pub const GPADL: u32 = 0xe1e10;

pub struct HandGuest {
    pub host: HyperVHost<FlatMemory>,
    /// Messages taken from the slot and not yet asked for.
    pub messages: VecDeque<Vec<u8>>,
    pub post_to: u32,
    /// Which of the two pairs of rings is used now.
    channel: usize,
    up_write: [u32; 2],
    down_read: [u32; 2],
    /// Channel events seen.
    pub events: u64,
}

pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

impl HandGuest {
    pub fn new(config: HostConfig) -> Self {
        let mut host = HyperVHost::new(FlatMemory::new(128), config);
        for (msr, value) in [
            (0x4000_0000, 0x8100 << 48),
            (0x4000_0001, (3 * PAGE) | 1),
            (0x4000_0083, PAGE | 1),
            (0x4000_0082, (2 * PAGE) | 1),
            (0x4000_0092, VECTOR),
            (0x4000_0080, 1),
        ] {
            host.wrmsr(msr, value).unwrap();
        }
        let messages = VecDeque::new();
        HandGuest {
            host,
            messages,
            post_to: 1,
            channel: 0,
            up_write: [0; 2],
            down_read: [0; 2],
            events: 0,
        }
    }

    /// Lets the host come to rest, handling its interrupts as they come.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            let moved = self.host.step();
            while let Some(vector) = self.host.take_interrupt() {
                assert_eq!(u64::from(vector), VECTOR);
                self.interrupt();
            }
            if !moved {
                return;
            }
        }
        panic!("the host does not come to rest");
    }

    fn interrupt(&mut self) {
        let slot = PAGE + 2 * 256;
        loop {
            let (kind, pending) = {
                let memory = self.host.memory();
                let kind = memory.load_u32(slot).unwrap();
                if kind == 1 {
                    let size = memory.load_u32(slot + 4).unwrap() as u8;
                    let mut payload = vec![0; size.into()];
                    memory.read(slot + 16, &mut payload).unwrap();
                    self.messages.push_back(payload);
                }
                memory.store_u32(slot, 0).unwrap();
                (kind, memory.load_u32(slot + 4).unwrap() & 1 << 8 != 0)
            };
            if kind == 0 {
                break;
            }
            if pending {
                self.host.wrmsr(0x4000_0084, 0).unwrap();
                break;
            }
        }
        let memory = self.host.memory();
        for word in 0..64 {
            let at = 2 * PAGE + 2 * 256 + word * 4;
            let set = memory.load_u32(at).unwrap();
            memory.store_u32(at, 0).unwrap();
            self.events += u64::from(set.count_ones());
        }
    }

    /// HvPostMessage; returns its status.
    pub fn post(&mut self, payload: &[u8]) -> u64 {
        let input = [
            words(&[self.post_to, 0, 1, payload.len() as u32]),
            payload.to_vec(),
        ]
        .concat();
        self.host.memory().write(4 * PAGE, &input).unwrap();
        self.host.hypercall(0x5c, 4 * PAGE, 0)
    }

    /// A message: its type, the reserved word, its body.
    pub fn tell(&mut self, kind: u32, body: &[u8]) -> u64 {
        let payload = [words(&[kind, 0]), body.to_vec()].concat();
        let status = self.post(&payload);
        self.settle();
        status
    }

    /// The words of the next message, which must be of this type.
    pub fn expect(&mut self, kind: u32) -> Vec<u32> {
        let payload = self.messages.pop_front().expect("a message");
        let all: Vec<u32> = payload
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(all[0], kind);
        all[2..].to_vec()
    }

    /// INITIATE_CONTACT; the words of the answer: supported, then the connection id.
    pub fn contact(&mut self, version: u32) -> Vec<u32> {
        self.post_to = if version >= 5 << 16 { 4 } else { 1 };
        let sint = if version >= 5 << 16 { 2 } else { 0 };
        self.tell(14, &words(&[version, 0, sint, 0, 0, 0, 0, 0]));
        let answer = self.expect(15);
        if answer[0] & 0xff == 1 && version >= 5 << 16 {
            self.post_to = answer[1];
        }
        answer
    }

    /// REQUEST_OFFERS; the relids before the all-delivered mark.
    pub fn offers(&mut self) -> Vec<u32> {
        assert_eq!(self.tell(3, &[]), 0);
        let mut relids = Vec::new();
        while self.messages[0][0] == 1 {
            relids.push(self.expect(1)[176 / 4]);
        }
        self.expect(4);
        relids
    }

    /// From now on the first or the second channel is meant.
    pub fn turn_to(&mut self, channel: usize) {
        self.channel = channel;
    }

    /// The first page of the guest-to-host ring, and of the other one.
    fn rings(&self) -> (u64, u64) {
        let up = 8 + 8 * self.channel as u64;
        (up, up + 4)
    }

    /// Describes pages of memory for a channel, in as many messages as it takes.
    pub fn gpadl(&mut self, relid: u32, handle: u32, pages: std::ops::Range<u64>) {
        let count = pages.end - pages.start;
        let frames: Vec<u64> = pages.collect();
        let header = words(&[
            relid,
            handle,
            (8 + 8 * count as u32) | 1 << 16,
            count as u32 * 4096,
            0,
        ]);
        let (first, rest) = frames.split_at(frames.len().min(3));
        let bytes = |frames: &[u64]| -> Vec<u8> {
            frames
                .iter()
                .flat_map(|frame| frame.to_le_bytes())
                .collect()
        };
        assert_eq!(self.tell(8, &[header, bytes(first)].concat()), 0);
        for (number, part) in (1..).zip(rest.chunks(28)) {
            assert!(self.messages.is_empty(), "complete too early");
            self.tell(9, &[words(&[number, handle]), bytes(part)].concat());
        }
        assert_eq!(self.expect(10), [relid, handle, 0]);
    }

    /// Makes the ring GPADL in a header and a body message, and opens the channel on it.
    pub fn open(&mut self, relid: u32) {
        let (up, _) = self.rings();
        for page in up..up + 8 {
            self.host.memory().write(page * PAGE, &[0; 4096]).unwrap();
        }
        self.up_write[self.channel] = 0;
        self.down_read[self.channel] = 0;
        let handle = GPADL + self.channel as u32;
        self.gpadl(relid, handle, up..up + 8);
        let mut open = words(&[relid, 77, handle, 0, 4]);
        open.resize(140, 0);
        self.tell(5, &open);
        assert_eq!(self.expect(6), [relid, 77, 0]);
    }

    /// Writes a packet by hand; true if the host wants to be signalled.
    pub fn put(&mut self, kind: u64, id: u64, between: &[u64], payload: &[u8]) -> bool {
        let (up, _) = self.rings();
        let mut packet: Vec<u8> = Vec::new();
        let offset = 2 + between.len() as u64;
        let length = offset + payload.len().div_ceil(8) as u64;
        let head = kind | offset << 16 | length << 32 | 1 << 48;
        for word in [head, id].iter().chain(between) {
            packet.extend_from_slice(&word.to_le_bytes());
        }
        packet.extend_from_slice(payload);
        packet.resize(length as usize * 8, 0);
        packet.extend_from_slice(&(u64::from(self.up_write[self.channel]) << 32).to_le_bytes());
        let began = self.up_write[self.channel];
        let memory = self.host.memory();
        let turn = (RING_DATA - began).min(packet.len() as u32) as usize;
        memory
            .write((up + 1) * PAGE + u64::from(began), &packet[..turn])
            .unwrap();
        memory.write((up + 1) * PAGE, &packet[turn..]).unwrap();
        self.up_write[self.channel] = (began + packet.len() as u32) % RING_DATA;
        memory
            .store_u32(up * PAGE, self.up_write[self.channel])
            .unwrap();
        memory.load_u32(up * PAGE + 8).unwrap() == 0
            && memory.load_u32(up * PAGE + 4).unwrap() == began
    }

    /// HvSignalEvent, fast.
    pub fn signal(&mut self, relid: u32) {
        assert_eq!(self.host.hypercall(0x1005d, (relid | 0x2000).into(), 0), 0);
    }

    /// The next packet from the host: kind, transaction id, payload.
    pub fn get(&mut self) -> Option<(u16, u64, Vec<u8>)> {
        let (_, down) = self.rings();
        let memory = self.host.memory();
        if memory.load_u32(down * PAGE).unwrap() == self.down_read[self.channel] {
            return None;
        }
        let mut at = self.down_read[self.channel];
        let mut take = |count: usize| -> Vec<u8> {
            let mut bytes = vec![0; count];
            let turn = ((RING_DATA - at) as usize).min(count);
            let (first, rest) = bytes.split_at_mut(turn);
            memory
                .read((down + 1) * PAGE + u64::from(at), first)
                .unwrap();
            memory.read((down + 1) * PAGE, rest).unwrap();
            at = (at + count as u32) % RING_DATA;
            bytes
        };
        let head = take(16);
        let length = usize::from(u16::from_le_bytes([head[4], head[5]])) * 8;
        let payload = take(length - 16);
        take(8);
        self.down_read[self.channel] = at;
        memory.store_u32(down * PAGE + 4, at).unwrap();
        let id = u64::from_le_bytes(head[8..16].try_into().unwrap());
        Some((u16::from_le_bytes([head[0], head[1]]), id, payload))
    }

    /// Sends a storvsp packet of 64 bytes in-band and waits for its completion's status and body.
    pub fn storvsp(&mut self, relid: u32, operation: u32, body: &[u8]) -> (u32, Vec<u8>) {
        let mut payload = words(&[operation, 0, 0]);
        payload.extend_from_slice(body);
        payload.resize(64, 0);
        if self.put(6, 500 + u64::from(operation), &[], &payload) {
            self.signal(relid);
        }
        self.settle();
        let (kind, id, answer) = self.get().expect("a completion");
        assert_eq!(
            (kind, id, answer.len()),
            (11, 500 + u64::from(operation), 64)
        );
        assert_eq!(answer[..4], [1, 0, 0, 0]);
        (
            u32::from_le_bytes(answer[8..12].try_into().unwrap()),
            answer[12..].to_vec(),
        )
    }

    /// The storvsp handshake, asking for one version.
    pub fn storvsp_init(&mut self, relid: u32, version: u16) {
        for (operation, body) in [
            (7, vec![]),
            (9, version.to_le_bytes().to_vec()),
            (10, vec![]),
            (8, vec![]),
        ] {
            assert_eq!(
                self.storvsp(relid, operation, &body).0,
                0,
                "operation {operation}"
            );
        }
    }

    /// Writes an EXECUTE_SRB for LUN `lun` with `length` bytes of data at page 32.
    pub fn srb(&mut self, relid: u32, id: u64, lun: u8, cdb: &[u8], length: u32, data_in: u8) {
        let mut request = vec![0x34, 0, 0, 0, 0, 0, 0, lun, cdb.len() as u8, 20, data_in, 0];
        request.extend_from_slice(&length.to_le_bytes());
        request.extend_from_slice(cdb);
        request.resize(0x34, 0);
        let payload = [words(&[3, 0, 0]), request].concat();
        let mut range = vec![1 << 32, u64::from(length)];
        range.extend((0..u64::from(length).div_ceil(PAGE)).map(|page| 32 + page));
        let wants_signal = if length == 0 {
            self.put(6, id, &[], &payload)
        } else {
            self.put(9, id, &range, &payload)
        };
        if wants_signal {
            self.signal(relid);
        }
    }

    /// Executes a command to its end: SRB status, bytes moved, sense key.
    pub fn execute(
        &mut self,
        relid: u32,
        lun: u8,
        cdb: &[u8],
        length: u32,
        data_in: u8,
    ) -> (u8, u32, u8) {
        self.srb(relid, 9000, lun, cdb, length, data_in);
        self.settle();
        let (kind, id, answer) = self.get().expect("a completion");
        assert_eq!((kind, id), (11, 9000));
        let moved = u32::from_le_bytes(answer[24..28].try_into().unwrap());
        (answer[14], moved, answer[30] & 0xf)
    }

    pub fn data(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.host.memory().read(32 * PAGE, &mut bytes).unwrap();
        bytes
    }

    pub fn set_data(&self, bytes: &[u8]) {
        self.host.memory().write(32 * PAGE, bytes).unwrap();
    }
}
