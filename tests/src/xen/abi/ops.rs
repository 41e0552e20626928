//! What hypercalls point at: one struct per operand, padding spelled out.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! operand {
    ($(#[$doc:meta])* $name:ident, $size:literal { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $(pub $field: $type,)* }
        const _: () = assert!(size_of::<$name>() == $size);
    };
}

operand! {
    /// `memory.h`, `struct xen_add_to_physmap`.
    AddToPhysmap, 24 { domid: u16, size: u16, space: u32, idx: u64, gpfn: u64, }
}
operand! {
    /// `memory.h`, `struct xen_remove_from_physmap`.
    RemoveFromPhysmap, 16 { domid: u16, pad: [u8; 6], gpfn: u64, }
}
operand! {
    /// `memory.h`, `struct xen_memory_map`; `buffer` points at `nr_entries` of [`E820Entry`].
    MemoryMap, 16 { nr_entries: u32, pad: u32, buffer: u64, }
}
operand! {
    /// `version.h`, `struct xen_feature_info`.
    FeatureInfo, 8 { submap_idx: u32, submap: u32, }
}
operand! {
    /// `grant_table.h`, `struct gnttab_setup_table`; `frame_list` points at `nr_frames` words.
    SetupTable, 24 { dom: u16, pad0: u16, nr_frames: u32, status: i16, pad1: [u8; 6], frame_list: u64, }
}
operand! {
    /// `grant_table.h`, `struct gnttab_query_size`.
    QuerySize, 16 { dom: u16, pad0: u16, nr_frames: u32, max_nr_frames: u32, status: i16, pad1: u16, }
}
operand! {
    /// `grant_table.h`, `struct gnttab_set_version`.
    SetVersion, 4 { version: u32, }
}
operand! {
    /// `grant_table.h`, `struct gnttab_get_version`.
    GetVersion, 8 { dom: u16, pad: u16, version: u32, }
}
operand! {
    /// `event_channel.h`, `struct evtchn_alloc_unbound`.
    AllocUnbound, 8 { dom: u16, remote_dom: u16, port: u32, }
}
operand! {
    /// `event_channel.h`, `struct evtchn_bind_interdomain`.
    BindInterdomain, 12 { remote_dom: u16, pad: u16, remote_port: u32, local_port: u32, }
}
operand! {
    /// `event_channel.h`, `struct evtchn_bind_virq`.
    BindVirq, 12 { virq: u32, vcpu: u32, port: u32, }
}
operand! {
    /// `event_channel.h`, `struct evtchn_bind_ipi`.
    BindIpi, 8 { vcpu: u32, port: u32, }
}
operand! {
    /// `event_channel.h`: `struct evtchn_close`, `evtchn_send` and `evtchn_unmask`.
    Port, 4 { port: u32, }
}
operand! {
    /// `event_channel.h`, `struct evtchn_status`; `who` and `what` are its union's two words:
    /// a domain id and a remote port, or a virtual interrupt in `who`.
    PortStatus, 24 { dom: u16, pad: u16, port: u32, status: u32, vcpu: u32, who: u32, what: u32, }
}
operand! {
    /// `event_channel.h`, `struct evtchn_bind_vcpu`.
    BindVcpu, 8 { port: u32, vcpu: u32, }
}
operand! {
    /// `event_channel.h`, `struct evtchn_reset`.
    Reset, 2 { dom: u16, }
}
operand! {
    /// `vcpu.h`, `struct vcpu_register_vcpu_info`.
    RegisterVcpuInfo, 16 { mfn: u64, offset: u32, rsvd: u32, }
}
operand! {
    /// `vcpu.h`, `struct vcpu_set_singleshot_timer`; nanoseconds of system time.
    SetSingleshotTimer, 16 { timeout_abs_ns: u64, flags: u32, pad: u32, }
}
operand! {
    /// `sched.h`, `struct sched_shutdown`.
    Shutdown, 4 { reason: u32, }
}
operand! {
    /// `sched.h`, `struct sched_poll`; `ports` points at `nr_ports` words of 32 bits.
    Poll, 24 { ports: u64, nr_ports: u32, pad: u32, timeout: u64, }
}
operand! {
    /// `hvm/hvm_op.h`, `struct xen_hvm_param`.
    HvmParam, 16 { domid: u16, pad: u16, index: u32, value: u64, }
}
operand! {
    /// `hvm/hvm_op.h`, `struct xen_hvm_evtchn_upcall_vector`.
    UpcallVector, 8 { vcpu: u32, vector: u8, pad: [u8; 3], }
}

/// One entry of the memory map, as the BIOS call E820 returns it: 20 bytes, packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct E820Entry {
    /// First byte.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// 1 RAM, 2 reserved, ...
    pub kind: u32,
}

impl E820Entry {
    /// Bytes of an entry on the wire.
    pub const SIZE: usize = 20;

    /// The wire form.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.size.to_le_bytes());
        bytes[16..].copy_from_slice(&self.kind.to_le_bytes());
        bytes
    }
}
