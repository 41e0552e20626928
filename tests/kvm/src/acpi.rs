//! ACPI tables: one processor, an I/O APIC, soft-off and reset by ports, and the VMBus device that
//! Linux's hv_vmbus looks for.

use acpi_tables::aml::{Device, EISAName, IO, Name, Package, Path, ResourceTemplate, Scope};
use acpi_tables::fadt::FADTBuilder;
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

/// PM1a event block (4 bytes), then PM1a control (2 bytes).
pub const PM1A_EVENT: u16 = 0x600;
pub const PM1A_CONTROL: u16 = 0x604;
/// The sleep type that means soft-off, as `\_S5_` says.
pub const SLEEP_TYPE_OFF: u16 = 5;
/// Writing [`RESET_VALUE`] here resets the machine.
pub const RESET_PORT: u16 = 0xcf9;
pub const RESET_VALUE: u8 = 6;

/// Inside the reserved area below 1 MiB, where a search for the RSDP finds it too.
const TABLES: u64 = 0xe_0000;
const OEM: [u8; 6] = *b"PVDRIV";
const OEM_TABLE: [u8; 8] = *b"KVMHOST ";

/// Writes bytes to a guest-physical address.
pub type Put<'a> = dyn Fn(u64, &[u8]) -> Result<(), String> + 'a;

struct Bytes(Vec<u8>);

impl AmlSink for Bytes {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

fn bytes(aml: &dyn Aml) -> Vec<u8> {
    let mut sink = Bytes(Vec::new());
    aml.to_aml_bytes(&mut sink);
    sink.0
}

fn dsdt() -> Vec<u8> {
    let mut code = bytes(&Name::new(
        "_S5_".into(),
        &Package::new(vec![&SLEEP_TYPE_OFF, &SLEEP_TYPE_OFF, &0u8, &0u8]),
    ));
    let vmbus = Device::new(
        "VMBS".into(),
        vec![
            &Name::new("_HID".into(), &"VMBus"),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_STA".into(), &0xfu8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![])),
        ],
    )
    .to_vec();
    let serial = Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_STA".into(), &0xfu8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&IO::new(0x3f8, 0x3f8, 0, 8), &Irq(4)]),
            ),
        ],
    )
    .to_vec();
    code.extend(Scope::raw(Path::new("_SB_"), [vmbus, serial].concat()));
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, 1);
    table.append_slice(&code);
    table.as_slice().to_vec()
}

trait ToVec {
    fn to_vec(&self) -> Vec<u8>;
}

impl<T: Aml> ToVec for T {
    fn to_vec(&self) -> Vec<u8> {
        bytes(self)
    }
}

/// The short IRQ descriptor (ACPI 6.5, 6.4.2.1): edge-triggered, active high, not shared.
struct Irq(u8);

impl Aml for Irq {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x22);
        sink.word(1 << self.0);
    }
}

fn fadt(dsdt: u64) -> Vec<u8> {
    const WBINVD: u32 = 1 << 0;
    const POWER_BUTTON_IN_TABLES: u32 = 1 << 4;
    const SLEEP_BUTTON_IN_TABLES: u32 = 1 << 5;
    const RESET_REGISTER: u32 = 1 << 10;
    const NO_VGA_NO_RTC: u16 = 1 << 2 | 1 << 5;
    let port = |bits, address: u16| {
        GAS::new(
            AddressSpace::SystemIo,
            bits,
            0,
            AccessSize::Undefined,
            address.into(),
        )
    };
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, 1);
    table.dsdt = (dsdt as u32).into();
    table.x_dsdt = dsdt.into();
    table.sci_int = 9.into();
    table.pm1a_evt_blk = u32::from(PM1A_EVENT).into();
    table.pm1_evt_len = 4;
    table.pm1a_cnt_blk = u32::from(PM1A_CONTROL).into();
    table.pm1_cnt_len = 2;
    table.x_pm1a_evt_blk = port(32, PM1A_EVENT);
    table.x_pm1a_cnt_blk = port(16, PM1A_CONTROL);
    // States deeper than C1 do not exist.
    table.p_lvl2_lat = 101.into();
    table.p_lvl3_lat = 1001.into();
    table.iapc_boot_arch = NO_VGA_NO_RTC.into();
    table.flags =
        (WBINVD | POWER_BUTTON_IN_TABLES | SLEEP_BUTTON_IN_TABLES | RESET_REGISTER).into();
    table.reset_reg = port(8, RESET_PORT);
    table.reset_value = RESET_VALUE;
    bytes(&table.finalize())
}

fn madt() -> Vec<u8> {
    let mut table = MADT::new(
        OEM,
        OEM_TABLE,
        1,
        LocalInterruptController::Address(0xfee0_0000),
    );
    table.add_structure(ProcessorLocalApic::new(0, 0, EnabledStatus::Enabled));
    table.add_structure(IoApic::new(1, 0xfec0_0000, 0));
    bytes(&table)
}

/// Writes all tables and returns the address of the RSDP.
pub fn place(put: &Put<'_>) -> Result<u64, String> {
    let mut at = TABLES + 64;
    let mut add = |table: Vec<u8>| -> Result<u64, String> {
        let here = at;
        put(here, &table)?;
        at = (here + table.len() as u64).next_multiple_of(16);
        Ok(here)
    };
    let dsdt = add(dsdt())?;
    let fadt = add(fadt(dsdt))?;
    let madt = add(madt())?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, 1);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = add(bytes(&xsdt))?;
    put(TABLES, &bytes(&Rsdp::new(OEM, xsdt)))?;
    Ok(TABLES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn every_table_sums_to_zero_and_is_reached_from_the_rsdp() {
        let memory = RefCell::new(vec![0u8; 0x1000]);
        let put = |gpa: u64, bytes: &[u8]| -> Result<(), String> {
            let at = (gpa - TABLES) as usize;
            memory.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        };
        let rsdp = place(&put).unwrap();
        let memory = memory.borrow();
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        let table = |gpa: u64| {
            let at = (gpa - TABLES) as usize;
            let length = u32::from_le_bytes(memory[at + 4..at + 8].try_into().unwrap());
            &memory[at..at + length as usize]
        };
        assert_eq!((&memory[..8], sum(&memory[..36])), (&b"RSD PTR "[..], 0));
        assert_eq!(rsdp, TABLES);
        let word =
            |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let xsdt = table(word(&memory[..], 24));
        assert_eq!(
            (&xsdt[..4], sum(xsdt), xsdt.len()),
            (&b"XSDT"[..], 0, 36 + 16)
        );
        let (fadt, madt) = (table(word(xsdt, 36)), table(word(xsdt, 44)));
        assert_eq!((&fadt[..4], sum(fadt)), (&b"FACP"[..], 0));
        assert_eq!(
            (&madt[..4], sum(madt), madt.len()),
            (&b"APIC"[..], 0, 44 + 8 + 12)
        );
        let dsdt = table(word(fadt, 140));
        assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
        assert_eq!(fadt[116], 1, "the reset register is a port");
        assert_eq!(word(fadt, 120), u64::from(RESET_PORT));
        assert!(dsdt.windows(6).any(|part| part == b"VMBus\0"));
        // Name(_S5_, Package(4) { 5, 5, 0, 0 })
        assert_eq!(dsdt[36..41], [8, b'_', b'S', b'5', b'_']);
    }
}
