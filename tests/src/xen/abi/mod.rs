//! Xen's wire structs and numbers as the host side sees them, written from
//! `xen/include/public/*.h` of Xen 4.20 for an x86-64 guest. No logic.

pub mod blkif;
pub mod netif;
pub mod ops;
pub mod pages;

/// Bytes in a page and in a frame.
pub const PAGE: u64 = 4096;

/// Hypercall numbers (`xen.h`, `__HYPERVISOR_*`).
pub mod hypercall {
    pub const MEMORY_OP: u32 = 12;
    pub const XEN_VERSION: u32 = 17;
    pub const CONSOLE_IO: u32 = 18;
    pub const GRANT_TABLE_OP: u32 = 20;
    pub const VCPU_OP: u32 = 24;
    pub const SCHED_OP: u32 = 29;
    pub const EVENT_CHANNEL_OP: u32 = 32;
    pub const HVM_OP: u32 = 34;
}

/// Domain ids (`xen.h`).
pub mod domid {
    /// The control domain, where the back ends live.
    pub const DOM0: u16 = 0;
    /// "The caller".
    pub const SELF: u16 = 0x7ff0;
}

/// Error numbers (`errno.h`); hypercalls return them negated.
pub mod errno {
    pub const EPERM: i64 = 1;
    pub const ENOENT: i64 = 2;
    pub const ESRCH: i64 = 3;
    pub const ENXIO: i64 = 6;
    pub const EBUSY: i64 = 16;
    pub const EEXIST: i64 = 17;
    pub const EFAULT: i64 = 14;
    pub const EINVAL: i64 = 22;
    pub const ENOSPC: i64 = 28;
    pub const ENOSYS: i64 = 38;
    pub const ETIME: i64 = 62;
}

/// `memory.h`.
pub mod memory {
    pub const ADD_TO_PHYSMAP: u64 = 7;
    pub const MEMORY_MAP: u64 = 9;
    pub const REMOVE_FROM_PHYSMAP: u64 = 15;
    pub const SPACE_SHARED_INFO: u32 = 0;
    pub const SPACE_GRANT_TABLE: u32 = 1;
}

/// `version.h` and `features.h`.
pub mod version {
    pub const VERSION: u64 = 0;
    pub const EXTRAVERSION: u64 = 1;
    pub const GET_FEATURES: u64 = 6;
    pub const PAGESIZE: u64 = 7;
    pub const FEAT_AUTO_TRANSLATED_PHYSMAP: u32 = 2;
    pub const FEAT_HVM_CALLBACK_VECTOR: u32 = 8;
    pub const FEAT_HVM_SAFE_PVCLOCK: u32 = 9;
    pub const FEAT_HVM_PIRQS: u32 = 10;
    pub const FEAT_MEMORY_OP_VNODE: u32 = 13;
}

/// `xen.h`, `CONSOLEIO_*`.
pub mod console_io {
    pub const WRITE: u64 = 0;
    pub const READ: u64 = 1;
}

/// `grant_table.h`.
pub mod grant {
    pub const SETUP_TABLE: u64 = 2;
    pub const QUERY_SIZE: u64 = 6;
    pub const SET_VERSION: u64 = 8;
    pub const GET_VERSION: u64 = 10;

    /// Entries in the reserved part of the table.
    pub const RESERVED_CONSOLE: u32 = 0;
    pub const RESERVED_XENSTORE: u32 = 1;
    pub const NR_RESERVED: u32 = 8;

    pub const GTF_PERMIT_ACCESS: u16 = 1;
    pub const GTF_TYPE_MASK: u16 = 3;
    pub const GTF_READONLY: u16 = 1 << 2;
    pub const GTF_READING: u16 = 1 << 3;
    pub const GTF_WRITING: u16 = 1 << 4;

    pub const GNTST_OKAY: i16 = 0;
    pub const GNTST_GENERAL_ERROR: i16 = -1;
    pub const GNTST_BAD_DOMAIN: i16 = -2;
    pub const GNTST_BAD_GNTREF: i16 = -3;
    pub const GNTST_BAD_HANDLE: i16 = -4;
    pub const GNTST_BAD_PAGE: i16 = -9;
}

/// `vcpu.h`.
pub mod vcpu {
    pub const IS_UP: u64 = 3;
    pub const STOP_PERIODIC_TIMER: u64 = 7;
    pub const SET_SINGLESHOT_TIMER: u64 = 8;
    pub const STOP_SINGLESHOT_TIMER: u64 = 9;
    pub const REGISTER_VCPU_INFO: u64 = 10;
    /// Older hosts refuse a deadline in the past when this flag asks them to.
    pub const SSHOTTMR_FUTURE: u32 = 1;
}

/// `sched.h`.
pub mod sched {
    pub const YIELD: u64 = 0;
    pub const BLOCK: u64 = 1;
    pub const SHUTDOWN: u64 = 2;
    pub const POLL: u64 = 3;
}

/// `event_channel.h`, and the virtual interrupts of `xen.h`.
pub mod event {
    pub const BIND_INTERDOMAIN: u64 = 0;
    pub const BIND_VIRQ: u64 = 1;
    pub const CLOSE: u64 = 3;
    pub const SEND: u64 = 4;
    pub const STATUS: u64 = 5;
    pub const ALLOC_UNBOUND: u64 = 6;
    pub const BIND_IPI: u64 = 7;
    pub const BIND_VCPU: u64 = 8;
    pub const UNMASK: u64 = 9;
    pub const RESET: u64 = 10;

    pub const STATUS_CLOSED: u32 = 0;
    pub const STATUS_UNBOUND: u32 = 1;
    pub const STATUS_INTERDOMAIN: u32 = 2;
    pub const STATUS_VIRQ: u32 = 4;
    pub const STATUS_IPI: u32 = 5;

    pub const VIRQ_TIMER: u32 = 0;
    pub const NR_VIRQS: u32 = 24;
    /// Ports of the 2-level ABI in a 64-bit guest: 64 words of 64 bits.
    pub const PORTS: u32 = 4096;
}

/// `hvm/hvm_op.h` and `hvm/params.h`.
pub mod hvm {
    pub const SET_PARAM: u64 = 0;
    pub const GET_PARAM: u64 = 1;
    pub const SET_EVTCHN_UPCALL_VECTOR: u64 = 23;

    pub const PARAM_CALLBACK_IRQ: u32 = 0;
    pub const PARAM_STORE_PFN: u32 = 1;
    pub const PARAM_STORE_EVTCHN: u32 = 2;
    pub const PARAM_CONSOLE_PFN: u32 = 17;
    pub const PARAM_CONSOLE_EVTCHN: u32 = 18;
    pub const PARAM_VM_GENERATION_ID_ADDR: u32 = 34;
    pub const NR_PARAMS: u32 = 39;

    /// How upcalls reach the guest, in the top byte of `PARAM_CALLBACK_IRQ`.
    pub const CALLBACK_GSI: u8 = 0;
    pub const CALLBACK_PCI_INTX: u8 = 1;
    pub const CALLBACK_VECTOR: u8 = 2;
}

/// `io/xs_wire.h`: message types and limits of xenstore.
pub mod store {
    pub const CONTROL: u32 = 0;
    pub const DIRECTORY: u32 = 1;
    pub const READ: u32 = 2;
    pub const GET_PERMS: u32 = 3;
    pub const WATCH: u32 = 4;
    pub const UNWATCH: u32 = 5;
    pub const TRANSACTION_START: u32 = 6;
    pub const TRANSACTION_END: u32 = 7;
    pub const INTRODUCE: u32 = 8;
    pub const RELEASE: u32 = 9;
    pub const GET_DOMAIN_PATH: u32 = 10;
    pub const WRITE: u32 = 11;
    pub const MKDIR: u32 = 12;
    pub const RM: u32 = 13;
    pub const SET_PERMS: u32 = 14;
    pub const WATCH_EVENT: u32 = 15;
    pub const ERROR: u32 = 16;
    pub const IS_DOMAIN_INTRODUCED: u32 = 17;
    pub const RESUME: u32 = 18;
    pub const SET_TARGET: u32 = 19;
    pub const RESET_WATCHES: u32 = 21;
    pub const DIRECTORY_PART: u32 = 22;

    /// Bytes after the header, at most.
    pub const PAYLOAD_MAX: usize = 4096;
    /// Bytes in an absolute path, at most.
    pub const ABS_PATH_MAX: usize = 3072;
    /// Bytes in a path relative to the domain's own, at most.
    pub const REL_PATH_MAX: usize = 2048;

    pub const FEATURE_RECONNECTION: u32 = 1;
    pub const FEATURE_ERROR: u32 = 2;
    pub const FEATURE_WATCHDEPTH: u32 = 4;

    pub const CONNECTED: u32 = 0;
    pub const RECONNECT: u32 = 1;

    pub const ERROR_RINGIDX: u32 = 2;
    pub const ERROR_PROTO: u32 = 3;
}

/// `arch-x86/cpuid.h`.
pub mod cpuid {
    /// "XenVMMXenVMM" in EBX, ECX, EDX.
    pub const SIGNATURE: [u32; 3] = [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e];
    pub const MAX_LEAVES: u32 = 5;
    /// Leaf 3: TSC is safe across CPUs and P-states.
    pub const TIME_TSC_RELIABLE: u32 = 1 << 1;
    /// Leaf 4.
    pub const HVM_IOMMU_MAPPINGS: u32 = 1 << 2;
    pub const HVM_VCPU_ID: u32 = 1 << 3;
    pub const HVM_DOMID: u32 = 1 << 4;
    pub const HVM_UPCALL_VECTOR: u32 = 1 << 6;
}

/// `io/xenbus.h`: states of either end of a device.
pub mod state {
    pub const UNKNOWN: u32 = 0;
    pub const INITIALISING: u32 = 1;
    pub const INIT_WAIT: u32 = 2;
    pub const INITIALISED: u32 = 3;
    pub const CONNECTED: u32 = 4;
    pub const CLOSING: u32 = 5;
    pub const CLOSED: u32 = 6;
    pub const RECONFIGURING: u32 = 7;
    pub const RECONFIGURED: u32 = 8;
}
