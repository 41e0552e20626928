//! `job=fetch`: a file over HTTP, its SHA-256, and how fast it came.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

use super::{JobError, network};
use crate::command_line::{Fetch, Url};
use crate::hash::Sha256;
use crate::machine::Machine;
use crate::net::{Access, Facts, Service, Step};
use crate::report::{self, Report};

/// Bytes of an answer's head at most.
const MOST_HEAD: usize = 16 << 10;
/// How long the server may be silent, in nanoseconds.
const SILENCE: u64 = 60_000_000_000;
/// Bytes of the buffer for what comes.
const WINDOW: usize = 256 << 10;

pub fn run<M: Machine>(
    settings: &Fetch,
    machine: &mut M,
    report: &mut Report,
) -> Result<(), JobError> {
    let Some(url) = settings.url.clone() else {
        return Err(JobError("no url=".into()));
    };
    let mut facts = Facts::default();
    let mut client = Client::new(url);
    let parts = machine.parts();
    let outcome = network(
        parts.nic,
        settings.network.addressing,
        &mut client,
        &mut facts,
        parts.say,
    );
    report.nic = Some(facts.nic);
    report.traffic = Some(facts.traffic);
    let nanoseconds = client.ended.saturating_sub(client.began);
    let rate = u128::from(client.bytes)
        .saturating_mul(1_000_000_000)
        .checked_div(u128::from(nanoseconds));
    let got = report::Fetch {
        status: client.status,
        bytes: client.bytes,
        sha256: core::mem::take(&mut client.sha).hex(),
        nanoseconds,
        bytes_per_second: u64::try_from(rate.unwrap_or(0)).unwrap_or(u64::MAX),
    };
    outcome?;
    machine.say(format_args!(
        "{} {} bytes, sha256 {}, {} bytes/s",
        got.status, got.bytes, got.sha256, got.bytes_per_second
    ));
    let status = got.status;
    report.fetch = Some(got);
    match client.trouble {
        Some(why) => Err(JobError(why)),
        None if status != 200 => Err(JobError(format!("the server answered {status}"))),
        None => Ok(()),
    }
}

struct Client {
    url: Url,
    socket: SocketHandle,
    request: Vec<u8>,
    connected: bool,
    head: Vec<u8>,
    status: u16,
    /// The head is behind us; what it says of the length.
    body: Option<Option<u64>>,
    bytes: u64,
    sha: Sha256,
    began: u64,
    ended: u64,
    heard: u64,
    trouble: Option<String>,
}

impl Client {
    fn new(url: Url) -> Self {
        let request = format!(
            "GET {} HTTP/1.0\r\nHost: {}:{}\r\nUser-Agent: pv-drivers\r\n\r\n",
            url.path, url.host, url.port
        );
        Self {
            url,
            socket: SocketHandle::default(),
            request: request.into_bytes(),
            connected: false,
            head: Vec::new(),
            status: 0,
            body: None,
            bytes: 0,
            sha: Sha256::new(),
            began: 0,
            ended: 0,
            heard: 0,
            trouble: None,
        }
    }

    /// Takes what came; whether that was all.
    fn take(&mut self, bytes: &[u8]) -> bool {
        let Some(length) = self.body else {
            self.head.extend_from_slice(bytes);
            return self.read_head();
        };
        let left = length.map_or(u64::MAX, |length| length.saturating_sub(self.bytes));
        let most = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.sha.update(bytes.get(..most).unwrap_or_default());
        self.bytes = self.bytes.saturating_add(most as u64);
        length == Some(self.bytes)
    }

    /// Reads the head once it is all there; whether it is the end, too.
    fn read_head(&mut self) -> bool {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut fields);
        let at = match response.parse(&self.head) {
            Ok(httparse::Status::Complete(at)) => at,
            Ok(httparse::Status::Partial) if self.head.len() < MOST_HEAD => return false,
            _ => return self.fail("the server's answer makes no sense"),
        };
        self.status = response.code.unwrap_or(0);
        let value = |name: &str| {
            let mut fields = response.headers.iter();
            let field = fields.find(|field| field.name.eq_ignore_ascii_case(name))?;
            core::str::from_utf8(field.value).ok()
        };
        if value("transfer-encoding").is_some() {
            return self.fail("the server answers in chunks, though it was not asked to");
        }
        let length = match value("content-length").map(|text| text.trim().parse()) {
            Some(Ok(length)) => Some(length),
            Some(Err(_)) => return self.fail("the server's answer has no sensible length"),
            None => None,
        };
        self.body = Some(length);
        let rest = self.head.split_off(at.min(self.head.len()));
        self.take(&rest)
    }

    fn fail(&mut self, why: &str) -> bool {
        self.trouble.get_or_insert(why.into());
        true
    }
}

impl Service for Client {
    fn open(&mut self, sockets: &mut SocketSet<'static>) {
        let buffer = |len| SocketBuffer::new(vec![0; len]);
        self.socket = sockets.add(Socket::new(buffer(WINDOW), buffer(4096)));
    }

    fn up(&mut self, _: Ipv4Addr, access: &mut Access<'_>) {
        if self.connected {
            return;
        }
        let socket = access.sockets.get_mut::<Socket<'_>>(self.socket);
        let port = 49_152_u16.saturating_add((access.now / 1000 % 16_000) as u16);
        let to = (self.url.host, self.url.port);
        if socket
            .connect(access.interface.context(), to, port)
            .is_err()
        {
            self.fail("the server's address makes no sense");
        }
        self.connected = true;
        (self.began, self.heard) = (access.now, access.now);
    }

    fn step(&mut self, access: &mut Access<'_>) -> Step {
        let socket = access.sockets.get_mut::<Socket<'_>>(self.socket);
        let mut over = self.trouble.is_some();
        if socket.can_send() && !self.request.is_empty() {
            let sent = socket.send_slice(&self.request).unwrap_or(0);
            self.request.drain(..sent.min(self.request.len()));
        }
        let mut busy = false;
        while socket.can_recv() && !over {
            busy = true;
            self.heard = access.now;
            let taken = socket.recv(|bytes| (bytes.len(), self.take(bytes)));
            over = taken.unwrap_or(true);
        }
        let opening = matches!(socket.state(), State::SynSent | State::SynReceived);
        let shut = !opening && !socket.may_recv() && !socket.may_send();
        if !over && (shut || !socket.is_open()) {
            over = true;
            match self.body {
                Some(None) => {}
                Some(Some(length)) if length == self.bytes => {}
                Some(Some(_)) => _ = self.fail("the server broke off"),
                None if self.status == 0 => _ = self.fail("the server did not answer"),
                None => {}
            }
        } else if !over && !opening && self.body == Some(None) && !socket.may_recv() {
            // Without a length, the end of the connection is the end of the file.
            over = true;
        } else if !over && access.now.saturating_sub(self.heard) > SILENCE {
            over = self.fail("the server is silent");
        }
        if over {
            if self.ended == 0 {
                self.ended = access.now;
            }
            socket.close();
            // The last word is sent with the step that ends.
            return Step::Done;
        }
        match busy {
            true => Step::Busy,
            false => Step::Idle(self.heard.saturating_add(SILENCE)),
        }
    }
}
