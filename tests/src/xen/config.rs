//! What kind of host, and what kind of guest.

use super::abi::ops::E820Entry;
use super::cpu::Vendor;
use super::xenstored::StoreHabits;

/// What kind of host and guest.
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything that could go either way goes as this says.
    pub seed: u64,
    /// The guest's domain id.
    pub domid: u16,
    pub vcpus: u32,
    /// Guest frame numbers of the pages the toolstack set up; they must be memory.
    pub store_gfn: u64,
    pub console_gfn: u64,
    pub vendor: Vendor,
    /// Hyper-V's CPUID leaves before Xen's.
    pub viridian: bool,
    pub viridian_synic: bool,
    /// Xen's version.
    pub version: (u16, u16),
    /// Whether `HVMOP_set_evtchn_upcall_vector` exists.
    pub upcall_vector: bool,
    /// Whether a callback by vector exists (`XENFEAT_hvm_callback_vector`).
    pub callback_vector: bool,
    /// Whether the guest may use the hypervisor's own console.
    pub console_io: bool,
    /// Frames of the grant table at the start, and at most.
    pub grant_frames: u32,
    pub max_grant_frames: u32,
    pub max_grant_version: u32,
    /// Refuse one-shot deadlines in the past where the guest asks for that (before Xen 4.18).
    pub timer_refuses_past: bool,
    pub tsc_hz: u64,
    /// Seconds since 1970 when the machine starts.
    pub boot_wall_s: u64,
    /// `XENMEM_memory_map`; empty: the hypercall does not exist.
    pub memory_map: Vec<E820Entry>,
    pub store: StoreHabits,
}

impl Config {
    /// Xen 4.20 as Debian's, with the xenstore and console pages at these guest frames.
    pub fn new(store_gfn: u64, console_gfn: u64) -> Self {
        Config {
            seed: 0,
            domid: 5,
            vcpus: 1,
            store_gfn,
            console_gfn,
            vendor: Vendor::Intel,
            viridian: false,
            viridian_synic: false,
            version: (4, 20),
            upcall_vector: true,
            callback_vector: true,
            console_io: true,
            grant_frames: 1,
            max_grant_frames: 64,
            max_grant_version: 2,
            timer_refuses_past: false,
            tsc_hz: 2_400_000_000,
            boot_wall_s: 1_750_000_000,
            memory_map: Vec::new(),
            store: StoreHabits::default(),
        }
    }
}
