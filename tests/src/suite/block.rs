//! The block suite: every promise of [`blkfront::Block`], whichever host is below.

use super::block_tasks::join;
use super::lab::{Lab, Setup};
use crate::rng::Rng;
use blkfront::blocking::{Disk, DiskError};
use blkfront::future::AsyncQueue;
use blkfront::{Block, Completion, IoError, Request, SubmitError, Tag};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;

/// More waits than anything here needs.
pub(super) const PATIENCE: usize = 100_000;

/// Bytes that tell where they belong.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| rng.below(256) as u8).collect()
}

/// Waits for one request.
pub(super) fn finish(queue: &mut dyn Block, tag: Tag) -> Completion {
    for _ in 0..PATIENCE {
        queue.reap();
        if let Some(done) = queue.collect(tag) {
            return done;
        }
        assert_eq!(queue.fault(), None);
        let until = queue.now() + 1_000_000;
        queue.pause(until);
    }
    panic!("the host did not answer");
}

/// Waits until the host has nothing more of ours; returns what was completed.
pub(super) fn settle(queue: &mut dyn Block) -> Vec<Completion> {
    let mut all = Vec::new();
    for _ in 0..PATIENCE {
        queue.poll_dyn(64, &mut |done| all.push(done));
        if queue.in_flight() == 0 {
            return all;
        }
        let until = queue.now() + 1_000_000;
        queue.pause(until);
    }
    panic!("{} requests were never answered", queue.in_flight());
}

pub(super) fn submit_read(queue: &mut dyn Block, sector: u64, len: usize) -> Tag {
    let buf = queue.alloc(len).unwrap();
    queue.submit(Request::read(sector, buf)).unwrap()
}

/// How many pages the pool has free, found by taking them all.
pub(super) fn free_pages(queue: &dyn Block) -> usize {
    let all: Vec<_> = std::iter::from_fn(|| queue.alloc(4096)).collect();
    all.len()
}

/// The disk is as large as its host made it, and says what it can.
pub fn says_what_it_is<L: Lab>() {
    for (sectors, sector_size, read_only) in
        [(4096, 512, false), (4096, 4096, false), (8, 512, true)]
    {
        let lab = L::new(Setup {
            sectors,
            sector_size,
            read_only,
            ..Setup::default()
        });
        lab.run(|queue| {
            let unit = queue.units()[0].clone();
            assert_eq!(unit.limits.sectors, sectors);
            assert_eq!(unit.limits.sector_size, sector_size);
            assert_eq!(unit.limits.read_only, read_only);
            assert!(unit.limits.max_bytes >= 4096);
            assert!(queue.depth() >= 16);
        });
        assert_eq!(lab.violations(), [""; 0]);
    }
}

/// Slices of every length and alignment arrive whole, at both ends of the disk.
pub fn moves_every_size<L: Lab>() {
    let lab = L::new(Setup::default());
    lab.run(|queue| {
        let mut disk = Disk::new(queue, 0).unwrap();
        let limits = disk.limits();
        let max = limits.max_bytes as usize;
        for len in [
            512,
            1024,
            4096,
            4608,
            8192,
            max - 512,
            max,
            max + 512,
            3 * max,
        ] {
            for sector in [0, 1, 7, limits.sectors - (len / 512) as u64] {
                let bytes = pattern(sector ^ len as u64, len + 3);
                // An odd address: a slice has no alignment to rely on.
                disk.write_from(sector, &bytes[3..]).unwrap();
                let mut back = vec![0; len + 1];
                disk.read_into(sector, &mut back[1..]).unwrap();
                assert!(back[1..] == bytes[3..], "{len} bytes at sector {sector}");
            }
        }
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// The largest request in as many pieces as one may have is one request.
pub fn scatters_and_gathers<L: Lab>() {
    let lab = L::new(Setup::default());
    lab.run(|queue| {
        let limits = queue.units()[0].limits.clone();
        let pieces = usize::from(limits.max_segments).min(limits.max_bytes as usize / 4096);
        let mut buf = queue.alloc(4096).unwrap();
        // The first piece starts inside its page, the last one ends inside its.
        buf.advance(1024);
        for i in 1..pieces {
            let len = if i + 1 == pieces { 512 } else { 4096 };
            buf.append(queue.alloc(len).unwrap()).unwrap();
        }
        let bytes = pattern(9, buf.len());
        buf.write_at(0, &bytes).unwrap();
        let tag = queue.submit(Request::write(11, buf)).unwrap();
        assert_eq!(finish(queue, tag).result, Ok(()));
        assert_eq!(
            lab.disk().lock().unwrap().contents()[11 * 512..][..bytes.len()],
            bytes
        );
        let tag = submit_read(queue, 11, bytes.len());
        let done = finish(queue, tag);
        let mut back = vec![0; bytes.len()];
        done.buf.unwrap().read_at(0, &mut back).unwrap();
        assert!(back == bytes);
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// A queue takes as many as it says, refuses the next, and takes it when one is done.
pub fn fills_up<L: Lab>() {
    let lab = L::new(Setup::default());
    lab.run(|queue| {
        lab.stall(true);
        let mut tags = Vec::new();
        let refused = loop {
            let buf = queue.alloc(512).unwrap();
            match queue.submit(Request::read(tags.len() as u64, buf)) {
                Ok(tag) => tags.push(tag),
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused.0, SubmitError::QueueFull);
        assert_eq!(tags.len(), queue.depth());
        lab.stall(false);
        assert_eq!(settle(queue).len(), tags.len());
        let tag = queue.submit(refused.1).unwrap();
        assert_eq!(finish(queue, tag).result, Ok(()));
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// Whatever order the host answers in, each answer reaches its own request.
pub fn completes_out_of_order<L: Lab>() {
    let mut out_of_order = false;
    for seed in 0..8 {
        let lab = L::new(Setup {
            shuffle: Some(seed),
            ..Setup::default()
        });
        let contents = pattern(seed, 4096 * 512);
        *lab.disk().lock().unwrap() = crate::disk::MemDisk::from_bytes(contents.clone(), 512);
        lab.run(|queue| {
            let mut at = HashMap::new();
            let mut order = Vec::new();
            for i in 0..queue.depth() as u64 {
                let sector = i * 37 % 4000;
                let tag = submit_read(queue, sector, 4096);
                at.insert(tag, sector as usize * 512);
                order.push(tag);
            }
            let done = settle(queue);
            out_of_order |= done.iter().map(|d| d.tag).ne(order.iter().copied());
            for completion in done {
                let start = at.remove(&completion.tag).unwrap();
                let mut back = [0; 4096];
                completion.buf.unwrap().read_at(0, &mut back).unwrap();
                assert!(back[..] == contents[start..start + 4096]);
            }
            assert!(at.is_empty());
        });
        assert_eq!(lab.violations(), [""; 0]);
    }
    assert!(
        out_of_order,
        "the host never changed the order: nothing was tested"
    );
}

/// What was written before a flush survives a loss of power; what was not may be lost.
pub fn flushes<L: Lab>() {
    let lab = L::new(Setup::default());
    lab.run(|queue| {
        let (kept, lost) = (pattern(1, 4096), pattern(2, 4096));
        let mut disk = Disk::new(queue, 0).unwrap();
        assert!(disk.limits().flush);
        disk.write_from(0, &kept).unwrap();
        disk.flush().unwrap();
        disk.write_from(8, &lost).unwrap();
        lab.disk().lock().unwrap().crash();
        let mut back = vec![0; 4096];
        disk.read_into(0, &mut back).unwrap();
        assert!(back == kept);
        disk.read_into(8, &mut back).unwrap();
        assert!(back != lost, "this disk has no cache: nothing was tested");
        // A flush that fails says so.
        lab.disk().lock().unwrap().fail_flushes(true);
        assert!(matches!(disk.flush(), Err(DiskError::Io(_))));
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// A bad sector fails the requests that touch it, and no others.
pub fn reports_errors<L: Lab>() {
    let lab = L::new(Setup::default());
    lab.run(|queue| {
        lab.disk().lock().unwrap().fail_reads_of(20);
        lab.disk().lock().unwrap().fail_writes_of(40);
        let mut disk = Disk::new(queue, 0).unwrap();
        let mut back = [0; 4096];
        assert_eq!(
            disk.read_into(16, &mut back),
            Err(DiskError::Io(IoError::Failed))
        );
        disk.read_into(24, &mut back).unwrap();
        assert_eq!(
            disk.write_from(40, &back),
            Err(DiskError::Io(IoError::Failed))
        );
        disk.write_from(48, &back).unwrap();
        lab.disk().lock().unwrap().heal();
        disk.read_into(16, &mut back).unwrap();
        disk.write_from(40, &back).unwrap();
        assert_eq!(queue.fault(), None);
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// Several tasks on one queue each get their own answers.
pub fn serves_tasks<L: Lab>() {
    let lab = L::new(Setup {
        shuffle: Some(5),
        ..Setup::default()
    });
    let contents = pattern(77, 4096 * 512);
    *lab.disk().lock().unwrap() = crate::disk::MemDisk::from_bytes(contents.clone(), 512);
    lab.run(|queue| {
        let queue = AsyncQueue::new(&mut *queue);
        let task = async |start: u64| {
            for i in 0..10 {
                let sector = start + i * 8;
                let buf = queue.alloc(4096).unwrap();
                let done = queue
                    .submit(Request::read(sector, buf))
                    .unwrap()
                    .await
                    .unwrap();
                assert_eq!(done.result, Ok(()));
                let mut back = [0; 4096];
                done.buf.unwrap().read_at(0, &mut back).unwrap();
                assert!(back[..] == contents[sector as usize * 512..][..4096]);
            }
        };
        join(
            &queue,
            (0..5)
                .map(|i| Box::pin(task(i * 700)) as Pin<Box<dyn Future<Output = ()>>>)
                .collect(),
        );
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// A read-only disk is read, and writes are refused before the host sees them.
pub fn keeps_a_read_only_disk<L: Lab>() {
    let lab = L::new(Setup {
        read_only: true,
        ..Setup::default()
    });
    lab.run(|queue| {
        let buf = queue.alloc(512).unwrap();
        let refused = queue.submit(Request::write(0, buf)).unwrap_err();
        assert_eq!(refused.0, SubmitError::ReadOnly);
        let mut disk = Disk::new(queue, 0).unwrap();
        assert_eq!(
            disk.write_from(0, &[0; 512]),
            Err(DiskError::Refused(SubmitError::ReadOnly))
        );
        disk.read_into(0, &mut [0; 512]).unwrap();
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// Requests that make no sense are refused, each for its own reason.
pub fn refuses_nonsense<L: Lab>() {
    let lab = L::new(Setup::default());
    lab.run(|queue| {
        let end = queue.units()[0].limits.sectors;
        let mut disk = Disk::new(queue, 0).unwrap();
        let refused = |result: Result<(), DiskError>| match result {
            Err(DiskError::Refused(why)) => why,
            other => panic!("{other:?}"),
        };
        let mut bytes = [0; 1024];
        assert_eq!(refused(disk.read_into(0, &mut [])), SubmitError::Empty);
        assert_eq!(
            refused(disk.read_into(0, &mut bytes[..100])),
            SubmitError::Misaligned
        );
        assert_eq!(
            refused(disk.read_into(end, &mut bytes)),
            SubmitError::BeyondEnd
        );
        assert_eq!(
            refused(disk.read_into(end - 1, &mut bytes)),
            SubmitError::BeyondEnd
        );
        assert_eq!(
            refused(disk.read_into(u64::MAX, &mut bytes)),
            SubmitError::BeyondEnd
        );
        assert_eq!(
            refused(disk.write_from(end, &bytes)),
            SubmitError::BeyondEnd
        );
        disk.read_into(end - 2, &mut bytes).unwrap();
        assert!(Disk::new(queue, 200).is_err());
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// Sectors of 4096 bytes: positions still count in 512, and halves are refused.
pub fn has_large_sectors<L: Lab>() {
    let lab = L::new(Setup {
        sector_size: 4096,
        ..Setup::default()
    });
    lab.run(|queue| {
        let mut disk = Disk::new(queue, 0).unwrap();
        let bytes = pattern(4, 3 * 4096);
        disk.write_from(16, &bytes).unwrap();
        assert!(lab.disk().lock().unwrap().contents()[2 * 4096..][..bytes.len()] == bytes);
        let mut back = vec![0; bytes.len()];
        disk.read_into(16, &mut back).unwrap();
        assert!(back == bytes);
        assert_eq!(
            disk.read_into(1, &mut back),
            Err(DiskError::Refused(SubmitError::Misaligned))
        );
        assert_eq!(
            disk.write_from(0, &bytes[..512]),
            Err(DiskError::Refused(SubmitError::Misaligned))
        );
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// In the steady state a batch costs one notification, and no request costs a grant or a copy.
pub fn costs_one_signal_a_batch<L: Lab>() {
    let lab = L::new(Setup::default());
    lab.run(|queue| {
        let batch = |queue: &mut dyn Block| {
            for i in 0..16 {
                submit_read(queue, i * 8, 4096);
            }
            queue.publish();
            let done = settle(queue);
            assert_eq!(done.len(), 16);
        };
        batch(queue);
        let (counts, copied) = (lab.counts(), queue.copied());
        for _ in 0..10 {
            batch(queue);
        }
        let cost = lab.counts() - counts;
        assert!(cost.signals <= 10, "{cost:?}");
        assert_eq!(cost.hypercalls, cost.signals);
        assert_eq!(cost.grants, 0);
        assert_eq!(queue.copied(), copied);
    });
}
