//! The line between the guest and the gateway's stack: frames both ways, bounded.

use super::{Gateway, ROUTER, Waiting};
use crate::net::{Checksum, Frame, Headers, Port, Takes, finish};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use std::net::Ipv4Addr;

/// Frames that wait each way at most; more are lost.
const QUEUE: usize = 2048;
/// An Ethernet frame, without check sequence.
const FRAME: usize = 1514;

/// The guest's end of the line. Frames move when [`Gateway::poll`] is called.
#[derive(Clone)]
pub struct GatewayPort(Gateway);

impl GatewayPort {
    pub(super) fn new(gateway: Gateway) -> Self {
        Self(gateway)
    }
}

impl Port for GatewayPort {
    fn send(&mut self, frame: Frame) {
        self.0.send(frame);
    }

    fn receive(&mut self) -> Option<Frame> {
        self.0.receive()
    }

    fn is_ready(&self) -> bool {
        self.0.is_ready()
    }
}

/// The stack's end.
#[derive(Default)]
pub struct Line {
    from_guest: Waiting,
    to_guest: Waiting,
    opening: Vec<(u16, u16)>,
}

impl Line {
    /// Takes a frame of the guest's, with everything done that it left undone.
    pub fn put(&mut self, frame: Frame) {
        for frame in finish(frame, Takes::default()) {
            if self.from_guest.len() < QUEUE && frame.bytes.len() <= FRAME + 4 {
                self.opening.extend(opening(&frame.bytes));
                self.from_guest.push_back(frame);
            }
        }
    }

    /// The next frame for the guest.
    pub fn next_frame(&mut self) -> Option<Frame> {
        self.to_guest.pop_front()
    }

    /// Whether one waits for the guest.
    pub fn is_ready(&self) -> bool {
        !self.to_guest.is_empty()
    }

    /// Connections to the router that the guest began to open: its port and ours.
    pub fn opening(&mut self) -> Vec<(u16, u16)> {
        std::mem::take(&mut self.opening)
    }
}

/// The ports of a connection that a frame begins to open with the router.
fn opening(frame: &[u8]) -> Option<(u16, u16)> {
    const SYN_AND_ACK: u8 = 0x12;
    const SYN: u8 = 0x02;
    let ip = frame.get(14..)?;
    let header = usize::from(ip.first()? & 0xf) * 4;
    let to: [u8; 4] = *ip.get(16..)?.first_chunk()?;
    let tcp = ip.get(header..)?;
    let fits = frame.get(12..14)? == [8, 0]
        && *ip.get(9)? == 6
        && Ipv4Addr::from(to) == ROUTER
        && tcp.get(13)? & SYN_AND_ACK == SYN;
    let port = |at: usize| Some(u16::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
    Some((port(0)?, port(2)?)).filter(|_| fits)
}

impl Device for Line {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Room<'_>)> {
        if self.to_guest.len() >= QUEUE {
            return None;
        }
        let frame = self.from_guest.pop_front()?;
        Some((Received(frame), Room(&mut self.to_guest)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        (self.to_guest.len() < QUEUE).then_some(Room(&mut self.to_guest))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}

/// A frame of the guest's.
pub struct Received(Frame);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0.bytes)
    }
}

/// Room for a frame to the guest.
pub struct Room<'a>(&'a mut Waiting);

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = Frame::new(vec![0; len]);
        let result = f(&mut frame.bytes);
        // What this stack sent has its checksum, and nothing on the way could damage it.
        if Headers::find(&frame.bytes).is_some() {
            frame.checksum = Checksum::Verified;
        }
        self.0.push_back(frame);
        result
    }
}
