//! The whole simulated Hyper-V host: CPUID, MSRs, hypercalls, SynIC, VMBus, and simulated time.
//!
//! A test owns a [`HyperVHost`] and plays the processor: what the guest executes becomes a call of
//! `cpuid`, `rdmsr`, `wrmsr` or `hypercall`; between any two of them the test may let the host do
//! one thing (`step`), let time pass (`advance`) and take interrupts (`take_interrupt`).
//!
//! ```
//! use pv_tests::disk::MemDisk;
//! use pv_tests::hyperv::{flat::FlatMemory, machine::{HostConfig, HyperVHost}};
//! use pv_tests::hyperv::{scsi::Lun, storvsp::{Address, Storvsp, StorvspConfig}};
//!
//! let mut host = HyperVHost::new(FlatMemory::new(64), HostConfig::default());
//! let mut scsi = Storvsp::new(StorvspConfig::default());
//! scsi.attach(Address::lun(0), Lun::disk(Box::new(MemDisk::new(2048, 512)), 1));
//! let disk = host.bus.add(Box::new(scsi));
//!
//! // The guest: identify, enable the hypercall page, set up SINT 2, pages 1 and 2.
//! for (msr, value) in [
//!     (0x4000_0000, 0x8100_0000_0000_0000),
//!     (0x4000_0001, 3 << 12 | 1),
//!     (0x4000_0083, 1 << 12 | 1),
//!     (0x4000_0082, 2 << 12 | 1),
//!     (0x4000_0092, 0x33),
//!     (0x4000_0080, 1),
//! ] {
//!     host.wrmsr(msr, value).unwrap();
//! }
//! // … HvPostMessage with INITIATE_CONTACT at guest-physical address 4 << 12 …
//! let status = host.hypercall(0x5c, 4 << 12, 0);
//! while host.step() {}
//! if let Some(_vector) = host.take_interrupt() { /* run the guest's handler */ }
//! # assert_eq!(status, 0x12, "an empty page names connection 0, which does not exist");
//! host.bus.device_mut::<Storvsp>(disk).unwrap().stall(true); // keep requests in flight
//! host.bus.rescind(disk);
//! assert!(host.counters().violations.is_empty());
//! ```

use super::abi::{PAGE, status};
use super::counters::Counters;
use super::cpuid::{self, Leaves, access, feature};
use super::synic::Synic;
use super::vmbus_server::{ServerConfig, VmbusServer};
use crate::memory::GuestMemory;
use crate::rng::Rng;

/// MSRs outside the SynIC.
pub mod msr {
    pub const GUEST_OS_ID: u32 = 0x4000_0000;
    pub const HYPERCALL: u32 = 0x4000_0001;
    pub const VP_INDEX: u32 = 0x4000_0002;
    pub const RESET: u32 = 0x4000_0003;
    pub const TIME_REF_COUNT: u32 = 0x4000_0020;
    pub const REFERENCE_TSC: u32 = 0x4000_0021;
    pub const TSC_FREQUENCY: u32 = 0x4000_0022;
    pub const APIC_FREQUENCY: u32 = 0x4000_0023;
    pub const CRASH_P0: u32 = 0x4000_0100;
    pub const CRASH_P4: u32 = 0x4000_0104;
    pub const CRASH_CTL: u32 = 0x4000_0105;
}

const CRASH_NOTIFY: u64 = 1 << 63;
const CRASH_MESSAGE: u64 = 1 << 62;

/// How the machine is built.
#[derive(Debug, Clone)]
pub struct HostConfig {
    pub cpuid: Leaves,
    pub bus: ServerConfig,
    /// Ticks of the simulated time-stamp counter in a second.
    pub tsc_hz: u64,
    /// Nanoseconds that pass with each step.
    pub ns_per_step: u64,
    /// Whether the reference TSC page carries numbers, or sequence 0 for "use the MSR".
    pub tsc_page_valid: bool,
    /// Choose among possible actions by this seed; `None`: a fixed order.
    pub shuffle: Option<u64>,
}

impl Default for HostConfig {
    fn default() -> Self {
        HostConfig {
            cpuid: cpuid::hyper_v(),
            bus: ServerConfig::default(),
            tsc_hz: 2_000_000_000,
            ns_per_step: 0,
            tsc_page_valid: true,
            shuffle: None,
        }
    }
}

/// The access faults with #GP: no such register, or not for this guest, or not with this value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneralProtection;

/// What a guest reported through the crash registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    pub parameters: [u64; 5],
    /// The text parameters 3 and 4 point to, if the guest said they do.
    pub message: Option<Vec<u8>>,
}

/// A Hyper-V host with one virtual processor.
pub struct HyperVHost<M: GuestMemory> {
    memory: M,
    config: HostConfig,
    synic: Synic,
    guest_os_id: u64,
    hypercall_page: u64,
    reference_tsc: u64,
    crash_parameters: [u64; 5],
    crash: Option<Crash>,
    reset: bool,
    now_ns: u64,
    chance: Option<Rng>,
    /// The VMBus server with its devices, its misdeeds and its counters.
    pub bus: VmbusServer,
}

impl<M: GuestMemory> HyperVHost<M> {
    /// A host at time 0, with nothing on its bus.
    pub fn new(memory: M, config: HostConfig) -> Self {
        HyperVHost {
            memory,
            synic: Synic::default(),
            guest_os_id: 0,
            hypercall_page: 0,
            reference_tsc: 0,
            crash_parameters: [0; 5],
            crash: None,
            reset: false,
            now_ns: 0,
            chance: config.shuffle.map(Rng::new),
            bus: VmbusServer::new(config.bus.clone()),
            config,
        }
    }

    /// The guest's memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// CPUID: EAX, EBX, ECX, EDX.
    pub fn cpuid(&self, leaf: u32, _subleaf: u32) -> [u32; 4] {
        self.config.cpuid.get(&leaf).copied().unwrap_or_default()
    }

    fn allows(&self, bits: u32) -> Result<(), GeneralProtection> {
        let granted = self.cpuid(0x4000_0003, 0)[0];
        if granted & bits == bits {
            Ok(())
        } else {
            Err(GeneralProtection)
        }
    }

    /// RDMSR of a synthetic register.
    pub fn rdmsr(&self, msr: u32) -> Result<u64, GeneralProtection> {
        self.check_msr(msr)?;
        Ok(match msr {
            msr::GUEST_OS_ID => self.guest_os_id,
            msr::HYPERCALL => self.hypercall_page,
            msr::VP_INDEX | msr::RESET => 0,
            msr::TIME_REF_COUNT => self.reference_time(),
            msr::REFERENCE_TSC => self.reference_tsc,
            msr::TSC_FREQUENCY => self.config.tsc_hz,
            msr::APIC_FREQUENCY => 200_000_000,
            msr::CRASH_P0..=msr::CRASH_P4 => self.crash_parameters[(msr - msr::CRASH_P0) as usize],
            msr::CRASH_CTL => CRASH_NOTIFY | CRASH_MESSAGE,
            _ => self.synic.read(msr).ok_or(GeneralProtection)?,
        })
    }

    /// WRMSR of a synthetic register.
    pub fn wrmsr(&mut self, msr: u32, value: u64) -> Result<(), GeneralProtection> {
        self.check_msr(msr)?;
        match msr {
            msr::GUEST_OS_ID => {
                self.guest_os_id = value;
                if value == 0 {
                    self.hypercall_page &= !1;
                }
            }
            msr::HYPERCALL => {
                // Without an identity the enable bit does not stick.
                self.hypercall_page = if self.guest_os_id == 0 {
                    value & !1
                } else {
                    value
                };
                if self.hypercall_page & 1 != 0 {
                    // VMCALL; RET. A simulated guest calls `hypercall` instead of running this.
                    let page = value & !(PAGE - 1);
                    self.memory
                        .write(page, &[0x0f, 0x01, 0xc1, 0xc3])
                        .map_err(|_| GeneralProtection)?;
                }
            }
            msr::RESET => self.reset |= value & 1 != 0,
            msr::REFERENCE_TSC => {
                self.reference_tsc = value;
                if value & 1 != 0 {
                    self.write_tsc_page(value & !(PAGE - 1))?;
                }
            }
            msr::CRASH_P0..=msr::CRASH_P4 => {
                self.crash_parameters[(msr - msr::CRASH_P0) as usize] = value;
            }
            msr::CRASH_CTL => self.report_crash(value),
            _ => {
                let now = self.reference_time();
                self.synic.write(msr, value, now).ok_or(GeneralProtection)?;
            }
        }
        Ok(())
    }

    /// Every register needs the privilege CPUID grants for it.
    fn check_msr(&self, msr: u32) -> Result<(), GeneralProtection> {
        let bits = match msr {
            msr::GUEST_OS_ID | msr::HYPERCALL => access::HYPERCALL,
            msr::VP_INDEX => access::VP_INDEX,
            msr::RESET => access::RESET,
            msr::TIME_REF_COUNT => access::REFERENCE_COUNTER,
            msr::REFERENCE_TSC => access::REFERENCE_TSC,
            msr::TSC_FREQUENCY | msr::APIC_FREQUENCY => access::FREQUENCIES,
            0x4000_0080..=0x4000_009f => access::SYNIC,
            0x4000_00b0..=0x4000_00b7 => access::TIMERS,
            msr::CRASH_P0..=msr::CRASH_CTL => {
                let known = self.cpuid(0x4000_0003, 0)[3] & feature::CRASH_REGISTERS != 0;
                return if known {
                    Ok(())
                } else {
                    Err(GeneralProtection)
                };
            }
            _ => return Err(GeneralProtection),
        };
        self.allows(bits)
    }

    fn write_tsc_page(&self, page: u64) -> Result<(), GeneralProtection> {
        // 100 ns units: time = (tsc * scale) >> 64.
        let scale = (10_000_000u128 << 64) / u128::from(self.config.tsc_hz);
        let sequence = u32::from(self.config.tsc_page_valid);
        let fill = || {
            self.memory.store_u32(page, 0)?;
            self.memory.store_u64(page + 8, scale as u64)?;
            self.memory.store_u64(page + 16, 0)?;
            self.memory.store_u32(page, sequence)
        };
        fill().map_err(|_| GeneralProtection)
    }

    fn report_crash(&mut self, control: u64) {
        if control & CRASH_NOTIFY == 0 {
            return;
        }
        let parameters = self.crash_parameters;
        let message = (control & CRASH_MESSAGE != 0).then(|| {
            let mut text = vec![0; parameters[4].min(PAGE) as usize];
            let _ = self.memory.read(parameters[3], &mut text);
            text
        });
        self.crash = Some(Crash {
            parameters,
            message,
        });
    }

    /// A hypercall: `control` names it; for a slow call `input` and `output` are guest-physical
    /// addresses, for a fast one they are the input itself. Returns the result value.
    pub fn hypercall(&mut self, control: u64, input: u64, _output: u64) -> u64 {
        if self.hypercall_page & 1 == 0 {
            self.bus
                .counters
                .violation("hypercall without an enabled hypercall page");
            return status::INVALID_HYPERCALL_INPUT.into();
        }
        self.bus.hypercall(&self.memory, control, input).into()
    }

    /// Does exactly one host action. False: nothing happens until the guest acts or time passes.
    pub fn step(&mut self) -> bool {
        self.now_ns += self.config.ns_per_step;
        const KINDS: u64 = 4;
        let first = self.chance.as_mut().map_or(0, |rng| rng.below(KINDS));
        (first..first + KINDS).any(|kind| self.try_step(kind % KINDS))
    }

    fn try_step(&mut self, kind: u64) -> bool {
        let done = match kind {
            0 => self.synic.step(&self.memory, self.now_ns / 100),
            1 => match self.bus.take_event() {
                Some(event) if event.vp == 0 => self
                    .synic
                    .set_event(&self.memory, event.sint, event.flag)
                    .map(|()| true),
                event => Ok(event.is_some()),
            },
            2 => Ok(self.bus.take_message().is_some_and(|message| {
                if message.vp == 0 {
                    self.synic.post(message.sint, 1, 0, &message.payload);
                } else {
                    let what = format!("messages wanted on processor {}", message.vp);
                    self.bus.counters.violation(what);
                }
                true
            })),
            _ => Ok(self.bus.step(&self.memory)),
        };
        done.unwrap_or_else(|bad| {
            self.bus
                .counters
                .violation(format!("SynIC page outside memory: {bad:?}"));
            false
        })
    }

    /// Steps until there is nothing to do, at most `limit` times. True: it came to rest.
    pub fn run(&mut self, limit: usize) -> bool {
        (0..limit).any(|_| !self.step())
    }

    /// Takes the oldest interrupt vector raised for the processor.
    pub fn take_interrupt(&mut self) -> Option<u8> {
        self.synic.take_interrupt()
    }

    /// Whether an interrupt waits.
    pub fn has_interrupt(&self) -> bool {
        self.synic.has_interrupt()
    }

    /// Lets simulated time pass.
    pub fn advance(&mut self, ns: u64) {
        self.now_ns += ns;
    }

    /// Simulated time in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// When the next synthetic timer fires, in nanoseconds of simulated time.
    pub fn next_timer_ns(&self) -> Option<u64> {
        self.synic.next_timer().map(|due| due.saturating_mul(100))
    }

    /// Simulated time in 100 ns units, as TIME_REF_COUNT shows it.
    pub fn reference_time(&self) -> u64 {
        self.now_ns / 100
    }

    /// What RDTSC would read now.
    pub fn tsc(&self) -> u64 {
        (u128::from(self.now_ns) * u128::from(self.config.tsc_hz) / 1_000_000_000) as u64
    }

    /// What the guest reported as its crash, if it did.
    pub fn crash(&self) -> Option<&Crash> {
        self.crash.as_ref()
    }

    /// Whether the guest asked for a reset.
    pub fn reset_requested(&self) -> bool {
        self.reset
    }

    /// A copy of all counts up to now.
    pub fn counters(&self) -> Counters {
        let mut counters = self.bus.counters.clone();
        counters.interrupts = self.synic.raised();
        counters
    }
}

#[cfg(test)]
mod tests;
