//! A line to a tap interface of this machine, with checksums and segmentation left open both ways
//! (Linux `Documentation/networking/tuntap.rst`, `include/uapi/linux/virtio_net.h`).

use pv_tests::net::{Checksum, Frame, Port};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_val};
use vmm_sys_util::ioctl_iow_nr;

mod header;

use header::HEADER;

ioctl_iow_nr!(TUNSETIFF, b'T' as u32, 202, libc::c_int);
ioctl_iow_nr!(TUNSETOFFLOAD, b'T' as u32, 208, libc::c_uint);

/// TUN_F_CSUM, TUN_F_TSO4 and TUN_F_TSO6: frames from the interface may lack their checksum, and may be
/// segments longer than a packet.
const OFFLOADS: libc::c_ulong = 1 | 2 | 4;
/// Frames that wait for the guest; then the kernel keeps them, and then it drops them.
const QUEUE: usize = 256;
/// The largest frame: a segment of 64 KiB with its headers.
const LARGEST: usize = 65536 + 256;

/// Frames from the interface, and room for more.
#[derive(Default)]
struct Waiting {
    frames: Mutex<VecDeque<Frame>>,
    room: Condvar,
}

impl Waiting {
    fn frames(&self) -> MutexGuard<'_, VecDeque<Frame>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What went over the line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Frames from the guest.
    pub sent: u64,
    /// Those of them longer than a packet, which the kernel is to cut.
    pub segments: u64,
    /// Bytes of the longest of them.
    pub longest: usize,
    /// Those of them whose checksum the kernel is to fill in.
    pub blank: u64,
    /// Frames to the guest.
    pub received: u64,
    /// Those of them longer than a packet, which the NIC is to cut.
    pub joined: u64,
    /// Frames the kernel did not take.
    pub refused: u64,
}

/// The guest's end of a tap interface.
pub struct Tap {
    file: File,
    waiting: Arc<Waiting>,
    count: Arc<Mutex<Count>>,
}

impl Tap {
    /// Takes the interface `name` and reads from it on a thread of its own, which calls `arrived` for each
    /// batch of frames.
    pub fn open(name: &str, arrived: impl Fn() + Send + 'static) -> Result<Self, String> {
        let what = |error: std::io::Error| format!("tap {name}: {error}");
        let file = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .map_err(what)?;
        attach(&file, name).map_err(what)?;
        let waiting = Arc::new(Waiting::default());
        let (from, to) = (file.try_clone().map_err(what)?, waiting.clone());
        thread::spawn(move || read(from, &to, &arrived));
        Ok(Tap {
            file,
            waiting,
            count: Arc::default(),
        })
    }

    /// Where the counts can be read after the line has been handed over.
    pub fn count(&self) -> Arc<Mutex<Count>> {
        self.count.clone()
    }
}

/// Makes the open file the other end of the interface: Ethernet frames, each behind a header that tells
/// what is to be done to it.
fn attach(file: &File, name: &str) -> std::io::Result<()> {
    let bytes = name.as_bytes();
    if bytes.len() >= libc::IFNAMSIZ {
        return Err(std::io::Error::other("the name is too long"));
    }
    // struct ifreq: the name, then a union of 24 bytes that begins with the flags.
    let mut request = [0u8; libc::IFNAMSIZ + 24];
    request[..bytes.len()].copy_from_slice(bytes);
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as u16;
    request[libc::IFNAMSIZ..][..2].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which on 64-bit Linux has 40 bytes and no
    // pointer in the members it uses; `request` has that size, is borrowed for writing and lives
    // through the call, and any bytes are a value of it; the file is open.
    let done = unsafe { ioctl_with_mut_ref(file, TUNSETIFF(), &mut request) };
    if done < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of this process.
    let done = unsafe { ioctl_with_val(file, TUNSETOFFLOAD(), OFFLOADS) };
    if done < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Reads frames until the interface is gone.
fn read(mut file: File, waiting: &Waiting, arrived: &dyn Fn()) {
    let mut buffer = vec![0; HEADER + LARGEST];
    while let Ok(length) = file.read(&mut buffer) {
        let Some(frame) = header::parse(&buffer[..length]) else {
            continue;
        };
        let mut frames = waiting.frames();
        while frames.len() >= QUEUE {
            frames = waiting
                .room
                .wait(frames)
                .unwrap_or_else(PoisonError::into_inner);
        }
        frames.push_back(frame);
        drop(frames);
        arrived();
    }
}

impl Port for Tap {
    fn send(&mut self, frame: Frame) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        count.sent += 1;
        count.segments += u64::from(frame.segment.is_some());
        count.longest = count.longest.max(frame.bytes.len());
        count.blank += u64::from(matches!(frame.checksum, Checksum::Partial { .. }));
        // One write is one frame; what the kernel does not take is lost, as on any line.
        if self.file.write(&header::write(frame)).is_err() {
            count.refused += 1;
        }
    }

    fn receive(&mut self) -> Option<Frame> {
        let frame = self.waiting.frames().pop_front()?;
        self.waiting.room.notify_one();
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        count.received += 1;
        count.joined += u64::from(frame.segment.is_some());
        Some(frame)
    }

    fn is_ready(&self) -> bool {
        !self.waiting.frames().is_empty()
    }
}
