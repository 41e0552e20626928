//! COM1, and the debug port that Xen and Bochs print where a machine has no serial port.

use x86_64::instructions::port::Port;

const DATA: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = DATA + 1;
const FIFO_CONTROL: u16 = DATA + 2;
const LINE_CONTROL: u16 = DATA + 3;
const MODEM_CONTROL: u16 = DATA + 4;
const LINE_STATUS: u16 = DATA + 5;
const HOLDING_EMPTY: u8 = 0x20;
const DEBUG: u16 = 0xe9;

/// Status reads to wait for a stuck transmitter before giving a batch up to it anyway.
const PATIENCE: u32 = 100_000;

/// Where early output goes.
pub enum Serial {
    /// Not looked for yet.
    Unprobed,
    /// A 16550; so many bytes may follow one look at its status.
    Com1 {
        /// Bytes its transmit FIFO takes at once.
        batch: usize,
    },
    /// No serial port answers at COM1's address.
    Debug,
}

fn outb(port: u16, value: u8) {
    // SAFETY: only the serial port's registers and the debug port are written from this module, and
    // neither has an effect on memory.
    unsafe { Port::new(port).write(value) }
}

fn inb(port: u16) -> u8 {
    // SAFETY: reading a 16550's registers affects nothing but the port itself.
    unsafe { Port::new(port).read() }
}

impl Serial {
    /// Looks for the port and sets it up: 115200 8n1, FIFO on, interrupts off.
    fn probe() -> Self {
        if inb(LINE_STATUS) == 0xff {
            return Self::Debug;
        }
        outb(INTERRUPT_ENABLE, 0);
        outb(LINE_CONTROL, 0x80);
        outb(DATA, 1);
        outb(INTERRUPT_ENABLE, 0);
        outb(LINE_CONTROL, 0x03);
        outb(FIFO_CONTROL, 0x07);
        outb(MODEM_CONTROL, 0x03);
        let fifo = inb(FIFO_CONTROL) & 0xc0 == 0xc0;
        Self::Com1 {
            batch: if fifo { 16 } else { 1 },
        }
    }

    /// Whether this is the debug port, which a host's own console makes needless.
    pub fn is_debug(&self) -> bool {
        matches!(self, Self::Debug)
    }

    /// Sends bytes, returning when the port has them.
    pub fn send(&mut self, bytes: &[u8]) {
        if matches!(self, Self::Unprobed) {
            *self = Self::probe();
        }
        match *self {
            Self::Com1 { batch } => {
                for chunk in bytes.chunks(batch) {
                    // Each look is a VM exit, so it covers a whole FIFO.
                    for _ in 0..PATIENCE {
                        if inb(LINE_STATUS) & HOLDING_EMPTY != 0 {
                            break;
                        }
                    }
                    chunk.iter().for_each(|&byte| outb(DATA, byte));
                }
            }
            Self::Debug | Self::Unprobed => bytes.iter().for_each(|&byte| outb(DEBUG, byte)),
        }
    }
}
