//! What stacks have in common: a queue, a buffer each way, and checksums done as negotiated.

use crate::capabilities::{Capabilities, Offloads};
use crate::checksum::{Contents, Packet};
use crate::frame::TxFrame;
use crate::net::{NetQueue, ReserveError, SendError};
use crate::offload::{Ip, Protocol, RxChecksum, Segmentation};
use crate::{ETHERNET_HEADER, RxFrame};
use hypercall::shm::PAGE_SIZE;

/// The longest frame there is: what a receive buffer of a stack must hold if the host may join
/// segments, in bytes.
pub const MAX_FRAME: usize = 65_535 + ETHERNET_HEADER;

/// Frames that did not get through this layer. All count up from zero and wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Dropped {
    /// Received with a wrong checksum, or headers that make no sense.
    pub bad: u64,
    /// Received longer than the buffer for them.
    pub too_long: u64,
    /// Received in fragments, whose checksum can only be checked once they are joined.
    pub fragments: u64,
    /// Not taken to be sent.
    pub refused: u64,
}

/// A queue with a buffer each way.
#[derive(Debug)]
pub(super) struct Buffered<Q, B> {
    pub queue: Q,
    rx: B,
    tx: B,
    rx_len: usize,
    tx_len: usize,
    /// A frame for which the ring had no room.
    waiting: Option<TxFrame>,
    pub dropped: Dropped,
}

/// The parts that one frame each way needs.
pub(super) struct Parts<'a, Q> {
    pub rx: &'a mut [u8],
    pub out: Out<'a, Q>,
}

/// What it takes to send one frame.
#[derive(Debug)]
pub(super) struct Out<'a, Q> {
    queue: &'a mut Q,
    buffer: &'a mut [u8],
    frame: TxFrame,
    waiting: &'a mut Option<TxFrame>,
    dropped: &'a mut Dropped,
    segmentation: Option<Segmentation>,
}

/// The offload that spares us this checksum.
pub(super) fn offload(ip: Ip, protocol: Protocol) -> Offloads {
    match (ip, protocol) {
        (Ip::V4, Protocol::Tcp) => Offloads::CHECKSUM_TCP_V4,
        (Ip::V4, Protocol::Udp) => Offloads::CHECKSUM_UDP_V4,
        (Ip::V6, Protocol::Tcp) => Offloads::CHECKSUM_TCP_V6,
        (Ip::V6, Protocol::Udp) => Offloads::CHECKSUM_UDP_V6,
    }
}

const TCP: Offloads = Offloads::CHECKSUM_TCP_V4.union(Offloads::CHECKSUM_TCP_V6);
const UDP: Offloads = Offloads::CHECKSUM_UDP_V4.union(Offloads::CHECKSUM_UDP_V6);

/// Which of a protocol's checksums the stack is to leave alone: of what it sends, and of what it
/// receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeaveAlone {
    pub tx: bool,
    pub rx: bool,
}

impl LeaveAlone {
    /// Stacks do not tell IPv4 from IPv6 here: if either is the host's, both are ours.
    pub fn of(capabilities: &Capabilities, protocol: Protocol) -> Self {
        let either = match protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        };
        Self {
            tx: capabilities.tx.intersects(either),
            rx: capabilities.rx.intersects(either),
        }
    }
}

impl<Q: NetQueue, B: AsMut<[u8]>> Buffered<Q, B> {
    pub fn new(queue: Q, mut rx: B, mut tx: B) -> Self {
        let (rx_len, tx_len) = (rx.as_mut().len(), tx.as_mut().len());
        Self {
            queue,
            rx,
            tx,
            rx_len,
            tx_len,
            waiting: None,
            dropped: Dropped::default(),
        }
    }

    /// The longest frame without segmentation, Ethernet header included, that the interface and both
    /// buffers take.
    pub fn max_frame(&self) -> usize {
        usize::from(self.queue.capabilities().mtu)
            .saturating_add(ETHERNET_HEADER)
            .min(self.rx_len)
            .min(self.tx_len)
    }

    /// The longest frame with segmentation that interface and buffer take; `None` when that is no
    /// longer than without.
    #[cfg(feature = "smoltcp")]
    pub fn max_segmented(&self, ip: Ip) -> Option<usize> {
        let capabilities = self.queue.capabilities();
        let needed = match ip {
            Ip::V4 => Offloads::SEGMENT_V4 | Offloads::CHECKSUM_TCP_V4,
            Ip::V6 => Offloads::SEGMENT_V6 | Offloads::CHECKSUM_TCP_V6,
        };
        let most = (capabilities.max_segmented as usize)
            .min(self.tx_len)
            .min(MAX_FRAME);
        (capabilities.tx.contains(needed) && most > self.max_frame()).then_some(most)
    }

    /// Room to send one frame of up to `len` bytes; `None` when there is none now.
    fn reserve(&mut self, len: usize) -> Option<TxFrame> {
        if let Some(frame) = self.waiting.take()
            && let Err((SendError::Full, frame)) = self.queue.send(frame)
        {
            self.waiting = Some(frame);
            // The host may not know yet what it is to make room from.
            self.queue.publish();
            return None;
        }
        match self.queue.tx_reserve(len) {
            Ok(frame) => Some(frame),
            Err(ReserveError::Full) => {
                self.queue.publish();
                None
            }
            Err(_) => None,
        }
    }

    pub fn transmit(&mut self, len: usize) -> Option<Out<'_, Q>> {
        let frame = self.reserve(len)?;
        Some(Out {
            queue: &mut self.queue,
            buffer: self.tx.as_mut(),
            frame,
            waiting: &mut self.waiting,
            dropped: &mut self.dropped,
            segmentation: None,
        })
    }

    /// The next received frame, copied out, and room for an answer to it. A frame that is dropped
    /// comes as an empty one, so that however many there are, each call does a bounded amount of work.
    pub fn receive(&mut self, len: usize) -> Option<Parts<'_, Q>> {
        // Without room for an answer the frame stays where it is.
        let frame = self.reserve(len)?;
        let received = match self.queue.rx() {
            Ok(Some(received)) => received,
            Ok(None) | Err(_) => return None,
        };
        let filled = copy_out(
            self.queue.capabilities(),
            &received,
            self.rx.as_mut(),
            &mut self.dropped,
        );
        drop(received);
        Some(Parts {
            rx: self.rx.as_mut().get_mut(..filled).unwrap_or_default(),
            out: Out {
                queue: &mut self.queue,
                buffer: self.tx.as_mut(),
                frame,
                waiting: &mut self.waiting,
                dropped: &mut self.dropped,
                segmentation: None,
            },
        })
    }
}

/// Copies a received frame into `into`; returns its length, or 0 when it is not fit to be seen.
fn copy_out(
    capabilities: &Capabilities,
    frame: &RxFrame,
    into: &mut [u8],
    dropped: &mut Dropped,
) -> usize {
    let len = frame.len();
    let copy = into.get_mut(..len).filter(|_| len >= ETHERNET_HEADER);
    let Some(copy) = copy else {
        dropped.too_long = dropped.too_long.wrapping_add(1);
        return 0;
    };
    if frame.read_at(0, copy).is_err() {
        return 0;
    }
    let left = |packet: &Packet| LeaveAlone::of(capabilities, packet.transport.protocol).rx;
    let contents = Contents::of(copy);
    let good = match (frame.meta().checksum, contents) {
        (RxChecksum::Bad, _) => false,
        // A host that leaves out what it should not: the stack will look at it.
        (RxChecksum::Blank, Contents::Transport(packet)) if !left(&packet) => {
            packet.finish(copy).is_some()
        }
        (RxChecksum::Good | RxChecksum::Blank, _) => true,
        (RxChecksum::Unchecked, Contents::Transport(packet)) => {
            !left(&packet) || packet.verify(copy)
        }
        (RxChecksum::Unchecked, Contents::Fragment) if capabilities.rx.intersects(TCP | UDP) => {
            dropped.fragments = dropped.fragments.wrapping_add(1);
            return 0;
        }
        // It has no such checksum, or the stack will see for itself.
        (RxChecksum::Unchecked, _) => true,
    };
    if !good {
        dropped.bad = dropped.bad.wrapping_add(1);
        return 0;
    }
    len
}

impl<Q: NetQueue> Out<'_, Q> {
    /// Has the frame cut into packets of `mss` bytes of payload.
    #[cfg(feature = "smoltcp")]
    pub fn segment(&mut self, mss: u16) {
        self.segmentation = Some(Segmentation { ip: Ip::V4, mss });
    }

    /// Lets `fill` write a frame of `len` bytes, and sends it.
    pub fn send<R>(mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let Some(bytes) = self.buffer.get_mut(..len) else {
            // The stack asks for more than it was told there is: what it writes goes nowhere.
            self.dropped.refused = self.dropped.refused.wrapping_add(1);
            return fill(self.buffer);
        };
        let result = fill(bytes);
        // A short frame need not keep the room of a long one: an own one is as good, if there is any.
        if self.frame.len() > len.max(PAGE_SIZE)
            && let Ok(short) = self.queue.tx_reserve(len)
        {
            self.frame = short;
        }
        self.frame.truncate(len);
        let tx = self.queue.capabilities().tx;
        if let Contents::Transport(packet) = Contents::of(bytes) {
            let Packet { transport, .. } = packet;
            let leave = LeaveAlone::of(self.queue.capabilities(), transport.protocol);
            if tx.contains(offload(transport.ip, transport.protocol)) {
                let _ = packet.prepare(bytes);
                self.frame.meta.checksum = Some(transport);
            } else if leave.tx {
                let _ = packet.fill(bytes);
            }
            self.frame.meta.segmentation = self.segmentation;
        }
        let written = self.frame.len() == len && self.frame.write_at(0, bytes).is_ok();
        let refused = if written {
            match self.queue.send(self.frame) {
                Ok(()) => false,
                Err((SendError::Full, frame)) => {
                    *self.waiting = Some(frame);
                    false
                }
                Err(_) => true,
            }
        } else {
            true
        };
        if refused {
            self.dropped.refused = self.dropped.refused.wrapping_add(1);
        }
        result
    }
}
