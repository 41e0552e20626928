//! Hypercalls: decoding of operands, and which part of the machine answers.
//!
//! The structure a hypercall points at comes as bytes and is changed in place, as Xen copies it in
//! and out; pointers inside structures are guest-physical addresses.

use super::abi::errno::*;
use super::abi::ops::*;
use super::abi::{
    PAGE, console_io, domid, event, grant, hvm, hypercall, memory, sched, vcpu, version,
};
use super::evtchn::{Binding, Callback};
use super::ledger::Complaint;
use super::machine::XenHost;
use crate::memory::{BadAddress, GuestMemory};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A hypercall's result, the error already negated; or the memory it should not have named.
type Outcome = Result<i64, Failure>;

pub(super) enum Failure {
    Errno(i64),
    Short(usize),
    Memory(BadAddress),
}

impl From<BadAddress> for Failure {
    fn from(bad: BadAddress) -> Self {
        Failure::Memory(bad)
    }
}

fn errno<T>(number: i64) -> Result<T, Failure> {
    Err(Failure::Errno(number))
}

/// Copies the structure in.
fn get<T: FromBytes + KnownLayout + Immutable>(operand: &[u8]) -> Result<T, Failure> {
    T::read_from_prefix(operand)
        .map(|(value, _)| value)
        .map_err(|_| Failure::Short(operand.len()))
}

/// Copies the structure out, over the one that was copied in.
fn put<T: IntoBytes + Immutable>(operand: &mut [u8], value: &T) -> Outcome {
    let bytes = value.as_bytes();
    match operand.get_mut(..bytes.len()) {
        Some(place) => place.copy_from_slice(bytes),
        None => return Err(Failure::Short(operand.len())),
    }
    Ok(0)
}

impl<M: GuestMemory> XenHost<M> {
    /// A hypercall from vCPU 0: its number, its five register arguments, and the structure one of
    /// them points at (that register's value is ignored). Returns what RAX would hold.
    pub fn hypercall(&mut self, nr: u32, args: [u64; 5], operand: &mut [u8]) -> i64 {
        self.hypercall_on(0, nr, args, operand)
    }

    /// The same from any vCPU.
    pub fn hypercall_on(&mut self, on: u32, nr: u32, args: [u64; 5], operand: &mut [u8]) -> i64 {
        let command = args[0];
        let counters = &mut self.ledger.counters;
        *counters.hypercalls.entry(nr).or_default() += 1;
        *counters.commands.entry((nr, command)).or_default() += 1;
        let outcome = match nr {
            hypercall::MEMORY_OP => self.memory_op(command, operand),
            hypercall::XEN_VERSION => self.version_op(command, operand),
            hypercall::CONSOLE_IO => self.console_op(command, args[1], operand),
            hypercall::GRANT_TABLE_OP => self.grant_op(command, args[2], operand),
            hypercall::VCPU_OP => self.vcpu_op(on, command, args[1], operand),
            hypercall::SCHED_OP => self.sched_op(on, command, operand),
            hypercall::EVENT_CHANNEL_OP => self.event_op(command, operand),
            hypercall::HVM_OP => self.hvm_op(command, operand),
            _ => errno(ENOSYS),
        };
        self.pump();
        match outcome {
            Ok(value) => value,
            Err(failure) => {
                let (complaint, error) = match failure {
                    Failure::Errno(error) => (
                        Complaint::Refused {
                            nr,
                            command,
                            error: -error,
                        },
                        error,
                    ),
                    Failure::Short(bytes) => {
                        (Complaint::ShortOperand { nr, command, bytes }, EFAULT)
                    }
                    Failure::Memory(bad) => (Complaint::BadAddress(bad.0), EFAULT),
                };
                self.ledger.complain(complaint);
                -error
            }
        }
    }

    fn is_me(&self, dom: u16) -> Result<(), Failure> {
        match dom {
            domid::SELF => Ok(()),
            _ if dom == self.config.domid => Ok(()),
            domid::DOM0 => errno(EPERM),
            _ => errno(ESRCH),
        }
    }

    fn memory_op(&mut self, command: u64, operand: &mut [u8]) -> Outcome {
        match command {
            memory::ADD_TO_PHYSMAP => {
                let op: AddToPhysmap = get(operand)?;
                self.is_me(op.domid)?;
                let Some(gpa) = op.gpfn.checked_mul(PAGE) else {
                    return errno(EINVAL);
                };
                let window = match (op.space, op.idx) {
                    (memory::SPACE_SHARED_INFO, 0) => Some(self.events.shared()),
                    (memory::SPACE_GRANT_TABLE, index @ 0..0x1_0000) => {
                        match self.grants.grow(index as u32 + 1) {
                            true => self.grants.frame(index as u32),
                            false => None,
                        }
                    }
                    _ => None,
                };
                match window {
                    Some(window) => window.map(&self.mem, gpa)?,
                    None => return errno(EINVAL),
                }
                if op.space == memory::SPACE_SHARED_INFO {
                    self.publish_time()?;
                }
                Ok(0)
            }
            memory::REMOVE_FROM_PHYSMAP => {
                let op: RemoveFromPhysmap = get(operand)?;
                self.is_me(op.domid)?;
                let gpa = op.gpfn.wrapping_mul(PAGE);
                let frames = self.grants.frames();
                if self.events.shared().mapped_at() == Some(gpa) {
                    self.events.shared().unmap(&self.mem)?;
                    return Ok(0);
                }
                for n in 0..frames {
                    if let Some(frame) = self.grants.frame(n)
                        && frame.mapped_at() == Some(gpa)
                    {
                        frame.unmap(&self.mem)?;
                        return Ok(0);
                    }
                }
                errno(ENOENT)
            }
            memory::MEMORY_MAP => {
                let mut op: MemoryMap = get(operand)?;
                if self.config.memory_map.is_empty() {
                    return errno(ENOSYS);
                }
                let room = op.nr_entries as usize;
                let entries = self.config.memory_map.iter().take(room);
                let bytes: Vec<u8> = entries.flat_map(|entry| entry.to_bytes()).collect();
                self.mem.write(op.buffer, &bytes)?;
                op.nr_entries = (bytes.len() / E820Entry::SIZE) as u32;
                put(operand, &op)
            }
            _ => errno(ENOSYS),
        }
    }

    fn version_op(&mut self, command: u64, operand: &mut [u8]) -> Outcome {
        let (major, minor) = self.config.version;
        match command {
            version::VERSION => Ok(i64::from(major) << 16 | i64::from(minor)),
            version::EXTRAVERSION => put(operand, b".3-simulated\0\0\0\0"),
            version::PAGESIZE => Ok(PAGE as i64),
            version::GET_FEATURES => {
                let mut op: FeatureInfo = get(operand)?;
                if op.submap_idx != 0 {
                    return errno(EINVAL);
                }
                op.submap = 1
                    | 1 << version::FEAT_AUTO_TRANSLATED_PHYSMAP
                    | u32::from(self.config.callback_vector) << version::FEAT_HVM_CALLBACK_VECTOR
                    | 1 << version::FEAT_HVM_SAFE_PVCLOCK
                    | 1 << version::FEAT_MEMORY_OP_VNODE;
                put(operand, &op)
            }
            _ => errno(ENOSYS),
        }
    }

    fn console_op(&mut self, command: u64, count: u64, operand: &mut [u8]) -> Outcome {
        if !self.config.console_io {
            return errno(EPERM);
        }
        match command {
            console_io::WRITE => {
                let bytes = operand
                    .get(..count as usize)
                    .ok_or(Failure::Short(operand.len()))?;
                self.console.write_emergency(bytes);
                Ok(0)
            }
            console_io::READ => Ok(0),
            _ => errno(ENOSYS),
        }
    }

    fn grant_op(&mut self, command: u64, count: u64, operand: &mut [u8]) -> Outcome {
        let size = match command {
            grant::SETUP_TABLE => size_of::<SetupTable>(),
            grant::QUERY_SIZE => size_of::<QuerySize>(),
            grant::SET_VERSION => size_of::<SetVersion>(),
            grant::GET_VERSION => size_of::<GetVersion>(),
            _ => return errno(ENOSYS),
        };
        if matches!(
            command,
            grant::SETUP_TABLE | grant::QUERY_SIZE | grant::SET_VERSION
        ) && count != 1
        {
            return errno(EINVAL);
        }
        if (operand.len() / size) < count as usize {
            return Err(Failure::Short(operand.len()));
        }
        for one in operand.chunks_exact_mut(size).take(count as usize) {
            self.grant_one(command, one)?;
        }
        Ok(0)
    }

    fn grant_one(&mut self, command: u64, operand: &mut [u8]) -> Outcome {
        match command {
            grant::SETUP_TABLE => {
                let mut op: SetupTable = get(operand)?;
                op.status = match (self.is_me(op.dom), self.grants.grow(op.nr_frames)) {
                    (Err(_), _) => grant::GNTST_BAD_DOMAIN,
                    (Ok(()), false) => grant::GNTST_GENERAL_ERROR,
                    (Ok(()), true) => grant::GNTST_OKAY,
                };
                if op.status == grant::GNTST_OKAY {
                    for n in 0..op.nr_frames {
                        let mapped = self.grants.frame(n).and_then(|frame| frame.mapped_at());
                        let gfn = mapped.map_or(u64::MAX, |gpa| gpa / PAGE);
                        let at = op.frame_list.wrapping_add(u64::from(n) * 8);
                        self.mem.write(at, &gfn.to_le_bytes())?;
                    }
                }
                put(operand, &op)
            }
            grant::QUERY_SIZE => {
                let mut op: QuerySize = get(operand)?;
                op.status = match self.is_me(op.dom) {
                    Ok(()) => grant::GNTST_OKAY,
                    Err(_) => grant::GNTST_BAD_DOMAIN,
                };
                op.nr_frames = self.grants.frames();
                op.max_nr_frames = self.grants.max_frames();
                put(operand, &op)
            }
            grant::SET_VERSION => {
                let mut op: SetVersion = get(operand)?;
                if !(1..=self.config.max_grant_version).contains(&op.version) {
                    return errno(if op.version == 2 { ENOSYS } else { EINVAL });
                }
                let done = self.grants.set_version(&self.mem, op.version)?;
                op.version = self.grants.version();
                put(operand, &op)?;
                if done { Ok(0) } else { errno(EBUSY) }
            }
            _ => {
                let mut op: GetVersion = get(operand)?;
                self.is_me(op.dom)?;
                op.version = self.grants.version();
                put(operand, &op)
            }
        }
    }

    fn vcpu_op(&mut self, on: u32, command: u64, target: u64, operand: &mut [u8]) -> Outcome {
        let Some(target) = u32::try_from(target)
            .ok()
            .filter(|&target| target < self.events.vcpus())
        else {
            return errno(ENOENT);
        };
        match command {
            vcpu::IS_UP => Ok(1),
            vcpu::STOP_PERIODIC_TIMER => Ok(0),
            vcpu::SET_SINGLESHOT_TIMER | vcpu::STOP_SINGLESHOT_TIMER if target != on => {
                errno(EINVAL)
            }
            vcpu::SET_SINGLESHOT_TIMER => {
                let op: SetSingleshotTimer = get(operand)?;
                // A deadline that has passed fires at the host's next step.
                self.clock.set_timer(target, Some(op.timeout_abs_ns));
                Ok(0)
            }
            vcpu::STOP_SINGLESHOT_TIMER => {
                self.clock.set_timer(target, None);
                Ok(0)
            }
            vcpu::REGISTER_VCPU_INFO => {
                let op: RegisterVcpuInfo = get(operand)?;
                let Some(gpa) = op.mfn.checked_mul(PAGE) else {
                    return errno(EINVAL);
                };
                if !op.offset.is_multiple_of(8) || op.offset > PAGE as u32 - 64 {
                    return errno(EINVAL);
                }
                let gpa = gpa + u64::from(op.offset);
                if !self.events.register_info(&self.mem, target, gpa)? {
                    return errno(EINVAL);
                }
                self.clock.publish(&self.mem, &mut self.events, target)?;
                Ok(0)
            }
            _ => errno(ENOSYS),
        }
    }

    fn sched_op(&mut self, on: u32, command: u64, operand: &mut [u8]) -> Outcome {
        match command {
            sched::YIELD => Ok(0),
            sched::BLOCK => {
                // Blocking opens the vCPU to events.
                if let Some((info, at)) = self.events.info(on) {
                    info.fetch_clear_u32(&self.mem, at, 0xff00)?;
                }
                Ok(0)
            }
            sched::POLL => {
                let op: Poll = get(operand)?;
                if op.nr_ports > 128 {
                    return errno(EINVAL);
                }
                let mut ports = vec![0; op.nr_ports as usize * 4];
                self.mem.read(op.ports, &mut ports)?;
                Ok(0)
            }
            sched::SHUTDOWN => {
                let op: Shutdown = get(operand)?;
                if op.reason > 5 {
                    return errno(EINVAL);
                }
                self.shutdown = Some(op.reason);
                Ok(0)
            }
            _ => errno(ENOSYS),
        }
    }

    fn event_op(&mut self, command: u64, operand: &mut [u8]) -> Outcome {
        let me = self.config.domid;
        match command {
            event::ALLOC_UNBOUND => {
                let mut op: AllocUnbound = get(operand)?;
                self.is_me(op.dom)?;
                let remote = match op.remote_dom {
                    domid::SELF => me,
                    other => other,
                };
                op.port = self.open(Binding::Unbound { remote }, 0)?;
                put(operand, &op)
            }
            event::BIND_INTERDOMAIN => {
                let mut op: BindInterdomain = get(operand)?;
                if op.remote_dom != domid::SELF && op.remote_dom != me {
                    return errno(if op.remote_dom == 0 { EINVAL } else { ESRCH });
                }
                match self.events.bind_own(&self.mem, op.remote_port, me)? {
                    Some(port) => op.local_port = port,
                    None => return errno(EINVAL),
                }
                put(operand, &op)
            }
            event::BIND_VIRQ => {
                let mut op: BindVirq = get(operand)?;
                if op.virq >= event::NR_VIRQS {
                    return errno(EINVAL);
                }
                if op.vcpu >= self.events.vcpus() {
                    return errno(ENOENT);
                }
                if self.events.virq_port(op.vcpu, op.virq).is_some() {
                    return errno(EEXIST);
                }
                op.port = self.open(Binding::Virq(op.virq), op.vcpu)?;
                put(operand, &op)
            }
            event::BIND_IPI => {
                let mut op: BindIpi = get(operand)?;
                if op.vcpu >= self.events.vcpus() {
                    return errno(ENOENT);
                }
                op.port = self.open(Binding::Ipi, op.vcpu)?;
                put(operand, &op)
            }
            event::CLOSE => {
                let op: Port = get(operand)?;
                match self.events.close(&self.mem, op.port, me)? {
                    true => Ok(0),
                    false => errno(EINVAL),
                }
            }
            event::SEND => {
                let op: Port = get(operand)?;
                self.ledger.counters.events_from_guest += 1;
                match self.events.send(&self.mem, op.port)? {
                    true => Ok(0),
                    false => errno(EINVAL),
                }
            }
            event::STATUS => {
                let mut op: PortStatus = get(operand)?;
                self.is_me(op.dom)?;
                self.describe(&mut op)?;
                put(operand, &op)
            }
            event::BIND_VCPU => {
                let op: BindVcpu = get(operand)?;
                if op.vcpu >= self.events.vcpus() {
                    return errno(ENOENT);
                }
                match self.events.bind_vcpu(op.port, op.vcpu) {
                    true => Ok(0),
                    false => errno(EINVAL),
                }
            }
            event::UNMASK => {
                let op: Port = get(operand)?;
                if op.port == 0 || op.port >= event::PORTS {
                    return errno(EINVAL);
                }
                self.events.unmask(&self.mem, op.port)?;
                Ok(0)
            }
            event::RESET => {
                let op: Reset = get(operand)?;
                self.is_me(op.dom)?;
                let ports: Vec<u32> = self.events.open_ports().map(|(port, _)| port).collect();
                for port in ports {
                    self.events.close(&self.mem, port, me)?;
                }
                Ok(0)
            }
            _ => errno(ENOSYS),
        }
    }

    fn open(&mut self, binding: Binding, vcpu: u32) -> Result<u32, Failure> {
        self.events
            .open(binding, vcpu)
            .ok_or(Failure::Errno(ENOSPC))
    }

    fn describe(&self, op: &mut PortStatus) -> Outcome {
        if op.port >= event::PORTS {
            return errno(EINVAL);
        }
        let channel = self.events.channel(op.port);
        op.vcpu = channel.map_or(0, |channel| channel.vcpu);
        let me = u32::from(self.config.domid);
        (op.status, op.who, op.what) = match channel.map(|channel| channel.binding) {
            None => (event::STATUS_CLOSED, 0, 0),
            Some(Binding::Unbound { remote }) => (event::STATUS_UNBOUND, remote.into(), 0),
            Some(Binding::Host(end)) => (event::STATUS_INTERDOMAIN, 0, end.0),
            Some(Binding::Own(port)) => (event::STATUS_INTERDOMAIN, me, port),
            Some(Binding::Virq(virq)) => (event::STATUS_VIRQ, virq, 0),
            Some(Binding::Ipi) => (event::STATUS_IPI, 0, 0),
        };
        Ok(0)
    }

    fn hvm_op(&mut self, command: u64, operand: &mut [u8]) -> Outcome {
        match command {
            hvm::SET_EVTCHN_UPCALL_VECTOR => {
                let op: UpcallVector = get(operand)?;
                if !self.config.upcall_vector {
                    return errno(ENOSYS);
                }
                if op.vector < 0x10 {
                    return errno(EINVAL);
                }
                match self.events.set_vector(op.vcpu, op.vector) {
                    true => Ok(0),
                    false => errno(ENOENT),
                }
            }
            hvm::GET_PARAM => {
                let mut op: HvmParam = get(operand)?;
                if op.index >= hvm::NR_PARAMS {
                    return errno(EINVAL);
                }
                self.is_me(op.domid)?;
                op.value = match op.index {
                    hvm::PARAM_CALLBACK_IRQ
                    | hvm::PARAM_STORE_PFN
                    | hvm::PARAM_STORE_EVTCHN
                    | hvm::PARAM_CONSOLE_PFN
                    | hvm::PARAM_CONSOLE_EVTCHN
                    | hvm::PARAM_VM_GENERATION_ID_ADDR => {
                        self.params.get(&op.index).copied().unwrap_or(0)
                    }
                    _ => return errno(EPERM),
                };
                put(operand, &op)
            }
            hvm::SET_PARAM => {
                let op: HvmParam = get(operand)?;
                if op.index >= hvm::NR_PARAMS {
                    return errno(EINVAL);
                }
                self.is_me(op.domid)?;
                match op.index {
                    hvm::PARAM_CALLBACK_IRQ => self.events.set_callback(self.callback(op.value)),
                    hvm::PARAM_STORE_EVTCHN
                    | hvm::PARAM_CONSOLE_EVTCHN
                    | hvm::PARAM_VM_GENERATION_ID_ADDR => {}
                    _ => return errno(EPERM),
                }
                self.params.insert(op.index, op.value);
                Ok(0)
            }
            _ => errno(ENOSYS),
        }
    }

    fn callback(&self, value: u64) -> Callback {
        match (value >> 56) as u8 {
            hvm::CALLBACK_GSI if value as u32 == 0 => Callback::None,
            hvm::CALLBACK_GSI | hvm::CALLBACK_PCI_INTX => Callback::Line,
            hvm::CALLBACK_VECTOR if self.config.callback_vector => Callback::Vector(value as u8),
            _ => Callback::None,
        }
    }
}
