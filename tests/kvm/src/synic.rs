//! KVM's SynIC seen from the host: KVM keeps the registers and raises the vectors; messages and
//! event flags are written into the guest's pages from here.
//!
//! KVM writes timer messages into the same pages, on the processor's own thread and only while it
//! enters the guest. So everything here must run on that thread, between two entries.

use crate::memory::Memory;
use kvm_bindings::{
    KVM_IRQ_ROUTING_HV_SINT, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_hv_sint, kvm_irq_routing_irqchip,
};
use kvm_ioctls::VmFd;
use pv_tests::hyperv::synic::{MessageSlots, set_event_flag};
use pv_tests::hyperv::vmbus_server::VMBUS_SINT;
use vmm_sys_util::eventfd::EventFd;

/// The global interrupt number that stands for SINT 2 of processor 0; the I/O APIC has those below.
const SINT_GSI: u32 = 32;
/// A VMBus message in a slot (TLFS: the type a partition chose, 1 for VMBus).
const MESSAGE_TYPE: u32 = 1;
const ENABLE: u64 = 1;

/// The SynIC of the only processor.
pub struct Synic {
    control: u64,
    message_page: u64,
    flags_page: u64,
    slots: MessageSlots,
    /// Raises SINT 2.
    raise: EventFd,
}

/// Routes the classic interrupts as KVM does by itself, and one more to SINT 2; `ended` will fire when
/// the guest ends a message. The processor's SynIC must be on by then: KVM notes which interrupt stands
/// for a SINT only for one that is.
pub fn connect(vm: &VmFd, ended: &EventFd) -> Result<Synic, String> {
    let mut routes = Vec::new();
    let mut route = |gsi, type_, u| {
        routes.push(kvm_irq_routing_entry {
            gsi,
            type_,
            flags: 0,
            pad: 0,
            u,
        });
    };
    let pin = |irqchip, pin| kvm_irq_routing_entry__bindgen_ty_1 {
        irqchip: kvm_irq_routing_irqchip { irqchip, pin },
    };
    for gsi in 0..8 {
        route(
            gsi,
            KVM_IRQ_ROUTING_IRQCHIP,
            pin(KVM_IRQCHIP_PIC_MASTER, gsi),
        );
        route(
            gsi + 8,
            KVM_IRQ_ROUTING_IRQCHIP,
            pin(KVM_IRQCHIP_PIC_SLAVE, gsi),
        );
    }
    for gsi in 0..24 {
        // The PIT's line 0 arrives at pin 2, as on every PC.
        let at = if gsi == 0 { 2 } else { gsi };
        if gsi != 2 {
            route(gsi, KVM_IRQ_ROUTING_IRQCHIP, pin(KVM_IRQCHIP_IOAPIC, at));
        }
    }
    let hv_sint = kvm_irq_routing_hv_sint {
        vcpu: 0,
        sint: VMBUS_SINT.into(),
    };
    route(
        SINT_GSI,
        KVM_IRQ_ROUTING_HV_SINT,
        kvm_irq_routing_entry__bindgen_ty_1 { hv_sint },
    );
    let routes = KvmIrqRouting::from_entries(&routes).map_err(|e| format!("routes: {e:?}"))?;
    vm.set_gsi_routing(&routes)
        .map_err(|e| format!("KVM_SET_GSI_ROUTING: {e}"))?;
    let raise = EventFd::new(0).map_err(|e| format!("eventfd: {e}"))?;
    vm.register_irqfd_with_resample(&raise, ended, SINT_GSI)
        .map_err(|e| format!("KVM_IRQFD: {e}"))?;
    let slots = MessageSlots::default();
    Ok(Synic {
        control: 0,
        message_page: 0,
        flags_page: 0,
        slots,
        raise,
    })
}

impl Synic {
    /// KVM tells of each write to SCONTROL, SIEFP and SIMP.
    pub fn registers(&mut self, control: u64, flags_page: u64, message_page: u64) {
        (self.control, self.flags_page, self.message_page) = (control, flags_page, message_page);
    }

    /// Queues a VMBus message.
    pub fn post(&mut self, payload: &[u8]) {
        self.slots.post(VMBUS_SINT, MESSAGE_TYPE, 0, payload);
    }

    /// The guest ended a message: slots that were full may be free.
    pub fn end_of_message(&mut self) {
        self.slots.end_of_message();
    }

    /// Delivers what can be delivered. True: something was.
    pub fn deliver(&mut self, memory: &Memory) -> Result<bool, String> {
        let mut any = false;
        while self.enabled(self.message_page) && self.slots.wants(VMBUS_SINT.into()) {
            let page = self.message_page & !0xfff;
            if self
                .slots
                .fill(memory, page, VMBUS_SINT.into())
                .map_err(outside)?
            {
                self.raise()?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Sets a channel's event flag and interrupts if it was clear.
    pub fn set_event(&mut self, memory: &Memory, flag: u32) -> Result<(), String> {
        let page = self.flags_page & !0xfff;
        if self.enabled(self.flags_page)
            && set_event_flag(memory, page, VMBUS_SINT, flag).map_err(outside)?
        {
            self.raise()?;
        }
        Ok(())
    }

    fn enabled(&self, page: u64) -> bool {
        self.control & page & ENABLE != 0
    }

    fn raise(&self) -> Result<(), String> {
        self.raise
            .write(1)
            .map_err(|e| format!("SINT {VMBUS_SINT}: {e}"))
    }
}

fn outside(bad: pv_tests::memory::BadAddress) -> String {
    format!(
        "the guest put a SynIC page outside its memory, at {:#x}",
        bad.0
    )
}
