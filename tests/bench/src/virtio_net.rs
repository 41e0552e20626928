//! The yardstick for networks: `virtio-drivers`' raw driver on a fake device in this process.
//!
//! Unsafe code stands here for the same reason as in `virtio`.

use crate::count::{outside, timed};
use crate::virtio::{Identity, load, store};
use crate::{Counted, Measure};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use virtio_drivers::PhysAddr;
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Places in a queue.
const QUEUE: usize = 256;
/// Bytes of the header before each frame.
const HEADER: usize = 12;
/// Bytes of a frame.
const FRAME: usize = 64;
/// `VIRTIO_F_VERSION_1` and `VIRTIO_F_EVENT_IDX`.
const FEATURES: u64 = 1 << 32 | 1 << 29;

/// How often the device was told.
static NOTIFICATIONS: AtomicU64 = AtomicU64::new(0);

/// One queue as the device sees it.
#[derive(Debug, Default, Clone, Copy)]
struct Half {
    size: u16,
    driver: usize,
    device: usize,
    seen: u16,
}

impl Half {
    /// Finishes up to `most` of what is there, each with `len` bytes written.
    fn serve(&mut self, most: usize, len: u32) {
        let produced: u16 = load(self.driver + 2);
        let mut done = 0;
        while self.seen != produced && done < most {
            let slot = usize::from(self.seen % self.size);
            let head: u16 = load(self.driver + 4 + slot * 2);
            let used = self.device + 4 + slot * 8;
            store(used, u32::from(head));
            store(used + 4, len);
            self.seen = self.seen.wrapping_add(1);
            store(self.device + 2, self.seen);
            done += 1;
        }
        // avail_event: tell me of the next one.
        store(self.device + 4 + usize::from(self.size) * 8, self.seen);
    }
}

/// A device that sends every frame as soon as it is told, and receives when the test says so.
#[derive(Default, Clone)]
struct Fake(Arc<Mutex<[Half; 2]>>);

impl Fake {
    fn with<R>(&self, queue: u16, f: impl FnOnce(&mut Half) -> R) -> R {
        let mut halves = self.0.lock().expect("nobody panicked");
        f(&mut halves[usize::from(queue)])
    }
}

impl Transport for Fake {
    fn device_type(&self) -> DeviceType {
        DeviceType::Network
    }
    fn read_device_features(&mut self) -> u64 {
        FEATURES
    }
    fn write_driver_features(&mut self, _: u64) {}
    fn max_queue_size(&mut self, _: u16) -> u32 {
        QUEUE as u32
    }
    fn notify(&mut self, queue: u16) {
        outside(|| {
            NOTIFICATIONS.fetch_add(1, Ordering::Relaxed);
            // Queue 1 is the one to send by; nothing is received yet.
            let most = if queue == 1 { QUEUE } else { 0 };
            self.with(queue, |half| half.serve(most, 0));
        });
    }
    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::DRIVER_OK
    }
    fn set_status(&mut self, _: DeviceStatus) {}
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, n: u16, size: u32, _: PhysAddr, driver: PhysAddr, dev: PhysAddr) {
        self.with(n, |half| {
            *half = Half {
                size: size as u16,
                driver: driver as usize,
                device: dev as usize,
                seen: 0,
            }
        });
    }
    fn queue_unset(&mut self, _: u16) {}
    fn queue_used(&mut self, _: u16) -> bool {
        false
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::QUEUE_INTERRUPT
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, _: usize) -> virtio_drivers::Result<T> {
        Ok(T::new_zeroed())
    }
    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        _: usize,
        _: T,
    ) -> virtio_drivers::Result<()> {
        Ok(())
    }
}

type Net = VirtIONetRaw<Identity, Fake, QUEUE>;

fn measure(depth: usize, batches: u64, mut batch: impl FnMut()) -> Measure {
    let before = NOTIFICATIONS.load(Ordering::Relaxed);
    let nanoseconds = (0..batches).map(|_| timed(&mut batch).1).sum();
    Measure {
        requests: batches * depth as u64,
        counted: Counted {
            signals: NOTIFICATIONS.load(Ordering::Relaxed) - before,
            ..Counted::default()
        },
        nanoseconds,
    }
}

/// Sends frames of 64 bytes, each with the header that the driver fills in.
pub fn tx(depth: usize, batches: u64) -> Measure {
    let mut net = Net::new(Fake::default()).expect("the fake device starts");
    let mut frames = vec![[0u8; HEADER + FRAME]; depth];
    let mut tokens = vec![0; depth];
    measure(depth, batches, || {
        for (frame, token) in frames.iter_mut().zip(&mut tokens) {
            net.fill_buffer_header(frame).expect("room for the header");
            // SAFETY: the frame stays where it is and is not touched until it is completed below.
            *token = unsafe { net.transmit_begin(frame) }.expect("the queue has room");
        }
        for (frame, token) in frames.iter_mut().zip(&tokens) {
            assert_eq!(net.poll_transmit(), Some(*token));
            // SAFETY: the same frame as it was sent with.
            unsafe { net.transmit_complete(*token, frame) }.expect("the fake device succeeds");
        }
    })
}

/// Receives frames of 64 bytes, and posts each buffer again.
pub fn rx(depth: usize, batches: u64) -> Measure {
    let fake = Fake::default();
    let mut net = Net::new(fake.clone()).expect("the fake device starts");
    let mut buffers = vec![[0u8; 2048]; QUEUE];
    let mut places = vec![0usize; QUEUE];
    for (place, buffer) in buffers.iter_mut().enumerate() {
        // SAFETY: the buffer stays where it is and is not touched until it is completed below.
        let token = unsafe { net.receive_begin(buffer) }.expect("the queue has room");
        places[usize::from(token)] = place;
    }
    measure(depth, batches, || {
        outside(|| fake.with(0, |half| half.serve(depth, (HEADER + FRAME) as u32)));
        for _ in 0..depth {
            let token = net.poll_receive().expect("a frame");
            let place = places[usize::from(token)];
            let buffer = &mut buffers[place];
            // SAFETY: the same buffer as it was posted with.
            let got = unsafe { net.receive_complete(token, buffer) }.expect("a sound device");
            assert_eq!(got, (HEADER, FRAME));
            // SAFETY: as above.
            let token = unsafe { net.receive_begin(buffer) }.expect("the queue has room");
            places[usize::from(token)] = place;
        }
    })
}
