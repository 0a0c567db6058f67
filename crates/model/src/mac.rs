//! Ethernet hardware addresses (EUI-48).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A unicast Ethernet address; text form `fa:16:3e:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

/// Why a string or a row of bytes is not a unicast hardware address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six pairs of hexadecimal digits with colons.
    #[error("{0:?} is not a MAC address like fa:16:3e:00:00:01")]
    Syntax(String),
    /// A group address, or all zero: no interface can have it.
    #[error("{0} is a multicast or zero address; a port needs a unicast one")]
    NotUnicast(String),
}

impl Mac {
    /// The six bytes, first on the wire first.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// From the six bytes as on the wire.
    ///
    /// # Errors
    /// [`MacError::NotUnicast`] for group addresses and zero.
    pub fn new(bytes: [u8; 6]) -> Result<Self, MacError> {
        let [first, ..] = bytes;
        if first & 1 == 1 || bytes == [0; 6] {
            return Err(MacError::NotUnicast(Self(bytes).to_string()));
        }
        Ok(Self(bytes))
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let bad = || MacError::Syntax(text.chars().take(40).collect());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            // from_str_radix would take "+f".
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        Self::new(bytes)
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;
    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl schemars::JsonSchema for Mac {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Mac".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What isn't exactly a unicast EUI-48 must not become one by accident.
    #[test]
    fn refuses_what_is_not_an_interface_address() {
        assert_eq!(
            "FA:16:3e:00:00:01".parse::<Mac>().unwrap().to_string(),
            "fa:16:3e:00:00:01"
        );
        for bad in [
            "",
            "fa:16:3e:00:00",
            "fa:16:3e:00:00:01:02",
            "fa-16-3e-00-00-01",
            "+f:16:3e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?}");
        }
    }
}
