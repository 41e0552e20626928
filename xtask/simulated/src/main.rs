//! `simulated HOST DISK COMMAND_LINE`: what the guest kernel does on a machine, in this process over a
//! simulated host. The same drivers, the same jobs, the same last line; HOST is `xen` or `hyperv`.
#![forbid(unsafe_code)]

mod xen;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use guest::command_line::Job;
use guest::jobs;
use guest::machine::{Host, Machine};
use guest::queue_disk::QueueDisk;
use guest::report::Report;

/// A machine whose host is simulated, and whose clock is this process's: the simulated one stands still
/// while nobody waits.
struct Process<'q> {
    host: Host,
    disks: Vec<QueueDisk<'q>>,
    interrupts: Box<dyn Fn() -> u64>,
}

impl<'q> Machine for Process<'q> {
    type Disk = QueueDisk<'q>;

    fn host(&self) -> &Host {
        &self.host
    }

    fn disks(&mut self) -> &mut [QueueDisk<'q>] {
        &mut self.disks
    }

    fn say(&mut self, line: fmt::Arguments<'_>) {
        println!("{line}");
    }

    fn clock(&self) -> Box<dyn Fn() -> u64> {
        let began = Instant::now();
        Box::new(move || u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn interrupts(&self) -> u64 {
        (self.interrupts)()
    }
}

/// Does what the command line says.
fn run(host: &str, disk: &Path, command_line: &str) -> Report {
    let job: Job = match jobs::parse(command_line, &mut |line| println!("{line}")) {
        Ok(job) => job,
        Err(report) => return *report,
    };
    let done = match host {
        "xen" => xen::run(&job, disk),
        "hyperv" => Err("the VMBus drivers do not run over the simulated Hyper-V yet".into()),
        other => Err(format!(
            "there is no simulated {other}, only xen and hyperv"
        )),
    };
    done.unwrap_or_else(|error| Report::failure(job.name(), error))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, disk, command_line] = arguments.as_slice() else {
        eprintln!("usage: simulated xen|hyperv DISK COMMAND_LINE");
        return ExitCode::FAILURE;
    };
    println!("{}", run(host, Path::new(disk), command_line));
    ExitCode::SUCCESS
}
