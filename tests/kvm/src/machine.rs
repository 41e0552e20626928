//! One virtual machine with one processor: what it is made of, and the loop that runs it.

use crate::boot::{self, Entry};
use crate::cpuid::{self, Looks};
use crate::memory::Memory;
use crate::ports::{Effect, Ports, SerialInterrupt};
use crate::synic::{self, Synic};
use kvm_bindings::{
    KVM_CAP_HYPERV_SYNIC2, KVM_EXIT_HYPERV_HCALL, KVM_EXIT_HYPERV_SYNIC, KVM_PIT_SPEAKER_DUMMY,
    KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, Msrs, kvm_enable_cap, kvm_msr_entry,
    kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use pv_tests::hyperv::abi::status;
use pv_tests::hyperv::counters::Counters;
use pv_tests::hyperv::netvsp::Netvsp;
use pv_tests::hyperv::storvsp::Storvsp;
use pv_tests::hyperv::vmbus_server::{DeviceId, VmbusServer};
use pv_tests::memory::GuestMemory;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

const COM1_IRQ: u32 = 4;
/// Three pages KVM may use on Intel, where a PC's firmware would lie.
const TSS: usize = 0xfffb_d000;
const CRASH_PARAMETERS: [u32; 5] = [
    0x4000_0100,
    0x4000_0101,
    0x4000_0102,
    0x4000_0103,
    0x4000_0104,
];

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// ACPI soft-off.
    PoweredOff,
    /// ACPI reset register, keyboard controller or Hyper-V's reset register.
    Reset,
    /// The processor gave up.
    TripleFault,
    /// The guest reported a crash: the five crash registers and the text they point to.
    Crashed([u64; 5], String),
    /// The time was up.
    OutOfTime,
    /// This host could not go on.
    Failed(String),
}

/// Why the processor's thread was brought out of the guest.
#[derive(Debug, Default)]
pub struct Kick {
    /// The guest ended a message, a frame came or an order was given; cleared when that has been seen.
    pub news: AtomicBool,
    /// The time is up.
    pub stop: AtomicBool,
    /// What is to happen to the NIC.
    pub orders: Mutex<VecDeque<Order>>,
}

/// What is to happen to the NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Its line is down; a guest that knows stops sending.
    Disconnect,
    /// It is rescinded; what the guest sends from now on is never answered.
    Unplug,
    /// It is offered again with its line up, as soon as the guest has let go of it.
    Plug,
}

/// Taking the disks away under load: after so many commands the controller stalls, and when the guest
/// has sent the next ones, the disks go.
#[derive(Debug, Clone, Copy)]
pub struct Removal {
    pub after: u64,
    pub how: Leaving,
}

/// In which way disks go.
#[derive(Debug, Clone, Copy)]
pub enum Leaving {
    /// The whole controller is rescinded; commands in flight are never answered.
    Rescinded,
    /// The units are unplugged; the controller stays and says so to every command.
    Unplugged,
}

/// The bus and what is to happen to its disk controller.
pub struct Bus {
    server: VmbusServer,
    scsi: DeviceId,
    /// When and how the controller is taken away.
    removal: Option<Removal>,
    nic: Option<DeviceId>,
    /// The NIC is to be offered again.
    returns: bool,
}

/// A machine ready to run.
pub struct Machine {
    trace: bool,
    // Dropped in this order: the processor, the machine, and only then its memory.
    vcpu: VcpuFd,
    _vm: VmFd,
    memory: Memory,
    ports: Ports,
    synic: Synic,
    bus: Bus,
}

fn named<T, E: std::fmt::Display>(result: Result<T, E>, what: &str) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

impl Machine {
    /// Builds the machine. `news` will fire when the guest ends a message.
    pub fn new(
        memory: Memory,
        entry: Entry,
        bus: Bus,
        looks: Looks,
        news: &EventFd,
        trace: bool,
    ) -> Result<Self, String> {
        let kvm = named(Kvm::new(), "/dev/kvm")?;
        if !kvm.check_extension(Cap::HypervSynic2) {
            return Err("this KVM has no Hyper-V SynIC".into());
        }
        let vm = named(kvm.create_vm(), "KVM_CREATE_VM")?;
        named(vm.set_tss_address(TSS), "KVM_SET_TSS_ADDR")?;
        named(vm.create_irq_chip(), "KVM_CREATE_IRQCHIP")?;
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        named(vm.create_pit2(pit), "KVM_CREATE_PIT2")?;
        let start = named(
            memory.map().get_host_address(GuestAddress(0)),
            "guest memory",
        )?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: memory.bytes(),
            userspace_addr: start as u64,
        };
        // SAFETY: the region is exactly the mapping `memory` owns: it is of this size, it is writable,
        // and it outlives the VM, because `Machine` drops its fields in order, the memory after the VM
        // and its processor. Rust code reaches it only through vm-memory's volatile and atomic
        // accesses and holds no reference into it, so the guest may change it at any moment.
        let mapped = unsafe { vm.set_user_memory_region(region) };
        named(mapped, "KVM_SET_USER_MEMORY_REGION")?;
        let com1 = named(EventFd::new(0), "eventfd")?;
        named(vm.register_irqfd(&com1, COM1_IRQ), "KVM_IRQFD for COM1")?;
        let vcpu = named(vm.create_vcpu(0), "KVM_CREATE_VCPU")?;
        named(
            vcpu.set_cpuid2(&cpuid::leaves(&kvm, looks)?),
            "KVM_SET_CPUID2",
        )?;
        let synic_on = kvm_enable_cap {
            cap: KVM_CAP_HYPERV_SYNIC2,
            ..Default::default()
        };
        named(vcpu.enable_cap(&synic_on), "KVM_CAP_HYPERV_SYNIC2")?;
        let synic = synic::connect(&vm, news)?;
        let mut sregs = named(vcpu.get_sregs(), "KVM_GET_SREGS")?;
        boot::system_registers(&mut sregs);
        named(vcpu.set_sregs(&sregs), "KVM_SET_SREGS")?;
        named(vcpu.set_regs(&boot::registers(entry)), "KVM_SET_REGS")?;
        let ports = Ports::new(SerialInterrupt(com1));
        Ok(Machine {
            trace,
            vcpu,
            _vm: vm,
            memory,
            ports,
            synic,
            bus,
        })
    }

    /// Runs until the machine ends. Whoever changes `kick` sends the thread a signal.
    pub fn run(mut self, kick: &Kick) -> (Ending, Counters) {
        let ending = loop {
            match self.run_once(kick) {
                Ok(None) => {}
                Ok(Some(ending)) => break ending,
                Err(what) => break Ending::Failed(what),
            }
        };
        self.ports.finish();
        (ending, self.bus.server.counters)
    }

    fn run_once(&mut self, kick: &Kick) -> Result<Option<Ending>, String> {
        let effect = match self.vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => self.ports.write(port, data),
            Ok(VcpuExit::IoIn(port, data)) => {
                self.ports.read(port, data);
                Effect::None
            }
            Ok(VcpuExit::MmioRead(_, data)) => {
                data.fill(0xff);
                Effect::None
            }
            Ok(VcpuExit::MmioWrite(..)) => Effect::None,
            Ok(VcpuExit::Hyperv) => {
                self.hyperv_exit();
                self.pump()?;
                Effect::None
            }
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => Effect::Reset,
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _)) => {
                return self.crash().map(Some);
            }
            Ok(VcpuExit::Shutdown) => return Ok(Some(Ending::TripleFault)),
            Ok(VcpuExit::Intr) => Effect::None,
            Ok(other) => return Err(format!("unexpected exit {other:?}")),
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => Effect::None,
            Err(error) => return Err(format!("KVM_RUN: {error}")),
        };
        if kick.stop.load(Ordering::Acquire) {
            return Ok(Some(Ending::OutOfTime));
        }
        if kick.news.swap(false, Ordering::AcqRel) {
            self.synic.end_of_message();
            let mut orders = kick.orders.lock().unwrap_or_else(PoisonError::into_inner);
            orders.drain(..).for_each(|order| self.bus.obey(order));
            drop(orders);
            self.pump()?;
        }
        Ok(match effect {
            Effect::None => None,
            Effect::PowerOff => Some(Ending::PoweredOff),
            Effect::Reset => Some(Ending::Reset),
        })
    }

    /// KVM_EXIT_HYPERV: a SynIC register was written, or a hypercall made that KVM leaves to us.
    fn hyperv_exit(&mut self) {
        let run = self.vcpu.get_kvm_run();
        // SAFETY: the exit reason is KVM_EXIT_HYPERV, so KVM filled this member of the union; all of
        // its fields are integers, for which every bit pattern is a value.
        let exit = unsafe { run.__bindgen_anon_1.hyperv };
        match exit.type_ {
            KVM_EXIT_HYPERV_SYNIC => {
                // SAFETY: of this type of exit, KVM fills this member; integers again.
                let registers = unsafe { exit.u.synic };
                let (flags, messages) = (registers.evt_page, registers.msg_page);
                if self.trace {
                    eprintln!("synic {:#x} {flags:#x} {messages:#x}", registers.control);
                }
                self.synic.registers(registers.control, flags, messages);
            }
            KVM_EXIT_HYPERV_HCALL => {
                // SAFETY: of this type of exit, KVM fills this member; integers again.
                let call = unsafe { exit.u.hcall };
                let server = &mut self.bus.server;
                let result = server.hypercall(&self.memory, call.input, call.params[0]);
                if self.trace {
                    eprintln!(
                        "call {:#x} {:#x} -> {result:#x}",
                        call.input, call.params[0]
                    );
                }
                run.__bindgen_anon_1.hyperv.u.hcall.result = result.into();
            }
            _ => {
                let refused = u64::from(status::INVALID_HYPERCALL_CODE);
                run.__bindgen_anon_1.hyperv.u.hcall.result = refused;
            }
        }
    }

    /// Lets the host do everything it can do now.
    fn pump(&mut self) -> Result<(), String> {
        loop {
            let mut moved = false;
            while self.bus.server.step(&self.memory) {
                self.bus.remove_when_due();
                moved = true;
            }
            moved |= self.bus.return_when_due();
            while let Some(message) = self.bus.server.take_message() {
                if self.trace {
                    eprintln!("message {:?}", message.payload.first());
                }
                self.synic.post(&message.payload);
            }
            while let Some(event) = self.bus.server.take_event() {
                self.synic.set_event(&self.memory, event.flag)?;
            }
            moved |= self.synic.deliver(&self.memory)?;
            if !moved {
                return Ok(());
            }
        }
    }

    fn crash(&mut self) -> Result<Ending, String> {
        let wanted = CRASH_PARAMETERS.map(|index| kvm_msr_entry {
            index,
            ..Default::default()
        });
        let mut msrs = Msrs::from_entries(&wanted).map_err(|e| format!("MSRs: {e:?}"))?;
        named(self.vcpu.get_msrs(&mut msrs), "KVM_GET_MSRS")?;
        let mut parameters = [0; 5];
        for (parameter, msr) in parameters.iter_mut().zip(msrs.as_slice()) {
            *parameter = msr.data;
        }
        let mut text = vec![0; parameters[4].min(4096) as usize];
        if self.memory.read(parameters[3], &mut text).is_err() {
            text.clear();
        }
        Ok(Ending::Crashed(
            parameters,
            String::from_utf8_lossy(&text).into_owned(),
        ))
    }
}

impl Bus {
    /// A bus with its disk controller, and the plan to remove it.
    pub fn new(server: VmbusServer, scsi: DeviceId, removal: Option<Removal>) -> Self {
        Bus {
            server,
            scsi,
            removal,
            nic: None,
            returns: false,
        }
    }

    /// Puts a NIC on it.
    pub fn with_nic(mut self, nic: Netvsp) -> Self {
        self.nic = Some(self.server.add(Box::new(nic)));
        self
    }

    fn obey(&mut self, order: Order) {
        let Some(nic) = self.nic else {
            return;
        };
        self.returns = order == Order::Plug;
        if order == Order::Unplug {
            self.server.rescind(nic);
        } else if let Some(adapter) = self.server.device_mut::<Netvsp>(nic) {
            adapter.set_link(order == Order::Plug);
        }
    }

    /// Offers the NIC again when that is due and possible. True: it did.
    fn return_when_due(&mut self) -> bool {
        let due = self.returns && self.nic.is_some_and(|nic| self.server.relid(nic).is_none());
        if let (true, Some(nic)) = (due, self.nic) {
            self.server.offer_again(nic);
            self.returns = false;
        }
        due
    }

    fn remove_when_due(&mut self) {
        let Some(removal) = self.removal else {
            return;
        };
        let Some(scsi) = self.server.device_mut::<Storvsp>(self.scsi) else {
            return;
        };
        if scsi.completed() < removal.after {
            return;
        }
        scsi.stall(true);
        if scsi.in_flight() == 0 {
            return;
        }
        self.removal = None;
        match removal.how {
            Leaving::Rescinded => self.server.rescind(self.scsi),
            Leaving::Unplugged => {
                scsi.detach_all();
                scsi.stall(false);
            }
        }
    }
}
