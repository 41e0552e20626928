//! Versions of the protocol.

use core::fmt;

/// A version: major number in the upper half, minor in the lower.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32);

impl Version {
    /// Windows Server 2012.
    pub const V2_4: Self = Self::new(2, 4);
    /// 2012 R2: messages may go to another processor than the first.
    pub const V3_0: Self = Self::new(3, 0);
    /// 2016.
    pub const V4_0: Self = Self::new(4, 0);
    /// 1709: a channel can change its processor.
    pub const V4_1: Self = Self::new(4, 1);
    /// 1803: the host names the connection for messages.
    pub const V5_0: Self = Self::new(5, 0);
    /// 1803.
    pub const V5_1: Self = Self::new(5, 1);
    /// 2019.
    pub const V5_2: Self = Self::new(5, 2);
    /// 2022.
    pub const V5_3: Self = Self::new(5, 3);
    /// "Copper": feature flags.
    pub const V6_0: Self = Self::new(6, 0);

    /// What this library speaks, newest first.
    pub const ALL: [Self; 9] = [
        Self::V6_0,
        Self::V5_3,
        Self::V5_2,
        Self::V5_1,
        Self::V5_0,
        Self::V4_1,
        Self::V4_0,
        Self::V3_0,
        Self::V2_4,
    ];

    /// From its two numbers.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self((major as u32) << 16 | minor as u32)
    }

    /// Major number.
    pub const fn major(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Minor number.
    pub const fn minor(self) -> u16 {
        self.0 as u16
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
