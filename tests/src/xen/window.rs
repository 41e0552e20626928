//! A host frame the guest may have placed into its physical address space.

use crate::memory::{BadAddress, GuestMemory};

/// Bytes the host owns until the guest maps them, and that live in guest memory from then on.
///
/// On Xen, mapping a shared frame puts the host's frame under a guest frame number. Guest memory is
/// flat here, so the guest's own page becomes the backing: mapping copies the contents over, and
/// the host works on the guest's page from then on.
#[derive(Debug, Clone)]
pub struct Window {
    bytes: usize,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Host(Vec<u8>),
    Guest(u64),
}

impl Window {
    /// Zeroed and not mapped.
    pub fn new(bytes: usize) -> Self {
        Window {
            bytes,
            place: Place::Host(vec![0; bytes]),
        }
    }

    /// Where the guest put it (a guest-physical address), if it did.
    pub fn mapped_at(&self) -> Option<u64> {
        match self.place {
            Place::Host(_) => None,
            Place::Guest(gpa) => Some(gpa),
        }
    }

    /// Places it at `gpa`, with its contents.
    pub fn map<M: GuestMemory>(&mut self, mem: &M, gpa: u64) -> Result<(), BadAddress> {
        let mut contents = vec![0; self.bytes];
        self.read(mem, 0, &mut contents)?;
        mem.write(gpa, &contents)?;
        self.place = Place::Guest(gpa);
        Ok(())
    }

    /// Takes it out of guest memory again.
    pub fn unmap<M: GuestMemory>(&mut self, mem: &M) -> Result<(), BadAddress> {
        let mut contents = vec![0; self.bytes];
        self.read(mem, 0, &mut contents)?;
        self.place = Place::Host(contents);
        Ok(())
    }

    fn own(&self, at: usize, bytes: usize) -> Result<&[u8], BadAddress> {
        match &self.place {
            Place::Host(own) => own.get(at..at + bytes).ok_or(BadAddress(at as u64)),
            Place::Guest(_) => Err(BadAddress(at as u64)),
        }
    }

    /// Copies out.
    pub fn read<M: GuestMemory>(
        &self,
        mem: &M,
        at: usize,
        into: &mut [u8],
    ) -> Result<(), BadAddress> {
        match self.place {
            Place::Guest(gpa) => mem.read(gpa + at as u64, into),
            Place::Host(_) => {
                into.copy_from_slice(self.own(at, into.len())?);
                Ok(())
            }
        }
    }

    /// Copies in.
    pub fn write<M: GuestMemory>(
        &mut self,
        mem: &M,
        at: usize,
        from: &[u8],
    ) -> Result<(), BadAddress> {
        match &mut self.place {
            Place::Guest(gpa) => mem.write(*gpa + at as u64, from),
            Place::Host(own) => {
                own.get_mut(at..at + from.len())
                    .ok_or(BadAddress(at as u64))?
                    .copy_from_slice(from);
                Ok(())
            }
        }
    }

    /// One atomic load.
    pub fn load_u32<M: GuestMemory>(&self, mem: &M, at: usize) -> Result<u32, BadAddress> {
        if let Place::Guest(gpa) = self.place {
            return mem.load_u32(gpa + at as u64);
        }
        let mut word = [0; 4];
        self.read(mem, at, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    /// One atomic load.
    pub fn load_u64<M: GuestMemory>(&self, mem: &M, at: usize) -> Result<u64, BadAddress> {
        if let Place::Guest(gpa) = self.place {
            return mem.load_u64(gpa + at as u64);
        }
        let mut word = [0; 8];
        self.read(mem, at, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// One atomic store.
    pub fn store_u32<M: GuestMemory>(
        &mut self,
        mem: &M,
        at: usize,
        value: u32,
    ) -> Result<(), BadAddress> {
        match self.place {
            Place::Guest(gpa) => mem.store_u32(gpa + at as u64, value),
            Place::Host(_) => self.write(mem, at, &value.to_le_bytes()),
        }
    }

    /// One atomic store.
    pub fn store_u64<M: GuestMemory>(
        &mut self,
        mem: &M,
        at: usize,
        value: u64,
    ) -> Result<(), BadAddress> {
        match self.place {
            Place::Guest(gpa) => mem.store_u64(gpa + at as u64, value),
            Place::Host(_) => self.write(mem, at, &value.to_le_bytes()),
        }
    }

    /// Sets bits; returns what was there before.
    pub fn fetch_or_u32<M: GuestMemory>(
        &mut self,
        mem: &M,
        at: usize,
        bits: u32,
    ) -> Result<u32, BadAddress> {
        if let Place::Guest(gpa) = self.place {
            return mem.fetch_or_u32(gpa + at as u64, bits);
        }
        let old = self.load_u32(mem, at)?;
        self.store_u32(mem, at, old | bits)?;
        Ok(old)
    }

    /// Sets bits; returns what was there before.
    pub fn fetch_or_u64<M: GuestMemory>(
        &mut self,
        mem: &M,
        at: usize,
        bits: u64,
    ) -> Result<u64, BadAddress> {
        if let Place::Guest(gpa) = self.place {
            return mem.fetch_or_u64(gpa + at as u64, bits);
        }
        let old = self.load_u64(mem, at)?;
        self.store_u64(mem, at, old | bits)?;
        Ok(old)
    }

    /// Clears bits; returns what was there before.
    pub fn fetch_clear_u32<M: GuestMemory>(
        &mut self,
        mem: &M,
        at: usize,
        bits: u32,
    ) -> Result<u32, BadAddress> {
        let mut old = self.load_u32(mem, at)?;
        loop {
            let seen = self.compare_exchange_u32(mem, at, old, old & !bits)?;
            if seen == old {
                return Ok(old);
            }
            old = seen;
        }
    }

    /// Stores `new` if the word is `old`; returns what was there before.
    pub fn compare_exchange_u32<M: GuestMemory>(
        &mut self,
        mem: &M,
        at: usize,
        old: u32,
        new: u32,
    ) -> Result<u32, BadAddress> {
        if let Place::Guest(gpa) = self.place {
            return mem.compare_exchange_u32(gpa + at as u64, old, new);
        }
        let seen = self.load_u32(mem, at)?;
        if seen == old {
            self.store_u32(mem, at, new)?;
        }
        Ok(seen)
    }
}
