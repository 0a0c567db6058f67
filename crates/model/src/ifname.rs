//! Names of network devices, as the kernel accepts them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest device name in bytes: the kernel's `IFNAMSIZ` (linux/if.h) less the
/// terminating zero.
const MAX_LEN: usize = 15;

/// A network device's name: 1 to 15 bytes, kept inline so that keys which
/// carry it can be copied.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName {
    // Zero-padded: comparing the arrays compares the names.
    bytes: [u8; MAX_LEN],
}

/// Why a string is not a device name (`dev_valid_name` in net/core/dev.c).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IfNameError {
    /// Empty, or more than 15 bytes.
    #[error("{0:?} has {1} bytes; a device name has 1 to 15")]
    Length(String, usize),
    /// A byte that the kernel or a path below /proc/sys can't carry.
    #[error(
        "{0:?} is not a device name: only visible ASCII characters without '/', ':' and '%' are"
    )]
    Character(String),
}

impl IfName {
    /// How the names of taps begin (Nova's TAP_DEVICE_PREFIX).
    pub const TAP: Self = Self {
        bytes: *b"tap\0\0\0\0\0\0\0\0\0\0\0\0",
    };

    /// The device by which what arrives for a guest that has left by live
    /// migration goes to its new host, and comes out there.
    pub const TUNNEL: Self = Self {
        bytes: *b"l2isolate0\0\0\0\0\0",
    };

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let text = self.bytes.split(|b| *b == 0).next().unwrap_or_default();
        // Only ASCII gets in, see `from_str`.
        std::str::from_utf8(text).unwrap_or_default()
    }
}

impl FromStr for IfName {
    type Err = IfNameError;

    fn from_str(text: &str) -> Result<Self, IfNameError> {
        let shown = || text.chars().take(40).collect::<String>();
        let mut bytes = [0; MAX_LEN];
        let Some(room) = bytes.get_mut(..text.len()).filter(|room| !room.is_empty()) else {
            return Err(IfNameError::Length(shown(), text.len()));
        };
        let plain = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%');
        if !text.as_bytes().iter().all(plain) || text == "." || text == ".." {
            return Err(IfNameError::Character(shown()));
        }
        room.copy_from_slice(text.as_bytes());
        Ok(Self { bytes })
    }
}

impl TryFrom<String> for IfName {
    type Error = IfNameError;
    fn try_from(text: String) -> Result<Self, IfNameError> {
        text.parse()
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl schemars::JsonSchema for IfName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IfName".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "minLength": 1, "maxLength": 15 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit is the kernel's: 15 bytes fit, 16 don't, and bytes count, not characters.
    #[test]
    fn takes_what_the_kernel_takes() {
        assert_eq!(
            "tap89d98975-27".parse::<IfName>().unwrap().as_str(),
            "tap89d98975-27"
        );
        assert!("abcdefghijklmno".parse::<IfName>().is_ok());
        assert!(matches!(
            "abcdefghijklmnop".parse::<IfName>(),
            Err(IfNameError::Length(_, 16))
        ));
        for bad in ["", ".", "..", "a b", "a/b", "täp", "a\0b", "a:1", "tap%d"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
        }
    }
}
