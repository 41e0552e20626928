//! The net suite: every promise of [`netfront::Net`] about frames, whichever host is below.

use super::net_lab::{NetLab, NetSetup};
use crate::net::samples::{Flow, pattern};
use crate::net::{Cable, Checksum, Frame, Port, Segment, finish};
use netfront::{
    Ip, Net, NetQueue, Offloads, Protocol, ReserveError, RxChecksum, RxFrame, Segmentation,
    SendError, Transport, TxFrame,
};

/// More host actions, and more waits, than anything here needs.
pub(super) const PATIENCE: usize = 200_000;

/// Checksums of both transports over one version of IP, which Xen's hosts offer as one.
pub(super) const V4: Offloads = Offloads::CHECKSUM_TCP_V4.union(Offloads::CHECKSUM_UDP_V4);
/// See [`V4`].
pub(super) const V6: Offloads = Offloads::CHECKSUM_TCP_V6.union(Offloads::CHECKSUM_UDP_V6);

/// One flow of each kind.
pub(super) fn flows() -> [Flow; 4] {
    let all = [(false, true), (true, true), (false, false), (true, false)];
    all.map(|(v6, tcp)| Flow {
        v6,
        tcp,
        ..Flow::tcp4()
    })
}

/// The frame as a wire carries it: nothing left undone, nothing said about it.
pub(super) fn on_the_wire(frame: Frame) -> Vec<Vec<u8>> {
    let done = finish(frame, Default::default());
    done.into_iter().map(|frame| frame.bytes).collect()
}

/// What a frame needs done, as offloads.
pub(super) fn needs(frame: &Frame) -> Offloads {
    let mut needs = Offloads::empty();
    if let Checksum::Partial { offset, .. } = frame.checksum {
        let v6 = frame.bytes[12] == 0x86;
        needs |= match (v6, offset) {
            (false, 16) => Offloads::CHECKSUM_TCP_V4,
            (false, _) => Offloads::CHECKSUM_UDP_V4,
            (true, 16) => Offloads::CHECKSUM_TCP_V6,
            (true, _) => Offloads::CHECKSUM_UDP_V6,
        };
    }
    match frame.segment {
        Some(Segment { v6: false, .. }) => needs |= Offloads::SEGMENT_V4,
        Some(Segment { v6: true, .. }) => needs |= Offloads::SEGMENT_V6,
        None => {}
    }
    needs
}

/// Writes a frame and what is to be done to it.
pub(super) fn fill(into: &mut TxFrame, frame: &Frame) {
    assert_eq!(into.len(), frame.bytes.len());
    into.write_at(0, &frame.bytes).unwrap();
    let ip = |v6| if v6 { Ip::V6 } else { Ip::V4 };
    if let Checksum::Partial { start, offset } = frame.checksum {
        into.meta.checksum = Some(Transport {
            ip: ip(frame.bytes[12] == 0x86),
            protocol: if offset == 16 {
                Protocol::Tcp
            } else {
                Protocol::Udp
            },
            start,
        });
    }
    into.meta.segmentation = frame.segment.map(|segment| Segmentation {
        ip: ip(segment.v6),
        mss: segment.mss,
    });
}

/// Room for a frame, filled.
pub(super) fn reserve(queue: &mut dyn NetQueue, frame: &Frame) -> Result<TxFrame, ReserveError> {
    let mut room = queue.tx_reserve(frame.bytes.len())?;
    fill(&mut room, frame);
    Ok(room)
}

/// Queues a frame, waiting for room. It is not shown to the host until there is none.
pub(super) fn send(queue: &mut dyn NetQueue, frame: &Frame) {
    for _ in 0..PATIENCE {
        match reserve(queue, frame) {
            Ok(room) => match queue.send(room) {
                Ok(()) => return,
                Err((SendError::Full, _)) => {}
                Err((why, _)) => panic!("not sent: {why}"),
            },
            Err(ReserveError::Full) => {}
            Err(why) => panic!("no room: {why}"),
        }
        queue.publish();
        let until = queue.now() + 1_000_000;
        queue.pause(until);
    }
    panic!("there is never room");
}

/// A received frame as the line would carry it: finished by what its metadata says.
pub(super) fn read(frame: &RxFrame) -> Frame {
    let mut bytes = vec![0; frame.len()];
    frame.read_at(0, &mut bytes).unwrap();
    let meta = frame.meta();
    assert_ne!(meta.checksum, RxChecksum::Bad);
    let checksum = match meta.checksum {
        RxChecksum::Blank => {
            let headers = crate::net::Headers::find(&bytes).expect("blank, so there is one");
            Checksum::Partial {
                start: headers.transport as u16,
                offset: (headers.checksum().unwrap() - headers.transport) as u16,
            }
        }
        RxChecksum::Good => Checksum::Verified,
        _ => Checksum::InFrame,
    };
    Frame {
        bytes,
        checksum,
        segment: meta.segmentation.map(|segment| Segment {
            v6: segment.ip == Ip::V6,
            mss: segment.mss,
        }),
        vlan: meta.vlan.map(|tag| tag.0),
        hash: None,
    }
}

/// Receives frames until there are `count`, and keeps none.
pub(super) fn receive(queue: &mut dyn NetQueue, count: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    for _ in 0..PATIENCE {
        while let Some(frame) = queue.rx().expect("no fault") {
            frames.push(read(&frame));
        }
        if frames.len() >= count {
            return frames;
        }
        let until = queue.now() + 1_000_000;
        queue.pause(until);
    }
    panic!("{} of {count} frames came", frames.len());
}

/// Lets the host do all it has to do.
pub(super) fn settle(lab: &impl NetLab) {
    for _ in 0..PATIENCE {
        if !lab.step() {
            return;
        }
    }
    panic!("the host does not come to rest");
}

/// Shows the host what was sent, and takes what came of it off the line.
pub(super) fn arrivals(
    lab: &impl NetLab,
    queue: &mut dyn NetQueue,
    line: &mut Cable,
) -> Vec<Frame> {
    queue.publish();
    settle(lab);
    std::iter::from_fn(|| line.receive()).collect()
}

/// A UDP packet that says which it is, in a frame of `len` bytes, 50 at least.
pub(super) fn numbered(number: u32, len: usize) -> Frame {
    let flow = Flow {
        tcp: false,
        ..Flow::tcp4()
    };
    let mut payload = number.to_le_bytes().to_vec();
    payload.extend(pattern(len - flow.headers() - 4, u64::from(number)));
    flow.frame(&payload)
}

/// The number in a frame of [`numbered`], its bytes checked.
pub(super) fn number(frame: &Frame) -> u32 {
    let number = u32::from_le_bytes(frame.bytes[42..46].try_into().unwrap());
    let expected = numbered(number, frame.bytes.len());
    assert!(frame.bytes == expected.bytes, "frame {number} is not whole");
    number
}

/// Sends one frame each way and sees it arrive.
pub(super) fn works(lab: &impl NetLab, net: &mut dyn Net, line: &mut Cable) {
    let queue = net.queue(0).unwrap();
    send(queue, &numbered(77, 90));
    let sent = arrivals(lab, queue, line);
    assert_eq!(sent.iter().map(number).collect::<Vec<_>>(), [77]);
    line.send(numbered(78, 91));
    let mut got = Vec::new();
    for _ in 0..PATIENCE {
        for n in 0.. {
            let Some(queue) = net.queue(n) else { break };
            while let Some(frame) = queue.rx().expect("no fault") {
                got.push(number(&read(&frame)));
            }
        }
        if !got.is_empty() {
            break;
        }
        let queue = net.queue(0).unwrap();
        // Who has not heard the news does not wait.
        while queue.event().is_some() {}
        queue.pause(queue.now() + 1_000_000);
    }
    assert_eq!(got, [78]);
}

/// The interface has the address, the packet size and the queues that its host gave it.
pub fn says_what_it_is<L: NetLab>() {
    for (mtu, queues) in [(1500, 1), (9000, 2), (576, 1)] {
        let lab = L::new(NetSetup {
            mtu,
            queues,
            ..NetSetup::default()
        });
        lab.run(|net| {
            let capabilities = *net.capabilities();
            assert_eq!(capabilities.mac.0, lab.mac());
            assert_eq!((capabilities.mtu, capabilities.queues), (mtu, queues));
            assert!(capabilities.link);
            assert!(capabilities.tx.contains(Offloads::SEGMENT_V4 | V4));
            assert!(capabilities.max_segmented >= 60_000);
            assert!(net.queue(usize::from(queues) - 1).is_some());
            assert!(net.queue(usize::from(queues)).is_none());
            for hash in [0, 1, 0x1234_5678, u32::MAX] {
                assert!(net.queue_for(hash) < usize::from(queues));
            }
            assert_eq!(net.queue(0).unwrap().capabilities().mac, capabilities.mac);
            assert_eq!(net.fault(), None);
            works(&lab, net, &mut lab.line());
        });
        assert_eq!(lab.violations(), [""; 0]);
    }
}

/// Frames of every length go both ways unchanged, up to the packet size and no longer.
pub fn moves_every_size<L: NetLab>() {
    for mtu in if cfg!(miri) {
        vec![1500]
    } else {
        vec![1500, 9000]
    } {
        let lab = L::new(NetSetup {
            mtu,
            ..NetSetup::default()
        });
        lab.run(|net| {
            let mut line = lab.line();
            let queue = net.queue(0).unwrap();
            let longest = usize::from(mtu) + 14;
            let mut sizes = vec![14, 15, 59, 60, 64, 1000, 1513, 1514];
            sizes.extend(
                [4095, 4096, 4097, 8192, 9013]
                    .iter()
                    .filter(|&&len| len < longest),
            );
            sizes.push(longest);
            if !cfg!(miri) {
                sizes.extend(14..300);
            }
            for len in sizes {
                let mut frame = Frame::new(pattern(len, len as u64));
                // No kind of Ethernet that anyone looks into.
                frame.bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
                frame.bytes[..6].copy_from_slice(&lab.mac());
                send(queue, &frame);
                let sent = arrivals(&lab, queue, &mut line);
                assert!(
                    sent.len() == 1 && sent[0].bytes == frame.bytes,
                    "{len} bytes out"
                );
                line.send(frame.clone());
                let got = receive(queue, 1);
                assert!(
                    got.len() == 1 && got[0].bytes == frame.bytes,
                    "{len} bytes in"
                );
            }
            // With its tag, a frame of the longest packet is four bytes longer.
            let mut tagged = Frame::new(pattern(longest + 4, 1));
            tagged.bytes[12..16].copy_from_slice(&[0x81, 0, 0, 5]);
            send(queue, &tagged);
            assert_eq!(arrivals(&lab, queue, &mut line).len(), 1);
            for len in [0, 1, 13, longest + 1, 65_535] {
                let Ok(mut room) = queue.tx_reserve(len) else {
                    continue;
                };
                room.write_at(0, &vec![0; len]).unwrap();
                let (why, room) = queue.send(room).expect_err("of that length");
                assert_eq!((why, room.len()), (SendError::BadLength, len));
            }
            assert!(queue.tx_reserve(1 << 20).is_err());
            let stats = queue.stats();
            assert_eq!(stats.tx_frames, stats.rx_frames + 1);
            assert_eq!((stats.tx_errors, stats.rx_dropped), (0, 0));
        });
        assert_eq!(lab.violations(), [""; 0]);
    }
}

/// Checksums and segments are left to the host, or are not, as both agreed; frames arrive right
/// either way. What was not agreed on is refused and comes back.
pub fn offloads_in_every_combination<L: NetLab>() {
    let kinds = [V4, V6, Offloads::SEGMENT_V4, Offloads::SEGMENT_V6];
    let choose = |bits: u32| -> Offloads {
        let chosen = kinds.iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1);
        chosen.map(|(_, &kind)| kind).collect()
    };
    for bits in 0..if cfg!(miri) { 1 } else { 31 } {
        // First all that are asked are offered or not, then the other way round.
        let (offered, asked) = match bits {
            0..16 => (choose(bits), Offloads::all()),
            _ => (Offloads::all(), choose(bits - 16)),
        };
        offloads(
            &L::new(NetSetup {
                offered,
                asked,
                ..NetSetup::default()
            }),
            offered & asked,
        );
    }
}

fn offloads<L: NetLab>(lab: &L, mut agreed: Offloads) {
    if !agreed.contains(V4) {
        agreed.remove(Offloads::SEGMENT_V4);
    }
    if !agreed.contains(V6) {
        agreed.remove(Offloads::SEGMENT_V6);
    }
    lab.run(|net| {
        let mut line = lab.line();
        let capabilities = *net.capabilities();
        assert_eq!(capabilities.tx - Offloads::VLAN, agreed - Offloads::VLAN);
        let queue = net.queue(0).unwrap();
        for flow in flows() {
            let mut frames = vec![flow.frame(b"done"), flow.partial(b"to be done")];
            if flow.tcp {
                for (len, mss) in [(1000, 500), (4000, 1400), (20_000, 1420), (60_000, 536)] {
                    frames.push(flow.long(&pattern(len, len as u64), mss));
                }
            }
            for frame in frames {
                let wire = on_the_wire(frame.clone());
                if capabilities.tx.contains(needs(&frame)) {
                    send(queue, &frame);
                    let sent = arrivals(lab, queue, &mut line);
                    let sent: Vec<_> = sent.into_iter().flat_map(on_the_wire).collect();
                    assert!(sent == wire, "{:?} out", needs(&frame));
                } else if let Ok(room) = reserve(queue, &frame) {
                    let (why, room) = queue.send(room).expect_err("not agreed");
                    let allowed = [SendError::Unsupported, SendError::BadLength];
                    assert!(allowed.contains(&why), "{why:?}");
                    assert_eq!(room.len(), frame.bytes.len());
                }
                line.send(frame.clone());
                settle(lab);
                let got = receive(queue, 1);
                for got in &got {
                    let (may, has) = (capabilities.rx, needs(got));
                    assert!(may.contains(has), "{has:?} in, of {may:?}");
                }
                let got: Vec<_> = got.into_iter().flat_map(on_the_wire).collect();
                let lengths = |all: &[Vec<u8>]| all.iter().map(Vec::len).collect::<Vec<_>>();
                assert_eq!(lengths(&got), lengths(&wire), "{:?} in", needs(&frame));
                assert!(got == wire, "{:?} in", needs(&frame));
            }
        }
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// What cannot be sent comes back, with the reason, and does no harm.
pub fn refuses_nonsense<L: NetLab>() {
    let lab = L::new(NetSetup {
        queues: 2,
        ..NetSetup::default()
    });
    lab.run(|net| {
        let mut line = lab.line();
        let flow = Flow::tcp4();
        let foreign = net.queue(1).unwrap().tx_reserve(60).unwrap();
        let queue = net.queue(0).unwrap();
        let (why, foreign) = queue.send(foreign).expect_err("of the other queue");
        assert_eq!(why, SendError::OtherQueue);
        drop(foreign);
        let good = flow.long(&pattern(3000, 1), 1000);
        let change: [fn(&mut TxFrame); 5] = [
            |f| f.meta.segmentation = None,
            |f| f.meta.checksum = None,
            |f| f.meta.segmentation.as_mut().unwrap().mss = 0,
            |f| f.meta.checksum.as_mut().unwrap().start = 60_000,
            |f| f.truncate(40),
        ];
        for (n, change) in change.into_iter().enumerate() {
            let mut room = reserve(queue, &good).unwrap();
            change(&mut room);
            let len = room.len();
            let (why, room) = queue.send(room).expect_err("nonsense");
            let expected = [SendError::BadLength, SendError::Unsupported];
            assert!(expected.contains(&why), "case {n}: {why:?}");
            assert_eq!(room.len(), len);
            drop(room);
        }
        assert!(arrivals(&lab, queue, &mut line).is_empty());
        works(&lab, net, &mut line);
        assert_eq!(net.queue(0).unwrap().stats().tx_frames, 1);
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// A full ring refuses frames and gives them back; when there is room again all of them arrive,
/// once, in order.
pub fn fills_up<L: NetLab>() {
    let lab = L::new(NetSetup::default());
    lab.run(|net| {
        let mut line = lab.line();
        let queue = net.queue(0).unwrap();
        lab.stall(true);
        let mut count = 0;
        let refused = loop {
            assert!(count < 10_000, "never full");
            match reserve(queue, &numbered(count, 80)) {
                Ok(room) => match queue.send(room) {
                    Ok(()) => count += 1,
                    Err((why, room)) => {
                        assert_eq!(why, SendError::Full);
                        break Some(room);
                    }
                },
                Err(why) => {
                    assert_eq!(why, ReserveError::Full);
                    break None;
                }
            }
        };
        assert!(count >= 16, "full after {count}");
        let mut sent = arrivals(&lab, queue, &mut line);
        assert_eq!(queue.in_flight(), count as usize);
        lab.stall(false);
        settle(&lab);
        assert_eq!(queue.in_flight(), 0);
        match refused {
            Some(room) => {
                let mut bytes = vec![0; room.len()];
                room.read_at(0, &mut bytes).unwrap();
                assert!(bytes == numbered(count, 80).bytes, "came back changed");
                queue.send(room).map_err(|(why, _)| why).expect("room now");
            }
            None => send(queue, &numbered(count, 80)),
        }
        sent.extend(arrivals(&lab, queue, &mut line));
        let numbers: Vec<_> = sent.iter().map(number).collect();
        assert_eq!(numbers, (0..=count).collect::<Vec<_>>());
        // Room that is reserved and never sent comes back, too.
        let mut held = Vec::new();
        while let Ok(room) = queue.tx_reserve(1514) {
            held.push(room);
            assert!(held.len() < 10_000, "endless room");
        }
        let all = held.len();
        drop(held);
        let held: Vec<_> = std::iter::from_fn(|| queue.tx_reserve(1514).ok()).collect();
        assert_eq!(held.len(), all);
        drop(held);
        assert_eq!(queue.stats().tx_frames, u64::from(count) + 1);
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// Whoever keeps what he received until the host has nothing left to receive into gets the rest
/// when he lets go, and nothing is lost.
pub fn starves_and_recovers<L: NetLab>() {
    let lab = L::new(NetSetup::default());
    lab.run(|net| {
        let mut line = lab.line();
        let total: u32 = if cfg!(miri) { 200 } else { 2000 };
        for n in 0..total {
            line.send(numbered(n, 1514));
        }
        let queue = net.queue(0).unwrap();
        let (mut held, mut got) = (Vec::new(), Vec::new());
        let mut starved = 0;
        for _ in 0..PATIENCE {
            settle(&lab);
            let before = held.len();
            while let Some(frame) = queue.rx().expect("no fault") {
                got.push(number(&read(&frame)));
                held.push(frame);
            }
            if got.len() == total as usize {
                break;
            }
            if held.len() == before {
                starved += 1;
                // Frames that were kept are still what they were.
                for (frame, n) in held.iter().rev().zip(got.iter().rev()) {
                    assert_eq!(number(&read(frame)), *n);
                }
                held.clear();
            }
        }
        assert!(starved > 0, "there was always room");
        assert!(
            got == (0..total).collect::<Vec<_>>(),
            "lost or out of order"
        );
        drop(held);
        works(&lab, net, &mut line);
        assert_eq!(net.queue(0).unwrap().stats().rx_dropped, 0);
    });
    assert_eq!(lab.violations(), [""; 0]);
}
