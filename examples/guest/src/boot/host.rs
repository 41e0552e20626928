//! The host below: found, driven, and given its interrupts, its console and the machine's end.

use pv_drivers::arch::Cpu;
use pv_drivers::{Host, HostUnknown, Hypervisor, Platform, Shutdown};
use spin::Once;

use super::console::{self, say};
use super::handover::Ram;
use super::platform::Kernel;
use super::power::{self, End};
use super::{apic, memory, traps};

static HOST: Once<Host<Kernel, Cpu>> = Once::new();

/// How long a console may keep a line waiting, in nanoseconds.
const CONSOLE_PATIENCE: u64 = 500_000_000;

/// Finds the host and takes up its services; asks it for the memory map where the loader gave none (`mapped`).
///
/// # Errors
/// [`HostUnknown`], with what is below instead.
pub fn find(mapped: bool) -> Result<&'static Host<Kernel, Cpu>, HostUnknown> {
    // SAFETY: this is a guest kernel in ring 0 and long mode, and this is the only driver of the hypervisor in it.
    let cpu = unsafe { Cpu::new() };
    let host = HOST.try_call_once(|| Host::find(Kernel, cpu, apic::UPCALL))?;
    if !mapped {
        learn_memory(host);
    }
    traps::serve(|| {
        if let Some(host) = HOST.get() {
            host.on_interrupt();
        }
    });
    power::by_host(end);
    // A host without a console takes nothing.
    if host.console_write(b"\r\n") > 0 {
        console::attach(print);
    }
    Ok(host)
}

/// Takes the rest of the memory into use that a Xen before 4.9 does not tell a PVH kernel of.
fn learn_memory(host: &Host<Kernel, Cpu>) {
    const RAM: u32 = 1;
    let Host::Xen(xen) = host else { return };
    let told = xen.memory_map(|range| {
        if range.kind == RAM {
            memory::grow(Ram {
                start: range.start,
                end: range.start.saturating_add(range.size),
            });
        }
    });
    if let Err(error) = told {
        say!("no memory map from Xen: {error}");
    }
}

/// Sends a line to the host's console, waiting a little where it is full.
fn print(line: &[u8]) {
    let Some(host) = HOST.get() else { return };
    let until = Kernel.now().saturating_add(CONSOLE_PATIENCE);
    let mut rest = line;
    loop {
        let token = Kernel.wait_token();
        let sent = host.console_write(rest);
        rest = rest.get(sent..).unwrap_or_default();
        let now = Kernel.now();
        if rest.is_empty() || now >= until {
            return;
        }
        // The reader may say that there is room again, or may not.
        Kernel.wait(token, until.min(now.saturating_add(10_000_000)));
    }
}

/// Ends the machine by the host's own means; returns where it has none.
fn end(how: End) {
    let Some(host) = HOST.get() else { return };
    let _ = host.shutdown(match how {
        End::Done => Shutdown::PowerOff,
        End::Crash => Shutdown::Crash,
    });
}

/// Tells the host of a crash.
pub fn report_crash(message: &str) {
    if let Some(host) = HOST.get() {
        host.report_crash([0; 5], message);
    }
}
