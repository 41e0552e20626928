//! Many requests in a row, by Apache's `ab`: a few connections, each kept for many requests.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::last_words;

/// Connections at a time.
const CONNECTIONS: u32 = 8;
/// Seconds after which it stops, wherever it is.
pub const SECONDS: u32 = 110;

/// What it counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Answered in full.
    pub requests: u32,
    /// Of wrong length, broken off, or without an answer.
    pub failed: u32,
    /// Answered with another status than 200.
    pub refused: u32,
    /// Over a connection that was kept.
    pub kept: u32,
    /// Wall time for all of them.
    pub seconds: f64,
}

impl Load {
    /// What is not as it should be, when `wanted` requests were to be made.
    pub fn complaints(&self, wanted: u32) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.failed > 0 || self.refused > 0 {
            wrong.push(format!(
                "of {} requests {} failed and {} were refused",
                self.requests, self.failed, self.refused
            ));
        }
        // It stops early for the time alone, and then a quarter still says something.
        if self.requests < wanted && self.seconds < f64::from(SECONDS) - 5.0 {
            wrong.push(format!(
                "only {} of {wanted} requests were made",
                self.requests
            ));
        }
        if self.kept == 0 {
            wrong.push("no connection was kept".into());
        }
        wrong
    }
}

/// Asks for `url` so many times with `ab`.
pub fn run(mut ab: Command, requests: u32, url: &str) -> Result<Load> {
    ab.args(["-q", "-k", "-d", "-s", "30", "-c", &CONNECTIONS.to_string()]);
    // The time limit sets a number of requests too, so the number comes after it.
    ab.args(["-t", &SECONDS.to_string(), "-n", &requests.to_string(), url]);
    let output = ab.output().context("ab could not be started")?;
    if !output.status.success() {
        bail!("{}", last_words(&output.stderr, "ab"));
    }
    parse(&String::from_utf8_lossy(&output.stdout)).context("ab said something else than usual")
}

fn parse(text: &str) -> Option<Load> {
    let value = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        line.split_whitespace().next()
    };
    let number = |name| value(name).and_then(|v| v.parse().ok());
    Some(Load {
        requests: number("Complete requests:")?,
        failed: number("Failed requests:")?,
        refused: number("Non-2xx responses:").unwrap_or(0),
        kept: number("Keep-Alive requests:").unwrap_or(0),
        seconds: value("Time taken for tests:")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ab_prints_is_read_and_judged() {
        let text = "Time taken for tests:   2.500 seconds\nComplete requests:      1000\nFailed requests:        2\n   (Connect: 0)\nKeep-Alive requests:    990\n";
        let load = parse(text).unwrap();
        assert_eq!((load.requests, load.failed, load.kept), (1000, 2, 990));
        assert_eq!(load.complaints(1000).len(), 1);
        assert_eq!(load.complaints(2000).len(), 2);
        assert!(parse("ab: invalid URL").is_none());
    }
}
