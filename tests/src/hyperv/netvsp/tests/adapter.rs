//! Setting the adapter up and down, and what it answers.

use super::hand::{NetGuest, RECEIVE_GPADL, in_words};
use crate::hyperv::hand_guest::words;
use crate::hyperv::netvsp::{NetvspConfig, nvsp, oid};

const V6_1: u32 = nvsp::version::V6_1;

fn defaults(_: &mut NetvspConfig) {}

#[test]
fn every_version_sets_up_and_closes() {
    // The oldest and the newest will do for an interpreter.
    for version in nvsp::version::ALL
        .into_iter()
        .step_by(if cfg!(miri) { 5 } else { 1 })
    {
        let mut guest = NetGuest::ready(version, defaults);
        assert_eq!(guest.netvsp().version(), Some(version));
        assert_eq!(guest.netvsp().filter(), 0xb);
        guest.close();
        assert_eq!(guest.violations(), [""; 0], "version {version:#x}");
        assert_eq!(guest.hand.host.bus.gpadls(), 1, "the rings'");
        assert_eq!(guest.netvsp().version(), None);
    }
}

#[test]
fn versions_that_are_not_spoken_are_refused_until_one_is() {
    let mut guest = NetGuest::new(|config| config.versions = vec![nvsp::version::V4]);
    assert!(!guest.init(V6_1) && !guest.init(nvsp::version::V5));
    assert!(guest.init(nvsp::version::V4));
    assert_eq!(guest.violations(), [""; 0]);
}

#[test]
fn short_messages_are_never_answered() {
    let mut guest = NetGuest::new(defaults);
    guest.hand.put(6, 1, &[], &words(&[1, V6_1, V6_1, 0, 0, 0]));
    guest.hand.signal(guest.relid);
    guest.hand.settle();
    assert_eq!(guest.hand.get(), None);
    assert_eq!(guest.violations(), ["netvsp: a message of 24 bytes"]);
}

#[test]
fn what_the_adapter_is_can_be_asked() {
    let mut guest = NetGuest::ready(V6_1, defaults);
    assert_eq!(guest.section_bytes, 256 + 1514 + 36);
    let mac = vec![0x00, 0x15, 0x5d, 0x70, 0x76, 0x01];
    assert_eq!(guest.query(oid::PERMANENT_ADDRESS), (0, mac));
    assert_eq!(guest.query(oid::MAXIMUM_FRAME_SIZE), (0, words(&[1500])));
    assert_eq!(guest.query(oid::MEDIA_CONNECT_STATUS), (0, words(&[0])));
    assert_eq!(guest.query(oid::LINK_SPEED), (0, words(&[100_000_000])));
    assert_eq!(guest.query(0x1234).0, 0xc000_00bb);
    let (status, capabilities) = guest.query(oid::OFFLOAD_HARDWARE_CAPABILITIES);
    assert_eq!((status, capabilities.len()), (0, 156));
    let (status, scaling) = guest.query(oid::RECEIVE_SCALE_CAPABILITIES);
    assert_eq!((status, in_words(&scaling)[3]), (0, 8));
    assert_eq!(
        guest.control(&words(&[8, 12, 5])),
        words(&[0x8000_0008, 16, 5, 0])
    );
    assert_eq!(guest.violations(), [""; 0]);
}

#[test]
fn the_link_goes_down_and_up() {
    let mut guest = NetGuest::ready(V6_1, defaults);
    for (up, status) in [(false, 0x4001_000c), (true, 0x4001_000b)] {
        guest.netvsp().set_link(up);
        let transfer = guest.transfer(0).unwrap();
        assert!(transfer.control);
        assert_eq!(transfer.messages[0], words(&[7, 20, status, 0, 0]));
        guest.give_back(0, transfer.id);
        let state = u32::from(!up);
        assert_eq!(guest.query(oid::MEDIA_CONNECT_STATUS), (0, words(&[state])));
    }
    assert!(
        !guest.netvsp().set_max_frame(9014),
        "more than was asked for"
    );
    assert!(guest.netvsp().set_max_frame(1014));
    let transfer = guest.transfer(0).unwrap();
    assert_eq!(in_words(&transfer.messages[0])[2], 0x4001_0018);
    assert_eq!(guest.query(oid::MAXIMUM_FRAME_SIZE), (0, words(&[1000])));
}

#[test]
fn the_guest_is_asked_whether_it_lives() {
    let mut guest = NetGuest::ready(V6_1, defaults);
    guest.netvsp().keep_alive();
    guest.netvsp().keep_alive();
    let transfer = guest.transfer(0).unwrap();
    let question = in_words(&transfer.messages[0]);
    assert_eq!((question.len(), &question[..2]), (3, &[8, 12][..]));
    assert!(guest.transfer(0).is_none(), "one at a time");
    guest.give_back(0, transfer.id);
    let answer = words(&[0x8000_0008, 16, question[2], 0]);
    assert_eq!(guest.send_ranges(1, &answer, &[16]), Some(1));
    assert_eq!(guest.netvsp().stats().keepalives, 1);
    assert_eq!(guest.violations(), [""; 0]);
    assert_eq!(guest.send_ranges(1, &answer, &[16]), Some(1));
    assert_eq!(guest.violations().len(), 1, "nobody asked again");
}

#[test]
fn carelessness_is_noted() {
    let mut guest = NetGuest::ready(V6_1, defaults);
    let relid = guest.relid;
    guest.hand.tell(11, &words(&[relid, RECEIVE_GPADL]));
    guest.hand.tell(7, &words(&[relid]));
    assert_eq!(
        guest.violations(),
        [
            "netvsp: a buffer's GPADL torn down, and it was not revoked",
            "netvsp: closed with buffers that were not revoked",
            "netvsp: closed with the packet filter open",
        ]
    );
}

#[test]
fn sub_channels_are_offered_and_named_in_a_table() {
    let mut guest = NetGuest::ready(V6_1, defaults);
    let answer = guest.nvsp(&[133, 1, 8]).unwrap();
    assert_eq!(
        answer[..3],
        [133, 2, 0],
        "eight beside the first are too many"
    );
    let answer = guest.nvsp(&[133, 1, 1]).unwrap();
    assert_eq!(answer[..3], [133, 1, 1]);
    let offer = guest.hand.expect(1);
    assert_eq!(offer[4..8], in_words(b"pv-tests-net--00"));
    assert_eq!(
        (offer[172 / 4] & 0xffff, offer[176 / 4]),
        (1, guest.relid + 1)
    );
    guest.hand.turn_to(1);
    guest.hand.open(guest.relid + 1);
    guest.hand.settle();
    guest.hand.turn_to(0);
    let (kind, _, table) = guest.hand.get().unwrap();
    let table = in_words(&table);
    assert_eq!((kind, &table[..3]), (6, &[134, 16, 12][..]));
    assert_eq!(table[3..19], [0, 1].repeat(8));
    assert_eq!(guest.violations(), [""; 0]);
    // Closed in the wrong order.
    guest.close();
    assert_eq!(
        guest.violations(),
        ["a channel closed before its sub-channels"]
    );
    assert_eq!(guest.rescinded, [guest.relid + 1]);
}
