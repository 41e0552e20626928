//! What the memory layer promises, held against memory inside this process. Miri runs these,
//! with `-Zmiri-permissive-provenance` (hypercalls name addresses),
//! `-Zmiri-disable-weak-memory-emulation` (words and bytes of one place are atomics of different
//! sizes) and `-Zmiri-ignore-leaks` (a loan that is dropped is leaked on purpose).

mod access;
mod pool;
mod sections;
#[cfg(feature = "xen")]
mod withdrawn;

use super::hosted::{Hosted, Machine, Ram};
use super::{Lent, Pages, Pool};

/// A machine on which nothing happens.
#[derive(Clone, Debug)]
pub(super) struct Still;

impl Machine for Still {
    fn now(&self) -> u64 {
        0
    }
    fn wait_token(&self) -> u64 {
        0
    }
    fn wait(&self, _: u64, _: u64) {}
    fn may_map(&self, gfn: u64) -> bool {
        gfn.is_multiple_of(2)
    }
}

type Platform = Hosted<Still>;

fn platform(pages: usize) -> Platform {
    Hosted::new(Ram::new(pages, 0x40), Still)
}

fn lent(platform: &Platform, pages: usize, grant: Option<u32>) -> Lent<Platform> {
    Lent::new(Pages::alloc(platform, pages).unwrap(), grant)
}

fn pool(platform: &Platform, pages: usize) -> Pool<Platform> {
    Pool::new(lent(platform, pages, Some(100))).unwrap()
}
