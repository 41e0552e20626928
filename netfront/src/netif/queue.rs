//! One queue pair: a ring each way, their event channels, and what is known of the interface.

use super::abi::{
    EXTRA_TYPE_GSO, ExtraInfo, GSO_TYPE_TCPV4, GSO_TYPE_TCPV6, NR_SLOTS_MIN, TXF_CSUM_BLANK,
    TXF_DATA_VALIDATED,
};
use super::news::News;
use super::rx::Rx;
use super::tx::Tx;
use crate::ETHERNET_HEADER;
use crate::capabilities::{Capabilities, Event, Offloads, Stats};
use crate::frame::{Body, RxFrame, TxFrame};
use crate::net::{NetQueue, ReserveError, SendError};
use crate::offload::{Ip, Protocol, RxMeta, Segmentation, Transport, TxMeta};
use core::fmt;
use core::task::Waker;
use hypercall::host::Hypervisor;
use hypercall::shm::{Buf, Lent, PAGE_SIZE};
use hypercall::xen::Xen;
use hypercall::{Gate, HostFault, Platform, Port};

/// How often a look at the ring may come up empty after the host claimed there is more, before
/// the host is left alone until the next call.
const PATIENCE: u32 = 4;
/// How long is slept at most while the host has hardly a page to receive into, in nanoseconds: no
/// interrupt tells of dropped frames.
const STARVED: u64 = 1_000_000;
/// With fewer pages posted than this, each is shown to the host at once.
const FEW: usize = 64;
/// Bytes of a VLAN tag.
const VLAN_TAG: usize = 4;

/// One queue pair of a [`Netif`](super::Netif).
pub struct Queue<'b, 'h, P: Platform, G: Gate> {
    pub(super) xen: &'h Xen<P, G>,
    pub(super) tx: Tx<P>,
    pub(super) rx: Rx<P>,
    pub(super) can: Capabilities,
    /// The longest frame that goes the short way, in bytes; 0 while none does.
    most: u16,
    rx_bytes: u64,
    tx_bytes: u64,
    /// Whether the back end takes frames of more pieces.
    pub(super) sg: bool,
    pub(super) fault: Option<HostFault>,
    pub(super) ports: Option<Ports>,
    pub(super) news: News<'b, 'h, P, G>,
    pub(super) stats: Stats,
    /// Somebody waits for room, and the host will tell of it.
    waits: bool,
    /// Rings that the host did not let go of.
    pub(super) held: heapless::Vec<Lent<P>, 2>,
}

/// The event channels of a queue; the same one twice where they are not split.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) tx: Port,
    pub(super) rx: Port,
}

impl<P: Platform, G: Gate> fmt::Debug for Queue<'_, '_, P, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("in_flight", &self.tx.in_flight())
            .field("posted", &self.rx.posted())
            .field("fault", &self.fault)
            .finish()
    }
}

/// What a frame that takes the long way is on the wire.
struct Chain {
    flags: u16,
    extra: Option<ExtraInfo>,
}

impl<'b, 'h, P: Platform, G: Gate> Queue<'b, 'h, P, G> {
    pub(super) fn new(xen: &'h Xen<P, G>, can: Capabilities) -> Option<Self> {
        let platform = xen.platform();
        Some(Self {
            xen,
            tx: Tx::new(platform).ok()?,
            rx: Rx::new(platform).ok()?,
            can,
            most: 0,
            rx_bytes: 0,
            tx_bytes: 0,
            sg: false,
            fault: Some(HostFault::Withdrawn),
            ports: None,
            news: News::none(),
            stats: Stats::default(),
            waits: false,
            held: heapless::Vec::new(),
        })
    }

    /// Latches a fault: nothing is sent or received until the interface is connected anew.
    #[cold]
    pub(super) fn fail(&mut self, fault: HostFault) {
        if self.fault.is_none() {
            log::warn!("network queue failed: {fault}");
            self.fault = Some(fault);
        }
        self.most = 0;
        self.tx.stop();
        self.rx.stop();
    }

    /// Takes note of what the interface can do now.
    pub(super) fn learn(&mut self, can: Capabilities, sg: bool) {
        self.can = can;
        self.sg = sg;
        let frame = usize::from(can.mtu).saturating_add(ETHERNET_HEADER);
        self.most = frame.min(PAGE_SIZE) as u16;
        if self.fault.is_some() {
            self.most = 0;
        }
    }

    /// Begins to work over a connection that was just made.
    pub(super) fn start(&mut self) {
        self.fault = None;
        self.learn(self.can, self.sg);
        self.waits = false;
        if let Some(ports) = self.ports {
            // The back end may have looked at the rings before it could be told of them.
            self.tx.publish();
            self.rx.publish();
            self.xen.signal(ports.rx);
            self.xen.signal(ports.tx);
        }
    }

    #[inline]
    fn publish_tx(&mut self) {
        if self.tx.publish()
            && let Some(ports) = self.ports
        {
            self.xen.signal(ports.tx);
        }
    }

    #[inline]
    fn publish_rx(&mut self) {
        if self.rx.publish()
            && let Some(ports) = self.ports
        {
            self.xen.signal(ports.rx);
        }
    }

    fn reap(&mut self) -> Result<(), HostFault> {
        let reaped = self.tx.reap();
        if let Err(fault) = reaped {
            self.fail(fault);
        }
        reaped
    }

    /// Asks to be told when there is room; whether there may be some now.
    #[cold]
    fn wait_for_room(&mut self, all: bool) -> bool {
        if let Some(ports) = self.ports {
            // The signal is only a hint to look, which is what happens next in any case.
            let _ = self.xen.take_pending(ports.tx);
        }
        self.waits = true;
        self.publish_tx();
        self.tx.arm(all)
    }

    #[inline(never)]
    fn reserve_any(&mut self, len: usize) -> Result<Buf, ReserveError> {
        if let Some(fault) = self.fault {
            return Err(ReserveError::Failed(fault));
        }
        let frame = usize::from(self.can.mtu)
            .saturating_add(ETHERNET_HEADER)
            .saturating_add(VLAN_TAG);
        if len > frame.max(self.can.max_segmented as usize) {
            return Err(ReserveError::TooLong);
        }
        for _ in 0..PATIENCE {
            self.reap().map_err(ReserveError::Failed)?;
            if let Some(buf) = self.tx.alloc(len) {
                return Ok(buf);
            }
            if self.tx.in_flight() == 0 || !self.wait_for_room(false) {
                break;
            }
        }
        Err(ReserveError::Full)
    }

    /// As [`send_any`](Self::send_any), for a frame without headroom.
    #[cold]
    fn send_parts(&mut self, buf: Buf, meta: TxMeta) -> Result<(), (SendError, TxFrame)> {
        match TxFrame::new(Body::Buf(buf), 0) {
            Some(mut frame) => {
                frame.meta = meta;
                self.send_any(frame)
            }
            None => Ok(()),
        }
    }

    #[inline(never)]
    fn send_any(&mut self, frame: TxFrame) -> Result<(), (SendError, TxFrame)> {
        if let Some(fault) = self.fault {
            return Err((SendError::Failed(fault), frame));
        }
        let chain = match self.accept(&frame) {
            Ok(chain) => chain,
            Err(why) => return Err((why, frame)),
        };
        let Body::Buf(buf) = frame.body() else {
            return Err((SendError::OtherQueue, frame));
        };
        let slots = buf.segments().count();
        let slots = slots.wrapping_add(usize::from(chain.extra.is_some()));
        if let Err(why) = self.make_room(slots) {
            return Err((why, frame));
        }
        let (len, headroom) = (frame.len(), usize::from(frame.headroom()));
        if let (Body::Buf(mut buf), _) = frame.into_parts() {
            buf.advance(headroom);
            self.tx.send_chain(buf, chain.flags, chain.extra);
            self.count_sent(len);
        }
        Ok(())
    }

    #[inline(always)]
    fn count_sent(&mut self, bytes: usize) {
        self.stats.tx_frames = self.stats.tx_frames.wrapping_add(1);
        self.tx_bytes = self.tx_bytes.wrapping_add(bytes as u64);
    }

    fn make_room(&mut self, slots: usize) -> Result<(), SendError> {
        for _ in 0..PATIENCE {
            if self.tx.has_room(slots) {
                return Ok(());
            }
            self.reap().map_err(SendError::Failed)?;
            if self.tx.has_room(slots) {
                return Ok(());
            }
            if !self.wait_for_room(false) {
                break;
            }
        }
        Err(SendError::Full)
    }

    /// Whether the interface could send the frame, and as what.
    fn accept(&self, frame: &TxFrame) -> Result<Chain, SendError> {
        let Body::Buf(buf) = frame.body() else {
            return Err(SendError::OtherQueue);
        };
        if !self.tx.pool().is_some_and(|pool| buf.is_from(pool)) {
            return Err(SendError::OtherQueue);
        }
        let chain = self.accept_meta(&frame.meta, frame.len())?;
        self.accept_length(frame)?;
        self.accept_pieces(buf, chain.extra.is_some())?;
        Ok(chain)
    }

    fn accept_length(&self, frame: &TxFrame) -> Result<(), SendError> {
        let len = frame.len();
        let plain = usize::from(self.can.mtu).saturating_add(ETHERNET_HEADER);
        let fits = if frame.meta.segmentation.is_some() {
            len <= self.can.max_segmented as usize
        } else {
            len <= plain || (len <= plain.saturating_add(VLAN_TAG) && is_tagged(frame))
        };
        match fits && len >= ETHERNET_HEADER {
            true => Ok(()),
            false => Err(SendError::BadLength),
        }
    }

    /// Counts slots. Back ends take the Ethernet header from the first piece alone.
    fn accept_pieces(&self, buf: &Buf, extra: bool) -> Result<(), SendError> {
        let mut pieces = buf.segments();
        let first = pieces.next().ok_or(SendError::BadLength)?;
        let slots = pieces.count().saturating_add(1);
        let most = if self.sg { NR_SLOTS_MIN } else { 1 };
        if slots > most.saturating_sub(usize::from(extra)).max(1)
            || usize::from(first.len) < ETHERNET_HEADER
        {
            return Err(SendError::BadLength);
        }
        Ok(())
    }

    fn accept_meta(&self, meta: &TxMeta, len: usize) -> Result<Chain, SendError> {
        let mut chain = Chain {
            flags: 0,
            extra: None,
        };
        if meta.vlan.is_some() {
            return Err(SendError::Unsupported);
        }
        if let Some(transport) = meta.checksum {
            if !self.can.tx.contains(checksum_of(transport)) || !has_checksum(transport, len) {
                return Err(SendError::Unsupported);
            }
            chain.flags = TXF_CSUM_BLANK | TXF_DATA_VALIDATED;
        }
        if let Some(segmentation) = meta.segmentation {
            let Some(transport) = meta.checksum else {
                return Err(SendError::Unsupported);
            };
            chain.extra = Some(self.accept_segmentation(segmentation, transport)?);
        }
        Ok(chain)
    }

    fn accept_segmentation(
        &self,
        segmentation: Segmentation,
        transport: Transport,
    ) -> Result<ExtraInfo, SendError> {
        let (offload, gso_type) = match segmentation.ip {
            Ip::V4 => (Offloads::SEGMENT_V4, GSO_TYPE_TCPV4),
            Ip::V6 => (Offloads::SEGMENT_V6, GSO_TYPE_TCPV6),
        };
        if !self.can.tx.contains(offload)
            || transport.ip != segmentation.ip
            || transport.protocol != Protocol::Tcp
            || segmentation.mss == 0
        {
            return Err(SendError::Unsupported);
        }
        Ok(ExtraInfo {
            r#type: EXTRA_TYPE_GSO,
            flags: 0,
            gso_size: segmentation.mss,
            gso_type,
            pad: 0,
            gso_features: 0,
        })
    }

    /// The next frame, by the long way.
    #[inline(never)]
    fn rx_any(&mut self) -> Result<Option<RxFrame>, HostFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let taken = self.rx_or_rest();
        match &taken {
            Ok(Some(frame)) => self.count_received(frame.len()),
            Ok(None) => {}
            Err(fault) => self.fail(*fault),
        }
        taken
    }

    #[inline(always)]
    fn count_received(&mut self, bytes: usize) {
        self.stats.rx_frames = self.stats.rx_frames.wrapping_add(1);
        self.rx_bytes = self.rx_bytes.wrapping_add(bytes as u64);
    }

    fn rx_or_rest(&mut self) -> Result<Option<RxFrame>, HostFault> {
        for _ in 0..PATIENCE {
            if let Some(frame) = self.rx.take()? {
                if self.rx.is_due() || self.rx.posted() < FEW {
                    self.publish_rx();
                }
                return Ok(Some(frame));
            }
            if self.news.is_gone() {
                return Err(HostFault::Withdrawn);
            }
            if !self.rest()? {
                break;
            }
        }
        Ok(None)
    }

    /// There is nothing to receive: does what is put off until then, and has the host interrupt
    /// for the next frame. Whether there is one after all.
    fn rest(&mut self) -> Result<bool, HostFault> {
        self.publish_tx();
        self.tx.reap()?;
        self.rx.fill();
        self.publish_rx();
        if let Some(ports) = self.ports {
            // The signal is only a hint to look, which is what happens next in any case.
            let _ = self.xen.take_pending(ports.rx);
        }
        Ok(self.rx.arm())
    }

    fn has_events(&mut self) -> bool {
        let any = self.news.has_events(&mut self.can);
        if any {
            self.learn(self.can, self.sg);
        }
        any
    }

    /// Whether there is no reason to wait.
    fn is_busy(&mut self) -> bool {
        self.fault.is_some()
            || self.has_events()
            || self.news.is_gone()
            || self.rest().unwrap_or(true)
            || (self.waits && self.tx.has_answers())
    }
}

/// The offload that fills in a checksum.
fn checksum_of(transport: Transport) -> Offloads {
    match (transport.ip, transport.protocol) {
        (Ip::V4, Protocol::Tcp) => Offloads::CHECKSUM_TCP_V4,
        (Ip::V4, Protocol::Udp) => Offloads::CHECKSUM_UDP_V4,
        (Ip::V6, Protocol::Tcp) => Offloads::CHECKSUM_TCP_V6,
        (Ip::V6, Protocol::Udp) => Offloads::CHECKSUM_UDP_V6,
    }
}

/// Whether the checksum's field is inside the frame.
fn has_checksum(transport: Transport, len: usize) -> bool {
    let at = usize::from(transport.start)
        .saturating_add(usize::from(transport.protocol.checksum_offset()));
    at.saturating_add(2) <= len
}

/// Whether a VLAN tag is in the frame.
fn is_tagged(frame: &TxFrame) -> bool {
    let mut kind = [0; 2];
    frame.read_at(12, &mut kind).is_ok() && kind == [0x81, 0]
}

impl<P: Platform, G: Gate> NetQueue for Queue<'_, '_, P, G> {
    fn capabilities(&self) -> &Capabilities {
        &self.can
    }

    #[inline]
    fn rx(&mut self) -> Result<Option<RxFrame>, HostFault> {
        let Some(plain) = self.rx.take_plain() else {
            return self.rx_any();
        };
        self.count_received(plain.buf.len());
        if plain.is_due {
            self.publish_rx();
        }
        let meta = RxMeta {
            checksum: plain.checksum,
            ..RxMeta::default()
        };
        Ok(Some(RxFrame::new(Body::Buf(plain.buf), meta)))
    }

    #[inline]
    fn tx_reserve(&mut self, len: usize) -> Result<TxFrame, ReserveError> {
        let mut buf = None;
        // A length of 0 goes the long way.
        if len.wrapping_sub(1) < usize::from(self.most) {
            buf = self.tx.reuse(len as u16);
        }
        let buf = match buf {
            Some(buf) => buf,
            None => self.reserve_any(len)?,
        };
        // Its headroom is none, so it always has one.
        TxFrame::new(Body::Buf(buf), 0).ok_or(ReserveError::Full)
    }

    #[inline(always)]
    fn send(&mut self, frame: TxFrame) -> Result<(), (SendError, TxFrame)> {
        let Some(id) = self.tx.plain_id(&frame) else {
            return self.send_any(frame);
        };
        let (Body::Buf(buf), meta) = frame.into_parts() else {
            // It was a buffer a moment ago.
            return Ok(());
        };
        match self.tx.send_plain(id, buf, self.most) {
            Ok(len) => {
                self.count_sent(len.into());
                Ok(())
            }
            Err(buf) => self.send_parts(buf, meta),
        }
    }

    #[inline]
    fn publish(&mut self) {
        self.publish_tx();
    }

    fn in_flight(&mut self) -> usize {
        // A fault shows elsewhere.
        let _ = self.reap();
        if self.tx.in_flight() != 0 && self.fault.is_none() && self.wait_for_room(true) {
            let _ = self.reap();
        }
        self.tx.in_flight()
    }

    fn stats(&self) -> Stats {
        let mut stats = self.stats;
        stats.rx_bytes = self.rx_bytes;
        stats.tx_bytes = self.tx_bytes;
        stats.rx_dropped = self.rx.dropped;
        stats.tx_errors = self.tx.errors;
        for pool in [self.tx.pool(), self.rx.pool()].into_iter().flatten() {
            stats.copied = stats.copied.wrapping_add(pool.copied());
        }
        stats
    }

    fn fault(&self) -> Option<HostFault> {
        self.fault
    }

    fn event(&mut self) -> Option<Event> {
        if !self.has_events() {
            return None;
        }
        self.news.event()
    }

    fn register_waker(&mut self, waker: &Waker) {
        let Some(ports) = self.ports else {
            waker.wake_by_ref();
            return;
        };
        let lines = [ports.tx, ports.rx];
        for port in lines {
            // What was signalled until now is seen by the look that follows.
            let _ = self.xen.take_pending(port);
        }
        let mut registered = lines
            .iter()
            .map(|port| self.xen.register_waker(*port, waker).is_ok());
        if registered.any(|registered| !registered) || self.rx.is_starved() {
            // No place to wait in, or nobody who wakes: have the task look again at once rather
            // than never.
            waker.wake_by_ref();
        }
    }

    fn pause(&mut self, until: u64) {
        let platform = self.xen.platform();
        let token = platform.wait_token();
        // What came between the caller's last look and the token must not be slept over.
        if self.is_busy() {
            return;
        }
        let mut until = until;
        if self.rx.is_starved() {
            until = until.min(platform.now().saturating_add(STARVED));
        }
        platform.wait(token, until);
    }

    fn now(&self) -> u64 {
        self.xen.platform().now()
    }
}
