//! The memory of a guest in this process, as its simulated host reaches it.

use crate::memory::{BadAddress, GuestMemory};
use hypercall::shm::OutOfSpan;
use hypercall::shm::hosted::Ram;

/// Guest-physical addresses start at [`Ram::base`]; everything below and beyond is bad.
fn at<T>(
    ram: &Ram,
    gpa: u64,
    access: impl FnOnce(usize) -> Result<T, OutOfSpan>,
) -> Result<T, BadAddress> {
    gpa.checked_sub(ram.base())
        .and_then(|offset| usize::try_from(offset).ok())
        .and_then(|offset| access(offset).ok())
        .ok_or(BadAddress(gpa))
}

impl GuestMemory for Ram {
    fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        at(self, gpa, |o| self.span().copy_out(o, into))
    }
    fn write(&self, gpa: u64, from: &[u8]) -> Result<(), BadAddress> {
        at(self, gpa, |o| self.span().copy_in(o, from))
    }
    fn load_u16(&self, gpa: u64) -> Result<u16, BadAddress> {
        at(self, gpa, |o| self.span().load_u16(o))
    }
    fn load_u32(&self, gpa: u64) -> Result<u32, BadAddress> {
        at(self, gpa, |o| self.span().load_u32(o))
    }
    fn load_u64(&self, gpa: u64) -> Result<u64, BadAddress> {
        at(self, gpa, |o| self.span().load_u64(o))
    }
    fn store_u32(&self, gpa: u64, value: u32) -> Result<(), BadAddress> {
        at(self, gpa, |o| self.span().store_u32(o, value))
    }
    fn store_u64(&self, gpa: u64, value: u64) -> Result<(), BadAddress> {
        at(self, gpa, |o| self.span().store_u64(o, value))
    }
    fn fetch_or_u32(&self, gpa: u64, bits: u32) -> Result<u32, BadAddress> {
        at(self, gpa, |o| self.span().set_u32(o, bits))
    }
    fn fetch_or_u64(&self, gpa: u64, bits: u64) -> Result<u64, BadAddress> {
        at(self, gpa, |o| self.span().set_u64(o, bits))
    }
    fn compare_exchange_u16(&self, gpa: u64, old: u16, new: u16) -> Result<u16, BadAddress> {
        let was = at(self, gpa, |o| self.span().exchange_u16(o, old, new))?;
        Ok(was.map_or_else(|is| is, |()| old))
    }
    fn compare_exchange_u32(&self, gpa: u64, old: u32, new: u32) -> Result<u32, BadAddress> {
        let was = at(self, gpa, |o| self.span().exchange_u32(o, old, new))?;
        Ok(was.map_or_else(|is| is, |()| old))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_guests() {
        let ram = Ram::new(2, 16);
        let base = 16 << 12;
        ram.store_u64(base + 8, 0x1122_3344_5566_7788).unwrap();
        let mut bytes = [0; 4];
        ram.read(base + 8, &mut bytes).unwrap();
        assert_eq!(bytes, [0x88, 0x77, 0x66, 0x55]);
        assert_eq!(ram.load_u16(base + 10), Ok(0x5566));
        assert_eq!(ram.load_u32(base - 4), Err(BadAddress(base - 4)));
        assert_eq!(
            ram.write(base + 8190, &[0; 3]),
            Err(BadAddress(base + 8190))
        );
        assert_eq!(ram.load_u64(base + 1), Err(BadAddress(base + 1)));
    }

    #[test]
    fn exchanges_answer_what_was_there() {
        let ram = Ram::new(1, 0);
        assert_eq!(ram.compare_exchange_u16(2, 0, 7), Ok(0));
        assert_eq!(ram.compare_exchange_u16(2, 0, 9), Ok(7));
        assert_eq!(ram.load_u16(2), Ok(7));
        assert_eq!(ram.compare_exchange_u32(4, 0, 5), Ok(0));
        assert_eq!(ram.fetch_or_u32(4, 2), Ok(5));
        assert_eq!(ram.compare_exchange_u32(4, 5, 1), Ok(7));
        assert_eq!(ram.fetch_or_u64(8, 1 << 40), Ok(0));
        assert_eq!(ram.load_u64(8), Ok(1 << 40));
    }
}
