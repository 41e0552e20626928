//! Just enough ACPI to switch the machine off: FADT, and `\_S5` looked for in the DSDT's bytes.
//!
//! ACPI 6.5, sections 4.8.3 (fixed hardware), 5.2.5-5.2.9 (tables), 7.4.2 (sleep states).

use x86_64::instructions::port::Port;

use super::memory::physical;

/// Bytes of a table's common header.
const HEADER: u64 = 36;
const SLEEP_ENABLE: u16 = 1 << 13;
const HARDWARE_REDUCED: u32 = 1 << 20;

/// Offsets in the FADT.
mod fadt {
    pub const DSDT: u64 = 40;
    pub const PM1A_CONTROL: u64 = 64;
    pub const PM1B_CONTROL: u64 = 68;
    pub const FLAGS: u64 = 112;
    pub const X_DSDT: u64 = 140;
    /// A generic address: space at +0, address at +4.
    pub const SLEEP_CONTROL: u64 = 244;
}

/// Enters S5 by the tables under this root pointer, or under one found where firmware puts it. Returns when there
/// are no such tables or the machine is still on.
pub fn power_off(rsdp: u64) {
    let _ = Some(rsdp)
        .filter(|&at| is_root_pointer(at))
        .or_else(find_root_pointer)
        .and_then(enter_s5);
}

fn is_root_pointer(at: u64) -> bool {
    physical(at) == Some(*b"RSD PTR ")
}

fn find_root_pointer() -> Option<u64> {
    let extended = u64::from(physical::<u16>(0x40e)?) << 4;
    let areas = [extended..extended.wrapping_add(1024), 0xe_0000..0x10_0000];
    areas
        .into_iter()
        .flat_map(|area| area.step_by(16))
        .find(|&at| is_root_pointer(at))
}

fn enter_s5(rsdp: u64) -> Option<()> {
    let fadt = find_fadt(rsdp)?;
    let length: u32 = physical(fadt.wrapping_add(4))?;
    let flags: u32 = physical(fadt.wrapping_add(fadt::FLAGS))?;
    let [low, high] = sleep_types(fadt, length)?;
    if flags & HARDWARE_REDUCED != 0 {
        let space: u8 = physical(fadt.wrapping_add(fadt::SLEEP_CONTROL))?;
        let address: u64 = physical(fadt.wrapping_add(fadt::SLEEP_CONTROL).wrapping_add(4))?;
        let value = (low << 2) | 0x20;
        match space {
            0 => memory_write(address, value),
            // SAFETY: the FADT names this port as the machine's sleep control register.
            1 => unsafe { Port::new(address as u16).write(value) },
            _ => return None,
        }
        return Some(());
    }
    for (register, kind) in [(fadt::PM1A_CONTROL, low), (fadt::PM1B_CONTROL, high)] {
        let port: u32 = physical(fadt.wrapping_add(register))?;
        if let Ok(port @ 1..) = u16::try_from(port) {
            // SAFETY: the FADT names this port as the machine's power management control register.
            unsafe { Port::new(port).write(u16::from(kind) << 10 | SLEEP_ENABLE) };
        }
    }
    Some(())
}

fn memory_write(address: u64, value: u8) {
    if let 1..0x1_0000_0000 = address {
        // SAFETY: the FADT names this byte as the machine's sleep control register; it is below 4 GiB and so mapped.
        unsafe { (address as usize as *mut u8).write_volatile(value) }
    }
}

fn find_fadt(rsdp: u64) -> Option<u64> {
    let revision: u8 = physical(rsdp.wrapping_add(15))?;
    let extended: u64 = if revision >= 2 {
        physical(rsdp.wrapping_add(24))?
    } else {
        0
    };
    let (root, width) = if extended != 0 {
        (extended, 8)
    } else {
        (u64::from(physical::<u32>(rsdp.wrapping_add(16))?), 4)
    };
    let length: u32 = physical(root.wrapping_add(4))?;
    let entries = root.wrapping_add(HEADER)..root.wrapping_add(u64::from(length.min(4096)));
    entries.step_by(width).find_map(|entry| {
        let table = if width == 8 {
            physical(entry)?
        } else {
            u64::from(physical::<u32>(entry)?)
        };
        (physical(table) == Some(*b"FACP")).then_some(table)
    })
}

/// The two values for S5: the first two elements of the package that AML gives the name `_S5_`.
fn sleep_types(fadt: u64, length: u32) -> Option<[u8; 2]> {
    let mut dsdt = u64::from(physical::<u32>(fadt.wrapping_add(fadt::DSDT))?);
    if dsdt == 0 && u64::from(length) >= fadt::X_DSDT.wrapping_add(8) {
        dsdt = physical(fadt.wrapping_add(fadt::X_DSDT))?;
    }
    let bytes: u32 = physical(dsdt.wrapping_add(4))?;
    let end = dsdt.wrapping_add(u64::from(bytes.min(1 << 20)));
    let name = (dsdt.wrapping_add(HEADER)..end).find(|&at| physical(at) == Some(*b"_S5_"))?;
    let mut at = name.wrapping_add(4);
    let mut next = || {
        let byte: u8 = physical(at)?;
        at = at.wrapping_add(1);
        Some(byte)
    };
    // PackageOp, its length (as many further bytes as the top two bits say), its element count.
    if next()? != 0x12 {
        return None;
    }
    for _ in 0..next()? >> 6 {
        next()?;
    }
    next()?;
    let mut element = || match next()? {
        0x0a => next(),
        small @ 0..=1 => Some(small),
        _ => None,
    };
    Some([element()?, element()?])
}
