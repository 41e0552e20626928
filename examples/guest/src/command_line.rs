//! The job on the kernel's command line: `job=NAME` and that job's settings, as `key=value` words.
//!
//! Words this kernel does not know (`console=…`, `root=…`: loaders add their own) are passed over; a known word
//! with a value that makes no sense, or one that belongs to another job, is an error.

mod net;
mod value;

use core::fmt;

pub use net::{Addressing, Fetch, NetBench, Network, Serve, Timed, Url};
use value::{number, ranged, seconds, size};

/// What is printed when the command line cannot be followed.
pub const USAGE: &str = "usage: [job=tour|hash] | job=verify [seed=N] [disk=N] | \
     job=bench [rw=read|write|randread|randwrite] [bs=4k] [qd=32] [secs=5] [disk=N] | \
     job=serve [requests=N] [secs=N] [stop=1] [IP] | job=fetch url=http://ADDRESS[:PORT]/PATH [IP] | \
     job=echo [secs=N] [IP] | job=netbench [secs=N] [IP], where IP is [ip=dhcp|ip=ADDRESS/BITS[,gw=ADDRESS]] [queues=N]";

/// What the kernel is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Job {
    /// Look at everything, and write and restore a scratch area of each disk.
    Tour,
    /// The SHA-256 of each disk.
    Hash,
    /// Write patterns over a whole disk and read them back. Destroys its contents.
    Verify(Verify),
    /// Measure one access pattern on a disk.
    Bench(Bench),
    /// Serve the files of the first FAT file system over HTTP.
    Serve(Serve),
    /// Get a file over HTTP.
    Fetch(Fetch),
    /// Send back what comes over TCP and UDP.
    Echo(Timed),
    /// Take and give bytes over TCP as fast as they go, and count them.
    NetBench(NetBench),
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
    /// The chosen job cannot do without this.
    Missing(&'a str),
}

impl fmt::Display for CommandLineError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownJob(name) => write!(f, "unknown job: {name}"),
            Self::BadValue(word) => write!(f, "malformed: {word}"),
            Self::NotForThisJob(word) => write!(f, "not for this job: {word}"),
            Self::Missing(key) => write!(f, "this job needs {key}"),
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
            Self::Serve(_) => "serve",
            Self::Fetch(_) => "fetch",
            Self::Echo(_) => "echo",
            Self::NetBench(_) => "netbench",
        }
    }

    /// Settings of the job's network interface, if the job is one for the network.
    pub fn network(&self) -> Option<Network> {
        match self {
            Self::Serve(serve) => Some(serve.network),
            Self::Fetch(fetch) => Some(fetch.network),
            Self::Echo(timed) => Some(timed.network),
            Self::NetBench(bench) => Some(bench.0.network),
            _ => None,
        }
    }

    /// Reads a command line. The last of several equal keys counts.
    ///
    /// # Errors
    /// An unknown job, a malformed value, or a setting of another job.
    pub fn parse(text: &str) -> Result<Self, CommandLineError<'_>> {
        let words = || {
            let words = text.split_ascii_whitespace();
            words.filter_map(|word| Some((word, word.split_once('=')?)))
        };
        let named = words().rfind(|(_, (key, _))| *key == "job");
        let mut job = Self::named(named.map_or("tour", |(_, (_, value))| value))?;
        for (word, (key, value)) in words() {
            if !KNOWN.contains(&key) {
                continue;
            }
            match job.set(key, value) {
                Some(Ok(())) => {}
                Some(Err(Malformed)) => return Err(CommandLineError::BadValue(word)),
                None => return Err(CommandLineError::NotForThisJob(word)),
            }
        }
        match job {
            Self::Fetch(Fetch { url: None, .. }) => Err(CommandLineError::Missing("url=")),
            job => Ok(job),
        }
    }

    /// A job with its default settings.
    fn named(name: &str) -> Result<Self, CommandLineError<'_>> {
        Ok(match name {
            "tour" => Self::Tour,
            "hash" => Self::Hash,
            "verify" => Self::Verify(Verify { seed: 1, disk: 0 }),
            "bench" => Self::Bench(Bench {
                access: Access::new(false, false),
                block: 4096,
                depth: 32,
                seconds: 5,
                disk: 0,
            }),
            "serve" => Self::Serve(Serve::default()),
            "fetch" => Self::Fetch(Fetch::default()),
            "echo" => Self::Echo(Timed::default()),
            "netbench" => Self::NetBench(NetBench::default()),
            other => return Err(CommandLineError::UnknownJob(other)),
        })
    }

    /// Takes a setting; `None` when it is not this job's.
    fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Malformed>> {
        match self {
            Self::Tour | Self::Hash => None,
            Self::Verify(verify) => verify.set(key, value),
            Self::Bench(bench) => bench.set(key, value),
            Self::Serve(serve) => serve.set(key, value),
            Self::Fetch(fetch) => fetch.set(key, value),
            Self::Echo(timed) => timed.set(key, value),
            Self::NetBench(bench) => bench.0.set(key, value),
        }
    }
}

/// Every setting of every job.
const KNOWN: [&str; 11] = [
    "bs", "disk", "ip", "qd", "queues", "requests", "rw", "secs", "seed", "stop", "url",
];

/// A value that makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Malformed;

/// Puts a value where it belongs, if there is one.
fn put<T>(place: &mut T, value: Option<T>) -> Option<Result<(), Malformed>> {
    Some(value.map(|value| *place = value).ok_or(Malformed))
}

impl Verify {
    fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Malformed>> {
        match key {
            "seed" => put(&mut self.seed, number(value)),
            "disk" => put(&mut self.disk, ranged(value, 0, 255)),
            _ => None,
        }
    }
}

impl Bench {
    /// Bytes a request may have at most.
    const LARGEST: usize = 16 << 20;

    fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Malformed>> {
        let fits =
            |block: &usize| (512..=Self::LARGEST).contains(block) && block.is_multiple_of(512);
        match key {
            "rw" => put(&mut self.access, Access::parse(value)),
            "qd" => put(&mut self.depth, ranged(value, 1, 1024)),
            "secs" => put(&mut self.seconds, seconds(value, 3600)),
            "bs" => put(&mut self.block, size(value).filter(fits)),
            "disk" => put(&mut self.disk, ranged(value, 0, 255)),
            _ => None,
        }
    }
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
            ("ip=dhcp", "ip=dhcp"),
            ("job=fetch url=http://1.2.3.4/ secs=3", "secs=3"),
            ("job=echo requests=3", "requests=3"),
        ] {
            assert_eq!(Job::parse(text), Err(CommandLineError::NotForThisJob(word)));
        }
    }

    #[test]
    fn jobs_for_the_network_know_their_address() {
        let fixed = Addressing::Fixed {
            address: [10, 0, 2, 15].into(),
            bits: 24,
            router: Some([10, 0, 2, 2].into()),
        };
        let serve = Serve {
            requests: Some(7),
            seconds: Some(9),
            stop: true,
            network: Network {
                addressing: fixed,
                queues: 4,
            },
        };
        assert_eq!(
            Job::parse("job=serve requests=7 secs=9 stop=1 ip=10.0.2.15/24,gw=10.0.2.2 queues=4"),
            Ok(Job::Serve(serve))
        );
        assert_eq!(Job::parse("job=serve"), Ok(Job::Serve(Serve::default())));
        let job = Job::parse("job=fetch url=http://10.0.2.2:8080/a%20b?c ip=dhcp").unwrap();
        let Job::Fetch(fetch) = &job else {
            panic!("{job:?}")
        };
        let url = fetch.url.as_ref().unwrap();
        assert_eq!((url.port, url.path.as_str()), (8080, "/a%20b?c"));
        assert_eq!(job.network(), Some(Network::default()));
        let job = Job::parse("job=fetch url=http://1.2.3.4").unwrap();
        assert!(matches!(job, Job::Fetch(Fetch { url: Some(url), .. }) if url.path == "/"));
        assert_eq!(
            Job::parse("job=fetch"),
            Err(CommandLineError::Missing("url="))
        );
    }

    #[test]
    fn addresses_that_make_no_sense_are_refused() {
        for word in [
            "ip=10.0.0.1",
            "ip=10.0.0.1/33",
            "ip=10.0.0.1/0",
            "ip=224.0.0.1/24",
            "ip=10.0.0.1/24,10.0.0.2",
            "ip=10.0.0.1/24,gw=",
            "ip=",
            "requests=0",
            "secs=0",
            "stop=yes",
        ] {
            let text = ["job=serve ", word].concat();
            assert_eq!(Job::parse(&text), Err(CommandLineError::BadValue(word)));
        }
        for word in [
            "url=https://1.2.3.4/",
            "url=http://name/",
            "url=http://1.2.3.4:0/",
            "url=http://1.2.3.4:99999/",
            "url=",
        ] {
            let text = ["job=fetch ", word].concat();
            assert_eq!(Job::parse(&text), Err(CommandLineError::BadValue(word)));
        }
    }
}
