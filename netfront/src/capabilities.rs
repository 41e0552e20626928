//! What an interface can do, is asked to do, and did.

use core::fmt;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([a, b, c, d, e, g]) = self;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

bitflags::bitflags! {
    /// Work on frames that one side leaves to the other.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Offloads: u32 {
        /// The checksum of TCP over IPv4.
        const CHECKSUM_TCP_V4 = 1;
        /// The checksum of UDP over IPv4.
        const CHECKSUM_UDP_V4 = 1 << 1;
        /// The checksum of TCP over IPv6.
        const CHECKSUM_TCP_V6 = 1 << 2;
        /// The checksum of UDP over IPv6.
        const CHECKSUM_UDP_V6 = 1 << 3;
        /// Cutting one long TCP segment over IPv4 into many.
        const SEGMENT_V4 = 1 << 4;
        /// Cutting one long TCP segment over IPv6 into many.
        const SEGMENT_V6 = 1 << 5;
        /// VLAN tags beside the frame instead of in it.
        const VLAN = 1 << 6;
    }
}

/// What an interface can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The address the host gave it.
    pub mac: Mac,
    /// The largest packet without the Ethernet header, in bytes.
    pub mtu: u16,
    /// Whether the line is up.
    pub link: bool,
    /// How many queue pairs it has.
    pub queues: u16,
    /// What the host does for frames that are sent.
    pub tx: Offloads,
    /// What received frames may need: the host may hand over frames with these left undone.
    pub rx: Offloads,
    /// The longest frame that [`send`](crate::NetQueue::send) takes with a segmentation, in bytes;
    /// without one it is the MTU and the Ethernet header, and 4 bytes more if a VLAN tag is in it.
    pub max_segmented: u32,
}

impl Capabilities {
    /// Of an interface with one queue and no offloads, whose line is up.
    pub const fn new(mac: Mac, mtu: u16) -> Self {
        Self {
            mac,
            mtu,
            link: true,
            queues: 1,
            tx: Offloads::empty(),
            rx: Offloads::empty(),
            max_segmented: 0,
        }
    }
}

/// How an interface is to be used. What the host does not offer is done without: see
/// [`Capabilities`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// How many queue pairs, 1 to 8.
    pub queues: u16,
    /// What to ask for, in both directions.
    pub offloads: Offloads,
    /// Pages for received frames, 4 KiB each: on Xen of each queue (256 fill its ring), on
    /// Hyper-V of the interface (its receive buffer).
    pub rx_pages: usize,
    /// Pages for frames to be sent, of each queue, 4 KiB each.
    pub tx_pages: usize,
    /// The largest packet to ask for, in bytes, where the host lets its guest choose (Hyper-V).
    pub mtu: u16,
    /// Receive every frame on the line, not only those for this interface, if the host allows it.
    pub promiscuous: bool,
    /// How long each step of connecting or closing may take, in nanoseconds.
    pub timeout: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queues: 1,
            offloads: Offloads::all(),
            rx_pages: 512,
            tx_pages: 512,
            mtu: 1500,
            promiscuous: false,
            timeout: 10_000_000_000,
        }
    }
}

/// Something happened to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The line went up or down.
    Link(bool),
    /// The largest packet is now of so many bytes.
    Mtu(u16),
    /// The interface may be on another network now: ask for an address again.
    Moved,
}

/// What a queue did since it was connected first. All count up from zero and wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Frames received.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that came and were of no use: longer than a frame can be, or marked bad by the host.
    pub rx_dropped: u64,
    /// Frames that the host took over to send.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames that the host said it did not send.
    pub tx_errors: u64,
    /// Bytes copied in and out of this queue's frames.
    pub copied: u64,
}
