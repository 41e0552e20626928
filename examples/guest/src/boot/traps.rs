//! Exceptions and interrupts: the descriptor table, the count of interrupts taken, and halting until the next.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::{Mutex, Once};
use x86_64::VirtAddr;
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::instructions::{hlt, interrupts};
use x86_64::registers::control::Cr2;
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

use super::{apic, clock, panic};

global_asm!(include_str!("traps.S"), options(att_syntax));

unsafe extern "C" {
    static trap_stubs: u8;
}

/// Bytes between two stubs in `traps.S`.
const STUB: u64 = 16;
const VECTORS: usize = 256;
const CODE: u16 = 0x08;
/// Present, ring 0, interrupt gate (64-bit); interrupts stay off in the handler.
const GATE: u128 = 0x8e;
const DOUBLE_FAULT: usize = 8;
const PAGE_FAULT: usize = 14;

/// What a stub leaves on the stack.
#[repr(C)]
struct Frame {
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

static TABLE: Mutex<[u128; VECTORS]> = Mutex::new([0; VECTORS]);
static SEGMENTS: Once<(GlobalDescriptorTable, SegmentSelector)> = Once::new();
static TASK: Once<TaskStateSegment> = Once::new();
static FAULT_STACK: [AtomicU64; 2048] = [const { AtomicU64::new(0) }; 2048];

/// Device interrupts taken since the kernel started.
static TAKEN: AtomicU64 = AtomicU64::new(0);
/// When the armed timer fires, in clock nanoseconds; 0 when none is armed.
static ARMED: AtomicU64 = AtomicU64::new(0);
/// Serves the hypervisor's events.
static UPCALL: Once<fn()> = Once::new();

/// Loads the segments and the descriptor table. Interrupts stay off.
pub fn start() {
    let task = TASK.call_once(|| {
        let mut task = TaskStateSegment::new();
        let top = VirtAddr::from_ptr(FAULT_STACK.as_ptr_range().end);
        task.interrupt_stack_table = [top; 7];
        task
    });
    let (segments, task) = SEGMENTS.call_once(|| {
        let mut segments = GlobalDescriptorTable::new();
        segments.append(Descriptor::kernel_code_segment());
        segments.append(Descriptor::kernel_data_segment());
        let task = segments.append(Descriptor::tss_segment(task));
        (segments, task)
    });
    segments.load();
    // SAFETY: the selector is the one just loaded for a task state that lives forever.
    unsafe { load_tss(*task) };

    let mut table = TABLE.lock();
    let mut stub = (&raw const trap_stubs).addr() as u64;
    for (vector, gate) in table.iter_mut().enumerate() {
        let own_stack = u128::from(vector == DOUBLE_FAULT || vector == PAGE_FAULT);
        let at = u128::from(stub);
        *gate = (at & 0xffff)
            | u128::from(CODE) << 16
            | own_stack << 32
            | GATE << 40
            | (at >> 16 & 0xffff) << 48
            | (at >> 32) << 64;
        stub = stub.wrapping_add(STUB);
    }
    let pointer = DescriptorTablePointer {
        limit: u16::MAX >> 4,
        base: VirtAddr::from_ptr(table.as_ptr()),
    };
    // SAFETY: the table is static, full, and every gate leads to a stub that returns with IRETQ.
    unsafe { lidt(&pointer) };
}

/// Sets who serves the hypervisor's events, then lets interrupts in.
pub fn serve(upcall: fn()) {
    UPCALL.call_once(|| upcall);
    interrupts::enable();
}

#[unsafe(no_mangle)]
extern "C" fn trap(frame: &Frame) {
    match frame.vector {
        0..32 => panic::fail(&format_args!(
            "exception {} error {:#x} rip {:#x} cr2 {:#x} rsp {:#x}",
            frame.vector,
            frame.error,
            frame.rip,
            Cr2::read_raw(),
            frame.rsp
        )),
        vector if vector == u64::from(apic::SPURIOUS) => {}
        vector => {
            if vector == u64::from(apic::TIMER) {
                ARMED.store(0, Ordering::Relaxed);
            } else {
                TAKEN.fetch_add(1, Ordering::Relaxed);
                if vector == u64::from(apic::UPCALL)
                    && let Some(upcall) = UPCALL.get()
                {
                    upcall();
                }
            }
            apic::end_of_interrupt();
        }
    }
}

/// Device interrupts taken so far.
pub fn taken() -> u64 {
    TAKEN.load(Ordering::Relaxed)
}

/// Halts until the count of interrupts differs from `token` or the clock reaches `until`.
pub fn wait(token: u64, until: u64) {
    loop {
        // Off between the look and the halt, so that an interrupt in between is not slept through:
        // STI lets the HLT after it begin before any interrupt is taken.
        interrupts::disable();
        let now = clock::now();
        if taken() != token || now >= until {
            interrupts::enable();
            return;
        }
        let armed = ARMED.load(Ordering::Relaxed);
        // A timer set for earlier is left alone: it costs one empty round instead of an exit each time.
        let will_wake = if armed > now && armed <= until {
            true
        } else {
            let armed = apic::arm_timer(until.saturating_sub(now));
            ARMED.store(if armed { until } else { 0 }, Ordering::Relaxed);
            armed
        };
        if will_wake {
            interrupts::enable_and_hlt();
        } else {
            interrupts::enable();
            core::hint::spin_loop();
        }
    }
}

/// Halts for good.
pub fn stop() -> ! {
    interrupts::disable();
    loop {
        hlt();
    }
}
