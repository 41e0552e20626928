//! A bad host does what it was told, and no more.

use super::hand::{NetGuest, in_words, rndis_packet};
use crate::hyperv::hand_guest::words;
use crate::hyperv::netvsp::{NetMisdeed, NetvspConfig, nvsp, rndis};
use crate::net::{Frame, Port};

const V6_1: u32 = nvsp::version::V6_1;

fn guest(misdeeds: &[NetMisdeed]) -> NetGuest {
    let mut guest = NetGuest::ready(V6_1, |_: &mut NetvspConfig| {});
    for misdeed in misdeeds {
        guest.netvsp().misbehave(*misdeed);
    }
    guest
}

fn broadcast() -> Vec<u8> {
    vec![0xff; 60]
}

/// Transfer ranges as they are in the ring: what the packet says of their number, then each's
/// length and place.
fn ranges(guest: &mut NetGuest) -> Vec<u32> {
    guest.hand.settle();
    let (kind, _, payload) = guest.hand.get().expect("a packet");
    assert_eq!(kind, 7);
    in_words(&payload)[..4].to_vec()
}

#[test]
fn transfers_say_what_was_planned() {
    // The first transfer of all is INITIALIZE's answer.
    let range = NetMisdeed::Range {
        packet: 0,
        range: 0,
        offset: 0xffff_f000,
        bytes: 0x2000,
    };
    let mut bad = NetGuest::new(|_| {});
    bad.netvsp().misbehave(range);
    bad.netvsp()
        .misbehave(NetMisdeed::Set { packet: 0, set: 7 });
    bad.netvsp().misbehave(NetMisdeed::RangeCount {
        packet: 0,
        count: 999,
    });
    bad.quietly_set_up(V6_1);
    assert_eq!(ranges(&mut bad), [7, 999, 0x2000, 0xffff_f000]);
    let mut bad = guest(&[NetMisdeed::FrameWord {
        frame: 1,
        word: 2,
        value: 0x7777,
    }]);
    for want in [248, 0x7777] {
        bad.line.send(Frame::new(broadcast()));
        let transfer = bad.transfer(0).unwrap();
        assert_eq!(in_words(&transfer.messages[0])[2], want);
    }
}

#[test]
fn control_answers_are_lost_doubled_late_and_changed() {
    let keepalive = |id| words(&[8, 12, id]);
    let kind = rndis::message::KEEPALIVE | rndis::message::COMPLETE;
    let answer = |id| words(&[kind, 16, id, 0]);
    let mut bad = guest(&[NetMisdeed::ControlTwice(kind)]);
    bad.control(&keepalive(1));
    assert_eq!(bad.transfer(0).unwrap().messages[0], answer(1));
    let mut bad = guest(&[NetMisdeed::ControlLate(kind)]);
    let message = keepalive(1);
    assert_eq!(bad.send_ranges(1, &message, &[message.len()]), Some(1));
    assert!(bad.transfer(0).is_none());
    assert_eq!(bad.control(&keepalive(2)), answer(2));
    assert_eq!(bad.transfer(0).unwrap().messages[0], answer(1));
    let mut bad = guest(&[NetMisdeed::ControlWord {
        kind,
        word: 2,
        value: 99,
    }]);
    assert_eq!(bad.control(&keepalive(1)), answer(99));
    let mut bad = guest(&[NetMisdeed::ControlNever(kind)]);
    assert_eq!(bad.send_ranges(1, &message, &[message.len()]), Some(1));
    assert!(bad.transfer(0).is_none());
    let mut bad = guest(&[NetMisdeed::Indications {
        count: 3,
        status: 77,
    }]);
    for _ in 0..3 {
        assert_eq!(
            bad.transfer(0).unwrap().messages[0],
            words(&[7, 20, 77, 0, 0])
        );
    }
    assert!(bad.transfer(0).is_none());
}

#[test]
fn completions_are_lost_doubled_and_changed() {
    let packet = rndis_packet(&[], &broadcast());
    // Setting up took five completions of NVSP messages and two of control messages.
    let number = 7;
    let mut good = guest(&[]);
    assert_eq!(good.send(&packet), Some(1));
    let mut bad = guest(&[NetMisdeed::CompletionTwice { completion: number }]);
    assert_eq!(bad.send(&packet), Some(1));
    assert_eq!(
        bad.hand.get().map(|(kind, id, _)| (kind, id)),
        Some((11, 0x1234))
    );
    let mut bad = guest(&[NetMisdeed::CompletionNever { completion: number }]);
    assert_eq!(bad.send(&packet), None);
    assert_eq!(bad.send(&packet), Some(1));
    let kind = nvsp::message::SEND_RNDIS_PACKET_COMPLETE;
    let mut bad = guest(&[NetMisdeed::NvspWord {
        kind,
        word: 1,
        value: 2,
    }]);
    assert_eq!(bad.send(&packet), Some(2));
    assert_eq!(bad.violations(), [""; 0]);
}
