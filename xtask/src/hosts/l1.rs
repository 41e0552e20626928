//! A Linux with KVM inside QEMU's software emulation of AMD's SVM: where the hosts that need KVM run
//! when this machine has none. One boot serves many jobs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::closure::{LOADER, closure};
use crate::debian::Debian;
use crate::initramfs::{self, Tree};
use crate::progress::Progress;
use crate::qemu::{Ended, Line, Qemu, run};
use crate::{kmod, paths, vmlinux};

/// Boot and shutdown, beside the jobs' own limits.
const OVERHEAD: Duration = Duration::from_secs(60);
/// What every kernel needs to come up under this much emulation.
pub const LINUX_ARGS: &str = "console=ttyS0 panic=-1 mitigations=off nokaslr no_timer_check quiet";

/// Something to run in the L1 machine.
pub struct Job {
    /// A word.
    pub name: String,
    /// Shell commands; the files are in the current directory.
    pub script: String,
    /// Files by the name they get.
    pub files: Vec<(String, PathBuf)>,
    /// How long it may take.
    pub limit: Duration,
}

/// What became of a job.
#[derive(Debug)]
pub struct Outcome {
    /// What it printed.
    pub lines: Vec<Line>,
    /// The script's exit status; `None` if the machine went down before its end.
    pub status: Option<i32>,
    /// How long it took.
    pub took: Duration,
}

/// `/init` of the L1 machine.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /root
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
mkdir -p /dev/shm /dev/pts; mount -t tmpfs shm /dev/shm; mount -t devpts pts /dev/pts; ln -s /proc/self/fd /dev/fd
exec </dev/console >/dev/console 2>&1
dmesg -n 1
for m in $(cat /modules/order); do insmod /modules/$m.ko || echo "@@ insmod $m failed"; done
ip link set lo up
[ -c /dev/kvm ] || echo '@@ no /dev/kvm'
up() { cut -d' ' -f1 /proc/uptime; }
echo "@@ ready $(up)"
for name in $(cat /jobs/order); do
  . /jobs/$name/limit
  cd /jobs/$name/files
  echo "@@ begin $name $(up)"
  timeout -k 5 $LIMIT sh /jobs/$name/script </dev/null 2>&1
  echo "@@ end $name $? $(up)"
done
echo "@@ done $(up)"
poweroff -f
"#;

/// `/init` of a stock Linux below: prints what it sees, runs the words of its command line that are jobs.
const LINUX_INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
exec </dev/console >/dev/console 2>&1
up() { cut -d' ' -f1 /proc/uptime; }
echo "LINUX init $(up)"
other=xen_; [ -e /sys/hypervisor/type ] && other=hv_
for m in $(grep -v ^$other /modules/order); do insmod /modules/$m.ko; done
sleep 2
dmesg | grep -iE 'hyper-v|hv_|vmbus|xen|storvsc|sd[a-z]|xvd' | tail -40
for d in /sys/bus/vmbus/devices/*; do [ -e $d ] && echo "LINUX vmbus $(cat $d/class_id) $(basename $(readlink $d/driver) 2>/dev/null)"; done
for d in /sys/bus/xen/devices/*; do [ -e $d ] && echo "LINUX xen $(basename $d) $(basename $(readlink $d/driver) 2>/dev/null)"; done
for disk in sda xvda; do
  [ -b /dev/$disk ] || continue
  echo "LINUX disk $disk $(cat /sys/block/$disk/size) sectors sha256 $(sha256sum /dev/$disk | cut -d' ' -f1)"
  # A cycle on the last MiB: write, read back past the cache, restore.
  last=$(( $(cat /sys/block/$disk/size) / 2048 - 1 ))
  dd if=/dev/$disk of=/tmp/keep bs=1M skip=$last count=1 2>/dev/null
  dd if=/dev/urandom of=/tmp/new bs=1M count=1 2>/dev/null
  dd if=/tmp/new of=/dev/$disk bs=1M seek=$last conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches
  dd if=/dev/$disk of=/tmp/back bs=1M skip=$last count=1 2>/dev/null
  cmp /tmp/new /tmp/back && echo "LINUX disk $disk write verified"
  dd if=/tmp/keep of=/dev/$disk bs=1M seek=$last conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches
  echo "LINUX disk $disk restored sha256 $(sha256sum /dev/$disk | cut -d' ' -f1)"
done
echo "LINUX done $(up)"
grep -q poweroff /proc/cmdline && poweroff -f
reboot -f
"#;

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
pub fn programs(tree: &mut Tree, debian: &Debian, programs: &[(&str, PathBuf)]) -> Result<()> {
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
    let elf = paths::work().join(format!("vmlinux-{release}"));
    if !elf.exists() {
        fs::create_dir_all(paths::work())?;
        let image = fs::read(kernel.join(format!("boot/vmlinuz-{release}")))?;
        let partial = elf.with_extension("partial");
        fs::write(&partial, vmlinux::extract(&image)?)?;
        fs::rename(partial, &elf)?;
    }
    Ok(elf)
}

/// The L1 machine's own files: KVM, QEMU and its firmware.
fn machine(debian: &Debian) -> Result<PathBuf> {
    let mut tree = Tree::new();
    base(&mut tree, debian, &["kvm_amd", "loop"])?;
    tree.script("init", INIT);
    let qemu = debian.file("qemu-system-x86", "usr/bin/qemu-system-x86_64")?;
    programs(&mut tree, debian, &[("usr/bin/qemu-system-x86_64", qemu)])?;
    for name in ["linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin"] {
        tree.file(
            &format!("usr/share/qemu/{name}"),
            &debian.file("qemu-system-data", &format!("usr/share/qemu/{name}"))?,
        );
    }
    tree.file(
        "usr/share/seabios/bios-256k.bin",
        &debian.file("seabios", "usr/share/seabios/bios-256k.bin")?,
    );
    tree.cached(&paths::work(), "l1")
}

/// A stock Linux for an L2: `/l2/vmlinux`, `/l2/bzImage` and `/l2/initrd`.
fn stock_linux(debian: &Debian) -> Result<PathBuf> {
    let mut initrd = Tree::new();
    base(
        &mut initrd,
        debian,
        &[
            "hv_vmbus",
            "hv_balloon",
            "hv_utils",
            "hv_storvsc",
            "sd_mod",
            "hv_netvsc",
            "xen_blkfront",
            "xen_netfront",
        ],
    )?;
    initrd.script("init", LINUX_INIT);
    let initrd = initrd.cached(&paths::work(), "linux-initrd")?;
    let (kernel, release) = debian.kernel()?;
    let mut tree = Tree::new();
    tree.file("l2/vmlinux", &kernel_elf(debian)?)
        .file("l2/initrd", &initrd);
    tree.file(
        "l2/bzImage",
        &kernel.join(format!("boot/vmlinuz-{release}")),
    );
    tree.cached(&paths::work(), "linux")
}

fn job_archive(jobs: &[Job]) -> Result<PathBuf> {
    let mut tree = Tree::new();
    let mut order = String::new();
    for job in jobs {
        order += &format!("{}\n", job.name);
        let at = format!("jobs/{}", job.name);
        tree.directory(&format!("{at}/files"))
            .script(&format!("{at}/script"), &job.script);
        tree.bytes(
            &format!("{at}/limit"),
            format!("LIMIT={}\n", job.limit.as_secs()),
        );
        for (name, path) in &job.files {
            tree.file(&format!("{at}/files/{name}"), path);
        }
    }
    tree.bytes("jobs/order", order);
    tree.cached(&paths::work(), "l1-jobs")
}

/// Boots the machine and runs the jobs in it, one after another. `linux` adds a stock Linux under `/l2`.
pub fn boot(
    debian: &Debian,
    jobs: &[Job],
    linux: bool,
    log: &Path,
    progress: &Progress,
) -> Result<Vec<Outcome>> {
    progress.step("preparing a Linux with KVM for QEMU's software emulation");
    let qemu = Qemu::prepare(debian, progress)?;
    let mut archives = vec![machine(debian)?];
    if linux {
        archives.push(stock_linux(debian)?);
    }
    archives.push(job_archive(jobs)?);
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
        .arg(kernel_elf(debian)?)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", LINUX_ARGS]);
    let limit = jobs.iter().fold(OVERHEAD, |sum, job| sum + job.limit);
    progress.step("booting the Linux with KVM");
    let run = run(command, log, limit, |line| {
        match line
            .text
            .strip_prefix("@@ ")
            .map(|t| t.split(' ').collect::<Vec<_>>())
            .as_deref()
        {
            Some(["begin", name, _]) => progress.step(&format!("in the Linux with KVM: {name}")),
            Some(["ready", _]) => progress.step("the Linux with KVM is up"),
            _ => {}
        }
        line.text.starts_with("@@ done")
    })?;
    if run.ended != Ended::Marker {
        progress.note(&format!(
            "the Linux with KVM did not reach its end ({:?} after {:.0} s); see {}",
            run.ended,
            run.took.as_secs_f64(),
            log.display()
        ));
    }
    Ok(outcomes(jobs.iter().map(|j| j.name.as_str()), &run.lines))
}

/// Cuts the console into the jobs' parts.
fn outcomes<'a>(names: impl Iterator<Item = &'a str>, lines: &[Line]) -> Vec<Outcome> {
    names
        .map(|name| {
            let begin = format!("@@ begin {name} ");
            let end = format!("@@ end {name} ");
            let mut outcome = Outcome {
                lines: Vec::new(),
                status: None,
                took: Duration::ZERO,
            };
            let Some(first) = lines.iter().position(|l| l.text.starts_with(&begin)) else {
                return outcome;
            };
            for line in &lines[first + 1..] {
                outcome.took = line.at.saturating_sub(lines[first].at);
                // A job's last line may lack its line end.
                if let Some(at) = line.text.find(&end) {
                    outcome.status = line.text[at + end.len()..]
                        .split(' ')
                        .next()
                        .and_then(|s| s.parse().ok());
                    if at > 0 {
                        outcome.lines.push(Line {
                            at: line.at,
                            text: line.text[..at].to_owned(),
                        });
                    }
                    break;
                }
                outcome.lines.push(line.clone());
            }
            outcome
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_is_cut_into_jobs() {
        let lines: Vec<Line> = [
            "@@ ready 1",
            "@@ begin a 2.0",
            "x",
            "tail@@ end a 0 3.0",
            "@@ begin b 3.1",
            "y",
        ]
        .iter()
        .enumerate()
        .map(|(at, text)| Line {
            at: Duration::from_secs(at as u64),
            text: (*text).to_owned(),
        })
        .collect();
        let all = outcomes(["a", "b", "c"].into_iter(), &lines);
        assert_eq!(all[0].status, Some(0));
        assert_eq!(
            all[0]
                .lines
                .iter()
                .map(|l| l.text.as_str())
                .collect::<Vec<_>>(),
            ["x", "tail"]
        );
        assert_eq!(all[0].took, Duration::from_secs(2));
        assert_eq!((all[1].status, all[1].lines.len()), (None, 1));
        assert_eq!((all[2].status, all[2].lines.len()), (None, 0));
    }
}
