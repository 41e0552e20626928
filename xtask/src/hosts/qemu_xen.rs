//! QEMU's Xen emulation over KVM: a second xenstore and second back ends, with other habits than Xen's.

use super::Boot;
use super::jobs::Job;
use crate::session::Offer;

/// The guest as a PVH kernel with a `xen-disk` and a `xen-console`.
pub fn job(boot: &Boot<'_>) -> Job {
    let (limit, line) = (boot.limit.as_secs(), boot.quoted());
    let disk = match (boot.offer, boot.disk_bytes()) {
        // QEMU's own idea of a VHD.
        (Offer::Disk, _) => "-drive file=disk.vhd,if=xen,format=vpc".to_owned(),
        (_, Some(bytes)) => format!("-drive file=disk.vhd,if=xen,format=raw,size={bytes}"),
        (_, None) => String::new(),
    };
    boot.job(&format!(
        "watch {limit} qemu-system-x86_64 -M pc -accel kvm,xen-version=0x4000a,kernel-irqchip=split -cpu host,+xen-vapic \
         -nodefaults -display none -serial stdio -no-reboot -m 256 -nic none -kernel guest -append {line} {disk} \
         -chardev file,id=xc,path=console -device xen-console,chardev=xc\n\
         echo \"HARNESS $(grep -c '^RESULT ' console) RESULT lines on the PV console\"\n"
    ))
}
