//! Checksums against those of another stack.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows fails, as it should"
)]

use netfront::checksum::{Contents, Packet};
use netfront::{Ip, Protocol};
use proptest::collection::vec;
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, IpRepr, Ipv4Address, Ipv4Repr, Ipv6Address, Ipv6Repr, TcpControl,
    TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};

/// How a frame is made.
#[derive(Debug, Clone)]
struct Plan {
    v6: bool,
    tcp: bool,
    tags: usize,
    payload: Vec<u8>,
    padding: usize,
    ports: (u16, u16),
    addresses: ([u8; 16], [u8; 16]),
    /// An IPv6 extension header of so many units of eight bytes.
    extension: Option<u8>,
}

fn plans() -> impl Strategy<Value = Plan> {
    (
        any::<bool>(),
        any::<bool>(),
        0..3usize,
        vec(any::<u8>(), 0..1500),
        0..40usize,
        any::<(u16, u16)>(),
        any::<([u8; 16], [u8; 16])>(),
        proptest::option::of(0..4u8),
    )
        .prop_map(
            |(v6, tcp, tags, payload, padding, ports, addresses, extension)| Plan {
                v6,
                tcp,
                tags,
                payload,
                padding,
                ports: (ports.0.max(1), ports.1.max(1)),
                addresses,
                extension,
            },
        )
}

impl Plan {
    fn addresses(&self) -> (IpAddress, IpAddress) {
        let address = |bytes: &[u8; 16]| match self.v6 {
            true => IpAddress::from(Ipv6Address::from(*bytes)),
            false => Ipv4Address::new(bytes[0], bytes[1], bytes[2], bytes[3]).into(),
        };
        (address(&self.addresses.0), address(&self.addresses.1))
    }

    /// The transport header and payload, with checksum.
    fn transport(&self) -> Vec<u8> {
        let (from, to) = self.addresses();
        let all = ChecksumCapabilities::default();
        if self.tcp {
            let repr = TcpRepr {
                src_port: self.ports.0,
                dst_port: self.ports.1,
                control: TcpControl::Psh,
                seq_number: TcpSeqNumber(1),
                ack_number: Some(TcpSeqNumber(2)),
                window_len: 3,
                window_scale: None,
                max_seg_size: None,
                sack_permitted: false,
                sack_ranges: [None; 3],
                timestamp: None,
                payload: &self.payload,
            };
            let mut bytes = vec![0; repr.buffer_len()];
            repr.emit(&mut TcpPacket::new_unchecked(&mut bytes), &from, &to, &all);
            bytes
        } else {
            let repr = UdpRepr {
                src_port: self.ports.0,
                dst_port: self.ports.1,
            };
            let mut bytes = vec![0; repr.header_len() + self.payload.len()];
            let emit = |into: &mut [u8]| into.copy_from_slice(&self.payload);
            let mut packet = UdpPacket::new_unchecked(&mut bytes);
            repr.emit(&mut packet, &from, &to, self.payload.len(), emit, &all);
            bytes
        }
    }

    /// The frame, and where its transport header starts.
    fn frame(&self) -> (Vec<u8>, usize) {
        let transport = self.transport();
        let extension: Vec<u8> = match self.extension {
            Some(units) if self.v6 => {
                let mut bytes = vec![0; 8 * (usize::from(units) + 1)];
                bytes[..2].copy_from_slice(&[if self.tcp { 6 } else { 17 }, units]);
                bytes
            }
            _ => vec![],
        };
        let (from, to) = self.addresses();
        let next = if self.tcp {
            IpProtocol::Tcp
        } else {
            IpProtocol::Udp
        };
        let len = transport.len() + extension.len();
        let repr: IpRepr = match (from, to) {
            (IpAddress::Ipv4(src_addr), IpAddress::Ipv4(dst_addr)) => IpRepr::Ipv4(Ipv4Repr {
                src_addr,
                dst_addr,
                next_header: next,
                payload_len: len,
                hop_limit: 64,
            }),
            (IpAddress::Ipv6(src_addr), IpAddress::Ipv6(dst_addr)) => IpRepr::Ipv6(Ipv6Repr {
                src_addr,
                dst_addr,
                next_header: match extension.is_empty() {
                    true => next,
                    false => IpProtocol::Ipv6Opts,
                },
                payload_len: len,
                hop_limit: 64,
            }),
            _ => panic!("one version"),
        };
        let mut ip = vec![0; repr.header_len()];
        repr.emit(&mut ip, &ChecksumCapabilities::default());
        let mut frame = vec![0xff; 12];
        for _ in 0..self.tags {
            frame.extend([0x81, 0, 0, 5]);
        }
        frame.extend(if self.v6 { [0x86, 0xdd] } else { [8, 0] });
        frame.extend(ip);
        frame.extend(extension);
        let start = frame.len();
        frame.extend(transport);
        frame.extend(vec![0xaa; self.padding]);
        (frame, start)
    }
}

fn packet(frame: &[u8]) -> Packet {
    Contents::of(frame).packet().expect("a whole packet")
}

fn field(start: usize, tcp: bool) -> std::ops::Range<usize> {
    let at = start + if tcp { 16 } else { 6 };
    at..at + 2
}

proptest! {
    #[test]
    fn a_packet_is_found_verified_and_filled_in(plan in plans()) {
        let (frame, start) = plan.frame();
        let packet = packet(&frame);
        prop_assert_eq!(usize::from(packet.transport.start), start);
        prop_assert_eq!(packet.transport.ip == Ip::V6, plan.v6);
        prop_assert_eq!(packet.transport.protocol == Protocol::Tcp, plan.tcp);
        prop_assert!(packet.verify(&frame));
        let field = field(start, plan.tcp);
        for garbage in [[0, 0], [0xff, 0xff], [0x12, 0x34]] {
            let mut blank = frame.clone();
            blank[field.clone()].copy_from_slice(&garbage);
            packet.fill(&mut blank);
            prop_assert_eq!(&blank, &frame);
            // The way by the host.
            packet.prepare(&mut blank);
            prop_assert_eq!(&blank[field.clone()], &packet.pseudo_header.to_be_bytes());
            packet.finish(&mut blank);
            prop_assert_eq!(&blank, &frame);
        }
    }

    #[test]
    fn damage_is_noticed(plan in plans(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let (mut frame, start) = plan.frame();
        let packet = packet(&frame);
        let end = frame.len() - plan.padding;
        let at = start + at.index(end - start);
        frame[at] ^= 1 << bit;
        let absent = !plan.tcp && !plan.v6 && frame[field(start, false)] == [0, 0];
        prop_assert_eq!(packet.verify(&frame), absent);
    }

    #[test]
    fn the_pseudo_header_is_the_other_stacks(plan in plans()) {
        let (frame, start) = plan.frame();
        if plan.tcp {
            let packet = packet(&frame);
            let mut frame = frame;
            packet.prepare(&mut frame);
            let (from, to) = plan.addresses();
            let tcp = TcpPacket::new_unchecked(&frame[start..frame.len() - plan.padding]);
            prop_assert!(tcp.verify_partial_checksum(&from, &to));
        }
    }

    #[test]
    fn no_bytes_make_it_fall_over(mut frame in vec(any::<u8>(), 0..200), kind in 0..4usize) {
        if let Some(field) = frame.get_mut(12..14) {
            field.copy_from_slice(&[[8, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8]][kind]);
        }
        if let Some(packet) = Contents::of(&frame).packet() {
            packet.verify(&frame);
            packet.fill(&mut frame);
            // Another, shorter frame than it was read from.
            prop_assert!(packet.fill(&mut []).is_none() && !packet.verify(&[]));
        }
    }

    #[test]
    fn a_header_cut_short_is_no_packet(plan in plans(), cut in any::<prop::sample::Index>()) {
        let (frame, _) = plan.frame();
        let whole = frame.len() - plan.padding;
        prop_assert_eq!(Contents::of(&frame[..cut.index(whole)]).packet(), None);
    }
}

#[test]
fn fragments_and_others_are_told_apart() {
    let plan = Plan {
        v6: false,
        tcp: false,
        tags: 0,
        payload: vec![1; 32],
        padding: 0,
        ports: (1, 2),
        addresses: ([10; 16], [11; 16]),
        extension: None,
    };
    let (frame, _) = plan.frame();
    let with = |at: usize, byte: u8| {
        let mut frame = frame.clone();
        frame[at] = byte;
        Contents::of(&frame)
    };
    assert_eq!(with(20, 0x20), Contents::Fragment);
    assert_eq!(with(21, 1), Contents::Fragment);
    assert_eq!(with(23, 1), Contents::Other);
    assert_eq!(with(13, 6), Contents::Other);
    assert_eq!(with(14, 0x44), Contents::Malformed);
    assert_eq!(with(14, 0x65), Contents::Malformed);
    assert_eq!(with(16, 0xff), Contents::Malformed);
    assert_eq!(with(38, 0xff), Contents::Malformed);
    assert_eq!(Contents::of(&[]), Contents::Malformed);
}

#[test]
fn udp_without_a_checksum_is_good_over_ipv4_only() {
    for v6 in [false, true] {
        let plan = Plan {
            v6,
            tcp: false,
            tags: 0,
            payload: vec![1; 5],
            padding: 3,
            ports: (1, 2),
            addresses: ([10; 16], [11; 16]),
            extension: None,
        };
        let (mut frame, start) = plan.frame();
        frame[field(start, false)].fill(0);
        assert_eq!(packet(&frame).verify(&frame), !v6);
    }
}
