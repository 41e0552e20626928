//! GUIDs, and those that name classes of devices.

use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A GUID as it lies in memory: three little-endian numbers, then eight bytes.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// From its printed form, read as one number.
    pub const fn new(printed: u128) -> Self {
        let b = printed.to_be_bytes();
        Self([
            b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13],
            b[14], b[15],
        ])
    }

    /// Its printed form, read as one number.
    pub const fn printed(self) -> u128 {
        // The swap of the three numbers is its own inverse.
        u128::from_be_bytes(Self::new(u128::from_be_bytes(self.0)).0)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.printed();
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            n >> 96,
            n >> 80 & 0xffff,
            n >> 64 & 0xffff,
            n >> 48 & 0xffff,
            n & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A SCSI controller.
pub const SCSI: Guid = Guid::new(0xba6163d9_04a1_4d29_b605_72e2ffb1dc7f);
/// A synthetic network interface.
pub const NET: Guid = Guid::new(0xf8615163_df3e_46c5_913f_f2d2f965ed0e);
/// The fast path of an emulated IDE disk.
pub const IDE: Guid = Guid::new(0x32412632_86cb_44a2_9b5c_50d1417354f5);

/// Short names of the classes that hosts offer (Linux, `include/linux/hyperv.h`).
const NAMES: [(Guid, &str); 19] = [
    (SCSI, "scsi"),
    (NET, "net"),
    (IDE, "ide"),
    (Guid::new(0x2f9bcc4a_0069_4af3_b76b_6fd0be528cda), "fc"),
    (
        Guid::new(0x0e0b6031_5213_4934_818b_38d90ced39db),
        "shutdown",
    ),
    (
        Guid::new(0x9527e630_d0ae_497b_adce_e80ab0175caf),
        "timesync",
    ),
    (
        Guid::new(0x57164f39_9115_4e78_ab55_382f3bd5422d),
        "heartbeat",
    ),
    (Guid::new(0xa9a0f4e7_5a45_4d96_b827_8a841e8c03e6), "kvp"),
    (Guid::new(0x35fa2e29_ea23_4236_96ae_3a6ebacba440), "vss"),
    (
        Guid::new(0x34d14be3_dee4_41c8_9ae7_6b174977c192),
        "filecopy",
    ),
    (Guid::new(0x525074dc_8985_46e2_8057_a307dc18a502), "balloon"),
    (Guid::new(0x44c4f61d_4444_4400_9d52_802e27ede19f), "pci"),
    (
        Guid::new(0xf912ad6d_2b17_48ea_bd65_f927a61c7684),
        "keyboard",
    ),
    (Guid::new(0xcfa8b69e_5b4a_4cc0_b98b_8ba1a1f3f95a), "mouse"),
    (Guid::new(0xda0a7802_e377_4aac_8e77_0558eb1073f8), "video"),
    (Guid::new(0x8c2eaf3d_32a7_4b09_ab99_bd1f1c86b501), "rdma"),
    (Guid::new(0x8b60ccf6_709f_4c11_90b5_229c959a9e6a), "uart"),
    (Guid::new(0x276aacf4_ac15_426c_98dd_7521ad3f01fe), "rdv"),
    (
        Guid::new(0x3375baf4_9e15_4b30_b765_67acb10d607b),
        "activation",
    ),
];

/// The short name of a class of devices, if it is a known one.
pub fn class_name(class: Guid) -> Option<&'static str> {
    NAMES
        .iter()
        .find(|(g, _)| *g == class)
        .map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn guids_print_as_they_are_written() {
        assert_eq!(SCSI.to_string(), "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f");
        assert_eq!(SCSI.0[..6], [0xd9, 0x63, 0x61, 0xba, 0xa1, 0x04]);
        assert_eq!(SCSI.0[14..], [0xdc, 0x7f]);
        assert_eq!(Guid::new(NET.printed()), NET);
        assert_eq!(class_name(IDE), Some("ide"));
        assert_eq!(class_name(Guid::default()), None);
    }
}
