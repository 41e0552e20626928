//! The jobs for the network over simulated hosts: real connections of this machine's, through the gateway.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use guest::command_line::Job;
use guest::live;
use guest::report::{QueueTraffic, Report};
use hypercall::shm::hosted::{Hosted, Machine};
use pv_drivers::{Gate, Host, Hypervisor};
use pv_tests::disk::MemDisk;
use pv_tests::hyperv::netvsp::{Netvsp, NetvspConfig};
use pv_tests::hyperv::scsi::Lun;
use pv_tests::hyperv::storvsp::{Address, Storvsp, StorvspConfig};
use pv_tests::hyperv::vmbus_server::DeviceId;
use pv_tests::net::gateway::{Gateway, Paced};
use pv_tests::sim_hyperv::{self, SimHyperV};
use pv_tests::sim_xen::{self, SimXen};
use pv_tests::xen::vif::VifSpec;
use pv_tests::xen::xenbus::VbdSpec;

use crate::image;
use crate::machine::sha256;
use crate::tour::{gpt_with_fat, some_files};

/// Pages of a simulated machine.
const MEMORY: usize = 8192;

/// A report and what was said on the way to it.
pub type Run = (Report, Vec<String>);

/// What the client is told: where the guest can be reached.
#[derive(Clone, Copy)]
pub struct Ports {
    pub http: u16,
    pub echo: u16,
    pub echo_datagrams: u16,
    pub discard: u16,
    pub chargen: u16,
}

/// A host of one kind or the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Xen,
    HyperV,
}

pub const BOTH: [Kind; 2] = [Kind::Xen, Kind::HyperV];

/// The hand on the plug of the guest's interface.
#[derive(Clone)]
enum Plug {
    Xen(SimXen, Gateway),
    HyperV(SimHyperV, DeviceId),
}

impl Plug {
    fn pull(&self) {
        match self {
            Self::Xen(sim, _) => sim.host().detach_nic(0),
            Self::HyperV(sim, adapter) => sim.host().bus.rescind(*adapter),
        }
    }

    fn put_back(&self) {
        match self {
            Self::Xen(sim, gateway) => {
                // The tool stack removes the device once the guest has let go of it.
                while sim.host().vif(0).is_some() {
                    thread::sleep(Duration::from_millis(10));
                }
                let spec = VifSpec::new(Box::new(gateway.port()));
                sim.host().attach_nic(spec);
            }
            Self::HyperV(sim, adapter) => sim.host().bus.offer_again(*adapter),
        }
    }
}

/// Does a job, while `client` runs on a thread of its own.
pub fn with_client(
    kind: Kind,
    command_line: &str,
    gateway: &Gateway,
    client: impl FnOnce(Ports) + Send + 'static,
) -> Run {
    with_plug(kind, command_line, gateway, |ports, _| client(ports))
}

/// The same with a client that can pull the plug.
fn with_plug(
    kind: Kind,
    command_line: &str,
    gateway: &Gateway,
    client: impl FnOnce(Ports, Plug) + Send + 'static,
) -> Run {
    let forward = |to: u16| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        gateway.forward(listener, to).unwrap();
        port
    };
    let forward_datagrams = |to: u16| {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        gateway.forward_datagrams(socket, to).unwrap();
        port
    };
    let ports = Ports {
        http: forward(80),
        echo: forward(7),
        echo_datagrams: forward_datagrams(7),
        discard: forward(9),
        chargen: forward(19),
    };
    let disk = Arc::new(Mutex::new(MemDisk::from_bytes(gpt_with_fat(16 << 20), 512)));
    let start = |plug: Plug| thread::spawn(move || client(ports, plug));
    let (run, client) = match kind {
        Kind::Xen => on_xen(disk, command_line, gateway, start),
        Kind::HyperV => on_hyperv(disk, command_line, gateway, start),
    };
    let (report, lines) = &run;
    if !report.ok {
        // The client may wait for something that will not come.
        return run;
    }
    client
        .join()
        .unwrap_or_else(|_| panic!("{kind:?}: {:?} {lines:?}", report.error));
    run
}

fn on_xen<C>(
    disk: Arc<Mutex<MemDisk>>,
    command_line: &str,
    gateway: &Gateway,
    start: impl FnOnce(Plug) -> C,
) -> (Run, C) {
    let sim = SimXen::new(MEMORY, |_| {});
    sim.host()
        .attach_disk(VbdSpec::new("xvda", Box::new(disk)))
        .unwrap();
    sim.host()
        .attach_nic(VifSpec::new(Box::new(gateway.port())));
    let client = start(Plug::Xen(sim.clone(), gateway.clone()));
    let handler = sim.clone();
    let done = run(
        Hosted::new(sim.ram().clone(), Paced::new(sim.clone(), gateway.clone())),
        sim.clone(),
        sim_xen::VECTOR,
        command_line,
        move |f| handler.on_interrupt(f),
    );
    assert_eq!(format!("{:?}", sim.host().complaints()), "[]");
    (done, client)
}

fn on_hyperv<C>(
    disk: Arc<Mutex<MemDisk>>,
    command_line: &str,
    gateway: &Gateway,
    start: impl FnOnce(Plug) -> C,
) -> (Run, C) {
    let sim = SimHyperV::new(MEMORY, |_| {});
    let mut scsi = Storvsp::new(StorvspConfig::default());
    scsi.attach(Address::lun(0), Lun::disk(Box::new(disk), 1));
    sim.host().bus.add(Box::new(scsi));
    let adapter = Netvsp::new(NetvspConfig::default(), Box::new(gateway.port()));
    let adapter = sim.host().bus.add(Box::new(adapter));
    let client = start(Plug::HyperV(sim.clone(), adapter));
    let handler = sim.clone();
    let done = run(
        Hosted::new(sim.ram().clone(), Paced::new(sim.clone(), gateway.clone())),
        sim.clone(),
        sim_hyperv::VECTOR,
        command_line,
        move |f| handler.on_interrupt(f),
    );
    assert_eq!(sim.host().counters().violations, Vec::<String>::new());
    (done, client)
}

fn run<M: Machine + 'static, G: Gate + 'static>(
    platform: Hosted<M>,
    gate: G,
    vector: u8,
    command_line: &str,
    on_interrupt: impl FnOnce(Box<dyn Fn() + Send + Sync>),
) -> Run {
    let host = Arc::new(Host::find(platform, gate, vector).unwrap());
    let weak = Arc::downgrade(&host);
    on_interrupt(Box::new(move || {
        if let Some(host) = weak.upgrade() {
            host.on_interrupt();
        }
    }));
    let mut lines = Vec::new();
    let job = Job::parse(command_line).unwrap();
    let report = live::run(&host, &job, &mut |line| lines.push(line.to_string()));
    (report, lines)
}

/// A client that keeps its connection.
struct Http {
    stream: BufReader<TcpStream>,
}

struct Answer {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        let found = fields.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

impl Http {
    /// Connects once the guest listens.
    fn connect(port: u16) -> Self {
        for _ in 0..600 {
            if let Some(http) = Self::try_connect(port) {
                return http;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("nobody serves");
    }

    /// The way to the guest may end in a refusal, so only an answer counts.
    fn try_connect(port: u16) -> Option<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .ok()?;
        stream.set_nodelay(true).ok()?;
        let mut http = Self {
            stream: BufReader::new(stream),
        };
        http.try_ask("HEAD / HTTP/1.1\r\nHost: guest\r\n\r\n", false)?;
        Some(http)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    fn answer(&mut self, with_body: bool) -> Option<Answer> {
        let mut line = String::new();
        self.stream.read_line(&mut line).ok()?;
        let status = line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        let mut fields = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            fields.push((name.to_string(), value.to_string()));
        }
        let mut answer = Answer {
            status,
            fields,
            body: vec![],
        };
        let length: usize = answer.field("content-length")?.parse().ok()?;
        if with_body {
            answer.body = vec![0; length];
            self.stream.read_exact(&mut answer.body).ok()?;
        }
        Some(answer)
    }

    fn try_ask(&mut self, request: &str, with_body: bool) -> Option<Answer> {
        self.stream.get_mut().write_all(request.as_bytes()).ok()?;
        self.answer(with_body)
    }

    fn ask(&mut self, request: &str) -> Answer {
        self.try_ask(request, true).expect("an answer")
    }

    fn get(&mut self, path: &str, more: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: guest\r\n{more}\r\n"))
    }

    /// Whether the server has closed the connection.
    fn is_over(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }
}

fn encode(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/.-_".contains(&byte);
    let encode = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02x}"),
    };
    path.bytes().map(encode).collect()
}

fn stop(port: u16) {
    let answer = Http::connect(port).ask("POST /stop HTTP/1.1\r\nHost: guest\r\n\r\n");
    assert_eq!(answer.status, 200);
}

#[test]
fn every_file_is_served_byte_for_byte() {
    for kind in BOTH {
        let client = |ports: Ports| {
            let mut http = Http::connect(ports.http);
            for (path, contents) in some_files() {
                let answer = http.get(&format!("/{}", encode(path)), "");
                assert_eq!(answer.status, 200, "{path}");
                assert!(answer.body == contents, "{path}");
            }
            let index = http.get("/", "");
            let text = String::from_utf8(index.body).unwrap();
            assert!(text.contains("href=\"/boot/grub/grub.cfg\"") && text.contains("100000 bytes"));
            stop(ports.http);
        };
        let (report, lines) = with_client(kind, "job=serve stop=1", &Gateway::new(), client);
        assert!(report.ok, "{kind:?}: {:?} {lines:?}", report.error);
        assert!(lines.iter().any(|line| line == "SERVING http://10.0.2.15/"));
        let (serve, traffic) = (report.serve.unwrap(), report.traffic.unwrap());
        assert_eq!((serve.errors, serve.files), (0, some_files().len() as u64));
        assert_eq!(traffic.buffers_before, traffic.buffers_after);
        let nic = report.nic.unwrap();
        assert_eq!(nic.address.as_deref(), Some("10.0.2.15/24"));
        assert!(nic.link && nic.mtu >= 1500);
    }
}

#[test]
fn many_requests_over_many_connections_leave_no_buffer_out() {
    const EACH: usize = 1250;
    for kind in BOTH {
        let client = |ports: Ports| {
            let port = ports.http;
            Http::connect(port);
            let clients: Vec<_> = (0..8)
                .map(|_| {
                    thread::spawn(move || {
                        let mut http = Http::connect(port);
                        for _ in 1..EACH {
                            assert_eq!(http.get("/README.TXT", "").body, b"hello\n");
                        }
                    })
                })
                .collect();
            for client in clients {
                client.join().unwrap();
            }
        };
        let line = format!("job=serve requests={}", 8 * EACH + 1);
        let (report, lines) = with_client(kind, &line, &Gateway::new(), client);
        assert!(report.ok, "{kind:?}: {:?} {lines:?}", report.error);
        let (serve, traffic) = (report.serve.unwrap(), report.traffic.unwrap());
        assert!(serve.requests > 10_000 && serve.errors == 0);
        assert_eq!(traffic.buffers_before, traffic.buffers_after);
        assert!(traffic.rx_frames > 10_000 && traffic.tx_frames > 10_000);
    }
}

#[test]
fn connections_are_spread_over_the_queues() {
    for kind in BOTH {
        let client = |ports: Ports| {
            let clients: Vec<_> = (0..16)
                .map(|_| {
                    thread::spawn(move || {
                        let mut http = Http::connect(ports.http);
                        for (path, contents) in some_files() {
                            let answer = http.get(&format!("/{}", encode(path)), "");
                            assert!(answer.status == 200 && answer.body == contents);
                        }
                    })
                })
                .collect();
            for client in clients {
                client.join().unwrap();
            }
            stop(ports.http);
        };
        let line = "job=serve stop=1 queues=4";
        let (report, lines) = with_client(kind, line, &Gateway::new(), client);
        assert!(report.ok, "{kind:?}: {:?} {lines:?}", report.error);
        assert_eq!(report.nic.unwrap().queues, 4, "{kind:?}");
        let (serve, traffic) = (report.serve.unwrap(), report.traffic.unwrap());
        assert_eq!(serve.errors, 0);
        assert_eq!(traffic.buffers_before, traffic.buffers_after);
        let sum = |of: fn(&QueueTraffic) -> u64| traffic.queues.iter().map(of).sum::<u64>();
        assert_eq!(sum(|queue| queue.rx_frames), traffic.rx_frames);
        assert_eq!(sum(|queue| queue.tx_frames), traffic.tx_frames);
        let used = traffic.queues.iter();
        let used = used.filter(|queue| queue.rx_frames > 20 && queue.tx_frames > 20);
        assert!(used.count() >= 2, "{kind:?}: {:?}", traffic.queues);
    }
}

#[test]
fn connections_survive_the_loss_of_the_interface() {
    for kind in BOTH {
        let client = |ports: Ports, plug: Plug| {
            let mut http = Http::connect(ports.http);
            let whole = |http: &mut Http| {
                let (path, contents) = &some_files()[1];
                let answer = http.get(&format!("/{}", encode(path)), "");
                assert!(answer.status == 200 && answer.body == *contents);
            };
            for _ in 0..2 {
                whole(&mut http);
                plug.pull();
                thread::sleep(Duration::from_millis(200));
                plug.put_back();
                whole(&mut http);
            }
            stop(ports.http);
        };
        let (report, lines) = with_plug(kind, "job=serve stop=1", &Gateway::new(), client);
        assert!(report.ok, "{kind:?}: {:?} {lines:?}", report.error);
        let traffic = report.traffic.unwrap();
        assert_eq!(traffic.replugs, 2, "{kind:?}: {lines:?}");
        assert_eq!(traffic.buffers_before, traffic.buffers_after);
    }
}

#[test]
fn what_makes_no_sense_is_answered_cleanly() {
    for kind in BOTH {
        let client = |ports: Ports| {
            let ask = |request: &str| Http::connect(ports.http).ask(request);
            let fields = "X: y\r\n".repeat(65);
            let long = "x".repeat(9000);
            for (request, status) in [
                ("nonsense\r\n\r\n".to_string(), 400),
                ("GET / HTTP/1.1\r\n\r\n".into(), 400),
                ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
                ("GET / HTTP/3.0\r\nHost: a\r\n\r\n".into(), 505),
                ("GET /none HTTP/1.1\r\nHost: a\r\n\r\n".into(), 404),
                ("PUT / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 405),
                ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 501),
                (format!("GET /{long} HTTP/1.1\r\n"), 414),
                (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}"), 431),
                (format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), 431),
            ] {
                assert_eq!(ask(&request).status, status, "{request}");
            }
            let mut http = Http::connect(ports.http);
            let part = http.get("/README.TXT", "Range: bytes=1-3\r\n");
            assert_eq!((part.status, part.body.as_slice()), (206, &b"ell"[..]));
            assert_eq!(part.field("content-range"), Some("bytes 1-3/6"));
            let part = http.get("/README.TXT", "Range: bytes=-2\r\n");
            assert_eq!((part.status, part.body.as_slice()), (206, &b"o\n"[..]));
            let part = http.get("/README.TXT", "Range: bytes=6-\r\n");
            assert_eq!(part.status, 416);
            assert_eq!(part.field("content-range"), Some("bytes */6"));
            let part = http.get("/empty", "Range: bytes=-2\r\n");
            assert_eq!((part.status, part.body.len()), (200, 0));
            // A bad request for a head: what follows the answer's own head is the end.
            let mut bad = Http::connect(ports.http);
            bad.send(b"HEAD /%zz HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(bad.answer(false).unwrap().status, 400);
            assert!(bad.is_over());
            // Three at once, the second one's answer without a body.
            http.send(b"GET /README.TXT HTTP/1.1\r\nHost: a\r\n\r\n");
            http.send(b"HEAD /README.TXT HTTP/1.1\r\nHost: a\r\n\r\nGET /empty HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(http.answer(true).unwrap().body, b"hello\n");
            assert_eq!(
                http.answer(false).unwrap().field("content-length"),
                Some("6")
            );
            assert_eq!(http.answer(true).unwrap().body, b"");
            let last = http.get("/empty", "Connection: close\r\n");
            assert_eq!(last.field("connection"), Some("close"));
            assert!(http.is_over());
            let mut old = Http::connect(ports.http);
            let kept = old.ask("GET /README.TXT HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
            assert_eq!(kept.field("connection"), Some("keep-alive"));
            old.ask("GET /README.TXT HTTP/1.0\r\n\r\n");
            assert!(old.is_over());
            stop(ports.http);
        };
        let (report, lines) = with_client(kind, "job=serve stop=1", &Gateway::new(), client);
        assert!(report.ok, "{kind:?}: {:?} {lines:?}", report.error);
        assert_eq!(report.serve.unwrap().errors, 12);
    }
}

#[test]
fn a_file_is_fetched() {
    for kind in BOTH {
        let gateway = Gateway::new();
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        gateway.allow(port);
        let bytes = image::noise(700_000);
        let (body, hash) = (bytes.clone(), sha256(&bytes));
        let client = move |_: Ports| {
            let (stream, _) = server.accept().unwrap();
            let mut stream = BufReader::new(stream);
            let mut lines = Vec::new();
            while lines.last().is_none_or(|line| line != "\r\n") {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                lines.push(line);
            }
            assert_eq!(lines[0], "GET /some/file?x HTTP/1.0\r\n");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.get_mut().write_all(head.as_bytes()).unwrap();
            stream.get_mut().write_all(&body).unwrap();
        };
        let line = format!("job=fetch url=http://10.0.2.2:{port}/some/file?x");
        let (report, lines) = with_client(kind, &line, &gateway, client);
        assert!(report.ok, "{kind:?}: {:?} {lines:?}", report.error);
        let fetch = report.fetch.unwrap();
        assert_eq!((fetch.status, fetch.bytes), (200, 700_000));
        assert_eq!(fetch.sha256, hash);
    }
}

#[test]
fn a_server_that_is_not_there_is_a_clear_line() {
    for kind in BOTH {
        let line = "job=fetch url=http://10.0.2.2:9/ ip=10.0.2.15/24,gw=10.0.2.2";
        let (report, _) = with_client(kind, line, &Gateway::new(), |_| {});
        assert_eq!(
            report.error.as_deref(),
            Some("the server did not answer"),
            "{kind:?}"
        );
    }
}
