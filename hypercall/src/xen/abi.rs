//! Xen's hypercall structures and numbers, for a 64-bit HVM or PVH guest on x86.
//!
//! Fields keep the names of the C headers (`xen/include/public/…`), so that they can be compared.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Asserts a structure's size and the offsets of its fields.
macro_rules! layout {
    ($type:ident, $size:expr; $($field:ident: $offset:expr),* $(,)?) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)*
        };
    };
}

/// Hypercall numbers (`xen.h`, `__HYPERVISOR_*`).
pub mod hypercall {
    /// `__HYPERVISOR_memory_op`.
    pub const MEMORY_OP: u32 = 12;
    /// `__HYPERVISOR_set_timer_op`.
    pub const SET_TIMER_OP: u32 = 15;
    /// `__HYPERVISOR_console_io`.
    pub const CONSOLE_IO: u32 = 18;
    /// `__HYPERVISOR_grant_table_op`.
    pub const GRANT_TABLE_OP: u32 = 20;
    /// `__HYPERVISOR_vcpu_op`.
    pub const VCPU_OP: u32 = 24;
    /// `__HYPERVISOR_sched_op`.
    pub const SCHED_OP: u32 = 29;
    /// `__HYPERVISOR_event_channel_op`.
    pub const EVENT_CHANNEL_OP: u32 = 32;
    /// `__HYPERVISOR_hvm_op`.
    pub const HVM_OP: u32 = 34;
}

/// This domain, where a call takes a domain (`xen.h`).
pub const DOMID_SELF: u16 = 0x7ff0;

/// Error numbers that are looked at (`errno.h`).
pub mod errno {
    /// `XEN_ENOENT`.
    pub const ENOENT: i64 = 2;
    /// `XEN_EEXIST`.
    pub const EEXIST: i64 = 17;
    /// `XEN_ENOSPC`.
    pub const ENOSPC: i64 = 28;
    /// `XEN_ENOSYS`.
    pub const ENOSYS: i64 = 38;
    /// `XEN_ETIME`.
    pub const ETIME: i64 = 62;
    /// `XEN_EOPNOTSUPP`.
    pub const EOPNOTSUPP: i64 = 95;
}

/// `memory.h`: sub-operations of [`hypercall::MEMORY_OP`].
pub const XENMEM_ADD_TO_PHYSMAP: u32 = 7;
/// `memory.h`.
pub const XENMEM_MEMORY_MAP: u32 = 9;
/// `memory.h`: the shared info page.
pub const XENMAPSPACE_SHARED_INFO: u32 = 0;
/// `memory.h`: a frame of the grant table.
pub const XENMAPSPACE_GRANT_TABLE: u32 = 1;

/// `memory.h`: `struct xen_add_to_physmap`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenAddToPhysmap {
    /// Whose physical address space.
    pub domid: u16,
    /// Only for ranges.
    pub size: u16,
    /// `XENMAPSPACE_*`.
    pub space: u32,
    /// Which page of that space.
    pub idx: u64,
    /// The guest frame where it is to appear.
    pub gpfn: u64,
}
layout!(XenAddToPhysmap, 24; domid: 0, size: 2, space: 4, idx: 8, gpfn: 16);

/// `memory.h`: `struct xen_memory_map`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenMemoryMap {
    /// In: how many entries the buffer holds; out: how many were stored.
    pub nr_entries: u32,
    /// Padding.
    pub pad: u32,
    /// The buffer's linear address.
    pub buffer: u64,
}
layout!(XenMemoryMap, 16; nr_entries: 0, buffer: 8);

/// An entry of the memory map: the form of the BIOS call E820 (`hvm/e820.h`,
/// `struct hvm_e820entry`; packed, so its words are bytes here).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct E820Entry {
    /// First byte.
    pub addr: [u8; 8],
    /// Bytes.
    pub size: [u8; 8],
    /// Kind: 1 is usable memory.
    pub r#type: [u8; 4],
}
layout!(E820Entry, 20; addr: 0, size: 8, r#type: 16);

/// `event_channel.h`: sub-operations of [`hypercall::EVENT_CHANNEL_OP`].
pub const EVTCHNOP_BIND_VIRQ: u32 = 1;
/// `event_channel.h`.
pub const EVTCHNOP_CLOSE: u32 = 3;
/// `event_channel.h`.
pub const EVTCHNOP_SEND: u32 = 4;
/// `event_channel.h`.
pub const EVTCHNOP_STATUS: u32 = 5;
/// `event_channel.h`.
pub const EVTCHNOP_ALLOC_UNBOUND: u32 = 6;
/// `event_channel.h`.
pub const EVTCHNOP_BIND_VCPU: u32 = 8;
/// `event_channel.h`.
pub const EVTCHNOP_UNMASK: u32 = 9;
/// `event_channel.h`: a port bound to a virtual interrupt.
pub const EVTCHNSTAT_VIRQ: u32 = 4;
/// `event_channel.h`, `EVTCHN_2L_NR_CHANNELS` on a 64-bit guest.
pub const EVTCHN_2L_NR_CHANNELS: u32 = 4096;
/// `xen.h`: the timer's virtual interrupt.
pub const VIRQ_TIMER: u32 = 0;

/// `event_channel.h`: `struct evtchn_alloc_unbound`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnAllocUnbound {
    /// The domain that gets the port.
    pub dom: u16,
    /// The domain that may bind to it.
    pub remote_dom: u16,
    /// Out: the port.
    pub port: u32,
}
layout!(EvtchnAllocUnbound, 8; dom: 0, remote_dom: 2, port: 4);

/// `event_channel.h`: `struct evtchn_bind_virq`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnBindVirq {
    /// `VIRQ_*`.
    pub virq: u32,
    /// The virtual processor.
    pub vcpu: u32,
    /// Out: the port.
    pub port: u32,
}
layout!(EvtchnBindVirq, 12; virq: 0, vcpu: 4, port: 8);

/// `event_channel.h`: `struct evtchn_close`, `struct evtchn_send` and `struct evtchn_unmask`,
/// which are alike.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnPort {
    /// The port.
    pub port: u32,
}
layout!(EvtchnPort, 4; port: 0);

/// `event_channel.h`: `struct evtchn_bind_vcpu`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnBindVcpu {
    /// The port.
    pub port: u32,
    /// The virtual processor that is to be told.
    pub vcpu: u32,
}
layout!(EvtchnBindVcpu, 8; port: 0, vcpu: 4);

/// `event_channel.h`: `struct evtchn_status`; of the union `u` only `virq` is used.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnStatus {
    /// Whose port.
    pub dom: u16,
    /// Padding.
    pub pad: u16,
    /// The port.
    pub port: u32,
    /// Out: `EVTCHNSTAT_*`.
    pub status: u32,
    /// Out: the virtual processor it is bound to.
    pub vcpu: u32,
    /// Out: `u.virq`, when the status is [`EVTCHNSTAT_VIRQ`].
    pub virq: u32,
    /// Out: the rest of the union.
    pub rest: u32,
}
layout!(EvtchnStatus, 24; dom: 0, port: 4, status: 8, vcpu: 12, virq: 16);

/// `grant_table.h`: sub-operations of [`hypercall::GRANT_TABLE_OP`].
pub const GNTTABOP_QUERY_SIZE: u32 = 6;
/// `grant_table.h`.
pub const GNTTABOP_SET_VERSION: u32 = 8;
/// `grant_table.h`.
pub const GNTTABOP_GET_VERSION: u32 = 10;
/// `grant_table.h`: references the tool stack uses (console, xenstore).
pub const GNTTAB_NR_RESERVED_ENTRIES: u32 = 8;
/// `grant_table.h`: the peer may map and access the frame.
pub const GTF_PERMIT_ACCESS: u16 = 1;
/// `grant_table.h`: it may only read.
pub const GTF_READONLY: u16 = 1 << 2;
/// `grant_table.h`: it has the frame mapped for reading.
pub const GTF_READING: u16 = 1 << 3;
/// `grant_table.h`: it has the frame mapped for writing.
pub const GTF_WRITING: u16 = 1 << 4;

/// `grant_table.h`: `struct grant_entry_v1`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GrantEntryV1 {
    /// `GTF_*`; written last, and by Xen too.
    pub flags: u16,
    /// Who may use it.
    pub domid: u16,
    /// The guest frame.
    pub frame: u32,
}
layout!(GrantEntryV1, 8; flags: 0, domid: 2, frame: 4);

/// `grant_table.h`: `struct gnttab_query_size`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabQuerySize {
    /// Whose table.
    pub dom: u16,
    /// Padding.
    pub pad: u16,
    /// Out: frames now.
    pub nr_frames: u32,
    /// Out: frames at most.
    pub max_nr_frames: u32,
    /// Out: `GNTST_*`; 0 is success.
    pub status: i16,
    /// Padding.
    pub pad1: u16,
}
layout!(GnttabQuerySize, 16; dom: 0, nr_frames: 4, max_nr_frames: 8, status: 12);

/// `grant_table.h`: `struct gnttab_set_version`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabSetVersion {
    /// In and out.
    pub version: u32,
}
layout!(GnttabSetVersion, 4; version: 0);

/// `grant_table.h`: `struct gnttab_get_version`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabGetVersion {
    /// Whose table.
    pub dom: u16,
    /// Padding.
    pub pad: u16,
    /// Out.
    pub version: u32,
}
layout!(GnttabGetVersion, 8; dom: 0, version: 4);

/// `vcpu.h`: sub-operations of [`hypercall::VCPU_OP`].
pub const VCPUOP_STOP_PERIODIC_TIMER: u32 = 7;
/// `vcpu.h`.
pub const VCPUOP_SET_SINGLESHOT_TIMER: u32 = 8;
/// `vcpu.h`.
pub const VCPUOP_STOP_SINGLESHOT_TIMER: u32 = 9;
/// `vcpu.h`.
pub const VCPUOP_REGISTER_VCPU_INFO: u32 = 10;

/// `vcpu.h`: `struct vcpu_set_singleshot_timer`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuSetSingleshotTimer {
    /// System time, in nanoseconds.
    pub timeout_abs_ns: u64,
    /// `VCPU_SSHOTTMR_*`.
    pub flags: u32,
    /// Padding.
    pub pad: u32,
}
layout!(VcpuSetSingleshotTimer, 16; timeout_abs_ns: 0, flags: 8);

/// `vcpu.h`: `struct vcpu_register_vcpu_info`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuRegisterVcpuInfo {
    /// The guest frame.
    pub mfn: u64,
    /// Where in it, in bytes.
    pub offset: u32,
    /// Zero.
    pub rsvd: u32,
}
layout!(VcpuRegisterVcpuInfo, 16; mfn: 0, offset: 8, rsvd: 12);

/// `sched.h`: sub-operation of [`hypercall::SCHED_OP`].
pub const SCHEDOP_SHUTDOWN: u32 = 2;
/// `sched.h`.
pub const SHUTDOWN_POWEROFF: u32 = 0;
/// `sched.h`.
pub const SHUTDOWN_REBOOT: u32 = 1;
/// `sched.h`.
pub const SHUTDOWN_CRASH: u32 = 3;

/// `sched.h`: `struct sched_shutdown`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SchedShutdown {
    /// `SHUTDOWN_*`.
    pub reason: u32,
}
layout!(SchedShutdown, 4; reason: 0);

/// `xen.h`: sub-operation of [`hypercall::CONSOLE_IO`].
pub const CONSOLEIO_WRITE: u32 = 0;

/// `hvm/hvm_op.h`: sub-operations of [`hypercall::HVM_OP`].
pub const HVMOP_SET_PARAM: u32 = 0;
/// `hvm/hvm_op.h`.
pub const HVMOP_GET_PARAM: u32 = 1;
/// `hvm/hvm_op.h`.
pub const HVMOP_SET_EVTCHN_UPCALL_VECTOR: u32 = 23;
/// `hvm/params.h`: how events interrupt.
pub const HVM_PARAM_CALLBACK_IRQ: u32 = 0;
/// `hvm/params.h`: xenstore's frame.
pub const HVM_PARAM_STORE_PFN: u32 = 1;
/// `hvm/params.h`: xenstore's event channel.
pub const HVM_PARAM_STORE_EVTCHN: u32 = 2;
/// `hvm/params.h`: the console's frame.
pub const HVM_PARAM_CONSOLE_PFN: u32 = 17;
/// `hvm/params.h`: the console's event channel.
pub const HVM_PARAM_CONSOLE_EVTCHN: u32 = 18;
/// `hvm/params.h`, `HVM_PARAM_CALLBACK_TYPE_VECTOR` in the value's top byte.
pub const CALLBACK_VECTOR: u64 = 2 << 56;

/// `hvm/hvm_op.h`: `struct xen_hvm_param`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenHvmParam {
    /// Whose.
    pub domid: u16,
    /// Padding.
    pub pad: u16,
    /// `HVM_PARAM_*`.
    pub index: u32,
    /// In or out.
    pub value: u64,
}
layout!(XenHvmParam, 16; domid: 0, index: 4, value: 8);

/// `hvm/hvm_op.h`: `struct xen_hvm_evtchn_upcall_vector`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenHvmEvtchnUpcallVector {
    /// The virtual processor.
    pub vcpu: u32,
    /// The vector.
    pub vector: u8,
    /// Padding.
    pub pad: [u8; 3],
}
layout!(XenHvmEvtchnUpcallVector, 8; vcpu: 0, vector: 4);

/// `xen.h`: `struct vcpu_time_info`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuTimeInfo {
    /// Odd while Xen writes.
    pub version: u32,
    /// Padding.
    pub pad0: u32,
    /// The counter at the last update.
    pub tsc_timestamp: u64,
    /// Nanoseconds at the last update.
    pub system_time: u64,
    /// 32.32 fixed-point multiplier.
    pub tsc_to_system_mul: u32,
    /// Shift before it, to the left; negative to the right.
    pub tsc_shift: i8,
    /// `XEN_PVCLOCK_*`.
    pub flags: u8,
    /// Padding.
    pub pad1: [u8; 2],
}
layout!(VcpuTimeInfo, 32; version: 0, tsc_timestamp: 8, system_time: 16, tsc_to_system_mul: 24,
    tsc_shift: 28, flags: 29);

/// `xen.h`: `struct vcpu_info`, with `struct arch_vcpu_info` of x86-64.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuInfo {
    /// Non-zero while events wait.
    pub evtchn_upcall_pending: u8,
    /// Only of use to PV guests.
    pub evtchn_upcall_mask: u8,
    /// Padding.
    pub pad: [u8; 6],
    /// A bit for each word of `SharedInfo::evtchn_pending` with news.
    pub evtchn_pending_sel: u64,
    /// `struct arch_vcpu_info`.
    pub arch: [u64; 2],
    /// The clock.
    pub time: VcpuTimeInfo,
}
layout!(VcpuInfo, 64; evtchn_upcall_pending: 0, evtchn_pending_sel: 8, arch: 16, time: 32);

/// `xen.h`, `XEN_LEGACY_MAX_VCPUS`: virtual processors whose information is in the shared page.
pub const XEN_LEGACY_MAX_VCPUS: u32 = 32;

/// `xen.h`: `struct shared_info` up to `arch`, which HVM guests do not use.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SharedInfo {
    /// For the first 32 virtual processors.
    pub vcpu_info: [VcpuInfo; 32],
    /// A bit for each port.
    pub evtchn_pending: [u64; 64],
    /// A bit for each port that must not interrupt.
    pub evtchn_mask: [u64; 64],
    /// Odd while Xen writes the wall clock.
    pub wc_version: u32,
    /// Seconds since 1970 when `system_time` was 0, low half.
    pub wc_sec: u32,
    /// And nanoseconds.
    pub wc_nsec: u32,
    /// High half of the seconds.
    pub wc_sec_hi: u32,
}
layout!(SharedInfo, 3088; vcpu_info: 0, evtchn_pending: 2048, evtchn_mask: 2560, wc_version: 3072,
    wc_sec: 3076, wc_nsec: 3080, wc_sec_hi: 3084);

/// `io/console.h`: `struct xencons_interface`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenconsInterface {
    /// To the guest.
    pub r#in: [u8; 1024],
    /// From the guest.
    pub out: [u8; 2048],
    /// The guest's place in `in`.
    pub in_cons: u32,
    /// The host's place in `in`.
    pub in_prod: u32,
    /// The host's place in `out`.
    pub out_cons: u32,
    /// The guest's place in `out`.
    pub out_prod: u32,
    /// 0 when somebody reads; older hosts leave it 0 too.
    pub connection: u8,
    /// Padding.
    pub pad: [u8; 3],
}
layout!(XenconsInterface, 3092; r#in: 0, out: 1024, in_cons: 3072, in_prod: 3076, out_cons: 3080,
    out_prod: 3084, connection: 3088);
