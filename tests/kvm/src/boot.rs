//! Loading a kernel and entering it as the 64-bit Linux boot protocol says
//! (Linux `Documentation/arch/x86/boot.rst`): long mode, the low 4 GiB mapped to themselves, the zero
//! page in RSI. Nothing else is promised: no stack, no IDT, interrupts off, SSE off.

use crate::acpi;
use crate::memory::Memory;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use linux_loader::loader::{KernelLoader, elf::Elf};
use pv_tests::memory::GuestMemory;
use std::fs::{self, File};
use std::path::Path;

const GDT: u64 = 0x500;
const ZERO_PAGE: u64 = 0x7000;
const PAGE_TABLES: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x2_0000;
const COMMAND_LINE_MAX: usize = 0xffff;
/// Conventional memory ends here; then come the ACPI tables and what a PC keeps below 1 MiB.
const LOW_END: u64 = 0x9_fc00;
const ONE_MIB: u64 = 1 << 20;

/// Where and in what state the processor starts.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub rip: u64,
}

/// Puts kernel, initial file system, command line, tables and zero page into memory.
pub fn load(
    memory: &Memory,
    kernel: &Path,
    initrd: Option<&Path>,
    command_line: &str,
) -> Result<Entry, String> {
    let mut file = File::open(kernel).map_err(|e| format!("{}: {e}", kernel.display()))?;
    let loaded = Elf::load(memory.map(), None, &mut file, None)
        .map_err(|e| format!("{}: {e}", kernel.display()))?;
    let initrd = match initrd {
        Some(path) => Some(load_initrd(memory, path, loaded.kernel_end)?),
        None => None,
    };
    if command_line.len() >= COMMAND_LINE_MAX {
        return Err("command line too long".into());
    }
    let put = |gpa, bytes: &[u8]| {
        memory
            .write(gpa, bytes)
            .map_err(|bad| format!("memory ends before {:#x}", bad.0))
    };
    put(COMMAND_LINE, &[command_line.as_bytes(), &[0]].concat())?;
    let rsdp = acpi::place(&put)?;
    put(
        ZERO_PAGE,
        &zero_page(memory.bytes(), command_line.len(), initrd, rsdp),
    )?;
    for (index, entry) in [0u64, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]
        .iter()
        .enumerate()
    {
        put(GDT + index as u64 * 8, &entry.to_le_bytes())?;
    }
    identity_map(&put)?;
    Ok(Entry {
        rip: loaded.kernel_load.0,
    })
}

/// Reads the initial file system to the end of memory; its address and bytes.
fn load_initrd(memory: &Memory, path: &Path, kernel_end: u64) -> Result<(u64, u64), String> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let size = bytes.len() as u64;
    let at = memory.bytes().checked_sub(size).map(|at| at & !0xfff);
    let at = at
        .filter(|&at| at >= kernel_end)
        .ok_or("no memory for the initial file system")?;
    memory
        .write(at, &bytes)
        .map_err(|bad| format!("memory ends before {:#x}", bad.0))?;
    Ok((at, size))
}

/// `struct boot_params` with what a 64-bit entry needs; offsets from `boot.rst` and `zero-page.rst`.
fn zero_page(memory: u64, command_line: usize, initrd: Option<(u64, u64)>, rsdp: u64) -> Vec<u8> {
    const USABLE: u32 = 1;
    const RESERVED: u32 = 2;
    let mut page = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x070, &rsdp.to_le_bytes());
    let map = [
        (0, LOW_END, USABLE),
        (LOW_END, ONE_MIB - LOW_END, RESERVED),
        (ONE_MIB, memory - ONE_MIB, USABLE),
    ];
    put(0x1e8, &[map.len() as u8]);
    for (index, (start, size, kind)) in map.into_iter().enumerate() {
        let entry = [
            &start.to_le_bytes()[..],
            &size.to_le_bytes(),
            &kind.to_le_bytes(),
        ]
        .concat();
        put(0x2d0 + index * 20, &entry);
    }
    put(0x1fe, &0xaa55u16.to_le_bytes());
    put(0x202, b"HdrS");
    put(0x206, &0x020fu16.to_le_bytes());
    put(0x210, &[0xff]); // a loader without a number
    put(0x211, &[0x01]); // loaded high
    put(0x228, &(COMMAND_LINE as u32).to_le_bytes());
    put(0x238, &(command_line as u32).to_le_bytes());
    if let Some((at, size)) = initrd {
        put(0x218, &(at as u32).to_le_bytes());
        put(0x21c, &(size as u32).to_le_bytes());
    }
    page
}

/// Page tables that map 4 GiB to themselves in 2 MiB pages.
fn identity_map(put: &acpi::Put<'_>) -> Result<(), String> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let page = |n: u64| PAGE_TABLES + n * 4096;
    put(page(0), &(page(1) | PRESENT_WRITABLE).to_le_bytes())?;
    for gib in 0..4 {
        put(
            page(1) + gib * 8,
            &(page(2 + gib) | PRESENT_WRITABLE).to_le_bytes(),
        )?;
        for entry in 0..512 {
            let address = (gib * 512 + entry) << 21;
            let bits = address | PRESENT_WRITABLE | LARGE;
            put(page(2 + gib) + entry * 8, &bits.to_le_bytes())?;
        }
    }
    Ok(())
}

/// Sets long mode up on top of what the processor has after reset.
pub fn system_registers(sregs: &mut kvm_sregs) {
    let segment = |selector, kind, long: u8| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    };
    sregs.cs = segment(0x10, 11, 1);
    let data = segment(0x18, 3, 0);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 4 * 8 - 1;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = 1 << 31 | 1 << 5 | 1 << 4 | 1; // PG, NE, ET, PE
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 = 1 << 5; // PAE
    sregs.efer = 1 << 10 | 1 << 8; // LMA, LME
}

/// The general registers at the entry.
pub fn registers(entry: Entry) -> kvm_regs {
    kvm_regs {
        rip: entry.rip,
        rsi: ZERO_PAGE,
        rflags: 2,
        ..Default::default()
    }
}
