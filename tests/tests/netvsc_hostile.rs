//! The network driver on a host that breaks the protocol: it fails or goes on, but never panics,
//! hangs or gives out bytes that are in no frame; and when the host behaves, it works again.

use netfront::{Net, NetQueue};
use proptest::prelude::*;
use pv_tests::hyperv::hostile::Misdeed;
use pv_tests::hyperv::netvsp::{NetMisdeed, nvsp, rndis};
use pv_tests::net::samples::{Flow, pattern};
use pv_tests::net::{Frame, Port};
use pv_tests::suite::net_lab::{NetLab, NetSetup};
use pv_tests::suite::{HyperVNetLab, SimNetvsc};

/// Numbers that are wrong in one way or another wherever they stand.
const VALUES: [u32; 6] = [0, 1, 7, 0x1_0000, 0x7fff_ffff, u32::MAX];
const RX_PAGES: usize = 64;
const RAM_PAGES: usize = 512;

/// Every n-th case under an interpreter.
fn some<T>(cases: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
    cases.into_iter().step_by(if cfg!(miri) { 97 } else { 1 })
}

fn frame(number: u8) -> Frame {
    let flow = Flow {
        tcp: false,
        ..Flow::tcp4()
    };
    flow.frame(&pattern(60 + usize::from(number) * 40, number.into()))
}

/// Whether the interface does what it should: a frame each way on every queue.
fn works(lab: &HyperVNetLab, net: &mut SimNetvsc<'_, '_>) {
    let mut line = lab.line();
    while line.receive().is_some() {}
    for n in 0..net.queues().len() {
        let queue = &mut net.queues()[n];
        let out = frame(n as u8);
        let mut room = queue.tx_reserve(out.bytes.len()).expect("room");
        room.write_at(0, &out.bytes).unwrap();
        queue.send(room).map_err(|(why, _)| why).expect("sent");
        queue.publish();
        while lab.step() {}
        assert_eq!(line.receive().expect("on the line").bytes, out.bytes);
    }
    line.send(frame(9));
    while lab.step() {}
    // What was on the line before comes first.
    let mut got = Vec::new();
    for queue in net.queues() {
        while let Some(frame) = queue.rx().expect("no fault") {
            let mut bytes = vec![0; frame.len()];
            frame.read_at(0, &mut bytes).unwrap();
            got.push(bytes);
        }
    }
    assert!(got.contains(&frame(9).bytes), "{} frames", got.len());
}

/// Traffic both ways until it fails or enough went by.
fn traffic(lab: &HyperVNetLab, net: &mut SimNetvsc<'_, '_>) {
    let mut line = lab.line();
    let longest = usize::from(net.capabilities().mtu) + 18;
    for n in 0..8 {
        for queue in net.queues() {
            if let Ok(mut room) = queue.tx_reserve(frame(n).bytes.len()) {
                room.write_at(0, &frame(n).bytes).unwrap();
                // Failed or full: it may.
                drop(queue.send(room));
            }
            queue.publish();
        }
        line.send(frame(n));
        let mut steps = 0;
        while lab.step() {
            steps += 1;
            assert!(steps < 200_000, "no end of it");
        }
        for queue in net.queues() {
            for taken in 0.. {
                assert!(taken < 1000, "no end of frames");
                match queue.rx() {
                    Ok(Some(frame)) => {
                        assert!(frame.len() <= longest, "a frame of {} bytes", frame.len());
                        let mut bytes = vec![0; frame.len()];
                        frame.read_at(0, &mut bytes).unwrap();
                    }
                    Ok(None) | Err(_) => break,
                }
            }
            while queue.event().is_some() {}
        }
    }
}

/// Puts the driver through all this. Whether it connected, and whether it failed then.
fn ordeal(misdeeds: &[NetMisdeed], ring: &[Misdeed]) -> (bool, bool) {
    let setup = NetSetup {
        queues: 2,
        rx_pages: RX_PAGES,
        tx_pages: 32,
        ..NetSetup::default()
    };
    let lab = HyperVNetLab::with_memory(RAM_PAGES, setup, |_| {});
    for misdeed in misdeeds {
        lab.adapter(|adapter| adapter.misbehave(*misdeed));
    }
    for misdeed in ring {
        lab.sim().host().bus.hostile.add(*misdeed);
    }
    let behave = || {
        lab.adapter(|adapter| adapter.behave());
        lab.sim().host().bus.hostile = Default::default();
    };
    lab.try_netvsc(setup.config(), |netvsc| match netvsc {
        Err(_) => {
            behave();
            (false, true)
        }
        Ok(net) => {
            traffic(&lab, net);
            let failed = net.fault().is_some();
            behave();
            lab.replug();
            net.reconnect().expect("a host that behaves");
            works(&lab, net);
            (true, failed)
        }
    })
}

/// The same; and when it did not connect, it does once the host behaves.
fn case(misdeeds: &[NetMisdeed]) -> (bool, bool) {
    ordeal(misdeeds, &[])
}

#[test]
fn a_good_host_is_no_ordeal() {
    assert_eq!(case(&[]), (true, false));
}

#[test]
fn answers_of_nvsp_with_any_word_wrong() {
    use nvsp::message::*;
    let kinds = [
        INIT_COMPLETE,
        SEND_RECEIVE_BUFFER_COMPLETE,
        SEND_SEND_BUFFER_COMPLETE,
        SEND_RNDIS_PACKET,
        SEND_RNDIS_PACKET_COMPLETE,
        SUB_CHANNEL,
        SEND_INDIRECTION_TABLE,
    ];
    let words = (0..8).flat_map(|word| VALUES.map(|value| (word, value)));
    let all = words
        .flat_map(|(word, value)| kinds.map(|kind| NetMisdeed::NvspWord { kind, word, value }));
    let mut refused = 0;
    for misdeed in some(all) {
        let (connected, _) = case(&[misdeed]);
        refused += usize::from(!connected);
    }
    assert!(refused > 0, "nothing of it matters");
    for kind in some(kinds) {
        case(&[NetMisdeed::NvspNever(kind)]);
        for bytes in [0, 4, 8, 12, 16] {
            case(&[NetMisdeed::NvspCut { kind, bytes }]);
        }
    }
}

#[test]
fn answers_of_rndis_with_any_word_wrong() {
    let kinds = [
        rndis::message::INITIALIZE,
        rndis::message::QUERY,
        rndis::message::SET,
    ]
    .map(|kind| kind | rndis::message::COMPLETE);
    let words = (0..14).flat_map(|word| VALUES.map(|value| (word, value)));
    let all = words
        .flat_map(|(word, value)| kinds.map(|kind| NetMisdeed::ControlWord { kind, word, value }));
    for misdeed in some(all) {
        case(&[misdeed]);
    }
    for kind in some(kinds) {
        assert!(!case(&[NetMisdeed::ControlNever(kind)]).0);
        assert!(case(&[NetMisdeed::ControlTwice(kind)]).0);
        case(&[NetMisdeed::ControlLate(kind)]);
        for bytes in [0, 4, 8, 12, 16, 24] {
            case(&[NetMisdeed::ControlCut { kind, bytes }]);
        }
    }
}

#[test]
fn frames_with_any_word_of_their_header_wrong() {
    let words = (0..20).flat_map(|word| VALUES.map(|value| (word, value)));
    let all = words.map(|(word, value)| NetMisdeed::FrameWord {
        frame: 2,
        word,
        value,
    });
    let mut failed = 0;
    for misdeed in some(all) {
        let (connected, failure) = case(&[misdeed]);
        assert!(connected);
        failed += usize::from(failure);
    }
    assert!(cfg!(miri) || failed > 20, "{failed} of them matter");
}

#[test]
fn transfers_that_name_what_is_not_there() {
    // Where a frame is among the transfers depends on how many questions the driver asks.
    let bytes = RX_PAGES as u32 * 4096;
    for packet in some(0..16) {
        for (offset, length) in [
            (bytes, 100),
            (bytes - 10, 100),
            (u32::MAX, 100),
            (0, u32::MAX),
            (u32::MAX - 50, 100),
            (3, 200),
            (0, 0),
            (0, 7),
            (0, bytes),
        ] {
            case(&[NetMisdeed::Range {
                packet,
                range: 0,
                offset,
                bytes: length,
            }]);
        }
        for count in [0, 2, 5, 375, 376, 0xffff, u32::MAX] {
            case(&[NetMisdeed::RangeCount { packet, count }]);
        }
        case(&[NetMisdeed::Set { packet, set: 0 }]);
        case(&[NetMisdeed::Overlap { packet }]);
    }
}

#[test]
fn completions_that_come_wrong_or_twice_or_never() {
    for completion in some(0..24) {
        for id in [0, 1, 2, 0xffff, 1 << 62, 1 << 63, u64::MAX] {
            case(&[NetMisdeed::CompletionId { completion, id }]);
        }
        case(&[NetMisdeed::CompletionTwice { completion }]);
        case(&[NetMisdeed::CompletionNever { completion }]);
    }
}

#[test]
fn news_without_end() {
    for status in [0x4001_000b, 0x4001_000c, 0x4001_0018, 0xdead] {
        let count = if cfg!(miri) { 100 } else { 20_000 };
        let (connected, failed) = case(&[NetMisdeed::Indications { count, status }]);
        assert!(connected && !failed, "status {status:#x}");
    }
}

#[test]
fn rings_that_are_spoiled() {
    for packet in some(0..20) {
        for misdeed in [
            Misdeed::RescindAfterPacket(packet),
            Misdeed::TransactionId { packet, id: 0x77 },
            Misdeed::Replay { packet },
            Misdeed::CutPacket { packet, bytes: 4 },
            Misdeed::InBand { packet },
            Misdeed::Descriptor {
                packet,
                offset8: 0,
                length8: 2,
            },
            Misdeed::Descriptor {
                packet,
                offset8: 2,
                length8: u16::MAX,
            },
            Misdeed::WriteIndex { packet, value: 4 },
            Misdeed::WriteIndex {
                packet,
                value: u32::MAX,
            },
        ] {
            ordeal(&[], &[misdeed]);
        }
    }
}

fn any_misdeed() -> impl Strategy<Value = NetMisdeed> {
    use NetMisdeed as M;
    let value = prop_oneof![
        any::<u32>(),
        0..0x2000u32,
        prop::sample::select(&VALUES[..])
    ];
    let word = 0..24usize;
    prop_oneof![
        (
            prop::sample::select(&[2u32, 102, 105, 107, 108, 133, 134][..]),
            word.clone(),
            value.clone()
        )
            .prop_map(|(kind, word, value)| M::NvspWord { kind, word, value }),
        (2..9u32, word.clone(), value.clone()).prop_map(|(kind, word, value)| M::ControlWord {
            kind: kind | 0x8000_0000,
            word,
            value
        }),
        (0..10u64, word, value.clone()).prop_map(|(frame, word, value)| M::FrameWord {
            frame,
            word,
            value
        }),
        (0..30u64, 0..3usize, value.clone(), value.clone()).prop_map(
            |(packet, range, offset, bytes)| M::Range {
                packet,
                range,
                offset,
                bytes
            }
        ),
        (0..30u64, value.clone()).prop_map(|(packet, count)| M::RangeCount { packet, count }),
        (0..60u64, any::<u64>()).prop_map(|(completion, id)| M::CompletionId { completion, id }),
        (0..60u64).prop_map(|completion| M::CompletionTwice { completion }),
        (0..30u64).prop_map(|packet| M::Overlap { packet }),
        (0..500u32, value).prop_map(|(count, status)| M::Indications { count, status }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 100 }))]

    /// Several of them at once.
    #[test]
    fn misdeeds_of_every_kind_together(plan in prop::collection::vec(any_misdeed(), 1..6)) {
        case(&plan);
    }
}
