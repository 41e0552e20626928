//! Hypercalls one by one.

use super::guest::*;
use crate::memory::GuestMemory;
use crate::xen::abi::errno::*;
use crate::xen::abi::ops::*;
use crate::xen::abi::{PAGE, console_io, domid, grant, hvm, hypercall, memory, sched, version};
use crate::xen::cpu::{NoSuchMsr, Vendor};
use crate::xen::ledger::Complaint;
use zerocopy::IntoBytes;

#[test]
fn version_and_features() {
    let mut guest = Guest::new(|_| {});
    let nr = hypercall::XEN_VERSION;
    assert_eq!(
        guest
            .host
            .hypercall(nr, [version::VERSION, 0, 0, 0, 0], &mut []),
        4 << 16 | 20
    );
    let mut features = FeatureInfo::default();
    assert_eq!(guest.call(nr, version::GET_FEATURES, &mut features), 0);
    assert_ne!(features.submap & 1 << version::FEAT_HVM_CALLBACK_VECTOR, 0);
    features.submap_idx = 1;
    assert_eq!(
        guest.call(nr, version::GET_FEATURES, &mut features),
        -EINVAL
    );
    assert_eq!(guest.host.hypercall(99, [0; 5], &mut []), -ENOSYS);
    assert_eq!(guest.host.counters().command(nr, version::GET_FEATURES), 2);
    assert_eq!(guest.host.counters().hypercalls_total(), 4);
}

#[test]
fn a_short_operand_is_a_fault_and_a_complaint() {
    let mut guest = Guest::new(|_| {});
    let mut short = [0; 4];
    let args = [version::GET_FEATURES, 0, 0, 0, 0];
    let nr = hypercall::XEN_VERSION;
    assert_eq!(guest.host.hypercall(nr, args, &mut short), -EFAULT);
    let wanted = Complaint::ShortOperand {
        nr,
        command: version::GET_FEATURES,
        bytes: 4,
    };
    assert_eq!(guest.host.complaints(), [wanted]);
}

#[test]
fn parameters() {
    let mut guest = Guest::new(|_| {});
    assert_eq!(guest.param(hvm::PARAM_STORE_PFN), STORE);
    assert_eq!(guest.param(hvm::PARAM_CONSOLE_PFN), CONSOLE);
    assert_eq!(guest.param(hvm::PARAM_STORE_EVTCHN), 1);
    assert_eq!(guest.param(hvm::PARAM_CONSOLE_EVTCHN), 2);
    let mut op = HvmParam {
        domid: domid::SELF,
        index: hvm::PARAM_STORE_PFN,
        ..HvmParam::default()
    };
    assert_eq!(
        guest.call(hypercall::HVM_OP, hvm::SET_PARAM, &mut op),
        -EPERM
    );
    op.index = 9;
    assert_eq!(
        guest.call(hypercall::HVM_OP, hvm::GET_PARAM, &mut op),
        -EPERM
    );
    op.index = 1000;
    assert_eq!(
        guest.call(hypercall::HVM_OP, hvm::GET_PARAM, &mut op),
        -EINVAL
    );
    op.domid = 77;
    op.index = hvm::PARAM_STORE_PFN;
    assert_eq!(
        guest.call(hypercall::HVM_OP, hvm::GET_PARAM, &mut op),
        -ESRCH
    );
}

#[test]
fn the_grant_table_grows_to_its_limit() {
    let mut guest = Guest::new(|config| config.max_grant_frames = 3);
    let mut size = QuerySize {
        dom: domid::SELF,
        ..QuerySize::default()
    };
    let nr = hypercall::GRANT_TABLE_OP;
    assert_eq!(guest.call(nr, grant::QUERY_SIZE, &mut size), 0);
    assert_eq!((size.status, size.nr_frames, size.max_nr_frames), (0, 1, 3));
    assert_eq!(guest.map(memory::SPACE_GRANT_TABLE, 2, 10), 0);
    assert_eq!(guest.map(memory::SPACE_GRANT_TABLE, 3, 11), -EINVAL);
    assert_eq!(guest.map(memory::SPACE_GRANT_TABLE, 0, 1 << 40), -EFAULT);
    let mut setup = SetupTable {
        dom: domid::SELF,
        nr_frames: 3,
        frame_list: DATA * PAGE,
        ..SetupTable::default()
    };
    assert_eq!(guest.call(nr, grant::SETUP_TABLE, &mut setup), 0);
    assert_eq!(setup.status, grant::GNTST_OKAY);
    assert_eq!(guest.ram.load_u64(DATA * PAGE + 16), Ok(10));
    assert_eq!(guest.ram.load_u64(DATA * PAGE), Ok(u64::MAX));
    setup.nr_frames = 4;
    assert_eq!(guest.call(nr, grant::SETUP_TABLE, &mut setup), 0);
    assert_eq!(setup.status, grant::GNTST_GENERAL_ERROR);
}

#[test]
fn the_reserved_grants_are_there() {
    let guest = Guest::booted(|_| {});
    assert_eq!(guest.word(TABLE, 8), 1);
    assert_eq!(u64::from(guest.word(TABLE, 12)), STORE);
    assert_eq!(u64::from(guest.word(TABLE, 4)), CONSOLE);
    assert!(guest.host.granted().is_empty());
}

#[test]
fn the_grant_version_changes_only_while_unused() {
    let mut guest = Guest::with_disk(64, |_| {});
    let mut op = SetVersion { version: 2 };
    let nr = hypercall::GRANT_TABLE_OP;
    assert_eq!(guest.call(nr, grant::SET_VERSION, &mut op), -EBUSY);
    assert_eq!(op.version, 1);
    let mut get = GetVersion {
        dom: domid::SELF,
        ..GetVersion::default()
    };
    assert_eq!(guest.call(nr, grant::GET_VERSION, &mut get), 0);
    assert_eq!(get.version, 1);
    let mut old = Guest::new(|config| config.max_grant_version = 1);
    op.version = 2;
    assert_eq!(old.call(nr, grant::SET_VERSION, &mut op), -ENOSYS);
}

#[test]
fn the_memory_map_is_there_or_is_not() {
    let mut op = MemoryMap {
        nr_entries: 8,
        pad: 0,
        buffer: DATA * PAGE,
    };
    let mut guest = Guest::new(|_| {});
    let call = (hypercall::MEMORY_OP, memory::MEMORY_MAP);
    assert_eq!(guest.call(call.0, call.1, &mut op), -ENOSYS);
    let entry = |addr, kind| E820Entry {
        addr,
        size: 0x1000,
        kind,
    };
    let map = vec![entry(0, 1), entry(0xfee0_0000, 2)];
    let mut guest = Guest::new(|config| config.memory_map = map);
    assert_eq!(guest.call(call.0, call.1, &mut op), 0);
    assert_eq!(op.nr_entries, 2);
    assert_eq!(guest.word(DATA, 20), 0xfee0_0000);
    assert_eq!(guest.word(DATA, 36), 2);
}

#[test]
fn consoles() {
    let mut guest = Guest::booted(|_| {});
    let mut text = *b"early!";
    let args = [console_io::WRITE, 5, 0, 0, 0];
    assert_eq!(
        guest.host.hypercall(hypercall::CONSOLE_IO, args, &mut text),
        0
    );
    assert_eq!(guest.host.console().emergency(), b"early");
    // The ring: 1024 bytes in, 2048 bytes out, then in_cons, in_prod, out_cons, out_prod.
    guest.ram.write(CONSOLE * PAGE + 1024, b"hello").unwrap();
    guest.set(CONSOLE, 3084, 5);
    assert_eq!(guest.send(2), 0);
    guest.host.run(10);
    assert_eq!(guest.host.console().output(), b"hello");
    assert_eq!(guest.word(CONSOLE, 3080), 5);
    guest.host.console().type_in(b"ls\n");
    guest.host.take_interrupt();
    guest.upcall();
    assert_eq!(guest.wait(), [2]);
    assert_eq!(guest.word(CONSOLE, 3076), 3);
    guest.set(CONSOLE, 3084, 5 + 2049);
    guest.send(2);
    guest.host.run(10);
    assert!(guest.host.console().broken());
    let mut silent = Guest::new(|config| config.console_io = false);
    assert_eq!(
        silent
            .host
            .hypercall(hypercall::CONSOLE_IO, args, &mut text),
        -EPERM
    );
}

#[test]
fn shutdown_and_poll() {
    let mut guest = Guest::new(|_| {});
    let nr = hypercall::SCHED_OP;
    assert_eq!(
        guest
            .host
            .hypercall(nr, [sched::YIELD, 0, 0, 0, 0], &mut []),
        0
    );
    let mut poll = Poll {
        ports: 1 << 40,
        nr_ports: 1,
        ..Poll::default()
    };
    assert_eq!(guest.call(nr, sched::POLL, &mut poll), -EFAULT);
    poll.ports = DATA * PAGE;
    assert_eq!(guest.call(nr, sched::POLL, &mut poll), 0);
    assert_eq!(
        guest.call(nr, sched::SHUTDOWN, &mut Shutdown { reason: 9 }),
        -EINVAL
    );
    assert_eq!(guest.host.shutdown_reason(), None);
    assert_eq!(
        guest.call(nr, sched::SHUTDOWN, &mut Shutdown { reason: 3 }),
        0
    );
    assert_eq!(guest.host.shutdown_reason(), Some(3));
}

#[test]
fn msrs_and_the_hypercall_page() {
    let mut guest = Guest::new(|config| config.vendor = Vendor::Amd);
    assert_eq!(guest.host.rdmsr(0x4000_0001), Err(NoSuchMsr(0x4000_0001)));
    assert_eq!(guest.host.wrmsr(0x4000_0000, DATA * PAGE), Ok(()));
    let mut stub = [0; 9];
    guest.ram.read(DATA * PAGE + 32 * 17, &mut stub).unwrap();
    assert_eq!(stub.as_bytes(), [0xb8, 17, 0, 0, 0, 0x0f, 0x01, 0xd9, 0xc3]);
    let mut viridian = Guest::new(|config| config.viridian = true);
    viridian.host.advance(1_000_000);
    assert_eq!(viridian.host.rdmsr(0x4000_0020), Ok(10_000));
    assert_eq!(viridian.host.wrmsr(0x4000_0000, 5), Ok(()));
    assert_eq!(viridian.host.rdmsr(0x4000_0000), Ok(5));
    assert_eq!(viridian.host.cpuid(0x4000_0102, 0)[1], 0x4000_0200);
}
