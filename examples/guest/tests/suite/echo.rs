//! The jobs `echo` and `netbench` over simulated hosts: real sockets of this machine's, through the gateway.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use pv_tests::net::gateway::Gateway;

use crate::image;
use crate::network::{BOTH, Ports, with_client};

#[test]
fn bytes_are_echoed_taken_and_given() {
    for kind in BOTH {
        let client = |ports: Ports| {
            let sent = image::noise(100_000);
            let came = loop {
                let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ports.echo)).unwrap();
                let mut writer = stream.try_clone().unwrap();
                let bytes = sent.clone();
                let writing = thread::spawn(move || {
                    let _ = writer.write_all(&bytes);
                    let _ = writer.shutdown(std::net::Shutdown::Write);
                });
                let mut came = Vec::new();
                let read = stream.read_to_end(&mut came);
                writing.join().unwrap();
                // Before the guest is up there is nobody.
                if read.is_ok() && !came.is_empty() {
                    break came;
                }
                thread::sleep(Duration::from_millis(50));
            };
            assert!(came == sent);
        };
        let (report, lines) = with_client(kind, "job=echo secs=3", &Gateway::new(), client);
        assert!(report.ok, "{kind:?}: {:?} {lines:?}", report.error);
        let echo = report.echo.unwrap();
        assert_eq!((echo.connections, echo.tcp_bytes), (1, 100_000));
        let client = |ports: Ports| {
            thread::sleep(Duration::from_millis(500));
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ports.discard)).unwrap();
            stream.write_all(&image::noise(300_000)).unwrap();
            drop(stream);
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ports.chargen)).unwrap();
            let mut came = vec![0; 300_000];
            stream.read_exact(&mut came).unwrap();
            assert!(came.iter().all(|byte| *byte == b'#'));
            // Only what was acknowledged counts.
            thread::sleep(Duration::from_millis(200));
        };
        let (report, lines) = with_client(kind, "job=netbench secs=3", &Gateway::new(), client);
        assert!(report.ok, "{kind:?}: {:?} {lines:?}", report.error);
        let bench = report.netbench.unwrap();
        assert_eq!(bench.rx_bytes, 300_000);
        assert!(bench.tx_bytes >= 300_000, "{bench:?}");
    }
}

/// A socket that sends to the guest, and waits a while for what comes back.
fn peer(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    socket
}

/// Sends a datagram until it comes back: before the guest is up there is nobody, and some may be lost.
fn echoed(socket: &UdpSocket, bytes: &[u8]) {
    let mut came = [0; 2000];
    for _ in 0..40 {
        socket.send(bytes).unwrap();
        // What came late was another's, and is looked at no more.
        while let Ok(len) = socket.recv(&mut came) {
            if came[..len] == *bytes {
                return;
            }
        }
    }
    panic!("{} bytes did not come back", bytes.len());
}

#[test]
fn datagrams_are_echoed_to_whoever_sent_them() {
    for kind in BOTH {
        let client = |ports: Ports| {
            let peers: Vec<_> = (0..3).map(|_| peer(ports.echo_datagrams)).collect();
            // Every length from nothing to what a packet holds, at its ends and between.
            let lens = [1, 0, 2, 17, 18, 19, 100, 511, 1000, 1400, 1471, 1472];
            for (round, len) in lens.into_iter().enumerate() {
                for (n, socket) in peers.iter().enumerate() {
                    let mut bytes = image::noise(len);
                    if let Some(first) = bytes.first_mut() {
                        *first = (16 * n + round) as u8;
                    }
                    echoed(socket, &bytes);
                }
            }
            // More at once than wait anywhere: some may be lost, and none is changed or another's.
            let (burst, socket) = (300u32, &peers[0]);
            for n in 0..burst {
                let mut bytes = n.to_le_bytes().to_vec();
                bytes.extend(image::noise(600));
                socket.send(&bytes).unwrap();
            }
            let (mut seen, mut came) = (Vec::new(), [0; 2000]);
            while let Ok(len) = socket.recv(&mut came) {
                if len == 604 {
                    assert_eq!(came[4..len], image::noise(600));
                    seen.push(u32::from_le_bytes(came[..4].try_into().unwrap()));
                }
            }
            assert!(!seen.is_empty() && seen.iter().all(|n| *n < burst));
            let all = seen.len();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), all, "one came twice");
            // And it goes on.
            echoed(&peers[2], b"still there?");
        };
        let (report, lines) = with_client(kind, "job=echo secs=6", &Gateway::new(), client);
        assert!(report.ok, "{kind:?}: {:?} {lines:?}", report.error);
        let echo = report.echo.unwrap();
        assert!(echo.datagrams > 36, "{echo:?}");
        assert!(
            echo.udp_bytes > 3 * 6411 && echo.udp_bytes < 1_000_000,
            "{echo:?}"
        );
    }
}
