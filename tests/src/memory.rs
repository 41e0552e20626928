//! How a simulated host reaches guest memory.

/// The guest named an address that is not its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadAddress(pub u64);

/// Guest-physical memory as a host sees it: it may change under the host's hands at any moment.
///
/// Addresses are guest-physical bytes. Word operations need natural alignment and are single
/// atomic accesses: loads acquire, stores release, read-modify-writes both.
pub trait GuestMemory {
    /// Copies guest memory out.
    fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), BadAddress>;
    /// Copies into guest memory.
    fn write(&self, gpa: u64, from: &[u8]) -> Result<(), BadAddress>;
    fn load_u16(&self, gpa: u64) -> Result<u16, BadAddress>;
    fn load_u32(&self, gpa: u64) -> Result<u32, BadAddress>;
    fn load_u64(&self, gpa: u64) -> Result<u64, BadAddress>;
    fn store_u32(&self, gpa: u64, value: u32) -> Result<(), BadAddress>;
    fn store_u64(&self, gpa: u64, value: u64) -> Result<(), BadAddress>;
    /// Sets bits; returns what was there before.
    fn fetch_or_u32(&self, gpa: u64, bits: u32) -> Result<u32, BadAddress>;
    /// Sets bits; returns what was there before.
    fn fetch_or_u64(&self, gpa: u64, bits: u64) -> Result<u64, BadAddress>;
    /// Stores `new` if the word is `old`; returns what was there before.
    fn compare_exchange_u16(&self, gpa: u64, old: u16, new: u16) -> Result<u16, BadAddress>;
    /// Stores `new` if the word is `old`; returns what was there before.
    fn compare_exchange_u32(&self, gpa: u64, old: u32, new: u32) -> Result<u32, BadAddress>;
}

impl<M: GuestMemory + ?Sized> GuestMemory for &M {
    fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        (**self).read(gpa, into)
    }
    fn write(&self, gpa: u64, from: &[u8]) -> Result<(), BadAddress> {
        (**self).write(gpa, from)
    }
    fn load_u16(&self, gpa: u64) -> Result<u16, BadAddress> {
        (**self).load_u16(gpa)
    }
    fn load_u32(&self, gpa: u64) -> Result<u32, BadAddress> {
        (**self).load_u32(gpa)
    }
    fn load_u64(&self, gpa: u64) -> Result<u64, BadAddress> {
        (**self).load_u64(gpa)
    }
    fn store_u32(&self, gpa: u64, value: u32) -> Result<(), BadAddress> {
        (**self).store_u32(gpa, value)
    }
    fn store_u64(&self, gpa: u64, value: u64) -> Result<(), BadAddress> {
        (**self).store_u64(gpa, value)
    }
    fn fetch_or_u32(&self, gpa: u64, bits: u32) -> Result<u32, BadAddress> {
        (**self).fetch_or_u32(gpa, bits)
    }
    fn fetch_or_u64(&self, gpa: u64, bits: u64) -> Result<u64, BadAddress> {
        (**self).fetch_or_u64(gpa, bits)
    }
    fn compare_exchange_u16(&self, gpa: u64, old: u16, new: u16) -> Result<u16, BadAddress> {
        (**self).compare_exchange_u16(gpa, old, new)
    }
    fn compare_exchange_u32(&self, gpa: u64, old: u32, new: u32) -> Result<u32, BadAddress> {
        (**self).compare_exchange_u32(gpa, old, new)
    }
}
