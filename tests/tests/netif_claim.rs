//! Received frames whose memory is taken back from the back end, over simulated Xen.

use netfront::{ClaimError, Net};
use pv_tests::net::samples::{Flow, pattern};
use pv_tests::net::{Frame, Port};
use pv_tests::suite::net_lab::{NetLab, NetSetup};
use pv_tests::suite::{HyperVNetLab, XenNetLab};

fn settle(lab: &impl NetLab) {
    for _ in 0..300 {
        lab.step();
    }
}

/// Has the host deliver a frame, and takes it.
fn receive(lab: &impl NetLab, net: &mut dyn Net, frame: Frame) -> netfront::RxFrame {
    lab.line().send(frame);
    settle(lab);
    let queue = net.queue(0).unwrap();
    queue.rx().unwrap().expect("a frame")
}

#[test]
fn a_claimed_frame_is_borrowed_and_costs_two_grants_and_no_copy() {
    let lab = XenNetLab::new(NetSetup::default());
    lab.run(|net| {
        let before = net.queue(0).unwrap().stats().copied;
        for round in 0..1000u64 {
            let bytes = pattern(60 + round as usize, round);
            let frame = receive(&lab, net, Frame::new(bytes.clone()));
            let mut claimed = net.queue(0).unwrap().claim(frame).expect("it let go");
            assert_eq!(claimed.as_slice(), Some(&bytes[..]));
            assert_eq!(claimed.len(), bytes.len());
            claimed.pieces_mut().for_each(|piece| piece.fill(0));
            assert!(claimed.pieces().flatten().all(|byte| *byte == 0));
            assert_eq!(net.buffers_out(), 1);
            drop(claimed);
            assert_eq!(net.buffers_out(), 0);
        }
        let queue = net.queue(0).unwrap();
        assert_eq!(queue.stats().copied, before);
        assert_eq!(queue.rx().unwrap().map(drop), None);
    });
    assert_eq!(lab.violations(), [""; 0]);
}

#[test]
fn the_back_end_cannot_reach_a_claimed_frame() {
    let lab = XenNetLab::new(NetSetup::default());
    lab.run(|net| {
        let granted = || lab.sim().host().granted().len();
        let all = granted();
        let long = Flow::tcp4().long(&pattern(20_000, 5), 1400);
        let frame = receive(&lab, net, long.clone());
        let claimed = net.queue(0).unwrap().claim(frame).expect("it let go");
        let pages = claimed.pieces().count();
        assert!(pages > 4 && claimed.as_slice().is_none());
        assert_eq!(granted(), all - pages);
        let bytes: Vec<u8> = claimed.pieces().flatten().copied().collect();
        assert_eq!(bytes, long.bytes);
        assert!(claimed.meta().segmentation.is_some());
        // Held over any amount of traffic, which goes on in other pages.
        for round in 0..600 {
            drop(receive(&lab, net, Frame::new(pattern(1514, round))));
        }
        assert!(claimed.pieces().flatten().eq(&long.bytes));
        assert_eq!(granted(), all - pages);
        drop(claimed);
        assert!(net.queue(0).unwrap().rx().unwrap().is_none());
        assert_eq!((granted(), net.buffers_out()), (all, 0));
    });
    assert_eq!(lab.violations(), [""; 0]);
}

#[test]
fn claimed_frames_that_use_all_memory_are_received_into_again() {
    let lab = XenNetLab::new(NetSetup {
        rx_pages: 64,
        ..NetSetup::default()
    });
    lab.run(|net| {
        for round in 0..5 {
            let mut held = Vec::new();
            for n in 0..100 {
                lab.line().send(Frame::new(pattern(100 + n, round)));
            }
            settle(&lab);
            for _ in 0..300 {
                let queue = net.queue(0).unwrap();
                match queue.rx().unwrap() {
                    Some(frame) => held.push(queue.claim(frame).expect("it let go")),
                    None => _ = lab.step(),
                }
            }
            assert_eq!(held.len(), 64, "every page is held");
            for (n, claimed) in held.iter().enumerate() {
                assert_eq!(claimed.as_slice(), Some(&pattern(100 + n, round)[..]));
            }
            drop(held);
            let mut rest = 64;
            for _ in 0..1000 {
                match net.queue(0).unwrap().rx().unwrap() {
                    Some(_) => rest += 1,
                    None => _ = lab.step(),
                }
            }
            assert_eq!((rest, net.buffers_out()), (100, 0));
        }
    });
    assert_eq!(lab.violations(), [""; 0]);
}

#[test]
fn a_frame_the_back_end_holds_on_to_is_given_back() {
    let lab = XenNetLab::new(NetSetup::default());
    lab.run(|net| {
        let granted = || lab.sim().host().granted().len();
        let all = granted();
        lab.sim().host().hostile().hold_grants = true;
        let long = Flow::tcp4().long(&pattern(9000, 2), 1400);
        let frame = receive(&lab, net, long.clone());
        let (why, frame) = net.queue(0).unwrap().claim(frame).unwrap_err();
        assert_eq!(
            (why, frame.len()),
            (ClaimError::StillInUse, long.bytes.len())
        );
        assert_eq!(granted(), all, "none of its pages was taken back");
        let mut bytes = vec![0; frame.len()];
        frame.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, long.bytes);
        lab.sim().host().hostile().hold_grants = false;
        drop(frame);
    });
}

#[test]
fn a_claimed_frame_outlives_its_connection() {
    let lab = XenNetLab::new(NetSetup::default());
    lab.run(|net| {
        let granted = || lab.sim().host().granted().len();
        let all = granted();
        let bytes = pattern(1400, 9);
        let frame = receive(&lab, net, Frame::new(bytes.clone()));
        let claimed = net.queue(0).unwrap().claim(frame).expect("it let go");
        net.reconnect().unwrap();
        drop(receive(&lab, net, Frame::new(pattern(100, 1))));
        assert_eq!(claimed.as_slice(), Some(&bytes[..]));
        assert_eq!((granted(), net.buffers_out()), (all - 1, 1));
        drop(claimed);
        net.reconnect().unwrap();
        drop(receive(&lab, net, Frame::new(pattern(100, 1))));
        assert_eq!((granted(), net.buffers_out()), (all, 0));
    });
    assert_eq!(lab.violations(), [""; 0]);
}

#[test]
fn a_frame_of_another_queue_is_given_back() {
    let lab = XenNetLab::new(NetSetup {
        queues: 2,
        ..NetSetup::default()
    });
    lab.run(|net| {
        assert_eq!(net.capabilities().queues, 2);
        for n in 0..50 {
            let mut flow = Flow::tcp4();
            flow.source.1 = 1000 + n;
            lab.line().send(flow.frame(b"whose?"));
        }
        settle(&lab);
        for (one, other) in [(0, 1), (1, 0)] {
            let frame = net.queue(one).unwrap().rx().unwrap().expect("a frame");
            let (why, frame) = net.queue(other).unwrap().claim(frame).unwrap_err();
            assert_eq!(why, ClaimError::OtherQueue);
            assert!(net.queue(one).unwrap().claim(frame).is_ok());
        }
    });
}

#[test]
fn hyperv_gives_the_frame_back() {
    let lab = HyperVNetLab::new(NetSetup::default());
    lab.run(|net| {
        let mut flow = Flow::tcp4();
        flow.to = lab.mac();
        let frame = receive(&lab, net, flow.frame(&pattern(700, 4)));
        let (why, frame) = net.queue(0).unwrap().claim(frame).unwrap_err();
        assert_eq!(why, ClaimError::Unsupported);
        assert_eq!(frame.len(), flow.headers() + 700);
    });
}
