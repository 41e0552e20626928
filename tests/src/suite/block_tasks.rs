//! A little executor for the block suite.

use super::block::PATIENCE;
use blkfront::Block;
use blkfront::future::AsyncQueue;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Set when a task is woken.
pub(super) struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// A little executor: polls a task only when it was woken, and lets the host go on when none was.
pub(super) fn join<B: Block>(
    queue: &AsyncQueue<B>,
    tasks: Vec<Pin<Box<dyn Future<Output = ()> + '_>>>,
) {
    let mut tasks: Vec<_> = tasks
        .into_iter()
        .map(|task| (Some(task), Arc::new(Flag(AtomicBool::new(true)))))
        .collect();
    for _ in 0..PATIENCE {
        let mut idle = true;
        for (slot, flag) in &mut tasks {
            if slot.is_some() && flag.0.swap(false, Ordering::AcqRel) {
                idle = false;
                let waker = Waker::from(flag.clone());
                let task = slot.as_mut().unwrap().as_mut();
                if task.poll(&mut Context::from_waker(&waker)).is_ready() {
                    *slot = None;
                }
            }
        }
        if tasks.iter().all(|(task, _)| task.is_none()) {
            return;
        }
        if idle {
            queue.with(|q| {
                let until = q.now() + 1_000_000;
                q.pause(until);
            });
        }
    }
    panic!("a task was never woken");
}

pub(super) fn block_on<B: Block, F: Future + Unpin>(
    queue: &AsyncQueue<B>,
    mut future: F,
) -> F::Output {
    for _ in 0..PATIENCE {
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(output) = Pin::new(&mut future).poll(&mut context) {
            return output;
        }
        queue.with(|q| {
            let until = q.now() + 1_000_000;
            q.pause(until);
        });
    }
    panic!("the future never ended");
}
