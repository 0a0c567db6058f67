//! Identifiers of intent objects: Neutron's UUIDs, or any short name that can
//! also be a file's name (the cache keeps one file per object).

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Longest identifier accepted, in bytes. A UUID has 36.
const MAX_LEN: usize = 64;

/// Why a string is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an id: 1 to 64 of the characters A-Z a-z 0-9 . _ -, beginning with a letter or digit"
)]
pub struct IdError(String);

fn check(text: &str) -> Result<(), IdError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ok = text.len() <= MAX_LEN
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(plain);
    if ok {
        Ok(())
    } else {
        Err(IdError(text.chars().take(80).collect()))
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
                })
            }
        }
    )*};
}

ids! {
    /// A Neutron port's UUID.
    PortId
    /// A Neutron subnet's UUID.
    SubnetId
    /// A Neutron security group's UUID.
    GroupId
    /// A Neutron address group's UUID.
    AddressGroupId
}
