//! The kernel's console: whole lines to COM1 and, once there is one, to the host's own console.

use core::fmt::{self, Write};

use heapless::Vec;
use spin::Mutex;

use super::serial::Serial;

/// A line is sent when it ends or when this many bytes are waiting.
const LINE: usize = 1024;

struct State {
    serial: Serial,
    line: Vec<u8, LINE>,
    host: Option<fn(&[u8])>,
}

static STATE: Mutex<State> = Mutex::new(State {
    serial: Serial::Unprobed,
    line: Vec::new(),
    host: None,
});

/// A handle on the one console. Lines written through it are whole; interrupt handlers do not print.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Only a fault inside this module finds the lock held: better a lost line than a hang.
        let Some(mut state) = STATE.try_lock() else {
            return Ok(());
        };
        for &byte in text.as_bytes() {
            if byte == b'\n' {
                let _ = state.line.push(b'\r');
            }
            let _ = state.line.push(byte);
            // Two free bytes, so that a line's end always fits.
            if byte == b'\n' || state.line.len().saturating_add(2) >= LINE {
                state.send();
            }
        }
        Ok(())
    }
}

impl State {
    fn send(&mut self) {
        match self.host {
            Some(host) => {
                if !self.serial.is_debug() {
                    self.serial.send(&self.line);
                }
                host(&self.line);
            }
            None => self.serial.send(&self.line),
        }
        self.line.clear();
    }
}

/// From here on every line also goes to the host's own console, through `send`.
pub fn attach(send: fn(&[u8])) {
    STATE.lock().host = Some(send);
}

/// Leaves the host's console out again, when its driver can no longer be trusted.
pub fn detach() {
    if let Some(mut state) = STATE.try_lock() {
        state.host = None;
    }
}

/// Prints a line's worth of formatted text.
macro_rules! say {
    ($($arguments:tt)*) => {{
        use core::fmt::Write;
        let _ = writeln!($crate::boot::console::Console, $($arguments)*);
    }};
}
pub(crate) use say;
