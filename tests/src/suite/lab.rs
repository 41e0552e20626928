//! A simulated machine with one disk, whichever host it is.

use crate::disk::MemDisk;
use blkfront::Block;
use std::sync::{Arc, Mutex};

/// Pages of the machine's memory, and of the pool: little for an interpreter, which zeroes and
/// grants them one by one.
pub(super) const RAM_PAGES: usize = if cfg!(miri) { 192 } else { 1024 };
/// See [`RAM_PAGES`].
pub(super) const POOL_PAGES: usize = if cfg!(miri) { 32 } else { 400 };

/// How the machine is made.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Size of the disk in 512-byte sectors.
    pub sectors: u64,
    /// Bytes in one of its logical sectors.
    pub sector_size: u32,
    /// The disk refuses writes, and says so.
    pub read_only: bool,
    /// Completions come out of order, by this seed.
    pub shuffle: Option<u64>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            sectors: 4096,
            sector_size: 512,
            read_only: false,
            shuffle: None,
        }
    }
}

/// What the host counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Hypercalls of every kind.
    pub hypercalls: u64,
    /// Hypercalls that signal a back end.
    pub signals: u64,
    /// Interrupts raised in the guest.
    pub interrupts: u64,
    /// Pages lent and taken back by the guest.
    pub grants: u64,
}

impl std::ops::Sub for Counts {
    type Output = Self;
    fn sub(self, earlier: Self) -> Self {
        Self {
            hypercalls: self.hypercalls - earlier.hypercalls,
            signals: self.signals - earlier.signals,
            interrupts: self.interrupts - earlier.interrupts,
            grants: self.grants - earlier.grants,
        }
    }
}

/// A machine with a disk. Handles are clones of one machine.
pub trait Lab: Clone {
    /// Builds a machine that has not started.
    fn new(setup: Setup) -> Self;

    /// What stands behind the disk.
    fn disk(&self) -> Arc<Mutex<MemDisk>>;

    /// Boots the guest, opens its disk and runs `f`; then closes the disk and checks that every page
    /// it took was given back.
    fn run<R>(&self, f: impl FnOnce(&mut dyn Block) -> R) -> R;

    /// Has the host take requests without completing them, or go on.
    fn stall(&self, stall: bool);

    /// Takes the disk away.
    fn unplug(&self);

    /// Lets the host do one thing; whether there was one to do.
    fn step(&self) -> bool;

    /// What was counted so far.
    fn counts(&self) -> Counts;

    /// What the host saw the guest do wrong.
    fn violations(&self) -> Vec<String>;
}
