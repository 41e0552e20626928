//! The kernel proper: from the first instruction to a running job, and off again.
//!
//! This is the only place of the guest with `unsafe` code.

mod acpi;
mod apic;
mod clock;
mod console;
mod cpu;
mod entry;
mod handover;
mod host;
mod memory;
mod panic;
mod platform;
mod power;
mod serial;
mod traps;

use guest::report::Report;
use guest::{jobs, live};

use console::say;
use handover::Handover;
use power::End;

/// Where `entry.S` arrives: long mode, our tables and stack, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(protocol: u32, info: u64) -> ! {
    traps::start();
    let handover = Handover::read(protocol, info);
    power::set_root_pointer(handover.rsdp);
    let (hertz, source) = clock::start();
    let Some(heap) = memory::start(&handover.ram).or_else(memory::start_without_map) else {
        panic::fail(&"the loader's map has no usable memory");
    };
    if !memory::guard_stack() {
        panic::fail(&"no memory for page tables");
    }
    let apic = apic::start();
    say!(
        "guest: {:?} entry, {} MiB heap, {} MHz TSC by {source}, {}",
        handover.protocol,
        heap.end.saturating_sub(heap.start) >> 20,
        hertz / 1_000_000,
        apic.unwrap_or("no APIC"),
    );
    let report = run(&handover);
    say!("{report}");
    power::off(End::Done)
}

/// Does what the command line says.
fn run(handover: &Handover) -> Report {
    let job = match jobs::parse(&handover.command_line, &mut |line| say!("{line}")) {
        Ok(job) => job,
        Err(report) => return *report,
    };
    match host::find(!handover.ram.is_empty()) {
        Ok(host) => live::run(host, &job, &mut |line| say!("{line}")),
        Err(error) => {
            say!("error: {error}");
            Report::failure(job.name(), error)
        }
    }
}
