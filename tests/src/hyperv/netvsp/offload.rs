//! Which work the guest may leave to the host and the host to the guest, as NDIS says it.
//!
//! Source: NDIS_OFFLOAD and NDIS_OFFLOAD_PARAMETERS as in OpenVMM `netvsp/src/rndisprot.rs`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The start of every NDIS object.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ObjectHeader {
    pub kind: u8,
    pub revision: u8,
    /// Bytes of the whole object.
    pub size: u16,
}
const _: () = assert!(size_of::<ObjectHeader>() == 4);

/// Object types.
pub mod object {
    pub const DEFAULT: u8 = 0x80;
    pub const RSS_CAPABILITIES: u8 = 0x88;
    pub const RSS_PARAMETERS: u8 = 0x89;
    pub const OFFLOAD: u8 = 0xa7;
    pub const OFFLOAD_ENCAPSULATION: u8 = 0xa8;
}

/// Checksums in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checksums {
    pub ip: bool,
    pub tcp4: bool,
    pub udp4: bool,
    pub tcp6: bool,
    pub udp6: bool,
}

impl Checksums {
    pub const ALL: Checksums = Checksums {
        ip: true,
        tcp4: true,
        udp4: true,
        tcp6: true,
        udp6: true,
    };

    fn and(self, other: Checksums) -> Checksums {
        Checksums {
            ip: self.ip && other.ip,
            tcp4: self.tcp4 && other.tcp4,
            udp4: self.udp4 && other.udp4,
            tcp6: self.tcp6 && other.tcp6,
            udp6: self.udp6 && other.udp6,
        }
    }

    /// The flags for IPv4 (options of IP and TCP, TCP, UDP, IP header: two bits each), and for IPv6
    /// (extension headers, options of TCP, TCP, UDP).
    fn flags(self) -> [u32; 2] {
        let bit = |on: bool, place: u32| u32::from(on) << (2 * place);
        let v4 = bit(self.ip || self.tcp4 || self.udp4, 0)
            | bit(self.tcp4, 1)
            | bit(self.tcp4, 2)
            | bit(self.udp4, 3)
            | bit(self.ip, 4);
        let v6 = bit(self.tcp6 || self.udp6, 0)
            | bit(self.tcp6, 1)
            | bit(self.tcp6, 2)
            | bit(self.udp6, 3);
        [v4, v6]
    }
}

/// Everything that can be offloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Filled in by the host in what the guest sends.
    pub tx: Checksums,
    /// Checked by the host in what the guest receives.
    pub rx: Checksums,
    pub large_send_v4: bool,
    pub large_send_v6: bool,
}

/// The longest frame that large send takes, in bytes.
pub const LARGE_SEND_MAX: u32 = 0xf53c;
const LARGE_SEND_MIN_SEGMENTS: u32 = 2;
const ETHERNET: u32 = 2;

impl Offloads {
    pub const ALL: Offloads = Offloads {
        tx: Checksums::ALL,
        rx: Checksums::ALL,
        large_send_v4: true,
        large_send_v6: true,
    };

    pub fn and(self, other: Offloads) -> Offloads {
        Offloads {
            tx: self.tx.and(other.tx),
            rx: self.rx.and(other.rx),
            large_send_v4: self.large_send_v4 && other.large_send_v4,
            large_send_v6: self.large_send_v6 && other.large_send_v6,
        }
    }

    /// As an NDIS_OFFLOAD object: revision 3 from NDIS 6.30 on, 1 before.
    pub fn object(self, ndis: (u32, u32)) -> Vec<u8> {
        let (revision, size) = if ndis >= (6, 30) { (3, 156) } else { (1, 112) };
        let header = ObjectHeader {
            kind: object::OFFLOAD,
            revision,
            size,
        };
        let mut words = Vec::new();
        let ([tx4, tx6], [rx4, rx6]) = (self.tx.flags(), self.rx.flags());
        for flags in [tx4, rx4, tx6, rx6] {
            words.extend([ETHERNET, flags]);
        }
        // Large send version 1 and IPsec version 1: none.
        words.extend([0; 4 + 7]);
        let large = |on| {
            if on {
                [ETHERNET, LARGE_SEND_MAX, LARGE_SEND_MIN_SEGMENTS]
            } else {
                [0; 3]
            }
        };
        words.extend(large(self.large_send_v4));
        words.extend(large(self.large_send_v6));
        // Extension headers and TCP options.
        words.push(if self.large_send_v6 { 0b0101 } else { 0 });
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.resize(size.into(), 0);
        bytes
    }

    /// Applies an NDIS_OFFLOAD_PARAMETERS object, as far as the hardware goes. False: it is none, or
    /// asks for what nobody has.
    pub fn set(&mut self, object: &[u8], hardware: Offloads) -> bool {
        let Ok((header, rest)) = ObjectHeader::read_from_prefix(object) else {
            return false;
        };
        let size = usize::from(header.size);
        if header.kind != object::DEFAULT || header.revision < 1 || size < 20 {
            return false;
        }
        // The bytes between header and flags: a choice each.
        let Some(&[ip, tcp4, udp4, tcp6, udp6, v1, _, large4, large6, ..]) = rest.get(..12) else {
            return false;
        };
        const LARGE_V1_ENABLED: u8 = 2;
        if object.len() < size || v1 == LARGE_V1_ENABLED {
            return false;
        }
        for (choice, tx, rx) in [
            (ip, &mut self.tx.ip, &mut self.rx.ip),
            (tcp4, &mut self.tx.tcp4, &mut self.rx.tcp4),
            (udp4, &mut self.tx.udp4, &mut self.rx.udp4),
            (tcp6, &mut self.tx.tcp6, &mut self.rx.tcp6),
            (udp6, &mut self.tx.udp6, &mut self.rx.udp6),
        ] {
            (*tx, *rx) = match choice {
                1 => (false, false),
                2 => (true, false),
                3 => (false, true),
                4 => (true, true),
                _ => (*tx, *rx),
            };
        }
        for (choice, on) in [
            (large4, &mut self.large_send_v4),
            (large6, &mut self.large_send_v6),
        ] {
            *on = match choice {
                1 => false,
                2 => true,
                _ => *on,
            };
        }
        *self = self.and(hardware);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_its_fields_where_ndis_has_them() {
        let object = Offloads::ALL.object((6, 30));
        let word = |at: usize| u32::from_le_bytes(object[at..at + 4].try_into().unwrap());
        assert_eq!((object.len(), object[0], object[1]), (156, 0xa7, 3));
        assert_eq!(word(8), 0b01_01_01_01_01, "IPv4 to the host");
        assert_eq!(word(24), 0b01_01_01_01, "IPv6 to the host");
        assert_eq!(
            [word(80), word(84), word(88)],
            [2, 0xf53c, 2],
            "LSOv2 over IPv4"
        );
        assert_eq!(
            [word(92), word(96), word(104)],
            [2, 0xf53c, 5],
            "LSOv2 over IPv6"
        );
        assert_eq!(Offloads::ALL.object((6, 1)).len(), 112);
    }

    #[test]
    fn parameters_change_what_they_name_and_no_more_than_there_is() {
        let mut object = vec![
            0x80, 1, 20, 0, 4, 2, 0, 1, 3, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0,
        ];
        let mut now = Offloads {
            large_send_v6: true,
            ..Offloads::default()
        };
        assert!(now.set(&object, Offloads::ALL));
        assert!(now.tx.ip && now.rx.ip && now.tx.tcp4 && !now.rx.tcp4);
        assert!(!now.tx.udp4 && !now.tx.udp6 && now.rx.udp6);
        assert!(now.large_send_v4 && !now.large_send_v6);
        assert!(now.set(&object, Offloads::default()));
        assert_eq!(now, Offloads::default());
        object[9] = 2;
        assert!(!now.set(&object, Offloads::ALL), "large send version 1");
        assert!(!now.set(&object[..19], Offloads::ALL), "cut off");
    }
}
