//! `xen_version`, `console_io`, `vcpu_op`, `sched_op` and `hvm_op`: the guest as a whole.

use super::{Failure, Outcome, errno, get, put};
use crate::memory::GuestMemory;
use crate::xen::abi::errno::*;
use crate::xen::abi::ops::*;
use crate::xen::abi::{PAGE, console_io, hvm, sched, vcpu, version};
use crate::xen::evtchn::Callback;
use crate::xen::machine::XenHost;

impl<M: GuestMemory> XenHost<M> {
    pub(super) fn version_op(&mut self, command: u64, operand: &mut [u8]) -> Outcome {
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

    pub(super) fn console_op(&mut self, command: u64, count: u64, operand: &mut [u8]) -> Outcome {
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

    pub(super) fn vcpu_op(
        &mut self,
        on: u32,
        command: u64,
        target: u64,
        operand: &mut [u8],
    ) -> Outcome {
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
                let flagged = op.flags & vcpu::SSHOTTMR_FUTURE != 0;
                if self.config.timer_refuses_past && flagged && op.timeout_abs_ns < self.now() {
                    return errno(ETIME);
                }
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
                    return errno(ENXIO);
                }
                let gpa = gpa + u64::from(op.offset);
                if !self.events.register_info(&self.mem, target, gpa)? {
                    return errno(EBUSY);
                }
                self.clock.publish(&self.mem, &mut self.events, target)?;
                Ok(0)
            }
            _ => errno(ENOSYS),
        }
    }

    pub(super) fn sched_op(&mut self, on: u32, command: u64, operand: &mut [u8]) -> Outcome {
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

    pub(super) fn hvm_op(&mut self, command: u64, operand: &mut [u8]) -> Outcome {
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
