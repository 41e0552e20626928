//! One connection: requests in, answers out, one after the other.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

use super::Done;
use super::site::{Page, Site};
use crate::net::http::{
    self, Asked, Head, MOST_HEAD, Method, Parsed, Part, Request, Status, content_type,
};

/// Bytes of a socket's buffers.
const RX: usize = 8 << 10;
const TX: usize = 32 << 10;
/// Answers that are shorter than the room for them are sent in one step; of longer ones so much at a time.
const CHUNK: usize = 16 << 10;
/// How long a connection may be quiet between requests, and how long a request may take to come or an answer to go,
/// in nanoseconds.
const QUIET: u64 = 60_000_000_000;
const SLOW: u64 = 20_000_000_000;

/// What is left of an answer's body.
struct Body {
    page: Page,
    at: u64,
    end: u64,
}

/// A connection, or the wait for one.
pub struct Connection {
    socket: SocketHandle,
    port: u16,
    /// What came and is not a whole request yet.
    inbox: Vec<u8>,
    /// Heads and short bodies that are to be sent.
    outbox: Vec<u8>,
    sent: usize,
    body: Option<Body>,
    /// There is somebody.
    taken: bool,
    /// No further request is read.
    closing: bool,
    /// The client is to be cut off.
    broken: bool,
    /// When something moved last.
    moved: u64,
}

fn socket(port: u16) -> Socket<'static> {
    let mut socket = Socket::new(
        SocketBuffer::new(vec![0; RX]),
        SocketBuffer::new(vec![0; TX]),
    );
    socket.set_nagle_enabled(false);
    // A new socket on a port that is not zero always can.
    let _ = socket.listen(port);
    socket
}

impl Connection {
    /// One that waits.
    pub fn open(sockets: &mut SocketSet<'static>, port: u16) -> Self {
        Self::waiting(sockets.add(socket(port)), port)
    }

    fn waiting(socket: SocketHandle, port: u16) -> Self {
        Self {
            socket,
            port,
            inbox: Vec::new(),
            outbox: Vec::new(),
            sent: 0,
            body: None,
            taken: false,
            closing: false,
            broken: false,
            moved: 0,
        }
    }

    /// When it is given up if nothing happens.
    pub fn deadline(&self) -> u64 {
        if !self.taken {
            return u64::MAX;
        }
        let idle = self.inbox.is_empty() && !self.is_answering();
        self.moved.saturating_add(if idle { QUIET } else { SLOW })
    }

    /// Whether nobody waits for anything here.
    pub fn is_over(&self, sockets: &SocketSet<'static>) -> bool {
        let socket = sockets.get::<Socket<'_>>(self.socket);
        !self.taken || !socket.is_open()
    }

    fn is_answering(&self) -> bool {
        self.body.is_some() || self.sent < self.outbox.len()
    }

    /// Does what can be done; whether anything was.
    pub fn step(
        &mut self,
        sockets: &mut SocketSet<'static>,
        site: &mut Site<'_>,
        done: &mut Done,
        may_stop: bool,
        now: u64,
        ending: bool,
    ) -> bool {
        let socket = sockets.get_mut::<Socket<'_>>(self.socket);
        match socket.state() {
            State::Listen | State::SynReceived => return false,
            // Nothing more comes of it; who waits for the other's last word need not do so here.
            State::Closed | State::TimeWait => {
                *socket = self::socket(self.port);
                *self = Self::waiting(self.socket, self.port);
                return true;
            }
            _ => {}
        }
        if !self.taken {
            self.taken = true;
            self.moved = now;
            done.connections = done.connections.saturating_add(1);
        }
        self.closing |= ending && self.inbox.is_empty();
        let mut busy = false;
        // A few answers in one go: small ones that were asked for at once leave in one segment.
        for _ in 0..8 {
            let mut moved = self.receive(socket);
            moved |= self.answer(site, done, may_stop);
            moved |= self.send(socket, site, done);
            busy |= moved;
            if !moved {
                break;
            }
        }
        if busy {
            self.moved = now;
        } else if now >= self.deadline() {
            self.late(done);
            busy = true;
        }
        let heard_all = !socket.may_recv() && !socket.can_recv();
        if self.broken {
            socket.abort();
        } else if !self.is_answering() && (self.closing || heard_all) {
            socket.close();
        }
        busy
    }

    fn receive(&mut self, socket: &mut Socket<'static>) -> bool {
        let mut moved = false;
        if self.closing {
            // What comes now is for nobody, but it must not keep the other side from ending.
            while socket.can_recv() {
                let _ = socket.recv(|bytes| (bytes.len(), ()));
            }
            return false;
        }
        while socket.can_recv() && self.inbox.len() < MOST_HEAD {
            let room = MOST_HEAD.saturating_sub(self.inbox.len());
            let taken = socket.recv(|bytes| {
                let some = bytes.get(..room).unwrap_or(bytes);
                self.inbox.extend_from_slice(some);
                (some.len(), ())
            });
            moved |= taken.is_ok();
        }
        moved
    }

    /// Begins the answer to the next request, if it is all there and the one before has left.
    fn answer(&mut self, site: &Site<'_>, done: &mut Done, may_stop: bool) -> bool {
        if self.closing || self.body.is_some() || self.outbox.len() > CHUNK {
            return false;
        }
        match http::parse(&self.inbox) {
            Parsed::Part => false,
            Parsed::Whole(request, length) => {
                self.inbox.drain(..length.min(self.inbox.len()));
                self.respond(&request, site, done, may_stop);
                true
            }
            Parsed::Bad(status) => {
                let with_body = !http::wants_no_body(&self.inbox);
                self.refuse(status, false, false, with_body, done);
                true
            }
        }
    }

    fn respond(&mut self, request: &Request, site: &Site<'_>, done: &mut Done, may_stop: bool) {
        let keep = request.keep;
        let say_keep = keep && !request.modern;
        let with_body = request.method != Method::Head;
        if may_stop && request.path == "stop" {
            done.stop = true;
            self.refuse(Status::Ok, false, false, with_body, done);
            return;
        }
        if !matches!(request.method, Method::Get | Method::Head) {
            return self.refuse(Status::MethodNotAllowed, keep, say_keep, with_body, done);
        }
        if request.body {
            return self.refuse(Status::BadRequest, false, false, with_body, done);
        }
        let Some(page) = site.page(&request.path) else {
            return self.refuse(Status::NotFound, keep, say_keep, with_body, done);
        };
        let size = site.size(page);
        let asked = if with_body { request.asked } else { Asked::All };
        let kind = match page {
            Page::Index => "text/html; charset=utf-8",
            Page::File(_) => content_type(&request.path),
        };
        let whole = Head {
            keep,
            say_keep,
            ranges: true,
            ..Head::plain(Status::Ok, size, kind, keep)
        };
        let (head, part) = match http::select(asked, size) {
            Part::All => (whole, (0, size)),
            Part::Bytes(first, last) => {
                let end = last.saturating_add(1);
                let head = Head {
                    status: Status::PartialContent,
                    length: end.saturating_sub(first),
                    range: Some((Some((first, last)), size)),
                    ..whole
                };
                (head, (first, end))
            }
            Part::Nothing => {
                let head = Head {
                    status: Status::RangeNotSatisfiable,
                    length: 0,
                    range: Some((None, size)),
                    ..whole
                };
                done.errors = done.errors.saturating_add(1);
                (head, (0, 0))
            }
        };
        self.begin(&head.text(), done);
        self.closing = !keep;
        if with_body && part.0 < part.1 {
            let (at, end) = part;
            self.body = Some(Body { page, at, end });
        }
    }

    /// An answer of a few words.
    fn refuse(&mut self, status: Status, keep: bool, say_keep: bool, body: bool, done: &mut Done) {
        let (code, reason) = status.line();
        let text = alloc::format!("{code} {reason}\n");
        let head = Head {
            say_keep,
            ..Head::plain(status, text.len() as u64, "text/plain; charset=utf-8", keep)
        };
        let mut answer: String = head.text();
        if body {
            answer.push_str(&text);
        }
        if status.is_error() {
            done.errors = done.errors.saturating_add(1);
        }
        self.begin(&answer, done);
        self.closing = !keep;
        if self.closing {
            self.inbox.clear();
        }
    }

    fn begin(&mut self, text: &str, done: &mut Done) {
        self.outbox.extend_from_slice(text.as_bytes());
        done.requests = done.requests.saturating_add(1);
    }

    /// Who is too slow is told so if a request began, and then let go.
    fn late(&mut self, done: &mut Done) {
        if self.inbox.is_empty() || self.is_answering() || self.closing {
            self.broken = self.is_answering() || self.closing;
            self.closing = true;
        } else {
            let with_body = !http::wants_no_body(&self.inbox);
            self.refuse(Status::RequestTimeout, false, false, with_body, done);
        }
    }

    /// Puts as much of the answer as there is room for into the socket.
    fn send(&mut self, socket: &mut Socket<'static>, site: &mut Site<'_>, done: &mut Done) -> bool {
        let mut moved = false;
        while socket.can_send() && self.sent < self.outbox.len() {
            let rest = self.outbox.get(self.sent..).unwrap_or_default();
            let Ok(count) = socket.send_slice(rest) else {
                break;
            };
            self.sent = self.sent.saturating_add(count);
            moved = true;
        }
        if self.sent >= self.outbox.len() {
            self.outbox.clear();
            self.sent = 0;
        }
        let mut chunk = 0_usize;
        while self.outbox.is_empty()
            && chunk < CHUNK
            && socket.can_send()
            && let Some(body) = &mut self.body
        {
            let left = usize::try_from(body.end.saturating_sub(body.at)).unwrap_or(usize::MAX);
            let read = socket.send(|room| {
                let most = room.len().min(left).min(CHUNK);
                let room = room.get_mut(..most).unwrap_or_default();
                let read = site.read(body.page, body.at, room);
                (read.unwrap_or(0), read)
            });
            match read {
                Ok(Some(count @ 1..)) => {
                    chunk = chunk.saturating_add(count);
                    body.at = body.at.saturating_add(count as u64);
                    done.bytes = done.bytes.saturating_add(count as u64);
                    moved = true;
                }
                // The head has promised more: all that is left is to break off.
                _ => {
                    done.errors = done.errors.saturating_add(1);
                    self.broken = true;
                    self.body = None;
                    return true;
                }
            }
            if body.at >= body.end {
                self.body = None;
            }
        }
        moved
    }
}
