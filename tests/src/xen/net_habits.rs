//! How network back ends differ.

use super::abi::netif::NR_SLOTS_MIN;
use crate::disk::Latency;

/// Habits of a back end, as its keys in xenstore and its answers show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetHabits {
    /// Frames of more than one slot, from the guest.
    pub sg: bool,
    pub gso_tcpv4: bool,
    pub gso_tcpv6: bool,
    /// Fills in checksums of TCP and UDP over IPv4; writes `feature-no-csum-offload` otherwise.
    pub checksum_v4: bool,
    pub checksum_v6: bool,
    pub split_event_channels: bool,
    /// `multi-queue-max-queues`; no key at all when `None`.
    pub max_queues: Option<u32>,
    /// Connects only to front ends that write `feature-rx-notify` (XenServer, Linux since 4.x).
    pub needs_rx_notify: bool,
    /// `feature-dynamic-multicast-control`.
    pub dynamic_multicast: bool,
    /// Connects when the front end is Initialised already; Linux's waits for Connected.
    pub connects_early: bool,
    /// The toolstack writes the front end's `mtu` key.
    pub mtu_key: bool,
    /// Writes the `carrier` key.
    pub carrier_key: bool,
    /// The MAC is in the back end's directory alone (a device model's stub domain).
    pub mac_in_back_end: bool,
    /// Receive buffers that must be posted before it delivers anything (Linux 3.18 to 4.2: 18).
    pub rx_minimum: usize,
    /// Received data starts here in each page, in bytes.
    pub rx_offset: u16,
    /// Shows the guest each slot of a received frame as it is filled, not the frame as a whole.
    pub rx_piecemeal: bool,
    /// Data slots of a chain it takes; a longer one is answered with an error.
    pub max_slots: usize,
    /// How long chains take to be answered, in steps, and in what order that happens. Frames leave
    /// in the order of the ring all the same.
    pub latency: Latency,
    /// Answers each slot of a chain at a time of its own.
    pub scattered_answers: bool,
    /// Puts several responses on a ring before one event, as a seeded choice.
    pub lazy_events: bool,
}

impl Default for NetHabits {
    /// Linux's netback of today, at once and in order.
    fn default() -> Self {
        NetHabits {
            sg: true,
            gso_tcpv4: true,
            gso_tcpv6: true,
            checksum_v4: true,
            checksum_v6: true,
            split_event_channels: true,
            max_queues: Some(8),
            needs_rx_notify: true,
            dynamic_multicast: true,
            connects_early: false,
            mtu_key: true,
            carrier_key: false,
            mac_in_back_end: false,
            rx_minimum: 1,
            rx_offset: 0,
            rx_piecemeal: false,
            max_slots: NR_SLOTS_MIN,
            latency: Latency::NONE,
            scattered_answers: false,
            lazy_events: false,
        }
    }
}

impl NetHabits {
    /// A back end that offers nothing but rings (QEMU's `xen-net-device`).
    pub fn plain() -> Self {
        NetHabits {
            sg: false,
            gso_tcpv4: false,
            gso_tcpv6: false,
            checksum_v4: false,
            checksum_v6: false,
            split_event_channels: false,
            max_queues: None,
            needs_rx_notify: false,
            dynamic_multicast: false,
            connects_early: true,
            mtu_key: false,
            ..NetHabits::default()
        }
    }
}
