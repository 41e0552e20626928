//! The end of the domain.

use super::abi::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT};
use super::calls::Calls;
use crate::gate::Gate;
use crate::host::{HostError, Shutdown};

/// Ends the domain; returns only when Xen would not.
pub(super) fn shutdown<G: Gate>(calls: &Calls<G>, how: Shutdown) -> Result<(), HostError> {
    let reason = match how {
        Shutdown::PowerOff => SHUTDOWN_POWEROFF,
        Shutdown::Reboot => SHUTDOWN_REBOOT,
        Shutdown::Crash => SHUTDOWN_CRASH,
        // Suspending ends every grant, event channel and shared page; without setting them up
        // anew the kernel would wake to nothing.
        Shutdown::Suspend => return Err(HostError::Unsupported),
    };
    Ok(calls.shutdown(reason)?)
}
