//! What is particular to Hyper-V's storage: versions, several disks on one controller, lengths
//! the host tells, and news it sends unasked.

use blkfront::blocking::{Disk, DiskError};
use blkfront::storvsc::abi::Version;
use blkfront::storvsc::{Config, Storvsc};
use blkfront::{Block, IoError, Queue, Request, SubmitError};
use hypercall::HostFault;
use hypercall::bus::{Bus, BusEvent};
use pv_tests::disk::MemDisk;
use pv_tests::hyperv::scsi::{Fault, Lun, Sense};
use pv_tests::hyperv::storvsp::{Address, Storvsp, StorvspConfig};
use pv_tests::hyperv::vmbus_server::DeviceId;
use pv_tests::sim_hyperv::{Platform, SimHyperV};
use vmbus::VmBus;

type Driver<'b, 'h> = Queue<Storvsc<'b, 'h, Platform, SimHyperV>>;

/// Opens the controller on a fresh machine and runs `f` with it.
fn with(scsi: Storvsp, config: Config, f: impl FnOnce(&SimHyperV, DeviceId, &mut Driver<'_, '_>)) {
    let (sim, hv) = SimHyperV::boot(1024, |_| {});
    let id = sim.host().bus.add(Box::new(scsi));
    let bus = VmBus::connect(&*hv, vmbus::Config::default()).unwrap();
    bus.wait_offers(1_000_000_000).unwrap();
    let Ok(Some(BusEvent::Offered(offer))) = bus.poll() else {
        panic!("no controller was offered");
    };
    let mut queue = Queue::new(Storvsc::connect(&bus, &offer, config).unwrap());
    f(&sim, id, &mut queue);
    queue.close().unwrap();
    assert!(queue.transport_mut().release_pool());
    assert_eq!(sim.host().counters().violations, [""; 0]);
}

fn disk(sectors: u64, sector_size: u32) -> Box<MemDisk> {
    Box::new(MemDisk::new(sectors, sector_size))
}

fn one_disk(config: StorvspConfig) -> Storvsp {
    let mut scsi = Storvsp::new(config);
    scsi.attach(Address::lun(0), Lun::disk(disk(2048, 512), 1));
    scsi
}

fn inject(sim: &SimHyperV, id: DeviceId, fault: Fault) {
    let mut host = sim.host();
    let scsi = host.bus.device_mut::<Storvsp>(id).unwrap();
    scsi.lun_mut(Address::lun(0)).unwrap().inject(fault);
}

#[test]
fn every_version_carries_data() {
    for version in Version::ALL {
        let scsi = one_disk(StorvspConfig {
            max_version: version.0,
            ..StorvspConfig::default()
        });
        with(scsi, Config::default(), |_, _, queue| {
            assert_eq!(queue.transport().version(), version);
            let mut disk = Disk::new(queue, 0).unwrap();
            let bytes: Vec<u8> = (0..8192u32).map(|i| (i * 7) as u8).collect();
            disk.write_from(3, &bytes).unwrap();
            disk.flush().unwrap();
            let mut back = vec![0; 8192];
            disk.read_into(3, &mut back).unwrap();
            assert!(back == bytes, "{version:?}");
        });
    }
}

#[test]
fn a_guest_may_stay_below_the_hosts_version() {
    let mut config = Config::default();
    config.version = Version::WIN8;
    with(one_disk(StorvspConfig::default()), config, |_, _, queue| {
        assert_eq!(queue.transport().version(), Version::WIN8);
    });
}

#[test]
fn the_disks_of_a_controller_are_units_and_its_dvd_is_not() {
    let mut scsi = Storvsp::new(StorvspConfig::default());
    let mut locked = disk(100, 512);
    locked.set_read_only(true);
    scsi.attach(Address::lun(0), Lun::disk(disk(2048, 512), 1));
    scsi.attach(Address::lun(1), Lun::dvd());
    scsi.attach(Address::lun(5), Lun::disk(disk(64, 4096), 2));
    scsi.attach(Address::lun(63), Lun::disk(locked, 3));
    with(scsi, Config::default(), |_, _, queue| {
        let seen: Vec<_> = queue
            .units()
            .iter()
            .map(|u| {
                (
                    u.address,
                    u.limits.sectors,
                    u.limits.sector_size,
                    u.limits.read_only,
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                (0, 2048, 512, false),
                (5, 64 * 8, 4096, false),
                (63, 100, 512, true)
            ]
        );
        // Each unit is a disk of its own: the same sector holds different bytes.
        for (unit, byte) in [(0, 1u8), (1, 2)] {
            let mut disk = Disk::new(queue, unit).unwrap();
            disk.write_from(8, &[byte; 4096]).unwrap();
        }
        for (unit, byte) in [(0, 1u8), (1, 2)] {
            let mut back = [0; 4096];
            Disk::new(queue, unit)
                .unwrap()
                .read_into(8, &mut back)
                .unwrap();
            assert_eq!(back, [byte; 4096]);
        }
        let refused = Disk::new(queue, 2).unwrap().write_from(0, &[0; 512]);
        assert_eq!(refused, Err(DiskError::Refused(SubmitError::ReadOnly)));
    });
}

#[test]
fn a_controller_without_disks_has_no_units() {
    let mut scsi = Storvsp::new(StorvspConfig::default());
    scsi.attach(Address::lun(0), Lun::dvd());
    with(scsi, Config::default(), |_, _, queue| {
        assert!(queue.units().is_empty());
        let buf = queue.alloc(512).unwrap();
        let refused = queue.submit(Request::read(0, buf)).unwrap_err();
        assert_eq!(refused.0, SubmitError::NoSuchUnit);
    });
}

#[test]
fn a_short_transfer_is_an_error_whichever_way_the_host_says_it() {
    for short_is_overrun in [false, true] {
        let scsi = one_disk(StorvspConfig {
            short_is_overrun,
            ..StorvspConfig::default()
        });
        with(scsi, Config::default(), |sim, id, queue| {
            inject(sim, id, Fault::Short(512));
            let result = Disk::new(queue, 0).unwrap().read_into(0, &mut [0; 4096]);
            assert_eq!(result, Err(DiskError::Io(IoError::Short { moved: 512 })));
            // The next one is whole, and the device has not failed.
            Disk::new(queue, 0)
                .unwrap()
                .read_into(0, &mut [0; 4096])
                .unwrap();
            assert_eq!(queue.fault(), None);
        });
    }
}

#[test]
fn a_length_beyond_the_loan_is_a_fault() {
    with(
        one_disk(StorvspConfig::default()),
        Config::default(),
        |sim, id, queue| {
            inject(sim, id, Fault::LieAboutLength(4097));
            let result = Disk::new(queue, 0).unwrap().read_into(0, &mut [0; 4096]);
            assert_eq!(result, Err(DiskError::Io(IoError::Host(HostFault::Length))));
            queue.reconnect().unwrap();
            Disk::new(queue, 0)
                .unwrap()
                .read_into(0, &mut [0; 4096])
                .unwrap();
        },
    );
}

#[test]
fn a_unit_attention_does_not_hide_a_disk() {
    let mut scsi = one_disk(StorvspConfig::default());
    let lun = scsi.lun_mut(Address::lun(0)).unwrap();
    lun.raise_unit_attention(Sense::new(0x6, 0x29, 0));
    with(scsi, Config::default(), |_, _, queue| {
        assert_eq!(queue.units().len(), 1);
        Disk::new(queue, 0)
            .unwrap()
            .read_into(0, &mut [0; 512])
            .unwrap();
    });
}

#[test]
fn news_of_disks_is_noted_and_disturbs_nothing() {
    let scsi = one_disk(StorvspConfig {
        enumerate_after_init: true,
        ..StorvspConfig::default()
    });
    with(scsi, Config::default(), |sim, id, queue| {
        Disk::new(queue, 0)
            .unwrap()
            .read_into(0, &mut [0; 512])
            .unwrap();
        assert!(queue.transport_mut().take_changed());
        assert!(!queue.transport_mut().take_changed());
        let another = Lun::disk(disk(64, 512), 2);
        sim.host()
            .bus
            .device_mut::<Storvsp>(id)
            .unwrap()
            .attach(Address::lun(1), another);
        Disk::new(queue, 0)
            .unwrap()
            .read_into(0, &mut [0; 512])
            .unwrap();
        assert!(queue.transport_mut().take_changed());
        queue.reconnect().unwrap();
        assert_eq!(queue.units().len(), 2);
    });
}
