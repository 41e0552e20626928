//! The network behind the simulated back ends.
//!
//! A back end has a [`Port`]: it sends there what the guest sent, and takes from there what the
//! guest is to receive. What is at the other end may be a test ([`cable`]) or a switch.

mod cable;
pub mod faults;
pub mod finish;
pub mod gateway;
pub mod headers;
pub mod line_queue;
pub mod pcap;
pub mod samples;
pub mod switch;

pub use cable::{Cable, cable};
pub use faults::{Faults, Faulty};
pub use finish::{Takes, fault, finish};
pub use headers::Headers;
pub use line_queue::LineQueue;
pub use pcap::{Capture, Tapped};
pub use switch::{Switch, SwitchPort};

/// The state of a frame's transport checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// It is in the bytes, and nobody has looked at it.
    #[default]
    InFrame,
    /// It is in the bytes, and right.
    Verified,
    /// It is to be filled in: the sum over the bytes from `start` on goes to `start + offset`,
    /// where the sum of the pseudo-header is now.
    Partial { start: u16, offset: u16 },
}

/// A TCP segment longer than a packet, to be cut into packets of `mss` bytes of payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Over IPv6 rather than IPv4.
    pub v6: bool,
    pub mss: u16,
}

/// A frame on its way, from the first byte of its Ethernet header, without check sequence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    pub bytes: Vec<u8>,
    pub checksum: Checksum,
    pub segment: Option<Segment>,
    /// A VLAN tag that is not in the bytes.
    pub vlan: Option<u16>,
    /// A Toeplitz hash that came with it, or is to be told to the guest.
    pub hash: Option<u32>,
}

impl Frame {
    /// A frame with nothing special about it.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Frame {
            bytes: bytes.into(),
            ..Frame::default()
        }
    }
}

/// One end of a line.
pub trait Port: Send {
    /// Puts a frame on the line; it may be lost there.
    fn send(&mut self, frame: Frame);

    /// Takes the next frame off the line.
    fn receive(&mut self) -> Option<Frame>;

    /// Whether [`receive`](Self::receive) has one.
    fn is_ready(&self) -> bool;

    /// Lets what is on the line move by one step; whether there was something to move. A back end
    /// that has nothing else to do calls it.
    fn step(&mut self) -> bool {
        false
    }
}
