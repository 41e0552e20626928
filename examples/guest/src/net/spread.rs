//! All queue pairs of an interface as one, for a kernel with one processor: what comes is taken from each in turn,
//! and what is sent goes by the queue that the host would choose.

use alloc::vec::Vec;
use core::task::Waker;

use pv_drivers::HostFault;
use pv_drivers::netfront::netvsc::rss::KEY;
use pv_drivers::netfront::{
    Capabilities, ClaimError, Claimed, Event, Net, NetQueue, ReserveError, RxFrame, SendError,
    Stats, TxFrame, toeplitz,
};

/// Hashes that are told apart, a power of two.
const HASHES: u32 = 128;
/// How long is waited at most, in nanoseconds: only the first queue is asked whether it may be.
const NAP: u64 = 1_000_000;

/// An interface's queues.
pub struct Spread<'n> {
    queues: Vec<&'n mut dyn NetQueue>,
    /// Queues by hash.
    table: Vec<usize>,
    /// The queue that is asked first for the next frame.
    next: usize,
}

impl<'n> Spread<'n> {
    /// All queues of an interface; `None` if it has none.
    pub fn new(net: &'n mut dyn Net) -> Option<Self> {
        let table = (0..HASHES).map(|hash| net.queue_for(hash)).collect();
        let mut queues = Vec::new();
        net.each_queue(&mut |queue| queues.push(queue));
        (!queues.is_empty()).then_some(Self {
            queues,
            table,
            next: 0,
        })
    }

    /// What each queue did.
    pub fn each(&self) -> Vec<Stats> {
        self.queues.iter().map(|queue| queue.stats()).collect()
    }

    fn first(&self) -> Option<&dyn NetQueue> {
        self.queues.first().map(|queue| &**queue)
    }

    /// The queue for a frame: that by which its answers come.
    fn queue_of(&self, frame: &TxFrame) -> usize {
        let mut bytes = [0; 74];
        let len = bytes.len().min(frame.len());
        let head = bytes.get_mut(..len).unwrap_or_default();
        if frame.read_at(0, head).is_err() {
            return 0;
        }
        let hash = hash_of_answers(head).unwrap_or(0) & (HASHES - 1);
        self.table.get(hash as usize).copied().unwrap_or(0)
    }
}

/// The hash of what answers a frame over IPv4, by its first bytes: of its addresses and ports, exchanged; `None` of
/// what has none, or is a part of a packet.
fn hash_of_answers(head: &[u8]) -> Option<u32> {
    let ip = head.strip_prefix(head.get(..12)?)?.strip_prefix(&[8, 0])?;
    let (&first, &protocol) = (ip.first()?, ip.get(9)?);
    let parts = u16::from_be_bytes(*ip.get(6..)?.first_chunk()?) & 0x3fff;
    if first >> 4 != 4 || parts != 0 || !matches!(protocol, 6 | 17) {
        return None;
    }
    let (from, to) = (ip.get(12..16)?, ip.get(16..20)?);
    let transport = ip.get(usize::from(first & 15).wrapping_mul(4)..)?;
    let (source, destination) = (transport.get(..2)?, transport.get(2..4)?);
    let input = [to, from, destination, source].concat();
    Some(toeplitz::hash(&KEY, &input))
}

/// Of an interface whose queues are all gone, which cannot be.
const NONE: HostFault = HostFault::Withdrawn;

impl NetQueue for Spread<'_> {
    fn capabilities(&self) -> &Capabilities {
        const NOTHING: Capabilities = Capabilities::new(pv_drivers::netfront::Mac([0; 6]), 1500);
        self.first().map_or(&NOTHING, NetQueue::capabilities)
    }

    fn rx(&mut self) -> Result<Option<RxFrame>, HostFault> {
        for _ in 0..self.queues.len() {
            if let Some(queue) = self.queues.get_mut(self.next) {
                // It is asked first as long as it has frames: a burst is taken in one go.
                if let Some(frame) = queue.rx()? {
                    return Ok(Some(frame));
                }
            }
            let next = self.next.wrapping_add(1);
            self.next = if next < self.queues.len() { next } else { 0 };
        }
        Ok(None)
    }

    fn claim(&mut self, frame: RxFrame) -> Result<Claimed, (ClaimError, RxFrame)> {
        let mut frame = frame;
        for queue in &mut self.queues {
            match queue.claim(frame) {
                Err((ClaimError::OtherQueue, back)) => frame = back,
                done => return done,
            }
        }
        Err((ClaimError::OtherQueue, frame))
    }

    /// On the queue of the last received frame, whose answer it may be.
    fn tx_reserve(&mut self, len: usize) -> Result<TxFrame, ReserveError> {
        match self.queues.get_mut(self.next) {
            Some(queue) => queue.tx_reserve(len),
            None => Err(ReserveError::Failed(NONE)),
        }
    }

    /// A frame of another queue than it was reserved on is written again there.
    fn send(&mut self, frame: TxFrame) -> Result<(), (SendError, TxFrame)> {
        let wanted = self.queue_of(&frame);
        let Some(queue) = self.queues.get_mut(wanted) else {
            return Err((SendError::Failed(NONE), frame));
        };
        let frame = match queue.send(frame) {
            Err((SendError::OtherQueue, frame)) => frame,
            done => return done,
        };
        let mut bytes = alloc::vec![0; frame.len()];
        if frame.read_at(0, &mut bytes).is_err() {
            return Err((SendError::BadLength, frame));
        }
        let mut own = match queue.tx_reserve(bytes.len()) {
            Ok(own) => own,
            Err(ReserveError::Full) => return Err((SendError::Full, frame)),
            Err(ReserveError::Failed(fault)) => return Err((SendError::Failed(fault), frame)),
            Err(_) => return Err((SendError::BadLength, frame)),
        };
        if own.write_at(0, &bytes).is_err() {
            return Err((SendError::BadLength, frame));
        }
        own.meta = frame.meta;
        queue.send(own).map_err(|(why, _)| (why, frame))
    }

    fn publish(&mut self) {
        for queue in &mut self.queues {
            queue.publish();
        }
    }

    fn in_flight(&mut self) -> usize {
        self.queues.iter_mut().map(|queue| queue.in_flight()).sum()
    }

    fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for stats in self.each() {
            for (to, from) in [
                (&mut sum.rx_frames, stats.rx_frames),
                (&mut sum.rx_bytes, stats.rx_bytes),
                (&mut sum.rx_dropped, stats.rx_dropped),
                (&mut sum.tx_frames, stats.tx_frames),
                (&mut sum.tx_bytes, stats.tx_bytes),
                (&mut sum.tx_errors, stats.tx_errors),
                (&mut sum.copied, stats.copied),
            ] {
                *to = to.wrapping_add(from);
            }
        }
        sum
    }

    fn fault(&self) -> Option<HostFault> {
        self.queues.iter().find_map(|queue| queue.fault())
    }

    fn event(&mut self) -> Option<Event> {
        self.queues.first_mut()?.event()
    }

    fn register_waker(&mut self, waker: &Waker) {
        for queue in &mut self.queues {
            queue.register_waker(waker);
        }
    }

    fn pause(&mut self, until: u64) {
        let now = self.now();
        let alone = self.queues.len() == 1;
        let until = if alone {
            until
        } else {
            until.min(now.saturating_add(NAP))
        };
        let mut queues = self.queues.iter_mut();
        let first = queues.next();
        for queue in queues {
            // It has the host interrupt, and comes back at once.
            queue.pause(now);
        }
        if let Some(first) = first {
            first.pause(until);
        }
    }

    fn now(&self) -> u64 {
        self.first().map_or(0, NetQueue::now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment from 10.0.2.15:80 to 10.0.2.2:1234, with so many words of options.
    fn segment(options: u8) -> Vec<u8> {
        let mut bytes = alloc::vec![0; 12];
        bytes.extend([
            8,
            0,
            0x45u8.wrapping_add(options),
            0,
            0,
            40,
            0,
            0,
            0x40,
            0,
            64,
            6,
            0,
            0,
        ]);
        bytes.extend([10, 0, 2, 15, 10, 0, 2, 2]);
        bytes.extend([1; 4].repeat(options.into()));
        bytes.extend([0, 80, 0x04, 0xd2]);
        bytes
    }

    #[test]
    fn a_frame_goes_where_its_answers_come() {
        let answer = [10, 0, 2, 2, 10, 0, 2, 15, 0x04, 0xd2, 0, 80];
        let hash = Some(toeplitz::hash(&KEY, &answer));
        for options in [0, 1, 10] {
            assert_eq!(hash_of_answers(&segment(options)), hash);
        }
    }

    #[test]
    fn what_has_no_flow_has_no_hash() {
        let whole = segment(0);
        for len in 0..whole.len() {
            assert_eq!(hash_of_answers(&whole[..len]), None);
        }
        // Not IPv4, a first part, a later part, another protocol.
        for (at, byte) in [(12, 0x86), (14, 0x65), (20, 0x20), (21, 1), (23, 1)] {
            let mut other = whole.clone();
            other[at] = byte;
            assert_eq!(hash_of_answers(&other), None, "{at}");
        }
    }
}
