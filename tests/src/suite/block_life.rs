//! The block suite: requests given up, disks closed, pulled out and had again.

use super::block::*;
use super::block_tasks::{block_on, join};
use super::lab::{Lab, Setup};
use blkfront::blocking::Disk;
use blkfront::future::AsyncQueue;
use blkfront::{IoError, Request, SubmitError, Tag};
use hypercall::HostFault;
use std::task::Poll;

/// A request given up at any moment of its life is done or not, but leaks nothing and disturbs
/// nobody.
pub fn cancels_at_every_step<L: Lab>() {
    for forget in [false, true] {
        for steps in 0..12 {
            let lab = L::new(Setup::default());
            lab.run(|queue| {
                let before = free_pages(queue);
                let tag = submit_read(queue, 8, 4096);
                let other = submit_read(queue, 16, 4096);
                queue.publish();
                for _ in 0..steps {
                    lab.step();
                }
                if !forget {
                    queue.abandon(tag);
                }
                let done = finish(queue, other);
                assert_eq!(done.result, Ok(()));
                drop(done);
                drop(settle(queue));
                queue.reap();
                assert_eq!(free_pages(queue), before);
                assert_eq!(queue.fault(), None);
            });
            assert_eq!(lab.violations(), [""; 0], "{steps} steps");
        }
    }
}

/// Futures dropped and forgotten half way leak no page for good.
pub fn cancels_futures<L: Lab>() {
    let lab = L::new(Setup::default());
    lab.run(|queue| {
        let before = free_pages(queue);
        let queue = AsyncQueue::new(&mut *queue);
        let read = |sector| {
            let buf = queue.alloc(4096).unwrap();
            queue.submit(Request::read(sector, buf)).unwrap()
        };
        let (dropped, forgotten, kept) = (read(0), read(8), read(16));
        std::mem::forget(forgotten);
        drop(dropped);
        let done = block_on(&queue, kept).unwrap();
        assert_eq!(done.result, Ok(()));
        drop(done);
        let queue = queue.into_inner();
        drop(settle(queue));
        assert_eq!(free_pages(queue), before);
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// Closing with requests in flight fails them, takes every page back, and the disk can be had
/// again.
pub fn closes_and_reconnects<L: Lab>() {
    let lab = L::new(Setup::default());
    lab.run(|queue| {
        let before = free_pages(queue);
        let bytes = pattern(3, 4096);
        Disk::new(queue, 0).unwrap().write_from(0, &bytes).unwrap();
        for round in 0..3 {
            lab.stall(true);
            let tags: Vec<Tag> = (0..5).map(|i| submit_read(queue, i * 8, 4096)).collect();
            queue.publish();
            for _ in 0..round {
                lab.step();
            }
            lab.stall(false);
            queue.close().unwrap();
            for tag in tags {
                assert!(!queue.is_live(tag));
            }
            let buf = queue.alloc(512).unwrap();
            assert!(matches!(
                queue.submit(Request::read(0, buf)),
                Err((SubmitError::Failed(_), _))
            ));
            assert_eq!(free_pages(queue), before);
            queue.reconnect().unwrap();
            let mut back = [0; 4096];
            let mut disk = Disk::new(queue, 0).unwrap();
            disk.read_into(0, &mut back).unwrap();
            assert!(back[..] == bytes);
        }
    });
    assert_eq!(lab.violations(), [""; 0]);
}

/// A disk that is pulled out fails its requests; the program goes on.
pub fn survives_unplugging<L: Lab>() {
    for steps in 0..20 {
        let lab = L::new(Setup::default());
        lab.run(|queue| {
            lab.stall(true);
            let tag = submit_read(queue, 0, 4096);
            let wanted = submit_read(queue, 8, 4096);
            queue.publish();
            for _ in 0..steps {
                lab.step();
            }
            queue.abandon(tag);
            lab.unplug();
            let mut failed = None;
            for _ in 0..PATIENCE {
                queue.poll_dyn(64, &mut |done| failed = Some(done));
                if failed.is_some() {
                    break;
                }
                let until = queue.now() + 1_000_000;
                queue.pause(until);
            }
            let failed = failed.expect("the request hangs");
            assert_eq!(failed.tag, wanted);
            assert_eq!(
                failed.result,
                Err(IoError::Host(HostFault::Withdrawn)),
                "after {steps} steps"
            );
            assert_eq!(queue.fault(), Some(HostFault::Withdrawn));
        });
    }
}

/// A task that waits for a disk that is pulled out is woken, and its request fails.
pub fn wakes_a_task_on_unplugging<L: Lab>() {
    let lab = L::new(Setup::default());
    lab.run(|queue| {
        lab.stall(true);
        let queue = AsyncQueue::new(&mut *queue);
        let buf = queue.alloc(4096).unwrap();
        let pending = queue.submit(Request::read(0, buf)).unwrap();
        let task = async {
            let failed = pending.await.unwrap_err();
            assert_eq!(failed, IoError::Host(HostFault::Withdrawn));
        };
        let unplug = async {
            // Let the other task fall asleep first.
            let mut polls = 0;
            std::future::poll_fn(|context| {
                polls += 1;
                context.waker().wake_by_ref();
                if polls < 3 {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
            .await;
            lab.unplug();
        };
        join(&queue, vec![Box::pin(task), Box::pin(unplug)]);
    });
}
