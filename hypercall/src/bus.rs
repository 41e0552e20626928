//! What a paravirtual bus shows of its devices, whichever host it is on.

use crate::fault::HostFault;
use core::fmt;

/// What a device does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Class {
    /// Disks: a Xen `vbd`, a Hyper-V SCSI controller.
    Block,
    /// A network interface: a Xen `vif`, a Hyper-V synthetic NIC.
    Net,
    /// Something this library has no driver for; it is listed and left alone.
    Other,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block => "block",
            Self::Net => "net",
            Self::Other => "other",
        })
    }
}

/// A device as its bus names it.
pub trait Device: Clone + fmt::Debug + fmt::Display {
    /// What it does.
    fn class(&self) -> Class;
}

/// Something happened on a bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusEvent<D> {
    /// A device is there: at start, or plugged in later.
    Offered(D),
    /// A device is no longer there; its driver's requests fail with
    /// [`HostFault::Withdrawn`].
    Gone(D),
}

impl<D> BusEvent<D> {
    /// The same event of the device as `f` names it.
    pub fn map<E>(self, f: impl FnOnce(D) -> E) -> BusEvent<E> {
        match self {
            Self::Offered(device) => BusEvent::Offered(f(device)),
            Self::Gone(device) => BusEvent::Gone(f(device)),
        }
    }
}

/// A bus that offers devices. Devices come and go at any moment; one that fails does not stop
/// the others.
pub trait Bus {
    /// How the bus names a device.
    type Device: Device;

    /// Does what is waiting to be done, without waiting, and returns the next event if there is
    /// one.
    ///
    /// # Errors
    /// A latched [`HostFault`] when the bus itself (not a device on it) is beyond use.
    fn poll(&self) -> Result<Option<BusEvent<Self::Device>>, HostFault>;
}

/// A line to one device's back end: the doorbell of a ring.
pub trait Doorbell {
    /// Has the back end look at the ring.
    fn notify(&self);

    /// Whether the back end has rung since this was last asked.
    fn take_pending(&self) -> bool;
}

/// What becomes of a record that a ring showed its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is taken, and the next one wanted.
    Next,
    /// It is taken, and enough for now.
    Stop,
    /// It stays on the ring, for a closer look.
    Leave,
}

/// Why a ring shows no more records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// There are none.
    Empty,
    /// Its owner had enough.
    Enough,
    /// What comes next needs a closer look.
    Odd,
}
