//! A queue with no host below: frames go straight from its pool to a line. For what is built on
//! queues and does not care whose they are.

use super::{Checksum, Frame, Port, Segment};
use core::task::Waker;
use hypercall::HostFault;
use hypercall::shm::hosted::{Alone, Hosted, Ram, lend};
use hypercall::shm::{Pages, Pool};
use netfront::{
    Body, Capabilities, Event, Ip, NetQueue, Offloads, ReserveError, RxChecksum, RxFrame, RxMeta,
    Segmentation, SendError, Stats, TxFrame, Vlan, checksum::Contents,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pages of a queue's pool.
const PAGES: usize = 256;

/// A queue over a line. Its clock is shared with whoever moves it.
pub struct LineQueue {
    pool: Pool<Hosted<Alone>>,
    port: Box<dyn Port>,
    capabilities: Capabilities,
    stats: Stats,
    clock: Arc<AtomicU64>,
    events: VecDeque<Event>,
    waker: Option<Waker>,
    /// What it failed with.
    pub fault: Option<HostFault>,
    /// Frames that the ring has room for now.
    pub room: usize,
}

impl LineQueue {
    /// A queue at one end of a line, whose time is `clock`, in nanoseconds.
    pub fn new(port: Box<dyn Port>, capabilities: Capabilities, clock: Arc<AtomicU64>) -> Self {
        let platform = Hosted::new(Ram::new(PAGES + 8, 0x100), Alone::default());
        let pages = Pages::alloc(&platform, PAGES).expect("pages");
        let pool = Pool::new(lend(pages)).map_err(|(why, _)| why);
        Self {
            pool: pool.expect("a pool"),
            port,
            capabilities,
            stats: Stats::default(),
            clock,
            events: VecDeque::new(),
            waker: None,
            fault: None,
            room: usize::MAX,
        }
    }

    /// Has something happen to the interface.
    pub fn happen(&mut self, event: Event) {
        match event {
            Event::Link(up) => self.capabilities.link = up,
            Event::Mtu(mtu) => self.capabilities.mtu = mtu,
            _ => {}
        }
        self.events.push_back(event);
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Pages that somebody holds.
    pub fn pages_out(&self) -> usize {
        PAGES - self.pool.free_pages()
    }

    fn longest(&self) -> usize {
        usize::from(self.capabilities.mtu) + 14
    }
}

impl NetQueue for LineQueue {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn rx(&mut self) -> Result<Option<RxFrame>, HostFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if !self.port.is_ready() {
            return Ok(None);
        }
        let Some(frame) = self.port.receive() else {
            return Ok(None);
        };
        let Some(mut buf) = self.pool.alloc(frame.bytes.len()) else {
            self.stats.rx_dropped += 1;
            return Ok(None);
        };
        buf.write_at(0, &frame.bytes).expect("as long as it");
        let mut meta = RxMeta::default();
        meta.checksum = match frame.checksum {
            Checksum::InFrame => RxChecksum::Unchecked,
            Checksum::Verified => RxChecksum::Good,
            Checksum::Partial { .. } => RxChecksum::Blank,
        };
        meta.segmentation = frame.segment.map(|segment| Segmentation {
            ip: if segment.v6 { Ip::V6 } else { Ip::V4 },
            mss: segment.mss,
        });
        meta.vlan = frame.vlan.map(Vlan);
        meta.hash = frame.hash;
        self.stats.rx_frames += 1;
        self.stats.rx_bytes += frame.bytes.len() as u64;
        Ok(Some(RxFrame::new(Body::Buf(buf), meta)))
    }

    fn tx_reserve(&mut self, len: usize) -> Result<TxFrame, ReserveError> {
        if let Some(fault) = self.fault {
            return Err(ReserveError::Failed(fault));
        }
        if len > self.longest().max(self.capabilities.max_segmented as usize) {
            return Err(ReserveError::TooLong);
        }
        let buf = self.pool.alloc(len).ok_or(ReserveError::Full)?;
        TxFrame::new(Body::Buf(buf), 0).ok_or(ReserveError::TooLong)
    }

    fn send(&mut self, frame: TxFrame) -> Result<(), (SendError, TxFrame)> {
        if let Some(fault) = self.fault {
            return Err((SendError::Failed(fault), frame));
        }
        let segmented = frame.meta.segmentation.is_some();
        let most = match segmented {
            true => self.capabilities.max_segmented as usize,
            false => self.longest(),
        };
        if !(14..=most).contains(&frame.len()) {
            return Err((SendError::BadLength, frame));
        }
        let offered = self.capabilities.tx;
        let checksums = Offloads::CHECKSUM_TCP_V4
            | Offloads::CHECKSUM_UDP_V4
            | Offloads::CHECKSUM_TCP_V6
            | Offloads::CHECKSUM_UDP_V6;
        let segments = Offloads::SEGMENT_V4 | Offloads::SEGMENT_V6;
        if frame.meta.checksum.is_some() && !offered.intersects(checksums)
            || segmented && !(offered.intersects(segments) && frame.meta.checksum.is_some())
        {
            return Err((SendError::Unsupported, frame));
        }
        if self.room == 0 {
            return Err((SendError::Full, frame));
        }
        self.room -= 1;
        let mut bytes = vec![0; frame.len()];
        frame.read_at(0, &mut bytes).expect("as long as it");
        if let Some(transport) = frame.meta.checksum {
            let packet = Contents::of(&bytes).packet().expect("a packet");
            assert_eq!(packet.transport, transport, "as its headers say");
        }
        self.stats.tx_frames += 1;
        self.stats.tx_bytes += bytes.len() as u64;
        let mut sent = Frame::new(bytes);
        if let Some(transport) = frame.meta.checksum {
            sent.checksum = Checksum::Partial {
                start: transport.start,
                offset: transport.protocol.checksum_offset(),
            };
        }
        sent.segment = frame.meta.segmentation.map(|segmentation| Segment {
            v6: segmentation.ip == Ip::V6,
            mss: segmentation.mss,
        });
        sent.vlan = frame.meta.vlan.map(|Vlan(tag)| tag);
        self.port.send(sent);
        Ok(())
    }

    fn publish(&mut self) {}

    fn in_flight(&mut self) -> usize {
        0
    }

    fn stats(&self) -> Stats {
        self.stats
    }

    fn fault(&self) -> Option<HostFault> {
        self.fault
    }

    fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn register_waker(&mut self, waker: &Waker) {
        self.waker = Some(waker.clone());
    }

    /// Time goes on only here, and by as much as is asked for: frames come from elsewhere.
    fn pause(&mut self, until: u64) {
        if !self.port.is_ready() {
            self.clock.fetch_max(until, Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }
}
