//! Other libraries over the disks of simulated hosts: a partition table read, a FAT tree written and read back,
//! blocks moved by tasks.

use std::future::Future;
use std::io::{Cursor, Read};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use block_device_driver::{BlockDevice, blocks_to_slice_mut, slice_to_blocks};
use embedded_sdmmc::{Mode, TimeSource, Timestamp, VolumeIdx, VolumeManager};
use gpt_disk_io::Disk as Gpt;
use pv_drivers::Block;
use pv_drivers::blkfront::adapters::block_device_driver::AsyncDisk;
use pv_drivers::blkfront::adapters::embedded_sdmmc::SharedDisk;
use pv_drivers::blkfront::blocking::Disk;
use pv_drivers::blkfront::future::AsyncQueue;
use pv_tests::disk::MemDisk;
use pv_tests::suite::lab::{Lab, Setup};
use pv_tests::suite::{HyperVLab, XenLab};

use crate::image;
use crate::tour::gpt_with_fat;

/// Runs `work` over a disk with these contents, on either host and with sectors of either size, and gives back what
/// is on the disk then.
fn over<R>(
    bytes: &[u8],
    sector_size: u32,
    work: impl Fn(&mut dyn Block) -> R,
) -> Vec<(R, Vec<u8>)> {
    fn one<L: Lab, R>(
        bytes: &[u8],
        sector_size: u32,
        work: impl Fn(&mut dyn Block) -> R,
    ) -> (R, Vec<u8>) {
        let lab = L::new(Setup {
            sectors: bytes.len() as u64 / 512,
            sector_size,
            ..Setup::default()
        });
        let disk: Arc<Mutex<MemDisk>> = lab.disk();
        *disk.lock().unwrap() = MemDisk::from_bytes(bytes.to_vec(), sector_size);
        let result = lab.run(|queue| work(queue));
        assert_eq!(lab.violations(), Vec::<String>::new());
        let after = disk.lock().unwrap().contents();
        (result, after)
    }
    vec![
        one::<XenLab, R>(bytes, sector_size, &work),
        one::<HyperVLab, R>(bytes, sector_size, &work),
    ]
}

#[test]
fn gpt_disk_io_reads_the_partitions() {
    let bytes = gpt_with_fat(4 << 20);
    let found = over(&bytes, 512, |queue| {
        let mut gpt = Gpt::new(Disk::new(queue, 0).unwrap()).unwrap();
        let mut block = [0; 512];
        let header = gpt.read_primary_gpt_header(&mut block).unwrap();
        assert!(header.is_signature_valid());
        let layout = header.get_partition_entry_array_layout().unwrap();
        let mut storage = vec![0; 32 * 512];
        let array = gpt
            .read_gpt_partition_entry_array(layout, &mut storage)
            .unwrap();
        let names = (0..2).map(|slot| array.get_partition_entry(slot).unwrap().name.to_string());
        names.collect::<Vec<_>>()
    });
    for (names, after) in found {
        assert_eq!(names, ["files", "scratch"]);
        assert!(after == bytes);
    }
}

struct NoTime;

impl TimeSource for NoTime {
    fn get_timestamp(&self) -> Timestamp {
        Timestamp::from_fat(0, 0)
    }
}

#[test]
fn embedded_sdmmc_writes_a_tree_that_another_library_reads() {
    const FIRST: usize = 64;
    let sectors = (16 << 20) / image::SECTOR;
    let mut bytes = image::mbr(
        (FIRST + sectors) as u64,
        &[(0x0e, FIRST as u32, sectors as u32)],
    );
    image::place(&mut bytes, FIRST as u64, &image::fat(16 << 20, &[]));
    let contents = image::noise(70_001);
    for sector_size in [512, 4096] {
        let done = over(&bytes, sector_size, |queue| {
            let disk = SharedDisk::new(Disk::new(queue, 0).unwrap());
            let manager: VolumeManager<_, _, 4, 4, 1> =
                VolumeManager::new_with_limits(disk, NoTime, 0);
            let volume = manager.open_raw_volume(VolumeIdx(0)).unwrap();
            let root = manager.open_root_dir(volume).unwrap();
            manager.make_dir_in_dir(root, "SUB").unwrap();
            let sub = manager.open_dir(root, "SUB").unwrap();
            for (directory, name, contents) in [
                (root, "SHORT.TXT", &b"hello\n"[..]),
                (sub, "LONG.BIN", &contents),
            ] {
                let file = manager
                    .open_file_in_dir(directory, name, Mode::ReadWriteCreate)
                    .unwrap();
                manager.write(file, contents).unwrap();
                manager.close_file(file).unwrap();
                let file = manager
                    .open_file_in_dir(directory, name, Mode::ReadOnly)
                    .unwrap();
                let mut read = vec![0; contents.len()];
                let mut at = 0;
                while at < read.len() {
                    at += manager.read(file, &mut read[at..]).unwrap();
                }
                assert!(read == contents);
                manager.close_file(file).unwrap();
            }
            manager.close_dir(sub).unwrap();
            manager.close_dir(root).unwrap();
            manager.close_volume(volume).unwrap();
        });
        for ((), after) in done {
            let volume = Cursor::new(after[FIRST * image::SECTOR..].to_vec());
            let volume = fatfs::FileSystem::new(volume, fatfs::FsOptions::new()).unwrap();
            for (path, contents) in [("SHORT.TXT", &b"hello\n"[..]), ("SUB/LONG.BIN", &contents)] {
                let mut read = Vec::new();
                let mut file = volume.root_dir().open_file(path).unwrap();
                file.read_to_end(&mut read).unwrap();
                assert!(read == contents, "{path} on sectors of {sector_size} bytes");
            }
        }
    }
}

#[test]
fn block_device_driver_moves_blocks() {
    let bytes = image::noise(1 << 20);
    let fresh = image::noise(1 << 19);
    let done = over(&bytes, 512, |queue| {
        let waiter = AsyncQueue::new(queue);
        let work = async {
            let mut disk = AsyncDisk::new(&waiter, 0).unwrap();
            assert!(AsyncDisk::new(&waiter, 1).is_err());
            let size = BlockDevice::<4096>::size(&mut disk).await.unwrap();
            assert_eq!(size, 1 << 20);
            let mut blocks = vec![aligned_block(); 128];
            disk.read(128, &mut blocks).await.unwrap();
            assert!(blocks_to_slice_mut(&mut blocks) == &bytes[1 << 19..]);
            let blocks = slice_to_blocks(&fresh);
            BlockDevice::<4096>::write(&mut disk, 0, blocks)
                .await
                .unwrap();
            assert!(disk.read(255, &mut vec![aligned_block(); 2]).await.is_err());
        };
        let mut work = pin!(work);
        let mut context = Context::from_waker(Waker::noop());
        while work.as_mut().poll(&mut context).is_pending() {
            waiter.with(|queue| {
                let until = queue.now() + 1_000_000;
                queue.pause(until);
            });
        }
    });
    for ((), after) in done {
        assert!(after[..1 << 19] == fresh && after[1 << 19..] == bytes[1 << 19..]);
    }
}

fn aligned_block() -> aligned::Aligned<aligned::A1, [u8; 4096]> {
    aligned::Aligned([0; 4096])
}
