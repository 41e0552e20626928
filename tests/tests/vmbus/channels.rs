//! Offers, channels and their packets, and how they end.

use super::*;

#[test]
fn offers_come_before_and_after_the_mark_and_go() {
    let (sim, hv) = boot(|_| {});
    let early = add_echo(&sim, 1);
    sim.host().bus.add(Box::new(Silent {
        interface: interface::KVP,
        instance: [2; 16],
    }));
    sim.host().bus.add_late(Echo::new(3));
    let bus = connect(&hv);
    let first = offered(&bus);
    assert_eq!(first.to_string(), "scsi 1");
    assert_eq!(first.class(), Class::Block);
    assert_eq!(first.instance.0, [1; 16]);
    let kvp = offered(&bus);
    assert_eq!(
        (kvp.to_string().as_str(), kvp.class()),
        ("kvp 2", Class::Other)
    );
    sim.settle();
    assert_eq!(offered(&bus).instance.0, [3; 16]);
    assert_eq!(bus.poll(), Ok(None));
    // Hot plug, then hot unplug of something that nobody has open.
    let hot = add_echo(&sim, 4);
    sim.settle();
    let plugged = offered(&bus);
    assert_eq!(plugged.instance.0, [4; 16]);
    sim.host().bus.rescind(hot);
    sim.settle();
    assert_eq!(bus.poll(), Ok(Some(BusEvent::Gone(plugged.clone()))));
    assert_eq!(bus.poll(), Ok(None));
    sim.settle();
    // Its number was given back, and it comes again under another.
    assert_eq!(sim.host().bus.relid(hot), None);
    assert_eq!(bus.open(&plugged, 1, &[]).map(drop), Err(OpenError::Gone));
    sim.host().bus.offer_again(hot);
    sim.settle();
    assert_eq!(offered(&bus).instance, plugged.instance);
    assert!(sim.host().bus.relid(early).is_some());
    drop(bus);
    clean(&sim);
}

#[test]
fn packets_pass_both_ways() {
    let (sim, hv) = boot(|_| {});
    let id = add_echo(&sim, 1);
    let bus = connect(&hv);
    let mut channel = bus.open(&offered(&bus), 2, b"hello").unwrap();
    exchange(&sim, &mut channel, 500);
    // Memory that packets name: three pages, from byte 100 of the first.
    let platform = hv.platform();
    let pages = Pages::alloc(platform, 3).unwrap();
    pages.span().fill(1);
    let lent = hv.share(pages, 0, Access::ReadWrite).unwrap();
    let frames = (0..3).map(|i| lent.gfn(i).unwrap());
    let request = Outgoing::gpa_direct(77, &[0u64; 8], 100, 3 * 4096 - 200, frames);
    channel.send(request).unwrap();
    assert!(channel.flush());
    sim.settle();
    let mut into = [0; 1];
    let packet = channel.receive(&mut into).unwrap().unwrap();
    assert_eq!((packet.transaction_id, into[0]), (77, 3 * 4096 - 200));
    assert_eq!(channel.arm(), Ok(false));
    drop(hv.unshare(lent));
    // A packet of the host's own accord.
    let note = Packet {
        kind: Kind::InBand,
        transaction_id: 0,
        completion_requested: false,
        payload: vec![9; 8],
    };
    let device = |f: &mut dyn FnMut(&mut Echo)| {
        f(sim.host().bus.device_mut::<Echo>(id).unwrap());
    };
    device(&mut |echo| echo.answers.push_back(note.clone()));
    channel.take_pending();
    sim.settle();
    assert!(channel.take_pending());
    assert_eq!(channel.receive(&mut into).unwrap().unwrap().len, 8);
    assert_eq!(into, [0x0909_0909_0909_0909]);
    channel.close().unwrap();
    bus.disconnect().unwrap();
    clean(&sim);
}

#[test]
fn a_batch_takes_one_signal_and_one_interrupt() {
    let (sim, hv) = boot(|_| {});
    add_echo(&sim, 1);
    let bus = connect(&hv);
    let mut channel = bus.open(&offered(&bus), 4, &[]).unwrap();
    exchange(&sim, &mut channel, 1);
    let before = sim.host().counters();
    for id in 1..=32u64 {
        channel
            .send(Outgoing::in_band(id, &[id; 8]).ask_completion())
            .unwrap();
    }
    assert!(channel.flush());
    assert!(!channel.flush());
    sim.settle();
    let mut into = [0; 8];
    for id in 1..=32 {
        assert_eq!(
            channel.receive(&mut into).unwrap().unwrap().transaction_id,
            id
        );
    }
    assert_eq!(channel.receive(&mut into), Ok(None));
    assert_eq!(channel.arm(), Ok(false));
    let after = sim.host().counters();
    assert_eq!(after.signals - before.signals, 1);
    assert_eq!(after.all_hypercalls() - before.all_hypercalls(), 1);
    assert_eq!(after.events - before.events, 1);
    drop(channel);
    drop(bus);
    clean(&sim);
}

#[test]
fn full_rings_wait_for_room_both_ways() {
    for seed in 0..20 {
        let (sim, hv) = boot(|config| {
            config.shuffle = Some(seed);
            config.bus.shuffle = Some(seed);
        });
        add_echo(&sim, 1);
        let bus = connect(&hv);
        let mut channel = bus.open(&offered(&bus), 1, &[]).unwrap();
        let (mut sent, mut received) = (0u64, 0u64);
        let mut full = 0;
        while received < 300 {
            while sent < 300 {
                let payload = [sent; 40];
                let packet = Outgoing::in_band(sent + 1, &payload);
                match channel.send(packet.ask_completion()) {
                    Ok(()) => sent += 1,
                    Err(SendError::Full) => {
                        full += 1;
                        break;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            channel.flush();
            let token = hypercall::Platform::wait_token(hv.platform());
            let mut into = [0; 40];
            while let Some(packet) = channel.receive(&mut into).unwrap() {
                assert_eq!(packet.transaction_id, received + 1);
                assert_eq!(into, [received; 40]);
                received += 1;
            }
            if !channel.arm().unwrap() && received < 300 {
                // Whoever waits here for ever was not signalled.
                let until = hypercall::platform::deadline(hv.platform(), SECOND);
                hypercall::Platform::wait(hv.platform(), token, until);
                assert!(hypercall::Platform::now(hv.platform()) < until, "no signal");
            }
        }
        assert!(full > 0);
        drop(channel);
        drop(bus);
        clean(&sim);
    }
}

#[test]
fn rings_of_every_size_are_named_whole() {
    let (sim, hv) = SimHyperV::boot(4096, |_| {});
    add_echo(&sim, 1);
    let used = sim.ram().used_pages();
    let bus = connect(&hv);
    let offer = offered(&bus);
    // 26 frames fit the first message, 28 each of the others.
    for ring_pages in [1, 12, 13, 26, 27, 63, 1000] {
        let mut channel = bus.open(&offer, ring_pages, &[]).unwrap();
        assert_eq!(channel.free_bytes(), Ok(ring_pages as u32 * 4096 - 8));
        let pages = 2 * (ring_pages + 1);
        assert_eq!(sim.ram().used_pages(), used + pages);
        exchange(&sim, &mut channel, 5);
        assert_eq!(bus.open(&offer, 1, &[]).map(drop), Err(OpenError::InUse));
        channel.close().unwrap();
        assert_eq!(sim.ram().used_pages(), used);
        assert_eq!(sim.host().bus.gpadls(), 0);
    }
    for wrong in [0, 4095, usize::MAX] {
        assert_eq!(
            bus.open(&offer, wrong, &[]).map(drop),
            Err(OpenError::TooLarge)
        );
    }
    assert_eq!(
        bus.open(&offer, 1, &[0; 121]).map(drop),
        Err(OpenError::TooLarge)
    );
    assert_eq!(
        bus.open(&offer, 4000, &[]).map(drop),
        Err(OpenError::OutOfPages)
    );
    bus.open(&offer, 1, &[1; 120]).unwrap().close().unwrap();
    assert_eq!(sim.ram().used_pages(), used);
    drop(bus);
    clean(&sim);
}

#[test]
fn a_driver_can_leave_and_another_come() {
    let sim = SimHyperV::new(64, |_| {});
    add_echo(&sim, 1);
    for _ in 0..3 {
        let hv = sim.start();
        {
            let bus = connect(&hv);
            let mut channel = bus.open(&offered(&bus), 1, &[]).unwrap();
            exchange(&sim, &mut channel, 2);
        }
        drop(hv);
        assert_eq!(sim.ram().used_pages(), 0);
    }
    clean(&sim);
}

#[test]
fn a_rescinded_channel_ends_and_its_successor_works() {
    let (sim, hv) = boot(|_| {});
    let id = add_echo(&sim, 1);
    let used = sim.ram().used_pages();
    let bus = connect(&hv);
    let offer = offered(&bus);
    let mut channel = bus.open(&offer, 1, &[]).unwrap();
    exchange(&sim, &mut channel, 2);
    assert!(!channel.is_rescinded());
    channel.take_pending();
    sim.host().bus.rescind(id);
    sim.settle();
    assert!(channel.is_rescinded());
    // Whoever waits for the channel is told.
    assert!(channel.take_pending());
    assert_eq!(channel.check(), Err(HostFault::Withdrawn));
    assert_eq!(channel.receive(&mut [0; 1]), Err(HostFault::Withdrawn));
    let refused = channel.send(Outgoing::in_band(1, &0u64));
    assert_eq!(refused, Err(SendError::Fault(HostFault::Withdrawn)));
    assert_eq!(bus.poll(), Ok(Some(BusEvent::Gone(offer.clone()))));
    channel.close().unwrap();
    sim.settle();
    assert_eq!(sim.host().bus.relid(id), None);
    assert_eq!(sim.ram().used_pages(), used);
    sim.host().bus.offer_again(id);
    sim.settle();
    let mut channel = bus.open(&offered(&bus), 1, &[]).unwrap();
    exchange(&sim, &mut channel, 2);
    drop(channel);
    drop(bus);
    clean(&sim);
}

/// The host may take the device back after any of its messages.
#[test]
fn a_rescind_comes_at_any_moment() {
    for after in 0..12 {
        let (sim, hv) = boot(|_| {});
        let id = add_echo(&sim, 1);
        sim.host()
            .bus
            .hostile
            .add(Misdeed::RescindAfterMessage(after));
        let bus = connect(&hv);
        let used = sim.ram().used_pages();
        let offer = offered(&bus);
        match bus.open(&offer, 40, &[]) {
            Ok(mut channel) => {
                let _ = channel.send(Outgoing::in_band(1, &0u64).ask_completion());
                channel.flush();
                sim.settle();
                let _ = channel.receive(&mut [0; 1]);
                channel.close().unwrap();
            }
            Err(OpenError::Fault(HostFault::Withdrawn) | OpenError::Gone) => {}
            Err(other) => panic!("after {after}: {other}"),
        }
        sim.settle();
        while bus.poll().unwrap().is_some() {}
        assert_eq!(sim.ram().used_pages(), used, "after {after}");
        sim.settle();
        sim.host().bus.offer_again(id);
        sim.settle();
        if let Ok(Some(BusEvent::Offered(offer))) = bus.poll() {
            let mut channel = bus.open(&offer, 1, &[]).unwrap();
            exchange(&sim, &mut channel, 2);
        }
        drop(bus);
        clean(&sim);
    }
}

#[test]
fn channels_and_buses_cross_threads() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    is_send::<Channel<'_, '_>>();
    is_send::<Bus_<'_>>();
    is_sync::<Bus_<'_>>();
    is_sync::<SimDriver>();
}

#[test]
fn memory_is_lent_for_as_long_as_a_channel_is_open() {
    let (sim, hv) = boot(|_| {});
    add_echo(&sim, 1);
    let bus = connect(&hv);
    let mut channel = bus.open(&offered(&bus), 1, &[]).unwrap();
    let rings = sim.host().bus.gpadls();
    let mut loans = Vec::new();
    // One message names 26 frames; more take bodies.
    for pages in [1, 26, 27, 100] {
        let memory = Pages::alloc(hv.platform(), pages).unwrap();
        let lent = hv.share(memory, 0, Access::ReadWrite).unwrap();
        assert_ne!(channel.lend(&lent).unwrap(), 0);
        loans.push(lent);
        assert_eq!(sim.host().bus.gpadls(), rings + loans.len());
    }
    let one = loans.first().unwrap();
    assert_eq!(channel.lend(one), Err(OpenError::TooLarge), "four at most");
    exchange(&sim, &mut channel, 3);
    channel.close().unwrap();
    assert_eq!(sim.host().bus.gpadls(), 0);
    for lent in loans {
        assert!(hv.unshare(lent).is_ok());
    }
    bus.disconnect().unwrap();
    clean(&sim);
}
