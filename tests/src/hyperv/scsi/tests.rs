use super::*;
use crate::disk::MemDisk;
use crate::hyperv::flat::FlatMemory;
use std::sync::{Arc, Mutex};

const BUFFER: u32 = 64 * 1024;

struct Bench {
    lun: Lun,
    disk: Arc<Mutex<MemDisk>>,
    memory: FlatMemory,
    range: GpaRange,
    counters: Counters,
}

fn bench() -> Bench {
    let disk = Arc::new(Mutex::new(MemDisk::new(256, 512)));
    Bench {
        lun: Lun::disk(Box::new(disk.clone()), 7),
        disk,
        memory: FlatMemory::new(16),
        range: GpaRange {
            offset: 0,
            bytes: BUFFER,
            frames: (0..16).collect(),
        },
        counters: Counters::default(),
    }
}

impl Bench {
    fn run(&mut self, cdb: &[u8], length: u32, to_guest: bool) -> Outcome {
        let mut whole = [0; 16];
        whole[..cdb.len()].copy_from_slice(cdb);
        let range = (length > 0).then_some(&self.range);
        let data = Data {
            memory: &self.memory,
            range,
            length,
            to_guest,
        };
        self.lun.execute(&whole, &data, &mut self.counters)
    }

    fn buffer(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.range.read(&self.memory, 0, &mut bytes).unwrap();
        bytes
    }
}

#[test]
fn every_size_of_read_and_write_moves_the_same_sectors() {
    let mut b = bench();
    let writes: [&[u8]; 4] = [
        &[0x0a, 0, 0, 8, 2, 0],
        &[0x2a, 0, 0, 0, 0, 8, 0, 0, 2, 0],
        &[0xaa, 0, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0],
        &[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0],
    ];
    let reads: [&[u8]; 4] = [
        &[0x08, 0, 0, 8, 2, 0],
        &[0x28, 0, 0, 0, 0, 8, 0, 0, 2, 0],
        &[0xa8, 0, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0],
        &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0],
    ];
    for (i, (write, read)) in writes.iter().zip(reads).enumerate() {
        let pattern = vec![i as u8 + 1; 1024];
        b.range.write(&b.memory, 0, &pattern).unwrap();
        assert_eq!(b.run(write, 1024, false), Outcome::good(1024));
        assert_eq!(
            b.disk.lock().unwrap().contents()[8 * 512..10 * 512],
            pattern
        );
        b.range.write(&b.memory, 0, &[0; 1024]).unwrap();
        assert_eq!(b.run(read, 1024, true), Outcome::good(1024));
        assert_eq!(b.buffer(1024), pattern);
    }
    assert_eq!(
        (b.counters.bytes_read, b.counters.bytes_written),
        (4096, 4096)
    );
    assert!(b.counters.violations.is_empty());
}

#[test]
fn flush_and_forced_unit_access_reach_the_medium() {
    let mut b = bench();
    b.range.write(&b.memory, 0, &[5; 512]).unwrap();
    b.run(&[0x2a, 0, 0, 0, 0, 1, 0, 0, 1, 0], 512, false);
    assert_eq!(b.disk.lock().unwrap().durable()[512], 0);
    assert_eq!(b.run(&[0x35], 0, false), Outcome::good(0));
    assert_eq!(b.disk.lock().unwrap().durable()[512], 5);
    b.run(&[0x2a, 8, 0, 0, 0, 2, 0, 0, 1, 0], 512, false);
    assert_eq!(b.disk.lock().unwrap().durable()[1024], 5);
    b.disk.lock().unwrap().fail_flushes(true);
    assert_eq!(b.run(&[0x91], 0, false), Outcome::check(Sense::WRITE_ERROR));
}

#[test]
fn errors_carry_the_sense_drivers_look_for() {
    let mut b = bench();
    let read_last = [0x28, 0, 0, 0, 0, 255, 0, 0, 1, 0];
    assert_eq!(b.run(&read_last, 512, true), Outcome::good(512));
    let beyond = [0x28, 0, 0, 0, 0, 255, 0, 0, 2, 0];
    assert_eq!(
        b.run(&beyond, 1024, true),
        Outcome::check(Sense::OUT_OF_RANGE)
    );
    let end_of_world = [&[0x88, 0][..], &[0xff; 8], &[0, 0, 0, 2, 0, 0]].concat();
    assert_eq!(
        b.run(&end_of_world, 1024, true),
        Outcome::check(Sense::OUT_OF_RANGE)
    );
    b.disk.lock().unwrap().fail_reads_of(255);
    assert_eq!(
        b.run(&read_last, 512, true),
        Outcome::check(Sense::READ_ERROR)
    );
    assert_eq!(b.run(&[0x03, 0, 0, 0, 18, 0], 18, true), Outcome::good(18));
    assert_eq!((b.buffer(18)[2], b.buffer(18)[12]), (3, 0x11));
    b.disk.lock().unwrap().set_read_only(true);
    let write = [0x2a, 0, 0, 0, 0, 1, 0, 0, 1, 0];
    assert_eq!(
        b.run(&write, 512, false),
        Outcome::check(Sense::WRITE_PROTECTED)
    );
    assert_eq!(b.run(&[0x1a, 0, 0x3f, 0, 255, 0], 255, true).moved, 24);
    assert_eq!(b.buffer(3)[2] & 0x80, 0x80);
    assert_eq!(
        b.run(&[0x41], 0, false),
        Outcome::check(Sense::INVALID_COMMAND)
    );
    assert_eq!(b.run(&write, 511, false), Outcome::port(srb::DATA_OVERRUN));
    assert_eq!(b.counters.violations.len(), 1);
}

#[test]
fn injected_faults_hit_one_transfer_each() {
    let mut b = bench();
    let read = [0x28, 0, 0, 0, 0, 0, 0, 0, 4, 0];
    b.lun.inject(Fault::Refuse(Outcome::port(srb::BUSY)));
    b.lun.inject(Fault::Short(1500));
    b.lun.inject(Fault::LieAboutLength(99));
    b.lun.raise_unit_attention(Sense::RESET_OCCURRED);
    assert_eq!(
        b.run(&read, 2048, true),
        Outcome::check(Sense::RESET_OCCURRED)
    );
    assert_eq!(b.run(&read, 2048, true), Outcome::port(srb::BUSY));
    assert_eq!(b.run(&read, 2048, true), Outcome::good(1024));
    assert_eq!(b.run(&read, 2048, true), Outcome::good(99));
    assert_eq!(b.run(&read, 2048, true), Outcome::good(2048));
}

#[test]
fn identity_pages_name_the_unit_and_its_limits() {
    let mut b = bench();
    b.lun.max_transfer_bytes = 8192;
    b.lun.unmap = true;
    assert_eq!(b.run(&[0x12, 0, 0, 0, 36, 0], 36, true).moved, 36);
    let answer = b.buffer(36);
    assert_eq!(
        (answer[0], &answer[8..16], &answer[16..28]),
        (0, &b"Msft    "[..], &b"Virtual Disk"[..])
    );
    for page in [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2] {
        let moved = b.run(&[0x12, 1, page, 0, 255, 0], 255, true).moved as usize;
        let answer = b.buffer(moved);
        assert_eq!((answer[1], usize::from(answer[3])), (page, moved - 4));
        if page == 0xb0 {
            assert_eq!(answer[8..12], 16u32.to_be_bytes());
        }
    }
    assert_eq!(
        b.run(&[0x12, 1, 0x99, 0, 255, 0], 255, true).sense,
        Some(Sense::INVALID_FIELD)
    );
    assert_eq!(b.run(&[0x25], 8, true), Outcome::good(8));
    assert_eq!(b.buffer(8), [0, 0, 0, 255, 0, 0, 2, 0]);
    let capacity_16 = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    assert_eq!(b.run(&capacity_16, 32, true), Outcome::good(32));
    assert_eq!((b.buffer(8)[7], b.buffer(15)[14]), (255, 0xc0));
    // UNMAP of sector 3, one range.
    b.disk.lock().unwrap().write(3, &[9; 512]).unwrap();
    let list = [
        &[0, 22, 0, 16, 0, 0, 0, 0][..],
        &3u64.to_be_bytes(),
        &[0, 0, 0, 1, 0, 0, 0, 0],
    ];
    b.range.write(&b.memory, 0, &list.concat()).unwrap();
    assert_eq!(
        b.run(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], 24, false),
        Outcome::good(24)
    );
    assert_eq!(b.disk.lock().unwrap().contents()[3 * 512], 0);
    b.lun = Lun::dvd();
    assert_eq!(b.run(&[0x12, 0, 0, 0, 36, 0], 36, true).moved, 36);
    assert_eq!(b.buffer(1)[0], 5);
    assert_eq!(
        b.run(&[0x00], 0, false),
        Outcome::check(Sense::NOT_READY_NO_MEDIUM)
    );
}
