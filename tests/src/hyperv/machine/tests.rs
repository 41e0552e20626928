//! The whole host against a guest written by hand.

use super::*;
use crate::disk::{Latency, MemDisk};
use crate::hyperv::abi::version;
use crate::hyperv::channel::Silent;
use crate::hyperv::flat::FlatMemory;
use crate::hyperv::hand_guest::{GPADL, HandGuest};
use crate::hyperv::hostile::Misdeed;
use crate::hyperv::scsi::Lun;
use crate::hyperv::storvsp::{Address, Storvsp, StorvspConfig};
use crate::hyperv::vmbus_server::DeviceId;
use std::sync::{Arc, Mutex};

const WRITE_2: [u8; 10] = [0x2a, 0, 0, 0, 0, 6, 0, 0, 2, 0];
const READ_2: [u8; 10] = [0x28, 0, 0, 0, 0, 6, 0, 0, 2, 0];

fn with_disk(
    config: HostConfig,
    storvsp: StorvspConfig,
) -> (HandGuest, DeviceId, Arc<Mutex<MemDisk>>) {
    let disk = Arc::new(Mutex::new(MemDisk::new(2048, 512)));
    let mut scsi = Storvsp::new(storvsp);
    scsi.attach(Address::lun(0), Lun::disk(Box::new(disk.clone()), 1));
    scsi.attach(Address::lun(3), Lun::dvd());
    let mut guest = HandGuest::new(config);
    let id = guest.host.bus.add(Box::new(scsi));
    (guest, id, disk)
}

fn ready(config: HostConfig, storvsp: StorvspConfig) -> (HandGuest, DeviceId, Arc<Mutex<MemDisk>>) {
    let (mut guest, id, disk) = with_disk(config, storvsp);
    guest.contact(version::V5_3);
    assert_eq!(guest.offers(), [1]);
    guest.open(1);
    guest.storvsp_init(1, 0x0602);
    (guest, id, disk)
}

fn clean(guest: &HandGuest) {
    assert_eq!(guest.host.counters().violations, Vec::<String>::new());
}

#[test]
fn every_version_carries_a_disk() {
    for (version, storvsp) in version::ALL
        .iter()
        .zip([0x602, 0x600, 0x501, 0x402, 0x200].iter().cycle())
    {
        // Miri takes its time: the oldest and the newest version will do.
        if cfg!(miri) && ![version::V6_0, version::V2_4].contains(version) {
            continue;
        }
        for shuffle in if cfg!(miri) {
            vec![Some(1)]
        } else {
            vec![None, Some(1), Some(2)]
        } {
            let mut config = HostConfig {
                shuffle,
                ..HostConfig::default()
            };
            config.bus.shuffle = shuffle;
            let (mut guest, id, disk) = with_disk(config, StorvspConfig::default());
            assert_eq!(guest.contact(*version)[0] & 0xff, 1);
            assert_eq!(guest.offers(), [1]);
            guest.open(1);
            guest.storvsp_init(1, *storvsp);
            assert!(guest.host.bus.is_open(id));
            guest.set_data(&[0xa5; 1024]);
            assert_eq!(guest.execute(1, 0, &WRITE_2, 1024, 0), (1, 1024, 0));
            assert_eq!(guest.execute(1, 0, &[0x35], 0, 0), (1, 0, 0));
            assert_eq!(
                disk.lock().unwrap().durable()[6 * 512..8 * 512],
                [0xa5; 1024]
            );
            guest.set_data(&[0; 1024]);
            assert_eq!(guest.execute(1, 0, &READ_2, 1024, 1), (1, 1024, 0));
            assert_eq!(guest.data(1024), [0xa5; 1024]);
            assert_eq!(
                guest
                    .execute(1, 0, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0], 64, 1)
                    .1,
                24
            );
            assert_eq!(
                guest.execute(1, 9, &[0x12, 0, 0, 0, 36, 0], 36, 1),
                (1, 36, 0)
            );
            assert_eq!(guest.data(1), [0x7f]);
            assert_eq!(guest.execute(1, 9, &[0x00], 0, 0).0, 0x20);
            guest.tell(7, &1u32.to_le_bytes());
            guest.tell(11, &[1u32.to_le_bytes(), GPADL.to_le_bytes()].concat());
            assert_eq!(guest.expect(12), [GPADL]);
            guest.tell(16, &[]);
            guest.expect(17);
            assert_eq!(
                (guest.host.bus.version(), guest.host.bus.gpadls()),
                (None, 0)
            );
            clean(&guest);
        }
    }
}

#[test]
fn an_old_host_refuses_new_versions_and_has_no_new_port() {
    let mut config = HostConfig::default();
    config.bus.max_version = version::V4_0;
    let (mut guest, ..) = with_disk(config.clone(), StorvspConfig::default());
    guest.post_to = 4;
    assert_eq!(
        guest.tell(14, &[0; 32]),
        status::INVALID_CONNECTION_ID.into()
    );
    assert_eq!(guest.contact(version::V4_1)[0] & 0xff, 0);
    assert_eq!(guest.contact(version::V4_0)[0] & 0xff, 1);
    config.bus.max_version = version::V6_0;
    config.bus.refused_versions = vec![version::V6_0, version::V5_3];
    config.bus.failing_posts = (2, status::INSUFFICIENT_BUFFERS);
    let (mut guest, ..) = with_disk(config, StorvspConfig::default());
    assert_eq!(guest.tell(3, &[]), status::INSUFFICIENT_BUFFERS.into());
    assert_eq!(guest.tell(3, &[]), status::INSUFFICIENT_BUFFERS.into());
    assert_eq!(guest.contact(version::V6_0)[0] & 0xff, 0);
    assert_eq!(guest.contact(version::V5_3)[0] & 0xff, 0);
    let answer = guest.contact(version::V5_2);
    assert_eq!((answer[0] & 0xff, answer[1]), (1, 0x8004));
    guest.post_to = 0x8005;
    assert_eq!(guest.tell(3, &[]), status::INVALID_CONNECTION_ID.into());
    clean(&guest);
}

#[test]
fn storvsp_negotiates_downwards_and_insists_on_order() {
    let config = StorvspConfig {
        max_version: 0x0501,
        ..StorvspConfig::default()
    };
    let (mut guest, ..) = with_disk(HostConfig::default(), config);
    guest.contact(version::V5_3);
    guest.offers();
    guest.open(1);
    assert_eq!(guest.storvsp(1, 7, &[]).0, 0);
    for newer in [0x0602u16, 0x0600, 0x0777] {
        assert_eq!(guest.storvsp(1, 9, &newer.to_le_bytes()).0, 0xc000_0059);
    }
    assert_eq!(guest.storvsp(1, 9, &0x0501u16.to_le_bytes()).0, 0);
    clean(&guest);
    assert_eq!(
        guest.storvsp(1, 8, &[]).0,
        0xc000_0184,
        "END before QUERY_PROPERTIES"
    );
    let (status, properties) = guest.storvsp(1, 10, &[]);
    assert_eq!(
        (status, &properties[12..16]),
        (0, &(512 * 1024u32).to_le_bytes()[..])
    );
    assert_eq!(guest.storvsp(1, 8, &[]).0, 0);
    assert_eq!(guest.host.counters().violations.len(), 1);
}

#[test]
fn late_offers_hot_add_rescind_and_offer_again() {
    let (mut guest, disk, _) = with_disk(HostConfig::default(), StorvspConfig::default());
    let silent = |n: u8| {
        Box::new(Silent {
            interface: [n; 16],
            instance: [n; 16],
        })
    };
    guest.host.bus.add(silent(1));
    guest.host.bus.add_late(silent(2));
    guest.contact(version::V4_0);
    assert_eq!(guest.offers(), [1, 2]);
    assert_eq!(guest.expect(1)[176 / 4], 3, "after the mark");
    guest.host.bus.add(silent(3));
    guest.settle();
    assert_eq!(guest.expect(1)[..4], [0x0303_0303; 4]);
    guest.open(1);
    guest.host.bus.rescind(disk);
    guest.settle();
    assert_eq!(guest.expect(2), [1]);
    // What crosses the rescind is taken quietly; the ring is not touched any more.
    guest.put(6, 1, &[], &[0; 64]);
    guest.signal(1);
    guest.tell(7, &1u32.to_le_bytes());
    guest.tell(11, &[1u32.to_le_bytes(), GPADL.to_le_bytes()].concat());
    assert_eq!(guest.expect(12), [GPADL]);
    guest.tell(13, &1u32.to_le_bytes());
    assert_eq!(guest.host.bus.relid(disk), None);
    guest.host.bus.offer_again(disk);
    guest.settle();
    let relid = guest.expect(1)[176 / 4];
    assert_eq!(guest.host.bus.relid(disk), Some(relid));
    guest.open(relid);
    guest.storvsp_init(relid, 0x0602);
    clean(&guest);
}

#[test]
fn completions_out_of_order_each_exactly_once() {
    let latency = Latency {
        min_steps: 0,
        max_steps: 9,
        out_of_order: true,
    };
    let (mut guest, ..) = ready(
        HostConfig::default(),
        StorvspConfig {
            latency,
            seed: 3,
            ..Default::default()
        },
    );
    for id in 1..=20 {
        guest.srb(1, id, 0, &READ_2, 1024, 1);
    }
    guest.settle();
    let mut ids: Vec<u64> = std::iter::from_fn(|| guest.get())
        .map(|(_, id, _)| id)
        .collect();
    assert_ne!(ids, (1..=20).collect::<Vec<_>>());
    ids.sort_unstable();
    assert_eq!(ids, (1..=20).collect::<Vec<_>>());
    // One signal for the first; the host had not looked away since.
    assert_eq!(guest.host.counters().signals, 4 + 1);
    guest.srb(1, 0, 0, &READ_2, 1024, 1);
    guest.settle();
    assert_eq!(guest.get(), None, "transaction 0 is never answered");
    clean(&guest);
}

#[test]
fn unplugged_units_answer_everything_and_say_so() {
    let (mut guest, id, _) = ready(HostConfig::default(), StorvspConfig::default());
    guest
        .host
        .bus
        .device_mut::<Storvsp>(id)
        .unwrap()
        .stall(true);
    (1..=3).for_each(|id| guest.srb(1, id, 0, &READ_2, 1024, 1));
    guest.settle();
    let scsi = guest.host.bus.device_mut::<Storvsp>(id).unwrap();
    assert_eq!(scsi.in_flight(), 3);
    scsi.detach_all();
    scsi.stall(false);
    guest.settle();
    let (kind, id, payload) = guest.get().unwrap();
    assert_eq!((kind, id, payload[0]), (6, 0, 11), "ENUMERATE_BUS, unasked");
    for wanted in 1..=3 {
        let (_, id, payload) = guest.get().unwrap();
        assert_eq!((id, payload[14]), (wanted, 0x20));
    }
    clean(&guest);
}

#[test]
fn a_full_ring_holds_completions_back_until_there_is_room() {
    for flow_control in [true, false] {
        if cfg!(miri) && !flow_control {
            continue;
        }
        let mut config = HostConfig::default();
        config.bus.flow_control = flow_control;
        let (mut guest, id, _) = ready(config, StorvspConfig::default());
        guest
            .host
            .bus
            .device_mut::<Storvsp>(id)
            .unwrap()
            .stall(true);
        // 160 completions of 88 bytes do not fit into 12288.
        for id in 1..=160 {
            guest.srb(1, id, 0, &[0x00], 0, 0);
            if id % 32 == 0 {
                guest.settle();
            }
        }
        guest
            .host
            .bus
            .device_mut::<Storvsp>(id)
            .unwrap()
            .stall(false);
        guest.settle();
        let wanted = guest.host.memory().load_u32(12 * 4096 + 12).unwrap();
        assert_eq!(wanted, if flow_control { 88 } else { 0 });
        let mut seen = 0;
        for _ in 0..10 {
            while guest.get().is_some() {
                seen += 1;
            }
            if flow_control {
                guest.signal(1);
            }
            guest.settle();
        }
        assert_eq!(seen, 160);
        clean(&guest);
    }
}

#[test]
fn faults_of_the_guest_are_refused_and_noted() {
    let (mut guest, ..) = ready(HostConfig::default(), StorvspConfig::default());
    guest.tell(3, &[]);
    guest.tell(99, &[]);
    guest.tell(11, &[1u32.to_le_bytes(), 5u32.to_le_bytes()].concat());
    assert_eq!(guest.expect(12), [5]);
    assert_eq!(guest.host.counters().violations.len(), 3);
    assert_eq!(
        guest.host.hypercall(0x1005d, 0x2001 | 1 << 32, 0),
        status::INVALID_PARAMETER.into()
    );
    assert_eq!(
        guest.host.hypercall(0x1005d, 77, 0),
        status::INVALID_CONNECTION_ID.into()
    );
    assert_eq!(
        guest.host.hypercall(0x5c, 4 * 4096 + 4, 0),
        status::INVALID_ALIGNMENT.into()
    );
    assert_eq!(
        guest.host.hypercall(0x5c, 4 * 4096 + 4000, 0),
        status::INVALID_ALIGNMENT.into()
    );
    assert_eq!(
        guest.host.hypercall(0x1005c, 0, 0),
        status::INVALID_HYPERCALL_INPUT.into()
    );
    assert_eq!(
        guest.host.hypercall(0x77, 0, 0),
        status::INVALID_HYPERCALL_CODE.into()
    );
    // A write index beyond the ring stops the channel, and only it.
    guest.host.memory().store_u32(8 * 4096, 99999).unwrap();
    guest.signal(1);
    guest.settle();
    assert_eq!(guest.host.counters().violations.len(), 4);
    guest.tell(7, &1u32.to_le_bytes());
    guest.tell(11, &[1u32.to_le_bytes(), GPADL.to_le_bytes()].concat());
    guest.expect(12);
    guest.open(1);
    guest.storvsp_init(1, 0x0600);
}

#[test]
fn misdeeds_happen_when_planned() {
    let (mut guest, id, _) = with_disk(HostConfig::default(), StorvspConfig::default());
    guest.host.bus.hostile.add(Misdeed::IgnoreContact);
    guest.tell(14, &[&version::V4_0.to_le_bytes()[..], &[0; 28]].concat());
    assert!(guest.messages.is_empty());

    let (mut guest, ..) = ready(HostConfig::default(), StorvspConfig::default());
    let next = guest.host.bus.hostile.packets();
    for misdeed in [
        Misdeed::Replay { packet: next },
        Misdeed::TransactionId {
            packet: next + 1,
            id: 0xdead,
        },
        Misdeed::CutPacket {
            packet: next + 2,
            bytes: 8,
        },
        Misdeed::TransferLength {
            packet: next + 3,
            bytes: 1 << 30,
        },
        Misdeed::WriteIndex {
            packet: next + 4,
            value: 0xffff_fff8,
        },
    ] {
        guest.host.bus.hostile.add(misdeed);
    }
    let mut got = |id| {
        guest.srb(1, id, 0, &READ_2, 1024, 1);
        guest.settle();
        guest.get()
    };
    assert_eq!(
        got(1).unwrap().1,
        500 + 8,
        "the last id of the handshake again"
    );
    assert_eq!(got(2).unwrap().1, 0xdead);
    assert_eq!(got(3).unwrap().2.len(), 8);
    assert_eq!(got(4).unwrap().2[24..28], (1u32 << 30).to_le_bytes());
    guest.srb(1, 5, 0, &READ_2, 1024, 1);
    guest.settle();
    assert_eq!(
        guest.host.memory().load_u32(12 * 4096).unwrap(),
        0xffff_fff8
    );

    let (mut guest2, ..) = ready(HostConfig::default(), StorvspConfig::default());
    let next = guest2.host.bus.hostile.packets();
    guest2
        .host
        .bus
        .hostile
        .add(Misdeed::RescindAfterPacket(next + 1));
    assert_eq!(guest2.execute(1, 0, &READ_2, 1024, 1).0, 1);
    guest2.srb(1, 2, 0, &READ_2, 1024, 1);
    guest2.settle();
    assert_eq!(guest2.expect(2), [1]);
    assert!(!guest2.host.bus.is_open(id));
}

#[test]
fn registers_obey_their_privileges() {
    let memory = FlatMemory::new(8);
    let config = HostConfig {
        cpuid: cpuid::plain_kvm(),
        ..HostConfig::default()
    };
    let mut host = HyperVHost::new(&memory, config);
    assert_eq!(host.rdmsr(msr::TIME_REF_COUNT), Err(GeneralProtection));
    assert_eq!(host.wrmsr(msr::GUEST_OS_ID, 1), Err(GeneralProtection));

    let mut host = HyperVHost::new(&memory, HostConfig::default());
    host.wrmsr(msr::HYPERCALL, 4096 | 1).unwrap();
    assert_eq!(
        host.rdmsr(msr::HYPERCALL).unwrap() & 1,
        0,
        "no identity, no page"
    );
    host.wrmsr(msr::GUEST_OS_ID, 0x8100 << 48).unwrap();
    host.wrmsr(msr::HYPERCALL, 4096 | 1).unwrap();
    assert_eq!(memory.load_u32(4096).unwrap(), 0xc3c1_010f);
    host.advance(1_000_000);
    host.wrmsr(msr::REFERENCE_TSC, 8192 | 1).unwrap();
    let scale = memory.load_u64(8192 + 8).unwrap();
    let from_tsc = (u128::from(host.tsc()) * u128::from(scale)) >> 64;
    let reference = host.rdmsr(msr::TIME_REF_COUNT).unwrap();
    assert_eq!(reference, 10_000);
    assert!(u128::from(reference) - from_tsc <= 1);
    memory.write(0, b"oops").unwrap();
    for (msr, value) in [(0x4000_0100, 1), (0x4000_0103, 0), (0x4000_0104, 4)] {
        host.wrmsr(msr, value).unwrap();
    }
    host.wrmsr(msr::CRASH_CTL, CRASH_NOTIFY | CRASH_MESSAGE)
        .unwrap();
    let crash = host.crash().unwrap();
    assert_eq!(
        (crash.parameters[0], crash.message.as_deref()),
        (1, Some(&b"oops"[..]))
    );
    host.wrmsr(msr::RESET, 1).unwrap();
    assert!(host.reset_requested());
}
