//! What the metadata proxy is told of one tap: a file of its own for each,
//! written by the agent, read by `l2isolate metadata`.
//!
//! The two may be of different versions for a while: fields that are not known
//! are ignored, another [`VERSION`] is refused.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Metadata;
use crate::{
    IfName, Mac, PortId, SubnetId,
    subnet::{HostRoute, Ipv6Mode},
};

/// The format's version.
pub const VERSION: u64 = 1;

/// How names of the files end.
pub const SUFFIX: &str = ".json";

/// One tap: whose it is, and what its guest is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The format's version.
    pub version: u64,
    /// The device.
    pub tap: IfName,
    /// The device's number: another one is another device, whatever its name.
    pub index: u32,
    /// The port on it.
    pub port: PortId,
    /// The guest's hardware address.
    pub mac: Mac,
    /// MTU of the link in bytes.
    pub mtu: u32,
    /// Nova's instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Neutron's project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The guest's host name.
    pub hostname: String,
    /// The guest's addresses.
    pub networks: Vec<Network>,
    /// What else the guest is told.
    #[serde(default)]
    pub metadata: Metadata,
}

/// One address of a guest, with what it needs to use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The subnet.
    pub subnet: SubnetId,
    /// The guest's address.
    pub address: IpAddr,
    /// The subnet's prefix.
    pub cidr: IpNet,
    /// The router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Name servers, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// Further routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<HostRoute>,
    /// How the guest comes by the address.
    pub method: Method,
}

/// How a guest comes by an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// By what it is told here.
    Static,
    /// By DHCP.
    Dhcp,
    /// By router advertisements, with or without DHCPv6.
    Ipv6(Ipv6Mode),
}

impl Entry {
    /// The name of the tap's file.
    #[must_use]
    pub fn file_name(tap: IfName) -> String {
        format!("{tap}{SUFFIX}")
    }

    /// What stands in the file.
    ///
    /// # Errors
    /// None in practice: every field has a JSON form.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Reads a file called `name`.
    ///
    /// # Errors
    /// Words for an operator: it is no entry, of another version, or of another
    /// tap than its name says.
    pub fn parse(name: &str, text: &[u8]) -> Result<Self, String> {
        let entry: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if entry.version != VERSION {
            return Err(format!(
                "is of version {}; this program reads version {VERSION}",
                entry.version
            ));
        }
        if Self::file_name(entry.tap) != name {
            return Err(format!("speaks of {}", entry.tap));
        }
        Ok(entry)
    }
}
