//! Event channels: 2-level bitmaps in the shared info page, and upcalls to vCPUs.
//!
//! `event_channel.h`, and the order of `xen/common/event_2l.c`: pending bit, then (unless masked)
//! selector bit, then the vCPU's upcall flag, then the interrupt; each step only on a 0 to 1 edge.

use super::abi::pages::{LEGACY_VCPUS, SharedInfo, VcpuInfo};
use super::abi::{PAGE, event};
use super::window::Window;
use crate::memory::{BadAddress, GuestMemory};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem::offset_of;

/// One of the host's own ends of an event channel: a port of the control domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort(pub u32);

/// What a port of the guest is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// Waits for a domain to bind to it.
    Unbound { remote: u16 },
    /// The other end is the control domain's.
    Host(HostPort),
    /// The other end is another port of the same guest.
    Own(u32),
    /// A virtual interrupt of the port's vCPU.
    Virq(u32),
    /// An interrupt from vCPU to vCPU.
    Ipi,
}

/// A port of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channel {
    pub binding: Binding,
    pub vcpu: u32,
}

/// How upcalls are delivered where a vCPU has no vector of its own (`HVM_PARAM_CALLBACK_IRQ`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callback {
    /// Not set: the guest must poll.
    None,
    /// A vector on every vCPU, asserted for as long as the upcall flag is set.
    Vector(u8),
    /// A level-triggered line: an interrupt controller's input, or the platform device's INTx.
    Line,
}

#[derive(Debug, Default)]
struct Vcpu {
    /// Set by `VCPUOP_register_vcpu_info`; else the slot in the shared info page.
    own_info: Option<Window>,
    vector: Option<u8>,
    /// Vectors raised and not yet taken; the interrupt controller keeps one of each.
    raised: VecDeque<u8>,
}

/// The guest's event channels.
#[derive(Debug)]
pub struct EventChannels {
    shared: Window,
    ports: BTreeMap<u32, Channel>,
    vcpus: Vec<Vcpu>,
    callback: Callback,
    /// Ends the guest has sent to and the host has not looked at.
    kicked: BTreeSet<HostPort>,
    next_host_port: u32,
}

const PENDING: usize = offset_of!(SharedInfo, evtchn_pending);
const MASK: usize = offset_of!(SharedInfo, evtchn_mask);
const SELECTOR: usize = offset_of!(VcpuInfo, evtchn_pending_sel);

impl EventChannels {
    /// No ports, no callback, the shared info page not mapped.
    pub fn new(vcpus: u32) -> Self {
        EventChannels {
            shared: Window::new(PAGE as usize),
            ports: BTreeMap::new(),
            vcpus: (0..vcpus).map(|_| Vcpu::default()).collect(),
            callback: Callback::None,
            kicked: BTreeSet::new(),
            next_host_port: 1,
        }
    }

    /// The shared info page, for those who keep other things in it.
    pub fn shared(&mut self) -> &mut Window {
        &mut self.shared
    }

    /// vCPUs of the guest.
    pub fn vcpus(&self) -> u32 {
        self.vcpus.len() as u32
    }

    /// The guest's ports, for tests and `EVTCHNOP_status`.
    pub fn channel(&self, port: u32) -> Option<Channel> {
        self.ports.get(&port).copied()
    }

    /// Ports in use.
    pub fn open_ports(&self) -> impl Iterator<Item = (u32, Channel)> + '_ {
        self.ports.iter().map(|(&port, &channel)| (port, channel))
    }

    /// Opens the lowest free port; `None` when all are in use.
    pub fn open(&mut self, binding: Binding, vcpu: u32) -> Option<u32> {
        let port = (1..event::PORTS).find(|port| !self.ports.contains_key(port))?;
        self.ports.insert(port, Channel { binding, vcpu });
        Some(port)
    }

    /// Binds one of the guest's unbound ports from the control domain, and leaves the new end
    /// kicked, as binding does: the guest may have sent before.
    pub fn bind_from_host(&mut self, port: u32) -> Option<HostPort> {
        let channel = self.ports.get_mut(&port)?;
        if channel.binding != (Binding::Unbound { remote: 0 }) {
            return None;
        }
        let end = HostPort(self.next_host_port);
        self.next_host_port += 1;
        channel.binding = Binding::Host(end);
        self.kicked.insert(end);
        Some(end)
    }

    /// Gives up the control domain's end; the guest's port waits for a new binding.
    pub fn close_host_end(&mut self, end: HostPort) {
        self.kicked.remove(&end);
        for channel in self.ports.values_mut() {
            if channel.binding == Binding::Host(end) {
                channel.binding = Binding::Unbound { remote: 0 };
            }
        }
    }

    /// Whether the guest has sent to `end` since the last look.
    pub fn take_kick(&mut self, end: HostPort) -> bool {
        self.kicked.remove(&end)
    }

    /// Whether the guest has sent to `end`, without looking.
    pub fn kicked(&self, end: HostPort) -> bool {
        self.kicked.contains(&end)
    }

    /// Binds an unbound port of the guest's own, named by the guest itself.
    pub fn bind_own<M: GuestMemory>(
        &mut self,
        mem: &M,
        remote_port: u32,
        me: u16,
    ) -> Result<Option<u32>, BadAddress> {
        match self.ports.get(&remote_port) {
            Some(Channel {
                binding: Binding::Unbound { remote },
                ..
            }) if *remote == me => {}
            _ => return Ok(None),
        }
        let Some(local) = self.open(Binding::Own(remote_port), 0) else {
            return Ok(None);
        };
        if let Some(channel) = self.ports.get_mut(&remote_port) {
            channel.binding = Binding::Own(local);
        }
        self.set_pending(mem, local)?;
        Ok(Some(local))
    }

    /// Closes a port of the guest. False if it is not open.
    pub fn close<M: GuestMemory>(
        &mut self,
        mem: &M,
        port: u32,
        me: u16,
    ) -> Result<bool, BadAddress> {
        let Some(channel) = self.ports.remove(&port) else {
            return Ok(false);
        };
        match channel.binding {
            Binding::Own(other) => {
                if let Some(other) = self.ports.get_mut(&other) {
                    other.binding = Binding::Unbound { remote: me };
                }
            }
            // Sends from the host end are dropped from now on: no port names it any more.
            Binding::Host(end) => {
                self.kicked.remove(&end);
            }
            Binding::Unbound { .. } | Binding::Virq(_) | Binding::Ipi => {}
        }
        // A pending bit must not outlive its port, or the next binding would see it.
        let (word, bit) = bit_of(port);
        self.shared.fetch_clear_u32(mem, PENDING + word, bit)?;
        Ok(true)
    }

    /// Moves a port's events to another vCPU. False where Xen refuses.
    pub fn bind_vcpu(&mut self, port: u32, vcpu: u32) -> bool {
        match self.ports.get_mut(&port) {
            Some(channel)
                if !matches!(
                    channel.binding,
                    Binding::Ipi | Binding::Virq(event::VIRQ_TIMER)
                ) =>
            {
                channel.vcpu = vcpu;
                true
            }
            _ => false,
        }
    }

    /// The guest sends on its own port. The end to wake, or false where Xen refuses.
    pub fn send<M: GuestMemory>(&mut self, mem: &M, port: u32) -> Result<bool, BadAddress> {
        match self.ports.get(&port).map(|channel| channel.binding) {
            Some(Binding::Host(end)) => {
                self.kicked.insert(end);
            }
            Some(Binding::Own(other)) => self.set_pending(mem, other)?,
            Some(Binding::Ipi) => self.set_pending(mem, port)?,
            // Sending to nobody is silently dropped.
            Some(Binding::Unbound { .. }) => {}
            Some(Binding::Virq(_)) | None => return Ok(false),
        }
        Ok(true)
    }

    /// The host sends to the guest. False if the guest has closed its end.
    pub fn send_from_host<M: GuestMemory>(
        &mut self,
        mem: &M,
        end: HostPort,
    ) -> Result<bool, BadAddress> {
        let port = self
            .open_ports()
            .find_map(|(port, channel)| (channel.binding == Binding::Host(end)).then_some(port));
        match port {
            Some(port) => self.set_pending(mem, port).map(|()| true),
            None => Ok(false),
        }
    }

    /// Raises a virtual interrupt of a vCPU. False if the guest has not bound it.
    pub fn send_virq<M: GuestMemory>(
        &mut self,
        mem: &M,
        vcpu: u32,
        virq: u32,
    ) -> Result<bool, BadAddress> {
        match self.virq_port(vcpu, virq) {
            Some(port) => self.set_pending(mem, port).map(|()| true),
            None => Ok(false),
        }
    }

    /// The port a vCPU's virtual interrupt is bound to.
    pub fn virq_port(&self, vcpu: u32, virq: u32) -> Option<u32> {
        let wanted = Channel {
            binding: Binding::Virq(virq),
            vcpu,
        };
        self.open_ports()
            .find_map(|(port, channel)| (channel == wanted).then_some(port))
    }

    /// Makes a port pending, whatever it is bound to (a hostile host may).
    pub fn set_pending<M: GuestMemory>(&mut self, mem: &M, port: u32) -> Result<(), BadAddress> {
        let (word, bit) = bit_of(port);
        if self.shared.fetch_or_u32(mem, PENDING + word, bit)? & bit != 0 {
            return Ok(());
        }
        if self.shared.load_u32(mem, MASK + word)? & bit != 0 {
            return Ok(());
        }
        self.select(mem, port)
    }

    /// `EVTCHNOP_unmask`: clears the mask bit and delivers what was pending behind it.
    pub fn unmask<M: GuestMemory>(&mut self, mem: &M, port: u32) -> Result<(), BadAddress> {
        let (word, bit) = bit_of(port);
        let was = self.shared.fetch_clear_u32(mem, MASK + word, bit)?;
        if was & bit != 0 && self.shared.load_u32(mem, PENDING + word)? & bit != 0 {
            self.select(mem, port)?;
        }
        Ok(())
    }

    /// Whether a port's pending bit is set.
    pub fn pending<M: GuestMemory>(&self, mem: &M, port: u32) -> Result<bool, BadAddress> {
        let (word, bit) = bit_of(port);
        Ok(self.shared.load_u32(mem, PENDING + word)? & bit != 0)
    }

    fn select<M: GuestMemory>(&mut self, mem: &M, port: u32) -> Result<(), BadAddress> {
        let vcpu = self.channel(port).map_or(0, |channel| channel.vcpu);
        let bit = 1 << (port / 64 % 64);
        let Some((info, at)) = self.info(vcpu) else {
            return Ok(());
        };
        if info.fetch_or_u64(mem, at + SELECTOR, bit)? & bit == 0 {
            self.mark_events_pending(mem, vcpu)?;
        }
        Ok(())
    }

    fn mark_events_pending<M: GuestMemory>(
        &mut self,
        mem: &M,
        vcpu: u32,
    ) -> Result<(), BadAddress> {
        let Some((info, at)) = self.info(vcpu) else {
            return Ok(());
        };
        // The upcall flag is the low byte of the first word.
        if info.fetch_or_u32(mem, at, 1)? & 0xff == 0 {
            self.raise(vcpu);
        }
        Ok(())
    }

    fn raise(&mut self, vcpu: u32) {
        if let Some(vcpu) = self.vcpus.get_mut(vcpu as usize)
            && let Some(vector) = vcpu.vector
            && !vcpu.raised.contains(&vector)
        {
            vcpu.raised.push_back(vector);
        }
    }

    /// A vCPU's `vcpu_info`: the window it lies in and its offset there.
    pub fn info(&mut self, vcpu: u32) -> Option<(&mut Window, usize)> {
        match self.vcpus.get_mut(vcpu as usize)?.own_info.as_mut() {
            Some(window) => Some((window, 0)),
            None if vcpu < LEGACY_VCPUS => Some((
                &mut self.shared,
                offset_of!(SharedInfo, vcpu_info) + vcpu as usize * size_of::<VcpuInfo>(),
            )),
            None => None,
        }
    }

    /// `VCPUOP_register_vcpu_info`. False if this vCPU has done it before.
    ///
    /// Everything is marked pending so that no event is lost: the guest gets a spurious upcall.
    pub fn register_info<M: GuestMemory>(
        &mut self,
        mem: &M,
        vcpu: u32,
        gpa: u64,
    ) -> Result<bool, BadAddress> {
        match self.vcpus.get(vcpu as usize) {
            Some(vcpu) if vcpu.own_info.is_none() => {}
            _ => return Ok(false),
        }
        let mut contents = [0; size_of::<VcpuInfo>()];
        if let Some((info, at)) = self.info(vcpu) {
            info.read(mem, at, &mut contents)?;
        }
        let mut own = Window::new(contents.len());
        own.write(mem, 0, &contents)?;
        own.map(mem, gpa)?;
        own.store_u64(mem, SELECTOR, !0)?;
        if let Some(vcpu) = self.vcpus.get_mut(vcpu as usize) {
            vcpu.own_info = Some(own);
        }
        self.mark_events_pending(mem, vcpu)?;
        Ok(true)
    }

    /// Whether a vCPU registered a `vcpu_info` of its own.
    pub fn has_own_info(&self, vcpu: u32) -> bool {
        self.vcpus
            .get(vcpu as usize)
            .is_some_and(|vcpu| vcpu.own_info.is_some())
    }

    /// `HVMOP_set_evtchn_upcall_vector`: also raises the vector once, as Xen does.
    pub fn set_vector(&mut self, vcpu: u32, vector: u8) -> bool {
        let Some(state) = self.vcpus.get_mut(vcpu as usize) else {
            return false;
        };
        state.vector = Some(vector);
        self.raise(vcpu);
        true
    }

    /// `HVM_PARAM_CALLBACK_IRQ`.
    pub fn set_callback(&mut self, callback: Callback) {
        self.callback = callback;
    }

    /// What `HVM_PARAM_CALLBACK_IRQ` says.
    pub fn callback(&self) -> Callback {
        self.callback
    }

    /// The next interrupt for a vCPU that has interrupts enabled.
    pub fn take_interrupt<M: GuestMemory>(
        &mut self,
        mem: &M,
        vcpu: u32,
    ) -> Result<Option<u8>, BadAddress> {
        let Some(state) = self.vcpus.get_mut(vcpu as usize) else {
            return Ok(None);
        };
        if let Some(vector) = state.raised.pop_front() {
            return Ok(Some(vector));
        }
        match (state.vector, self.callback) {
            (None, Callback::Vector(vector)) if self.upcall_pending(mem, vcpu)? => Ok(Some(vector)),
            _ => Ok(None),
        }
    }

    /// Whether the callback line is asserted (vCPU 0 only, while its upcall flag is set).
    pub fn line_asserted<M: GuestMemory>(&mut self, mem: &M) -> Result<bool, BadAddress> {
        Ok(self.callback == Callback::Line && self.upcall_pending(mem, 0)?)
    }

    /// A vCPU's upcall flag.
    pub fn upcall_pending<M: GuestMemory>(
        &mut self,
        mem: &M,
        vcpu: u32,
    ) -> Result<bool, BadAddress> {
        match self.info(vcpu) {
            Some((info, at)) => Ok(info.load_u32(mem, at)? & 0xff != 0),
            None => Ok(false),
        }
    }
}

/// Byte offset of a port's 32-bit word in a bitmap, and its bit there.
fn bit_of(port: u32) -> (usize, u32) {
    let port = port % event::PORTS;
    ((port / 32 * 4) as usize, 1 << (port % 32))
}
