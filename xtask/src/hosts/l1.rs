//! A Linux with KVM inside QEMU's software emulation of AMD's SVM: where the hosts that need KVM run
//! when this machine has none. One boot serves many jobs.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::jobs::{self, Job, Outcome};
use super::linux;
use crate::debian::Debian;
use crate::initramfs::{self, Tree};
use crate::progress::Progress;
use crate::qemu::Qemu;
use crate::{net, paths};

/// What QEMU loads when it runs below.
const FIRMWARE: [&str; 3] = ["linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin"];

/// The machine's own files: KVM, QEMU and its firmware.
fn machine(debian: &Debian) -> Result<PathBuf> {
    let mut tree = Tree::new();
    linux::base(
        &mut tree,
        debian,
        &["kvm_amd", "loop", "bridge", "tun", linux::NIC],
    )?;
    tree.script(
        "init",
        &[
            linux::SETUP,
            linux::WIRE,
            include_str!("../../init/kvm.sh"),
            jobs::RUN,
        ]
        .concat(),
    );
    let qemu = debian.file("qemu-system-x86", "usr/bin/qemu-system-x86_64")?;
    let programs = [
        ("usr/bin/qemu-system-x86_64".to_owned(), qemu),
        (
            "usr/bin/gnu-cmp".to_owned(),
            debian.file("diffutils", "usr/bin/cmp")?,
        ),
    ];
    linux::programs(&mut tree, debian, &programs)?;
    for name in FIRMWARE {
        let path = format!("usr/share/qemu/{name}");
        tree.file(&path, &debian.file("qemu-system-data", &path)?);
    }
    let bios = "usr/share/seabios/bios-256k.bin";
    tree.file(bios, &debian.file("seabios", bios)?);
    tree.cached(&paths::work(), "l1")
}

/// Boots the machine and runs the jobs in it, one after another. `stock` adds a stock Linux under `/l2`.
pub fn boot(
    debian: &Debian,
    jobs: &[Job],
    stock: bool,
    log: &Path,
    progress: &Progress,
) -> Result<Vec<Outcome>> {
    progress.step("preparing a Linux with KVM for QEMU's software emulation");
    let qemu = Qemu::prepare(debian, progress)?;
    let mut archives = vec![machine(debian)?];
    if stock {
        archives.push(linux::stock(debian)?);
    }
    archives.push(jobs::archive(jobs, "l1-jobs")?);
    let initrd = paths::work().join("l1.initrd");
    initramfs::join(&archives, &initrd)?;

    let mut command = qemu.command();
    command.args([
        "-M",
        "q35",
        "-accel",
        "tcg,thread=single",
        "-cpu",
        "EPYC,+vgif",
        "-smp",
        "2",
        "-m",
        "4G",
    ]);
    command
        .arg("-kernel")
        .arg(linux::kernel_elf(debian)?)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", linux::ARGS]);
    let port = net::free_port()?;
    Qemu::network(&mut command, port);
    progress.step("booting the Linux with KVM");
    jobs::boot(command, jobs, port, "the Linux with KVM", log, progress)
}
