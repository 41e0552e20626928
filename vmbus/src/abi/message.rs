//! Control messages: what host and guest post to each other.
//!
//! Source of every structure: OpenVMM, `vmbus_core/src/protocol.rs`, where it has the same name;
//! Linux, `include/linux/hyperv.h`, `struct vmbus_channel_*`. Each follows an 8-byte [`Header`].

use super::guid::Guid;
use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes a message holds at most.
pub const MESSAGE_BYTES: usize = 240;

/// Connection for messages before version 5.0.
pub const OLD_CONNECTION: u32 = 1;
/// Connection for the first message from version 5.0 on.
pub const CONTACT_CONNECTION: u32 = 4;

/// Relids are event flags, of which there are 2048.
pub const RELIDS: u32 = 2048;

/// The type of a message. Unknown values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Kind(pub u32);

#[expect(missing_docs, reason = "the names are the protocol's")]
impl Kind {
    pub const OFFER_CHANNEL: Self = Self(1);
    pub const RESCIND_CHANNEL_OFFER: Self = Self(2);
    pub const REQUEST_OFFERS: Self = Self(3);
    pub const ALL_OFFERS_DELIVERED: Self = Self(4);
    pub const OPEN_CHANNEL: Self = Self(5);
    pub const OPEN_CHANNEL_RESULT: Self = Self(6);
    pub const CLOSE_CHANNEL: Self = Self(7);
    pub const GPADL_HEADER: Self = Self(8);
    pub const GPADL_BODY: Self = Self(9);
    pub const GPADL_CREATED: Self = Self(10);
    pub const GPADL_TEARDOWN: Self = Self(11);
    pub const GPADL_TORNDOWN: Self = Self(12);
    pub const REL_ID_RELEASED: Self = Self(13);
    pub const INITIATE_CONTACT: Self = Self(14);
    pub const VERSION_RESPONSE: Self = Self(15);
    pub const UNLOAD: Self = Self(16);
    pub const UNLOAD_COMPLETE: Self = Self(17);
}

/// The start of every message.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Zero.
    pub padding: u32,
}
const _: () = assert!(size_of::<Header>() == 8);

/// A structure that follows the header.
pub trait Body: IntoBytes + Immutable {
    /// The type that announces it.
    const KIND: Kind;
}

macro_rules! bodies {
    ($($body:ident = $kind:ident, $size:literal;)*) => {$(
        impl Body for $body {
            const KIND: Kind = Kind::$kind;
        }
        const _: () = assert!(size_of::<$body>() == $size);
        const _: () = assert!(size_of::<Header>() + size_of::<$body>() <= MESSAGE_BYTES);
    )*};
}

bodies! {
    OfferChannel = OFFER_CHANNEL, 188;
    RescindChannelOffer = RESCIND_CHANNEL_OFFER, 4;
    RequestOffers = REQUEST_OFFERS, 0;
    OpenChannel = OPEN_CHANNEL, 140;
    OpenResult = OPEN_CHANNEL_RESULT, 12;
    CloseChannel = CLOSE_CHANNEL, 4;
    GpadlHeader = GPADL_HEADER, 12;
    GpadlBody = GPADL_BODY, 8;
    GpadlCreated = GPADL_CREATED, 12;
    GpadlTeardown = GPADL_TEARDOWN, 8;
    GpadlTorndown = GPADL_TORNDOWN, 4;
    RelIdReleased = REL_ID_RELEASED, 4;
    InitiateContact = INITIATE_CONTACT, 32;
    VersionResponse = VERSION_RESPONSE, 12;
    Unload = UNLOAD, 0;
}

/// Host to guest: here is a channel.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OfferChannel {
    /// What kind of device.
    pub interface: Guid,
    /// Which device.
    pub instance: Guid,
    /// Zero.
    pub reserved: [u32; 4],
    /// Bit 0: enumerate; bit 4: a pipe; bit 13: a socket.
    pub flags: u16,
    /// MiB of MMIO space the device wants.
    pub mmio_megabytes: u16,
    /// What the device says of itself.
    pub user_data: [u8; 120],
    /// 0 for a device's first channel.
    pub subchannel_index: u16,
    /// MiB of MMIO space the device could use.
    pub mmio_megabytes_optional: u16,
    /// The channel's number, and its event flag towards the guest.
    pub relid: u32,
    /// A bit in the monitor pages, which this library has none of.
    pub monitor_id: u8,
    /// Whether `monitor_id` means something.
    pub monitor_allocated: u8,
    /// Whether the channel has a connection of its own; always, from 2.4 on.
    pub is_dedicated: u16,
    /// What HvSignalEvent names to reach the host's end.
    pub connection_id: u32,
}
const _: () = assert!(offset_of!(OfferChannel, user_data) == 52);
const _: () = assert!(offset_of!(OfferChannel, subchannel_index) == 172);
const _: () = assert!(offset_of!(OfferChannel, relid) == 176);
const _: () = assert!(offset_of!(OfferChannel, connection_id) == 184);

/// Host to guest: the channel is going.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RescindChannelOffer {
    /// Which channel.
    pub relid: u32,
}

/// Guest to host: offer what there is.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestOffers {}

/// Guest to host: open a channel.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OpenChannel {
    /// Which channel.
    pub relid: u32,
    /// Comes back in the result.
    pub open_id: u32,
    /// The GPADL of both rings.
    pub ring_gpadl: u32,
    /// The processor that the host interrupts.
    pub target_vp: u32,
    /// Where the host-to-guest ring starts, in pages of the GPADL.
    pub downstream_page: u32,
    /// For the device.
    pub user_data: [u8; 120],
}
const _: () = assert!(offset_of!(OpenChannel, user_data) == 20);

/// Host to guest: how opening went.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OpenResult {
    /// Which channel.
    pub relid: u32,
    /// From the request.
    pub open_id: u32,
    /// 0 or an NTSTATUS.
    pub status: u32,
}

/// Guest to host: the channel is closed. There is no answer.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CloseChannel {
    /// Which channel.
    pub relid: u32,
}

/// Guest to host: here are pages. Words follow: a [`GpaRange`](super::packet::GpaRange), then
/// frame numbers, as many as fit; the others come in [`GpadlBody`] messages.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GpadlHeader {
    /// For which channel.
    pub relid: u32,
    /// The guest's number for the list; never 0.
    pub gpadl: u32,
    /// Bytes of all words, of the bodies' too.
    pub range_bytes: u16,
    /// How many ranges.
    pub range_count: u16,
}

/// Guest to host: more words of a GPADL.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GpadlBody {
    /// Zero; hosts go by the order.
    pub message_number: u32,
    /// Which GPADL.
    pub gpadl: u32,
}

/// Words that fit behind a [`GpadlHeader`].
pub const HEADER_WORDS: usize = (MESSAGE_BYTES - size_of::<Header>() - 12) / 8;
/// Words that fit behind a [`GpadlBody`].
pub const BODY_WORDS: usize = (MESSAGE_BYTES - size_of::<Header>() - 8) / 8;
const _: () = assert!(HEADER_WORDS == 27 && BODY_WORDS == 28);

/// Host to guest: how making a GPADL went.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GpadlCreated {
    /// For which channel.
    pub relid: u32,
    /// Which GPADL.
    pub gpadl: u32,
    /// 0 or an NTSTATUS.
    pub status: u32,
}

/// Guest to host: let go of a GPADL.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GpadlTeardown {
    /// Of which channel.
    pub relid: u32,
    /// Which GPADL.
    pub gpadl: u32,
}

/// Host to guest: the GPADL's pages are the guest's again.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GpadlTorndown {
    /// Which GPADL.
    pub gpadl: u32,
}

/// Guest to host: the guest is done with a channel that was rescinded.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RelIdReleased {
    /// Which channel.
    pub relid: u32,
}

/// Guest to host: let us speak this version.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitiateContact {
    /// Which version.
    pub version: u32,
    /// The processor that messages go to, from 3.0 on.
    pub target_vp: u32,
    /// The SINT that messages go to, from 5.0 on. Before, this and the next three were the
    /// address of an interrupt page, which hosts ignore from 2.4 on.
    pub sint: u8,
    /// The trust level, from 5.0 on; 0.
    pub vtl: u8,
    /// Zero.
    pub reserved: u16,
    /// Features the guest would use, from 6.0 on.
    pub features: u32,
    /// Two monitor pages; zeroes for none.
    pub monitor_pages: [u64; 2],
}
const _: () = assert!(offset_of!(InitiateContact, sint) == 8);
const _: () = assert!(offset_of!(InitiateContact, features) == 12);
const _: () = assert!(offset_of!(InitiateContact, monitor_pages) == 16);

/// Host to guest: whether it speaks that version. Hosts leave out fields from the end: QEMU all
/// but the first two, others the features before 6.0.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VersionResponse {
    /// Whether it does.
    pub supported: u8,
    /// 0 when the connection stands.
    pub connection_state: u8,
    /// Zero.
    pub padding: u16,
    /// From 5.0 on, the connection for all further messages; before, the version.
    pub connection: u32,
    /// Features, from 6.0 on.
    pub features: u32,
}
const _: () = assert!(offset_of!(VersionResponse, connection) == 4);

/// Guest to host: good-bye.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Unload {}
