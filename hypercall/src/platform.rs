//! What the kernel gives: pages, frames, time and waiting.

use core::ptr::NonNull;

/// Bytes in a page, on both hosts and on every architecture: shared structures are made of
/// 4 KiB pages even where the kernel's own pages are larger.
pub const PAGE_SIZE: usize = 4096;

/// The kernel, as this library sees it: eight methods on an instance.
///
/// Implement it for a small handle (a unit struct, a `&'static Kernel`, an `Arc`): the library
/// clones it freely. Interrupts are *pushed*: the kernel's handler calls
/// [`Hypervisor::on_interrupt`](crate::host::Hypervisor::on_interrupt); nothing here is called
/// from it.
///
/// # Safety
/// An implementation promises that
/// * a run returned by [`alloc_pages`](Self::alloc_pages) is page-aligned, zeroed, readable and
///   writable, reached by nothing else, and stays so until it is given to
///   [`free_pages`](Self::free_pages);
/// * [`gfn`](Self::gfn) names the very frame that backs the page, and goes on naming it;
/// * a page returned by [`map_frame`](Self::map_frame) is a readable and writable mapping of that
///   frame, holds no Rust object, and is never unmapped;
/// * clones are the same kernel: what one allocated another may free.
pub unsafe trait Platform: Clone + Send + Sync {
    /// Allocates `count` virtually contiguous, zeroed pages. The frames behind them need not be
    /// contiguous. `None` when memory is short.
    fn alloc_pages(&self, count: usize) -> Option<NonNull<u8>>;

    /// Takes back a run.
    ///
    /// # Safety
    /// `at` and `count` are exactly those of one earlier [`alloc_pages`](Self::alloc_pages), and
    /// nothing uses the run any more: neither this program nor its host.
    unsafe fn free_pages(&self, at: NonNull<u8>, count: usize);

    /// The guest frame number (physical address / 4096) of the page at `at`, which lies in a run
    /// from [`alloc_pages`](Self::alloc_pages) or is a page from [`map_frame`](Self::map_frame).
    fn gfn(&self, at: NonNull<u8>) -> u64;

    /// Maps a frame that the host named (Xen's xenstore and console rings), cacheable and
    /// writable, for good. `None` when the frame cannot be mapped, or must not be because it is
    /// the kernel's own memory.
    fn map_frame(&self, gfn: u64) -> Option<NonNull<u8>>;

    /// Nanoseconds since some fixed moment; never goes back. Deadlines are measured by it, so a
    /// coarse clock will do.
    fn now(&self) -> u64;

    /// A count of the interrupts taken so far. On more than one CPU an interrupt must be counted
    /// after [`on_interrupt`](crate::host::Hypervisor::on_interrupt) has returned for it: until
    /// the handler clears an event, the host raises no other interrupt for it.
    fn wait_token(&self) -> u64;

    /// Halts until the count of [`wait_token`](Self::wait_token) is no longer `token`, or
    /// [`now`](Self::now) has reached `until`. May return early, and may simply return at once
    /// (then waiting is spinning). To lose no wake-up, compare the count with interrupts off and
    /// let the halt turn them on.
    fn wait(&self, token: u64, until: u64);

    /// The number of the CPU this runs on, as the hypervisor counts virtual processors.
    fn cpu(&self) -> u32;
}

// SAFETY: every method is the referent's, and a reference is the same kernel.
unsafe impl<T: Platform> Platform for &T {
    fn alloc_pages(&self, count: usize) -> Option<NonNull<u8>> {
        (**self).alloc_pages(count)
    }
    unsafe fn free_pages(&self, at: NonNull<u8>, count: usize) {
        // SAFETY: the caller's promise is passed on unchanged.
        unsafe { (**self).free_pages(at, count) }
    }
    fn gfn(&self, at: NonNull<u8>) -> u64 {
        (**self).gfn(at)
    }
    fn map_frame(&self, gfn: u64) -> Option<NonNull<u8>> {
        (**self).map_frame(gfn)
    }
    fn now(&self) -> u64 {
        (**self).now()
    }
    fn wait_token(&self) -> u64 {
        (**self).wait_token()
    }
    fn wait(&self, token: u64, until: u64) {
        (**self).wait(token, until);
    }
    fn cpu(&self) -> u32 {
        (**self).cpu()
    }
}

/// A wait ended without what it waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOut;

/// The moment `timeout` nanoseconds from now, for [`wait_for`].
pub fn deadline<P: Platform>(platform: &P, timeout: u64) -> u64 {
    platform.now().saturating_add(timeout)
}

/// Asks `poll` again after each interrupt until it answers or `until` has passed.
///
/// # Errors
/// [`TimedOut`] when the deadline passed first. `poll` is asked once more after it.
pub fn wait_for<P: Platform, T>(
    platform: &P,
    until: u64,
    mut poll: impl FnMut() -> Option<T>,
) -> Result<T, TimedOut> {
    loop {
        // The token is taken first: an interrupt after it makes the wait return at once.
        let token = platform.wait_token();
        let late = platform.now() >= until;
        if let Some(answer) = poll() {
            return Ok(answer);
        }
        if late {
            return Err(TimedOut);
        }
        platform.wait(token, until);
    }
}
