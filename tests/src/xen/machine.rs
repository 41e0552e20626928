//! The machine: one guest's view of a Xen host, moved one step at a time.
//!
//! A test owns guest memory and a [`XenHost`] over it, and plays the CPU: the driver's hypercalls go
//! to [`XenHost::hypercall`], its CPUID, RDMSR and RDTSC to the methods of those names. Nothing
//! happens on the host's side until [`XenHost::step`] is called, and then exactly one thing does.
//! The same seed and the same calls give the same run.
//!
//! ```
//! use hypercall::shm::hosted::Ram;
//! use pv_tests::disk::MemDisk;
//! use pv_tests::xen::machine::{Config, Idle, XenHost};
//! use pv_tests::xen::xenbus::VbdSpec;
//!
//! let ram = Ram::new(64, 0); // pages, first frame number
//! let mut host = XenHost::new(&ram, Config { seed: 7, ..Config::new(2, 3) }).unwrap();
//! let xvda = host.attach_disk(VbdSpec::new("xvda", Box::new(MemDisk::new(2048, 512))));
//!
//! // The driver makes hypercalls: number, five registers, and the structure one of them points at.
//! // Here xen_version(XENVER_version), then hvm_op(HVMOP_get_param, {DOMID_SELF, STORE_PFN}).
//! assert_eq!(host.hypercall(17, [0; 5], &mut []), 4 << 16 | 20);
//! let mut param = [0u8; 16];
//! param[..2].copy_from_slice(&0x7ff0u16.to_le_bytes());
//! param[4] = 1;
//! assert_eq!(host.hypercall(34, [1, 0, 0, 0, 0], &mut param), 0);
//! assert_eq!(param[8], 2);
//!
//! // Where the driver would halt, let the host act until it has an interrupt for the guest. A
//! // driver that waits for something the host will never do ends in `Deadlock`, not in a hang.
//! loop {
//!     match host.idle() {
//!         Idle::Interrupt(vector) => println!("interrupt {vector}: call the driver's handler"),
//!         Idle::Deadlock => break,
//!     }
//! }
//! assert!(host.complaints().is_empty());
//! assert_eq!(host.counters().hypercalls_total(), 2);
//! # assert_eq!(xvda, Some(51712));
//! ```
//!
//! A driver reaches the host through a [`XenGate`](super::gate::XenGate): clones of one host, of
//! which the test keeps one to step it, from its platform's `idle` for instance.

use super::abi::{PAGE, event, grant, hvm};
pub use super::config::Config;
use super::console::Console;
use super::cpu::{Cpu, NoSuchMsr};
use super::evtchn::{Binding, EventChannels};
use super::grants::GrantTable;
use super::hostile::Hostile;
use super::ledger::{Complaint, Counters, Ledger};
use super::site::Site;
use super::time::Clock;
use super::vif::Vif;
use super::xenbus::{Vbd, VbdSpec};
use super::xenstore_ring::StoreRing;
use super::xenstored::Xenstored;
use crate::memory::{BadAddress, GuestMemory};
use crate::rng::Rng;
use std::collections::BTreeMap;

/// Why [`XenHost::idle`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// An upcall vector to deliver.
    Interrupt(u8),
    /// The host has nothing to do, no timer is armed and no interrupt is due: waiting is in vain.
    Deadlock,
}

/// A simulated Xen host with one guest.
#[derive(Debug)]
pub struct XenHost<M> {
    pub(super) mem: M,
    pub(super) config: Config,
    pub(super) events: EventChannels,
    pub(super) grants: GrantTable,
    pub(super) clock: Clock,
    pub(super) console: Console,
    pub(super) ledger: Ledger,
    pub(super) params: BTreeMap<u32, u64>,
    pub(super) shutdown: Option<u32>,
    cpu: Cpu,
    msrs: BTreeMap<u32, u64>,
    pub(super) store: Xenstored,
    vbds: Vec<Vbd>,
    pub(super) vifs: Vec<Vif>,
    pub(super) hostile: Hostile,
    pub(super) rng: Rng,
}

impl<M: GuestMemory> XenHost<M> {
    /// A host with a guest about to start. Fails if the configured pages are not memory.
    pub fn new(mem: M, config: Config) -> Result<Self, BadAddress> {
        let mut rng = Rng::new(config.seed);
        let mut events = EventChannels::new(config.vcpus);
        let mut grants = GrantTable::new(config.grant_frames, config.max_grant_frames);
        let mut params = BTreeMap::new();
        let mut ends = Vec::new();
        // The toolstack opens the store's and the console's channels before the guest runs.
        for (gfn, pfn_param, port_param, gref) in [
            (
                config.store_gfn,
                hvm::PARAM_STORE_PFN,
                hvm::PARAM_STORE_EVTCHN,
                grant::RESERVED_XENSTORE,
            ),
            (
                config.console_gfn,
                hvm::PARAM_CONSOLE_PFN,
                hvm::PARAM_CONSOLE_EVTCHN,
                grant::RESERVED_CONSOLE,
            ),
        ] {
            let port = events
                .open(Binding::Unbound { remote: 0 }, 0)
                .ok_or(BadAddress(gfn))?;
            let end = events.bind_from_host(port).ok_or(BadAddress(gfn))?;
            // Nothing has happened yet that this end should look at.
            events.take_kick(end);
            ends.push(end);
            params.insert(pfn_param, gfn);
            params.insert(port_param, u64::from(port));
            grants.reserve(&mem, gref, gfn as u32)?;
        }
        let [store_end, console_end] = ends[..] else {
            return Err(BadAddress(0));
        };
        let habits = config.store;
        let page = config.store_gfn * PAGE;
        let ring = StoreRing::new(&mem, page, habits.ring_start, habits.features)?;
        let mut store = Xenstored::new(config.domid, ring, store_end, habits, rng.draw());
        store.prepare(&mem)?;
        let console = Console::new(&mem, config.console_gfn * PAGE, console_end)?;
        let clock = Clock::new(config.vcpus, config.tsc_hz, config.boot_wall_s);
        let cpu = Cpu {
            vendor: config.vendor,
            viridian: config.viridian,
            viridian_synic: config.viridian_synic,
            version: config.version,
            domid: config.domid,
            tsc_khz: clock.tsc_khz(),
        };
        let mut host = XenHost {
            mem,
            events,
            grants,
            clock,
            console,
            ledger: Ledger::default(),
            params,
            shutdown: None,
            cpu,
            msrs: BTreeMap::new(),
            store,
            vbds: Vec::new(),
            vifs: Vec::new(),
            hostile: Hostile::default(),
            rng,
            config,
        };
        host.store.create_domain();
        host.publish_time()?;
        Ok(host)
    }

    /// Writes the time records of every vCPU and the wall clock, as Xen does now and then.
    pub fn publish_time(&mut self) -> Result<(), BadAddress> {
        for vcpu in 0..self.config.vcpus {
            self.clock.publish(&self.mem, &mut self.events, vcpu)?;
        }
        self.clock.publish_wall_clock(&self.mem, &mut self.events)
    }

    /// Attaches a disk; its virtual device number, `None` if the name is not one of a disk.
    pub fn attach_disk(&mut self, spec: VbdSpec) -> Option<u32> {
        let seed = self.rng.draw();
        let vbd = Vbd::create(&mut self.store, self.config.domid, spec, seed)?;
        let device = vbd.pair.device;
        self.vbds.push(vbd);
        self.store.take_changed();
        Some(device)
    }

    /// Asks the guest to let a disk go, as `xl block-detach` does.
    pub fn detach_disk(&mut self, device: u32) {
        self.with_vbd(device, |vbd, store, _| vbd.pair.detach(store));
    }

    /// Takes a disk away without asking: its requests in flight are never answered.
    pub fn destroy_disk(&mut self, device: u32) {
        self.with_vbd(device, |vbd, store, site| vbd.destroy(store, site));
        self.vbds.retain(|vbd| vbd.pair.device != device);
    }

    /// Has a disk's back end take requests without finishing them, or finish them again.
    pub fn stall_disk(&mut self, device: u32, stall: bool) {
        self.with_vbd(device, |vbd, _, _| vbd.blk.stalled = stall);
    }

    /// Closes a disk's back end and leaves the device: the front end may reconnect.
    pub fn close_back_end(&mut self, device: u32) {
        self.with_vbd(device, |vbd, store, site| vbd.close(store, site));
    }

    /// A device's two ends, for tests that want to look; `None` if it is gone.
    pub fn vbd(&self, device: u32) -> Option<&Vbd> {
        self.vbds.iter().find(|vbd| vbd.pair.device == device)
    }

    /// xenstore as the control domain sees it.
    pub fn store(&self) -> &Xenstored {
        &self.store
    }

    /// xenstore, to write to as the control domain. Back ends notice at the next step.
    pub fn store_mut(&mut self) -> &mut Xenstored {
        &mut self.store
    }

    /// The knobs of a hostile host.
    pub fn hostile(&mut self) -> &mut Hostile {
        &mut self.hostile
    }

    /// Sets one of the domain's HVM parameters, as a tool stack may.
    pub fn set_param(&mut self, index: u32, value: u64) {
        self.params.insert(index, value);
    }

    /// The simulated clock.
    pub fn clock(&mut self) -> &mut Clock {
        &mut self.clock
    }

    /// The grant table and what the host has mapped.
    pub fn grants(&self) -> &GrantTable {
        &self.grants
    }

    /// Grant references the guest has lent out (the reserved ones not counted).
    pub fn granted(&self) -> Vec<u32> {
        self.grants.granted(&self.mem)
    }

    /// The guest's event channels.
    pub fn events(&self) -> &EventChannels {
        &self.events
    }

    /// The guest's console.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    /// What the guest did that an honest one does not.
    pub fn complaints(&self) -> &[Complaint] {
        &self.ledger.complaints
    }

    /// Everything counted so far.
    pub fn counters(&self) -> Counters {
        Counters {
            grant_maps: self.grants.maps,
            grant_unmaps: self.grants.unmaps,
            store_requests: self.store.requests,
            ..self.ledger.counters.clone()
        }
    }

    /// The reason the guest gave when it shut down (`SHUTDOWN_*`), if it did.
    pub fn shutdown_reason(&self) -> Option<u32> {
        self.shutdown
    }

    /// CPUID on vCPU 0: EAX, EBX, ECX, EDX.
    pub fn cpuid(&self, leaf: u32, sub: u32) -> [u32; 4] {
        self.cpu.cpuid(0, leaf, sub)
    }

    /// RDTSC.
    pub fn tsc(&self) -> u64 {
        self.clock.tsc()
    }

    /// Nanoseconds since the machine started.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// RDMSR; a general protection fault for an MSR that is not there.
    pub fn rdmsr(&self, msr: u32) -> Result<u64, NoSuchMsr> {
        match msr {
            // HV_X64_MSR_TIME_REF_COUNT: units of 100 ns.
            0x4000_0020 if self.config.viridian => Ok(self.clock.now() / 100),
            0x4000_0000..=0x4000_0002 | 0x4000_0080..=0x4000_00b7 if self.config.viridian => {
                Ok(self.msrs.get(&msr).copied().unwrap_or(0))
            }
            _ => Err(NoSuchMsr(msr)),
        }
    }

    /// WRMSR. Writing the hypercall MSR fills the named page with stubs.
    pub fn wrmsr(&mut self, msr: u32, value: u64) -> Result<(), NoSuchMsr> {
        if msr == self.cpu.hypercall_msr() {
            let gpa = value & !(PAGE - 1);
            if let Err(bad) = self.mem.write(gpa, &self.cpu.hypercall_page()) {
                self.ledger.complain(Complaint::BadAddress(bad.0));
            }
            return Ok(());
        }
        self.rdmsr(msr)?;
        self.msrs.insert(msr, value);
        Ok(())
    }

    /// Lets simulated time pass; timers that run out fire at the next steps.
    pub fn advance(&mut self, ns: u64) {
        self.clock.advance(ns);
        let published = self.publish_time();
        self.note(published);
    }

    /// Lets time pass up to the next armed timer. False if none is armed.
    pub fn advance_to_timer(&mut self) -> bool {
        let Some(deadline) = self.clock.next_deadline() else {
            return false;
        };
        self.advance(deadline.saturating_sub(self.clock.now()));
        true
    }

    /// The next upcall vector for vCPU 0.
    pub fn take_interrupt(&mut self) -> Option<u8> {
        self.take_interrupt_on(0)
    }

    /// The next upcall vector for a vCPU.
    pub fn take_interrupt_on(&mut self, vcpu: u32) -> Option<u8> {
        let taken = self.events.take_interrupt(&self.mem, vcpu);
        let vector = self.note(taken).flatten();
        if vector.is_some() {
            self.ledger.counters.interrupts += 1;
        }
        vector
    }

    /// Whether the callback line is asserted, for a guest that uses one.
    pub fn line_asserted(&mut self) -> bool {
        let line = self.events.line_asserted(&self.mem);
        self.note(line).unwrap_or(false)
    }

    /// What a halted vCPU 0 sees: the host acts, time passes, until there is an interrupt.
    pub fn idle(&mut self) -> Idle {
        loop {
            if let Some(vector) = self.take_interrupt() {
                return Idle::Interrupt(vector);
            }
            if !self.step() && !self.advance_to_timer() {
                return Idle::Deadlock;
            }
        }
    }

    /// Steps until the host has nothing to do, `limit` times at most; how many it took.
    pub fn run(&mut self, limit: u64) -> u64 {
        (0..limit).find(|_| !self.step()).unwrap_or(limit)
    }

    /// Does exactly one thing on the host's side; false if there is nothing to do. Who acts, when
    /// several could, follows the seed.
    pub fn step(&mut self) -> bool {
        self.pump();
        let actors = 4 + 2 * (self.vbds.len() + self.vifs.len()) as u64;
        let first = self.rng.below(actors);
        for turn in 0..actors {
            let acted = self.act((first + turn) % actors);
            if self.note(acted).unwrap_or(true) {
                self.ledger.counters.steps += 1;
                self.count_down();
                self.pump();
                return true;
            }
        }
        false
    }

    fn act(&mut self, actor: u64) -> Result<bool, BadAddress> {
        let mut site = Site {
            mem: &self.mem,
            events: &mut self.events,
            grants: &mut self.grants,
            ledger: &mut self.ledger,
            hostile: &mut self.hostile,
            rng: &mut self.rng,
        };
        match actor {
            0 => match self.clock.take_expired() {
                Some(vcpu) => site
                    .events
                    .send_virq(site.mem, vcpu, event::VIRQ_TIMER)
                    .map(|_| true),
                None => Ok(false),
            },
            1 => {
                let was_dead = self.store.dead();
                let acted = self.store.step(&mut site)?;
                if self.store.dead() && !was_dead {
                    site.ledger.complain(Complaint::StoreProtocol);
                }
                Ok(acted)
            }
            2 => self.console.step(&mut site),
            3 if site.hostile.event_storm > 0 => {
                site.hostile.event_storm -= 1;
                let ports: Vec<u32> = site.events.open_ports().map(|(port, _)| port).collect();
                let chosen = site.rng.below(ports.len() as u64) as usize;
                match ports.get(chosen) {
                    Some(&port) => site.events.set_pending(site.mem, port).map(|()| true),
                    None => Ok(false),
                }
            }
            3 => Ok(false),
            _ => {
                let n = ((actor - 4) / 2) as usize;
                let back_end = actor % 2 == 1;
                let Some(vbd) = self.vbds.get_mut(n) else {
                    let n = n - self.vbds.len();
                    let Some(vif) = self.vifs.get_mut(n) else {
                        return Ok(false);
                    };
                    if back_end {
                        return vif.net.step(&mut site);
                    }
                    if vif.pair.gone() {
                        vif.destroy(&mut self.store, &mut site);
                        self.vifs.remove(n);
                        return Ok(true);
                    }
                    return Ok(vif.step(&mut self.store, &mut site));
                };
                if back_end {
                    return vbd.blk.step(&mut site);
                }
                if vbd.pair.gone() {
                    vbd.destroy(&mut self.store, &mut site);
                    self.vbds.remove(n);
                    return Ok(true);
                }
                Ok(vbd.step(&mut self.store, &mut site))
            }
        }
    }

    /// A hostile host's back ends close when their time is up.
    fn count_down(&mut self) {
        let Some(left) = self.hostile.close_back_ends_in else {
            return;
        };
        self.hostile.close_back_ends_in = left.checked_sub(1);
        if left == 0 {
            let disks: Vec<_> = self.vbds.iter().map(|vbd| vbd.pair.device).collect();
            for device in disks {
                self.close_back_end(device);
            }
            let nics: Vec<_> = self.vifs.iter().map(|vif| vif.pair.device).collect();
            for device in nics {
                self.close_net_back_end(device);
            }
        }
    }

    fn with_vbd(
        &mut self,
        device: u32,
        act: impl FnOnce(&mut Vbd, &mut Xenstored, &mut Site<'_, M>),
    ) {
        let mut site = Site {
            mem: &self.mem,
            events: &mut self.events,
            grants: &mut self.grants,
            ledger: &mut self.ledger,
            hostile: &mut self.hostile,
            rng: &mut self.rng,
        };
        if let Some(vbd) = self.vbds.iter_mut().find(|vbd| vbd.pair.device == device) {
            act(vbd, &mut self.store, &mut site);
        }
        self.pump();
    }

    /// Tells back ends which paths of xenstore have changed.
    pub(super) fn pump(&mut self) {
        for path in self.store.take_changed() {
            for vbd in &mut self.vbds {
                vbd.pair.path_changed(&path);
            }
            for vif in &mut self.vifs {
                vif.pair.path_changed(&path);
            }
        }
    }

    fn note<T>(&mut self, result: Result<T, BadAddress>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(bad) => {
                self.ledger.complain(Complaint::BadAddress(bad.0));
                None
            }
        }
    }
}
