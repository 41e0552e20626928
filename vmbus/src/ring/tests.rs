//! Both ends of both rings: ours, and a host's written here, word by word, against a queue.

mod queues;
mod receiver;
mod sender;

use super::*;
use crate::abi::packet::{COMPLETION_REQUESTED, PacketKind};
use hypercall::HostFault;
use hypercall::shm::hosted::{Alone, Hosted, Ram, lend};
use hypercall::shm::{Pages, Span};
use std::vec::Vec;

type Memory = Lent<Hosted<Alone>>;

/// Loans without a lender are never taken back; what they are of stays known here, so that Miri
/// does not take them for lost.
static KEPT: std::sync::Mutex<Vec<Hosted<Alone>>> = std::sync::Mutex::new(Vec::new());

fn memory(pages: usize) -> Memory {
    let platform = Hosted::new(Ram::new(pages, 1), Alone::default());
    KEPT.lock().unwrap().push(platform.clone());
    lend(Pages::alloc(&platform, pages).unwrap())
}

/// A host's end: indices in the control page, words behind it.
struct HostEnd<'a> {
    span: Span<'a>,
    size: u32,
}

impl<'a> HostEnd<'a> {
    fn new(memory: &'a Memory) -> Self {
        let span = memory.span();
        let size = span.len() as u32 - 4096;
        Self { span, size }
    }
    fn get(&self, at: usize) -> u32 {
        self.span.load_u32(at).unwrap()
    }
    fn set(&self, at: usize, value: u32) {
        self.span.store_u32(at, value).unwrap();
    }
    fn word(&self, index: u32) -> u64 {
        let at = 4096 + index % self.size;
        self.span.load_u64(at as usize).unwrap()
    }
    fn set_word(&self, index: u32, word: u64) {
        let at = 4096 + index % self.size;
        self.span.store_u64(at as usize, word).unwrap();
    }

    /// Takes the next packet's words, footer included.
    fn take(&self) -> Option<Vec<u64>> {
        let (write, read) = (self.get(0), self.get(4));
        if write == read {
            return None;
        }
        let words = (self.word(read) >> 32 & 0xffff) as u32 + 1;
        let packet = (0..words).map(|i| self.word(read + i * 8)).collect();
        self.set(4, (read + words * 8) % self.size);
        Some(packet)
    }

    /// Puts a packet; false when there is no room.
    fn put(&self, words: &[u64]) -> bool {
        let (write, read) = (self.get(0), self.get(4));
        let total = words.len() as u32 * 8 + 8;
        let used = (write + self.size - read) % self.size;
        if total + 8 > self.size - used {
            return false;
        }
        for (i, word) in (0..).zip(words) {
            self.set_word(write + i * 8, *word);
        }
        self.set_word(write + total - 8, u64::from(write) << 32);
        self.set(0, (write + total) % self.size);
        true
    }
}

/// The first word of a packet.
fn first(kind: u16, offset8: u64, length8: u64, flags: u64) -> u64 {
    u64::from(kind) | offset8 << 16 | length8 << 32 | flags << 48
}
