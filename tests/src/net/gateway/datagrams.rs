//! Datagrams between a socket of this machine and a port of the guest.

use super::GUEST;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::udp;
use smoltcp::wire::IpEndpoint;
use std::net::{SocketAddr, UdpSocket};

/// Who may talk to one port of the guest at once.
const PEERS: usize = 16;
/// Datagrams looked at in one go, each way.
const BUDGET: usize = 64;
/// Bytes of a datagram at most that an Ethernet packet holds.
const LONGEST: usize = 1472;

/// A way to a port of the guest: each peer of this machine's has a port of the router's.
pub struct Datagrams {
    outside: UdpSocket,
    to: IpEndpoint,
    peers: Vec<(SocketAddr, SocketHandle)>,
}

fn buffer() -> udp::PacketBuffer<'static> {
    let slots = vec![udp::PacketMetadata::EMPTY; BUDGET];
    udp::PacketBuffer::new(slots, vec![0; BUDGET * LONGEST])
}

impl Datagrams {
    /// From a socket that does not block.
    pub fn new(outside: UdpSocket, to: u16) -> Self {
        Self {
            outside,
            to: IpEndpoint::new(GUEST.into(), to),
            peers: Vec::new(),
        }
    }

    /// Moves what there is to be moved. `port` says which port of the router's is next.
    pub fn run(&mut self, sockets: &mut SocketSet<'static>, mut port: impl FnMut() -> u16) {
        let mut bytes = [0; LONGEST];
        for _ in 0..BUDGET {
            // A longer one is cut, as a network might lose it.
            let Ok((len, peer)) = self.outside.recv_from(&mut bytes) else {
                break;
            };
            let known = self.peers.iter().find(|(known, _)| *known == peer);
            let handle = match known {
                Some((_, handle)) => *handle,
                None if self.peers.len() >= PEERS => continue,
                None => {
                    let mut socket = udp::Socket::new(buffer(), buffer());
                    let _ = socket.bind(port());
                    let handle = sockets.add(socket);
                    self.peers.push((peer, handle));
                    handle
                }
            };
            let socket = sockets.get_mut::<udp::Socket<'_>>(handle);
            let _ = socket.send_slice(&bytes[..len], self.to);
        }
        for (peer, handle) in &self.peers {
            let socket = sockets.get_mut::<udp::Socket<'_>>(*handle);
            while let Ok((bytes, from)) = socket.recv() {
                if from.endpoint == self.to {
                    let _ = self.outside.send_to(bytes, peer);
                }
            }
        }
    }
}
