//! The network driver on hosts of every habit: what differs is the host's to choose, and frames
//! get through all the same.

use netfront::{Net, NetQueue, RxChecksum};
use pv_tests::hyperv::netvsp::offload::Offloads;
use pv_tests::hyperv::netvsp::{NetvspConfig, NoRoom, nvsp::version};
use pv_tests::net::samples::{Flow, pattern};
use pv_tests::net::{Frame, Port};
use pv_tests::suite::net_lab::{NetLab, NetSetup};
use pv_tests::suite::{HyperVNetLab, SimNetvsc};

fn lab(change: impl FnOnce(&mut NetvspConfig)) -> HyperVNetLab {
    let setup = NetSetup {
        queues: 2,
        rx_pages: 64,
        tx_pages: 64,
        ..NetSetup::default()
    };
    HyperVNetLab::with_memory(1024, setup, change)
}

fn settle(lab: &HyperVNetLab) {
    while lab.step() {}
}

/// Everything that there is to receive on any queue, with what the host says of its checksum.
fn receive(net: &mut SimNetvsc<'_, '_>) -> Vec<(Vec<u8>, RxChecksum)> {
    let mut got = Vec::new();
    for queue in net.queues() {
        while let Some(frame) = queue.rx().expect("no fault") {
            let mut bytes = vec![0; frame.len()];
            frame.read_at(0, &mut bytes).unwrap();
            got.push((bytes, frame.meta().checksum));
        }
    }
    got
}

fn flow(n: u16) -> Flow {
    Flow {
        source: (1, 1000 + n),
        ..Flow::tcp4()
    }
}

/// Frames of three sizes both ways, and nothing to complain of.
fn works(lab: &HyperVNetLab) {
    lab.run_netvsc(|net| {
        let mut line = lab.line();
        for (n, len) in [(0, 10), (1, 700), (2, 1460)] {
            let frame = flow(n).frame(&pattern(len, n.into()));
            for queue in net.queues() {
                let mut room = queue.tx_reserve(frame.bytes.len()).expect("room");
                room.write_at(0, &frame.bytes).unwrap();
                queue.send(room).map_err(|(why, _)| why).expect("sent");
                queue.publish();
                settle(lab);
                assert_eq!(line.receive().map(|f| f.bytes), Some(frame.bytes.clone()));
                line.send(frame.clone());
            }
            settle(lab);
            let got = receive(net);
            assert_eq!(got.len(), net.queues().len());
            assert!(got.iter().all(|(bytes, _)| *bytes == frame.bytes));
        }
    });
    assert_eq!(lab.violations(), [""; 0]);
}

#[test]
fn sections_and_headers_of_any_size() {
    for (section, data_at, whole) in [
        (Some(1728), 200, false),
        (Some(1728), 200, true),
        (Some(4096), 60, false),
        (Some(16384), 1000, true),
        (None, 44, false),
        (None, 256, true),
    ] {
        works(&lab(|config| {
            config.section_bytes = section;
            config.data_at = data_at;
            config.whole_section = whole;
        }));
    }
}

#[test]
fn send_sections_of_any_size() {
    for bytes in [6144, 2048, 1 << 16, 1000, 8] {
        works(&lab(|config| config.send_section_bytes = bytes));
    }
}

#[test]
fn versions_with_and_without_what_came_later() {
    for newest in version::ALL {
        for offloads in [Offloads::ALL, Offloads::default()] {
            let lab = lab(|config| {
                config.versions = vec![newest];
                config.offloads = offloads;
            });
            works(&lab);
        }
    }
}

#[test]
fn batches_of_any_size() {
    for batch in [1, 2, 3, 375] {
        let lab = lab(|config| config.batch = batch);
        lab.run_netvsc(|net| {
            let mut line = lab.line();
            let total = if cfg!(miri) { 20 } else { 400 };
            let frame = |n: u16| flow(0).frame(&n.to_le_bytes());
            (0..total).for_each(|n| line.send(frame(n)));
            let mut got = Vec::new();
            while got.len() < usize::from(total) {
                settle(&lab);
                let more = receive(net);
                assert!(!more.is_empty(), "{} of {total} came", got.len());
                got.extend(more);
            }
            for (n, (bytes, _)) in (0..).zip(&got) {
                assert_eq!(*bytes, frame(n).bytes);
            }
        });
        assert_eq!(lab.violations(), [""; 0]);
    }
}

#[test]
fn what_a_host_drops_for_want_of_sections_is_all_that_is_lost() {
    let lab = lab(|config| config.no_room = NoRoom::Drop);
    lab.run_netvsc(|net| {
        let mut line = lab.line();
        let total = 600;
        for n in 0..total {
            line.send(flow(0).frame(&u16::to_le_bytes(n)));
        }
        settle(&lab);
        let got = receive(net);
        let dropped = lab.adapter(|adapter| adapter.stats().dropped);
        assert!(dropped > 0 && got.len() > 50, "{} came", got.len());
        assert_eq!(got.len() as u64 + dropped, u64::from(total));
    });
    works(&lab);
}

#[test]
fn checksums_that_nobody_filled_in_are_blank() {
    let lab = lab(|config| config.blank_checksums = true);
    lab.run_netvsc(|net| {
        let mut line = lab.line();
        let partial = flow(0).partial(b"never on a wire");
        line.send(partial.clone());
        settle(&lab);
        assert_eq!(receive(net), [(partial.bytes, RxChecksum::Blank)]);
        // What came over a wire was looked at by the host, or by nobody.
        let whole = flow(0).frame(b"from afar");
        let seen = Frame {
            checksum: pv_tests::net::Checksum::Verified,
            ..whole.clone()
        };
        line.send(seen);
        line.send(whole.clone());
        settle(&lab);
        let want = [RxChecksum::Good, RxChecksum::Unchecked];
        assert_eq!(receive(net), want.map(|said| (whole.bytes.clone(), said)));
    });
    assert_eq!(lab.violations(), [""; 0]);
}

#[test]
fn checksums_that_are_wrong_are_told_of() {
    let lab = lab(|config| config.verify_checksums = true);
    lab.run_netvsc(|net| {
        let mut line = lab.line();
        for tcp in [true, false] {
            let frame = Flow { tcp, ..flow(0) }.frame(b"some bytes");
            let mut spoiled = frame.clone();
            *spoiled.bytes.last_mut().unwrap() ^= 1;
            line.send(frame.clone());
            line.send(spoiled.clone());
            settle(&lab);
            let want = [
                (frame.bytes, RxChecksum::Good),
                (spoiled.bytes, RxChecksum::Bad),
            ];
            assert_eq!(receive(net), want);
        }
    });
    works(&lab);
}

#[test]
fn a_host_that_asks_whether_the_guest_lives_is_told_so() {
    let lab = lab(|_| {});
    lab.run_netvsc(|net| {
        for n in 1..=if cfg!(miri) { 1 } else { 20 } {
            lab.adapter(|adapter| adapter.keep_alive());
            settle(&lab);
            assert!(receive(net).is_empty());
            settle(&lab);
            assert!(receive(net).is_empty());
            settle(&lab);
            assert_eq!(lab.adapter(|adapter| adapter.stats().keepalives), n);
        }
    });
    works(&lab);
}

#[test]
fn every_frame_is_counted_back_after_ten_thousand() {
    let lab = lab(|_| {});
    lab.run_netvsc(|net| {
        let mut line = lab.line();
        let rounds = if cfg!(miri) { 2 } else { 500 };
        for _ in 0..rounds {
            for n in 0..20 {
                line.send(flow(n).frame(&pattern(usize::from(n) * 60, n.into())));
            }
            settle(&lab);
            assert_eq!(receive(net).len(), 20);
        }
        settle(&lab);
        assert_eq!(net.buffers_out(), 0);
        assert_eq!(lab.adapter(|adapter| adapter.stats().sections_out), 0);
    });
    assert_eq!(lab.violations(), [""; 0]);
}
