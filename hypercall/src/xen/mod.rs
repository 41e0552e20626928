//! Xen: hypercalls, event channels, grant table, clock, timer, console.
//!
//! * [`abi`] holds the structures and numbers, `calls` the typed hypercalls;
//! * `grant` lends memory, `evtchn` carries signals, `clock` and `timer` tell the time;
//! * [`Xen`] joins them to the common [`Hypervisor`] trait.

pub mod abi;
mod calls;
mod clock;
mod console;
mod evtchn;
mod grant;
mod shutdown;
mod timer;
mod withdraw;

pub use evtchn::Upcall;

use crate::detect::XenLeaves;
use crate::gate::Gate;
use crate::host::{
    Counters, HostError, HostKind, Hypervisor, Identity, Port, Shared, Shutdown, StillInUse,
    Unshared,
};
use crate::platform::Platform;
use crate::shm::{Access, Lent, Pages};
use crate::signals::{NoWaker, Signals};
use abi::{E820Entry, XenMemoryMap};
use calls::Calls;
use console::Console;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::task::Waker;
use evtchn::Events;
use grant::Grants;
use timer::Timer;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Xen, as one kernel drives it. Make one in a kernel: there is one grant table and one shared
/// page to a domain.
pub struct Xen<P: Platform, G: Gate> {
    platform: P,
    calls: Calls<G>,
    identity: Identity,
    vcpu: u32,
    signals: Signals,
    events: Events<P>,
    grants: Grants<P>,
    timer: Option<Timer>,
    console: Console<P>,
    /// The latest moment shown, so that the clock never goes back.
    latest: AtomicU64,
    /// The event channel that brings news of devices: xenstore's.
    news_port: AtomicU32,
    /// Changes whenever it was signalled, or what it told of was received.
    news: AtomicU32,
    interrupts: AtomicU64,
    lent: AtomicU64,
    reclaimed: AtomicU64,
    refused: AtomicU64,
}

impl<P: Platform, G: Gate> fmt::Debug for Xen<P, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on virtual processor {}", self.identity, self.vcpu)
    }
}

/// A range of the domain's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRange {
    /// The first guest-physical byte.
    pub start: u64,
    /// How many bytes.
    pub size: u64,
    /// Kind, by the numbers of the BIOS call E820: 1 is usable memory.
    pub kind: u32,
}

/// Ranges that [`Xen::memory_map`] asks for.
const RANGES: usize = 64;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MemoryMapCall {
    head: XenMemoryMap,
    entries: [E820Entry; RANGES],
}

impl<P: Platform, G: Gate> Xen<P, G> {
    /// Takes up the host's services for the virtual processor this runs on: the shared info page,
    /// event channels that raise `vector`, the grant table, the timer and the console.
    ///
    /// Events are delivered to this processor alone: run the handler there.
    ///
    /// # Errors
    /// [`HostError`] when the host refuses one that everything stands on. A missing timer or
    /// console shows when it is used.
    pub fn new(platform: P, gate: G, leaves: XenLeaves, vector: u8) -> Result<Self, HostError> {
        let calls = Calls::new(gate);
        let vcpu = platform.cpu();
        let signals = Signals::new();
        let events = Events::new(&platform, &calls, vcpu, vector)?;
        let grants = Grants::new(&platform, &calls)?;
        let timer = match Timer::new(&calls, &events, &signals, vcpu) {
            Ok(timer) => Some(timer),
            Err(why) => {
                log::warn!("no timer from Xen: {why}");
                None
            }
        };
        let console = Console::new(&platform, &calls);
        if let Some(port) = console.port() {
            events.open(&calls, &signals, port)?;
        }
        Ok(Self {
            platform,
            calls,
            identity: Identity {
                kind: HostKind::Xen,
                major: leaves.major.into(),
                minor: leaves.minor.into(),
            },
            vcpu,
            signals,
            events,
            grants,
            timer,
            console,
            latest: AtomicU64::new(0),
            news_port: AtomicU32::new(u32::MAX),
            news: AtomicU32::new(0),
            interrupts: AtomicU64::new(0),
            lent: AtomicU64::new(0),
            reclaimed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// How events interrupt, and so whether the handler must acknowledge them to its controller.
    pub fn upcall(&self) -> Upcall {
        self.events.upcall()
    }

    /// A new event channel that domain `remote` may bind to, already listened to.
    ///
    /// # Errors
    /// [`HostError`] when Xen has none left or refuses.
    pub fn alloc_unbound(&self, remote: u16) -> Result<u32, HostError> {
        let port = self.calls.alloc_unbound(remote)?;
        self.open_port(port).inspect_err(|_| {
            let _ = self.calls.close(port);
        })?;
        Ok(port)
    }

    /// Has every waiting task look again when this event channel is signalled: xenstore's, which
    /// tells of devices that go.
    pub fn set_news(&self, port: u32) {
        self.news_port.store(port, Ordering::Relaxed);
    }

    /// A number that changes whenever there may be something new to know of devices: a look at it
    /// tells who knew all there was that there still is nothing else.
    #[inline(always)]
    pub fn news(&self) -> u32 {
        self.news.load(Ordering::Acquire)
    }

    /// Has [`news`](Self::news) change, after something was received.
    pub fn add_news(&self) {
        self.news.fetch_add(1, Ordering::Release);
    }

    /// Starts to listen to an event channel that the host made, such as xenstore's. What was left
    /// pending on it is forgotten.
    ///
    /// # Errors
    /// [`HostError`] for a port that this library's event-channel ABI does not reach.
    pub fn open_port(&self, port: u32) -> Result<(), HostError> {
        self.events.open(&self.calls, &self.signals, port)
    }

    /// Closes an event channel from [`alloc_unbound`](Self::alloc_unbound). Afterwards the peer's
    /// signals go nowhere.
    pub fn close_port(&self, port: u32) {
        self.events.mask(&self.signals, port);
        // A port that Xen does not know is as closed as it can be.
        let _ = self.calls.close(port);
    }

    /// Stops listening to an event channel without closing it.
    pub fn mask_port(&self, port: u32) {
        self.events.mask(&self.signals, port);
    }

    /// A parameter of this domain, by its number in Xen's `hvm/params.h`.
    ///
    /// # Errors
    /// [`HostError`] when Xen refuses.
    pub fn hvm_param(&self, index: u32) -> Result<u64, HostError> {
        Ok(self.calls.hvm_param(index)?)
    }

    /// Shows `each` the domain's memory, for hosts that start a PVH kernel without a memory map.
    ///
    /// # Errors
    /// [`HostError`] when Xen refuses.
    pub fn memory_map(&self, mut each: impl FnMut(MemoryRange)) -> Result<(), HostError> {
        let mut call = MemoryMapCall {
            head: XenMemoryMap {
                nr_entries: RANGES as u32,
                pad: 0,
                buffer: 0,
            },
            entries: [E820Entry {
                addr: [0; 8],
                size: [0; 8],
                r#type: [0; 4],
            }; RANGES],
        };
        // The buffer follows its head in the same operand.
        call.head.buffer = core::ptr::from_mut(&mut call.entries).expose_provenance() as u64;
        self.calls.memory_map(&mut call)?;
        for entry in call.entries.iter().take(call.head.nr_entries as usize) {
            each(MemoryRange {
                start: u64::from_le_bytes(entry.addr),
                size: u64::from_le_bytes(entry.size),
                kind: u32::from_le_bytes(entry.r#type),
            });
        }
        Ok(())
    }

    /// Reads what was typed at the console; returns how many bytes.
    pub fn console_read(&self, into: &mut [u8]) -> usize {
        self.console.read(&self.calls, into)
    }
}

impl<P: Platform, G: Gate> Hypervisor for Xen<P, G> {
    type Platform = P;

    fn platform(&self) -> &P {
        &self.platform
    }

    fn identity(&self) -> Identity {
        self.identity
    }

    fn clock(&self) -> u64 {
        // The processor this runs on has its own counter; Xen keeps each one's clock.
        let here = self.platform.cpu();
        let info = if here == self.vcpu {
            self.events.info()
        } else {
            self.events.info_of(here)
        };
        let gate = self.calls.gate();
        let now = info
            .ok()
            .and_then(|info| clock::system_time(gate, info))
            .or_else(|| clock::system_time(gate, self.events.info().ok()?))
            .unwrap_or(0);
        self.latest.fetch_max(now, Ordering::Relaxed).max(now)
    }

    fn wall_clock(&self) -> Option<u64> {
        clock::boot_time(self.events.shared())?.checked_add(self.clock())
    }

    fn set_timer(&self, at: u64) -> Result<(), HostError> {
        let timer = self.timer.as_ref().ok_or(HostError::Unsupported)?;
        timer.set(&self.calls, at, || self.clock())
    }

    fn stop_timer(&self) {
        if let Some(timer) = &self.timer {
            timer.stop(&self.calls, &self.signals);
        }
    }

    fn take_timer(&self) -> bool {
        self.timer
            .as_ref()
            .is_some_and(|timer| self.signals.take(timer.port()))
    }

    #[inline]
    fn signal(&self, port: Port) {
        // A refused notification means a port the peer closed: its watcher sees that.
        let _ = self.calls.send(port.to);
    }

    #[inline]
    fn take_pending(&self, port: Port) -> bool {
        self.signals.take(port.from)
    }

    fn register_waker(&self, port: Port, waker: &Waker) -> Result<(), NoWaker> {
        self.signals.register(port.from, waker)
    }

    fn on_interrupt(&self) {
        // In range: the offsets are those of the structures.
        if self.events.collect(&self.signals).unwrap_or(false) {
            self.interrupts.fetch_add(1, Ordering::Relaxed);
            // It may take a device back, whoever waits for that device.
            if self
                .signals
                .is_pending(self.news_port.load(Ordering::Relaxed))
            {
                self.add_news();
                self.signals.wake_all();
            }
        }
    }

    fn share(&self, pages: Pages<P>, peer: u16, access: Access) -> Shared<P> {
        match self.grants.grant(&self.calls, &pages, peer, access) {
            Ok(first) => {
                self.lent.fetch_add(pages.count() as u64, Ordering::Relaxed);
                Ok(Lent::new(pages, Some(first)))
            }
            Err(why) => Err((why, pages)),
        }
    }

    fn unshare(&self, lent: Lent<P>) -> Unshared<P> {
        let count = lent.count() as u64;
        if self.grants.end(&lent) {
            self.reclaimed.fetch_add(count, Ordering::Relaxed);
            Ok(lent.into_pages())
        } else {
            self.refused.fetch_add(count, Ordering::Relaxed);
            Err((StillInUse, lent))
        }
    }

    fn console_write(&self, bytes: &[u8]) -> usize {
        self.console.write(&self.calls, bytes)
    }

    fn shutdown(&self, how: Shutdown) -> Result<(), HostError> {
        shutdown::shutdown(&self.calls, how)
    }

    fn report_crash(&self, parameters: [u64; 5], message: &str) {
        // To Xen's own console too: nobody may be left who reads the ring.
        let mut line = heapless::String::<192>::new();
        let _ = fmt::write(&mut line, format_args!("crash: {parameters:x?}\n"));
        for text in [line.as_str(), message, "\n"] {
            if self.console.port().is_some() {
                self.console.write(&self.calls, text.as_bytes());
            }
            console::emergency(&self.calls, text.as_bytes());
        }
    }

    fn counters(&self) -> Counters {
        Counters {
            hypercalls: self.calls.made(),
            signals: self.calls.sends(),
            interrupts: self.interrupts.load(Ordering::Relaxed),
            pages_lent: self.lent.load(Ordering::Relaxed),
            pages_reclaimed: self.reclaimed.load(Ordering::Relaxed),
            reclaims_refused: self.refused.load(Ordering::Relaxed),
        }
    }
}
