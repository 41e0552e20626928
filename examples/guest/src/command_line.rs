//! The job on the kernel's command line: `job=NAME` and that job's settings, as `key=value` words.
//!
//! Words this kernel does not know (`console=…`, `root=…`: loaders add their own) are passed over; a known word
//! with a value that makes no sense, or one that belongs to another job, is an error.

use core::fmt;

/// What is printed when the command line cannot be followed.
pub const USAGE: &str = "usage: [job=tour|hash] | job=verify [seed=N] [disk=N] | \
     job=bench [rw=read|write|randread|randwrite] [bs=4k] [qd=32] [secs=5] [disk=N]";

/// What the kernel is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Job {
    /// Look at everything, and write and restore a scratch area of each disk.
    Tour,
    /// The SHA-256 of each disk.
    Hash,
    /// Write patterns over a whole disk and read them back. Destroys its contents.
    Verify(Verify),
    /// Measure one access pattern on a disk.
    Bench(Bench),
}

/// Settings of `job=verify`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verify {
    /// What the pattern is derived from.
    pub seed: u64,
    /// Which disk, in the order the host offers them.
    pub disk: usize,
}

/// Settings of `job=bench`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bench {
    /// Read or write, in order or not.
    pub access: Access,
    /// Bytes in a request, a multiple of 512.
    pub block: usize,
    /// Requests in flight.
    pub depth: usize,
    /// Seconds to measure.
    pub seconds: u64,
    /// Which disk, in the order the host offers them.
    pub disk: usize,
}

/// An access pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Whether it writes; a benchmark that writes destroys what is there.
    pub write: bool,
    /// Whether the places are picked at random.
    pub random: bool,
}

impl Access {
    const NAMES: [(&'static str, Self); 4] = [
        ("read", Self::new(false, false)),
        ("write", Self::new(true, false)),
        ("randread", Self::new(false, true)),
        ("randwrite", Self::new(true, true)),
    ];

    const fn new(write: bool, random: bool) -> Self {
        Self { write, random }
    }

    fn parse(name: &str) -> Option<Self> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|&(_, access)| access)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(_, access)| *access == self);
        found.map_or("", |&(name, _)| name)
    }
}

/// Why a command line cannot be followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandLineError<'a> {
    /// `job=` names no job.
    UnknownJob(&'a str),
    /// A known word's value is malformed or out of its range.
    BadValue(&'a str),
    /// A word that the chosen job has no use for.
    NotForThisJob(&'a str),
}

impl fmt::Display for CommandLineError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownJob(name) => write!(f, "unknown job: {name}"),
            Self::BadValue(word) => write!(f, "malformed: {word}"),
            Self::NotForThisJob(word) => write!(f, "not for this job: {word}"),
        }
    }
}

impl core::error::Error for CommandLineError<'_> {}

impl Job {
    /// The job's name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tour => "tour",
            Self::Hash => "hash",
            Self::Verify(_) => "verify",
            Self::Bench(_) => "bench",
        }
    }

    /// Reads a command line. The last of several equal keys counts.
    ///
    /// # Errors
    /// An unknown job, a malformed value, or a setting of another job.
    pub fn parse(text: &str) -> Result<Self, CommandLineError<'_>> {
        let mut name = "tour";
        let mut verify = Verify { seed: 1, disk: 0 };
        let mut bench = Bench {
            access: Access::new(false, false),
            block: 4096,
            depth: 32,
            seconds: 5,
            disk: 0,
        };
        let (mut first_verify, mut first_bench, mut first_disk) = (None, None, None);
        for word in text.split_ascii_whitespace() {
            let Some((key, value)) = word.split_once('=') else {
                continue;
            };
            let understood = match key {
                "job" => {
                    name = value;
                    Some(())
                }
                "seed" => {
                    first_verify = first_verify.or(Some(word));
                    number(value).map(|n| verify.seed = n)
                }
                "disk" => {
                    first_disk = first_disk.or(Some(word));
                    ranged(value, 0, 255).map(|n| (verify.disk, bench.disk) = (n, n))
                }
                "rw" | "bs" | "qd" | "secs" => {
                    first_bench = first_bench.or(Some(word));
                    bench.set(key, value)
                }
                _ => Some(()),
            };
            understood.ok_or(CommandLineError::BadValue(word))?;
        }
        let (job, strangers) = match name {
            "tour" => (Self::Tour, [first_verify, first_bench, first_disk]),
            "hash" => (Self::Hash, [first_verify, first_bench, first_disk]),
            "verify" => (Self::Verify(verify), [first_bench, None, None]),
            "bench" => (Self::Bench(bench), [first_verify, None, None]),
            other => return Err(CommandLineError::UnknownJob(other)),
        };
        match strangers.into_iter().flatten().next() {
            Some(word) => Err(CommandLineError::NotForThisJob(word)),
            None => Ok(job),
        }
    }
}

impl Bench {
    /// Bytes a request may have at most.
    const LARGEST: usize = 16 << 20;

    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "rw" => self.access = Access::parse(value)?,
            "qd" => self.depth = ranged(value, 1, 1024)?,
            "secs" => self.seconds = ranged(value, 1, 3600).and_then(|n| u64::try_from(n).ok())?,
            _ => {
                let block = size(value)?;
                let fits = (512..=Self::LARGEST).contains(&block) && block.is_multiple_of(512);
                self.block = Some(block).filter(|_| fits)?;
            }
        }
        Some(())
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).ok(),
        None if !text.starts_with('+') => text.parse().ok(),
        _ => None,
    }
}

fn ranged(text: &str, least: usize, most: usize) -> Option<usize> {
    let value = usize::try_from(number(text)?).ok()?;
    Some(value).filter(|value| (least..=most).contains(value))
}

/// Bytes, with an optional `k` or `m` (powers of two).
fn size(text: &str) -> Option<usize> {
    let lower = |c: char| c.to_ascii_lowercase();
    let (digits, unit) = match text.chars().next_back().map(lower) {
        Some('k') => (text.get(..text.len().checked_sub(1)?)?, 1_u64 << 10),
        Some('m') => (text.get(..text.len().checked_sub(1)?)?, 1 << 20),
        _ => (text, 1),
    };
    usize::try_from(number(digits)?.checked_mul(unit)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(text: &str) -> Bench {
        match Job::parse(text) {
            Ok(Job::Bench(bench)) => bench,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn the_default_is_the_tour() {
        assert_eq!(Job::parse(""), Ok(Job::Tour));
        assert_eq!(
            Job::parse("console=hvc0 quiet root=/dev/xvda"),
            Ok(Job::Tour)
        );
        assert_eq!(Job::parse("job=hash"), Ok(Job::Hash));
    }

    #[test]
    fn settings_are_read() {
        let verify = Verify {
            seed: 0x2a,
            disk: 1,
        };
        assert_eq!(
            Job::parse("job=verify seed=0x2a disk=1"),
            Ok(Job::Verify(verify))
        );
        let read = bench("job=bench rw=randwrite bs=64K qd=1 secs=30");
        assert!(read.access.write && read.access.random);
        assert_eq!((read.block, read.depth, read.seconds), (65536, 1, 30));
        let default = bench("quiet job=bench");
        assert_eq!(
            (default.block, default.depth, default.seconds),
            (4096, 32, 5)
        );
        assert_eq!(default.access.name(), "read");
        assert_eq!(bench("bs=1m job=bench bs=512").block, 512);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(
            Job::parse("job=format"),
            Err(CommandLineError::UnknownJob("format"))
        );
        assert_eq!(Job::parse("job="), Err(CommandLineError::UnknownJob("")));
        for word in [
            "seed=",
            "seed=x",
            "seed=-1",
            "seed=+1",
            "seed=0x+1",
            "seed=18446744073709551616",
            "disk=256",
        ] {
            let text = ["job=verify ", word].concat();
            assert_eq!(Job::parse(&text), Err(CommandLineError::BadValue(word)));
        }
        for word in [
            "bs=0",
            "bs=513",
            "bs=17m",
            "bs=k",
            "bs=",
            "bs=99999999999999999999k",
            "qd=0",
            "qd=1025",
            "secs=0",
            "rw=erase",
        ] {
            let text = ["job=bench ", word].concat();
            assert_eq!(Job::parse(&text), Err(CommandLineError::BadValue(word)));
        }
    }

    #[test]
    fn settings_of_another_job_are_refused() {
        for (text, word) in [
            ("seed=3", "seed=3"),
            ("job=hash qd=1 bs=512", "qd=1"),
            ("job=verify rw=read", "rw=read"),
            ("job=bench seed=1", "seed=1"),
            ("disk=1", "disk=1"),
        ] {
            assert_eq!(Job::parse(text), Err(CommandLineError::NotForThisJob(word)));
        }
    }
}
