//! A guest that is nothing but a stack, behind the gateway.

use super::*;
use crate::net::{LineQueue, Port as _};
use crate::rng::Rng;
use netfront::adapters::smoltcp::Device;
use netfront::{Capabilities, Mac};
use smoltcp::socket::{dhcpv4, icmp, tcp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpAddress};
use std::io::{Read, Write};
use std::thread::JoinHandle;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

struct Guest {
    device: Device<LineQueue, Vec<u8>>,
    stack: Interface,
    sockets: SocketSet<'static>,
    began: Instant,
    gateway: Gateway,
}

impl Guest {
    fn new(gateway: &Gateway) -> Self {
        let capabilities = Capabilities::new(Mac(MAC), 1500);
        let queue = LineQueue::new(Box::new(gateway.port()), capabilities, Arc::default());
        let mut device = Device::new(queue, vec![0; 1514], vec![0; 1514]);
        let config = StackConfig::new(EthernetAddress(MAC).into());
        let mut stack = Interface::new(config, &mut device, StackInstant::ZERO);
        stack.update_ip_addrs(|list| list.push(IpCidr::new(GUEST.into(), PREFIX)).unwrap());
        Self {
            device,
            stack,
            sockets: SocketSet::new(vec![]),
            began: Instant::now(),
            gateway: gateway.clone(),
        }
    }

    fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 65_536]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    /// Lets everybody do something until `done` says so.
    fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let limit = Instant::now() + Duration::from_secs(30);
        while !done(self) {
            assert!(Instant::now() < limit, "it takes too long");
            let micros = self.began.elapsed().as_micros() as i64;
            let now = StackInstant::from_micros(micros);
            self.stack.poll(now, &mut self.device, &mut self.sockets);
            self.gateway.poll();
        }
    }

    /// A socket that sends back what comes, until the other side has no more.
    fn echo(&mut self, handle: SocketHandle) -> bool {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        if socket.can_recv() && socket.can_send() {
            let mut bytes = vec![0; socket.send_capacity() - socket.send_queue()];
            let count = socket.recv_slice(&mut bytes).unwrap();
            socket.send_slice(&bytes[..count]).unwrap();
        }
        let heard = socket.state() == tcp::State::CloseWait && !socket.can_recv();
        if heard {
            socket.close();
        }
        heard
    }
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| rng.draw() as u8).collect()
}

/// A client that sends noise and expects it back.
fn client(port: u16, seed: u64) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let sent = noise(seed, 300_000);
        let mut writer = stream.try_clone().unwrap();
        let to_send = sent.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&to_send).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut came = Vec::new();
        stream.read_to_end(&mut came).unwrap();
        writing.join().unwrap();
        assert!(came == sent);
    })
}

#[test]
fn the_guest_is_given_an_address() {
    let gateway = Gateway::new();
    let mut guest = Guest::new(&gateway);
    guest.stack.update_ip_addrs(|list| list.clear());
    let handle = guest.sockets.add(dhcpv4::Socket::new());
    let mut given = None;
    guest.until(|guest| {
        let socket = guest.sockets.get_mut::<dhcpv4::Socket<'_>>(handle);
        if let Some(dhcpv4::Event::Configured(config)) = socket.poll() {
            given = Some((config.address, config.router, config.dns_servers.len()));
        }
        given.is_some()
    });
    let (address, router, names) = given.unwrap();
    assert_eq!((address.address(), address.prefix_len()), (GUEST, 24));
    assert_eq!((router, names), (Some(ROUTER), 0));
}

#[test]
fn the_router_answers_pings() {
    let gateway = Gateway::new();
    let mut guest = Guest::new(&gateway);
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 2], vec![0; 512]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(7)).unwrap();
    let echo = Icmpv4Repr::EchoRequest {
        ident: 7,
        seq_no: 1,
        data: b"hello",
    };
    let room = socket.send(echo.buffer_len(), ROUTER.into()).unwrap();
    echo.emit(&mut Icmpv4Packet::new_unchecked(room), &Default::default());
    let handle = guest.sockets.add(socket);
    guest.until(|guest| guest.sockets.get::<icmp::Socket<'_>>(handle).can_recv());
    let socket = guest.sockets.get_mut::<icmp::Socket<'_>>(handle);
    let (answer, from) = socket.recv().unwrap();
    assert_eq!(from, IpAddress::from(ROUTER));
    let answer = Icmpv4Packet::new_checked(answer).unwrap();
    let parsed = Icmpv4Repr::parse(&answer, &Default::default()).unwrap();
    assert!(matches!(
        parsed,
        Icmpv4Repr::EchoReply { data: b"hello", .. }
    ));
}

#[test]
fn connections_of_this_machine_reach_the_guest_several_at_once() {
    let gateway = Gateway::new();
    let (listener, port) = listener();
    gateway.forward(listener, 80).unwrap();
    let mut guest = Guest::new(&gateway);
    let clients: Vec<_> = (0..4).map(|seed| client(port, seed)).collect();
    let handles: Vec<_> = clients.iter().map(|_| guest.tcp()).collect();
    for handle in &handles {
        let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(*handle);
        socket.listen(80).unwrap();
    }
    let mut over = [false; 4];
    guest.until(|guest| {
        for (over, handle) in over.iter_mut().zip(&handles) {
            *over |= guest.echo(*handle);
        }
        over == [true; 4] && clients.iter().all(JoinHandle::is_finished)
    });
    for client in clients {
        client.join().unwrap();
    }
    guest.until(|guest| guest.gateway.connections() == 0);
}

#[test]
fn the_guest_reaches_what_it_may_and_nothing_else() {
    let gateway = Gateway::new();
    let (server, port) = listener();
    let (_other, forbidden) = listener();
    gateway.allow(port);
    let mut guest = Guest::new(&gateway);
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut came = Vec::new();
        stream.read_to_end(&mut came).unwrap();
        stream.write_all(&came).unwrap();
    });
    let connect = |guest: &mut Guest, to: u16, from: u16| {
        let handle = guest.tcp();
        let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
        let context = guest.stack.context();
        socket.connect(context, (ROUTER, to), from).unwrap();
        handle
    };
    let refused = connect(&mut guest, forbidden, 5000);
    let handle = connect(&mut guest, port, 5001);
    guest.until(|guest| {
        let socket = guest.sockets.get::<tcp::Socket<'_>>(refused);
        socket.state() == tcp::State::Closed
    });
    let sent = noise(3, 50_000);
    let (mut done, mut came) = (0, Vec::new());
    guest.until(|guest| {
        let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
        if done < sent.len() && socket.can_send() {
            done += socket.send_slice(&sent[done..]).unwrap();
            if done == sent.len() {
                socket.close();
            }
        }
        let mut some = [0; 4096];
        while let Ok(count @ 1..) = socket.recv_slice(&mut some) {
            came.extend_from_slice(&some[..count]);
        }
        came.len() == sent.len()
    });
    assert!(came == sent);
    answering.join().unwrap();
}

#[test]
fn no_frames_make_it_fall_over() {
    let gateway = Gateway::new();
    let (_server, port) = listener();
    gateway.allow(port);
    let mut guest = gateway.port();
    let mut rng = Rng::new(11);
    // A frame that begins to open a connection, and what chance makes of it.
    let mut seed = vec![0xff; 12];
    seed.extend([
        8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2,
    ]);
    seed.extend([0x10, 0]);
    seed.extend(port.to_be_bytes());
    seed.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0]);
    for round in 0..20_000 {
        let mut bytes = seed.clone();
        for _ in 0..rng.below(6) {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] = rng.draw() as u8;
        }
        bytes.truncate(rng.between(0, 80) as usize);
        guest.send(Frame::new(bytes));
        if round % 100 == 0 {
            gateway.poll();
            while guest.receive().is_some() {}
        }
    }
    assert!(gateway.connections() <= CONNECTIONS);
}
