//! The driver's half against a few registers and a page of RAM.

use super::abi::{MessageSlot, PostMessage, ReferenceTsc};
use super::*;
use crate::gate::{HvCall, XenCall};
use crate::shm::PAGE_SIZE;
use crate::shm::hosted::{Hosted, Machine, Ram};
use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::sync::{Arc, Mutex};
use std::vec::Vec;
use zerocopy::FromZeros;

#[derive(Default)]
struct Model {
    now: u64,
    ticks: u64,
    registers: BTreeMap<String, u64>,
    /// Registers that ignore being turned off.
    stuck: Option<HvRegister>,
    /// A register that ignores every write.
    dead: Option<HvRegister>,
    written: Vec<(HvRegister, u64)>,
    /// Statuses for the next calls; then success.
    statuses: Vec<u16>,
    calls: Vec<(u64, u64, Vec<u8>)>,
    /// What to put into VMBus's message slot at the next EOM.
    next: Option<MessageSlot>,
}

#[derive(Clone)]
struct Host {
    ram: Ram,
    model: Arc<Mutex<Model>>,
}

/// Where RAM holds a guest-physical address.
fn offset(gpa: u64) -> usize {
    usize::try_from(gpa.wrapping_sub(0x10_0000)).unwrap()
}

impl Host {
    fn new() -> Self {
        Self {
            ram: Ram::new(16, 0x100),
            model: Arc::default(),
        }
    }

    fn model<T>(&self, f: impl FnOnce(&mut Model) -> T) -> T {
        f(&mut self.model.lock().unwrap())
    }

    fn get(&self, register: HvRegister) -> u64 {
        let name = format!("{register:?}");
        self.model(|m| m.registers.get(&name).copied().unwrap_or(0))
    }

    /// The offset in RAM of the page that a register names.
    fn page(&self, register: HvRegister) -> usize {
        offset(self.get(register) & !0xfff)
    }

    fn put(&self, sint: u8, message: &MessageSlot) {
        let at = self.page(HvRegister::Simp) | usize::from(sint) << 8;
        self.ram.span().write(at, message).unwrap();
    }
}

impl Machine for Host {
    fn now(&self) -> u64 {
        self.model(|m| m.now)
    }
    fn wait_token(&self) -> u64 {
        0
    }
    fn wait(&self, _token: u64, until: u64) {
        self.model(|m| m.now = until);
    }
}

impl Gate for Host {
    fn cpuid(&self, _leaf: u32, _subleaf: u32) -> [u32; 4] {
        [0; 4]
    }
    fn ticks(&self) -> u64 {
        self.model(|m| m.ticks)
    }
    fn xen_call(&self, _call: XenCall<'_>) -> i64 {
        -38
    }
    fn hv_call(&self, call: HvCall) -> u64 {
        let mut bytes = [0; 256];
        if call.control() & abi::FAST == 0 {
            let at = offset(call.input());
            self.ram.span().copy_out(at, &mut bytes).unwrap();
            // A host may scribble on the input.
            self.ram.span().copy_in(at, &[0xee; 256]).unwrap();
        }
        self.model(|m| {
            let call = (call.control(), call.input(), bytes.to_vec());
            m.calls.push(call);
            if m.statuses.is_empty() {
                0
            } else {
                m.statuses.remove(0).into()
            }
        })
    }
    fn hv_get(&self, get: HvGet) -> u64 {
        self.get(get.register())
    }
    fn hv_set(&self, set: HvSet) {
        let (register, value) = (set.register(), set.value());
        let next = self.model(|m| {
            m.written.push((register, value));
            if m.dead != Some(register) && (m.stuck != Some(register) || value & 1 != 0) {
                m.registers.insert(format!("{register:?}"), value);
            }
            (register == HvRegister::Eom).then(|| m.next.take())
        });
        if let Some(Some(next)) = next {
            // The slot must be free by now.
            let at = self.page(HvRegister::Simp) | 512;
            assert_eq!(self.ram.span().load_u32(at), Ok(0));
            self.put(VMBUS_SINT, &next);
        }
    }
}

fn leaves(privileges: Privileges, extra: u32) -> HvLeaves {
    HvLeaves {
        features: [privileges.bits(), 0, 0, extra],
        version: [20348, 10 << 16, 0, 0],
        microsoft: true,
    }
}

type Subject = HyperV<Hosted<Host>, Host>;

fn start(host: &Host, privileges: Privileges, extra: u32) -> Result<Subject, HostError> {
    let platform = Hosted::new(host.ram.clone(), host.clone());
    HyperV::new(platform, host.clone(), leaves(privileges, extra), 0x40)
}

fn all() -> Privileges {
    Privileges::from_bits_retain(0x2ff)
}

#[test]
fn set_up_is_ordered_and_undone() {
    let host = Host::new();
    let hv = start(&host, all(), 0).unwrap();
    let order: Vec<_> = host.model(|m| m.written.iter().map(|w| w.0).collect());
    assert_eq!(
        order,
        [
            HvRegister::GuestOsId,
            HvRegister::Hypercall,
            HvRegister::ReferenceTsc,
            HvRegister::Simp,
            HvRegister::Siefp,
            HvRegister::Sint(2),
            HvRegister::Sint(4),
            HvRegister::Scontrol,
        ]
    );
    assert_eq!(host.get(HvRegister::GuestOsId), 0x8100 << 48);
    assert_eq!(host.get(HvRegister::Sint(2)), 0x40);
    assert_eq!(host.get(HvRegister::Scontrol), 1);
    for register in [HvRegister::Simp, HvRegister::Siefp, HvRegister::Hypercall] {
        let value = host.get(register);
        assert_eq!(value & 0xfff, 1);
        assert!((0x100..0x110).contains(&(value >> 12)));
    }
    assert_eq!(
        hv.identity(),
        Identity {
            kind: HostKind::HyperV,
            major: 10,
            minor: 0
        }
    );
    assert_eq!(host.ram.used_pages(), 5);
    drop(hv);
    let order: Vec<_> = host.model(|m| m.written.drain(..).skip(8).collect());
    let off = |register| order.iter().position(|w| w.0 == register).unwrap();
    assert!(off(HvRegister::Sint(2)) < off(HvRegister::Simp));
    assert!(off(HvRegister::Simp) < off(HvRegister::Hypercall));
    assert_eq!(order.last(), Some(&(HvRegister::GuestOsId, 0)));
    assert_eq!(host.get(HvRegister::Sint(2)), 1 << 16);
    assert_eq!(host.ram.used_pages(), 0);
}

#[test]
fn pages_that_the_host_keeps_are_leaked() {
    let host = Host::new();
    let hv = start(&host, all(), 0).unwrap();
    host.model(|m| m.stuck = Some(HvRegister::Simp));
    drop(hv);
    assert_eq!(host.ram.used_pages(), 1);
    // Keeps what is leaked on purpose from looking lost to Miri.
    static KEPT: Mutex<Vec<Host>> = Mutex::new(Vec::new());
    KEPT.lock().unwrap().push(host);
}

#[test]
fn preserved_bits_are_kept() {
    let host = Host::new();
    host.model(|m| {
        m.registers.insert("Simp".into(), 0xabc);
        m.registers.insert("Sint(2)".into(), 5 << 40 | 1 << 16);
    });
    let hv = start(&host, all(), 0).unwrap();
    assert_eq!(host.get(HvRegister::Simp) & 0xfff, 0xabd);
    assert_eq!(host.get(HvRegister::Sint(2)), 5 << 40 | 0x40);
    drop(hv);
    assert_eq!(host.get(HvRegister::Simp), 0xabc);
}

#[test]
fn what_is_missing_is_told() {
    let host = Host::new();
    let lacking = start(&host, Privileges::SYNIC, 0).map(drop);
    assert_eq!(lacking, Err(HostError::Unsupported));
    let platform = Hosted::new(host.ram.clone(), host.clone());
    let low = HyperV::new(platform, host.clone(), leaves(all(), 0), 15).map(drop);
    assert_eq!(low, Err(HostError::Unsupported));
    assert!(host.model(|m| m.written.is_empty()));
    // Without timers, counter and reset register, as some hosts are.
    let hv = start(&host, Privileges::HYPERCALL | Privileges::SYNIC, 0).unwrap();
    assert_eq!(hv.set_timer(1), Err(HostError::Unsupported));
    assert_eq!(hv.shutdown(Shutdown::Reboot), Err(HostError::Unsupported));
    host.model(|m| m.now = 77);
    assert_eq!(hv.clock(), 77);
    hv.report_crash([1; 5], "unheard");
    assert_eq!(host.get(HvRegister::CrashControl), 0);
}

#[test]
fn a_failed_start_leaves_nothing_behind() {
    let host = Host::new();
    host.model(|m| m.dead = Some(HvRegister::Hypercall));
    let refused = start(&host, all(), 0).map(drop);
    assert_eq!(refused, Err(HostError::Unsupported));
    assert_eq!(host.get(HvRegister::GuestOsId), 0);
    assert_eq!(host.ram.used_pages(), 0);
    // Too little memory is noticed before the host is told anything.
    host.model(|m| m.written.clear());
    let small = Ram::new(3, 0x100);
    let platform = Hosted::new(small.clone(), host.clone());
    let refused = HyperV::new(platform, host.clone(), leaves(all(), 0), 0x40).map(drop);
    assert_eq!(refused, Err(HostError::OutOfPages));
    assert_eq!(small.used_pages(), 0);
    assert!(host.model(|m| m.written.is_empty()));
}

#[test]
fn messages_are_sent_again_while_the_host_is_busy() {
    let host = Host::new();
    let hv = start(&host, all(), 0).unwrap();
    host.model(|m| m.statuses = [0x0b, 0x12, 0x13].to_vec());
    let mut pauses = 0;
    hv.post_message(7, b"hello", 1_000_000, || pauses += 1)
        .unwrap();
    assert_eq!(pauses, 3);
    let calls = host.model(|m| core::mem::take(&mut m.calls));
    assert_eq!(calls.len(), 4);
    let mut expected = PostMessage::new_zeroed();
    (expected.connection, expected.kind, expected.size) = (7, 1, 5);
    expected.payload[..5].copy_from_slice(b"hello");
    for (control, input, bytes) in calls {
        assert_eq!(control, 0x5c);
        assert_eq!(input % PAGE_SIZE as u64, 0);
        assert_eq!(bytes, zerocopy::IntoBytes::as_bytes(&expected));
    }
    assert_eq!(hv.counters().hypercalls, 4);
}

#[test]
fn sending_ends_at_the_deadline_or_at_a_refusal() {
    let host = Host::new();
    let hv = start(&host, all(), 0).unwrap();
    host.model(|m| m.statuses = [0x13; 1000].to_vec());
    let busy = Err(PostError::Busy(Status::INSUFFICIENT_BUFFERS));
    assert_eq!(hv.post_message(1, b"x", 50_000_000, || ()), busy);
    assert_eq!(host.now(), 50_000_000);
    assert!(host.model(|m| m.calls.len()) < 20);
    host.model(|m| m.statuses = [6].to_vec());
    let refused = Err(PostError::Refused(Status(6)));
    assert_eq!(hv.post_message(1, b"x", u64::MAX, || ()), refused);
    assert_eq!(hv.try_post_message(1, &[0; 241]), Err(PostError::TooLong));
}

#[test]
fn signals_are_fast_calls() {
    let host = Host::new();
    let hv = start(&host, all(), 0).unwrap();
    hv.signal(Port {
        to: 0x2007,
        from: 7,
    });
    let (control, input, _) = host.model(|m| m.calls.remove(0));
    assert_eq!((control, input), (0x1_005d, 0x2007));
    assert_eq!(hv.counters().signals, 1);
}

fn message(kind: u32, flags: u8, text: &[u8]) -> MessageSlot {
    let mut slot = MessageSlot::new_zeroed();
    (slot.kind, slot.flags, slot.size) = (kind, flags, text.len() as u8);
    slot.payload[..text.len()].copy_from_slice(text);
    slot
}

#[test]
fn messages_are_taken_one_by_one() {
    let host = Host::new();
    let hv = start(&host, all(), 0).unwrap();
    assert!(hv.take_message().is_none());
    host.put(VMBUS_SINT, &message(1, abi::MESSAGE_PENDING, b"first"));
    host.model(|m| m.next = Some(message(1, 0, b"second")));
    hv.on_interrupt();
    assert!(hv.signals().take(MESSAGE_SIGNAL));
    assert!(hv.has_message());
    assert_eq!(hv.take_message().unwrap().payload(), b"first");
    host.model(|m| m.written.clear());
    assert_eq!(hv.take_message().unwrap().payload(), b"second");
    // Nothing was pending behind the second, so no end of message is written.
    assert!(host.model(|m| m.written.is_empty()));
    assert!(!hv.has_message());
    // A size beyond the slot is cut to what the slot holds.
    let mut long = message(1, 0, b"");
    long.size = 255;
    host.put(VMBUS_SINT, &long);
    assert_eq!(hv.take_message().unwrap().payload().len(), 240);
}

#[test]
fn event_flags_become_signals() {
    let host = Host::new();
    let hv = start(&host, all(), 0).unwrap();
    let at = host.page(HvRegister::Siefp) + 512;
    let span = host.ram.span();
    span.store_u64(at, 1 << 7).unwrap();
    span.store_u64(at + 248, 1 << 63).unwrap();
    // Another SINT's flags are not ours.
    span.store_u64(at + 256, 1).unwrap();
    // Flags that nobody expects stay where they are.
    hv.on_interrupt();
    assert_eq!(span.load_u64(at), Ok(1 << 7));
    // One that is set already is taken when it is first expected.
    hv.expect_event(7);
    assert_eq!(format!("{:?}", hv.signals()), "{7}");
    span.store_u64(at, 1 << 7).unwrap();
    hv.expect_event(2047);
    hv.expect_event(u32::MAX);
    hv.on_interrupt();
    assert_eq!(format!("{:?}", hv.signals()), "{7, 2047}");
    assert_eq!(span.load_u64(at), Ok(0));
    assert_eq!(span.load_u64(at + 248), Ok(0));
    assert_eq!(span.load_u64(at + 256), Ok(1));
    assert!(hv.take_pending(Port { to: 0, from: 2047 }));
    assert!(!hv.take_pending(Port { to: 0, from: 2047 }));
    assert_eq!(hv.counters().interrupts, 2);
}

#[test]
fn the_timer_fires_by_message() {
    let host = Host::new();
    let hv = start(&host, all(), 0).unwrap();
    hv.set_timer(1234).unwrap();
    assert_eq!(host.get(HvRegister::StimerCount(0)), 13);
    assert_eq!(host.get(HvRegister::StimerConfig(0)), 1 | 4 << 16);
    hv.on_interrupt();
    assert!(!hv.take_timer());
    host.put(TIMER_SINT, &message(abi::KIND_TIMER_EXPIRED, 0, &[0; 24]));
    hv.on_interrupt();
    assert!(hv.take_timer());
    assert!(!hv.take_timer());
    // What an earlier setting said does not count for the next.
    host.put(TIMER_SINT, &message(abi::KIND_TIMER_EXPIRED, 0, &[0; 24]));
    hv.set_timer(0).unwrap();
    hv.on_interrupt();
    assert!(!hv.take_timer());
    assert_eq!(host.get(HvRegister::StimerCount(0)), 1);
    hv.stop_timer();
    assert_eq!(host.get(HvRegister::StimerConfig(0)), 0);
}

#[test]
fn the_clock_reads_page_or_register() {
    let host = Host::new();
    let hv = start(&host, all(), 0).unwrap();
    host.model(|m| {
        m.ticks = 3_000_000_000;
        m.registers.insert("TimeRefCount".into(), 42);
    });
    // The page's sequence is still 0.
    assert_eq!(hv.clock(), 4200);
    let record = ReferenceTsc {
        sequence: 5,
        reserved: 0,
        // 3 GHz to 10 MHz.
        scale: u64::MAX / 300 + 1,
        offset: -1_000_000,
    };
    let at = host.page(HvRegister::ReferenceTsc);
    host.ram.span().write(at, &record).unwrap();
    assert_eq!(hv.clock(), 900_000_000);
    host.ram.span().store_u32(at, 0).unwrap();
    assert_eq!(hv.clock(), 4200);
}

#[test]
fn a_crash_is_reported_with_its_text() {
    let host = Host::new();
    host.model(|m| m.registers.insert("CrashControl".into(), 3 << 62));
    let hv = start(&host, all(), CRASH_REGISTERS).unwrap();
    hv.report_crash([1, 2, 3, 4, 5], "oops");
    assert_eq!(host.get(HvRegister::CrashParameter(2)), 3);
    assert_eq!(host.get(HvRegister::CrashParameter(4)), 4);
    assert_eq!(host.get(HvRegister::CrashControl), 3 << 62);
    let at = offset(host.get(HvRegister::CrashParameter(3)));
    let mut text = [0; 4];
    host.ram.span().copy_out(at, &mut text).unwrap();
    assert_eq!(&text, b"oops");
    hv.report_crash([9; 5], "");
    assert_eq!(host.get(HvRegister::CrashParameter(4)), 9);
    assert_eq!(host.get(HvRegister::CrashControl), 1 << 63);
}
