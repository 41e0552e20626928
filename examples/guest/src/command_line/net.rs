//! Settings of the jobs for the network.

use alloc::string::String;
use core::net::Ipv4Addr;

use super::value::{number, seconds};
use super::{Malformed, put};

/// Seconds in a day.
const DAY: u64 = 86_400;

/// How an interface gets its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Addressing {
    /// It asks for one.
    #[default]
    Dhcp,
    /// It is told.
    Fixed {
        /// Its address.
        address: Ipv4Addr,
        /// Bits of its network's prefix.
        bits: u8,
        /// The way to other networks.
        router: Option<Ipv4Addr>,
    },
}

impl Addressing {
    /// `dhcp`, or `10.0.2.15/24` with an optional `,gw=10.0.2.2`.
    fn parse(text: &str) -> Option<Self> {
        if text == "dhcp" {
            return Some(Self::Dhcp);
        }
        let (own, router) = match text.split_once(',') {
            Some((own, rest)) => (own, Some(rest.strip_prefix("gw=")?)),
            None => (text, None),
        };
        let (address, bits) = own.split_once('/')?;
        let address: Ipv4Addr = address.parse().ok()?;
        let bits = u8::try_from(number(bits)?).ok()?;
        let usable =
            !(address.is_multicast() || address.is_unspecified() || address.is_broadcast());
        Some(Self::Fixed {
            address: Some(address).filter(|_| usable)?,
            bits: Some(bits).filter(|bits| (1..=32).contains(bits))?,
            router: router.map(str::parse).transpose().ok()?,
        })
    }
}

/// Settings of the interface, which all jobs for the network have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    /// How it gets its address.
    pub addressing: Addressing,
    /// How many queue pairs are asked for, 1 to 8.
    pub queues: u16,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            addressing: Addressing::default(),
            queues: 1,
        }
    }
}

impl Network {
    fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Malformed>> {
        let queues = || u16::try_from(number(value)?).ok();
        match key {
            "ip" => put(&mut self.addressing, Addressing::parse(value)),
            "queues" => put(&mut self.queues, queues().filter(|n| (1..=8).contains(n))),
            _ => None,
        }
    }
}

/// Settings of `job=serve`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Serve {
    /// After how many requests it ends.
    pub requests: Option<u64>,
    /// After how many seconds it ends.
    pub seconds: Option<u64>,
    /// Whether a request for `/stop` ends it.
    pub stop: bool,
    /// Of its interface.
    pub network: Network,
}

impl Serve {
    pub(super) fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Malformed>> {
        let flag = match value {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        };
        match key {
            "requests" => put(
                &mut self.requests,
                number(value).filter(|n| *n > 0).map(Some),
            ),
            "secs" => put(&mut self.seconds, seconds(value, DAY).map(Some)),
            "stop" => put(&mut self.stop, flag),
            _ => self.network.set(key, value),
        }
    }
}

/// A file on a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Url {
    /// The server's address.
    pub host: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// The path, and what follows it.
    pub path: String,
}

impl Url {
    /// `http://ADDRESS[:PORT][/PATH]`; names of hosts are not looked up.
    fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("http://")?;
        let cut = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(cut)?;
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, u16::try_from(number(port)?).ok()?),
            None => (authority, 80),
        };
        Some(Self {
            host: host.parse().ok()?,
            port: Some(port).filter(|port| *port != 0)?,
            path: if path.is_empty() { "/" } else { path }.into(),
        })
    }
}

/// Settings of `job=fetch`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fetch {
    /// What to get.
    pub url: Option<Url>,
    /// Of its interface.
    pub network: Network,
}

impl Fetch {
    pub(super) fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Malformed>> {
        match key {
            "url" => put(&mut self.url, Url::parse(value).map(Some)),
            _ => self.network.set(key, value),
        }
    }
}

/// Settings of a job that goes on for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timed {
    /// After how many seconds it ends.
    pub seconds: u64,
    /// Of its interface.
    pub network: Network,
}

impl Default for Timed {
    fn default() -> Self {
        Self {
            seconds: 60,
            network: Network::default(),
        }
    }
}

impl Timed {
    pub(super) fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Malformed>> {
        match key {
            "secs" => put(&mut self.seconds, seconds(value, DAY)),
            _ => self.network.set(key, value),
        }
    }
}

/// Settings of `job=netbench`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NetBench(pub Timed);
