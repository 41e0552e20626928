//! The instruction seam of the drivers, led to a simulated Xen host.

use super::machine::XenHost;
use crate::memory::GuestMemory;
use hypercall::gate::{Gate, HvCall, HvGet, HvSet, XenCall};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A host that driver and test share. Clones are the same host.
#[derive(Debug)]
pub struct XenGate<M> {
    host: Arc<Mutex<XenHost<M>>>,
}

impl<M> Clone for XenGate<M> {
    fn clone(&self) -> Self {
        XenGate {
            host: self.host.clone(),
        }
    }
}

impl<M> XenGate<M> {
    /// Puts a host behind the seam.
    pub fn new(host: XenHost<M>) -> Self {
        XenGate {
            host: Arc::new(Mutex::new(host)),
        }
    }

    /// The host, to step, to look at, to set knobs of. Give it back before the driver runs.
    pub fn host(&self) -> MutexGuard<'_, XenHost<M>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: GuestMemory + Send> Gate for XenGate<M> {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.host().cpuid(leaf, subleaf)
    }

    fn ticks(&self) -> u64 {
        self.host().tsc()
    }

    fn xen_call(&self, mut call: XenCall<'_>) -> i64 {
        let (number, [a, b, c]) = (call.number(), call.args());
        let args = [a, b, c, 0, 0];
        self.host().hypercall(number, args, call.operand())
    }

    /// Viridian serves no hypercall a driver of this project makes: invalid hypercall code.
    fn hv_call(&self, _: HvCall) -> u64 {
        2
    }

    /// Registers that do not exist read as zero here, where a CPU would fault.
    fn hv_get(&self, _: HvGet) -> u64 {
        0
    }

    fn hv_set(&self, _: HvSet) {}
}
