//! The real Xen drivers over a simulated Xen host, in this process.
//!
//! [`SimXen`] is what a processor is on a real machine: hypercalls and CPUID go to the host, and
//! where the guest would halt, the host moves on step by step, time passes, and interrupts call
//! the drivers' handler.
//!
//! ```
//! use pv_tests::sim_xen::SimXen;
//! use xenbus::XenBus;
//!
//! let (sim, xen) = SimXen::boot(256, |config| config.seed = 7);
//! let bus = XenBus::connect(&*xen, Default::default()).unwrap();
//! bus.wait_devices(1_000_000_000).unwrap();
//! assert!(sim.host().complaints().is_empty());
//! ```

use crate::interrupts::Interrupts;
use crate::memory::GuestMemory;
use crate::xen::gate::XenGate;
use crate::xen::machine::{Config, XenHost};
use hypercall::Hypervisor;
use hypercall::detect::{Detected, detect};
use hypercall::gate::{Gate, HvCall, HvGet, HvSet, XenCall};
use hypercall::shm::hosted::{Hosted, Machine, Ram};
use hypercall::shm::{PAGE_SIZE, Pages};
use hypercall::xen::Xen;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};

/// The vector that events raise.
pub const VECTOR: u8 = 0x30;

/// A kernel on simulated Xen.
pub type Platform = Hosted<SimXen>;

/// The hypervisor driver over simulated Xen.
pub type SimDriver = Xen<Platform, SimXen>;

/// How far time goes on at once while nothing happens, in nanoseconds.
const STEP: u64 = 1_000_000;

/// A guest's processor on a simulated Xen host. Clones are the same machine.
#[derive(Clone)]
pub struct SimXen {
    gate: XenGate<Ram>,
    ram: Ram,
    interrupts: Interrupts,
    /// Threads that wait.
    waiting: Arc<AtomicUsize>,
    /// A page in which the host finds what the real one finds by a linear address.
    bounce: u64,
}

/// A machine without a host, to set memory aside before there is one.
#[derive(Clone)]
struct Still;

impl Machine for Still {
    fn now(&self) -> u64 {
        0
    }
    fn wait_token(&self) -> u64 {
        0
    }
    fn wait(&self, _: u64, _: u64) {}
}

impl SimXen {
    /// A host over `pages` pages of guest memory.
    pub fn new(pages: usize, configure: impl FnOnce(&mut Config)) -> Self {
        let ram = Ram::new(pages, 0x100);
        let aside = Pages::alloc(&Hosted::new(ram.clone(), Still), 3).expect("three pages");
        let gfn = |n| aside.gfn(n).expect("a page of three");
        let mut config = Config::new(gfn(0), gfn(1));
        configure(&mut config);
        let host = XenHost::new(ram.clone(), config).expect("pages that are memory");
        let bounce = gfn(2) * PAGE_SIZE as u64;
        std::mem::forget(aside);
        SimXen {
            gate: XenGate::new(host),
            ram,
            interrupts: Interrupts::default(),
            waiting: Arc::default(),
            bounce,
        }
    }

    /// A host, and the driver that found it.
    pub fn boot(pages: usize, configure: impl FnOnce(&mut Config)) -> (Self, Arc<SimDriver>) {
        let sim = Self::new(pages, configure);
        let xen = sim.start();
        (sim, xen)
    }

    /// Starts a driver: a new kernel on the same machine.
    pub fn start(&self) -> Arc<SimDriver> {
        let Detected::Xen(leaves) = detect(self) else {
            panic!("the host does not look like Xen");
        };
        let xen = Xen::new(self.platform(), self.clone(), leaves, VECTOR).expect("a willing host");
        let xen = Arc::new(xen);
        let handler = Arc::downgrade(&xen);
        self.on_interrupt(move || {
            if let Some(xen) = handler.upgrade() {
                xen.on_interrupt();
            }
        });
        xen
    }

    /// The platform that drivers are given.
    pub fn platform(&self) -> Platform {
        Hosted::new(self.ram.clone(), self.clone())
    }

    /// The guest's memory.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// The host, to look at and to set knobs of. Give it back before the driver runs.
    pub fn host(&self) -> MutexGuard<'_, XenHost<Ram>> {
        self.gate.host()
    }

    /// What runs when the vector is raised.
    pub fn on_interrupt(&self, handler: impl Fn() + Send + Sync + 'static) {
        self.interrupts.set_handler(handler);
    }

    /// Delivers an interrupt that is due; whether there was one.
    pub fn deliver(&self) -> bool {
        let Some(vector) = self.host().take_interrupt() else {
            return false;
        };
        assert_eq!(vector, VECTOR, "the vector that was asked for");
        self.interrupts.take();
        true
    }

    /// Lets the host do everything it has to do, delivers its interrupts, and moves no clock.
    pub fn settle(&self) {
        for _ in 0..100_000 {
            let stepped = self.host().step();
            if !self.deliver() && !stepped {
                return;
            }
        }
        panic!("the host does not come to rest");
    }
}

impl Machine for SimXen {
    fn now(&self) -> u64 {
        self.host().now()
    }

    fn wait_token(&self) -> u64 {
        self.interrupts.taken()
    }

    fn wait(&self, token: u64, until: u64) {
        let _waiter = Waiter::new(&self.waiting);
        while self.wait_token() == token {
            if self.deliver() {
                return;
            }
            let mut host = self.host();
            if host.now() >= until {
                return;
            }
            if host.step() {
                continue;
            }
            // Time goes on in small steps, so that other threads of the guest can act in it.
            let timer = host.clock().next_deadline().unwrap_or(u64::MAX);
            let now = host.now();
            let next = timer.min(until).min(now.saturating_add(STEP));
            host.advance(next.saturating_sub(now).max(1));
            drop(host);
            // Time must not run away from a thread that only waits for the host's lock.
            if self.waiting.load(Ordering::Relaxed) > 1 {
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        }
    }
}

/// Counts a thread that waits.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Waiter(count)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate for SimXen {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.gate.cpuid(leaf, subleaf)
    }

    fn ticks(&self) -> u64 {
        self.gate.ticks()
    }

    fn xen_call(&self, mut call: XenCall<'_>) -> i64 {
        // XENMEM_memory_map: its buffer is named by an address of this process, which is no
        // address of the guest's, and follows in the operand.
        let map = call.number() == 12 && call.args()[0] == 9;
        if map && let Some((head, entries)) = call.operand().split_at_mut_checked(16) {
            head[8..].copy_from_slice(&self.bounce.to_le_bytes());
            let result = self.host().hypercall(12, [9, 0, 0, 0, 0], head);
            self.ram
                .read(self.bounce, entries)
                .expect("the page set aside");
            return result;
        }
        self.gate.xen_call(call)
    }

    fn hv_call(&self, call: HvCall) -> u64 {
        self.gate.hv_call(call)
    }

    fn hv_get(&self, get: HvGet) -> u64 {
        self.gate.hv_get(get)
    }

    fn hv_set(&self, set: HvSet) {
        self.gate.hv_set(set);
    }
}
