//! The network interface on the wire: `xen/include/public/io/netif.h` and `io/ring.h`.

use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XEN_NETIF_NR_SLOTS_MIN`: slots of one frame that every back end takes.
pub const NR_SLOTS_MIN: usize = 18;
/// `XEN_NETIF_MAX_TX_SIZE`: bytes of one frame at most.
pub const MAX_TX_SIZE: u16 = 0xffff;

/// `NETTXF_csum_blank`: the transport checksum is to be filled in.
pub const TXF_CSUM_BLANK: u16 = 1;
/// `NETTXF_data_validated`: the data is as good as its sender.
pub const TXF_DATA_VALIDATED: u16 = 2;
/// `NETTXF_more_data`: the frame goes on in the next request.
pub const TXF_MORE_DATA: u16 = 4;
/// `NETTXF_extra_info`: an [`ExtraInfo`] follows.
pub const TXF_EXTRA_INFO: u16 = 8;

/// `NETRXF_data_validated`: the data was checked against its checksum.
pub const RXF_DATA_VALIDATED: u16 = 1;
/// `NETRXF_csum_blank`: the transport checksum is not filled in.
pub const RXF_CSUM_BLANK: u16 = 2;
/// `NETRXF_more_data`: the frame goes on in the next response.
pub const RXF_MORE_DATA: u16 = 4;
/// `NETRXF_extra_info`: an [`ExtraInfo`] follows.
pub const RXF_EXTRA_INFO: u16 = 8;
/// `NETRXF_gso_prefix`: segmentation the old way, which this front end never asks for.
pub const RXF_GSO_PREFIX: u16 = 16;

/// `XEN_NETIF_EXTRA_TYPE_GSO`.
pub const EXTRA_TYPE_GSO: u8 = 1;
/// `XEN_NETIF_EXTRA_TYPE_MCAST_ADD`.
pub const EXTRA_TYPE_MCAST_ADD: u8 = 2;
/// `XEN_NETIF_EXTRA_TYPE_MCAST_DEL`.
pub const EXTRA_TYPE_MCAST_DEL: u8 = 3;
/// `XEN_NETIF_EXTRA_TYPE_HASH`.
pub const EXTRA_TYPE_HASH: u8 = 4;
/// `XEN_NETIF_EXTRA_TYPE_MAX`: extras of one frame are fewer, for each type comes once.
pub const EXTRA_TYPE_MAX: u8 = 5;
/// `XEN_NETIF_EXTRA_FLAG_MORE`: another [`ExtraInfo`] follows.
pub const EXTRA_FLAG_MORE: u8 = 1;
/// `XEN_NETIF_GSO_TYPE_TCPV4`.
pub const GSO_TYPE_TCPV4: u8 = 1;
/// `XEN_NETIF_GSO_TYPE_TCPV6`.
pub const GSO_TYPE_TCPV6: u8 = 2;

/// `NETIF_RSP_DROPPED`.
pub const RSP_DROPPED: i16 = -2;
/// `NETIF_RSP_ERROR`.
pub const RSP_ERROR: i16 = -1;
/// `NETIF_RSP_OKAY`.
pub const RSP_OKAY: i16 = 0;
/// `NETIF_RSP_NULL`: answers an [`ExtraInfo`].
pub const RSP_NULL: i16 = 1;

/// `netif_tx_request`: a piece of a frame to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TxRequest {
    /// Grant reference of the page.
    pub gref: u32,
    /// Where the bytes start in the page.
    pub offset: u16,
    /// `NETTXF_*`.
    pub flags: u16,
    /// Echoed in the response.
    pub id: u16,
    /// Bytes: of the whole frame in its first request, of the piece in the others.
    pub size: u16,
}

/// `netif_tx_response`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TxResponse {
    /// The request's; means nothing in an answer to an extra.
    pub id: u16,
    /// `NETIF_RSP_*`.
    pub status: i16,
}

/// `netif_rx_request`: a page to receive into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RxRequest {
    /// Echoed in the response.
    pub id: u16,
    /// Padding.
    pub pad: u16,
    /// Grant reference of the page.
    pub gref: u32,
}

/// `netif_rx_response`: a piece of a received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RxResponse {
    /// The request's, which was in the same slot of the ring.
    pub id: u16,
    /// Where the bytes start in the page.
    pub offset: u16,
    /// `NETRXF_*`.
    pub flags: u16,
    /// How many bytes, or negative: `NETIF_RSP_*`.
    pub status: i16,
}

/// `netif_extra_info` with `u.gso`, in place of a request or a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExtraInfo {
    /// `XEN_NETIF_EXTRA_TYPE_*`.
    pub r#type: u8,
    /// `XEN_NETIF_EXTRA_FLAG_*`.
    pub flags: u8,
    /// Bytes of payload in each packet.
    pub gso_size: u16,
    /// `XEN_NETIF_GSO_TYPE_*`.
    pub gso_type: u8,
    /// Padding.
    pub pad: u8,
    /// Other segmentation features: none are defined.
    pub gso_features: u16,
}

/// `netif_extra_info` with `u.hash`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExtraHash {
    /// [`EXTRA_TYPE_HASH`].
    pub r#type: u8,
    /// `XEN_NETIF_EXTRA_FLAG_*`.
    pub flags: u8,
    /// Over which headers.
    pub hash_type: u8,
    /// By which algorithm.
    pub algorithm: u8,
    /// The hash, least significant byte first.
    pub value: [u8; 4],
}

/// Where things are in a ring page (`DEFINE_RING_TYPES`): `req_prod`, `req_event`, `rsp_prod`,
/// `rsp_event`, then the ring.
pub const REQ_PROD: usize = 0;
/// See [`REQ_PROD`].
pub const REQ_EVENT: usize = 4;
/// See [`REQ_PROD`].
pub const RSP_PROD: usize = 8;
/// See [`REQ_PROD`].
pub const RSP_EVENT: usize = 12;
/// See [`REQ_PROD`].
pub const RING: usize = 64;
/// `__CONST_RING_SIZE(netif_tx, 4096)` and `__CONST_RING_SIZE(netif_rx, 4096)`: entries in a ring
/// of one page.
pub const RING_SIZE: u32 = 256;

const _: () = {
    // The largest power of two of entries that fit (`__RD32`).
    assert!(((4096 - RING) / size_of::<TxRequest>()).ilog2() == RING_SIZE.ilog2());
    assert!(((4096 - RING) / size_of::<RxRequest>()).ilog2() == RING_SIZE.ilog2());
    assert!(size_of::<TxRequest>() == 12);
    assert!(offset_of!(TxRequest, offset) == 4);
    assert!(offset_of!(TxRequest, flags) == 6);
    assert!(offset_of!(TxRequest, id) == 8);
    assert!(offset_of!(TxRequest, size) == 10);
    assert!(size_of::<TxResponse>() == 4);
    assert!(offset_of!(TxResponse, status) == 2);
    assert!(size_of::<RxRequest>() == 8);
    assert!(offset_of!(RxRequest, gref) == 4);
    assert!(size_of::<RxResponse>() == 8);
    assert!(offset_of!(RxResponse, offset) == 2);
    assert!(offset_of!(RxResponse, flags) == 4);
    assert!(offset_of!(RxResponse, status) == 6);
    assert!(size_of::<ExtraInfo>() == 8);
    assert!(offset_of!(ExtraInfo, gso_size) == 2);
    assert!(offset_of!(ExtraInfo, gso_type) == 4);
    assert!(offset_of!(ExtraInfo, gso_features) == 6);
    assert!(size_of::<ExtraHash>() == 8);
    assert!(offset_of!(ExtraHash, value) == 4);
};
