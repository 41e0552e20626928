//! The network back end against a front end written by hand.

use super::net_guest::*;
use crate::disk::Latency;
use crate::memory::GuestMemory;
use crate::net::headers::checksum_is_right;
use crate::net::samples::{Flow, pattern};
use crate::net::{Checksum, Frame, Port};
use crate::xen::abi::PAGE;
use crate::xen::abi::netif::*;
use crate::xen::netback::NetHabits;
use crate::xen::pair::Leftover;

const BLANK: u16 = TX_CSUM_BLANK | TX_DATA_VALIDATED;

#[test]
fn frames_go_both_ways() {
    let mut net = NetGuest::connected(NetHabits::default());
    let frame = Flow::tcp4().frame(b"over to you");
    net.send(&frame.bytes, 0, None);
    assert_eq!(net.statuses(), [RSP_OKAY]);
    assert_eq!(net.line.receive(), Some(frame.clone()));
    net.line.send(frame.clone());
    net.guest.host.run(1000);
    let responses = net.received();
    assert_eq!(responses.len(), 1);
    assert_eq!((responses[0].flags, responses[0].id), (0, 0));
    assert_eq!(net.bytes_of(&responses[0]), frame.bytes);
    assert_eq!(net.complaints(), [""; 0]);
    let counters = net.guest.host.counters().net;
    assert_eq!((counters.tx_frames, counters.rx_frames), (1, 1));
    assert!(net.guest.wait().contains(&net.port));
}

#[test]
fn long_segments_cross_whole_or_cut() {
    for v6 in [false, true] {
        let flow = Flow { v6, ..Flow::tcp4() };
        let frame = flow.long(&pattern(60_000, 1), 1400);
        let mut net = NetGuest::connected(NetHabits::default());
        let kind = if v6 { GSO_TCPV6 } else { GSO_TCPV4 };
        net.send(&frame.bytes, BLANK, Some(Extra::gso(1400, kind)));
        let statuses = net.statuses();
        assert_eq!((statuses[0], statuses[1]), (RSP_OKAY, RSP_NULL));
        assert_eq!(net.line.receive(), Some(frame.clone()));
        net.line.send(frame.clone());
        net.guest.host.run(1000);
        let responses = net.received();
        assert_eq!(responses[0].flags, 0b1111 & !RX_GSO_PREFIX);
        assert_eq!(responses[1].id, u16::from_le_bytes([EXTRA_GSO, 0]));
        assert_eq!(responses[1].offset, 1400);
        let mut whole = net.bytes_of(&responses[0]);
        for response in &responses[2..] {
            whole.extend(net.bytes_of(response));
        }
        assert!(
            whole == frame.bytes,
            "what was received is not what was sent"
        );
        // A front end that did not ask for them gets packets.
        let mut net = NetGuest::offered(NetHabits::default());
        assert_eq!(net.connect(), 4);
        net.post(0..BUFFERS);
        net.line.send(flow.long(&pattern(3000, 1), 1000));
        net.guest.host.run(1000);
        let responses = net.received();
        assert_eq!(responses.len(), 3);
        for response in responses {
            // It takes blank checksums over IPv4, as it did not say otherwise.
            let blank = response.flags & RX_CSUM_BLANK != 0;
            assert_eq!(blank, !v6);
            let right = checksum_is_right(&net.bytes_of(&response));
            assert_eq!(right, Some(!blank));
        }
        assert_eq!(net.complaints(), [""; 0]);
    }
}

#[test]
fn too_few_buffers_hold_frames_back_and_an_event_lets_them_go() {
    let habits = NetHabits {
        rx_minimum: 18,
        ..NetHabits::default()
    };
    let mut net = NetGuest::offered(habits);
    net.connect();
    net.post(0..17);
    net.line.send(Frame::new(pattern(60, 1)));
    net.guest.host.run(1000);
    assert!(net.received().is_empty());
    assert_eq!(net.guest.word(RX, 4), 18);
    net.post(17..18);
    net.guest.host.run(1000);
    assert_eq!(net.received().len(), 1);
}

#[test]
fn what_keys_lack_is_complained_of() {
    for (keys, why) in [
        (&[("feature-rx-notify", "1")], "no request-rx-copy"),
        (&[("request-rx-copy", "1")], "no feature-rx-notify"),
    ] {
        let mut net = NetGuest::offered(NetHabits::default());
        net.write_keys(keys);
        assert_eq!(net.connect_with_less(), 5);
        assert!(net.complaints()[0].contains(why));
    }
    let mut net = NetGuest::offered(NetHabits::default());
    net.write_keys(&[("multi-queue-num-queues", "9")]);
    assert_eq!(net.connect(), 5);
    let mut net = NetGuest::offered(NetHabits::default());
    net.write_keys(&[("multi-queue-num-queues", "2")]);
    assert_eq!(net.connect(), 5);
}

/// Sends one slot, changed; the complaint and whether the queue was given up.
fn odd(habits: NetHabits, change: impl FnOnce(&mut TxRequest)) -> (String, bool) {
    let mut net = NetGuest::connected(habits);
    let frame = Flow::tcp4().partial(b"some bytes");
    let mut slot = TxRequest {
        gref: TX_GREF,
        size: frame.bytes.len() as u16,
        flags: BLANK,
        ..TxRequest::default()
    };
    net.place(&frame.bytes);
    change(&mut slot);
    net.push(zerocopy::IntoBytes::as_bytes(&slot));
    net.kick();
    let broken = net.guest.host.vif(0).unwrap().net.broken();
    let statuses = net.statuses();
    if !broken {
        assert_eq!(statuses, [RSP_ERROR]);
    }
    let complaints = net.complaints();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    (complaints[0].clone(), broken)
}

#[test]
fn odd_chains_are_complained_of() {
    let usual = NetHabits::default();
    type Case = (fn(&mut TxRequest), &'static str, bool);
    let cases: [Case; 9] = [
        (|s| s.id = 256, "id not below", false),
        (|s| s.flags = 16, "flags", false),
        (|s| s.size = 13, "shorter than", false),
        (|s| s.offset = 4090, "end of its page", true),
        (|s| s.gref = 300, "Grant", false),
        (|s| s.flags = TX_MORE_DATA, "more_data", true),
        (|s| s.flags = TX_EXTRA_INFO, "extra is missing", true),
        (|s| (s.size, s.flags) = (1515, 0), "MTU", false),
        (|s| s.offset = 1, "blank checksum", false),
    ];
    let plain = NetHabits {
        checksum_v4: false,
        ..usual
    };
    for (change, why, fatal) in cases {
        let habits = if why == "blank checksum" {
            plain
        } else {
            usual
        };
        let (complaint, broken) = odd(habits, change);
        assert!(complaint.contains(why), "{complaint} instead of {why}");
        assert_eq!(broken, fatal, "{why}");
    }
}

#[test]
fn answers_come_late_and_out_of_order_and_frames_do_not() {
    for seed in super::guest::seeds(8) {
        let habits = NetHabits {
            latency: Latency {
                min_steps: 0,
                max_steps: 20,
                out_of_order: true,
            },
            scattered_answers: true,
            lazy_events: true,
            ..NetHabits::default()
        };
        let mut net = NetGuest::seeded(habits, |config| config.seed = seed);
        net.connect();
        for id in 0..18 {
            let slot = TxRequest {
                gref: TX_GREF + u32::from(id),
                size: 60,
                id,
                ..TxRequest::default()
            };
            let page = (TX_DATA + u64::from(id)) * PAGE;
            net.guest.ram.write(page, &[id as u8; 60]).unwrap();
            net.push(zerocopy::IntoBytes::as_bytes(&slot));
        }
        net.kick();
        let ids: Vec<u16> = net.answers().iter().map(|answer| answer.id).collect();
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..18).collect::<Vec<_>>());
        assert_ne!(ids, sorted);
        for id in 0..18 {
            assert_eq!(net.line.receive(), Some(Frame::new([id; 60])));
        }
        assert_eq!(net.complaints(), [""; 0]);
    }
}

#[test]
fn an_interface_goes_and_comes_back() {
    let mut net = NetGuest::connected(NetHabits::default());
    let granted = net.guest.host.granted().len();
    net.guest.host.detach_nic(0);
    assert_eq!(net.back_state(), 5);
    net.write_keys(&[("state", "6")]);
    net.guest.host.run(1000);
    assert!(net.guest.host.vif(0).is_none());
    assert_eq!(net.guest.host.granted().len(), granted);
    assert_eq!(net.guest.host.grants().mapped().count(), 0);
    assert!(net.guest.read(&format!("{FRONT}/state")).is_err());
    let (near, line) = crate::net::cable();
    let spec = crate::xen::vif::VifSpec::new(Box::new(near)).leftover(Leftover::Connected);
    net.guest.host.attach_nic(spec);
    net.line = line;
    assert_eq!(net.back_state(), 4);
    for (state, back) in [("5", 5), ("6", 6), ("1", 2)] {
        net.write_keys(&[("state", state)]);
        net.guest.host.run(1000);
        assert_eq!(net.back_state(), back);
    }
    assert_eq!(net.connect(), 4);
    net.send(&[7; 60], TX_DATA_VALIDATED, None);
    let sent = net.line.receive().unwrap();
    assert_eq!(sent.checksum, Checksum::Verified);
}
