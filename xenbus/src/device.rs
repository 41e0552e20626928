//! A device as xenstore names it.

use core::fmt;
use hypercall::bus::Class;

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A virtual block device.
    Vbd,
    /// A virtual network interface.
    Vif,
}

impl Kind {
    /// Every kind that the bus looks for.
    pub const ALL: [Self; 2] = [Self::Vbd, Self::Vif];

    /// Its name in xenstore.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vbd => "vbd",
            Self::Vif => "vif",
        }
    }
}

/// A device: what it is, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// What it is.
    pub kind: Kind,
    /// Its number among those of its kind: for a disk it encodes a name (51712 is `xvda`).
    pub id: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.name(), self.id)
    }
}

impl hypercall::bus::Device for Device {
    fn class(&self) -> Class {
        match self.kind {
            Kind::Vbd => Class::Block,
            Kind::Vif => Class::Net,
        }
    }
}
