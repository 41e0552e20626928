//! A connection of this machine, and one with the guest: bytes both ways, and each side's end passed on
//! to the other.

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Duration;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

/// A socket of the stack.
pub type TcpSocket = Socket<'static>;

/// Bytes of each buffer.
const BUFFER: usize = 256 << 10;
/// A guest that does not answer for so long is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// A guest that began to open a connection has so many seconds to go on with it.
const OPENING: u64 = 10;

/// A socket that does not wait for more before it sends.
pub fn socket() -> TcpSocket {
    let buffer = || SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket.set_timeout(Some(PATIENCE));
    socket
}

/// Two connections that are one.
pub struct Pump {
    stream: TcpStream,
    /// The other one.
    pub socket: SocketHandle,
    /// The ports, if the guest opened it.
    pub guest: Option<(u16, u16)>,
    /// The stream has no more to read.
    read: bool,
    /// The stream was told that there is no more to write.
    written: bool,
    broken: bool,
    began: Instant,
}

/// One whose other half is still missing.
impl Pump {
    /// For a stream of this machine.
    pub fn new(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            socket: SocketHandle::default(),
            guest: None,
            read: false,
            written: false,
            broken: false,
            began: Instant::now(),
        })
    }

    /// The same, over this socket.
    pub fn over(mut self, socket: SocketHandle) -> Self {
        self.socket = socket;
        self
    }

    /// Moves what can be moved now.
    pub fn run(&mut self, socket: &mut TcpSocket) {
        while socket.can_send() && !self.read && !self.broken {
            let moved = socket.send(|room| {
                let read = self.stream.read(room);
                (*read.as_ref().unwrap_or(&0), read)
            });
            match moved {
                Ok(Ok(0)) => self.read = true,
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => break,
                _ => self.broken = true,
            }
        }
        while socket.can_recv() && !self.broken {
            let moved = socket.recv(|bytes| {
                let written = self.stream.write(bytes);
                (*written.as_ref().unwrap_or(&0), written)
            });
            match moved {
                Ok(Ok(1..)) => {}
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => break,
                _ => self.broken = true,
            }
        }
        if self.read {
            socket.close();
        }
        let begun = !matches!(
            socket.state(),
            State::Listen | State::SynSent | State::SynReceived
        );
        if begun && !socket.may_recv() && !socket.can_recv() && !self.written {
            let _ = self.stream.shutdown(Shutdown::Write);
            self.written = true;
        }
        if self.broken {
            socket.abort();
        }
    }

    /// Whether there is nothing more to pass on.
    pub fn is_over(&self, socket: &TcpSocket) -> bool {
        match socket.state() {
            State::Closed | State::TimeWait => !socket.can_recv(),
            State::Listen => self.began.elapsed().as_secs() >= OPENING,
            _ => false,
        }
    }
}
