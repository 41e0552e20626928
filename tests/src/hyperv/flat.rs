//! Guest memory for tests without a guest: one block of pages from address 0.

use crate::memory::{BadAddress, GuestMemory};
use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::FromZeros;

/// Pages of zeroes from guest-physical address 0, in atomic words.
#[derive(Debug)]
pub struct FlatMemory {
    /// One box a page: Miri walks over all of a slice's atomics each time one is reached.
    pages: Vec<Box<[AtomicU64]>>,
}

impl FlatMemory {
    /// `pages` pages of 4096 bytes.
    pub fn new(pages: usize) -> Self {
        let page = || <[AtomicU64]>::new_box_zeroed_with_elems(512).expect("memory for the guest");
        FlatMemory {
            pages: (0..pages).map(|_| page()).collect(),
        }
    }

    fn word(&self, gpa: u64) -> Result<&AtomicU64, BadAddress> {
        let page = usize::try_from(gpa / 4096).map_err(|_| BadAddress(gpa))?;
        let page = self.pages.get(page).ok_or(BadAddress(gpa))?;
        page.get((gpa % 4096 / 8) as usize).ok_or(BadAddress(gpa))
    }

    /// The word that holds an aligned field of `bits` bits, and the field's place in it.
    fn field(&self, gpa: u64, bits: u64) -> Result<(&AtomicU64, u64), BadAddress> {
        if gpa.is_multiple_of(bits / 8) {
            Ok((self.word(gpa)?, gpa % 8 * 8))
        } else {
            Err(BadAddress(gpa))
        }
    }

    fn load(&self, gpa: u64, bits: u64) -> Result<u64, BadAddress> {
        let (word, shift) = self.field(gpa, bits)?;
        Ok(word.load(Ordering::Acquire) >> shift & mask(bits))
    }

    /// Replaces a field by what `f` makes of it; returns what was there before.
    fn update(&self, gpa: u64, bits: u64, f: impl Fn(u64) -> u64) -> Result<u64, BadAddress> {
        let (word, shift) = self.field(gpa, bits)?;
        let old = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |all| {
            let field = f(all >> shift & mask(bits)) & mask(bits);
            Some(all & !(mask(bits) << shift) | field << shift)
        });
        Ok(old.unwrap_or_else(|same| same) >> shift & mask(bits))
    }
}

const fn mask(bits: u64) -> u64 {
    u64::MAX >> (64 - bits)
}

impl GuestMemory for FlatMemory {
    fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        let mut at = gpa;
        let mut rest = into;
        while !rest.is_empty() {
            let within = (at % 8) as usize;
            let (part, after) = rest.split_at_mut((8 - within).min(rest.len()));
            let word = self.word(at)?.load(Ordering::Acquire).to_le_bytes();
            part.copy_from_slice(&word[within..within + part.len()]);
            at += part.len() as u64;
            rest = after;
        }
        Ok(())
    }
    fn write(&self, gpa: u64, from: &[u8]) -> Result<(), BadAddress> {
        let mut at = gpa;
        let mut rest = from;
        while !rest.is_empty() {
            let within = (at % 8) as usize;
            let (part, after) = rest.split_at((8 - within).min(rest.len()));
            self.update(at - within as u64, 64, |old| {
                let mut word = old.to_le_bytes();
                word[within..within + part.len()].copy_from_slice(part);
                u64::from_le_bytes(word)
            })?;
            at += part.len() as u64;
            rest = after;
        }
        Ok(())
    }
    fn load_u16(&self, gpa: u64) -> Result<u16, BadAddress> {
        Ok(self.load(gpa, 16)? as u16)
    }
    fn load_u32(&self, gpa: u64) -> Result<u32, BadAddress> {
        Ok(self.load(gpa, 32)? as u32)
    }
    fn load_u64(&self, gpa: u64) -> Result<u64, BadAddress> {
        self.load(gpa, 64)
    }
    fn store_u32(&self, gpa: u64, value: u32) -> Result<(), BadAddress> {
        self.update(gpa, 32, |_| value.into()).map(drop)
    }
    fn store_u64(&self, gpa: u64, value: u64) -> Result<(), BadAddress> {
        self.update(gpa, 64, |_| value).map(drop)
    }
    fn fetch_or_u32(&self, gpa: u64, bits: u32) -> Result<u32, BadAddress> {
        Ok(self.update(gpa, 32, |old| old | u64::from(bits))? as u32)
    }
    fn fetch_or_u64(&self, gpa: u64, bits: u64) -> Result<u64, BadAddress> {
        self.update(gpa, 64, |old| old | bits)
    }
    fn compare_exchange_u16(&self, gpa: u64, old: u16, new: u16) -> Result<u16, BadAddress> {
        let swap = |was| {
            if was == u64::from(old) {
                new.into()
            } else {
                was
            }
        };
        Ok(self.update(gpa, 16, swap)? as u16)
    }
    fn compare_exchange_u32(&self, gpa: u64, old: u32, new: u32) -> Result<u32, BadAddress> {
        let swap = |was| {
            if was == u64::from(old) {
                new.into()
            } else {
                was
            }
        };
        Ok(self.update(gpa, 32, swap)? as u32)
    }
}
