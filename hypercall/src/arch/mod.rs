//! The processor: hypercalls, synthetic registers and bulk copies. Assembly lives here.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::Cpu;

/// Copies `len` bytes out of shared memory without letting the compiler see it.
///
/// Memory that a host writes at any moment has no value the language could reason about, so the
/// copy is an instruction, not a Rust copy.
///
/// # Safety
/// `from` is readable shared memory and `to` is writable for `len` bytes, and they do not overlap.
pub(crate) unsafe fn copy_out(to: *mut u8, from: *const u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller's promise is passed on unchanged.
    unsafe {
        x86_64::copy(to, from, len);
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    for i in 0..len {
        use core::sync::atomic::{AtomicU8, Ordering};
        // SAFETY: `i < len`, so both are inside what the caller vouches for; a byte has no
        // alignment, and an atomic may be raced by a host.
        unsafe {
            let byte = AtomicU8::from_ptr(from.add(i).cast_mut()).load(Ordering::Relaxed);
            to.add(i).write(byte);
        }
    }
}

/// Copies `len` bytes into shared memory, as [`copy_out`] does out of it.
///
/// # Safety
/// `from` is readable and `to` is writable shared memory for `len` bytes, and they do not overlap.
pub(crate) unsafe fn copy_in(to: *mut u8, from: *const u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller's promise is passed on unchanged.
    unsafe {
        x86_64::copy(to, from, len);
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    for i in 0..len {
        use core::sync::atomic::{AtomicU8, Ordering};
        // SAFETY: as in `copy_out`, the other way round.
        unsafe { AtomicU8::from_ptr(to.add(i)).store(from.add(i).read(), Ordering::Relaxed) };
    }
}

/// Loads eight bytes of shared memory from `OFFSET` bytes behind `from` on, wherever that is, by one
/// instruction where there is one.
///
/// # Safety
/// They are readable shared memory.
#[inline(always)]
pub(crate) unsafe fn load<const OFFSET: usize>(from: *const u8) -> u64 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller's promise is passed on unchanged.
    unsafe {
        x86_64::load::<OFFSET>(from)
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    {
        let mut bytes = [0; 8];
        // SAFETY: the caller vouches for the source; an array of ours does not overlap it.
        unsafe { copy_out(bytes.as_mut_ptr(), from.add(OFFSET), 8) };
        u64::from_ne_bytes(bytes)
    }
}

/// Stores eight bytes of shared memory at `OFFSET` bytes behind `to`, wherever that is, by one
/// instruction where there is one.
///
/// # Safety
/// They are writable shared memory.
#[inline(always)]
pub(crate) unsafe fn store<const OFFSET: usize>(to: *mut u8, word: u64) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller's promise is passed on unchanged.
    unsafe {
        x86_64::store::<OFFSET>(to, word);
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    {
        let bytes = word.to_ne_bytes();
        // SAFETY: the caller vouches for the target; an array of ours does not overlap it.
        unsafe { copy_in(to.add(OFFSET), bytes.as_ptr(), 8) };
    }
}
