//! A machine whose disks are in memory, and short ways to run a job on it.

use std::cell::Cell;
use std::rc::Rc;

use guest::command_line::Job;
use guest::jobs;
use guest::machine::{Host, Machine, Parts};
use guest::memory::MemoryDisk;
use guest::report::Report;
use sha2::{Digest, Sha256};

/// A machine whose clock moves a millisecond at each look.
pub struct TestMachine {
    pub host: Host,
    pub disks: Vec<MemoryDisk>,
    pub lines: Vec<String>,
    say: Box<dyn FnMut(std::fmt::Arguments<'_>)>,
    time: Rc<Cell<u64>>,
}

impl TestMachine {
    pub fn new(disks: Vec<MemoryDisk>) -> Self {
        Self {
            host: Host {
                kind: "xen".into(),
                version: "4.20".into(),
                bus: "xenbus".into(),
                devices: vec!["vbd-51712".into()],
                ..Host::default()
            },
            disks,
            lines: Vec::new(),
            say: Box::new(|_| {}),
            time: Rc::default(),
        }
    }

    pub fn run(&mut self, command_line: &str) -> Report {
        jobs::run(&Job::parse(command_line).unwrap(), self)
    }

    pub fn said(&self, part: &str) -> bool {
        self.lines.iter().any(|line| line.contains(part))
    }
}

impl Machine for TestMachine {
    type Disk = MemoryDisk;

    fn host(&self) -> &Host {
        &self.host
    }

    fn disks(&mut self) -> &mut [MemoryDisk] {
        &mut self.disks
    }

    fn parts(&mut self) -> Parts<'_, MemoryDisk> {
        self.say = Box::new(|_| {});
        Parts {
            disks: &mut self.disks,
            nic: None,
            say: &mut self.say,
        }
    }

    fn say(&mut self, line: std::fmt::Arguments<'_>) {
        self.lines.push(line.to_string());
    }

    fn clock(&self) -> Box<dyn Fn() -> u64> {
        let time = Rc::clone(&self.time);
        Box::new(move || {
            time.set(time.get() + 1_000_000);
            time.get()
        })
    }

    fn interrupts(&self) -> u64 {
        0
    }
}

pub fn disk(bytes: Vec<u8>) -> MemoryDisk {
    MemoryDisk::new("xvda", 512, bytes)
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

pub fn one(disk: MemoryDisk, command_line: &str) -> (Report, TestMachine) {
    let mut machine = TestMachine::new(vec![disk]);
    let report = machine.run(command_line);
    (report, machine)
}

/// The error of a run that must fail, which it has also said on the console.
pub fn error_of(disk: MemoryDisk, command_line: &str) -> String {
    let (report, machine) = one(disk, command_line);
    assert!(!report.ok);
    let error = report.error.unwrap();
    assert!(machine.said(&error));
    error
}
