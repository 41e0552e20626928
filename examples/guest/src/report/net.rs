//! What the jobs for the network report.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_drivers::netfront::{Capabilities, Offloads};
use serde::Serialize;

/// A network interface.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub struct Nic {
    /// The host's name for it.
    pub name: String,
    /// Its Ethernet address.
    pub mac: String,
    /// The largest packet, in bytes.
    pub mtu: u16,
    /// Its queue pairs.
    pub queues: u16,
    /// What the host does for frames that are sent.
    pub tx_offloads: Vec<String>,
    /// What the host may leave undone of frames that are received.
    pub rx_offloads: Vec<String>,
    /// Whether its line is up.
    pub link: bool,
    /// Its address and prefix, once it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl Nic {
    /// What an interface says of itself.
    pub fn of(name: &str, capabilities: &Capabilities, queues: u16) -> Self {
        let names = |offloads: Offloads| {
            let names = offloads.iter_names();
            names.map(|(name, _)| name.to_ascii_lowercase()).collect()
        };
        Self {
            name: name.into(),
            mac: capabilities.mac.to_string(),
            mtu: capabilities.mtu,
            queues,
            tx_offloads: names(capabilities.tx),
            rx_offloads: names(capabilities.rx),
            link: capabilities.link,
            address: None,
        }
    }
}

/// What went over an interface.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub struct Traffic {
    /// Frames received.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Received frames that were of no use.
    pub rx_dropped: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames that were not sent.
    pub tx_errors: u64,
    /// Bytes copied in and out of frames.
    pub copied: u64,
    /// Buffers that were neither free nor posted before anything was sent.
    pub buffers_before: u64,
    /// The same when everything was sent.
    pub buffers_after: u64,
    /// How often the interface was away and came back.
    pub replugs: u64,
    /// The same for each queue pair.
    pub queues: Vec<QueueTraffic>,
}

/// What went over one queue pair.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub struct QueueTraffic {
    /// Frames received.
    pub rx_frames: u64,
    /// Frames sent.
    pub tx_frames: u64,
}

/// What `job=serve` did.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub struct Serve {
    /// Requests answered, with whatever.
    pub requests: u64,
    /// Of them, those answered with an error.
    pub errors: u64,
    /// Bytes of contents sent.
    pub bytes: u64,
    /// Connections taken.
    pub connections: u64,
    /// Files there are.
    pub files: u64,
    /// Nanoseconds it took.
    pub nanoseconds: u64,
    /// Interrupts taken meanwhile.
    pub interrupts: u64,
}

/// What `job=fetch` got.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub struct Fetch {
    /// The status of the answer.
    pub status: u16,
    /// Bytes of contents.
    pub bytes: u64,
    /// SHA-256 of them, in hexadecimal.
    pub sha256: String,
    /// Nanoseconds it took, from the first frame on.
    pub nanoseconds: u64,
    /// Bytes in a second.
    pub bytes_per_second: u64,
}

/// What `job=echo` sent back.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub struct Echo {
    /// TCP connections taken.
    pub connections: u64,
    /// Bytes over TCP.
    pub tcp_bytes: u64,
    /// UDP datagrams.
    pub datagrams: u64,
    /// Their bytes.
    pub udp_bytes: u64,
}

/// What `job=netbench` measured.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub struct NetBench {
    /// Bytes taken at the discard port.
    pub rx_bytes: u64,
    /// Bytes given at the chargen port.
    pub tx_bytes: u64,
    /// Nanoseconds from the first byte taken to the last.
    pub rx_nanoseconds: u64,
    /// Nanoseconds from the first byte given to the last.
    pub tx_nanoseconds: u64,
    /// Bytes taken in a second.
    pub rx_bytes_per_second: u64,
    /// Bytes given in a second.
    pub tx_bytes_per_second: u64,
    /// Interrupts taken meanwhile.
    pub interrupts: u64,
}
