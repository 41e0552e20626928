//! A guest by hand: fixed frames, raw hypercalls, a serial xenstore client, one block ring.

use super::flat::Flat;
use crate::disk::{Disk, MemDisk};
use crate::memory::GuestMemory;
use crate::xen::abi::blkif::{Request, Response, Segment};
use crate::xen::abi::ops::{AddToPhysmap, AllocUnbound, HvmParam, Port, UpcallVector};
use crate::xen::abi::pages::StoreHeader;
use crate::xen::abi::{PAGE, domid, event, hvm, hypercall, memory, store};
use crate::xen::machine::{Config, Idle, XenHost};
use crate::xen::xenbus::VbdSpec;
use std::collections::VecDeque;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

pub const STORE: u64 = 2;
pub const CONSOLE: u64 = 3;
pub const SHARED: u64 = 4;
pub const TABLE: u64 = 5;
pub const RING: u64 = 6;
/// Frames from here on are for data.
pub const DATA: u64 = 16;
pub const VECTOR: u8 = 0x40;

pub const FRONT: &str = "device/vbd/51712";

pub struct Guest {
    pub ram: Flat,
    pub host: XenHost<Flat>,
    next_id: u32,
    /// Watch events received while waiting for something else.
    pub fired: VecDeque<(String, String)>,
    received: Vec<u8>,
    pub req_prod: u32,
    pub rsp_cons: u32,
    pub ring_port: u32,
}

impl Guest {
    pub fn new(change: impl FnOnce(&mut Config)) -> Guest {
        let ram = Flat::new(64);
        let mut config = Config::new(STORE, CONSOLE);
        change(&mut config);
        let host = XenHost::new(ram.clone(), config).unwrap();
        Guest {
            ram,
            host,
            next_id: 100,
            fired: VecDeque::new(),
            received: Vec::new(),
            req_prod: 0,
            rsp_cons: 0,
            ring_port: 0,
        }
    }

    /// With shared info, grant table and upcall vector set up.
    pub fn booted(change: impl FnOnce(&mut Config)) -> Guest {
        let mut guest = Guest::new(change);
        assert_eq!(guest.map(memory::SPACE_SHARED_INFO, 0, SHARED), 0);
        assert_eq!(guest.map(memory::SPACE_GRANT_TABLE, 0, TABLE), 0);
        let mut vector = UpcallVector {
            vector: VECTOR,
            ..UpcallVector::default()
        };
        let set = hvm::SET_EVTCHN_UPCALL_VECTOR;
        assert_eq!(guest.call(hypercall::HVM_OP, set, &mut vector), 0);
        guest
    }

    pub fn call<T: IntoBytes + FromBytes + KnownLayout + Immutable>(
        &mut self,
        nr: u32,
        command: u64,
        operand: &mut T,
    ) -> i64 {
        let bytes = operand.as_mut_bytes();
        self.host.hypercall(nr, [command, 0, 1, 0, 0], bytes)
    }

    pub fn map(&mut self, space: u32, idx: u64, gpfn: u64) -> i64 {
        let mut op = AddToPhysmap {
            domid: domid::SELF,
            space,
            idx,
            gpfn,
            ..AddToPhysmap::default()
        };
        self.call(hypercall::MEMORY_OP, memory::ADD_TO_PHYSMAP, &mut op)
    }

    pub fn param(&mut self, index: u32) -> u64 {
        let mut op = HvmParam {
            domid: domid::SELF,
            index,
            ..HvmParam::default()
        };
        assert_eq!(self.call(hypercall::HVM_OP, hvm::GET_PARAM, &mut op), 0);
        op.value
    }

    pub fn send(&mut self, port: u32) -> i64 {
        self.call(hypercall::EVENT_CHANNEL_OP, event::SEND, &mut Port { port })
    }

    pub fn alloc_unbound(&mut self, remote_dom: u16) -> u32 {
        let mut op = AllocUnbound {
            dom: domid::SELF,
            remote_dom,
            port: 0,
        };
        assert_eq!(
            self.call(hypercall::EVENT_CHANNEL_OP, event::ALLOC_UNBOUND, &mut op),
            0
        );
        op.port
    }

    /// Grants a frame to the control domain.
    pub fn grant(&self, gref: u32, frame: u64, flags: u16) {
        let at = TABLE * PAGE + u64::from(gref) * 8;
        self.ram
            .write(at + 4, &(frame as u32).to_le_bytes())
            .unwrap();
        self.ram.write(at + 2, &0u16.to_le_bytes()).unwrap();
        self.ram.write(at, &flags.to_le_bytes()).unwrap();
    }

    pub fn grant_flags(&self, gref: u32) -> u16 {
        self.ram
            .load_u16(TABLE * PAGE + u64::from(gref) * 8)
            .unwrap()
    }

    /// Ends access if nobody uses it.
    pub fn ungrant(&self, gref: u32) -> bool {
        let at = TABLE * PAGE + u64::from(gref) * 8;
        let flags = self.ram.load_u16(at).unwrap();
        flags & 0x18 == 0 && self.ram.compare_exchange_u16(at, flags, 0).unwrap() == flags
    }

    pub fn word(&self, frame: u64, at: u64) -> u32 {
        self.ram.load_u32(frame * PAGE + at).unwrap()
    }

    pub fn set(&self, frame: u64, at: u64, value: u32) {
        self.ram.store_u32(frame * PAGE + at, value).unwrap();
    }

    /// Puts raw bytes on the xenstore ring and tells the host.
    pub fn store_raw(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(500) {
            while 1024 - self.word(STORE, 2052).wrapping_sub(self.word(STORE, 2048)) < 500 {
                assert!(self.host.step(), "xenstored does not read");
            }
            let prod = self.word(STORE, 2052);
            for (n, byte) in (0..).zip(piece) {
                let at = prod.wrapping_add(n) % 1024;
                self.ram
                    .write(STORE * PAGE + u64::from(at), &[*byte])
                    .unwrap();
            }
            self.set(STORE, 2052, prod.wrapping_add(piece.len() as u32));
            let port = self.param(hvm::PARAM_STORE_EVTCHN) as u32;
            assert_eq!(self.send(port), 0);
        }
    }

    /// Sends a request without waiting; its id.
    pub fn ask(&mut self, kind: u32, tx_id: u32, payload: &[u8]) -> u32 {
        self.next_id += 1;
        let header = StoreHeader {
            kind,
            req_id: self.next_id,
            tx_id,
            len: payload.len() as u32,
        };
        self.store_raw(&[header.as_bytes(), payload].concat());
        self.next_id
    }

    /// The next message, if the host gets to send one.
    pub fn receive(&mut self) -> Option<(StoreHeader, Vec<u8>)> {
        loop {
            if let Ok((header, rest)) = StoreHeader::read_from_prefix(&self.received)
                && rest.len() >= header.len as usize
            {
                let end = 16 + header.len as usize;
                let payload = self.received[16..end].to_vec();
                self.received.drain(..end);
                return Some((header, payload));
            }
            let (cons, prod) = (self.word(STORE, 2056), self.word(STORE, 2060));
            if cons == prod {
                if !self.host.step() {
                    return None;
                }
                continue;
            }
            assert!(prod.wrapping_sub(cons) <= 1024, "the host overran the ring");
            for n in 0..prod.wrapping_sub(cons) {
                let mut byte = [0];
                let at = 1024 + u64::from(cons.wrapping_add(n) % 1024);
                self.ram.read(STORE * PAGE + at, &mut byte).unwrap();
                self.received.push(byte[0]);
            }
            self.set(STORE, 2056, prod);
            let port = self.param(hvm::PARAM_STORE_EVTCHN) as u32;
            self.send(port);
        }
    }

    /// The reply to a request; watch events on the way are kept.
    pub fn reply(&mut self, id: u32) -> (u32, Vec<u8>) {
        loop {
            let (header, payload) = self.receive().expect("no reply");
            if header.kind == store::WATCH_EVENT {
                self.keep(&payload);
            } else {
                assert_eq!(header.req_id, id);
                return (header.kind, payload);
            }
        }
    }

    fn keep(&mut self, payload: &[u8]) {
        let text = String::from_utf8(payload.to_vec()).unwrap();
        let mut parts = text.split_terminator('\0').map(String::from);
        self.fired
            .push_back((parts.next().unwrap(), parts.next().unwrap()));
    }

    /// Collects watch events until the host is quiet.
    pub fn settle(&mut self) {
        while let Some((header, payload)) = self.receive() {
            assert_eq!(header.kind, store::WATCH_EVENT);
            self.keep(&payload);
        }
    }

    /// A request in a transaction and its reply, or the error's name.
    pub fn store_in(&mut self, tx: u32, kind: u32, payload: &[u8]) -> Result<Vec<u8>, String> {
        let id = self.ask(kind, tx, payload);
        match self.reply(id) {
            (store::ERROR, name) => Err(String::from_utf8(name)
                .unwrap()
                .trim_end_matches('\0')
                .to_string()),
            (answer, payload) => {
                assert_eq!(answer, kind);
                Ok(payload)
            }
        }
    }

    pub fn store(&mut self, kind: u32, payload: &[u8]) -> Result<Vec<u8>, String> {
        self.store_in(0, kind, payload)
    }

    pub fn read(&mut self, path: &str) -> Result<String, String> {
        let value = self.store(store::READ, format!("{path}\0").as_bytes())?;
        Ok(String::from_utf8(value).unwrap())
    }

    pub fn write(&mut self, path: &str, value: &str) {
        let payload = format!("{path}\0{value}");
        assert_eq!(
            self.store(store::WRITE, payload.as_bytes()).unwrap(),
            b"OK\0"
        );
    }

    /// Attaches a disk and connects its front end by hand, ring in frame `RING`, grant 8.
    pub fn connect(&mut self, spec: VbdSpec) {
        self.host.attach_disk(spec).unwrap();
        self.connect_front();
    }

    pub fn connect_front(&mut self) {
        let back = self.read(&format!("{FRONT}/backend")).unwrap();
        self.host.run(1000);
        assert_eq!(self.read(&format!("{back}/state")).unwrap(), "2");
        self.grant(8, RING, 1);
        self.ring_port = self.alloc_unbound(0);
        self.set(RING, 0, 0);
        self.set(RING, 4, 1);
        self.set(RING, 8, 0);
        self.set(RING, 12, 1);
        (self.req_prod, self.rsp_cons) = (0, 0);
        self.write(&format!("{FRONT}/ring-ref"), "8");
        self.write(
            &format!("{FRONT}/event-channel"),
            &self.ring_port.to_string(),
        );
        self.write(&format!("{FRONT}/protocol"), "x86_64-abi");
        self.write(&format!("{FRONT}/state"), "3");
        self.host.run(1000);
        assert_eq!(self.read(&format!("{back}/state")).unwrap(), "4");
        self.write(&format!("{FRONT}/state"), "4");
        self.host.run(1000);
    }

    pub fn with_disk(sectors: u64, change: impl FnOnce(&mut Config)) -> Guest {
        let mut guest = Guest::booted(change);
        let disk: Box<dyn Disk + Send> = Box::new(MemDisk::new(sectors, 512));
        guest.connect(VbdSpec::new("xvda", disk));
        guest
    }

    /// Puts a request on the ring; true if the back end wants an event for it.
    pub fn push(&mut self, request: &Request) -> bool {
        let at = 64 + u64::from(self.req_prod % 32) * 112;
        self.ram
            .write(RING * PAGE + at, request.as_bytes())
            .unwrap();
        let old = self.req_prod;
        self.req_prod = old.wrapping_add(1);
        self.set(RING, 0, self.req_prod);
        let event = self.word(RING, 4);
        self.req_prod.wrapping_sub(event) < self.req_prod.wrapping_sub(old)
    }

    pub fn submit(&mut self, request: &Request) {
        if self.push(request) {
            assert_eq!(self.send(self.ring_port), 0);
        }
    }

    /// Responses there are now.
    pub fn responses(&mut self) -> Vec<Response> {
        let mut responses = Vec::new();
        while self.rsp_cons != self.word(RING, 8) {
            let at = 64 + u64::from(self.rsp_cons % 32) * 112;
            let mut bytes = [0; 16];
            self.ram.read(RING * PAGE + at, &mut bytes).unwrap();
            responses.push(Response::read_from_bytes(&bytes).unwrap());
            self.rsp_cons = self.rsp_cons.wrapping_add(1);
        }
        self.set(RING, 12, self.rsp_cons.wrapping_add(1));
        responses
    }

    /// Submits and runs the host until it has answered.
    pub fn perform(&mut self, request: &Request) -> i16 {
        self.submit(request);
        self.host.run(1000);
        let responses = self.responses();
        assert_eq!(responses.len(), 1);
        assert_eq!(responses[0].id, request.id);
        responses[0].status
    }

    /// Acknowledges an upcall: the ports that were pending, cleared.
    pub fn upcall(&mut self) -> Vec<u32> {
        let base = SHARED * PAGE;
        self.ram.write(base, &[0]).unwrap();
        self.ram.store_u64(base + 8, 0).unwrap();
        let mut ports = Vec::new();
        for word in 0..64 {
            let at = base + 2048 + word * 8;
            let bits = self.ram.load_u64(at).unwrap();
            self.ram.store_u64(at, 0).unwrap();
            ports.extend(
                (0..64)
                    .filter(|bit| bits >> bit & 1 == 1)
                    .map(|bit| word as u32 * 64 + bit),
            );
        }
        ports
    }

    /// Waits for an interrupt and handles it; the ports.
    pub fn wait(&mut self) -> Vec<u32> {
        match self.host.idle() {
            Idle::Interrupt(vector) => {
                assert_eq!(vector, VECTOR);
                self.upcall()
            }
            Idle::Deadlock => Vec::new(),
        }
    }
}

/// Seeds to run a test with: all of them, or one where the interpreter makes them slow.
pub fn seeds(count: u64) -> std::ops::Range<u64> {
    0..if cfg!(miri) { 1 } else { count }
}

/// A request over whole pages from frame `DATA` on, granted from reference 16 on.
pub fn request(operation: u8, sector_number: u64, pages: u8) -> Request {
    let mut request = Request::new_zeroed();
    request.operation = operation;
    request.nr_segments = pages;
    request.id = 0x1000 + sector_number;
    request.sector_number = sector_number;
    for (n, segment) in (0..).zip(&mut request.seg[..usize::from(pages)]) {
        *segment = Segment {
            gref: 16 + n,
            first_sect: 0,
            last_sect: 7,
            pad: 0,
        };
    }
    request
}
