//! The few I/O ports a guest finds: COM1, ACPI soft-off, reset, and a clock that stands still.

use crate::acpi::{PM1A_CONTROL, PM1A_EVENT, RESET_PORT, RESET_VALUE, SLEEP_TYPE_OFF};
use std::io::{self, BufWriter, Stdout, Write};
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

const COM1: u16 = 0x3f8;
const COM1_END: u16 = COM1 + 8;
const CMOS_INDEX: u16 = 0x70;
const CMOS_DATA: u16 = 0x71;
const KEYBOARD_COMMAND: u16 = 0x64;

/// COM1's interrupt line, behind an irqfd.
pub struct SerialInterrupt(pub EventFd);

impl Trigger for SerialInterrupt {
    type E = io::Error;
    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Standard output, written line by line.
pub struct Lines(BufWriter<Stdout>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    /// The UART flushes after every byte; only a whole line is worth a system call.
    fn flush(&mut self) -> io::Result<()> {
        if self.0.buffer().last() == Some(&b'\n') {
            self.0.flush()
        } else {
            Ok(())
        }
    }
}

/// What a write to a port meant for the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    None,
    PowerOff,
    Reset,
}

/// All ports.
pub struct Ports {
    com1: Serial<SerialInterrupt, vm_superio::serial::NoEvents, Lines>,
    cmos_index: u8,
    pm1a_enable: u16,
}

impl Ports {
    /// COM1 on standard output.
    pub fn new(interrupt: SerialInterrupt) -> Self {
        let out = Lines(BufWriter::new(io::stdout()));
        Ports {
            com1: Serial::new(interrupt, out),
            cmos_index: 0,
            pm1a_enable: 0,
        }
    }

    /// Writes out what is left of an unfinished line.
    pub fn finish(&mut self) {
        // Nobody is left to tell if standard output is gone.
        let _ = self.com1.writer_mut().0.flush();
    }

    /// An OUT.
    pub fn write(&mut self, port: u16, data: &[u8]) -> Effect {
        let Some(&low) = data.first() else {
            return Effect::None;
        };
        let word = u16::from_le_bytes([low, data.get(1).copied().unwrap_or(0)]);
        match port {
            COM1..COM1_END => {
                // A full loop-back buffer or a lost interrupt is the guest's to notice.
                let _ = self.com1.write((port - COM1) as u8, low);
            }
            CMOS_INDEX => self.cmos_index = low & 0x7f,
            PM1A_CONTROL => {
                const SLEEP_ENABLE: u16 = 1 << 13;
                if word & SLEEP_ENABLE != 0 && word >> 10 & 7 == SLEEP_TYPE_OFF {
                    return Effect::PowerOff;
                }
            }
            _ if port == PM1A_EVENT + 2 => self.pm1a_enable = word,
            RESET_PORT if low == RESET_VALUE => return Effect::Reset,
            KEYBOARD_COMMAND if low == 0xfe => return Effect::Reset,
            _ => {}
        }
        Effect::None
    }

    /// An IN. Where nothing is, all bits read as ones.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        let value: u32 = match port {
            COM1..COM1_END => self.com1.read((port - COM1) as u8).into(),
            CMOS_DATA => cmos(self.cmos_index).into(),
            PM1A_EVENT => 0,
            _ if port == PM1A_EVENT + 2 => self.pm1a_enable.into(),
            PM1A_CONTROL => 1, // ACPI mode is on
            _ => u32::MAX,
        };
        for (at, byte) in data.iter_mut().enumerate() {
            *byte = value.to_le_bytes().get(at).copied().unwrap_or(0xff);
        }
    }
}

/// 1 January 2000, midnight, in BCD, never updating.
fn cmos(index: u8) -> u8 {
    match index {
        6..=8 => 1,
        0xa => 0x26,
        0xb => 0x02,
        0xd => 0x80,
        _ => 0,
    }
}
