//! Hosts that break the protocol.

use super::*;

#[test]
fn cut_messages_are_faults_of_the_bus() {
    let (sim, hv) = boot(|_| {});
    add_echo(&sim, 1);
    let bus = connect(&hv);
    let offer = offered(&bus);
    sim.host().bus.hostile.add(Misdeed::CutMessage {
        kind: message::GPADL_CREATED,
        bytes: 15,
    });
    let error = OpenError::Fault(HostFault::Malformed);
    assert_eq!(bus.open(&offer, 1, &[]).map(drop), Err(error));
    assert_eq!(bus.poll(), Err(HostFault::Malformed));
}

#[test]
fn odd_messages_do_no_harm() {
    let misdeeds = [
        Misdeed::RepeatMessage(message::OFFER_CHANNEL),
        Misdeed::RepeatMessage(message::GPADL_CREATED),
        Misdeed::RepeatMessage(message::OPEN_RESULT),
        Misdeed::RepeatMessage(message::GPADL_TORNDOWN),
        Misdeed::RepeatMessage(message::VERSION_RESPONSE),
        Misdeed::RepeatMessage(message::ALL_OFFERS_DELIVERED),
    ];
    for misdeed in misdeeds {
        let (sim, hv) = boot(|_| {});
        add_echo(&sim, 1);
        sim.host().bus.hostile.add(misdeed);
        let bus = connect(&hv);
        let offer = offered(&bus);
        assert_eq!(bus.poll(), Ok(None), "{misdeed:?}");
        for _ in 0..2 {
            let mut channel = bus.open(&offer, 1, &[]).unwrap();
            exchange(&sim, &mut channel, 2);
            channel.close().unwrap();
        }
        drop(bus);
        clean(&sim);
    }
}

/// A channel's number that is no event flag.
#[test]
fn wild_channel_numbers_are_left_out() {
    for wild in [0, 2048, u32::MAX] {
        let (sim, hv) = boot(|_| {});
        add_echo(&sim, 1);
        sim.host().bus.hostile.add(Misdeed::WrongId {
            kind: message::OFFER_CHANNEL,
            id: wild,
        });
        let bus = connect(&hv);
        assert_eq!(bus.poll(), Ok(None));
    }
}

#[test]
fn wild_rings_are_faults_of_the_channel_alone() {
    let (sim, hv) = boot(|_| {});
    add_echo(&sim, 1);
    add_echo(&sim, 2);
    let used = sim.ram().used_pages();
    let bus = connect(&hv);
    let (first, second) = (offered(&bus), offered(&bus));
    let mut good = bus.open(&second, 1, &[]).unwrap();
    for value in [4, 4096, u32::MAX] {
        let mut bad = bus.open(&first, 1, &[]).unwrap();
        let packet = sim.host().bus.hostile.packets();
        sim.host()
            .bus
            .hostile
            .add(Misdeed::WriteIndex { packet, value });
        bad.send(Outgoing::in_band(1, &0u64).ask_completion())
            .unwrap();
        bad.flush();
        sim.settle();
        assert_eq!(bad.receive(&mut [0; 1]), Err(HostFault::RingIndex));
        assert_eq!(bad.receive(&mut [0; 1]), Err(HostFault::RingIndex));
        exchange(&sim, &mut good, 2);
        bad.close().unwrap();
    }
    drop(good);
    assert_eq!(sim.ram().used_pages(), used);
}
