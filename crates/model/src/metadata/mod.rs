//! What a guest is told of itself when it asks for metadata.
//!
//! [`Metadata`] is the part of a port's intent that is for the guest alone;
//! [`entry::Entry`] is what the agent tells the metadata proxy of one tap.

pub mod entry;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// Where guests ask (EC2's convention; neutron-lib METADATA_V4_IP and
/// METADATA_V6_IP).
pub const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
];

/// The TCP port on which they ask.
pub const PORT: u16 = 80;

/// Most bytes of user data, as in Nova and EC2 (64 KiB).
pub const MAX_USER_DATA: usize = 64 * 1024;

/// What a guest without Nova is told of itself (OpenStack's and EC2's metadata).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Metadata {
    /// The instance's name. Absent: the port's host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where the instance is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<String>,
    /// Nova's flavor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// SSH public keys, by name.
    #[serde(default, skip_serializing_if = "PublicKeys::is_empty")]
    pub public_keys: PublicKeys,
    /// For cloud-init or whatever the image has in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<UserData>,
    /// The same from the provider: an object, with the key `cloud-init` for
    /// cloud-init.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub vendor_data: Map<String, Value>,
    /// What the user has noted at the instance.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
}

/// SSH public keys by name, each on one line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PublicKeys(BTreeMap<String, String>);

impl PublicKeys {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Name and key, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, key)| (name.as_str(), key.as_str()))
    }
}

impl<'de> Deserialize<'de> for PublicKeys {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let found = BTreeMap::<String, String>::deserialize(from)?;
        let mut keys = BTreeMap::new();
        for (name, key) in found {
            // EC2's layout has them in lists with one line each.
            let (name, key) = (name.trim(), key.trim());
            let one_line = |text: &str| !text.is_empty() && !text.contains(char::is_control);
            if !one_line(name) || !one_line(key) {
                return Err(serde::de::Error::custom(format!(
                    "the public key {name:?} or its name isn't one line of text"
                )));
            }
            keys.insert(name.to_owned(), key.to_owned());
        }
        Ok(Self(keys))
    }
}

/// User data: any bytes, at most [`MAX_USER_DATA`] of them. Written as text, or
/// as `{"base64": "…"}` where it isn't text.
#[derive(Clone, PartialEq, Eq)]
pub struct UserData(Vec<u8>);

/// User data as it is written.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected text, or an object with base64")]
#[schemars(rename = "UserData")]
enum Written {
    /// Text.
    Text(String),
    /// Bytes.
    Base64 {
        /// The bytes in base64 (RFC 4648, section 4).
        base64: String,
    },
}

impl UserData {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for UserData {
    /// It may hold passwords, and is long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserData({} bytes)", self.0.len())
    }
}

impl<'de> Deserialize<'de> for UserData {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let bytes = match Written::deserialize(from)? {
            Written::Text(text) => text.into_bytes(),
            Written::Base64 { base64 } => {
                // base64(1) and e-mail break it into lines.
                let text: String = base64.split_ascii_whitespace().collect();
                STANDARD
                    .decode(text)
                    .map_err(|error| Error::custom(format!("is not base64: {error}")))?
            }
        };
        if bytes.len() > MAX_USER_DATA {
            return Err(Error::custom(format!(
                "has {} bytes; at most {MAX_USER_DATA} are served",
                bytes.len()
            )));
        }
        Ok(Self(bytes))
    }
}

impl Serialize for UserData {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let written = match std::str::from_utf8(&self.0) {
            Ok(text) => Written::Text(text.to_owned()),
            Err(_) => Written::Base64 {
                base64: STANDARD.encode(&self.0),
            },
        };
        written.serialize(to)
    }
}

impl JsonSchema for UserData {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        Written::schema_name()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Written::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_data(written: Value) -> Result<UserData, String> {
        serde_json::from_value(written).map_err(|error| error.to_string())
    }

    /// Bytes come out as they went in, whichever way they are written: user
    /// data is often gzip.
    #[test]
    fn user_data_is_any_bytes() {
        let text = user_data("#!/bin/sh\n".into()).unwrap();
        assert_eq!(text.as_bytes(), b"#!/bin/sh\n");
        let bytes = user_data(serde_json::json!({"base64": "H4sI\nAP8="})).unwrap();
        assert_eq!(bytes.as_bytes(), [0x1f, 0x8b, 0x08, 0x00, 0xff]);
        for data in [text, bytes] {
            let written = serde_json::to_value(&data).unwrap();
            assert_eq!(user_data(written).unwrap(), data);
        }
    }

    /// What can't be served is refused where its author sees it, and logs never
    /// show what is in it.
    #[test]
    fn bad_user_data_is_refused() {
        let full = user_data("x".repeat(MAX_USER_DATA).into()).unwrap();
        assert_eq!(format!("{full:?}"), "UserData(65536 bytes)");
        let long = user_data("x".repeat(MAX_USER_DATA + 1).into()).unwrap_err();
        assert!(long.contains("65537 bytes"), "{long}");
        let odd = user_data(serde_json::json!({"base64": "é"})).unwrap_err();
        assert!(odd.contains("not base64"), "{odd}");
        assert!(user_data(1.into()).unwrap_err().contains("expected text"));
    }

    /// A line break would let a key's name forge lines of EC2's lists.
    #[test]
    fn keys_are_lines() {
        let keys = |value| serde_json::from_value::<PublicKeys>(value);
        let found = keys(serde_json::json!({"me ": "ssh-ed25519 AAAA me\n"})).unwrap();
        assert_eq!(
            found.iter().collect::<Vec<_>>(),
            [("me", "ssh-ed25519 AAAA me")]
        );
        for bad in [
            serde_json::json!({"a\nb": "k"}),
            serde_json::json!({"a": "k\nk"}),
            serde_json::json!({"": "k"}),
        ] {
            assert!(keys(bad).is_err());
        }
    }
}
