//! `job=hash`: the SHA-256 of each disk.

use super::{JobError, Size, outline, whole_disk};
use crate::disk::JobDisk;
use crate::machine::Machine;
use crate::report::Report;

pub fn run<M: Machine>(machine: &mut M, report: &mut Report) -> Result<(), JobError> {
    for index in 0..machine.disks().len() {
        let start = machine.now();
        let Some(disk) = machine.disks().get_mut(index) else {
            break;
        };
        let mut found = outline(disk);
        let hashed = whole_disk(disk);
        found.sha256 = hashed.as_ref().ok().cloned();
        let (name, size) = (found.name.clone(), Size(disk.geometry().bytes()));
        report.disks.push(found);
        let milliseconds = machine.now().saturating_sub(start) / 1_000_000;
        let sha256 = hashed?;
        machine.say(format_args!(
            "{name}: {size}, sha256 {sha256} ({milliseconds} ms)"
        ));
    }
    Ok(())
}
