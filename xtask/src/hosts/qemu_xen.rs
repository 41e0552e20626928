//! QEMU's Xen emulation over KVM: a second xenstore and second back ends, with other habits than Xen's.

use super::jobs::Job;
use super::{Boot, Host};

/// The guest as a PVH kernel with a `xen-disk` and a `xen-console`.
pub fn job(boot: &Boot<'_>) -> Job {
    let (limit, line, bytes) = (boot.limit.as_secs(), boot.quoted(), boot.disk.bytes());
    let script = format!(
        "keep\nwatch {limit} qemu-system-x86_64 -M pc -accel kvm,xen-version=0x4000a,kernel-irqchip=split -cpu host,+xen-vapic \
         -nodefaults -display none -serial stdio -no-reboot -m 256 -nic none -kernel guest -append {line} \
         -drive file=disk.vhd,if=xen,format=vpc -chardev file,id=xc,path=console -device xen-console,chardev=xc\n\
         echo \"HARNESS console $(grep -c '^RESULT ' console) RESULT lines on the PV console\"\nleft {bytes}\n"
    );
    boot.job(Host::QemuXen, &script)
}
