//! Debian's Linux: what every initramfs here is made of, and a stock one as a guest.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::closure::{LOADER, closure};
use crate::debian::Debian;
use crate::initramfs::Tree;
use crate::{kmod, paths, vmlinux};

/// What a kernel needs to come up under this much emulation, and to say little.
pub const ARGS: &str = "console=ttyS0 panic=-1 mitigations=off nokaslr no_timer_check quiet";
/// The first part of every `/init`.
pub const SETUP: &str = include_str!("../../init/setup.sh");
/// A bridge for the guests' NICs, with the machine's own on it.
pub const WIRE: &str = include_str!("../../init/wire.sh");
/// The driver of the machine's own NIC.
pub const NIC: &str = "e1000";
/// The modules a stock guest may need on either hypervisor.
const GUEST_MODULES: [&str; 11] = [
    "hv_vmbus",
    "hv_balloon",
    "hv_utils",
    "hv_storvsc",
    "sd_mod",
    "hv_netvsc",
    "xen_blkfront",
    "xen_netfront",
    "vfat",
    "nls_cp437",
    "nls_ascii",
];

/// Adds busybox and the named modules with their load order.
pub fn base(tree: &mut Tree, debian: &Debian, modules: &[&str]) -> Result<()> {
    tree.file(
        "bin/busybox",
        &debian.file("busybox-static", "usr/bin/busybox")?,
    );
    let (kernel, release) = debian.kernel()?;
    let mut order = String::new();
    for module in kmod::load_order(&kernel.join("usr/lib/modules").join(release), modules)? {
        order += &format!("{}\n", module.name);
        tree.bytes(&format!("modules/{}.ko", module.name), module.object);
    }
    tree.bytes("modules/order", order);
    Ok(())
}

/// Adds programs with their library closure. Each is (path in the tree, path here).
pub fn programs(tree: &mut Tree, debian: &Debian, programs: &[(String, PathBuf)]) -> Result<()> {
    let paths: Vec<PathBuf> = programs.iter().map(|(_, from)| from.clone()).collect();
    for (to, from) in programs {
        tree.file(to, from);
    }
    for (name, path) in closure(&paths, debian.libraries())? {
        let directory = if name == LOADER {
            "lib64"
        } else {
            "lib/x86_64-linux-gnu"
        };
        tree.file(&format!("{directory}/{name}"), &path);
    }
    Ok(())
}

/// Debian's kernel as an ELF file, extracted once.
pub fn kernel_elf(debian: &Debian) -> Result<PathBuf> {
    let (kernel, release) = debian.kernel()?;
    let elf = paths::work().join("vmlinux");
    let stamp = paths::work().join(format!("vmlinux-{release}.stamp"));
    if !stamp.exists() {
        fs::create_dir_all(paths::work())?;
        let image = fs::read(kernel.join(format!("boot/vmlinuz-{release}")))?;
        fs::write(&elf, vmlinux::extract(&image)?)?;
        fs::write(&stamp, "")?;
    }
    Ok(elf)
}

/// A stock Linux for a guest, by name: `vmlinux`, `bzImage` and `initrd`.
pub fn stock_files(debian: &Debian) -> Result<[(&'static str, PathBuf); 3]> {
    let mut initrd = Tree::new();
    base(&mut initrd, debian, &GUEST_MODULES)?;
    initrd.script(
        "init",
        &[SETUP, include_str!("../../init/linux.sh")].concat(),
    );
    initrd.script("etc/dhcp.sh", include_str!("../../init/dhcp.sh"));
    for (name, text) in [
        ("put", include_str!("../../init/put.sh")),
        ("quit", include_str!("../../init/quit.sh")),
    ] {
        initrd.script(&format!("www/cgi-bin/{name}"), text);
    }
    let (kernel, release) = debian.kernel()?;
    Ok([
        ("vmlinux", kernel_elf(debian)?),
        ("bzImage", kernel.join(format!("boot/vmlinuz-{release}"))),
        ("initrd", initrd.cached(&paths::work(), "linux-initrd")?),
    ])
}

/// The same as an archive with the directory `/l2`.
pub fn stock(debian: &Debian) -> Result<PathBuf> {
    let mut tree = Tree::new();
    for (name, path) in stock_files(debian)? {
        tree.file(&format!("l2/{name}"), &path);
    }
    tree.cached(&paths::work(), "linux")
}
