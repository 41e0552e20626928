//! What the simulated host states (`pv_tests::xen::abi`).

use crate::claims::Claims;
use crate::{layout, numbers};
use pv_tests::xen::abi::{
    self, blkif, cpuid, domid, errno, event, grant, hvm, hypercall, memory, ops, pages, sched,
    store, vcpu, version,
};
use pv_tests::xen::{blkif_ring, grants};

/// Adds them all.
pub fn state(claims: &mut Claims) {
    numbers_of_calls(claims);
    numbers_of_devices(claims);
    operands(claims);
    shared_pages(claims);
    block_ring(claims);
}

fn numbers_of_calls(claims: &mut Claims) {
    numbers!(claims, "model hypercall", hypercall {
        MEMORY_OP = "__HYPERVISOR_memory_op",
        XEN_VERSION = "__HYPERVISOR_xen_version",
        CONSOLE_IO = "__HYPERVISOR_console_io",
        GRANT_TABLE_OP = "__HYPERVISOR_grant_table_op",
        VCPU_OP = "__HYPERVISOR_vcpu_op",
        SCHED_OP = "__HYPERVISOR_sched_op",
        EVENT_CHANNEL_OP = "__HYPERVISOR_event_channel_op",
        HVM_OP = "__HYPERVISOR_hvm_op",
    });
    numbers!(claims, "model domid", domid { SELF = "DOMID_SELF" });
    // xs_wire.h names its errors only where <errno.h> is there too; on x86 Linux they are Xen's.
    numbers!(claims, "model errno", errno {
        EPERM = "EPERM", ENOENT = "ENOENT", ESRCH = "ESRCH", ENXIO = "ENXIO", ETIME = "ETIME", EBUSY = "EBUSY", EEXIST = "EEXIST",
        EFAULT = "EFAULT", EINVAL = "EINVAL", ENOSPC = "ENOSPC", ENOSYS = "ENOSYS",
    });
    numbers!(claims, "model memory", memory {
        ADD_TO_PHYSMAP = "XENMEM_add_to_physmap",
        MEMORY_MAP = "XENMEM_memory_map",
        REMOVE_FROM_PHYSMAP = "XENMEM_remove_from_physmap",
        SPACE_SHARED_INFO = "XENMAPSPACE_shared_info",
        SPACE_GRANT_TABLE = "XENMAPSPACE_grant_table",
    });
    numbers!(claims, "model version", version {
        VERSION = "XENVER_version",
        EXTRAVERSION = "XENVER_extraversion",
        GET_FEATURES = "XENVER_get_features",
        PAGESIZE = "XENVER_pagesize",
        FEAT_AUTO_TRANSLATED_PHYSMAP = "XENFEAT_auto_translated_physmap",
        FEAT_HVM_CALLBACK_VECTOR = "XENFEAT_hvm_callback_vector",
        FEAT_HVM_SAFE_PVCLOCK = "XENFEAT_hvm_safe_pvclock",
        FEAT_HVM_PIRQS = "XENFEAT_hvm_pirqs",
        FEAT_MEMORY_OP_VNODE = "XENFEAT_memory_op_vnode_supported",
    });
    numbers!(claims, "model console_io", abi::console_io {
        WRITE = "CONSOLEIO_write", READ = "CONSOLEIO_read",
    });
    numbers!(claims, "model grant", grant {
        SETUP_TABLE = "GNTTABOP_setup_table",
        QUERY_SIZE = "GNTTABOP_query_size",
        SET_VERSION = "GNTTABOP_set_version",
        GET_VERSION = "GNTTABOP_get_version",
        RESERVED_CONSOLE = "GNTTAB_RESERVED_CONSOLE",
        RESERVED_XENSTORE = "GNTTAB_RESERVED_XENSTORE",
        NR_RESERVED = "GNTTAB_NR_RESERVED_ENTRIES",
        GTF_PERMIT_ACCESS = "GTF_permit_access",
        GTF_TYPE_MASK = "GTF_type_mask",
        GTF_READONLY = "GTF_readonly",
        GTF_READING = "GTF_reading",
        GTF_WRITING = "GTF_writing",
        GNTST_OKAY = "GNTST_okay",
        GNTST_GENERAL_ERROR = "GNTST_general_error",
        GNTST_BAD_DOMAIN = "GNTST_bad_domain",
        GNTST_BAD_GNTREF = "GNTST_bad_gntref",
        GNTST_BAD_HANDLE = "GNTST_bad_handle",
        GNTST_BAD_PAGE = "GNTST_bad_page",
    });
    numbers!(claims, "model vcpu", vcpu {
        IS_UP = "VCPUOP_is_up",
        STOP_PERIODIC_TIMER = "VCPUOP_stop_periodic_timer",
        SET_SINGLESHOT_TIMER = "VCPUOP_set_singleshot_timer",
        STOP_SINGLESHOT_TIMER = "VCPUOP_stop_singleshot_timer",
        REGISTER_VCPU_INFO = "VCPUOP_register_vcpu_info",
        SSHOTTMR_FUTURE = "VCPU_SSHOTTMR_future",
    });
    numbers!(claims, "model sched", sched {
        YIELD = "SCHEDOP_yield", BLOCK = "SCHEDOP_block",
        SHUTDOWN = "SCHEDOP_shutdown", POLL = "SCHEDOP_poll",
    });
    numbers!(claims, "model event", event {
        BIND_INTERDOMAIN = "EVTCHNOP_bind_interdomain",
        BIND_VIRQ = "EVTCHNOP_bind_virq",
        CLOSE = "EVTCHNOP_close",
        SEND = "EVTCHNOP_send",
        STATUS = "EVTCHNOP_status",
        ALLOC_UNBOUND = "EVTCHNOP_alloc_unbound",
        BIND_IPI = "EVTCHNOP_bind_ipi",
        BIND_VCPU = "EVTCHNOP_bind_vcpu",
        UNMASK = "EVTCHNOP_unmask",
        RESET = "EVTCHNOP_reset",
        STATUS_CLOSED = "EVTCHNSTAT_closed",
        STATUS_UNBOUND = "EVTCHNSTAT_unbound",
        STATUS_INTERDOMAIN = "EVTCHNSTAT_interdomain",
        STATUS_VIRQ = "EVTCHNSTAT_virq",
        STATUS_IPI = "EVTCHNSTAT_ipi",
        VIRQ_TIMER = "VIRQ_TIMER",
        NR_VIRQS = "NR_VIRQS",
        PORTS = "EVTCHN_2L_NR_CHANNELS",
    });
    numbers!(claims, "model hvm", hvm {
        SET_PARAM = "HVMOP_set_param",
        GET_PARAM = "HVMOP_get_param",
        SET_EVTCHN_UPCALL_VECTOR = "HVMOP_set_evtchn_upcall_vector",
        PARAM_CALLBACK_IRQ = "HVM_PARAM_CALLBACK_IRQ",
        PARAM_STORE_PFN = "HVM_PARAM_STORE_PFN",
        PARAM_STORE_EVTCHN = "HVM_PARAM_STORE_EVTCHN",
        PARAM_CONSOLE_PFN = "HVM_PARAM_CONSOLE_PFN",
        PARAM_CONSOLE_EVTCHN = "HVM_PARAM_CONSOLE_EVTCHN",
        PARAM_VM_GENERATION_ID_ADDR = "HVM_PARAM_VM_GENERATION_ID_ADDR",
        NR_PARAMS = "HVM_NR_PARAMS",
        CALLBACK_GSI = "HVM_PARAM_CALLBACK_TYPE_GSI",
        CALLBACK_PCI_INTX = "HVM_PARAM_CALLBACK_TYPE_PCI_INTX",
        CALLBACK_VECTOR = "HVM_PARAM_CALLBACK_TYPE_VECTOR",
    });
}

fn numbers_of_devices(claims: &mut Claims) {
    numbers!(claims, "model store", store {
        CONTROL = "XS_CONTROL", DIRECTORY = "XS_DIRECTORY", READ = "XS_READ",
        GET_PERMS = "XS_GET_PERMS", WATCH = "XS_WATCH", UNWATCH = "XS_UNWATCH",
        TRANSACTION_START = "XS_TRANSACTION_START", TRANSACTION_END = "XS_TRANSACTION_END",
        INTRODUCE = "XS_INTRODUCE", RELEASE = "XS_RELEASE",
        GET_DOMAIN_PATH = "XS_GET_DOMAIN_PATH", WRITE = "XS_WRITE", MKDIR = "XS_MKDIR",
        RM = "XS_RM", SET_PERMS = "XS_SET_PERMS", WATCH_EVENT = "XS_WATCH_EVENT",
        ERROR = "XS_ERROR", IS_DOMAIN_INTRODUCED = "XS_IS_DOMAIN_INTRODUCED",
        RESUME = "XS_RESUME", SET_TARGET = "XS_SET_TARGET",
        RESET_WATCHES = "XS_RESET_WATCHES", DIRECTORY_PART = "XS_DIRECTORY_PART",
        PAYLOAD_MAX = "XENSTORE_PAYLOAD_MAX",
        ABS_PATH_MAX = "XENSTORE_ABS_PATH_MAX",
        REL_PATH_MAX = "XENSTORE_REL_PATH_MAX",
        CONNECTED = "XENSTORE_CONNECTED", RECONNECT = "XENSTORE_RECONNECT",
        FEATURE_RECONNECTION = "XENSTORE_SERVER_FEATURE_RECONNECTION",
    });
    for (c, rust) in [
        ("XENSTORE_SERVER_FEATURE_ERROR", store::FEATURE_ERROR),
        (
            "XENSTORE_SERVER_FEATURE_WATCHDEPTH",
            store::FEATURE_WATCHDEPTH,
        ),
        ("XENSTORE_ERROR_RINGIDX", store::ERROR_RINGIDX),
        ("XENSTORE_ERROR_PROTO", store::ERROR_PROTO),
    ] {
        claims.newer("model store", c, rust.into());
    }
    numbers!(claims, "model state", abi::state {
        UNKNOWN = "XenbusStateUnknown", INITIALISING = "XenbusStateInitialising",
        INIT_WAIT = "XenbusStateInitWait", INITIALISED = "XenbusStateInitialised",
        CONNECTED = "XenbusStateConnected", CLOSING = "XenbusStateClosing",
        CLOSED = "XenbusStateClosed", RECONFIGURING = "XenbusStateReconfiguring",
        RECONFIGURED = "XenbusStateReconfigured",
    });
    let [b, c, d] = cpuid::SIGNATURE;
    claims.number("model cpuid", "XEN_CPUID_SIGNATURE_EBX", b.into());
    claims.number("model cpuid", "XEN_CPUID_SIGNATURE_ECX", c.into());
    claims.number("model cpuid", "XEN_CPUID_SIGNATURE_EDX", d.into());
    numbers!(claims, "model cpuid", cpuid {
        MAX_LEAVES = "XEN_CPUID_MAX_NUM_LEAVES",
        HVM_IOMMU_MAPPINGS = "XEN_HVM_CPUID_IOMMU_MAPPINGS",
        HVM_VCPU_ID = "XEN_HVM_CPUID_VCPU_ID_PRESENT",
        HVM_DOMID = "XEN_HVM_CPUID_DOMID_PRESENT",
    });
    for (c, rust) in [
        ("XEN_CPUID_HOST_TSC_RELIABLE", cpuid::TIME_TSC_RELIABLE),
        ("XEN_HVM_CPUID_UPCALL_VECTOR", cpuid::HVM_UPCALL_VECTOR),
    ] {
        claims.newer("model cpuid", c, rust.into());
    }
}

fn operands(claims: &mut Claims) {
    const FROM: &str = "model ops";
    layout!(claims, "model ops", ops::AddToPhysmap as "struct xen_add_to_physmap" { domid, size, space, idx, gpfn });
    layout!(claims, "model ops", ops::RemoveFromPhysmap as "struct xen_remove_from_physmap" { domid, gpfn });
    layout!(claims, "model ops", ops::MemoryMap as "struct xen_memory_map" { nr_entries, buffer });
    layout!(claims, "model ops", ops::FeatureInfo as "struct xen_feature_info" { submap_idx, submap });
    layout!(claims, "model ops", ops::SetupTable as "struct gnttab_setup_table" { dom, nr_frames, status, frame_list });
    layout!(claims, "model ops", ops::QuerySize as "struct gnttab_query_size" { dom, nr_frames, max_nr_frames, status });
    layout!(claims, "model ops", ops::SetVersion as "struct gnttab_set_version" { version });
    layout!(claims, "model ops", ops::GetVersion as "struct gnttab_get_version" { dom, version });
    layout!(claims, "model ops", ops::AllocUnbound as "struct evtchn_alloc_unbound" { dom, remote_dom, port });
    layout!(claims, "model ops", ops::BindInterdomain as "struct evtchn_bind_interdomain" { remote_dom, remote_port, local_port });
    layout!(claims, "model ops", ops::BindVirq as "struct evtchn_bind_virq" { virq, vcpu, port });
    layout!(claims, "model ops", ops::BindIpi as "struct evtchn_bind_ipi" { vcpu, port });
    layout!(claims, "model ops", ops::Port as "struct evtchn_close" { port });
    layout!(claims, "model ops", ops::Port as "struct evtchn_send" { port });
    layout!(claims, "model ops", ops::Port as "struct evtchn_unmask" { port });
    layout!(claims, "model ops", ops::PortStatus as "struct evtchn_status" {
        dom, port, status, vcpu, who = "u.virq", what = "u.interdomain.port"
    });
    // A domain id takes half of the union's first word.
    let at = core::mem::offset_of!(ops::PortStatus, who);
    claims.number(
        FROM,
        "offsetof(struct evtchn_status, u.interdomain.dom)",
        at as i64,
    );
    claims.number(
        FROM,
        "offsetof(struct evtchn_status, u.unbound.dom)",
        at as i64,
    );
    layout!(claims, "model ops", ops::BindVcpu as "struct evtchn_bind_vcpu" { port, vcpu });
    layout!(claims, "model ops", ops::Reset as "struct evtchn_reset" { dom });
    layout!(claims, "model ops", ops::RegisterVcpuInfo as "struct vcpu_register_vcpu_info" { mfn, offset, rsvd });
    layout!(claims, "model ops", ops::SetSingleshotTimer as "struct vcpu_set_singleshot_timer" { timeout_abs_ns, flags });
    layout!(claims, "model ops", ops::Shutdown as "struct sched_shutdown" { reason });
    layout!(claims, "model ops", ops::Poll as "struct sched_poll" { ports, nr_ports, timeout });
    layout!(claims, "model ops", ops::HvmParam as "struct xen_hvm_param" { domid, index, value });
    layout!(claims, "model ops", ops::UpcallVector as "struct xen_hvm_evtchn_upcall_vector" { vcpu, vector });
}

fn shared_pages(claims: &mut Claims) {
    layout!(claims, "model pages", pages::VcpuTimeInfo as "struct vcpu_time_info" {
        version, tsc_timestamp, system_time, tsc_to_system_mul, tsc_shift, flags
    });
    layout!(claims, "model pages", pages::VcpuInfo as "struct vcpu_info" {
        evtchn_upcall_pending, evtchn_upcall_mask, evtchn_pending_sel, arch, time
    });
    layout!(claims, "model pages", pages::SharedInfo as "struct shared_info" {
        vcpu_info, evtchn_pending, evtchn_mask, wc_version, wc_sec, wc_nsec, wc_sec_hi, arch
    });
    numbers!(claims, "model pages", pages {
        LEGACY_VCPUS = "XEN_LEGACY_MAX_VCPUS",
        PVCLOCK_TSC_STABLE = "XEN_PVCLOCK_TSC_STABLE_BIT",
    });
    layout!(claims, "model pages", pages::GrantEntry as "struct grant_entry_v1" { flags, domid, frame });
    let entries = i64::from(grants::ENTRIES_PER_FRAME);
    claims.number(
        "model grants",
        "4096 / sizeof(struct grant_entry_v1)",
        entries,
    );
    layout!(claims, "model pages", pages::StoreHeader as "struct xsd_sockmsg" { kind = "type", req_id, tx_id, len });
    // evtchn_port at the page's end is younger than some headers.
    layout!(claims, "model pages", prefix pages::StorePage as "struct xenstore_domain_interface" {
        req, rsp, req_cons, req_prod, rsp_cons, rsp_prod, server_features, connection
    });
    layout!(claims, "model pages", prefix pages::ConsolePage as "struct xencons_interface" {
        input = "in", output = "out", in_cons, in_prod, out_cons, out_prod
    });
}

fn block_ring(claims: &mut Claims) {
    numbers!(claims, "model blkif", blkif {
        OP_READ = "BLKIF_OP_READ", OP_WRITE = "BLKIF_OP_WRITE",
        OP_WRITE_BARRIER = "BLKIF_OP_WRITE_BARRIER", OP_FLUSH = "BLKIF_OP_FLUSH_DISKCACHE",
        OP_DISCARD = "BLKIF_OP_DISCARD", OP_INDIRECT = "BLKIF_OP_INDIRECT",
        RSP_OKAY = "BLKIF_RSP_OKAY", RSP_ERROR = "BLKIF_RSP_ERROR",
        RSP_EOPNOTSUPP = "BLKIF_RSP_EOPNOTSUPP",
        MAX_SEGMENTS = "BLKIF_MAX_SEGMENTS_PER_REQUEST",
        VDISK_CDROM = "VDISK_CDROM", VDISK_REMOVABLE = "VDISK_REMOVABLE",
        VDISK_READONLY = "VDISK_READONLY",
        ENTRY = "sizeof(union blkif_sring_entry)",
    });
    layout!(claims, "model blkif", blkif::Segment as "struct blkif_request_segment" { gref, first_sect, last_sect });
    layout!(claims, "model blkif", blkif::Request as "struct blkif_request" {
        operation, nr_segments, handle, id, sector_number, seg
    });
    layout!(claims, "model blkif", blkif::Discard as "struct blkif_request_discard" {
        operation, flag, handle, id, sector_number, nr_sectors
    });
    layout!(claims, "model blkif", blkif::Response as "struct blkif_response" { id, operation, status });
    layout!(claims, "model blkif", prefix blkif::RingHeader as "struct blkif_sring" {
        req_prod, req_event, rsp_prod, rsp_event
    });
    let header = size_of::<blkif::RingHeader>() as i64;
    claims.number("model blkif", "offsetof(struct blkif_sring, ring)", header);
    for pages in [1, 2, 4, 8, 16] {
        let c = format!("__CONST_RING_SIZE(blkif, {pages} * 4096)");
        claims.number("model blkif_ring", &c, blkif_ring::entries(pages).into());
    }
}
