//! Hyper-V's bare interface: hypercalls, messages and event flags, clock, timer, crash report.
//!
//! [`HyperV`] implements [`Hypervisor`] and gives VMBus its two means: messages
//! ([`post_message`](HyperV::post_message), [`take_message`](HyperV::take_message)) and event
//! flags ([`signals`](HyperV::signals)). Source: Hypervisor Top-Level Functional Specification
//! (TLFS) 6.0b.

pub mod abi;
mod calls;
mod clock;
mod crash;
mod overlay;
mod synic;
#[cfg(test)]
#[cfg(feature = "hosted")]
mod tests;
mod timer;

pub use calls::PostError;
pub use synic::{Message, TIMER_SINT, VMBUS_SINT};

use crate::detect::HvLeaves;
use crate::gate::{Gate, HvGet, HvRegister, HvSet};
use crate::host::{
    Counters, HostError, HostKind, Hypervisor, Identity, Port, Shared, Shutdown, Unshared,
};
use crate::platform::Platform;
use crate::shm::{Access, Lent, Pages};
use crate::signals::{NoWaker, Signals};
use abi::{CRASH_REGISTERS, EVENT_FLAGS, KIND_POSTED, Privileges, Status};
use calls::Calls;
use clock::Clock;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::task::Waker;
use crash::Crash;
use synic::Synic;
use timer::Timer;

/// The signal that stands for "a message waits", behind those of the event flags.
pub const MESSAGE_SIGNAL: u32 = EVENT_FLAGS;

/// Who this guest says it is (TLFS, "Guest OS identity"): an open-source kernel of Linux's kind,
/// the form that every host knows how to treat.
const GUEST_OS_ID: u64 = 0x8100 << 48;

/// Vectors below are the processor's own; hosts refuse them.
const FIRST_VECTOR: u8 = 16;

/// The first wait after a message was refused, in nanoseconds; doubled each time.
const FIRST_BACKOFF: u64 = 10_000;
/// The longest such wait.
const LAST_BACKOFF: u64 = 10_000_000;

/// A Hyper-V host, or another that offers its interface.
///
/// Messages, event flags and the timer are those of the processor that called
/// [`new`](Self::new): have the vector handled, and messages taken, there.
///
/// When it is dropped the host is told to forget its pages; one that does not is left the pages.
#[derive(Debug)]
pub struct HyperV<P: Platform, G: Gate> {
    timer: Timer,
    crash: Option<Crash<P>>,
    signals: Signals,
    counts: Counts,
    /// Changes whenever a message came, or it told of a device that goes.
    news: AtomicU32,
    privileges: Privileges,
    leaves: HvLeaves,
    vp_index: u32,
    // In the order in which they go: interrupts first, the hypercall page last.
    synic: Synic<P, G>,
    clock: Clock<P, G>,
    calls: Calls<P, G>,
    _guest: Guest<G>,
    platform: P,
    gate: G,
}

#[derive(Debug, Default)]
struct Counts {
    interrupts: AtomicU64,
    lent: AtomicU64,
    reclaimed: AtomicU64,
}

/// The guest's name, taken back at the very end.
#[derive(Debug)]
struct Guest<G: Gate>(G);

impl<G: Gate> Guest<G> {
    fn new(gate: &G) -> Self {
        gate.hv_set(HvSet::new(HvRegister::GuestOsId, GUEST_OS_ID));
        Self(gate.clone())
    }
}

impl<G: Gate> Drop for Guest<G> {
    fn drop(&mut self) {
        self.0.hv_set(HvSet::new(HvRegister::GuestOsId, 0));
    }
}

impl<P: Platform, G: Gate> HyperV<P, G> {
    /// Makes the host's acquaintance: names the guest, has the hypercall page filled, turns this
    /// processor's SynIC on. `vector` is the entry of the kernel's interrupt table whose handler
    /// calls [`on_interrupt`](Hypervisor::on_interrupt).
    ///
    /// The host puts instructions into a page from the platform, which must be executable.
    ///
    /// # Errors
    /// [`HostError::OutOfPages`]; [`HostError::Unsupported`] when the host lacks hypercall or
    /// SynIC registers, or for a vector below 16.
    pub fn new(platform: P, gate: G, leaves: HvLeaves, vector: u8) -> Result<Self, HostError> {
        let privileges = Privileges::from_bits_retain(leaves.privileges());
        if vector < FIRST_VECTOR || !privileges.contains(Privileges::HYPERCALL | Privileges::SYNIC)
        {
            return Err(HostError::Unsupported);
        }
        let page = || Pages::alloc(&platform, 1).map_err(|_| HostError::OutOfPages);
        let (code, input, messages, flags) = (page()?, page()?, page()?, page()?);
        let guest = Guest::new(&gate);
        let calls = Calls::new(&gate, code, input)?;
        let clock = Clock::new(&gate, privileges, page().ok());
        let synic = Synic::new(&gate, messages, flags, vector);
        let crash = (leaves.extra() & CRASH_REGISTERS != 0).then(|| Crash::new(&gate, &platform));
        let vp_index = if privileges.contains(Privileges::VP_INDEX) {
            gate.hv_get(HvGet::new(HvRegister::VpIndex)) as u32
        } else {
            platform.cpu()
        };
        Ok(Self {
            timer: Timer::default(),
            crash,
            signals: Signals::new(),
            counts: Counts::default(),
            news: AtomicU32::new(0),
            privileges,
            leaves,
            vp_index,
            synic,
            clock,
            calls,
            _guest: guest,
            platform,
            gate,
        })
    }

    /// What CPUID said of the host.
    pub fn leaves(&self) -> &HvLeaves {
        &self.leaves
    }

    /// The host's number for the processor that messages and event flags come to.
    pub fn vp_index(&self) -> u32 {
        self.vp_index
    }

    /// Sends a message of 240 bytes at most, once. A message can name memory to the host, so the
    /// drivers that send them answer for what they name.
    ///
    /// # Errors
    /// [`PostError`].
    pub fn try_post_message(&self, connection: u32, payload: &[u8]) -> Result<(), PostError> {
        self.calls.post(connection, KIND_POSTED, payload)
    }

    /// Sends a message, trying again with growing pauses while the host is busy, until the
    /// platform's clock reaches `until`. `meanwhile` is called before each pause: a host may be
    /// busy because nobody takes its messages.
    ///
    /// # Errors
    /// [`PostError`], of the last try.
    pub fn post_message(
        &self,
        connection: u32,
        payload: &[u8],
        until: u64,
        mut meanwhile: impl FnMut(),
    ) -> Result<(), PostError> {
        let mut pause = FIRST_BACKOFF;
        loop {
            let token = self.platform.wait_token();
            let answer = self.try_post_message(connection, payload);
            let now = self.platform.now();
            if !matches!(answer, Err(PostError::Busy(_))) || now >= until {
                return answer;
            }
            meanwhile();
            self.platform
                .wait(token, now.saturating_add(pause).min(until));
            pause = pause.saturating_mul(2).min(LAST_BACKOFF);
        }
    }

    /// A number that changes whenever there may be something new to know of devices: a look at it
    /// tells who knew all there was that there still is nothing else.
    #[inline(always)]
    pub fn news(&self) -> u32 {
        self.news.load(Ordering::Acquire)
    }

    /// Has [`news`](Self::news) change, after a message was understood.
    pub fn add_news(&self) {
        self.news.fetch_add(1, Ordering::Release);
    }

    /// Whether a message from the host waits.
    #[inline]
    pub fn has_message(&self) -> bool {
        self.synic.has_message()
    }

    /// Takes the message that waits, if one does, and lets the host put the next.
    pub fn take_message(&self) -> Option<Message> {
        self.synic.take_message()
    }

    /// Has the interrupt handler look for an event flag from now on (0 to 2047).
    pub fn expect_event(&self, flag: u32) {
        self.synic.expect_event(flag);
        // A host does not interrupt for a flag that was set before, by whatever mistake.
        self.synic.take_events(&self.signals);
    }

    /// The event flags that the host raised, of those [expected](Self::expect_event), and
    /// [`MESSAGE_SIGNAL`].
    pub fn signals(&self) -> &Signals {
        &self.signals
    }
}

impl<P: Platform, G: Gate> Drop for HyperV<P, G> {
    fn drop(&mut self) {
        if self.privileges.contains(Privileges::SYNTHETIC_TIMERS) {
            self.timer.stop(&self.gate, &self.synic);
        }
        // The fields follow in their order.
    }
}

impl<P: Platform, G: Gate> Hypervisor for HyperV<P, G> {
    type Platform = P;

    fn platform(&self) -> &P {
        &self.platform
    }

    fn identity(&self) -> Identity {
        let (major, minor) = self.leaves.host_version();
        Identity {
            kind: HostKind::HyperV,
            major,
            minor,
        }
    }

    fn clock(&self) -> u64 {
        self.clock.now().unwrap_or_else(|| self.platform.now())
    }

    /// Always `None`: the host tells the time of day by a VMBus device.
    fn wall_clock(&self) -> Option<u64> {
        None
    }

    fn set_timer(&self, at: u64) -> Result<(), HostError> {
        let needed = Privileges::SYNTHETIC_TIMERS | Privileges::REFERENCE_COUNTER;
        if !self.privileges.contains(needed) {
            return Err(HostError::Unsupported);
        }
        self.timer.stop(&self.gate, &self.synic);
        self.timer.set(&self.gate, at);
        Ok(())
    }

    fn stop_timer(&self) {
        if self.privileges.contains(Privileges::SYNTHETIC_TIMERS) {
            self.timer.stop(&self.gate, &self.synic);
        }
    }

    fn take_timer(&self) -> bool {
        self.timer.take()
    }

    #[inline]
    fn signal(&self, port: Port) {
        let status = self.calls.signal_event(port.to);
        if status != Status::SUCCESS {
            // So it is with a device that was just withdrawn.
            log::debug!("signal to connection {:#x} failed: {status:?}", port.to);
        }
    }

    #[inline]
    fn take_pending(&self, port: Port) -> bool {
        self.signals.take(port.from)
    }

    fn register_waker(&self, port: Port, waker: &Waker) -> Result<(), NoWaker> {
        self.signals.register(port.from, waker)
    }

    fn on_interrupt(&self) {
        self.counts.interrupts.fetch_add(1, Ordering::Relaxed);
        self.synic.take_events(&self.signals);
        if self.synic.take_timer() {
            self.timer.set_fired();
        }
        if self.synic.has_message() {
            self.add_news();
            self.signals.raise(MESSAGE_SIGNAL);
            // It may take a device back, whoever waits for that device.
            self.signals.wake_all();
        }
    }

    fn share(&self, pages: Pages<P>, _peer: u16, _access: Access) -> Shared<P> {
        let count = pages.count() as u64;
        self.counts.lent.fetch_add(count, Ordering::Relaxed);
        Ok(Lent::new(pages, None))
    }

    /// Never fails: that the host has let go of a GPADL or a request is for its driver to see
    /// before it takes the run back.
    fn unshare(&self, lent: Lent<P>) -> Unshared<P> {
        let count = lent.count() as u64;
        self.counts.reclaimed.fetch_add(count, Ordering::Relaxed);
        Ok(lent.into_pages())
    }

    /// Writes nothing: there is no console without a VMBus device.
    fn console_write(&self, _bytes: &[u8]) -> usize {
        0
    }

    /// Reboots by the reset register where that is allowed. There is no hypercall for the rest.
    fn shutdown(&self, how: Shutdown) -> Result<(), HostError> {
        match how {
            Shutdown::Reboot if self.privileges.contains(Privileges::RESET) => {
                self.gate.hv_set(HvSet::new(HvRegister::Reset, 1));
            }
            Shutdown::Crash => self.report_crash([0; 5], ""),
            _ => {}
        }
        Err(HostError::Unsupported)
    }

    fn report_crash(&self, parameters: [u64; 5], message: &str) {
        if let Some(crash) = &self.crash {
            crash.report(&self.gate, parameters, message);
        }
    }

    fn counters(&self) -> Counters {
        let counts = &self.counts;
        Counters {
            hypercalls: self.calls.count(),
            signals: self.calls.signals(),
            interrupts: counts.interrupts.load(Ordering::Relaxed),
            pages_lent: counts.lent.load(Ordering::Relaxed),
            pages_reclaimed: counts.reclaimed.load(Ordering::Relaxed),
            ..Counters::default()
        }
    }
}
