//! What is known of a frame beside its bytes: checksums, segmentation, VLAN, hash.

/// The version of the network layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ip {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The transport layer, where it has a checksum that can be left to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Where the checksum is in the transport header, in bytes.
    pub const fn checksum_offset(self) -> u16 {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// Where the transport header of a frame is, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transport {
    /// The layer below.
    pub ip: Ip,
    /// The header's kind.
    pub protocol: Protocol,
    /// Where it starts, in bytes from the start of the frame.
    pub start: u16,
}

/// A TCP segment that is longer than fits a packet: to be cut, or joined from several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Segmentation {
    /// The layer below TCP.
    pub ip: Ip,
    /// Bytes of payload in each packet.
    pub mss: u16,
}

/// A VLAN tag (IEEE 802.1Q): priority, drop eligibility and number as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vlan(pub u16);

/// What is to be done to a frame that is sent. What the interface's
/// [`Capabilities`](crate::Capabilities) do not offer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TxMeta {
    /// The transport checksum is to be filled in. Its field holds the sum of the pseudo-header
    /// (addresses, protocol, length), not complemented, as for every partial checksum.
    pub checksum: Option<Transport>,
    /// The segment is to be cut; `checksum` is then needed too.
    pub segmentation: Option<Segmentation>,
    /// The tag to be put into the frame.
    pub vlan: Option<Vlan>,
}

impl TxMeta {
    /// Whether nothing is to be done.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.checksum.is_none() && self.segmentation.is_none() && self.vlan.is_none()
    }
}

/// What the host says of a received frame's transport checksum. The host may lie: where bytes
/// came from matters, check them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RxChecksum {
    /// Nothing: it is to be checked.
    #[default]
    Unchecked,
    /// It was right.
    Good,
    /// It was wrong.
    Bad,
    /// It is not there: the frame did not leave the machine, so nobody filled it in. Its field
    /// holds the sum of the pseudo-header; the data is as good as its sender.
    Blank,
}

/// What the host says of a received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RxMeta {
    /// Of its transport checksum.
    pub checksum: RxChecksum,
    /// It is several TCP segments joined, of so many bytes each.
    pub segmentation: Option<Segmentation>,
    /// The tag it had on the wire.
    pub vlan: Option<Vlan>,
    /// A hash of its addresses and ports, by which it came to its queue.
    pub hash: Option<u32>,
}
