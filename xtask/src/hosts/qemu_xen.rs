//! QEMU's Xen emulation over KVM: a second xenstore and second back ends, with other habits than Xen's.

use super::Boot;
use super::jobs::Job;
use crate::net::MAC;
use crate::session::Offer;

/// QEMU's monitor in two pipes, and one line for it. It may be gone by then, and the pipe without a reader.
const MONITOR: &str = r#"mkfifo mon.in mon.out
cat mon.out >mon.log &
monitor() { timeout 2 sh -c "echo '$1' >mon.in"; }
"#;
/// Takes the disk away as soon as it has served a hundred requests, with the next ones in flight.
const DETACH: &str = r#"meanwhile() {
  [ -z "$gone" ] || return 0
  monitor 'info blockstats'
  grep -q 'rd_operations=[1-9][0-9][0-9]' mon.log || return 0
  monitor 'device_del disk0'
  gone=1
}
"#;

/// The guest, or a stock Linux, as a PVH kernel with a `xen-disk`, a `xen-console` and perhaps a
/// `xen-net-device`.
pub fn job(boot: &Boot<'_>) -> Job {
    let (limit, line) = (boot.limit.as_secs(), boot.quoted());
    let disk = match (boot.offer, boot.disk_bytes()) {
        // QEMU's own idea of a VHD.
        (Offer::Disk | Offer::Linux, _) => "-drive file=disk.vhd,if=xen,format=vpc".to_owned(),
        (Offer::Detached, _) => "-drive file=disk.vhd,if=none,id=vhd,format=vpc \
             -device xen-disk,id=disk0,vdev=xvda,drive=vhd"
            .to_owned(),
        (_, Some(bytes)) => format!("-drive file=disk.vhd,if=xen,format=raw,size={bytes}"),
        (_, None) => String::new(),
    };
    let kernel = if boot.offer == Offer::Linux {
        "$L2/vmlinux -initrd $L2/initrd -m 512"
    } else {
        "guest -m 256"
    };
    let device = format!("xen-net-device,id=nic0,netdev=n,mac={MAC}");
    let nic = if boot.nic {
        format!("-netdev $netdev -device {device}")
    } else {
        String::new()
    };
    let mut meanwhile = String::new();
    if boot.replugs() {
        meanwhile = format!(
            "unplug() {{ monitor 'device_del nic0'; }}\nplug() {{ monitor 'device_add {device}'; }}\n\
             meanwhile() {{ replug; }}\n"
        );
    } else if boot.offer == Offer::Detached {
        meanwhile = DETACH.to_owned();
    }
    // On this machine's own KVM there is no bridge, but the port that was kept free for the guest.
    boot.job(&format!(
        "{MONITOR}{meanwhile}netdev=tap,id=n,ifname=tap0,script=no,downscript=no\n\
         [ -z \"$FORWARD\" ] || netdev=user,id=n,hostfwd=tcp:127.0.0.1:$FORWARD-:80\n\
         watch {limit} qemu-system-x86_64 -M pc -accel kvm,xen-version=0x4000a,kernel-irqchip=split -cpu host,+xen-vapic \
         -nodefaults -display none -serial stdio -no-reboot -kernel {kernel} -append {line} {disk} {nic} \
         -chardev pipe,id=mon,path=mon -mon chardev=mon \
         -chardev file,id=xc,path=console -device xen-console,chardev=xc\n\
         echo \"HARNESS $(grep -c '^RESULT ' console) RESULT lines on the PV console\"\n"
    ))
}
