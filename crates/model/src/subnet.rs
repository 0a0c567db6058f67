//! A subnet: the prefix from which ports take addresses, and what guests are
//! told about it.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{SubnetId, port::yes};

/// A subnet as Neutron has it. Nothing of it is on a link: its prefix is only
/// what guests believe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subnet {
    /// Identifier.
    pub id: SubnetId,
    /// Grows with each change; 0 where the source has none.
    #[serde(default)]
    pub revision: u64,
    /// The prefix, without host bits.
    #[schemars(with = "String")]
    pub cidr: IpNet,
    /// The address that guests use as router, held by every hypervisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Name servers for guests, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// Whether guests get their addresses by DHCP.
    #[serde(default = "yes")]
    pub dhcp: bool,
    /// Further routes for guests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_routes: Vec<HostRoute>,
    /// How routers announce the prefix (Neutron's `ipv6_ra_mode`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_ra_mode: Option<Ipv6Mode>,
    /// How guests get addresses (Neutron's `ipv6_address_mode`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_address_mode: Option<Ipv6Mode>,
}

/// A static route given to guests (RFC 3442).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostRoute {
    /// Where to.
    #[schemars(with = "String")]
    pub destination: IpNet,
    /// By which router.
    pub nexthop: IpAddr,
}

/// IPv6 address configuration, Neutron's three modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6Mode {
    /// RFC 4862.
    Slaac,
    /// RFC 4862 for addresses, DHCPv6 for the rest.
    Dhcpv6Stateless,
    /// RFC 8415.
    Dhcpv6Stateful,
}

/// What is wrong with a subnet: the field, and why.
pub(crate) type FieldError = (&'static str, String);

impl Subnet {
    /// The checks that no single field can make.
    pub(crate) fn check(&self) -> Result<(), FieldError> {
        if self.cidr != self.cidr.trunc() {
            let want = self.cidr.trunc();
            return Err((
                "cidr",
                format!("{} has host bits set; write {want}", self.cidr),
            ));
        }
        let Some(gateway) = self.gateway else {
            return Ok(());
        };
        if gateway.is_ipv4() != self.cidr.addr().is_ipv4() {
            return Err((
                "gateway",
                format!("{gateway} is of another family than {}", self.cidr),
            ));
        }
        let link_local = matches!(gateway, IpAddr::V6(v6) if is_link_local(v6));
        if gateway.is_unspecified() || gateway.is_multicast() || gateway.is_loopback() {
            return Err(("gateway", format!("{gateway} can't be a host's address")));
        }
        if !link_local && !self.cidr.contains(&gateway) {
            return Err(("gateway", format!("{gateway} is outside {}", self.cidr)));
        }
        Ok(())
    }
}

/// Whether `address` is in fe80::/10 (RFC 4291, 2.5.6).
pub(crate) fn is_link_local(address: Ipv6Addr) -> bool {
    address
        .segments()
        .first()
        .is_some_and(|s| s & 0xffc0 == 0xfe80)
}
