//! The yardstick: `virtio-drivers`' block driver on a fake device in this process.
//!
//! Unsafe code stands here because that driver's interface asks for it: the platform below it and
//! the requests in flight are the caller's responsibility.

use crate::count::{outside, timed};
use crate::{Counted, Measure};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A platform where physical addresses are virtual ones, and sharing costs nothing.
pub struct Identity;

fn layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).expect("a few pages")
}

// SAFETY: pages come zeroed and page-aligned from the heap, which is one address space with the
// fake device.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: the layout is not empty.
        let at = NonNull::new(unsafe { alloc_zeroed(layout(pages)) }).expect("memory");
        (at.as_ptr().expose_provenance() as PhysAddr, at)
    }
    unsafe fn dma_dealloc(_: PhysAddr, at: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: the caller gives back what `dma_alloc` gave.
        unsafe { dealloc(at.as_ptr(), layout(pages)) };
        0
    }
    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(std::ptr::with_exposed_provenance_mut(paddr as usize)).expect("an address")
    }
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.as_ptr().cast::<u8>().expose_provenance() as PhysAddr
    }
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// A device that answers every request with success as soon as it is told, without moving data.
#[derive(Default)]
struct Fake {
    indirect: bool,
    size: u16,
    descriptors: usize,
    driver: usize,
    device: usize,
    seen: u16,
}

/// How often the device was told.
static NOTIFICATIONS: AtomicU64 = AtomicU64::new(0);

const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
const INDIRECT_DESC: u64 = 1 << 28;

pub fn load<T: Copy>(at: usize) -> T {
    // SAFETY: addresses are those of the queue the driver set up, or of what its descriptors name.
    unsafe { std::ptr::with_exposed_provenance::<T>(at).read_volatile() }
}

pub fn store<T>(at: usize, value: T) {
    // SAFETY: as in `load`.
    unsafe { std::ptr::with_exposed_provenance_mut::<T>(at).write_volatile(value) }
}

impl Fake {
    fn serve(&mut self) {
        let produced: u16 = load(self.driver + 2);
        while self.seen != produced {
            let slot = usize::from(self.seen % self.size);
            let head: u16 = load(self.driver + 4 + slot * 2);
            self.finish(head);
            let used = self.device + 4 + slot * 8;
            store(used, u32::from(head));
            store(used + 4, 4097u32);
            self.seen = self.seen.wrapping_add(1);
            store(self.device + 2, self.seen);
        }
        // avail_event: tell me of the next one.
        store(self.device + 4 + usize::from(self.size) * 8, self.seen);
    }

    /// The last descriptor of a chain is the status byte.
    fn finish(&self, head: u16) {
        let (mut table, mut index) = (self.descriptors, usize::from(head));
        if self.indirect {
            (table, index) = (load::<u64>(table + index * 16) as usize, 0);
        }
        loop {
            let at = table + index * 16;
            let flags: u16 = load(at + 12);
            if flags & 1 == 0 {
                store(load::<u64>(at) as usize, 0u8);
                return;
            }
            index = usize::from(load::<u16>(at + 14));
        }
    }
}

impl Transport for Fake {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }
    fn read_device_features(&mut self) -> u64 {
        VERSION_1 | EVENT_IDX | if self.indirect { INDIRECT_DESC } else { 0 }
    }
    fn write_driver_features(&mut self, _: u64) {}
    fn max_queue_size(&mut self, _: u16) -> u32 {
        256
    }
    fn notify(&mut self, _: u16) {
        outside(|| {
            NOTIFICATIONS.fetch_add(1, Ordering::Relaxed);
            self.serve();
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
    fn queue_set(&mut self, _: u16, size: u32, desc: PhysAddr, driver: PhysAddr, dev: PhysAddr) {
        self.size = size as u16;
        (self.descriptors, self.driver, self.device) =
            (desc as usize, driver as usize, dev as usize);
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

/// One request of the driver's caller.
#[derive(Default)]
struct Slot {
    request: BlkReq,
    response: BlkResp,
    token: u16,
}

/// Reads of 4 KiB in batches of `depth`.
pub fn run(indirect: bool, depth: usize, batches: u64) -> Measure {
    let fake = Fake {
        indirect,
        ..Fake::default()
    };
    let mut blk = VirtIOBlk::<Identity, _>::new(fake).expect("the fake device starts");
    let mut slots: Vec<Slot> = (0..depth).map(|_| Slot::default()).collect();
    let mut data = vec![[0u8; 4096]; depth];
    let before = NOTIFICATIONS.load(Ordering::Relaxed);
    let mut batch = || {
        timed(|| {
            for (i, (slot, data)) in slots.iter_mut().zip(&mut data).enumerate() {
                // SAFETY: slot and data stay where they are and are not touched until the request
                // is completed below.
                slot.token = unsafe {
                    blk.read_blocks_nb(i * 8, &mut slot.request, data, &mut slot.response)
                }
                .expect("the queue has room");
            }
            for (slot, data) in slots.iter_mut().zip(&mut data) {
                while blk.peek_used() != Some(slot.token) {}
                // SAFETY: the same slot and data as the request was made with.
                unsafe {
                    blk.complete_read_blocks(slot.token, &slot.request, data, &mut slot.response)
                }
                .expect("the fake device succeeds");
            }
        })
    };
    let nanoseconds = (0..batches).map(|_| batch().1).sum();
    Measure {
        requests: batches * depth as u64,
        nanoseconds,
        counted: Counted {
            signals: NOTIFICATIONS.load(Ordering::Relaxed) - before,
            ..Counted::default()
        },
    }
}
