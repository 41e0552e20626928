//! Where a job runs: a machine with a host below, a console and disks.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::disk::JobDisk;
use crate::nic::Nic;
use crate::report;

/// What is known of the host and its bus.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Host {
    /// `xen` or `hyperv`.
    pub kind: String,
    /// Its version, as it states it.
    pub version: String,
    /// The bus and its version: `xenbus`, `vmbus 5.3`.
    pub bus: String,
    /// The devices the bus offers, a line each.
    pub devices: Vec<String>,
    /// The network interfaces among them, where the job is to show them.
    pub nics: Vec<report::Nic>,
}

/// What a job for the network works with at the same time.
pub struct Parts<'m, D> {
    /// The disks.
    pub disks: &'m mut [D],
    /// The network interface that the job uses, if there is to be one.
    pub nic: Option<&'m mut dyn Nic>,
    /// Prints a line.
    pub say: &'m mut dyn FnMut(fmt::Arguments<'_>),
}

/// A machine, as jobs see it.
pub trait Machine {
    /// What its disks are.
    type Disk: JobDisk;

    /// The host below.
    fn host(&self) -> &Host;

    /// Its disks, in the order the host offers them.
    fn disks(&mut self) -> &mut [Self::Disk];

    /// Disks, network interface and console at once.
    fn parts(&mut self) -> Parts<'_, Self::Disk>;

    /// Prints a line.
    fn say(&mut self, line: fmt::Arguments<'_>);

    /// A clock: nanoseconds since some fixed moment.
    fn clock(&self) -> Box<dyn Fn() -> u64>;

    /// What the clock says.
    fn now(&self) -> u64 {
        self.clock()()
    }

    /// Interrupts taken so far.
    fn interrupts(&self) -> u64;
}
