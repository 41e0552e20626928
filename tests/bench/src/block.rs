//! Our own block drivers.

use crate::count::{excluded, timed};
use crate::hosts::{Machine, on_hyperv, on_xen};
use crate::{Counted, Measure};
use blkfront::transport::Transport;
use blkfront::{Block, Buf, Queue, Request, blkif, storvsc};
use pv_tests::disk::MemDisk;
use pv_tests::hyperv::scsi::Lun;
use pv_tests::hyperv::storvsp::{Address, Storvsp, StorvspConfig};
use pv_tests::xen::xenbus::VbdSpec;

/// A disk of 2 MiB.
fn disk() -> Box<MemDisk> {
    Box::new(MemDisk::new(4096, 512))
}

/// Xen's block interface.
pub fn blkif(depth: usize, batches: u64) -> Measure {
    let attach = VbdSpec::new("xvda", disk());
    on_xen(
        |sim| {
            sim.host().attach_disk(attach).expect("a disk's name");
        },
        |machine, bus, device| {
            let config = blkif::Config::default();
            let blkif = blkif::Blkif::connect(bus, device, config).expect("a disk");
            reads(machine, &mut Queue::new(blkif), depth, batches)
        },
    )
}

/// Hyper-V's storage.
pub fn storvsc(depth: usize, batches: u64) -> Measure {
    let mut scsi = Storvsp::new(StorvspConfig::default());
    scsi.attach(Address::lun(0), Lun::disk(disk(), 1));
    on_hyperv(
        |sim| {
            sim.host().bus.add(Box::new(scsi));
        },
        |machine, bus, offer| {
            let config = storvsc::Config::default();
            let storvsc = storvsc::Storvsc::connect(bus, offer, config).expect("a controller");
            reads(machine, &mut Queue::new(storvsc), depth, batches)
        },
    )
}

/// Reads 4 KiB blocks, `depth` at a time.
fn reads<T: Transport>(
    machine: &impl Machine,
    queue: &mut Queue<T>,
    depth: usize,
    batches: u64,
) -> Measure {
    let mut bufs: Vec<Option<Buf>> = (0..depth).map(|_| queue.alloc(4096)).collect();
    // One batch to warm up: then nothing is done for the first time any more.
    batch(machine, queue, &mut bufs);
    let now = |queue: &Queue<T>| Counted {
        copied: queue.copied(),
        ..machine.counted()
    };
    let before = now(queue);
    let nanoseconds = (0..batches).map(|_| batch(machine, queue, &mut bufs)).sum();
    Measure {
        requests: batches * depth as u64,
        nanoseconds,
        counted: now(queue) - before,
    }
}

/// Reads into each buffer once. The caller's own work is counted with the driver's: it takes each
/// buffer from its place, and puts it back into one.
fn batch<T: Transport>(
    machine: &impl Machine,
    queue: &mut Queue<T>,
    bufs: &mut [Option<Buf>],
) -> u64 {
    let (shown, nanoseconds) = timed(|| {
        let mut sector = 0;
        for buf in bufs.iter_mut() {
            let buf = buf.take().expect("a buffer");
            queue.submit(Request::read(sector, buf)).expect("room");
            sector += 8;
        }
        queue.publish();
        excluded(|| machine.settle());
        let mut places = bufs.iter_mut();
        queue.poll(64, |done| {
            done.result.expect("the disk is sound");
            if let Some(place) = places.next() {
                // It is empty, so there is nothing to drop.
                std::mem::forget(std::mem::replace(place, done.buf));
            }
        })
    });
    assert_eq!(shown, bufs.len(), "the host did not finish");
    nanoseconds
}
