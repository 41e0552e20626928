//! The steps of `cargo xtask test`.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{Record, Verdict, features, wireshark};
use crate::debian::Debian;
use crate::disk::Disk;
use crate::hosts::Host;
use crate::judge::{Expect, State};
use crate::progress::Progress;
use crate::session::{self, Offer, Trial};
use crate::visit::Plan;
use crate::{cargo, paths};

/// Where the comparison finds Xen's C headers.
const XEN_HEADERS: &str = "PV_XEN_HEADERS";
/// What Miri is run over: a name, what `cargo miri test` is given, and the tests to run there, all
/// where none is named. It is some hundred times slower than the machine, so over the simulated
/// hosts it follows the promises whose sessions are short enough for it, the one that cancels at
/// many steps among them.
const MIRI: [(&str, &[&str], &[&str]); 7] = [
    (
        "the shared-memory layer",
        &["-p", "pv-hypercall", "--features", "hosted", "--lib"],
        &["shm::"],
    ),
    ("the VMBus rings", &["-p", "pv-vmbus", "--lib"], &["ring::"]),
    (
        "the block queue",
        &["-p", "pv-tests", "--test", "queue"],
        &[],
    ),
    (
        "simulated Xen",
        &["-p", "pv-tests", "--test", "block_xen"],
        &SHORT_SESSIONS,
    ),
    (
        "a network interface of simulated Xen",
        &["-p", "pv-tests", "--test", "net_xen"],
        &["drops_runts"],
    ),
    (
        "simulated Hyper-V",
        &["-p", "pv-tests", "--test", "block_hyperv"],
        &SHORT_SESSIONS,
    ),
    (
        "a network interface of simulated Hyper-V",
        &["-p", "pv-tests", "--test", "net_hyperv"],
        &["drops_runts"],
    ),
];
/// Promises of the block suite that Miri gets through in about a minute each.
const SHORT_SESSIONS: [&str; 5] = [
    "cancels_futures",
    "has_large_sectors",
    "keeps_a_read_only_disk",
    "refuses_nonsense",
    "reports_errors",
];
/// Memory that a host writes is reached by words of several sizes, which Miri's emulation of weak
/// memory does not support; loans that are never reclaimed are leaked on purpose; some tests have
/// time-outs or read a file.
const MIRI_FLAGS: &str = "-Zmiri-strict-provenance -Zmiri-disable-weak-memory-emulation \
                          -Zmiri-ignore-leaks -Zmiri-disable-isolation";

/// Everything that needs no machine.
pub fn code(record: &mut Record<'_>, quick: bool) {
    let cargo_step =
        |record: &mut Record<'_>, name: &str, args: &[&str], env: &[(&str, PathBuf)]| {
            record.step(name, || {
                let mut command = cargo::command(None);
                command.args(args).envs(env.iter().cloned());
                cargo::run(command, &format!("cargo {}", args.join(" "))).into()
            });
        };
    cargo::add_target(cargo::BARE);
    cargo_step(record, "formatting", &["fmt", "--all", "--check"], &[]);
    cargo_step(
        record,
        "lints",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
        &[],
    );
    let bare = [
        "clippy",
        "--package",
        "guest",
        "--target",
        cargo::BARE,
        "--",
        "-D",
        "warnings",
    ];
    cargo_step(record, "lints of the guest kernel", &bare, &[]);
    let deny = [("RUSTDOCFLAGS", PathBuf::from("-D warnings"))];
    cargo_step(
        record,
        "documentation",
        &["doc", "--workspace", "--no-deps"],
        &deny,
    );
    cargo_step(record, "tests", &["test", "--workspace"], &[]);
    match features::libraries() {
        Ok(libraries) => {
            for (package, features) in libraries {
                let name = format!("{package} bare-metal, every set of features");
                record.step(&name, || features::check(&package, &features).into());
            }
        }
        Err(error) => record.note(
            "every set of features",
            Verdict::Failed(format!("{error:#}")),
            0.0,
        ),
    }
    record.step("a captured session, as Wireshark reads it", || {
        if quick && Debian::ready().is_none() {
            return Verdict::Skipped("Wireshark is not in the cache yet".into());
        }
        let debian = Debian::prepare(&Progress::new());
        debian.and_then(|debian| wireshark::check(&debian)).into()
    });
    if !quick {
        record.step("layouts as in Xen's C headers", || {
            layout(Debian::prepare(&Progress::new()))
        });
        for (name, what, tests) in MIRI {
            record.step(&format!("Miri over {name}"), || miri(what, tests));
        }
    }
}

/// The wire structures against Xen's own C headers.
fn layout(debian: Result<Debian>) -> Verdict {
    let headers = debian.and_then(|debian| debian.file("libxen-dev", "usr/include"));
    let check = |headers: PathBuf| {
        let mut command = cargo::command(None);
        command
            .args(["run", "--quiet", "--package", "layout-check"])
            .env(XEN_HEADERS, headers);
        cargo::run(command, "the comparison with Xen's C headers")
    };
    headers.and_then(check).into()
}

/// Miri needs a nightly toolchain with its component.
fn miri(what: &[&str], tests: &[&str]) -> Verdict {
    let there = || {
        cargo::command(Some("nightly"))
            .args(["miri", "--version"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if !there() {
        // A toolchain without the component is completed; one that is not there is not fetched.
        let _ = Command::new("rustup")
            .args([
                "component",
                "add",
                "--toolchain",
                "nightly",
                "miri",
                "rust-src",
            ])
            .output();
    }
    if !there() {
        return Verdict::Skipped("there is no nightly toolchain with miri (rustup toolchain install nightly -c miri -c rust-src)".into());
    }
    let mut command = cargo::command(Some("nightly"));
    command
        .args(["miri", "test"])
        .args(what)
        .arg("--")
        .args(tests)
        .env("MIRIFLAGS", MIRI_FLAGS)
        .env("PROPTEST_CASES", "4")
        .env("CARGO_TARGET_DIR", paths::target().join("miri"));
    cargo::run(command, &format!("cargo miri test {}", what.join(" "))).into()
}

/// The boots on real hosts, and where it takes a network, on simulated ones.
pub fn hosts(record: &mut Record<'_>, trials: Vec<Trial>, progress: &Progress) {
    let made = Debian::prepare(progress).and_then(|debian| {
        progress.step("making the disk");
        std::fs::create_dir_all(paths::work())?;
        let disk = Disk::make(Some(&debian), &paths::work())?;
        Ok((debian, disk))
    });
    let rows = made.and_then(|(debian, disk)| {
        let mut rows = session::simulated(&trials, &disk, Some(&debian), progress)?;
        rows.extend(session::real(&trials, &disk, &debian, progress)?);
        Ok(rows)
    });
    match rows {
        Ok(rows) => {
            for row in rows {
                let mut name = format!("{} {}", row.host, row.trial);
                if !row.remarks.is_empty() {
                    name += &format!(" ({})", row.remarks.join("; "));
                }
                let verdict = match row.state {
                    State::Passed => Verdict::Passed,
                    State::Failed(why) => Verdict::Failed(why.join("; ")),
                    State::Skipped(why) => Verdict::Skipped(why),
                };
                record.note(&name, verdict, row.seconds);
            }
        }
        // Here a host that cannot be had is a failure: the whole point is to have been there.
        Err(error) => {
            for trial in &trials {
                let name = format!("{} {}", trial.host, trial.name);
                record.note(
                    &name,
                    Verdict::Failed(format!("could not be booted: {error:#}")),
                    0.0,
                );
            }
        }
    }
}

/// What is tried on the real hosts.
pub fn trials() -> Vec<Trial> {
    let limit = Duration::from_secs(120);
    let with_disk = [Host::Xen, Host::QemuXen, Host::HyperV];
    let mut trials = Vec::new();
    for host in Host::ALL.into_iter().filter(|host| host.is_real()) {
        trials.push(Trial::of_disk(host, "tour", "job=tour", limit));
        let refused = |name, job: &str, offer, word| Trial {
            offer,
            expect: Expect::Refusal(word),
            ..Trial::of_disk(host, name, job, limit)
        };
        trials.push(refused(
            "bad-job",
            "job=nonsense",
            Offer::NoDisk,
            "nonsense",
        ));
        if with_disk.contains(&host) {
            let verify = Trial::of_disk(host, "verify", "job=verify seed=2006", limit);
            trials.push(Trial {
                expect: Expect::DiskUsed,
                ..verify
            });
            trials.push(refused("no-disk", "job=tour", Offer::NoDisk, "disk"));
        }
    }
    let short = Trial::of_disk(Host::Xen, "short-disk", "job=tour", limit);
    trials.push(Trial {
        offer: Offer::ShortDisk(8 << 20),
        expect: Expect::Refusal("partition"),
        ..short
    });
    let pulled = "job=bench rw=randread bs=16k qd=32 secs=60";
    for host in [Host::Xen, Host::QemuXen] {
        trials.push(Trial {
            offer: Offer::Detached,
            expect: Expect::Refusal("gone"),
            ..Trial::of_disk(host, "detached", pulled, limit)
        });
    }
    let deaf = Trial::of_disk(Host::QemuHyperV, "no-bus", "job=tour", limit);
    trials.push(Trial {
        offer: Offer::NoBus,
        expect: Expect::Refusal("vmbus"),
        ..deaf
    });
    for (name, offer, expect) in [
        ("old-bus", Offer::OldBus, Expect::SameDisk),
        ("silence", Offer::Silence, Expect::Refusal("vmbus")),
        ("rescinded", Offer::Rescinded(200), Expect::Refusal("")),
    ] {
        trials.push(Trial {
            offer,
            expect,
            ..Trial::of_disk(Host::HyperV, name, "job=tour", limit)
        });
    }
    let with_nic = Host::ALL.into_iter().filter(|host| host.has_nic());
    trials.extend(with_nic.flat_map(networked));
    trials.extend([Host::Xen, Host::QemuXen, Host::HyperV].map(stock_linux));
    trials
}

/// The guest on a network: a client gets all files and then asks ten thousand times; the NIC is taken away under it
/// and put back; it gets a file itself; and it serves over several queue pairs.
fn networked(host: Host) -> Vec<Trial> {
    let limit = Duration::from_secs(240);
    let load = Plan {
        requests: 10_000,
        ..Plan::FILES
    };
    let replug = Plan {
        replug: true,
        ..Plan::FILES
    };
    let mut trials = vec![
        Trial::of_server(host, "serve", load, limit),
        Trial::of_client(host, limit),
    ];
    // Over simulated hosts the suite does it.
    if host.is_real() {
        trials.push(Trial::of_server(host, "replug", replug, limit));
    }
    // QEMU's interface has one queue pair.
    if [Host::Xen, Host::HyperV].contains(&host) {
        let some = Plan {
            requests: 500,
            ..Plan::FILES
        };
        trials.push(Trial {
            command_line: "job=serve stop=1 queues=4".into(),
            expect: Expect::Served { queues: 4 },
            ..Trial::of_server(host, "queues", some, limit)
        });
    }
    trials
}

/// Debian's own Linux with the disk and a NIC: what holds our hosts and our client to what others expect.
fn stock_linux(host: Host) -> Trial {
    // On a busy machine it takes two minutes to boot.
    let limit = Duration::from_secs(300);
    let console = match host {
        Host::Xen => "hvc0",
        _ => "ttyS0",
    };
    let line = format!(
        "poweroff console={console} panic=-1 mitigations=off nokaslr no_timer_check quiet fetch={}/noise.bin",
        session::HERE
    );
    Trial {
        command_line: line,
        offer: Offer::Linux,
        expect: Expect::Linux,
        visit: Some(Plan {
            upload: Some("/cgi-bin/put"),
            replug: true,
            quit: "/cgi-bin/quit",
            ..Plan::FILES
        }),
        ..Trial::of_disk(host, "stock-linux", "", limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_real_host_is_tried_and_no_two_trials_share_a_name() {
        let trials = trials();
        for host in Host::ALL.into_iter().filter(|host| host.is_real()) {
            assert!(trials.iter().any(|t| t.host == host && t.name == "tour"));
        }
        let mut names: Vec<_> = trials.iter().map(|t| (t.host, t.name)).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), trials.len());
    }
}
