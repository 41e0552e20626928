//! The guest-to-host ring, looked at from the host's end.

use super::*;

#[test]
fn packets_lie_as_the_protocol_says() {
    let mut ring = Sender::new(memory(2)).unwrap();
    let payload = [0x0807_0605_0403_0201u64, 9];
    ring.send(Outgoing::in_band(5, &payload)).unwrap();
    let frames = [0x111, 0x222].into_iter();
    ring.send(Outgoing::gpa_direct(6, &payload, 4000, 200, frames))
        .unwrap();
    // Twelve bytes are padded to two words.
    let odd = [0xffu8; 12];
    ring.send(Outgoing::in_band(7, &odd).ask_completion())
        .unwrap();
    ring.send(Outgoing::completion(8, &payload)).unwrap();
    let memory = ring.memory().span();
    assert_eq!(memory.load_u32(0), Ok(0));
    assert_eq!(memory.load_u32(64), Ok(1));
    assert!(ring.publish());
    assert!(!ring.publish());
    let host = HostEnd::new(ring.memory());
    assert_eq!(
        host.take().unwrap(),
        [first(6, 2, 4, 0), 5, payload[0], 9, 0]
    );
    assert_eq!(
        host.take().unwrap(),
        [
            first(9, 6, 8, 1),
            6,
            1 << 32,
            200 | 4000 << 32,
            0x111,
            0x222,
            payload[0],
            9,
            40 << 32
        ]
    );
    let padded = [first(6, 2, 4, 1), 7, u64::MAX, 0xffff_ffff, 112 << 32];
    assert_eq!(host.take().unwrap(), padded);
    assert_eq!(host.take().unwrap()[0], first(11, 2, 4, 0));
    assert_eq!(host.take(), None);
}

#[test]
fn a_signal_is_for_an_empty_and_unmasked_ring() {
    let mut ring = Sender::new(memory(2)).unwrap();
    let mut send = |mask: u32, drain: bool| {
        HostEnd::new(ring.memory()).set(8, mask);
        if drain {
            while HostEnd::new(ring.memory()).take().is_some() {}
        }
        ring.send(Outgoing::in_band(1, &0u64)).unwrap();
        ring.publish()
    };
    assert!(send(0, false));
    assert!(!send(0, false));
    assert!(send(0, true));
    assert!(!send(1, true));
    assert!(send(0, true));
}

#[test]
fn a_full_ring_asks_for_room() {
    let mut ring = Sender::new(memory(2)).unwrap();
    let payload = [1u64; 64];
    // 4096 - 8 bytes hold seven packets of 536 bytes.
    for _ in 0..7 {
        ring.send(Outgoing::in_band(1, &payload)).unwrap();
    }
    assert_eq!(ring.free_bytes(), Ok(4088 - 7 * 536));
    assert_eq!(
        ring.send(Outgoing::in_band(1, &payload)),
        Err(SendError::Full)
    );
    let host_asked = |ring: &Sender<Hosted<Alone>>| HostEnd::new(ring.memory()).get(12);
    assert_eq!(host_asked(&ring), 536);
    ring.publish();
    assert!(HostEnd::new(ring.memory()).take().is_some());
    ring.send(Outgoing::in_band(1, &payload)).unwrap();
    assert_eq!(host_asked(&ring), 0);
    // What never fits is said so, and asks for nothing.
    let large = [0u64; 512];
    assert_eq!(
        ring.send(Outgoing::in_band(1, &large)),
        Err(SendError::TooLarge)
    );
    assert_eq!(host_asked(&ring), 0);
    let all = Outgoing::gpa_direct(1, &0u64, 0, u32::MAX, core::iter::repeat(1));
    assert_eq!(ring.send(all), Err(SendError::TooLarge));
}

#[test]
fn frames_must_fit_their_range() {
    let mut ring = Sender::new(memory(2)).unwrap();
    let send = |ring: &mut Sender<_>, offset, bytes, frames: &[u64]| {
        let frames = frames.iter().copied();
        ring.send(Outgoing::gpa_direct(1, &0u64, offset, bytes, frames))
    };
    assert_eq!(send(&mut ring, 4096, 1, &[1]), Err(SendError::BadRange));
    assert_eq!(send(&mut ring, 4095, 2, &[1]), Err(SendError::BadRange));
    assert!(!ring.publish());
    assert_eq!(send(&mut ring, 4095, 2, &[1, 2]), Ok(()));
    assert!(ring.publish());
}

#[test]
#[cfg_attr(miri, ignore = "half a megabyte of frames takes minutes")]
fn a_packet_can_be_as_long_as_its_length_says() {
    // 1 MiB of ring: room is no reason to write a length that does not fit its 16 bits.
    let mut ring = Sender::new(memory(257)).unwrap();
    let longest = 65535 - 2;
    let frames = || core::iter::repeat(1);
    let bytes = |pages: u32| pages * 4096;
    let fits = Outgoing::gpa_direct(1, &0u64, 0, bytes(longest - 3), frames());
    assert_eq!(ring.send(fits), Ok(()));
    let over = Outgoing::gpa_direct(1, &0u64, 0, bytes(longest - 2), frames());
    assert_eq!(ring.send(over), Err(SendError::TooLarge));
    assert_eq!(ring.send(Outgoing::in_band(2, &0u64)), Ok(()));
}

#[test]
fn wild_read_indices_are_faults() {
    for (wild, sent) in [(4096, 1), (4, 1), (u32::MAX, 1), (64, 1), (4088, 0)] {
        let mut ring = Sender::new(memory(2)).unwrap();
        for _ in 0..sent {
            ring.send(Outgoing::in_band(1, &0u64)).unwrap();
        }
        ring.publish();
        HostEnd::new(ring.memory()).set(4, wild);
        assert_eq!(ring.free_bytes(), Err(HostFault::RingIndex), "{wild}");
        // Latched: a good index does not heal it.
        HostEnd::new(ring.memory()).set(4, 0);
        let refused = Err(SendError::Fault(HostFault::RingIndex));
        assert_eq!(ring.send(Outgoing::in_band(1, &0u64)), refused);
    }
}

#[test]
fn requests_and_answers_of_fixed_length_are_the_same_packets() {
    let mut ring = Sender::new(memory(2)).unwrap();
    let host_memory = ring.memory().span().len();
    assert_eq!(host_memory, 8192);
    for round in 0..40u64 {
        let payload = [round, 2, 3, 4];
        // Across the end it takes the long way.
        if !ring.send_request(round + 1, &payload) {
            let packet = Outgoing::in_band(round + 1, &payload).ask_completion();
            ring.send(packet).unwrap();
        }
        let mut put = false;
        ring.send_answers(|answers| put = answers.put(99, &[round]));
        if !put {
            ring.send(Outgoing::completion(99, &[round])).unwrap();
        }
        assert_eq!(ring.is_read(), Ok(true), "nothing was published");
        ring.publish();
        assert_eq!(ring.is_read(), Ok(false));
        let host = HostEnd::new(ring.memory());
        let request = host.take().unwrap();
        assert_eq!(request[..6], [first(6, 2, 6, 1), round + 1, round, 2, 3, 4]);
        let answer = host.take().unwrap();
        assert_eq!(answer[..3], [first(11, 2, 3, 0), 99, round]);
        assert_eq!(ring.is_read(), Ok(true));
    }
}
