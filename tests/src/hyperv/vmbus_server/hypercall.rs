//! The two hypercalls a VMBus guest makes, decoded: HvPostMessage and HvSignalEvent.

use super::VmbusServer;
use crate::hyperv::abi::{MESSAGE_PAYLOAD, PAGE, PostMessageInput, call, status};
use crate::memory::GuestMemory;
use zerocopy::{FromBytes, IntoBytes};

const FAST: u64 = 1 << 16;

impl VmbusServer {
    /// Serves a hypercall: `control` names it; for a slow call `input` is the guest-physical address
    /// of its input block, for a fast one the input itself. Returns its status.
    pub fn hypercall(&mut self, memory: &dyn GuestMemory, control: u64, input: u64) -> u16 {
        let (code, fast) = (control as u16, control & FAST != 0);
        *self.counters.hypercalls.entry(code).or_default() += 1;
        // Neither call has a variable header or repetitions.
        let simple = control >> 17 == 0;
        let result = match code {
            _ if !simple => Err(status::INVALID_HYPERCALL_INPUT),
            call::POST_MESSAGE if fast => Err(status::INVALID_HYPERCALL_INPUT),
            call::POST_MESSAGE => self.post_message_at(memory, input),
            call::SIGNAL_EVENT if fast => Ok(input),
            call::SIGNAL_EVENT => block::<u64>(memory, input),
            _ => Err(status::INVALID_HYPERCALL_CODE),
        };
        match result {
            Ok(event) if code == call::SIGNAL_EVENT => {
                self.signal_event(event as u32, (event >> 32) as u16)
            }
            Ok(_) => status::SUCCESS,
            Err(status) => status,
        }
    }

    fn post_message_at(&mut self, memory: &dyn GuestMemory, gpa: u64) -> Result<u64, u16> {
        let head: PostMessageInput = block(memory, gpa)?;
        let whole: [u8; 16 + MESSAGE_PAYLOAD] = block(memory, gpa)?;
        let payload = whole[16..]
            .get(..head.payload_size as usize)
            .ok_or(status::INVALID_PARAMETER)?;
        match self.post_message(head.connection_id, head.message_type, payload) {
            status::SUCCESS => Ok(0),
            refused => Err(refused),
        }
    }
}

/// A slow call's input block: 8-byte aligned and inside one page (TLFS 3.5).
fn block<T: FromBytes + IntoBytes>(memory: &dyn GuestMemory, gpa: u64) -> Result<T, u16> {
    let end = gpa.checked_add(size_of::<T>() as u64 - 1);
    if !gpa.is_multiple_of(8) || end.is_none_or(|end| end / PAGE != gpa / PAGE) {
        return Err(status::INVALID_ALIGNMENT);
    }
    let mut value = T::new_zeroed();
    match memory.read(gpa, value.as_mut_bytes()) {
        Ok(()) => Ok(value),
        Err(_) => Err(status::INVALID_HYPERCALL_INPUT),
    }
}
