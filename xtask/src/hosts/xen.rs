//! A real Xen with a Linux dom0, under QEMU's software emulation: xenstored, blkback and xl are the
//! genuine articles. One boot serves many jobs, which are shell commands in dom0.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::jobs::{self, Job, Outcome};
use super::{Boot, linux};
use crate::debian::Debian;
use crate::initramfs::{self, Tree};
use crate::progress::Progress;
use crate::qemu::Qemu;
use crate::session::Offer;
use crate::{net, paths};

/// Debian names its Xen's files by it.
const VERSION: &str = "4.20";
const MODULES: [&str; 11] = [
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-privcmd",
    "xenfs",
    "loop",
    "bridge",
    "tun",
    "xen-blkback",
    "xen-netback",
    linux::NIC,
];
/// `eager-fpu`: without it FPU state is corrupted under this emulation once a PVH guest runs. `cpuidle=no`:
/// the emulated MWAIT is not what Xen expects.
const XEN_ARGS: &str = "console=com1 com1=115200,8n1 dom0_mem=1024M,max:1024M dom0_max_vcpus=1 \
                        loglvl=warning guest_loglvl=all noreboot=1 sync_console=0 spec-ctrl=eager-fpu cpuidle=no";

/// A domU's disk.
const DISK: &str =
    "'format=raw,vdev=xvda,access=rw,backendtype=phy,script=block-lite,target=/dev/loop0'";

/// dom0's files.
fn machine(debian: &Debian) -> Result<PathBuf> {
    let mut tree = Tree::new();
    linux::base(&mut tree, debian, &MODULES)?;
    tree.script(
        "init",
        &[
            linux::SETUP,
            linux::WIRE,
            include_str!("../../init/dom0.sh"),
            jobs::RUN,
        ]
        .concat(),
    );
    tree.script(
        "etc/xen/scripts/block-lite",
        include_str!("../../init/block.sh"),
    );
    tree.script(
        "etc/xen/scripts/vif-lite",
        include_str!("../../init/vif.sh"),
    );
    let utils = format!("xen-utils-{VERSION}");
    let bin = format!("usr/lib/xen-{VERSION}/bin");
    let mut programs = Vec::new();
    for name in [
        "xl",
        "xenstored",
        "xenconsoled",
        "xen-init-dom0",
        "libxl-save-helper",
    ] {
        programs.push((
            format!("{bin}/{name}"),
            debian.file(&utils, &format!("{bin}/{name}"))?,
        ));
        tree.link(&format!("usr/sbin/{name}"), &format!("/{bin}/{name}"));
    }
    for name in [
        "xenstore-read",
        "xenstore-write",
        "xenstore-ls",
        "xenstore-rm",
        "xenstore-watch",
    ] {
        let path = format!("usr/bin/{name}");
        programs.push((path.clone(), debian.file("xenstore-utils", &path)?));
    }
    programs.push((
        "usr/sbin/losetup".to_owned(),
        debian.file("mount", "usr/sbin/losetup")?,
    ));
    programs.push((
        "usr/bin/gnu-cmp".to_owned(),
        debian.file("diffutils", "usr/bin/cmp")?,
    ));
    linux::programs(&mut tree, debian, &programs)?;
    tree.bytes("etc/xen/xl.conf", "autoballoon=\"off\"\n");
    tree.cached(&paths::work(), "dom0")
}

/// The hypervisor, decompressed once.
fn hypervisor(debian: &Debian) -> Result<PathBuf> {
    let package = format!("xen-hypervisor-{VERSION}-amd64");
    let packed = debian.file(&package, &format!("boot/xen-{VERSION}-amd64.gz"))?;
    let mut image = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(packed)?).read_to_end(&mut image)?;
    let path = paths::work().join("xen");
    fs::write(&path, image)?;
    Ok(path)
}

/// Boots Xen and runs the jobs in its dom0, one after another. `stock` adds a stock Linux under `/l2`.
pub fn boot(
    debian: &Debian,
    jobs: &[Job],
    stock: bool,
    log: &Path,
    progress: &Progress,
) -> Result<Vec<Outcome>> {
    progress.step("preparing Xen and its dom0 for QEMU's software emulation");
    let qemu = Qemu::prepare(debian, progress)?;
    let mut archives = vec![machine(debian)?];
    if stock {
        archives.push(linux::stock(debian)?);
    }
    archives.push(jobs::archive(jobs, "dom0-jobs")?);
    initramfs::join(&archives, &paths::work().join("dom0.initrd"))?;
    hypervisor(debian)?;
    linux::kernel_elf(debian)?;

    let mut command = qemu.command();
    command.args([
        "-M",
        "q35",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "qemu64,+svm,+npt,-rdtscp",
        "-smp",
        "1",
        "-m",
        "4G",
    ]);
    // The list of multiboot modules is cut at commas and blanks, which a full path may contain.
    command
        .current_dir(paths::work())
        .args(["-kernel", "xen", "-append", XEN_ARGS]);
    command.args([
        "-initrd",
        "vmlinux console=hvc0 quiet mitigations=off,dom0.initrd",
    ]);
    let port = net::free_port()?;
    Qemu::network(&mut command, port);
    progress.step("booting Xen");
    jobs::boot(command, jobs, port, "Xen's dom0", log, progress)
}

/// The guest, or a stock Linux, as a PVH domU whose disk is served by blkback from a loop device, which leaves
/// the VHD's footer out. There is no COM1 in such a domain: what counts is the PV console, as xenconsoled logs
/// it.
pub fn job(boot: &Boot<'_>) -> Job {
    let (limit, name) = (boot.limit.as_secs(), &boot.name);
    // xl's own quoting knows no escapes.
    let line = boot.command_line.replace('"', "");
    let (attach, disk) = match boot.disk_bytes() {
        Some(bytes) => (
            format!("/usr/sbin/losetup --sizelimit {bytes} /dev/loop0 disk.vhd"),
            DISK,
        ),
        None => (String::new(), ""),
    };
    let vif = if boot.nic {
        format!("'{}'", vif())
    } else {
        String::new()
    };
    let kernel = if boot.offer == Offer::Linux {
        "kernel = \"/l2/vmlinux\"\nramdisk = \"/l2/initrd\"\nmemory = 512"
    } else {
        "kernel = \"guest\"\nmemory = 256"
    };
    let meanwhile = meanwhile(boot);
    // Native TSC: emulated, each read of it would be an exit.
    boot.job(&format!(
        r#"{meanwhile}
cat >guest.cfg <<'END'
name = "{name}"
type = "pvh"
{kernel}
cmdline = "{line}"
vcpus = 1
tsc_mode = "native"
disk = [{disk}]
vif = [{vif}]
on_poweroff = "destroy"
on_reboot = "destroy"
on_crash = "destroy"
END
log=/var/log/xen/console/guest-{name}.log
{attach}
xl dmesg -c >/dev/null
xl create -F guest.cfg </dev/null >xl.log 2>&1 &
pid=$! waited=0
while kill -0 $pid 2>/dev/null && [ $waited -lt {limit} ]; do
  tell $log
  meanwhile
  sleep 1
  waited=$((waited + 1))
done
[ $waited -lt {limit} ] || {{ echo "HARNESS the guest's time was up"; xl destroy {name}; }}
wait $pid
echo "HARNESS status $?"
cat $log
# A guest that fails before it has a console still has Xen's debug port, with lines of limited length.
grep -qE '^(RESULT|LINUX) ' $log || {{ cat xl.log; xl dmesg | sed -n 's/^(d[0-9]*) //p'; }}
[ -z "{attach}" ] || /usr/sbin/losetup -d /dev/loop0
"#
    ))
}

/// A domU's NIC.
fn vif() -> String {
    format!("mac={},bridge=br0,script=vif-lite", net::MAC)
}

/// What dom0 does to the guest while it runs, as shell functions.
fn meanwhile(boot: &Boot<'_>) -> String {
    let name = &boot.name;
    // Connected (4), the guest is about to read: three seconds later it is in the midst of it.
    if boot.offer == Offer::Detached {
        return format!(
            r#"meanwhile() {{
  state=/local/domain/0/backend/vbd/$(xl domid {name} 2>/dev/null)/51712/state
  [ "$(xenstore-read $state 2>/dev/null)" != 4 ] || {{ sleep 3; xl block-detach {name} xvda; }}
}}"#
        );
    }
    if boot.replugs() {
        return format!(
            "unplug() {{ xl network-detach {name} 0; }}\n\
             plug() {{ xl network-attach {name} {}; }}\n\
             meanwhile() {{ replug; }}",
            vif().replace(',', " ")
        );
    }
    String::new()
}
