//! A real client's visit to a guest that serves its files: `curl` gets each of them and holds it against
//! what is known here, then `ab` asks for one of them many times.

mod load;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::debian::Debian;
use crate::disk::{Content, Disk};
use crate::hex;
use crate::qemu::Voice;
use load::Load;

/// Begins the line that tells of a visit.
pub const LINE: &str = "CLIENT ";
/// Begins the line with which a guest says that it serves.
pub const SERVING: &str = "SERVING ";
/// Begins the line that says where a server is that is left up.
pub const OPEN: &str = "OPEN ";
/// The path whose request ends the guest's job.
const QUIT: &str = "/stop";
/// Seconds for one file.
const PATIENCE: &str = "60";
/// How long a guest may take to be back after its NIC was away.
const RECOVERY: Duration = Duration::from_secs(60);

/// What a visitor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Requests by `ab`, after the files.
    pub requests: u32,
    /// Send the largest file too, to this path, which answers with its SHA-256.
    pub upload: Option<&'static str>,
    /// Go on asking while the NIC is taken away and put back, and get all files afterwards.
    pub replug: bool,
    /// Do nothing of all this, but say where the server is until someone says that it is enough.
    pub stay: bool,
    /// The path whose request ends the server.
    pub quit: &'static str,
}

impl Plan {
    /// Every file once from the project's own guest.
    pub const FILES: Self = Self {
        requests: 0,
        upload: None,
        replug: false,
        stay: false,
        quit: QUIT,
    };
}

/// What came of a visit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Visited {
    /// Files that came, byte for byte as they are known here.
    pub equal: usize,
    /// Files that were asked for.
    pub files: usize,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Wall time for all of them.
    pub seconds: f64,
    /// What `ab` counted.
    pub load: Option<Load>,
    /// Seconds from the NIC's return to the first answer.
    pub recovery: Option<f64>,
    /// What was not as it should be; each is a sentence.
    pub wrong: Vec<String>,
}

impl Visited {
    /// How fast the files came.
    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds.max(1e-6)
    }
}

/// A program with its first arguments.
#[derive(Clone, Debug)]
struct Tool {
    program: OsString,
    arguments: Vec<OsString>,
}

impl Tool {
    fn of(command: &Command) -> Self {
        Self {
            program: command.get_program().to_owned(),
            arguments: command.get_args().map(ToOwned::to_owned).collect(),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }
}

/// What a machine's console told of its guest's NIC.
#[derive(Debug, Default)]
pub struct News {
    /// It was away and is back.
    pub replugged: AtomicBool,
}

/// Somebody who knows what is on the disk and has the programs to ask for it.
#[derive(Clone, Debug)]
pub struct Visitor {
    plan: Plan,
    files: Vec<Content>,
    dir: PathBuf,
    curl: Tool,
    ab: Option<Tool>,
}

impl Visitor {
    /// A visitor with Debian's programs, or with this machine's own `curl` alone. `dir` is for what it gets.
    pub fn new(debian: Option<&Debian>, disk: &Disk, plan: Plan, dir: PathBuf) -> Result<Self> {
        let (curl, ab) = match debian {
            Some(debian) => (
                Tool::of(&debian.command("curl", "usr/bin/curl")?),
                Some(Tool::of(&debian.command("apache2-utils", "usr/bin/ab")?)),
            ),
            None => (Tool::of(&Command::new("curl")), None),
        };
        Ok(Self {
            plan,
            files: disk.files.clone(),
            dir,
            curl,
            ab,
        })
    }

    /// Whether the NIC is to be taken away and put back meanwhile.
    pub fn replugs(&self) -> bool {
        self.plan.replug
    }

    /// Goes to see the server on `port` of this machine's loopback, on a thread of its own which ends by itself:
    /// every request has a limit. What is learnt is said as one line, and then the server is asked to end.
    pub fn start(&self, port: u16, voice: &Voice) -> Arc<News> {
        let news = Arc::<News>::default();
        let (visitor, voice, for_visit) = (self.clone(), voice.clone(), news.clone());
        thread::spawn(move || {
            if visitor.plan.stay {
                stay(&voice, port);
            } else {
                voice.say(&visitor.visit(port, &for_visit));
            }
            visitor.leave(port);
        });
        news
    }

    /// What came of a visit is one line.
    fn visit(&self, port: u16, news: &News) -> String {
        let mut visited = Visited::default();
        if let Err(error) = self.all(&format!("http://127.0.0.1:{port}"), news, &mut visited) {
            visited.wrong.push(format!("{error:#}"));
        }
        let text = serde_json::to_string(&visited).unwrap_or_else(|error| error.to_string());
        format!("{LINE}{text}")
    }

    /// Asks the server to end.
    fn leave(&self, port: u16) {
        let url = format!("http://127.0.0.1:{port}{}", self.plan.quit);
        let mut command = self.curl.command();
        command.args(["--silent", "--max-time", "10", &url]);
        let _ = command.output();
    }

    fn all(&self, base: &str, news: &News, visited: &mut Visited) -> Result<()> {
        if self.plan.replug {
            self.replug(base, news, visited)?;
        }
        self.files(base, visited)?;
        if let Some(path) = self.plan.upload {
            self.upload(&format!("{base}{path}"))?;
        }
        if let (Some(ab), 1..) = (&self.ab, self.plan.requests) {
            let smallest = self
                .files
                .iter()
                .filter(|f| f.size > 0)
                .min_by_key(|f| f.size);
            let file = smallest.context("no file to ask for many times")?;
            let url = format!("{base}/{}", encode(&file.path));
            let load = load::run(ab.command(), self.plan.requests, &url)?;
            visited.wrong.extend(load.complaints(self.plan.requests));
            visited.load = Some(load);
        }
        Ok(())
    }

    /// Every file in one run of `curl`, which keeps its connection.
    fn files(&self, base: &str, visited: &mut Visited) -> Result<()> {
        let _ = fs::remove_dir_all(&self.dir);
        fs::create_dir_all(&self.dir)?;
        let mut command = self.curl.command();
        command.args(["--silent", "--show-error", "--fail", "--max-time", PATIENCE]);
        for (number, file) in self.files.iter().enumerate() {
            command
                .arg("--output")
                .arg(self.dir.join(number.to_string()))
                .arg(format!("{base}/{}", encode(&file.path)));
        }
        let began = Instant::now();
        let output = command.output().context("curl could not be started")?;
        visited.seconds = began.elapsed().as_secs_f64();
        visited.files = self.files.len();
        visited.equal = 0;
        visited.bytes = 0;
        for (number, file) in self.files.iter().enumerate() {
            // For an empty file there is nothing to write, and not every version of curl writes that.
            let bytes = fs::read(self.dir.join(number.to_string())).unwrap_or_default();
            visited.bytes += bytes.len() as u64;
            if hex(&Sha256::digest(&bytes)) == file.sha256 {
                visited.equal += 1;
            } else {
                visited.wrong.push(format!(
                    "{} has {} bytes, {} came, and not the same",
                    file.path,
                    file.size,
                    bytes.len()
                ));
            }
        }
        if !output.status.success() {
            bail!("{}", last_words(&output.stderr, "curl"));
        }
        Ok(())
    }

    /// Sends the largest file; the answer is what the guest makes of it.
    fn upload(&self, url: &str) -> Result<()> {
        let sizes = self.files.iter().enumerate();
        let (number, file) = sizes
            .max_by_key(|(_, f)| f.size)
            .context("no file to send")?;
        let from = self.dir.join(number.to_string());
        let mut command = self.curl.command();
        command
            .args(["--silent", "--show-error", "--fail", "--max-time", PATIENCE])
            .arg("--data-binary")
            .arg(format!("@{}", from.display()))
            .args(["--header", "Expect:", url]);
        let output = command.output().context("curl could not be started")?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!(
                "sending {}: {}",
                file.path,
                last_words(&output.stderr, "curl")
            );
        }
        if said.split_whitespace().next() != Some(&file.sha256) {
            bail!(
                "the guest was sent {} and got something else: {said}",
                file.path
            );
        }
        Ok(())
    }

    /// Gets the largest file again and again, until the NIC was taken away under it and is back, and the file
    /// comes whole again.
    fn replug(&self, base: &str, news: &News, visited: &mut Visited) -> Result<()> {
        let began = Instant::now();
        while !news.replugged.load(Ordering::Acquire) {
            if began.elapsed() > RECOVERY {
                bail!("the NIC was not taken away and put back");
            }
            let _ = self.largest(base);
        }
        let back = Instant::now();
        while !self.largest(base) {
            if back.elapsed() > RECOVERY {
                bail!(
                    "no answer {} s after the NIC was put back",
                    RECOVERY.as_secs()
                );
            }
        }
        visited.recovery = Some(back.elapsed().as_secs_f64());
        Ok(())
    }

    /// Gets the largest file. A connection over which nothing comes for two seconds is given up: its other end
    /// may be gone. Whether it came whole.
    fn largest(&self, base: &str) -> bool {
        let Some(file) = self.files.iter().max_by_key(|file| file.size) else {
            return false;
        };
        let mut command = self.curl.command();
        command
            .args(["--silent", "--fail", "--max-time", PATIENCE])
            .args([
                "--connect-timeout",
                "2",
                "--speed-limit",
                "1",
                "--speed-time",
                "2",
            ])
            .arg(format!("{base}/{}", encode(&file.path)));
        let whole = command.output().is_ok_and(|output| {
            output.status.success() && hex(&Sha256::digest(&output.stdout)) == file.sha256
        });
        thread::sleep(Duration::from_millis(200));
        whole
    }
}

/// Says where the server is and waits for a `q`, or for the end of what comes in.
fn stay(voice: &Voice, port: u16) {
    voice.say(&format!("{OPEN}http://127.0.0.1:{port}/"));
    let mut line = String::new();
    while matches!(io::stdin().read_line(&mut line), Ok(1..)) && line.trim() != "q" {
        line.clear();
    }
}

/// The last line of what a program said.
fn last_words(stderr: &[u8], program: &str) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().rfind(|l| !l.trim().is_empty());
    line.unwrap_or(&format!("{program} failed without a word"))
        .to_owned()
}

/// A path as it stands in a URL.
fn encode(path: &str) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/.-_~".contains(b);
    path.bytes()
        .map(|b| match plain(&b) {
            true => char::from(b).to_string(),
            false => format!("%{b:02X}"),
        })
        .collect()
}

/// The last visit of which a console tells.
pub fn find<'a>(mut lines: impl DoubleEndedIterator<Item = &'a str>) -> Option<Visited> {
    let text = lines.rfind(|l| l.starts_with(LINE))?;
    serde_json::from_str(&text[LINE.len()..]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_do_not_end_a_url() {
        assert_eq!(encode("sub directory/a-1.txt"), "sub%20directory/a-1.txt");
    }

    #[test]
    fn a_visit_is_found_on_the_console() {
        let visited = Visited {
            equal: 5,
            ..Visited::default()
        };
        let line = format!("{LINE}{}", serde_json::to_string(&visited).unwrap());
        assert_eq!(find(["x", &line, "y"].into_iter()), Some(visited));
        assert_eq!(find(["x"].into_iter()), None);
    }
}
