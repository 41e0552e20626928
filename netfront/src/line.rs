//! What all queues of an interface know of its line.

use crate::capabilities::Capabilities;
use core::sync::atomic::{AtomicU32, Ordering};
use hypercall::Platform;
use hypercall::shm::{OutOfPages, Shared};

/// The line and the largest packet: the first queue, which has the news, says what they are, and the
/// others hear it wherever they run.
#[derive(Debug)]
pub(crate) struct Line<P: Platform> {
    /// The MTU in bytes, and above it whether the line is up.
    state: Shared<AtomicU32, P>,
}

impl<P: Platform> Clone for Line<P> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
        }
    }
}

const UP: u32 = 1 << 16;

impl<P: Platform> Line<P> {
    /// Of an interface that can do this.
    pub(crate) fn new(platform: &P, can: &Capabilities) -> Result<Self, OutOfPages> {
        let state = Shared::new(platform, AtomicU32::new(word(can)))?;
        Ok(Self { state })
    }

    /// Tells the other queues.
    pub(crate) fn tell(&self, can: &Capabilities) {
        self.state.store(word(can), Ordering::Relaxed);
    }

    /// Takes over what was told; whether that is something new.
    #[inline]
    pub(crate) fn hear(&self, can: &mut Capabilities) -> bool {
        let told = self.state.load(Ordering::Relaxed);
        if told == word(can) {
            return false;
        }
        (can.mtu, can.link) = (told as u16, told & UP != 0);
        true
    }
}

fn word(can: &Capabilities) -> u32 {
    u32::from(can.mtu) | if can.link { UP } else { 0 }
}
