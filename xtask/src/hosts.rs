//! The hosts a guest can be booted on. Each real one is a recipe of its own that ends in a shell job: in
//! Xen's dom0, or where KVM is (here, or in a Linux under software emulation).

pub mod hyperv;
pub mod jobs;
pub mod kvm;
pub mod l1;
pub mod linux;
pub mod qemu_hyperv;
pub mod qemu_xen;
pub mod simulated;
pub mod xen;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::disk::Disk;
use crate::session::Offer;
use crate::visit::Visitor;

/// Shell functions for the jobs' scripts.
const WATCH: &str = include_str!("../init/watch.sh");

/// A host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// The simulated Xen in a process of this machine.
    SimulatedXen,
    /// The simulated Hyper-V in a process of this machine.
    SimulatedHyperV,
    /// Debian's Xen with a Linux dom0.
    Xen,
    /// QEMU's Xen emulation over KVM.
    QemuXen,
    /// QEMU's Hyper-V flags over KVM, with its VMBus bridge, which has no disk.
    QemuHyperV,
    /// The project's own KVM host, with a VMBus and a SCSI disk.
    HyperV,
}

impl Host {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 6] = [
        Self::SimulatedXen,
        Self::SimulatedHyperV,
        Self::Xen,
        Self::QemuXen,
        Self::QemuHyperV,
        Self::HyperV,
    ];

    /// Whether it serves the disk.
    pub fn has_disk(self) -> bool {
        self != Self::QemuHyperV
    }

    /// Whether it can have a NIC.
    pub fn has_nic(self) -> bool {
        self != Self::QemuHyperV
    }

    /// Whether it is a machine, or only code in a process.
    pub fn is_real(self) -> bool {
        !matches!(self, Self::SimulatedXen | Self::SimulatedHyperV)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SimulatedXen => "simulated-xen",
            Self::SimulatedHyperV => "simulated-hyperv",
            Self::Xen => "xen",
            Self::QemuXen => "qemu-xen",
            Self::QemuHyperV => "qemu-hyperv",
            Self::HyperV => "hyperv",
        })
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What to boot.
pub struct Boot<'a> {
    /// A word that no other boot has.
    pub name: String,
    /// The guest's ELF file.
    pub image: PathBuf,
    /// Its disk; each boot gets a copy.
    pub disk: &'a Disk,
    /// The kernel's command line.
    pub command_line: String,
    /// What the host offers.
    pub offer: Offer,
    /// How long the guest may take.
    pub limit: Duration,
    /// Whether there is a NIC.
    pub nic: bool,
    /// Who asks the guest's web server for its files.
    pub visitor: Option<Visitor>,
    /// A port of this machine's loopback that the guest may ask for something.
    pub reachable: Option<u16>,
}

impl Boot<'_> {
    /// A job with the image as `guest` and the disk as `disk.vhd`, and the shell functions at hand. A disk is
    /// looked at again afterwards.
    fn job(&self, script: &str) -> jobs::Job {
        let mut files = vec![("guest".to_owned(), self.image.clone())];
        let mut script = script.to_owned();
        if let Some(bytes) = self.disk_bytes() {
            files.push(("disk.vhd".to_owned(), self.disk.vhd.clone()));
            script = format!("keep\n{script}left {bytes}\n");
        }
        // The script's own limit comes first, so that it still prints what the guest said.
        let limit = self.limit + Duration::from_secs(30);
        jobs::Job {
            name: self.name.clone(),
            script: format!("{WATCH}{script}"),
            files,
            limit,
            visitor: self.visitor.clone(),
        }
    }

    /// The size of the disk on offer in bytes, if there is one.
    fn disk_bytes(&self) -> Option<u64> {
        match self.offer {
            Offer::Disk
            | Offer::Linux
            | Offer::OldBus
            | Offer::Silence
            | Offer::Rescinded(_)
            | Offer::Detached => Some(self.disk.bytes()),
            Offer::ShortDisk(bytes) => Some(bytes),
            Offer::NoDisk | Offer::NoBus => None,
        }
    }

    /// Whether the NIC is taken away and put back while the guest serves.
    fn replugs(&self) -> bool {
        self.visitor.as_ref().is_some_and(Visitor::replugs)
    }

    /// The command line as one word of shell.
    fn quoted(&self) -> String {
        quote(&self.command_line)
    }
}

/// `text` as one word of shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
