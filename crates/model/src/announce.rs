//! What is announced to the fabric, as data: each prefix with its attributes.
//!
//! As in [`crate::desired`], desired and observed state are both maps from a
//! key, here the prefix, to a value. Attributes can be changed of one prefix
//! while it stays announced.

use std::{collections::BTreeMap, collections::BTreeSet, fmt, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A standard community (RFC 1997): two 16-bit numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Community(pub u16, pub u16);

impl Community {
    /// `GRACEFUL_SHUTDOWN` (RFC 8326): whoever honours it prefers any other way.
    pub const GRACEFUL_SHUTDOWN: Self = Self(65535, 0);

    /// The 32 bits that are sent.
    #[must_use]
    pub fn bits(self) -> u32 {
        u32::from(self.0) << 16 | u32::from(self.1)
    }
}

impl From<u32> for Community {
    fn from(bits: u32) -> Self {
        let [a, b, c, d] = bits.to_be_bytes();
        Self(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0, self.1)
    }
}

impl From<Community> for String {
    fn from(community: Community) -> Self {
        community.to_string()
    }
}

/// A text that is no community.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no community like 65001:20")]
pub struct CommunityError;

impl FromStr for Community {
    type Err = CommunityError;

    /// Two numbers with a colon between.
    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let (high, low) = text.split_once(':').ok_or(CommunityError)?;
        match (high.parse(), low.parse()) {
            (Ok(high), Ok(low)) => Ok(Self(high, low)),
            _ => Err(CommunityError),
        }
    }
}

impl TryFrom<String> for Community {
    type Error = CommunityError;

    fn try_from(text: String) -> Result<Self, CommunityError> {
        text.parse()
    }
}

/// Where a route came from in the first place (RFC 4271, 4.3).
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// From inside the AS that announces it.
    #[default]
    Igp,
    /// By the protocol of that name (RFC 904).
    Egp,
    /// In some other way.
    Incomplete,
}

/// What is said of a prefix beside that it is here.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attributes {
    /// Standard communities, without order.
    #[serde(default)]
    pub communities: BTreeSet<Community>,
    /// The origin.
    #[serde(default)]
    pub origin: Origin,
    /// How often the own AS stands in the path beside the once that is usual.
    #[serde(default)]
    pub prepend: u8,
}

impl Attributes {
    /// Whether others are asked to prefer any other way (RFC 8326).
    #[must_use]
    pub fn graceful_shutdown(&self) -> bool {
        self.communities.contains(&Community::GRACEFUL_SHUTDOWN)
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.origin {
            Origin::Igp => "origin igp",
            Origin::Egp => "origin egp",
            Origin::Incomplete => "origin incomplete",
        })?;
        if self.prepend > 0 {
            write!(f, ", prepended {} times", self.prepend)?;
        }
        for community in &self.communities {
            write!(f, ", community {community}")?;
        }
        Ok(())
    }
}

/// What is announced, or shall be.
pub type Announcements = BTreeMap<IpNet, Attributes>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_are_read_and_written_as_operators_do() {
        assert_eq!("65535:0".parse(), Ok(Community::GRACEFUL_SHUTDOWN));
        assert_eq!(Community::GRACEFUL_SHUTDOWN.bits(), 0xffff_0000);
        assert_eq!(Community::from(0xffff_0000), Community::GRACEFUL_SHUTDOWN);
        assert_eq!(Community(65001, 20).to_string(), "65001:20");
        for bad in ["", "1", "1:", ":1", "70000:1", "1:2:3", "no-export", "-1:1"] {
            assert!(bad.parse::<Community>().is_err(), "{bad}");
        }
    }
}
