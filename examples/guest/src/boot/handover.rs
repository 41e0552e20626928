//! What the loader left: command line, memory map and ACPI root, copied out before their memory is reused.

use core::ffi::{CStr, c_char};

use heapless::{String, Vec};
use pvh::start_info::MemmapType;
use pvh::start_info::reader::StartInfoReader;

use super::memory::physical;

/// How the kernel was entered; the numbers are `entry.S`'s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// Xen's direct boot: the PVH note's 32-bit entry.
    Pvh,
    /// The ELF entry, as a loader of a Linux vmlinux leaves it.
    Linux64,
}

/// A run of usable RAM, in bytes of physical address.
#[derive(Clone, Copy)]
pub struct Ram {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// Everything taken over from the loader.
pub struct Handover {
    /// Which entry was used.
    pub protocol: Protocol,
    /// The command line, cut at a character boundary if it is longer.
    pub command_line: String<2048>,
    /// Usable RAM; empty when the loader gave no map.
    pub ram: Vec<Ram, 64>,
    /// Physical address of the ACPI root pointer, 0 when unknown.
    pub rsdp: u64,
}

/// Offsets in Linux's zero page (Documentation/arch/x86/zero-page.rst, boot.rst).
mod zero_page {
    pub const ACPI_RSDP: u64 = 0x070;
    pub const EXT_COMMAND_LINE: u64 = 0x0c8;
    pub const E820_ENTRIES: u64 = 0x1e8;
    pub const COMMAND_LINE: u64 = 0x228;
    pub const E820_TABLE: u64 = 0x2d0;
    pub const E820_ENTRY_BYTES: u64 = 20;
    pub const E820_MAX: u8 = 128;
    pub const E820_RAM: u32 = 1;
}

impl Handover {
    /// Reads what the loader left at `at`.
    pub fn read(protocol: u32, at: u64) -> Self {
        let mut handover = Self {
            protocol: if protocol == 0 {
                Protocol::Pvh
            } else {
                Protocol::Linux64
            },
            command_line: String::new(),
            ram: Vec::new(),
            rsdp: 0,
        };
        match handover.protocol {
            Protocol::Pvh => handover.read_start_info(at),
            Protocol::Linux64 => handover.read_zero_page(at),
        }
        handover
    }

    fn read_start_info(&mut self, at: u64) {
        let Ok(at) = u32::try_from(at) else { return };
        // SAFETY: the PVH protocol says EBX holds a start info's address, the crate checks its magic, and
        // the low 4 GiB, where a loader puts all of it, are mapped one to one.
        let Some(info) = (unsafe { StartInfoReader::from_paddr_identity(at) }) else {
            return;
        };
        if let Some(text) = info.cmdline() {
            self.set_command_line(text);
        }
        for entry in info.memmap() {
            if entry.ty() == MemmapType::Ram {
                self.add_ram(entry.addr, entry.size);
            }
        }
        self.rsdp = info.raw().rsdp_paddr;
    }

    fn read_zero_page(&mut self, page: u64) {
        use zero_page as z;
        if page == 0 {
            return;
        }
        let low: u32 = physical(page.wrapping_add(z::COMMAND_LINE)).unwrap_or(0);
        let high: u32 = physical(page.wrapping_add(z::EXT_COMMAND_LINE)).unwrap_or(0);
        if let (1.., 0) = (low, high) {
            // SAFETY: the boot protocol says this is the address of a NUL-terminated command line, and the
            // low 4 GiB are mapped one to one.
            self.set_command_line(unsafe { CStr::from_ptr(low as usize as *const c_char) });
        }
        let entries: u8 = physical(page.wrapping_add(z::E820_ENTRIES)).unwrap_or(0);
        for index in 0..entries.min(z::E820_MAX) {
            let entry = u64::from(index)
                .wrapping_mul(z::E820_ENTRY_BYTES)
                .wrapping_add(page)
                .wrapping_add(z::E820_TABLE);
            let start: u64 = physical(entry).unwrap_or(0);
            let size: u64 = physical(entry.wrapping_add(8)).unwrap_or(0);
            if physical(entry.wrapping_add(16)) == Some(z::E820_RAM) {
                self.add_ram(start, size);
            }
        }
        self.rsdp = physical(page.wrapping_add(z::ACPI_RSDP)).unwrap_or(0);
    }

    fn set_command_line(&mut self, text: &CStr) {
        for letter in text
            .to_bytes()
            .utf8_chunks()
            .flat_map(|c| c.valid().chars())
        {
            if self.command_line.push(letter).is_err() {
                break;
            }
        }
    }

    /// Notes a run of RAM; a map with more runs than fit loses the last ones, which costs only memory.
    pub fn add_ram(&mut self, start: u64, size: u64) {
        let _ = self.ram.push(Ram {
            start,
            end: start.saturating_add(size),
        });
    }
}
