//! `event_channel_op`.

use super::{Failure, Outcome, errno, get, put};
use crate::memory::GuestMemory;
use crate::xen::abi::errno::*;
use crate::xen::abi::ops::*;
use crate::xen::abi::{domid, event};
use crate::xen::evtchn::Binding;
use crate::xen::machine::XenHost;

impl<M: GuestMemory> XenHost<M> {
    pub(super) fn event_op(&mut self, command: u64, operand: &mut [u8]) -> Outcome {
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
}
