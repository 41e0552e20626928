//! Event channels, upcalls, clocks and timers.

use super::guest::*;
use crate::memory::GuestMemory;
use crate::xen::abi::errno::*;
use crate::xen::abi::ops::*;
use crate::xen::abi::{PAGE, domid, event, hvm, hypercall, vcpu};
use crate::xen::machine::Idle;

const EVENTS: u32 = hypercall::EVENT_CHANNEL_OP;

fn bind_own(guest: &mut Guest) -> (u32, u32) {
    let remote = guest.alloc_unbound(domid::SELF);
    let mut op = BindInterdomain {
        remote_dom: domid::SELF,
        remote_port: remote,
        ..BindInterdomain::default()
    };
    assert_eq!(guest.call(EVENTS, event::BIND_INTERDOMAIN, &mut op), 0);
    (op.local_port, remote)
}

fn pending(guest: &Guest, port: u32) -> bool {
    guest.host.events().pending(&guest.ram, port).unwrap()
}

#[test]
fn an_event_goes_through_every_level_once() {
    let mut guest = Guest::booted(|_| {});
    assert_eq!(
        guest.host.take_interrupt(),
        Some(VECTOR),
        "setting the vector raises it"
    );
    let (local, remote) = bind_own(&mut guest);
    assert_eq!(
        guest.host.take_interrupt(),
        Some(VECTOR),
        "binding leaves the new port pending"
    );
    assert_eq!(guest.upcall(), [local]);
    assert_eq!(guest.send(remote), 0);
    assert_eq!(guest.send(remote), 0);
    assert_eq!(guest.host.take_interrupt(), Some(VECTOR));
    assert_eq!(guest.host.take_interrupt(), None);
    let info = SHARED * PAGE;
    assert_eq!(guest.ram.load_u32(info).unwrap() & 0xff, 1);
    assert_eq!(guest.ram.load_u64(info + 8), Ok(1));
    // Until the guest clears the upcall flag, nothing more is raised.
    guest.ram.store_u64(info + 2048, 0).unwrap();
    guest.ram.store_u64(info + 8, 0).unwrap();
    guest.send(remote);
    assert_eq!(guest.host.take_interrupt(), None);
    assert_eq!(guest.upcall(), [local]);
}

#[test]
fn a_masked_port_waits_for_unmask() {
    let mut guest = Guest::booted(|_| {});
    let (local, remote) = bind_own(&mut guest);
    guest.host.take_interrupt();
    guest.upcall();
    let mask = SHARED * PAGE + 2560;
    guest.ram.store_u64(mask, !0).unwrap();
    guest.send(remote);
    assert!(pending(&guest, local));
    assert_eq!(guest.host.take_interrupt(), None);
    assert_eq!(
        guest.call(EVENTS, event::UNMASK, &mut Port { port: local }),
        0
    );
    assert_eq!(guest.ram.load_u64(mask), Ok(!(1u64 << local)));
    assert_eq!(guest.host.take_interrupt(), Some(VECTOR));
    assert_eq!(guest.upcall(), [local]);
    assert_eq!(
        guest.call(EVENTS, event::UNMASK, &mut Port { port: 4096 }),
        -EINVAL
    );
}

#[test]
fn closing_clears_what_was_pending_and_frees_the_port() {
    let mut guest = Guest::booted(|_| {});
    let (local, remote) = bind_own(&mut guest);
    guest.send(remote);
    assert_eq!(
        guest.call(EVENTS, event::CLOSE, &mut Port { port: local }),
        0
    );
    assert!(!pending(&guest, local));
    assert_eq!(
        guest.call(EVENTS, event::CLOSE, &mut Port { port: local }),
        -EINVAL
    );
    assert_eq!(guest.send(local), -EINVAL);
    assert_eq!(guest.send(remote), 0, "sending to nobody is dropped");
    let mut status = PortStatus {
        dom: domid::SELF,
        port: remote,
        ..PortStatus::default()
    };
    assert_eq!(guest.call(EVENTS, event::STATUS, &mut status), 0);
    assert_eq!((status.status, status.who), (event::STATUS_UNBOUND, 5));
    assert_eq!(guest.alloc_unbound(0), local, "the lowest free port");
    let mut reset = Reset { dom: domid::SELF };
    assert_eq!(guest.call(EVENTS, event::RESET, &mut reset), 0);
    assert_eq!(guest.host.events().open_ports().count(), 0);
}

#[test]
fn a_callback_vector_is_a_level() {
    let mut guest = Guest::new(|config| config.upcall_vector = false);
    guest.map(0, 0, SHARED);
    let mut vector = UpcallVector {
        vector: VECTOR,
        ..UpcallVector::default()
    };
    let set = hvm::SET_EVTCHN_UPCALL_VECTOR;
    assert_eq!(guest.call(hypercall::HVM_OP, set, &mut vector), -ENOSYS);
    let mut via = HvmParam {
        domid: domid::SELF,
        index: hvm::PARAM_CALLBACK_IRQ,
        value: 2 << 56 | 0x55,
        ..HvmParam::default()
    };
    assert_eq!(guest.call(hypercall::HVM_OP, hvm::SET_PARAM, &mut via), 0);
    assert_eq!(guest.host.take_interrupt(), None);
    bind_own(&mut guest);
    assert_eq!(guest.host.take_interrupt(), Some(0x55));
    assert_eq!(guest.host.take_interrupt(), Some(0x55));
    guest.upcall();
    assert_eq!(guest.host.take_interrupt(), None);
    via.value = 1 << 56 | 3 << 11;
    assert_eq!(guest.call(hypercall::HVM_OP, hvm::SET_PARAM, &mut via), 0);
    assert!(!guest.host.line_asserted());
    bind_own(&mut guest);
    assert!(guest.host.line_asserted());
    assert_eq!(guest.host.take_interrupt(), None);
}

#[test]
fn events_before_the_shared_page_is_mapped_are_kept() {
    let mut guest = Guest::new(|_| {});
    let (local, _) = bind_own(&mut guest);
    guest.map(0, 0, SHARED);
    assert_eq!(guest.upcall(), [local]);
}

#[test]
fn a_registered_vcpu_info_starts_with_everything_pending() {
    let mut guest = Guest::booted(|_| {});
    guest.host.take_interrupt();
    let mut op = RegisterVcpuInfo {
        mfn: DATA,
        offset: 128,
        rsvd: 0,
    };
    let register = vcpu::REGISTER_VCPU_INFO;
    op.offset = 4095;
    assert_eq!(guest.call(hypercall::VCPU_OP, register, &mut op), -ENXIO);
    op.offset = 128;
    assert_eq!(guest.call(hypercall::VCPU_OP, register, &mut op), 0);
    assert_eq!(guest.call(hypercall::VCPU_OP, register, &mut op), -EBUSY);
    assert_eq!(guest.host.take_interrupt(), Some(VECTOR));
    let info = DATA * PAGE + 128;
    assert_eq!(guest.ram.load_u64(info + 8), Ok(!0));
    assert_eq!(guest.ram.load_u32(info).unwrap() & 0xff, 1);
    assert_ne!(
        guest.ram.load_u32(info + 56),
        Ok(0),
        "the clock's multiplier is there"
    );
    guest.ram.write(info, &[0]).unwrap();
    guest.ram.store_u64(info + 8, 0).unwrap();
    let (local, _) = bind_own(&mut guest);
    assert_eq!(guest.ram.load_u64(info + 8), Ok(1 << (local / 64)));
    assert_eq!(guest.ram.load_u64(SHARED * PAGE + 8), Ok(0));
}

#[test]
fn ports_move_between_vcpus() {
    let mut guest = Guest::booted(|config| config.vcpus = 2);
    for target in [0, 1] {
        guest.host.take_interrupt_on(target);
    }
    let mut vector = UpcallVector {
        vcpu: 1,
        vector: VECTOR + 1,
        ..UpcallVector::default()
    };
    let set = hvm::SET_EVTCHN_UPCALL_VECTOR;
    assert_eq!(guest.call(hypercall::HVM_OP, set, &mut vector), 0);
    assert_eq!(guest.host.take_interrupt_on(1), Some(VECTOR + 1));
    let mut ipi = BindIpi { vcpu: 1, port: 0 };
    assert_eq!(guest.call(EVENTS, event::BIND_IPI, &mut ipi), 0);
    guest.send(ipi.port);
    assert_eq!(guest.host.take_interrupt_on(0), None);
    assert_eq!(guest.host.take_interrupt_on(1), Some(VECTOR + 1));
    let mut bind = BindVcpu {
        port: ipi.port,
        vcpu: 0,
    };
    assert_eq!(guest.call(EVENTS, event::BIND_VCPU, &mut bind), -EINVAL);
    bind.port = guest.alloc_unbound(0);
    assert_eq!(guest.call(EVENTS, event::BIND_VCPU, &mut bind), 0);
    bind.vcpu = 2;
    assert_eq!(guest.call(EVENTS, event::BIND_VCPU, &mut bind), -ENOENT);
}

#[test]
fn a_timer_fires_once_at_its_time() {
    let mut guest = Guest::booted(|_| {});
    guest.wait();
    let mut virq = BindVirq::default();
    assert_eq!(guest.call(EVENTS, event::BIND_VIRQ, &mut virq), 0);
    assert_eq!(guest.call(EVENTS, event::BIND_VIRQ, &mut virq), -EEXIST);
    let mut timer = SetSingleshotTimer {
        timeout_abs_ns: 5_000_000,
        ..SetSingleshotTimer::default()
    };
    assert_eq!(
        guest.call(hypercall::VCPU_OP, vcpu::SET_SINGLESHOT_TIMER, &mut timer),
        0
    );
    assert!(!guest.host.step());
    assert_eq!(guest.wait(), [virq.port]);
    assert_eq!(guest.host.now(), 5_000_000);
    assert_eq!(guest.host.idle(), Idle::Deadlock);
    // A deadline in the past fires at once.
    timer.timeout_abs_ns = 1;
    guest.call(hypercall::VCPU_OP, vcpu::SET_SINGLESHOT_TIMER, &mut timer);
    assert_eq!(guest.wait(), [virq.port]);
    assert_eq!(guest.host.now(), 5_000_000);
    timer.timeout_abs_ns = 9_000_000;
    guest.call(hypercall::VCPU_OP, vcpu::SET_SINGLESHOT_TIMER, &mut timer);
    let stop = [vcpu::STOP_SINGLESHOT_TIMER, 0, 0, 0, 0];
    assert_eq!(guest.host.hypercall(hypercall::VCPU_OP, stop, &mut []), 0);
    assert_eq!(guest.host.idle(), Idle::Deadlock);
}

#[test]
fn an_older_host_refuses_the_past() {
    let mut guest = Guest::booted(|config| config.timer_refuses_past = true);
    guest.host.advance(1000);
    let mut timer = SetSingleshotTimer {
        timeout_abs_ns: 999,
        flags: vcpu::SSHOTTMR_FUTURE,
        pad: 0,
    };
    let set = vcpu::SET_SINGLESHOT_TIMER;
    assert_eq!(guest.call(hypercall::VCPU_OP, set, &mut timer), -ETIME);
    timer.timeout_abs_ns = 1000;
    assert_eq!(guest.call(hypercall::VCPU_OP, set, &mut timer), 0);
    timer = SetSingleshotTimer::default();
    assert_eq!(guest.call(hypercall::VCPU_OP, set, &mut timer), 0);
}

#[test]
fn the_clock_follows_the_tsc() {
    let mut guest = Guest::booted(|_| {});
    guest.host.advance(3_000_000_000);
    let at = SHARED * PAGE + 32;
    let read = |guest: &Guest| {
        let mul = u128::from(guest.ram.load_u32(at + 24).unwrap());
        let shift = guest.ram.load_u32(at + 28).unwrap() as i8;
        let stamp = guest.ram.load_u64(at + 8).unwrap();
        let base = guest.ram.load_u64(at + 16).unwrap();
        let ticks = u128::from(guest.host.tsc() - stamp);
        let ticks = if shift < 0 {
            ticks >> -shift
        } else {
            ticks << shift
        };
        base + ((ticks * mul) >> 32) as u64
    };
    let before = guest.ram.load_u32(at).unwrap();
    assert_eq!(before % 2, 0);
    assert_eq!(read(&guest), 3_000_000_000);
    // Without a new record the guest gets on by the TSC alone.
    guest.host.clock().advance(1_000_000_000);
    assert!(read(&guest).abs_diff(4_000_000_000) < 10);
    guest.host.clock().freeze_mid_update = true;
    guest.host.publish_time().unwrap();
    assert_eq!(guest.ram.load_u32(at).unwrap() % 2, 1);
    guest.host.clock().freeze_mid_update = false;
    guest.host.publish_time().unwrap();
    assert_eq!(guest.ram.load_u32(at).unwrap() % 2, 0);
    assert_eq!(guest.word(SHARED, 3076), 1_750_000_000);
}
