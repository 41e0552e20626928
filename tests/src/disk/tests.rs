use super::*;
use std::fs::File;
use std::io::Write;

#[test]
fn unflushed_writes_are_seen_and_lost_on_crash() {
    let mut disk = MemDisk::new(16, 512);
    disk.write(2, &[1; 1024]).unwrap();
    disk.flush().unwrap();
    disk.write(3, &[2; 512]).unwrap();
    let mut two = [0; 1024];
    disk.read(2, &mut two).unwrap();
    assert_eq!((two[511], two[512]), (1, 2));
    assert_eq!(disk.contents()[3 * 512], 2);
    disk.crash();
    disk.read(2, &mut two).unwrap();
    assert_eq!((two[511], two[512]), (1, 1));
}

#[test]
fn a_messy_crash_keeps_whole_sectors_and_is_repeatable() {
    let mut disk = MemDisk::new(64, 512);
    disk.write(0, &[9; 64 * 512]).unwrap();
    let mut again = disk.clone();
    disk.crash_keeping_some(5);
    again.crash_keeping_some(5);
    assert_eq!(disk.durable(), again.durable());
    let kept = disk
        .durable()
        .chunks(512)
        .filter(|s| s.iter().all(|&b| b == 9))
        .count();
    let lost = disk
        .durable()
        .chunks(512)
        .filter(|s| s.iter().all(|&b| b == 0))
        .count();
    assert_eq!(kept + lost, 64);
    assert!(kept > 0 && lost > 0);
}

#[test]
fn errors_are_per_sector_and_ranges_are_checked() {
    let mut disk = MemDisk::new(8, 4096);
    disk.fail_reads_of(5);
    let mut one = [0; 4096];
    assert_eq!(
        disk.read(4, &mut [0; 8192]),
        Err(DiskError::Medium { lba: 5 })
    );
    assert_eq!(disk.read(4, &mut one), Ok(()));
    assert_eq!(
        disk.read(8, &mut one),
        Err(DiskError::OutOfRange { lba: 8 })
    );
    assert_eq!(
        disk.read(u64::MAX, &mut one),
        Err(DiskError::OutOfRange { lba: u64::MAX })
    );
    assert_eq!(
        disk.write(0, &[0; 512]),
        Err(DiskError::OutOfRange { lba: 0 })
    );
    disk.set_read_only(true);
    assert_eq!(disk.write(0, &one), Err(DiskError::ReadOnly));
    disk.heal();
    assert_eq!(disk.read(5, &mut one), Ok(()));
    let mut bad = BadSectors::new(disk, [7]);
    assert_eq!(bad.read(6, &mut one), Ok(()));
    assert_eq!(
        bad.read(6, &mut [0; 8192]),
        Err(DiskError::Medium { lba: 7 })
    );
}

#[test]
#[cfg_attr(miri, ignore = "needs files")]
fn a_fixed_vhd_footer_is_out_of_sight() {
    let path = std::env::temp_dir().join(format!("pv-tests-disk-{}.vhd", std::process::id()));
    let mut footer = [0u8; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[48..56].copy_from_slice(&4096u64.to_be_bytes());
    footer[60..64].copy_from_slice(&2u32.to_be_bytes());
    let mut file = File::create(&path).unwrap();
    file.write_all(&[3; 4096]).unwrap();
    file.write_all(&footer).unwrap();
    let mut disk = FileDisk::open(&path, false).unwrap();
    assert_eq!(disk.sectors(), 8);
    disk.write(7, &[4; 512]).unwrap();
    disk.flush().unwrap();
    assert!(disk.write(8, &[4; 512]).is_err());
    drop(disk);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!((bytes[7 * 512 - 1], bytes[7 * 512]), (3, 4));
    assert_eq!(bytes[4096..], footer);
    footer[63] = 3; // dynamic: not ours
    std::fs::write(&path, [&[0u8; 4096][..], &footer].concat()).unwrap();
    assert!(FileDisk::open(&path, true).is_err());
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn completions_follow_the_seed() {
    let order = |out_of_order| {
        let latency = Latency {
            min_steps: 0,
            max_steps: 5,
            out_of_order,
        };
        let mut flight = InFlight::new(latency, 1);
        (0..10).for_each(|i| flight.push(i));
        let mut done = Vec::new();
        while !flight.is_empty() {
            done.extend(flight.pop_due());
            flight.tick();
        }
        done
    };
    assert_eq!(order(false), (0..10).collect::<Vec<_>>());
    assert_eq!(order(true), order(true));
    assert_ne!(order(true), order(false));
}
