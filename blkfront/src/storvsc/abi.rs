//! The storage protocol on the wire: `vstor_packet` and `vmscsi_request` of Linux's
//! `drivers/scsi/storvsc_drv.c`, OpenVMM's `storvsp_protocol`.

use bitflags::bitflags;
use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a [`Packet`] is for (`enum vstor_packet_operation`). Host-chosen, so unknown values are
/// kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Operation(pub u32);

impl Operation {
    /// The host's answer to any request.
    pub const COMPLETE_IO: Self = Self(1);
    /// The host takes a disk away.
    pub const REMOVE_DEVICE: Self = Self(2);
    /// A SCSI command.
    pub const EXECUTE_SRB: Self = Self(3);
    /// First step of the set-up.
    pub const BEGIN_INITIALIZATION: Self = Self(7);
    /// Last step of the set-up.
    pub const END_INITIALIZATION: Self = Self(8);
    /// Proposes a version.
    pub const QUERY_PROTOCOL_VERSION: Self = Self(9);
    /// Asks for [`Properties`].
    pub const QUERY_PROPERTIES: Self = Self(10);
    /// The host says: disks came or went. Comes unasked.
    pub const ENUMERATE_BUS: Self = Self(11);
}

/// A version, major in the upper byte (`VMSTOR_PROTO_VERSION`).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Version(pub u16);

impl Version {
    /// Windows 10, Server 2016.
    pub const WIN10: Self = Self(0x0602);
    /// Windows 8.1, Server 2012 R2.
    pub const WIN8_1: Self = Self(0x0600);
    /// Windows 8, Server 2012.
    pub const WIN8: Self = Self(0x0501);
    /// Windows 7, Server 2008 R2.
    pub const WIN7: Self = Self(0x0402);
    /// Server 2008.
    pub const WIN6: Self = Self(0x0200);
    /// All of them, the best first.
    pub const ALL: [Self; 5] = [
        Self::WIN10,
        Self::WIN8_1,
        Self::WIN8,
        Self::WIN7,
        Self::WIN6,
    ];

    /// How many bytes of a [`Packet`] hosts of this version exchange: before Windows 8 the request
    /// ends without [`Packet::win8`], and hosts check the size.
    pub const fn packet_size(self) -> usize {
        if self.0 >= Self::WIN8.0 { 64 } else { 48 }
    }

    /// Bytes of sense data the host may return.
    pub const fn sense_size(self) -> u8 {
        if self.0 >= Self::WIN8.0 { 0x14 } else { 0x12 }
    }
}

bitflags! {
    /// `SRB_FLAGS_*`: how a request is to be carried out.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct SrbFlags: u32 {
        /// The queue tag is meant.
        const QUEUE_ACTION_ENABLE = 0x02;
        /// Both sides may transfer out of order.
        const DISABLE_SYNCH_TRANSFER = 0x08;
        /// The device to the guest.
        const DATA_IN = 0x40;
        /// The guest to the device.
        const DATA_OUT = 0x80;
        /// An error does not stop the queue.
        const NO_QUEUE_FREEZE = 0x100;
    }
}

/// Which way the data of a request goes (`vmscsi_request.data_in`).
pub const DATA_WRITE: u8 = 0;
/// See [`DATA_WRITE`].
pub const DATA_READ: u8 = 1;
/// No data: the transfer length must be 0.
pub const DATA_NONE: u8 = 2;

/// A SCSI request (`vmscsi_request`), as much of it as every version has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Srb {
    /// Bytes in this structure.
    pub length: u16,
    /// Status of the request: six bits and two flags, see [`SrbStatus`].
    pub srb_status: u8,
    /// Status of the device.
    pub scsi_status: u8,
    /// The adapter.
    pub port_number: u8,
    /// The bus.
    pub path_id: u8,
    /// The target.
    pub target_id: u8,
    /// The logical unit.
    pub lun: u8,
    /// Bytes of the command.
    pub cdb_length: u8,
    /// Bytes of sense data: room on the way there, how many came on the way back.
    pub sense_info_length: u8,
    /// [`DATA_READ`], [`DATA_WRITE`] or [`DATA_NONE`].
    pub data_in: u8,
    /// Reserved.
    pub reserved: u8,
    /// Bytes of data, and on the way back how many were moved.
    pub data_transfer_length: u32,
    /// The command, or on the way back the sense data.
    pub cdb: [u8; 20],
}

/// What Windows 8 added to a request (`vmscsi_win8_extension`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Win8 {
    /// Reserved.
    pub reserved: u16,
    /// The queue tag; 0xff is none.
    pub queue_tag: u8,
    /// How the tag is meant; 0x20 is simple.
    pub queue_action: u8,
    /// [`SrbFlags`].
    pub srb_flags: u32,
    /// Seconds until the host gives up; 0 is its default.
    pub time_out_value: u32,
    /// Queue order.
    pub queue_sort_key: u32,
}

/// Every message to and from a host before Windows 8 (`vstor_packet`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShortPacket {
    /// What it is for.
    pub operation: Operation,
    /// Bit 0: the sender wants a completion.
    pub flags: u32,
    /// 0 when the host could do what was asked (an NTSTATUS).
    pub status: u32,
    /// The request; other messages use its first bytes for their own.
    pub srb: Srb,
}

/// Every message to and from the host (`vstor_packet`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Packet {
    /// What every version has.
    pub short: ShortPacket,
    /// The later part of a request; unused before Windows 8.
    pub win8: Win8,
}

/// [`ShortPacket::flags`]: the sender wants a completion.
pub const REQUEST_COMPLETION: u32 = 1;

/// The body of [`Operation::QUERY_PROTOCOL_VERSION`] (`vmstorage_protocol_version`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProtocolVersion {
    /// The version.
    pub major_minor: Version,
    /// The proposer's revision; not looked at.
    pub revision: u16,
}

/// The body of the answer to [`Operation::QUERY_PROPERTIES`] (`vmstorage_channel_properties`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Properties {
    /// Reserved.
    pub reserved: u32,
    /// How many sub-channels may be asked for.
    pub max_channel_count: u16,
    /// Reserved.
    pub reserved1: u16,
    /// Bit 0: sub-channels are there.
    pub flags: u32,
    /// The most bytes of one request.
    pub max_transfer_bytes: u32,
    /// Reserved.
    pub reserved2: [u32; 2],
}

/// A request's status (`SRB_STATUS_*`): six bits and two flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SrbStatus(pub u8);

impl SrbStatus {
    /// Nothing went wrong.
    pub const SUCCESS: u8 = 0x01;
    /// The host gave up.
    pub const ABORTED: u8 = 0x02;
    /// The device says no; see the SCSI status and sense.
    pub const ERROR: u8 = 0x04;
    /// The host does not know the request.
    pub const INVALID_REQUEST: u8 = 0x06;
    /// There is no such device.
    pub const NO_DEVICE: u8 = 0x08;
    /// Fewer or more bytes came than were asked for.
    pub const DATA_OVERRUN: u8 = 0x12;
    /// There is no such logical unit.
    pub const INVALID_LUN: u8 = 0x20;
    /// The host has no memory: nothing was done.
    pub const INTERNAL_ERROR: u8 = 0x30;

    /// The status without its flags.
    pub fn code(self) -> u8 {
        self.0 & 0x3f
    }

    /// Whether the answer holds sense data.
    pub fn has_sense(self) -> bool {
        self.0 & 0x80 != 0
    }
}

const _: () = {
    assert!(size_of::<Srb>() == 0x24);
    assert!(offset_of!(Srb, lun) == 7);
    assert!(offset_of!(Srb, data_in) == 10);
    assert!(offset_of!(Srb, data_transfer_length) == 12);
    assert!(offset_of!(Srb, cdb) == 16);
    assert!(size_of::<Win8>() == 0x10);
    assert!(offset_of!(Win8, srb_flags) == 4);
    assert!(size_of::<Packet>() == 64);
    assert!(size_of::<ShortPacket>() == 48);
    assert!(offset_of!(ShortPacket, srb) == 12);
    assert!(offset_of!(Packet, win8) == 48);
    assert!(size_of::<ProtocolVersion>() == 4);
    assert!(size_of::<Properties>() == 24);
    assert!(offset_of!(Properties, max_transfer_bytes) == 12);
};
