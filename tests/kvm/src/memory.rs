//! The guest's memory: one block from address 0, reached by the model through its own trait.

use pv_tests::memory::{BadAddress, GuestMemory};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use vm_memory::{
    AtomicInteger, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileMemory,
};

/// Guest-physical memory from 0 to its size.
#[derive(Debug, Clone)]
pub struct Memory {
    map: GuestMemoryMmap<()>,
    bytes: u64,
}

impl Memory {
    /// `bytes` of zeroes, at most 3 GiB so that nothing lies where devices are.
    pub fn new(bytes: u64) -> Result<Self, String> {
        if bytes > 3 << 30 {
            return Err("more than 3072 MiB of memory".into());
        }
        let map = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes as usize)])
            .map_err(|error| format!("no memory for the guest: {error}"))?;
        Ok(Memory { map, bytes })
    }

    /// The mapping itself, for loaders.
    pub fn map(&self) -> &GuestMemoryMmap<()> {
        &self.map
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Runs `f` on the naturally aligned atomic at `gpa`.
    fn atomic<A: AtomicInteger, T>(
        &self,
        gpa: u64,
        f: impl FnOnce(&A) -> T,
    ) -> Result<T, BadAddress> {
        let slice = self
            .map
            .get_slice(GuestAddress(gpa), size_of::<A>())
            .map_err(|_| BadAddress(gpa))?;
        let atomic = slice.get_atomic_ref::<A>(0).map_err(|_| BadAddress(gpa))?;
        Ok(f(atomic))
    }
}

impl GuestMemory for Memory {
    fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        self.map
            .read_slice(into, GuestAddress(gpa))
            .map_err(|_| BadAddress(gpa))
    }
    fn write(&self, gpa: u64, from: &[u8]) -> Result<(), BadAddress> {
        self.map
            .write_slice(from, GuestAddress(gpa))
            .map_err(|_| BadAddress(gpa))
    }
    fn load_u16(&self, gpa: u64) -> Result<u16, BadAddress> {
        self.atomic(gpa, |word: &AtomicU16| word.load(Ordering::Acquire))
    }
    fn load_u32(&self, gpa: u64) -> Result<u32, BadAddress> {
        self.atomic(gpa, |word: &AtomicU32| word.load(Ordering::Acquire))
    }
    fn load_u64(&self, gpa: u64) -> Result<u64, BadAddress> {
        self.atomic(gpa, |word: &AtomicU64| word.load(Ordering::Acquire))
    }
    fn store_u32(&self, gpa: u64, value: u32) -> Result<(), BadAddress> {
        self.atomic(gpa, |word: &AtomicU32| word.store(value, Ordering::Release))
    }
    fn store_u64(&self, gpa: u64, value: u64) -> Result<(), BadAddress> {
        self.atomic(gpa, |word: &AtomicU64| word.store(value, Ordering::Release))
    }
    fn fetch_or_u32(&self, gpa: u64, bits: u32) -> Result<u32, BadAddress> {
        self.atomic(gpa, |word: &AtomicU32| {
            word.fetch_or(bits, Ordering::SeqCst)
        })
    }
    fn fetch_or_u64(&self, gpa: u64, bits: u64) -> Result<u64, BadAddress> {
        self.atomic(gpa, |word: &AtomicU64| {
            word.fetch_or(bits, Ordering::SeqCst)
        })
    }
    fn compare_exchange_u16(&self, gpa: u64, old: u16, new: u16) -> Result<u16, BadAddress> {
        self.atomic(gpa, |word: &AtomicU16| {
            let result = word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst);
            result.unwrap_or_else(|was| was)
        })
    }
    fn compare_exchange_u32(&self, gpa: u64, old: u32, new: u32) -> Result<u32, BadAddress> {
        self.atomic(gpa, |word: &AtomicU32| {
            let result = word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst);
            result.unwrap_or_else(|was| was)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_atomic_aligned_and_inside() {
        let memory = Memory::new(1 << 20).unwrap();
        memory.write(0x1000, &[1, 2, 3, 4]).unwrap();
        assert_eq!(memory.load_u32(0x1000), Ok(0x0403_0201));
        assert_eq!(memory.fetch_or_u32(0x1000, 0x80), Ok(0x0403_0201));
        assert_eq!(memory.compare_exchange_u32(0x1000, 0, 5), Ok(0x0403_0281));
        assert_eq!(
            memory.compare_exchange_u32(0x1000, 0x0403_0281, 5),
            Ok(0x0403_0281)
        );
        assert_eq!(memory.load_u64(0x1000), Ok(5));
        assert_eq!(memory.load_u32(0x1002), Err(BadAddress(0x1002)));
        assert_eq!(memory.load_u32(1 << 20), Err(BadAddress(1 << 20)));
        assert_eq!(
            memory.read((1 << 20) - 2, &mut [0; 4]),
            Err(BadAddress((1 << 20) - 2))
        );
    }
}
