//! The queue over a scripted back end: every rule of the slot table, and every lie a host may
//! tell it.

use blkfront::limits::Unit;
use blkfront::transport::{Answer, PushError, Says, Transport, Wire};
use blkfront::{Block, Queue};
use blkfront::{IoError, Limits, Op, Request, SubmitError, Tag};
use hypercall::HostFault;
use hypercall::shm::hosted::{Alone, Hosted, Ram, lend};
use hypercall::shm::{Pages, Pool};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

type Platform = Hosted<Alone>;

/// What the test and its back end both see.
#[derive(Default)]
struct Script {
    pushed: Vec<(u64, Op, u64)>,
    answers: VecDeque<Result<Answer, HostFault>>,
    published: usize,
    unpublished: bool,
    gone: bool,
    refuses_to_let_go: bool,
    wakers: Vec<Waker>,
}

struct Mock {
    platform: Platform,
    pool: Pool<Platform>,
    units: Vec<Unit>,
    script: Arc<Mutex<Script>>,
    room: usize,
}

impl Transport for Mock {
    type Platform = Platform;
    fn platform(&self) -> &Platform {
        &self.platform
    }
    fn pool(&self) -> Option<&Pool<Platform>> {
        Some(&self.pool)
    }
    fn units(&self) -> &[Unit] {
        &self.units
    }
    fn depth(&self) -> usize {
        8
    }
    fn push(&mut self, wire: Wire<'_>) -> Result<u32, PushError> {
        if self.room == 0 {
            return Err(PushError::Full);
        }
        self.room -= 1;
        let mut script = self.script.lock().unwrap();
        script.unpublished = true;
        script.pushed.push((wire.id, wire.op, wire.sector));
        Ok(wire.op as u32)
    }
    fn publish(&mut self) {
        let mut script = self.script.lock().unwrap();
        if std::mem::take(&mut script.unpublished) {
            script.published += 1;
        }
    }
    fn pop(&mut self) -> Result<Option<Answer>, HostFault> {
        let answer = self
            .script
            .lock()
            .unwrap()
            .answers
            .pop_front()
            .transpose()?;
        self.room += usize::from(answer.is_some());
        Ok(answer)
    }
    fn take_pending(&mut self) {}
    fn arm(&mut self) -> Result<bool, HostFault> {
        let script = self.script.lock().unwrap();
        match script.gone {
            true => Err(HostFault::Withdrawn),
            false => Ok(!script.answers.is_empty()),
        }
    }
    fn register_waker(&self, waker: &Waker) {
        self.script.lock().unwrap().wakers.push(waker.clone());
    }
    fn disconnect(&mut self) -> Result<(), HostFault> {
        match self.script.lock().unwrap().refuses_to_let_go {
            true => Err(HostFault::MemoryHeld),
            false => Ok(()),
        }
    }
    fn reconnect(&mut self) -> Result<(), HostFault> {
        let mut script = self.script.lock().unwrap();
        script.gone = false;
        script.answers.clear();
        self.room = 8;
        Ok(())
    }
}

fn limits() -> Limits {
    let mut limits = Limits::new(1000);
    limits.max_bytes = 3 * 4096;
    limits.max_segments = 3;
    limits.flush = true;
    limits
}

fn queue_with(limits: Limits) -> (Queue<Mock>, Arc<Mutex<Script>>) {
    let platform = Hosted::new(Ram::new(64, 0x100), Alone::default());
    let pages = Pages::alloc(&platform, 16).unwrap();
    let script = Arc::new(Mutex::new(Script::default()));
    let mock = Mock {
        pool: Pool::new(lend(pages)).unwrap(),
        platform,
        units: vec![Unit { address: 0, limits }],
        script: script.clone(),
        room: 8,
    };
    (Queue::new(mock), script)
}

fn queue() -> (Queue<Mock>, Arc<Mutex<Script>>) {
    queue_with(limits())
}

fn read(queue: &mut Queue<Mock>, sector: u64, len: usize) -> Tag {
    let buf = queue.alloc(len).unwrap();
    queue.submit(Request::read(sector, buf)).unwrap()
}

fn ok(id: u64) -> Result<Answer, HostFault> {
    Ok(Answer {
        id,
        says: Says::Operation(Op::Read as u8),
        result: Ok(()),
    })
}

fn refused(queue: &mut Queue<Mock>, request: Request) -> SubmitError {
    queue.submit(request).unwrap_err().0
}

fn free_pages(queue: &Queue<Mock>) -> usize {
    queue.transport().pool().unwrap().free_pages()
}

#[test]
fn requests_complete_in_any_order_with_their_own_buffers() {
    let (mut queue, script) = queue();
    let tags: Vec<Tag> = (0..4)
        .map(|i| read(&mut queue, i * 8, 4096 - i as usize * 512))
        .collect();
    let ids: Vec<u64> = script.lock().unwrap().pushed.iter().map(|p| p.0).collect();
    assert!(ids.iter().all(|id| *id != 0));
    for i in [2, 0, 3, 1] {
        script.lock().unwrap().answers.push_back(ok(ids[i]));
    }
    let mut seen = Vec::new();
    assert_eq!(queue.poll(3, |c| seen.push(c)), 3);
    assert_eq!(queue.in_flight(), 1);
    assert_eq!(queue.poll(64, |c| seen.push(c)), 1);
    let order: Vec<Tag> = seen.iter().map(|c| c.tag).collect();
    assert_eq!(order, [tags[2], tags[0], tags[3], tags[1]]);
    let lens: Vec<usize> = seen.iter().map(|c| c.buf.as_ref().unwrap().len()).collect();
    assert_eq!(lens, [4096 - 1024, 4096, 4096 - 1536, 4096 - 512]);
    assert_eq!(free_pages(&queue), 12);
    drop(seen);
    assert_eq!(free_pages(&queue), 16);
}

#[test]
fn a_batch_is_published_once() {
    let (mut queue, script) = queue();
    for i in 0..4 {
        read(&mut queue, i, 512);
    }
    assert_eq!(script.lock().unwrap().published, 0);
    queue.publish();
    queue.poll(1, drop);
    assert_eq!(script.lock().unwrap().published, 1);
}

#[test]
fn what_a_disk_cannot_do_is_refused_with_the_request() {
    let (mut queue, script) = queue();
    let buf = |len| queue.alloc(len).unwrap();
    let (whole, big, small, part) = (buf(4096), buf(4 * 4096), buf(0), buf(1000));
    assert_eq!(
        refused(&mut queue, Request::read(993, whole)),
        SubmitError::BeyondEnd
    );
    let whole = queue.alloc(4096).unwrap();
    assert_eq!(
        refused(&mut queue, Request::read(u64::MAX, whole)),
        SubmitError::BeyondEnd
    );
    assert_eq!(
        refused(&mut queue, Request::read(0, big)),
        SubmitError::TooLarge
    );
    assert_eq!(
        refused(&mut queue, Request::read(0, small)),
        SubmitError::Empty
    );
    assert_eq!(
        refused(&mut queue, Request::write(0, part)),
        SubmitError::Misaligned
    );
    assert_eq!(
        refused(&mut queue, Request::discard(0, 8)),
        SubmitError::Unsupported
    );
    assert_eq!(
        refused(&mut queue, Request::flush().on(1)),
        SubmitError::NoSuchUnit
    );
    // The last sector is still on the disk, and the buffer comes back with a refusal.
    let last = queue.alloc(512).unwrap();
    let (why, request) = queue.submit(Request::write(1000, last)).unwrap_err();
    assert_eq!(why, SubmitError::BeyondEnd);
    let last = request.into_buf().unwrap();
    queue.submit(Request::write(999, last)).unwrap();
    assert_eq!(script.lock().unwrap().pushed.len(), 1);
}

#[test]
fn gaps_and_piece_counts_are_checked() {
    let (mut queue, _script) = queue();
    let mut gap = queue.alloc(512).unwrap();
    gap.append(queue.alloc(512).unwrap()).unwrap();
    assert_eq!(refused(&mut queue, Request::read(0, gap)), SubmitError::Gap);
    let mut limits = limits();
    limits.gapless = false;
    let (mut queue, _script) = queue_with(limits);
    let piece = |queue: &Queue<Mock>| queue.alloc(512).unwrap();
    let mut three = piece(&queue);
    three.append(piece(&queue)).unwrap();
    three.append(piece(&queue)).unwrap();
    let mut four = piece(&queue);
    for _ in 0..3 {
        four.append(piece(&queue)).unwrap();
    }
    queue.submit(Request::read(0, three)).unwrap();
    assert_eq!(
        refused(&mut queue, Request::read(0, four)),
        SubmitError::TooManySegments
    );
}

#[test]
fn sectors_of_4096_bytes_are_not_split() {
    let mut limits = limits();
    limits.sector_size = 4096;
    let (mut queue, _script) = queue_with(limits);
    let whole = queue.alloc(4096).unwrap();
    let half = queue.alloc(2048).unwrap();
    assert_eq!(
        refused(&mut queue, Request::read(4, whole)),
        SubmitError::Misaligned
    );
    assert_eq!(
        refused(&mut queue, Request::read(8, half)),
        SubmitError::Misaligned
    );
    read(&mut queue, 8, 4096);
}

#[test]
fn a_full_queue_refuses_and_recovers() {
    let (mut queue, script) = queue();
    for i in 0..8 {
        read(&mut queue, i, 512);
    }
    let one_more = queue.alloc(512).unwrap();
    let (why, request) = queue.submit(Request::read(0, one_more)).unwrap_err();
    assert_eq!(why, SubmitError::QueueFull);
    let id = script.lock().unwrap().pushed[3].0;
    script.lock().unwrap().answers.push_back(ok(id));
    assert_eq!(queue.poll(64, drop), 1);
    queue.submit(request).unwrap();
}

/// Runs one lie past a queue with one read in flight; returns the fault it latched.
fn lie(answer: impl FnOnce(u64) -> Answer) -> HostFault {
    let (mut queue, script) = queue();
    read(&mut queue, 0, 4096);
    let id = script.lock().unwrap().pushed[0].0;
    script.lock().unwrap().answers.push_back(Ok(answer(id)));
    let mut failed = Vec::new();
    queue.poll(64, |c| failed.push(c));
    // The request fails, and its page stays out of the pool while the host may write it.
    assert_eq!(failed.len(), 1);
    let fault = queue.fault().unwrap();
    assert_eq!(failed[0].result, Err(IoError::Host(fault)));
    assert!(failed[0].buf.is_none());
    assert_eq!(free_pages(&queue), 15);
    let buf = queue.alloc(512).unwrap();
    assert_eq!(
        refused(&mut queue, Request::read(0, buf)),
        SubmitError::Failed(fault)
    );
    queue.reconnect().unwrap();
    assert_eq!(free_pages(&queue), 16);
    read(&mut queue, 0, 512);
    fault
}

#[test]
fn lies_are_latched_and_survived() {
    let base = |id| Answer {
        id,
        says: Says::Operation(Op::Read as u8),
        result: Ok(()),
    };
    assert_eq!(lie(|_| base(0)), HostFault::UnknownId);
    assert_eq!(lie(|_| base(u64::MAX)), HostFault::UnknownId);
    assert_eq!(lie(|id| base(id + 1)), HostFault::UnknownId);
    assert_eq!(lie(|id| base(id + 64)), HostFault::UnknownId);
    assert_eq!(
        lie(|id| Answer {
            says: Says::Operation(Op::Write as u8),
            ..base(id)
        }),
        HostFault::WrongOperation
    );
    assert_eq!(
        lie(|id| Answer {
            says: Says::Moved(4097),
            ..base(id)
        }),
        HostFault::Length
    );
}

#[test]
fn an_answer_counts_once() {
    let (mut queue, script) = queue();
    read(&mut queue, 0, 512);
    let id = script.lock().unwrap().pushed[0].0;
    script.lock().unwrap().answers.extend([ok(id), ok(id)]);
    let mut results = Vec::new();
    queue.poll(64, |c| results.push(c.result));
    assert_eq!(results, [Ok(())]);
    assert_eq!(queue.fault(), Some(HostFault::UnknownId));
}

#[test]
fn a_short_transfer_is_an_error_with_its_length() {
    let (mut queue, script) = queue();
    read(&mut queue, 0, 4096);
    let id = script.lock().unwrap().pushed[0].0;
    script.lock().unwrap().answers.push_back(Ok(Answer {
        id,
        says: Says::Moved(512),
        result: Ok(()),
    }));
    let mut result = None;
    queue.poll(1, |c| result = Some(c.result));
    assert_eq!(result, Some(Err(IoError::Short { moved: 512 })));
    assert_eq!(queue.fault(), None);
}

#[test]
fn an_abandoned_request_returns_its_buffer_when_it_is_done() {
    let (mut queue, script) = queue();
    let tag = read(&mut queue, 0, 512);
    queue.abandon(tag);
    assert!(!queue.is_live(tag));
    assert_eq!(free_pages(&queue), 15);
    let id = script.lock().unwrap().pushed[0].0;
    script.lock().unwrap().answers.push_back(ok(id));
    assert_eq!(queue.poll(64, drop), 0);
    assert_eq!(free_pages(&queue), 16);
    assert_eq!(queue.fault(), None);
}

#[test]
fn a_device_that_goes_fails_what_is_in_flight() {
    let (mut queue, script) = queue();
    read(&mut queue, 0, 512);
    read(&mut queue, 1, 512);
    script.lock().unwrap().gone = true;
    script.lock().unwrap().refuses_to_let_go = true;
    let mut failed = 0;
    queue.poll(64, |c| {
        assert_eq!(c.result, Err(IoError::Host(HostFault::Withdrawn)));
        failed += 1;
    });
    assert_eq!(failed, 2);
    // A host that does not let go keeps the pages from reuse; closing can be tried again.
    assert_eq!(queue.close(), Err(HostFault::MemoryHeld));
    assert_eq!(free_pages(&queue), 14);
    script.lock().unwrap().refuses_to_let_go = false;
    queue.close().unwrap();
    assert_eq!(free_pages(&queue), 16);
}

#[test]
fn blocking_calls_split_and_join() {
    let (mut queue, script) = queue();
    let answer_all = {
        let script = script.clone();
        move || {
            let mut s = script.lock().unwrap();
            let ids: Vec<u64> = s.pushed.drain(..).map(|p| p.0).collect();
            s.answers.extend(ids.into_iter().map(ok));
        }
    };
    // The host answers nothing by itself here, so the call must end by its deadline.
    let mut disk = blkfront::blocking::Disk::new(&mut queue, 0)
        .unwrap()
        .with_timeout(1000);
    let mut bytes = [0u8; 512];
    assert_eq!(
        disk.read_into(0, &mut bytes),
        Err(blkfront::blocking::DiskError::TimedOut)
    );
    answer_all();
    queue.reap();
    assert_eq!(free_pages(&queue), 16);
}

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(waker))
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn one_task_finds_anothers_completion_and_wakes_it() {
    let (queue, script) = queue();
    let queue = blkfront::future::AsyncQueue::new(queue);
    let request = |sector| Request::read(sector, queue.alloc(512).unwrap());
    let mut a = queue.submit(request(0)).unwrap();
    let mut b = queue.submit(request(1)).unwrap();
    let (wake_a, wake_b) = (Arc::new(Count(0.into())), Arc::new(Count(0.into())));
    let (waker_a, waker_b) = (Waker::from(wake_a.clone()), Waker::from(wake_b.clone()));
    assert!(poll(&mut a, &waker_a).is_pending());
    assert!(poll(&mut b, &waker_b).is_pending());
    let id_a = script.lock().unwrap().pushed[0].0;
    script.lock().unwrap().answers.push_back(ok(id_a));
    assert!(poll(&mut b, &waker_b).is_pending());
    assert_eq!(wake_a.0.load(Ordering::Relaxed), 1);
    let Poll::Ready(Ok(done)) = poll(&mut a, &waker_a) else {
        panic!("a's completion was found by b");
    };
    assert_eq!(done.result, Ok(()));
    // Forgetting a future leaks a slot at most; dropping one abandons its request.
    drop(b);
    drop(a);
    let id_b = script.lock().unwrap().pushed[1].0;
    script.lock().unwrap().answers.push_back(ok(id_b));
    drop(done);
    queue.with(|q| q.reap());
    queue.with(|q| assert_eq!(free_pages(q), 16));
}

#[test]
fn a_dropped_task_passes_the_doorbell_on() {
    let (queue, script) = queue();
    let queue = blkfront::future::AsyncQueue::new(queue);
    let request = |sector| Request::read(sector, queue.alloc(512).unwrap());
    let mut a = queue.submit(request(0)).unwrap();
    let mut b = queue.submit(request(1)).unwrap();
    let wake_a = Arc::new(Count(0.into()));
    let waker_a = Waker::from(wake_a.clone());
    assert!(poll(&mut a, &waker_a).is_pending());
    assert!(poll(&mut b, Waker::noop()).is_pending());
    drop(b);
    // The device's interrupt now goes to a, which is still waiting.
    let last = script.lock().unwrap().wakers.last().cloned().unwrap();
    last.wake();
    assert_eq!(wake_a.0.load(Ordering::Relaxed), 1);
}
