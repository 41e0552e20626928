//! Hypercalls: decoding of operands, and which part of the machine answers.
//!
//! The structure a hypercall points at comes as bytes and is changed in place, as Xen copies it in
//! and out; pointers inside structures are guest-physical addresses.

mod domain;
mod event;
mod memory;

use crate::memory::{BadAddress, GuestMemory};
use crate::xen::abi::errno::*;
use crate::xen::abi::{domid, hypercall};
use crate::xen::ledger::Complaint;
use crate::xen::machine::XenHost;
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
}
