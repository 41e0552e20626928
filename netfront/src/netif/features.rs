//! What both ends offer each other: keys in xenstore, and what they come to.

use super::abi::MAX_TX_SIZE;
use super::chain::Rules;
use crate::capabilities::{Capabilities, Mac, Offloads};

/// The MTU where nobody says another, in bytes.
pub const MTU: u16 = 1500;
/// The largest MTU that fits a frame.
const MTU_MAX: u16 = MAX_TX_SIZE.wrapping_sub(18);
/// The smallest that IPv4 allows.
const MTU_MIN: u16 = 68;

const CHECKSUM_V4: Offloads = Offloads::CHECKSUM_TCP_V4.union(Offloads::CHECKSUM_UDP_V4);
const CHECKSUM_V6: Offloads = Offloads::CHECKSUM_TCP_V6.union(Offloads::CHECKSUM_UDP_V6);

/// What the back end offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offer {
    /// `feature-sg`: frames of more than one slot.
    pub sg: bool,
    /// `feature-gso-tcpv4`.
    pub gso_v4: bool,
    /// `feature-gso-tcpv6`.
    pub gso_v6: bool,
    /// `feature-no-csum-offload`: no checksums over IPv4, which otherwise are taken for granted.
    pub no_checksum: bool,
    /// `feature-ipv6-csum-offload`.
    pub checksum_v6: bool,
    /// `feature-split-event-channels`.
    pub split: bool,
    /// `multi-queue-max-queues`; 0 where it knows of no queues.
    pub queues: u16,
}

/// What this front end asks for, as it writes it into xenstore. Everything is written, for an
/// earlier owner may have left other keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// `feature-gso-tcpv4`.
    pub gso_v4: bool,
    /// `feature-gso-tcpv6`.
    pub gso_v6: bool,
    /// `feature-no-csum-offload`.
    pub no_checksum: bool,
    /// `feature-ipv6-csum-offload`.
    pub checksum_v6: bool,
}

impl Ask {
    /// From what the caller wants. A back end knows one switch for TCP and UDP, and joins
    /// segments only where it may leave their checksums out.
    pub fn new(wanted: Offloads) -> Self {
        let (v4, v6) = (wanted.contains(CHECKSUM_V4), wanted.contains(CHECKSUM_V6));
        Self {
            gso_v4: v4 && wanted.contains(Offloads::SEGMENT_V4),
            gso_v6: v6 && wanted.contains(Offloads::SEGMENT_V6),
            no_checksum: !v4,
            checksum_v6: v6,
        }
    }

    /// What the back end may leave undone.
    pub fn offloads(self) -> Offloads {
        let mut rx = Offloads::empty();
        rx.set(CHECKSUM_V4, !self.no_checksum);
        rx.set(CHECKSUM_V6, self.checksum_v6);
        rx.set(Offloads::SEGMENT_V4, self.gso_v4);
        rx.set(Offloads::SEGMENT_V6, self.gso_v6);
        rx
    }

    /// What it may then send.
    pub fn rules(self) -> Rules {
        Rules {
            gso_v4: self.gso_v4,
            gso_v6: self.gso_v6,
        }
    }
}

impl Offer {
    /// What the back end does for frames that are sent, of what the caller wants.
    pub fn offloads(self, wanted: Offloads) -> Offloads {
        let mut tx = Offloads::empty();
        tx.set(CHECKSUM_V4, !self.no_checksum);
        tx.set(CHECKSUM_V6, self.checksum_v6);
        // A long segment needs more slots than one, and every packet of it a checksum.
        let v4 = CHECKSUM_V4.union(Offloads::SEGMENT_V4);
        let v6 = CHECKSUM_V6.union(Offloads::SEGMENT_V6);
        let tcp_v4 = wanted.contains(Offloads::CHECKSUM_TCP_V4) && tx.intersects(v4);
        let tcp_v6 = wanted.contains(Offloads::CHECKSUM_TCP_V6) && tx.intersects(v6);
        tx.set(Offloads::SEGMENT_V4, self.sg && self.gso_v4 && tcp_v4);
        tx.set(Offloads::SEGMENT_V6, self.sg && self.gso_v6 && tcp_v6);
        tx & wanted
    }

    /// How many queues there are to be.
    pub fn queues(self, wanted: u16) -> u16 {
        wanted.min(self.queues).max(1)
    }

    /// The MTU that is meant by what xenstore says. Without scatter-gather a page must do.
    pub fn mtu(self, said: Option<&str>) -> u16 {
        let said = said.and_then(|text| text.trim().parse().ok());
        let mtu = said.unwrap_or(MTU).clamp(MTU_MIN, MTU_MAX);
        if self.sg { mtu } else { mtu.min(MTU) }
    }

    /// What the interface can do.
    pub fn capabilities(self, mac: Mac, mtu: u16, queues: u16, wanted: Offloads) -> Capabilities {
        let mut can = Capabilities::new(mac, mtu);
        can.queues = queues;
        can.tx = self.offloads(wanted);
        can.rx = Ask::new(wanted).offloads();
        if can
            .tx
            .intersects(Offloads::SEGMENT_V4 | Offloads::SEGMENT_V6)
        {
            can.max_segmented = MAX_TX_SIZE.into();
        }
        can
    }
}

/// Reads an address as xenstore has it: six bytes in hexadecimal with colons between them.
pub fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.trim().split(':');
    for byte in &mut mac {
        let part = parts.next()?;
        if part.len() > 2 {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(Mac(mac))
}

/// Whether the line is up, by the `carrier` key: it is unless the key says otherwise.
pub fn link(said: Option<&str>) -> bool {
    said.is_none_or(|text| text.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Offer = Offer {
        sg: true,
        gso_v4: true,
        gso_v6: true,
        no_checksum: false,
        checksum_v6: true,
        split: true,
        queues: 4,
    };

    #[test]
    fn offers_come_to_capabilities() {
        let everything = Offloads::all() - Offloads::VLAN;
        assert_eq!(ALL.offloads(Offloads::all()), everything);
        assert_eq!(Ask::new(Offloads::all()).offloads(), everything);
        // Checksums over IPv4 are offered by saying nothing.
        assert_eq!(Offer::default().offloads(Offloads::all()), CHECKSUM_V4);
        let no_sg = Offer { sg: false, ..ALL };
        assert_eq!(no_sg.offloads(everything), CHECKSUM_V4 | CHECKSUM_V6);
        let no_checksum = Offer {
            no_checksum: true,
            ..ALL
        };
        let v6 = CHECKSUM_V6 | Offloads::SEGMENT_V6;
        assert_eq!(no_checksum.offloads(everything), v6);
        // Segmentation without the checksum is not asked for.
        let odd = Offloads::SEGMENT_V4 | Offloads::CHECKSUM_TCP_V6;
        assert_eq!(ALL.offloads(odd), Offloads::CHECKSUM_TCP_V6);
        assert_eq!(Ask::new(odd).offloads(), Offloads::empty());
        assert_eq!(Ask::new(v6).offloads(), v6);
        let mac = Mac([0; 6]);
        let can = ALL.capabilities(mac, 1500, 4, everything);
        assert_eq!((can.max_segmented, can.queues), (65535, 4));
        assert_eq!(
            no_sg.capabilities(mac, 1500, 1, everything).max_segmented,
            0
        );
    }

    #[test]
    fn queues_and_mtu_are_kept_in_bounds() {
        assert_eq!((ALL.queues(8), ALL.queues(2), ALL.queues(0)), (4, 2, 1));
        assert_eq!(Offer::default().queues(8), 1);
        let mtus = [
            (None, 1500),
            (Some("9000"), 9000),
            (Some(" 1280\n"), 1280),
            (Some("0"), 68),
            (Some("65535"), 65517),
            (Some("70000"), 1500),
            (Some("large"), 1500),
        ];
        for (said, mtu) in mtus {
            assert_eq!(ALL.mtu(said), mtu, "{said:?}");
            assert_eq!(Offer::default().mtu(said), mtu.min(1500), "{said:?}");
        }
        assert!(link(None) && link(Some("1")) && link(Some("up")) && !link(Some("0")));
    }

    #[test]
    fn addresses_are_six_bytes() {
        let mac = Mac([0, 0x16, 0x3e, 0xab, 1, 0xff]);
        assert_eq!(parse_mac("00:16:3e:AB:1:ff\n"), Some(mac));
        for bad in [
            "",
            "00:16:3e:ab:01",
            "00:16:3e:ab:01:ff:00",
            "00:16:3e:ab:01:fff",
            "a:b:c:d:e:g",
        ] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
