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
mod memory;
mod panic;
mod power;
mod serial;
mod traps;

use guest::command_line::{self, Job};
use guest::report::Report;

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
    let heap = memory::start(&handover.ram);
    let apic = apic::start();
    say!(
        "guest: {:?} entry, {} MiB heap, {} MHz TSC by {source}, {}",
        handover.protocol,
        heap.map_or(0, |heap| heap.end.saturating_sub(heap.start) >> 20),
        hertz / 1_000_000,
        apic.unwrap_or("no APIC"),
    );
    let outcome = run(&handover.command_line);
    say!("{outcome}");
    power::off(End::Done)
}

/// Does what the command line says.
fn run(command_line: &str) -> Report {
    match Job::parse(command_line) {
        Ok(job) => Report::failure(job.name(), "no known hypervisor below"),
        Err(error) => {
            say!("{error}");
            say!("{}", command_line::USAGE);
            Report::failure("", error)
        }
    }
}
