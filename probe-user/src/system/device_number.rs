//! The number of a block device.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// Bits of the minor number in the kernel's own `dev_t` (`MINORBITS` of `include/linux/kdev_t.h`).
const MINOR_BITS: u32 = 20;

/// A device number, in the notation of mountinfo and sysfs: `8:1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceNumber {
    pub major: u32,
    pub minor: u32,
}

impl DeviceNumber {
    /// Returns the kernel's own encoding, which its tracepoints use: `major << 20 | minor`. `stat` returns a
    /// different one.
    pub const fn kernel(self) -> u32 {
        self.major << MINOR_BITS | self.minor
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// A text is not `major:minor`.
#[derive(Debug, thiserror::Error)]
#[error("cannot read a device number")]
pub struct DeviceNumberError;

impl FromStr for DeviceNumber {
    type Err = DeviceNumberError;

    fn from_str(text: &str) -> Result<Self, DeviceNumberError> {
        let (major, minor) = text.trim_end().split_once(':').ok_or(DeviceNumberError)?;
        let number = |digits: &str| digits.parse().map_err(|_| DeviceNumberError);
        Ok(Self { major: number(major)?, minor: number(minor)? })
    }
}

impl Serialize for DeviceNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
