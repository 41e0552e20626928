//! Guest memory for a guest written by hand: a plain array of bytes, one thread, no `unsafe`.

use crate::memory::{BadAddress, GuestMemory};
use std::cell::RefCell;
use std::rc::Rc;

/// Bytes from guest-physical address 0 on. Clones are the same memory.
#[derive(Debug, Clone)]
pub struct Flat {
    bytes: Rc<RefCell<Vec<u8>>>,
}

impl Flat {
    /// Zeroed memory of this many 4096-byte pages.
    pub fn new(pages: usize) -> Self {
        Flat {
            bytes: Rc::new(RefCell::new(vec![0; pages * 4096])),
        }
    }

    fn word<const N: usize>(&self, gpa: u64) -> Result<[u8; N], BadAddress> {
        if !gpa.is_multiple_of(N as u64) {
            return Err(BadAddress(gpa));
        }
        let mut word = [0; N];
        self.read(gpa, &mut word)?;
        Ok(word)
    }
}

/// Where an access lies in the array, if it does.
fn range(bytes: &[u8], gpa: u64, len: usize) -> Result<std::ops::Range<usize>, BadAddress> {
    let at = usize::try_from(gpa).map_err(|_| BadAddress(gpa))?;
    let end = at.checked_add(len).filter(|&end| end <= bytes.len());
    Ok(at..end.ok_or(BadAddress(gpa))?)
}

impl GuestMemory for Flat {
    fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        let bytes = self.bytes.borrow();
        into.copy_from_slice(&bytes[range(&bytes, gpa, into.len())?]);
        Ok(())
    }

    fn write(&self, gpa: u64, from: &[u8]) -> Result<(), BadAddress> {
        let mut bytes = self.bytes.borrow_mut();
        let range = range(&bytes, gpa, from.len())?;
        bytes[range].copy_from_slice(from);
        Ok(())
    }

    fn load_u16(&self, gpa: u64) -> Result<u16, BadAddress> {
        self.word(gpa).map(u16::from_le_bytes)
    }

    fn load_u32(&self, gpa: u64) -> Result<u32, BadAddress> {
        self.word(gpa).map(u32::from_le_bytes)
    }

    fn load_u64(&self, gpa: u64) -> Result<u64, BadAddress> {
        self.word(gpa).map(u64::from_le_bytes)
    }

    fn store_u32(&self, gpa: u64, value: u32) -> Result<(), BadAddress> {
        self.load_u32(gpa)?;
        self.write(gpa, &value.to_le_bytes())
    }

    fn store_u64(&self, gpa: u64, value: u64) -> Result<(), BadAddress> {
        self.load_u64(gpa)?;
        self.write(gpa, &value.to_le_bytes())
    }

    fn fetch_or_u32(&self, gpa: u64, bits: u32) -> Result<u32, BadAddress> {
        let old = self.load_u32(gpa)?;
        self.store_u32(gpa, old | bits).map(|()| old)
    }

    fn fetch_or_u64(&self, gpa: u64, bits: u64) -> Result<u64, BadAddress> {
        let old = self.load_u64(gpa)?;
        self.store_u64(gpa, old | bits).map(|()| old)
    }

    fn compare_exchange_u16(&self, gpa: u64, old: u16, new: u16) -> Result<u16, BadAddress> {
        let seen = self.load_u16(gpa)?;
        if seen == old {
            self.write(gpa, &new.to_le_bytes())?;
        }
        Ok(seen)
    }

    fn compare_exchange_u32(&self, gpa: u64, old: u32, new: u32) -> Result<u32, BadAddress> {
        let seen = self.load_u32(gpa)?;
        if seen == old {
            self.store_u32(gpa, new)?;
        }
        Ok(seen)
    }
}
