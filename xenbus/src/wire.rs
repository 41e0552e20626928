//! Xenstore's wire format (`xen/include/public/io/xs_wire.h`). Fields keep the header's names.

use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a message asks or answers: `enum xsd_sockmsg_type`. The host may send others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct MessageType(pub u32);

impl MessageType {
    /// `XS_DIRECTORY`: names of the children.
    pub const DIRECTORY: Self = Self(1);
    /// `XS_READ`.
    pub const READ: Self = Self(2);
    /// `XS_WATCH`.
    pub const WATCH: Self = Self(4);
    /// `XS_UNWATCH`.
    pub const UNWATCH: Self = Self(5);
    /// `XS_TRANSACTION_START`.
    pub const TRANSACTION_START: Self = Self(6);
    /// `XS_TRANSACTION_END`.
    pub const TRANSACTION_END: Self = Self(7);
    /// `XS_WRITE`.
    pub const WRITE: Self = Self(11);
    /// `XS_MKDIR`.
    pub const MKDIR: Self = Self(12);
    /// `XS_RM`.
    pub const RM: Self = Self(13);
    /// `XS_WATCH_EVENT`: from the host only.
    pub const WATCH_EVENT: Self = Self(15);
    /// `XS_ERROR`: from the host only.
    pub const ERROR: Self = Self(16);
    /// `XS_RESET_WATCHES`.
    pub const RESET_WATCHES: Self = Self(21);
    /// `XS_DIRECTORY_PART`: a part of a list too long for one message.
    pub const DIRECTORY_PART: Self = Self(22);
}

/// The head of every message: `struct xsd_sockmsg`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XsdSockmsg {
    /// What it is.
    pub r#type: MessageType,
    /// The asker's number for the request; echoed.
    pub req_id: u32,
    /// The transaction, or 0.
    pub tx_id: u32,
    /// Bytes that follow.
    pub len: u32,
}

/// Bytes of [`XsdSockmsg`].
pub const HEADER: usize = size_of::<XsdSockmsg>();

/// `XENSTORE_RING_SIZE`: bytes of each ring.
pub const RING: usize = 1024;
/// `XENSTORE_PAYLOAD_MAX`: a longer request ends the connection for good.
pub const PAYLOAD_MAX: usize = 4096;
/// `XENSTORE_REL_PATH_MAX`: bytes of a relative path; an absolute one may be longer.
pub const REL_PATH_MAX: usize = 2048;
/// `XENSTORE_ABS_PATH_MAX`.
pub const ABS_PATH_MAX: usize = 3072;

/// `XENSTORE_SERVER_FEATURE_RECONNECTION`: the ring can be reset.
pub const FEATURE_RECONNECTION: u32 = 1;
/// `XENSTORE_SERVER_FEATURE_ERROR`: the page has its `error` field.
pub const FEATURE_ERROR: u32 = 2;
/// `XENSTORE_CONNECTED`.
pub const CONNECTED: u32 = 0;
/// `XENSTORE_RECONNECT`: asks for a reset; the host answers with [`CONNECTED`].
pub const RECONNECT: u32 = 1;

/// The shared page: `struct xenstore_domain_interface`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenstoreDomainInterface {
    /// Requests.
    pub req: [u8; RING],
    /// Replies and watch events.
    pub rsp: [u8; RING],
    /// The host's place in `req`.
    pub req_cons: u32,
    /// Ours in `req`.
    pub req_prod: u32,
    /// Ours in `rsp`.
    pub rsp_cons: u32,
    /// The host's in `rsp`.
    pub rsp_prod: u32,
    /// What the host can.
    pub server_features: u32,
    /// [`CONNECTED`] or [`RECONNECT`].
    pub connection: u32,
    /// Why the host gave the connection up; 0 while it has not.
    pub error: u32,
    /// Only for domains started without a tool stack.
    pub evtchn_port: u32,
}

const _: () = {
    assert!(HEADER == 16);
    assert!(offset_of!(XsdSockmsg, r#type) == 0 && offset_of!(XsdSockmsg, req_id) == 4);
    assert!(offset_of!(XsdSockmsg, tx_id) == 8 && offset_of!(XsdSockmsg, len) == 12);
    assert!(size_of::<XenstoreDomainInterface>() == 2080);
    assert!(offset_of!(XenstoreDomainInterface, req) == 0);
    assert!(offset_of!(XenstoreDomainInterface, rsp) == 1024);
    assert!(offset_of!(XenstoreDomainInterface, req_cons) == 2048);
    assert!(offset_of!(XenstoreDomainInterface, req_prod) == 2052);
    assert!(offset_of!(XenstoreDomainInterface, rsp_cons) == 2056);
    assert!(offset_of!(XenstoreDomainInterface, rsp_prod) == 2060);
    assert!(offset_of!(XenstoreDomainInterface, server_features) == 2064);
    assert!(offset_of!(XenstoreDomainInterface, connection) == 2068);
    assert!(offset_of!(XenstoreDomainInterface, error) == 2072);
    assert!(offset_of!(XenstoreDomainInterface, evtchn_port) == 2076);
};
