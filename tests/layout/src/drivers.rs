//! What the drivers state (`hypercall::xen::abi`, `xenbus::wire`, `blkfront::blkif::abi`,
//! `netfront::netif::abi`).

use crate::claims::Claims;
use crate::{layout, numbers};
use blkfront::blkif::abi as blkif;
use hypercall::xen::abi;
use netfront::netif::abi as netif;
use xenbus::state::State;
use xenbus::wire::{self, MessageType};

/// Adds them all.
pub fn state(claims: &mut Claims) {
    numbers_of_calls(claims);
    operands(claims);
    shared_pages(claims);
    store(claims);
    block_ring(claims);
    network_rings(claims);
}

fn numbers_of_calls(claims: &mut Claims) {
    numbers!(claims, "hypercall abi", abi::hypercall {
        MEMORY_OP = "__HYPERVISOR_memory_op",
        SET_TIMER_OP = "__HYPERVISOR_set_timer_op",
        CONSOLE_IO = "__HYPERVISOR_console_io",
        GRANT_TABLE_OP = "__HYPERVISOR_grant_table_op",
        VCPU_OP = "__HYPERVISOR_vcpu_op",
        SCHED_OP = "__HYPERVISOR_sched_op",
        EVENT_CHANNEL_OP = "__HYPERVISOR_event_channel_op",
        HVM_OP = "__HYPERVISOR_hvm_op",
    });
    numbers!(claims, "hypercall abi", abi::errno {
        ENOENT = "ENOENT", EEXIST = "EEXIST", ENOSPC = "ENOSPC", ENOSYS = "ENOSYS",
        ETIME = "ETIME", EOPNOTSUPP = "EOPNOTSUPP",
    });
    numbers!(claims, "hypercall abi", abi {
        DOMID_SELF = "DOMID_SELF",
        XENMEM_ADD_TO_PHYSMAP = "XENMEM_add_to_physmap",
        XENMEM_MEMORY_MAP = "XENMEM_memory_map",
        XENMAPSPACE_SHARED_INFO = "XENMAPSPACE_shared_info",
        XENMAPSPACE_GRANT_TABLE = "XENMAPSPACE_grant_table",
        EVTCHNOP_BIND_VIRQ = "EVTCHNOP_bind_virq",
        EVTCHNOP_CLOSE = "EVTCHNOP_close",
        EVTCHNOP_SEND = "EVTCHNOP_send",
        EVTCHNOP_STATUS = "EVTCHNOP_status",
        EVTCHNOP_ALLOC_UNBOUND = "EVTCHNOP_alloc_unbound",
        EVTCHNOP_BIND_VCPU = "EVTCHNOP_bind_vcpu",
        EVTCHNOP_UNMASK = "EVTCHNOP_unmask",
        EVTCHNSTAT_VIRQ = "EVTCHNSTAT_virq",
        EVTCHN_2L_NR_CHANNELS = "EVTCHN_2L_NR_CHANNELS",
        VIRQ_TIMER = "VIRQ_TIMER",
        GNTTABOP_QUERY_SIZE = "GNTTABOP_query_size",
        GNTTABOP_SET_VERSION = "GNTTABOP_set_version",
        GNTTABOP_GET_VERSION = "GNTTABOP_get_version",
        GNTTAB_NR_RESERVED_ENTRIES = "GNTTAB_NR_RESERVED_ENTRIES",
        GTF_PERMIT_ACCESS = "GTF_permit_access",
        GTF_READONLY = "GTF_readonly",
        GTF_READING = "GTF_reading",
        GTF_WRITING = "GTF_writing",
        VCPUOP_STOP_PERIODIC_TIMER = "VCPUOP_stop_periodic_timer",
        VCPUOP_SET_SINGLESHOT_TIMER = "VCPUOP_set_singleshot_timer",
        VCPUOP_STOP_SINGLESHOT_TIMER = "VCPUOP_stop_singleshot_timer",
        VCPUOP_REGISTER_VCPU_INFO = "VCPUOP_register_vcpu_info",
        SCHEDOP_SHUTDOWN = "SCHEDOP_shutdown",
        SHUTDOWN_POWEROFF = "SHUTDOWN_poweroff",
        SHUTDOWN_REBOOT = "SHUTDOWN_reboot",
        SHUTDOWN_CRASH = "SHUTDOWN_crash",
        CONSOLEIO_WRITE = "CONSOLEIO_write",
        HVMOP_SET_PARAM = "HVMOP_set_param",
        HVMOP_GET_PARAM = "HVMOP_get_param",
        HVMOP_SET_EVTCHN_UPCALL_VECTOR = "HVMOP_set_evtchn_upcall_vector",
        HVM_PARAM_CALLBACK_IRQ = "HVM_PARAM_CALLBACK_IRQ",
        HVM_PARAM_STORE_PFN = "HVM_PARAM_STORE_PFN",
        HVM_PARAM_STORE_EVTCHN = "HVM_PARAM_STORE_EVTCHN",
        HVM_PARAM_CONSOLE_PFN = "HVM_PARAM_CONSOLE_PFN",
        HVM_PARAM_CONSOLE_EVTCHN = "HVM_PARAM_CONSOLE_EVTCHN",
        CALLBACK_VECTOR = "((uint64_t)HVM_PARAM_CALLBACK_TYPE_VECTOR << 56)",
        XEN_LEGACY_MAX_VCPUS = "XEN_LEGACY_MAX_VCPUS",
    });
}

fn operands(claims: &mut Claims) {
    layout!(claims, "hypercall abi", abi::XenAddToPhysmap as "struct xen_add_to_physmap" { domid, size, space, idx, gpfn });
    layout!(claims, "hypercall abi", abi::XenMemoryMap as "struct xen_memory_map" { nr_entries, buffer });
    layout!(claims, "hypercall abi", abi::EvtchnAllocUnbound as "struct evtchn_alloc_unbound" { dom, remote_dom, port });
    layout!(claims, "hypercall abi", abi::EvtchnBindVirq as "struct evtchn_bind_virq" { virq, vcpu, port });
    layout!(claims, "hypercall abi", abi::EvtchnPort as "struct evtchn_close" { port });
    layout!(claims, "hypercall abi", abi::EvtchnPort as "struct evtchn_send" { port });
    layout!(claims, "hypercall abi", abi::EvtchnPort as "struct evtchn_unmask" { port });
    layout!(claims, "hypercall abi", abi::EvtchnBindVcpu as "struct evtchn_bind_vcpu" { port, vcpu });
    layout!(claims, "hypercall abi", abi::EvtchnStatus as "struct evtchn_status" { dom, port, status, vcpu, virq = "u.virq" });
    layout!(claims, "hypercall abi", abi::GrantEntryV1 as "struct grant_entry_v1" { flags, domid, frame });
    layout!(claims, "hypercall abi", abi::GnttabQuerySize as "struct gnttab_query_size" { dom, nr_frames, max_nr_frames, status });
    layout!(claims, "hypercall abi", abi::GnttabSetVersion as "struct gnttab_set_version" { version });
    layout!(claims, "hypercall abi", abi::GnttabGetVersion as "struct gnttab_get_version" { dom, version });
    layout!(claims, "hypercall abi", abi::VcpuSetSingleshotTimer as "struct vcpu_set_singleshot_timer" { timeout_abs_ns, flags });
    layout!(claims, "hypercall abi", abi::VcpuRegisterVcpuInfo as "struct vcpu_register_vcpu_info" { mfn, offset, rsvd });
    layout!(claims, "hypercall abi", abi::SchedShutdown as "struct sched_shutdown" { reason });
    layout!(claims, "hypercall abi", abi::XenHvmParam as "struct xen_hvm_param" { domid, index, value });
    layout!(claims, "hypercall abi", abi::XenHvmEvtchnUpcallVector as "struct xen_hvm_evtchn_upcall_vector" { vcpu, vector });
}

fn shared_pages(claims: &mut Claims) {
    layout!(claims, "hypercall abi", abi::VcpuTimeInfo as "struct vcpu_time_info" {
        version, tsc_timestamp, system_time, tsc_to_system_mul, tsc_shift, flags
    });
    layout!(claims, "hypercall abi", abi::VcpuInfo as "struct vcpu_info" {
        evtchn_upcall_pending, evtchn_upcall_mask, evtchn_pending_sel, arch, time
    });
    layout!(claims, "hypercall abi", prefix abi::SharedInfo as "struct shared_info" {
        vcpu_info, evtchn_pending, evtchn_mask, wc_version, wc_sec, wc_nsec, wc_sec_hi
    });
    layout!(claims, "hypercall abi", prefix abi::XenconsInterface as "struct xencons_interface" {
        r#in = "in", out, in_cons, in_prod, out_cons, out_prod
    });
}

fn store(claims: &mut Claims) {
    for (c, kind) in [
        ("XS_DIRECTORY", MessageType::DIRECTORY),
        ("XS_READ", MessageType::READ),
        ("XS_WATCH", MessageType::WATCH),
        ("XS_UNWATCH", MessageType::UNWATCH),
        ("XS_TRANSACTION_START", MessageType::TRANSACTION_START),
        ("XS_TRANSACTION_END", MessageType::TRANSACTION_END),
        ("XS_WRITE", MessageType::WRITE),
        ("XS_MKDIR", MessageType::MKDIR),
        ("XS_RM", MessageType::RM),
        ("XS_WATCH_EVENT", MessageType::WATCH_EVENT),
        ("XS_ERROR", MessageType::ERROR),
        ("XS_RESET_WATCHES", MessageType::RESET_WATCHES),
        ("XS_DIRECTORY_PART", MessageType::DIRECTORY_PART),
    ] {
        claims.number("xenbus wire", c, kind.0.into());
    }
    for (c, state) in [
        ("XenbusStateUnknown", State::Unknown),
        ("XenbusStateInitialising", State::Initialising),
        ("XenbusStateInitWait", State::InitWait),
        ("XenbusStateInitialised", State::Initialised),
        ("XenbusStateConnected", State::Connected),
        ("XenbusStateClosing", State::Closing),
        ("XenbusStateClosed", State::Closed),
        ("XenbusStateReconfiguring", State::Reconfiguring),
        ("XenbusStateReconfigured", State::Reconfigured),
    ] {
        claims.number("xenbus state", c, state.number().into());
    }
    numbers!(claims, "xenbus wire", wire {
        HEADER = "sizeof(struct xsd_sockmsg)",
        RING = "XENSTORE_RING_SIZE",
        PAYLOAD_MAX = "XENSTORE_PAYLOAD_MAX",
        REL_PATH_MAX = "XENSTORE_REL_PATH_MAX",
        ABS_PATH_MAX = "XENSTORE_ABS_PATH_MAX",
        FEATURE_RECONNECTION = "XENSTORE_SERVER_FEATURE_RECONNECTION",
        CONNECTED = "XENSTORE_CONNECTED",
        RECONNECT = "XENSTORE_RECONNECT",
    });
    let c = "XENSTORE_SERVER_FEATURE_ERROR";
    claims.newer("xenbus wire", c, wire::FEATURE_ERROR.into());
    layout!(claims, "xenbus wire", wire::XsdSockmsg as "struct xsd_sockmsg" { r#type = "type", req_id, tx_id, len });
    layout!(claims, "xenbus wire", prefix wire::XenstoreDomainInterface as "struct xenstore_domain_interface" {
        req, rsp, req_cons, req_prod, rsp_cons, rsp_prod, server_features, connection
    });
}

fn block_ring(claims: &mut Claims) {
    numbers!(claims, "blkfront abi", blkif {
        OP_READ = "BLKIF_OP_READ", OP_WRITE = "BLKIF_OP_WRITE",
        OP_WRITE_BARRIER = "BLKIF_OP_WRITE_BARRIER",
        OP_FLUSH_DISKCACHE = "BLKIF_OP_FLUSH_DISKCACHE", OP_DISCARD = "BLKIF_OP_DISCARD",
        RSP_OKAY = "BLKIF_RSP_OKAY", RSP_ERROR = "BLKIF_RSP_ERROR",
        RSP_EOPNOTSUPP = "BLKIF_RSP_EOPNOTSUPP",
        MAX_SEGMENTS = "BLKIF_MAX_SEGMENTS_PER_REQUEST",
        INFO_CDROM = "VDISK_CDROM", INFO_REMOVABLE = "VDISK_REMOVABLE",
        INFO_READONLY = "VDISK_READONLY",
        REQ_PROD = "offsetof(struct blkif_sring, req_prod)",
        REQ_EVENT = "offsetof(struct blkif_sring, req_event)",
        RSP_PROD = "offsetof(struct blkif_sring, rsp_prod)",
        RSP_EVENT = "offsetof(struct blkif_sring, rsp_event)",
        RING = "offsetof(struct blkif_sring, ring)",
        RING_SIZE = "__CONST_RING_SIZE(blkif, 4096)",
    });
    layout!(claims, "blkfront abi", blkif::Segment as "struct blkif_request_segment" { gref, first_sect, last_sect });
    layout!(claims, "blkfront abi", prefix blkif::RequestHeader as "struct blkif_request" {
        operation, nr_segments, handle, id, sector_number
    });
    layout!(claims, "blkfront abi", blkif::Request as "struct blkif_request" { seg });
    layout!(claims, "blkfront abi", blkif::RequestDiscard as "struct blkif_request_discard" {
        operation, flag, handle, id, sector_number, nr_sectors
    });
    layout!(claims, "blkfront abi", blkif::Response as "struct blkif_response" { id, operation, status });
}

fn network_rings(claims: &mut Claims) {
    numbers!(claims, "netfront abi", netif {
        NR_SLOTS_MIN = "XEN_NETIF_NR_SLOTS_MIN", MAX_TX_SIZE = "XEN_NETIF_MAX_TX_SIZE",
        TXF_CSUM_BLANK = "NETTXF_csum_blank", TXF_DATA_VALIDATED = "NETTXF_data_validated",
        TXF_MORE_DATA = "NETTXF_more_data", TXF_EXTRA_INFO = "NETTXF_extra_info",
        RXF_DATA_VALIDATED = "NETRXF_data_validated", RXF_CSUM_BLANK = "NETRXF_csum_blank",
        RXF_MORE_DATA = "NETRXF_more_data", RXF_EXTRA_INFO = "NETRXF_extra_info",
        RXF_GSO_PREFIX = "NETRXF_gso_prefix",
        EXTRA_TYPE_GSO = "XEN_NETIF_EXTRA_TYPE_GSO",
        EXTRA_TYPE_MCAST_ADD = "XEN_NETIF_EXTRA_TYPE_MCAST_ADD",
        EXTRA_TYPE_MCAST_DEL = "XEN_NETIF_EXTRA_TYPE_MCAST_DEL",
        EXTRA_TYPE_HASH = "XEN_NETIF_EXTRA_TYPE_HASH",
        EXTRA_TYPE_MAX = "XEN_NETIF_EXTRA_TYPE_MAX",
        EXTRA_FLAG_MORE = "XEN_NETIF_EXTRA_FLAG_MORE",
        GSO_TYPE_TCPV4 = "XEN_NETIF_GSO_TYPE_TCPV4", GSO_TYPE_TCPV6 = "XEN_NETIF_GSO_TYPE_TCPV6",
        RSP_DROPPED = "NETIF_RSP_DROPPED", RSP_ERROR = "NETIF_RSP_ERROR",
        RSP_OKAY = "NETIF_RSP_OKAY", RSP_NULL = "NETIF_RSP_NULL",
        REQ_PROD = "offsetof(struct netif_tx_sring, req_prod)",
        REQ_EVENT = "offsetof(struct netif_tx_sring, req_event)",
        RSP_PROD = "offsetof(struct netif_tx_sring, rsp_prod)",
        RSP_EVENT = "offsetof(struct netif_tx_sring, rsp_event)",
        RING = "offsetof(struct netif_tx_sring, ring)",
        RING_SIZE = "__CONST_RING_SIZE(netif_tx, 4096)",
    });
    let ring = "__CONST_RING_SIZE(netif_rx, 4096)";
    claims.number("netfront abi", ring, netif::RING_SIZE.into());
    layout!(claims, "netfront abi", netif::TxRequest as "struct netif_tx_request" { gref, offset, flags, id, size });
    layout!(claims, "netfront abi", netif::TxResponse as "struct netif_tx_response" { id, status });
    layout!(claims, "netfront abi", netif::RxRequest as "struct netif_rx_request" { id, gref });
    layout!(claims, "netfront abi", netif::RxResponse as "struct netif_rx_response" { id, offset, flags, status });
    layout!(claims, "netfront abi", netif::ExtraInfo as "struct netif_extra_info" {
        r#type = "type", flags, gso_size = "u.gso.size", gso_type = "u.gso.type", pad = "u.gso.pad",
        gso_features = "u.gso.features"
    });
    layout!(claims, "netfront abi", netif::ExtraHash as "struct netif_extra_info" {
        r#type = "type", flags, hash_type = "u.hash.type", algorithm = "u.hash.algorithm",
        value = "u.hash.value"
    });
}
