//! A value that is watched, and read without waiting when it changed.

use crate::error::StoreError;
use crate::path::Path;
use crate::request::{Pending, text};
use crate::store::{Request, Xenstore};
use crate::watch::WatchId;
use crate::wire::MessageType;
use core::fmt;
use hypercall::{Gate, Platform};

/// Bytes of a watched value at most; a longer one counts as absent.
pub const VALUE: usize = 32;
/// Bytes of a path at most.
const PATH: usize = 192;

/// A short value in xenstore under a watch. [`poll`](Self::poll) tells what it changed to; it
/// costs a few loads while nothing happens. Dropping it ends the watch.
pub struct Watched<'b, 'h, P: Platform, G: Gate> {
    store: &'b Xenstore<'h, P, G>,
    path: heapless::String<PATH>,
    watch: WatchId,
    reading: Option<Pending<'b, 'h, P, G>>,
    /// The host's news when all of it that concerns this value was last known.
    settled: u32,
}

impl<P: Platform, G: Gate> fmt::Debug for Watched<'_, '_, P, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched({})", self.path)
    }
}

impl<'b, 'h, P: Platform, G: Gate> Watched<'b, 'h, P, G> {
    /// Watches what is in `directory` under `key`. The first [`poll`](Self::poll)s tell what is
    /// there now.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::NoWatch`] when all watches are taken.
    pub fn new(
        store: &'b Xenstore<'h, P, G>,
        directory: &str,
        key: &str,
    ) -> Result<Self, StoreError> {
        let mut path = heapless::String::new();
        for piece in [directory, "/", key] {
            path.push_str(piece).map_err(|_| StoreError::TooLong)?;
        }
        let watch = store.watch(path.as_str())?;
        // The watch fires by itself at the start; whether or not it does, look once.
        store.watches().set(watch);
        Ok(Self {
            store,
            path,
            watch,
            reading: None,
            // Anything but that: the first look is still to come.
            settled: store.xen().news().wrapping_sub(1),
        })
    }

    /// What the value is now, when it may have changed since this was last asked: the inner
    /// `None` is a value that is not there. A change shows within a few calls, when the host has
    /// answered what it changed to. A connection to xenstore that broke tells nothing.
    #[inline]
    pub fn poll(&mut self) -> Option<Option<heapless::String<VALUE>>> {
        if self.store.xen().news() == self.settled {
            return None;
        }
        self.look()
    }

    #[cold]
    fn look(&mut self) -> Option<Option<heapless::String<VALUE>>> {
        let news = self.store.xen().news();
        let polled = self.store.poll();
        let mut found = None;
        // What fired while a read was in flight is read at once: nothing else would wake whoever
        // waits for it.
        for _ in 0..2 {
            if self.reading.is_none() && self.store.watches().take(self.watch) {
                self.reading = self.ask();
            }
            let Some(outcome) = self.reading.as_ref().and_then(Pending::outcome) else {
                break;
            };
            if let Some(reading) = self.reading.take() {
                match outcome {
                    Ok(len) => found = Some(text(reading.payload(len)).ok()),
                    Err(why) if why.is_not_found() => found = Some(None),
                    Err(_) => {}
                }
            }
        }
        let settled = self.reading.is_none()
            && !self.store.is_unfinished()
            && !self.store.watches().is_fired(self.watch);
        if settled || polled.is_err() {
            self.settled = news;
        }
        found
    }

    /// Sends a read.
    fn ask(&self) -> Option<Pending<'b, 'h, P, G>> {
        let [directory, slash, leaf] = Path::from(self.path.as_str()).pieces();
        let sent = self.store.try_begin(Request {
            kind: MessageType::READ,
            transaction: 0,
            pieces: &[directory, slash, leaf, b"\0"],
        });
        if let Ok(None) = sent {
            // No room now; the next call tries again.
            self.store.watches().set(self.watch);
        }
        sent.ok().flatten()
    }
}

impl<P: Platform, G: Gate> Drop for Watched<'_, '_, P, G> {
    fn drop(&mut self) {
        self.store.unwatch(self.watch, self.path.as_str());
    }
}
