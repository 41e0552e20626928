//! Pages a Xen guest shares with the host, as structs whose field offsets the model uses.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `xen.h`, `struct vcpu_time_info`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuTimeInfo {
    /// Odd while an update is under way.
    pub version: u32,
    pub pad0: u32,
    pub tsc_timestamp: u64,
    /// Nanoseconds since the machine started.
    pub system_time: u64,
    pub tsc_to_system_mul: u32,
    pub tsc_shift: i8,
    pub flags: u8,
    pub pad1: [u8; 2],
}
const _: () = assert!(size_of::<VcpuTimeInfo>() == 32);

/// `VcpuTimeInfo::flags`: the clock never goes backwards from one vCPU to another.
pub const PVCLOCK_TSC_STABLE: u8 = 1;

/// `xen.h`, `struct vcpu_info` (64-bit; the eight bytes of `arch` words are CR2 and padding).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuInfo {
    pub evtchn_upcall_pending: u8,
    pub evtchn_upcall_mask: u8,
    pub pad: [u8; 6],
    pub evtchn_pending_sel: u64,
    pub arch: [u64; 2],
    pub time: VcpuTimeInfo,
}
const _: () = assert!(size_of::<VcpuInfo>() == 64);

/// vCPUs whose `vcpu_info` lies in the shared info page (`XEN_LEGACY_MAX_VCPUS`).
pub const LEGACY_VCPUS: u32 = 32;

/// `xen.h`, `struct shared_info` (64-bit).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SharedInfo {
    pub vcpu_info: [VcpuInfo; LEGACY_VCPUS as usize],
    pub evtchn_pending: [u64; 64],
    pub evtchn_mask: [u64; 64],
    pub wc_version: u32,
    pub wc_sec: u32,
    pub wc_nsec: u32,
    pub wc_sec_hi: u32,
    /// `arch-x86/xen.h`, `struct arch_shared_info`.
    pub arch: [u64; 6],
}
const _: () = assert!(size_of::<SharedInfo>() == 3136);

/// `grant_table.h`, `struct grant_entry_v1`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct GrantEntry {
    pub flags: u16,
    pub domid: u16,
    pub frame: u32,
}
const _: () = assert!(size_of::<GrantEntry>() == 8);

/// `io/xs_wire.h`, `struct xsd_sockmsg`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct StoreHeader {
    pub kind: u32,
    pub req_id: u32,
    pub tx_id: u32,
    /// Bytes that follow.
    pub len: u32,
}
const _: () = assert!(size_of::<StoreHeader>() == 16);

/// `io/xs_wire.h`, `struct xenstore_domain_interface`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StorePage {
    pub req: [u8; 1024],
    pub rsp: [u8; 1024],
    pub req_cons: u32,
    pub req_prod: u32,
    pub rsp_cons: u32,
    pub rsp_prod: u32,
    pub server_features: u32,
    pub connection: u32,
    pub error: u32,
    pub evtchn_port: u32,
}
const _: () = assert!(size_of::<StorePage>() == 2080);

/// `io/console.h`, `struct xencons_interface`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConsolePage {
    /// Host to guest.
    pub input: [u8; 1024],
    /// Guest to host.
    pub output: [u8; 2048],
    pub in_cons: u32,
    pub in_prod: u32,
    pub out_cons: u32,
    pub out_prod: u32,
    /// 0 connected, 1 not yet.
    pub connection: u8,
    pub pad: [u8; 3],
}
const _: () = assert!(size_of::<ConsolePage>() == 3092);
