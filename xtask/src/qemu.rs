//! Runs one machine: streams its serial console into a log with wall times, and always ends.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::debian::Debian;
use crate::progress::Progress;
use crate::{net, patch};

/// A line of a console and when it came, from the machine's start.
#[derive(Clone, Debug)]
pub struct Line {
    /// Time since the machine was started.
    pub at: Duration,
    /// The text without its line end.
    pub text: String,
}

/// Why a run was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The awaited line came.
    Marker,
    /// The process ended by itself.
    Exit(ExitStatus),
    /// It took too long and was killed.
    Deadline,
}

/// One run.
#[derive(Debug)]
pub struct Run {
    /// All console lines.
    pub lines: Vec<Line>,
    /// Why it was over.
    pub ended: Ended,
    /// How long it took.
    pub took: Duration,
}

/// Waits until no other machine runs on this computer, and keeps the others waiting as long as the file is open:
/// they starve each other otherwise, and then miss their deadlines.
pub fn turn() -> Result<File> {
    let turn = File::options()
        .create(true)
        .append(true)
        .open(std::env::temp_dir().join("qemu.lock"))?;
    turn.lock()?;
    Ok(turn)
}

/// What comes out of a machine's pipes, or from those who watch it.
enum Event {
    Line(Line),
    /// One of the two pipes is closed.
    Closed,
}

/// Puts lines into the log of a run beside the machine's own, as those who talk to it learn things.
#[derive(Clone)]
pub struct Voice {
    to: mpsc::Sender<Event>,
    began: Instant,
}

impl Voice {
    /// Says one line. When the run is over there is nobody left to hear it.
    pub fn say(&self, text: &str) {
        let _ = self.to.send(Event::Line(Line {
            at: self.began.elapsed(),
            text: text.to_owned(),
        }));
    }
}

/// Runs `command` until a line satisfies `done`, it exits, or `limit` has passed. Only this child is killed.
pub fn run(
    command: Command,
    log: &Path,
    limit: Duration,
    mut done: impl FnMut(&Line) -> bool,
) -> Result<Run> {
    run_heard(command, log, limit, |line, _| done(line))
}

/// The same, with a voice for whoever starts something upon a line.
pub fn run_heard(
    mut command: Command,
    log: &Path,
    limit: Duration,
    mut done: impl FnMut(&Line, &Voice) -> bool,
) -> Result<Run> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    writeln!(file, "{command:?}")?;
    let began = Instant::now();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = Reaped(
        command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?,
    );
    let (to, receiver) = mpsc::channel();
    let voice = Voice { to, began };
    let out = child.0.stdout.take().map(|out| forward(out, voice.clone()));
    let err = child.0.stderr.take().map(|err| forward(err, voice.clone()));

    let mut lines = Vec::new();
    let mut ended = None;
    let mut pipes = 2;
    while ended.is_none() {
        let left = limit.saturating_sub(began.elapsed());
        match receiver.recv_timeout(left) {
            Ok(Event::Line(line)) => {
                writeln!(file, "{:8.2} {}", line.at.as_secs_f64(), line.text)?;
                if done(&line, &voice) {
                    ended = Some(Ended::Marker);
                }
                lines.push(line);
            }
            Ok(Event::Closed) if pipes > 1 => pipes -= 1,
            // Both pipes are closed: it has exited, or is about to.
            Ok(Event::Closed) => ended = Some(child.wait_until(began + limit)?),
            Err(_) => ended = Some(Ended::Deadline),
        }
    }
    let ended = ended.unwrap_or(Ended::Deadline);
    // After its last line a machine is switched off like any other.
    child.kill();
    for reader in [out, err].into_iter().flatten() {
        let _ = reader.join();
    }
    let took = began.elapsed();
    writeln!(file, "{:8.2} -- {ended:?}", took.as_secs_f64())?;
    Ok(Run { lines, ended, took })
}

/// Reads lines until the pipe closes.
fn forward(mut pipe: impl Read + Send + 'static, voice: Voice) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        let mut pending = Vec::new();
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            for &byte in &buffer[..n] {
                if byte != b'\n' {
                    pending.push(byte);
                    continue;
                }
                voice.say(String::from_utf8_lossy(&pending).trim_end_matches('\r'));
                pending.clear();
            }
        }
        if !pending.is_empty() {
            voice.say(&String::from_utf8_lossy(&pending));
        }
        let _ = voice.to.send(Event::Closed);
    })
}

/// A child that does not outlive its owner.
struct Reaped(Child);

impl Reaped {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    fn wait_until(&mut self, deadline: Instant) -> Result<Ended> {
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Ended::Exit(status));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Ended::Deadline)
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        self.kill();
    }
}

/// QEMU as the outermost machine: the cached one, patched where that is possible.
pub struct Qemu<'a> {
    debian: &'a Debian,
    binary: PathBuf,
    firmware: [PathBuf; 2],
}

impl<'a> Qemu<'a> {
    /// Finds and patches it.
    pub fn prepare(debian: &'a Debian, progress: &Progress) -> Result<Self> {
        let original = debian.file("qemu-system-x86", "usr/bin/qemu-system-x86_64")?;
        let binary = match patch::patched(&original, &crate::paths::work().join("qemu"))? {
            Ok(patched) => patched,
            Err(found) => {
                progress.note(&format!("QEMU's interrupt injection is left as it is ({found} places match, want 1); nested machines may fail now and then"));
                original
            }
        };
        let firmware = [
            debian.file("qemu-system-data", "usr/share/qemu")?,
            debian.file("seabios", "usr/share/seabios")?,
        ];
        Ok(Self {
            debian,
            binary,
            firmware,
        })
    }

    /// The command without a machine yet: no devices but a serial console on standard output.
    pub fn command(&self) -> Command {
        let mut command = self.debian.run(&self.binary);
        for directory in &self.firmware {
            command.arg("-L").arg(directory);
        }
        command.args([
            "-nodefaults",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
        ]);
        command
    }

    /// Gives the machine a NIC on QEMU's user network, with a port of this machine's loopback that leads to
    /// the guests' web server. Its own MAC address is none a guest has.
    pub fn network(command: &mut Command, port: u16) {
        let forward = format!("hostfwd=tcp:127.0.0.1:{port}-{}:80", net::GUEST);
        command
            .arg("-netdev")
            .arg(format!("user,id=net,{forward}"))
            .args(["-device", "e1000,netdev=net,mac=52:54:00:20:06:00,romfile="]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit_ms: u64, done: impl FnMut(&Line) -> bool) -> Run {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let log =
            std::env::temp_dir().join(format!("run-test-{}-{limit_ms}.log", std::process::id()));
        let run = run(command, &log, Duration::from_millis(limit_ms), done).unwrap();
        fs::remove_file(log).unwrap();
        run
    }

    #[test]
    fn a_run_ends_at_its_marker_its_exit_or_its_deadline() {
        let marked = shell("echo one; echo RESULT; exec sleep 60", 20_001, |l| {
            l.text == "RESULT"
        });
        assert_eq!(marked.ended, Ended::Marker);
        assert_eq!(marked.lines.len(), 2);
        let exited = shell("printf 'no line end'; exit 3", 20_002, |_| false);
        assert!(matches!(exited.ended, Ended::Exit(status) if status.code() == Some(3)));
        assert_eq!(exited.lines[0].text, "no line end");
        let late = shell("exec sleep 60", 203, |_| false);
        assert_eq!(late.ended, Ended::Deadline);
        assert!(late.took < Duration::from_secs(10));
    }
}
