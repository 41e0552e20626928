//! Typed hypercalls.

use super::abi::*;
use crate::gate::{Gate, XenCall};
use crate::host::HostError;
use core::sync::atomic::{AtomicU64, Ordering};
use zerocopy::{FromBytes, IntoBytes};

/// A hypercall's negative result, without its sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Errno(pub(super) i64);

impl From<Errno> for HostError {
    fn from(Errno(number): Errno) -> Self {
        match number {
            errno::ENOSYS | errno::EOPNOTSUPP => Self::Unsupported,
            errno::ENOSPC => Self::Exhausted,
            _ => Self::Refused(number.wrapping_neg()),
        }
    }
}

/// The gate, with the hypercalls through it counted.
pub(super) struct Calls<G> {
    gate: G,
    /// Hypercalls but for notifications.
    made: AtomicU64,
    sends: AtomicU64,
}

impl<G: Gate> Calls<G> {
    pub(super) fn new(gate: G) -> Self {
        Self {
            gate,
            made: AtomicU64::new(0),
            sends: AtomicU64::new(0),
        }
    }

    pub(super) fn gate(&self) -> &G {
        &self.gate
    }

    /// Hypercalls of every kind.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed).wrapping_add(self.sends())
    }

    /// Event-channel notifications among them.
    pub(super) fn sends(&self) -> u64 {
        self.sends.load(Ordering::Relaxed)
    }

    #[inline]
    fn call(&self, call: XenCall<'_>) -> Result<u64, Errno> {
        self.made.fetch_add(1, Ordering::Relaxed);
        self.pass(call)
    }

    /// Makes a call that is counted already.
    #[inline]
    fn pass(&self, call: XenCall<'_>) -> Result<u64, Errno> {
        let result = self.gate.xen_call(call);
        u64::try_from(result).map_err(|_| Errno(result.wrapping_neg()))
    }

    /// A call of the usual form: sub-operation, then the address of its structure.
    #[inline]
    fn op<T: FromBytes + IntoBytes>(
        &self,
        number: u32,
        op: u32,
        operand: &mut T,
    ) -> Result<u64, Errno> {
        let args = [u64::from(op), 0, 0];
        self.call(XenCall::with_operand(
            number,
            args,
            1,
            operand.as_mut_bytes(),
        ))
    }

    fn vcpu_op<T: FromBytes + IntoBytes>(
        &self,
        op: u32,
        vcpu: u32,
        operand: &mut T,
    ) -> Result<u64, Errno> {
        let args = [u64::from(op), u64::from(vcpu), 0];
        let bytes = operand.as_mut_bytes();
        self.call(XenCall::with_operand(hypercall::VCPU_OP, args, 2, bytes))
    }

    fn grant_op<T: FromBytes + IntoBytes>(&self, op: u32, operand: &mut T) -> Result<u64, Errno> {
        let args = [u64::from(op), 0, 1];
        let bytes = operand.as_mut_bytes();
        self.call(XenCall::with_operand(
            hypercall::GRANT_TABLE_OP,
            args,
            1,
            bytes,
        ))
    }

    /// Places page `idx` of `space` at guest frame `gpfn`; what was there is lost to the guest.
    pub(super) fn add_to_physmap(&self, space: u32, idx: u64, gpfn: u64) -> Result<(), Errno> {
        let mut operand = XenAddToPhysmap {
            domid: DOMID_SELF,
            size: 0,
            space,
            idx,
            gpfn,
        };
        self.op(hypercall::MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &mut operand)
            .map(drop)
    }

    pub(super) fn memory_map<T: FromBytes + IntoBytes>(
        &self,
        operand: &mut T,
    ) -> Result<(), Errno> {
        self.op(hypercall::MEMORY_OP, XENMEM_MEMORY_MAP, operand)
            .map(drop)
    }

    pub(super) fn hvm_param(&self, index: u32) -> Result<u64, Errno> {
        let mut operand = XenHvmParam {
            domid: DOMID_SELF,
            pad: 0,
            index,
            value: 0,
        };
        self.op(hypercall::HVM_OP, HVMOP_GET_PARAM, &mut operand)?;
        Ok(operand.value)
    }

    pub(super) fn set_hvm_param(&self, index: u32, value: u64) -> Result<(), Errno> {
        let mut operand = XenHvmParam {
            domid: DOMID_SELF,
            pad: 0,
            index,
            value,
        };
        self.op(hypercall::HVM_OP, HVMOP_SET_PARAM, &mut operand)
            .map(drop)
    }

    pub(super) fn set_upcall_vector(&self, vcpu: u32, vector: u8) -> Result<(), Errno> {
        let mut operand = XenHvmEvtchnUpcallVector {
            vcpu,
            vector,
            pad: [0; 3],
        };
        self.op(
            hypercall::HVM_OP,
            HVMOP_SET_EVTCHN_UPCALL_VECTOR,
            &mut operand,
        )
        .map(drop)
    }

    fn evtchn<T: FromBytes + IntoBytes>(&self, op: u32, operand: &mut T) -> Result<u64, Errno> {
        self.op(hypercall::EVENT_CHANNEL_OP, op, operand)
    }

    pub(super) fn alloc_unbound(&self, remote_dom: u16) -> Result<u32, Errno> {
        let mut operand = EvtchnAllocUnbound {
            dom: DOMID_SELF,
            remote_dom,
            port: 0,
        };
        self.evtchn(EVTCHNOP_ALLOC_UNBOUND, &mut operand)?;
        Ok(operand.port)
    }

    pub(super) fn bind_virq(&self, virq: u32, vcpu: u32) -> Result<u32, Errno> {
        let mut operand = EvtchnBindVirq {
            virq,
            vcpu,
            port: 0,
        };
        self.evtchn(EVTCHNOP_BIND_VIRQ, &mut operand)?;
        Ok(operand.port)
    }

    pub(super) fn bind_vcpu(&self, port: u32, vcpu: u32) -> Result<(), Errno> {
        let mut operand = EvtchnBindVcpu { port, vcpu };
        self.evtchn(EVTCHNOP_BIND_VCPU, &mut operand).map(drop)
    }

    pub(super) fn evtchn_status(&self, port: u32) -> Result<EvtchnStatus, Errno> {
        let mut operand = EvtchnStatus {
            dom: DOMID_SELF,
            pad: 0,
            port,
            status: 0,
            vcpu: 0,
            virq: 0,
            rest: 0,
        };
        self.evtchn(EVTCHNOP_STATUS, &mut operand)?;
        Ok(operand)
    }

    pub(super) fn close(&self, port: u32) -> Result<(), Errno> {
        self.evtchn(EVTCHNOP_CLOSE, &mut EvtchnPort { port })
            .map(drop)
    }

    pub(super) fn unmask(&self, port: u32) -> Result<(), Errno> {
        self.evtchn(EVTCHNOP_UNMASK, &mut EvtchnPort { port })
            .map(drop)
    }

    #[inline]
    pub(super) fn send(&self, port: u32) -> Result<(), Errno> {
        self.sends.fetch_add(1, Ordering::Relaxed);
        let mut operand = EvtchnPort { port };
        let args = [u64::from(EVTCHNOP_SEND), 0, 0];
        let bytes = operand.as_mut_bytes();
        let number = hypercall::EVENT_CHANNEL_OP;
        self.pass(XenCall::with_operand(number, args, 1, bytes))
            .map(drop)
    }

    /// Frames that the grant table may have at most.
    pub(super) fn max_grant_frames(&self) -> Result<u32, Errno> {
        let mut operand = GnttabQuerySize {
            dom: DOMID_SELF,
            pad: 0,
            nr_frames: 0,
            max_nr_frames: 0,
            status: 0,
            pad1: 0,
        };
        self.grant_op(GNTTABOP_QUERY_SIZE, &mut operand)?;
        if operand.status != 0 {
            return Err(Errno(i64::from(operand.status).wrapping_abs()));
        }
        Ok(operand.max_nr_frames)
    }

    pub(super) fn grant_version(&self) -> Result<u32, Errno> {
        let mut operand = GnttabGetVersion {
            dom: DOMID_SELF,
            pad: 0,
            version: 0,
        };
        self.grant_op(GNTTABOP_GET_VERSION, &mut operand)?;
        Ok(operand.version)
    }

    pub(super) fn set_grant_version(&self, version: u32) -> Result<(), Errno> {
        self.grant_op(GNTTABOP_SET_VERSION, &mut GnttabSetVersion { version })
            .map(drop)
    }

    pub(super) fn register_vcpu_info(&self, vcpu: u32, gfn: u64) -> Result<(), Errno> {
        let mut operand = VcpuRegisterVcpuInfo {
            mfn: gfn,
            offset: 0,
            rsvd: 0,
        };
        self.vcpu_op(VCPUOP_REGISTER_VCPU_INFO, vcpu, &mut operand)
            .map(drop)
    }

    /// Stops a timer: `op` is one of the two sub-operations that take no structure.
    pub(super) fn stop_vcpu_timer(&self, op: u32, vcpu: u32) -> Result<(), Errno> {
        let args = [u64::from(op), u64::from(vcpu), 0];
        self.call(XenCall::plain(hypercall::VCPU_OP, args))
            .map(drop)
    }

    pub(super) fn set_singleshot_timer(&self, vcpu: u32, at: u64) -> Result<(), Errno> {
        let mut operand = VcpuSetSingleshotTimer {
            timeout_abs_ns: at,
            flags: 0,
            pad: 0,
        };
        self.vcpu_op(VCPUOP_SET_SINGLESHOT_TIMER, vcpu, &mut operand)
            .map(drop)
    }

    /// The timer of this virtual processor, by the older call; 0 stops it.
    pub(super) fn set_timer_op(&self, at: u64) -> Result<(), Errno> {
        self.call(XenCall::plain(hypercall::SET_TIMER_OP, [at, 0, 0]))
            .map(drop)
    }

    pub(super) fn shutdown(&self, reason: u32) -> Result<(), Errno> {
        self.op(
            hypercall::SCHED_OP,
            SCHEDOP_SHUTDOWN,
            &mut SchedShutdown { reason },
        )
        .map(drop)
    }

    /// Writes to Xen's own console, which most hosts allow only in debug builds.
    pub(super) fn console_io(&self, bytes: &mut [u8]) -> Result<(), Errno> {
        let args = [u64::from(CONSOLEIO_WRITE), bytes.len() as u64, 0];
        self.call(XenCall::with_operand(hypercall::CONSOLE_IO, args, 2, bytes))
            .map(drop)
    }
}
