//! Security groups and address groups, as the intent carries them.
//!
//! They are held and handed on; the firewall that enforces them reads them
//! from here.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AddressGroupId, GroupId, Mac, port::yes};

/// A Neutron security group with its members on all hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Group {
    /// Identifier.
    pub id: GroupId,
    /// Grows with each change; 0 where the source has none.
    #[serde(default)]
    pub revision: u64,
    /// Whether replies of allowed flows pass by connection tracking.
    #[serde(default = "yes")]
    pub stateful: bool,
    /// What may pass; anything else may not.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Addresses of the ports in the group, cloud-wide.
    #[serde(default)]
    pub members: Vec<Member>,
}

/// One address of a security group's member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// Address or prefix.
    #[serde(with = "crate::port::prefix")]
    #[schemars(with = "String")]
    pub address: IpNet,
    /// Set where the address comes from an allowed address pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
}

/// A Neutron address group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddressGroup {
    /// Identifier.
    pub id: AddressGroupId,
    /// Grows with each change; 0 where the source has none.
    #[serde(default)]
    pub revision: u64,
    /// The prefixes in it; a single address may come without length.
    #[serde(default, with = "crate::port::prefixes")]
    #[schemars(with = "Vec<String>")]
    pub addresses: Vec<IpNet>,
}

/// One rule of a security group. What is absent matches anything. Values are
/// kept as Neutron has them; judging them is the firewall planner's job, which
/// names group and rule when one can't be expressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rule {
    /// Neutron's identifier of the rule, for messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// From or to the guest.
    pub direction: Direction,
    /// Address family.
    pub ethertype: Ethertype,
    /// A name that Neutron knows, or a number as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// First port; for ICMP the type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_range_min: Option<u32>,
    /// Last port; for ICMP the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_range_max: Option<u32>,
    /// Peers by prefix; host bits are masked by whoever uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_ip_prefix: Option<String>,
    /// Peers by security group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_group: Option<GroupId>,
    /// Peers by address group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_address_group: Option<AddressGroupId>,
}

/// Which way a rule looks, seen from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the guest.
    Ingress,
    /// From the guest.
    Egress,
}

/// Neutron's name for an address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Ethertype {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

impl Ethertype {
    /// The family of `address`.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::IPv4
        } else {
            Self::IPv6
        }
    }
}
