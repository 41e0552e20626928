//! The real Hyper-V drivers over a simulated Hyper-V host, in this process.
//!
//! [`SimHyperV`] is what a processor is on a real machine: CPUID, hypercalls and synthetic
//! registers go to the host, and where the guest would halt, the host moves on step by step, time
//! passes, and interrupts call the drivers' handler.
//!
//! ```
//! use pv_tests::sim_hyperv::SimHyperV;
//! use vmbus::{Config, VmBus};
//!
//! let (sim, hv) = SimHyperV::boot(256, |config| config.shuffle = Some(7));
//! let bus = VmBus::connect(&*hv, Config::default()).unwrap();
//! bus.wait_offers(1_000_000_000).unwrap();
//! assert!(sim.host().counters().violations.is_empty());
//! ```

use crate::hyperv::machine::{HostConfig, HyperVHost};
use crate::interrupts::Interrupts;
use hypercall::Hypervisor;
use hypercall::detect::{Detected, detect};
use hypercall::gate::{Gate, HvCall, HvGet, HvRegister, HvSet, XenCall};
use hypercall::hyperv::HyperV;
use hypercall::shm::hosted::{Hosted, Machine, Ram};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

/// The vector that the SynIC raises.
pub const VECTOR: u8 = 0x30;

/// A kernel on simulated Hyper-V.
pub type Platform = Hosted<SimHyperV>;

/// The hypervisor driver over simulated Hyper-V.
pub type SimDriver = HyperV<Platform, SimHyperV>;

/// A guest's processor on a simulated Hyper-V host. Clones are the same machine.
#[derive(Clone)]
pub struct SimHyperV {
    host: Arc<Mutex<HyperVHost<Ram>>>,
    ram: Ram,
    interrupts: Interrupts,
}

impl fmt::Debug for SimHyperV {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimHyperV({:?})", self.ram)
    }
}

impl SimHyperV {
    /// A host over `pages` pages of guest memory.
    pub fn new(pages: usize, configure: impl FnOnce(&mut HostConfig)) -> Self {
        let ram = Ram::new(pages, 0x100);
        let mut config = HostConfig::default();
        configure(&mut config);
        Self {
            host: Arc::new(Mutex::new(HyperVHost::new(ram.clone(), config))),
            ram,
            interrupts: Interrupts::default(),
        }
    }

    /// A host, and the driver that found it.
    pub fn boot(pages: usize, configure: impl FnOnce(&mut HostConfig)) -> (Self, Arc<SimDriver>) {
        let sim = Self::new(pages, configure);
        let hv = sim.start();
        (sim, hv)
    }

    /// Starts a driver: a new kernel on the same machine.
    pub fn start(&self) -> Arc<SimDriver> {
        let Detected::HyperV(leaves) = detect(self) else {
            panic!("the host does not look like Hyper-V");
        };
        let hv =
            HyperV::new(self.platform(), self.clone(), leaves, VECTOR).expect("a willing host");
        let hv = Arc::new(hv);
        let handler = Arc::downgrade(&hv);
        self.on_interrupt(move || {
            if let Some(hv) = handler.upgrade() {
                hv.on_interrupt();
            }
        });
        hv
    }

    /// The platform that drivers are given.
    pub fn platform(&self) -> Platform {
        Hosted::new(self.ram.clone(), self.clone())
    }

    /// The guest's memory.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// The host, to look at and to disturb. Give it back before the driver runs.
    pub fn host(&self) -> MutexGuard<'_, HyperVHost<Ram>> {
        self.host.lock().expect("no panic inside")
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

    /// Lets the host do everything it has to do, delivers its interrupts, and moves no clock but
    /// by what its steps take.
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

impl Machine for SimHyperV {
    fn now(&self) -> u64 {
        self.host().now_ns()
    }

    fn wait_token(&self) -> u64 {
        self.interrupts.taken()
    }

    fn wait(&self, token: u64, until: u64) {
        while self.wait_token() == token {
            if self.deliver() {
                return;
            }
            let mut host = self.host();
            if host.now_ns() >= until {
                return;
            }
            if host.step() {
                continue;
            }
            let next = host.next_timer_ns().map_or(until, |timer| timer.min(until));
            assert_ne!(next, u64::MAX, "halted for ever: nothing will happen");
            let left = next.saturating_sub(host.now_ns());
            host.advance(left.max(1));
        }
    }
}

impl Gate for SimHyperV {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.host().cpuid(leaf, subleaf)
    }

    fn ticks(&self) -> u64 {
        self.host().tsc()
    }

    fn xen_call(&self, call: XenCall<'_>) -> i64 {
        panic!("a Xen hypercall on Hyper-V: {call:?}");
    }

    fn hv_call(&self, call: HvCall) -> u64 {
        self.host()
            .hypercall(call.control(), call.input(), call.output())
    }

    fn hv_get(&self, get: HvGet) -> u64 {
        let register = get.register();
        let value = self.host().rdmsr(msr(register));
        value.unwrap_or_else(|_| panic!("read of {register:?} faults"))
    }

    fn hv_set(&self, set: HvSet) {
        let (register, value) = (set.register(), set.value());
        let done = self.host().wrmsr(msr(register), value);
        done.unwrap_or_else(|_| panic!("write of {value:#x} to {register:?} faults"));
    }
}

/// The MSR that a register is (TLFS 6.0b, appendix F), written here a second time.
fn msr(register: HvRegister) -> u32 {
    use HvRegister as R;
    0x4000_0000
        + match register {
            R::GuestOsId => 0x00,
            R::Hypercall => 0x01,
            R::VpIndex => 0x02,
            R::Reset => 0x03,
            R::TimeRefCount => 0x20,
            R::ReferenceTsc => 0x21,
            R::TscFrequency => 0x22,
            R::ApicFrequency => 0x23,
            R::Scontrol => 0x80,
            R::Siefp => 0x82,
            R::Simp => 0x83,
            R::Eom => 0x84,
            R::Sint(n) => 0x90 + u32::from(n),
            R::StimerConfig(n) => 0xb0 + 2 * u32::from(n),
            R::StimerCount(n) => 0xb1 + 2 * u32::from(n),
            R::CrashParameter(n) => 0x100 + u32::from(n),
            R::CrashControl => 0x105,
            other => panic!("no MSR is known for {other:?}"),
        }
}
