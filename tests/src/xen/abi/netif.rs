//! The network rings: `io/netif.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Slots of one chain that every back end takes (`XEN_NETIF_NR_SLOTS_MIN`).
pub const NR_SLOTS_MIN: usize = 18;

/// `NETTXF_*`.
pub const TX_CSUM_BLANK: u16 = 1;
pub const TX_DATA_VALIDATED: u16 = 1 << 1;
pub const TX_MORE_DATA: u16 = 1 << 2;
pub const TX_EXTRA_INFO: u16 = 1 << 3;

/// `NETRXF_*`: the first two are the other way round than in [`TX_CSUM_BLANK`].
pub const RX_DATA_VALIDATED: u16 = 1;
pub const RX_CSUM_BLANK: u16 = 1 << 1;
pub const RX_MORE_DATA: u16 = 1 << 2;
pub const RX_EXTRA_INFO: u16 = 1 << 3;
pub const RX_GSO_PREFIX: u16 = 1 << 4;

/// `XEN_NETIF_EXTRA_TYPE_*` and `XEN_NETIF_EXTRA_FLAG_MORE`.
pub const EXTRA_GSO: u8 = 1;
pub const EXTRA_MCAST_ADD: u8 = 2;
pub const EXTRA_MCAST_DEL: u8 = 3;
pub const EXTRA_HASH: u8 = 4;
pub const EXTRA_MORE: u8 = 1;

/// `XEN_NETIF_GSO_TYPE_*`.
pub const GSO_TCPV4: u8 = 1;
pub const GSO_TCPV6: u8 = 2;

/// `NETIF_RSP_*`.
pub const RSP_DROPPED: i16 = -2;
pub const RSP_ERROR: i16 = -1;
pub const RSP_OKAY: i16 = 0;
pub const RSP_NULL: i16 = 1;

macro_rules! slot {
    ($(#[$doc:meta])* $name:ident, $size:literal { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $(pub $field: $type,)* }
        const _: () = assert!(size_of::<$name>() == $size);
    };
}

slot! {
    /// `struct netif_tx_request`; `size` of the first slot of a chain is the whole frame's.
    TxRequest, 12 { gref: u32, offset: u16, flags: u16, id: u16, size: u16, }
}
slot! {
    /// `struct netif_tx_response`.
    TxResponse, 4 { id: u16, status: i16, }
}
slot! {
    /// `struct netif_rx_request`.
    RxRequest, 8 { id: u16, pad: u16, gref: u32, }
}
slot! {
    /// `struct netif_rx_response`; `status` is a size in bytes, or one of `RSP_*` below 0.
    RxResponse, 8 { id: u16, offset: u16, flags: u16, status: i16, }
}
slot! {
    /// `struct netif_extra_info`, its union as bytes. In a transmit slot four more bytes follow.
    Extra, 8 { kind: u8, flags: u8, body: [u8; 6], }
}

impl Extra {
    /// A segmentation: bytes of payload in each packet, `GSO_*`.
    pub fn gso(size: u16, kind: u8) -> Self {
        let [low, high] = size.to_le_bytes();
        Extra {
            kind: EXTRA_GSO,
            flags: 0,
            body: [low, high, kind, 0, 0, 0],
        }
    }

    /// Bytes of payload in each packet, and `GSO_*`.
    pub fn gso_parts(&self) -> (u16, u8) {
        let [low, high, kind, ..] = self.body;
        (u16::from_le_bytes([low, high]), kind)
    }
}

/// `struct netif_tx_sring` and `netif_rx_sring` without their entries (`DEFINE_RING_TYPES`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RingHeader {
    pub req_prod: u32,
    pub req_event: u32,
    pub rsp_prod: u32,
    pub rsp_event: u32,
    pub pad: [u8; 48],
}
const _: () = assert!(size_of::<RingHeader>() == 64);

/// Bytes of an entry of the transmit ring: a request, a response or an extra.
pub const TX_ENTRY: usize = 12;
/// Bytes of an entry of the receive ring.
pub const RX_ENTRY: usize = 8;
/// Entries of a ring of one page, of either kind: the largest power of two that fits.
pub const ENTRIES: u32 = 256;
const _: () = assert!(64 + 256 * TX_ENTRY <= 4096 && 64 + 512 * RX_ENTRY > 4096);
