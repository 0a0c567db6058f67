//! A port: one virtual machine's network interface.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    GroupId, IfName, Mac, PortId, SubnetId,
    metadata::Metadata,
    subnet::{FieldError, Subnet, is_link_local},
};

/// Smallest and largest MTU of an Ethernet device in bytes (RFC 791; 16 bits).
const MTU: std::ops::RangeInclusive<u32> = 68..=65535;
/// Smallest MTU on which IPv6 works (RFC 8200, section 5).
const MTU_IPV6: u32 = 1280;

/// A port as the cloud wants it on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Identifier.
    pub id: PortId,
    /// Grows with each change; 0 where the source has none.
    pub revision: u64,
    /// When the port was made; of two ports that want the same address or tap
    /// the older one has it.
    pub created: Timestamp,
    /// The tap's name; Nova's rule is `tap` + the id's first 11 characters.
    pub tap: IfName,
    /// The guest's hardware address.
    pub mac: Mac,
    /// The guest's addresses, both families.
    pub addresses: Vec<FixedAddress>,
    /// MTU of the link in bytes.
    pub mtu: u32,
    /// False: nothing passes.
    pub admin_state_up: bool,
    /// Neutron's project (tenant).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Nova's instance (Neutron's `device_id`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The guest's host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// False: no anti-spoofing and no groups.
    pub port_security: bool,
    /// What the guest may send from beside its own addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_address_pairs: Vec<AddressPair>,
    /// Security groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupId>,
    /// False: the guest is told nothing by DHCP nor by router advertisements,
    /// whatever its subnets say.
    pub dhcp: bool,
    /// Neutron's `extra_dhcp_opts`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dhcp_options: Vec<DhcpOption>,
    /// What the guest is told of itself where there is no Nova.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// What this host has to do with the port.
    pub binding: Binding,
}

/// One of a port's own addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FixedAddress {
    /// The address.
    pub address: IpAddr,
    /// The subnet it was taken from.
    pub subnet: SubnetId,
}

/// Addresses that a guest may use beside its own (Neutron's
/// allowed-address-pairs). They are not routed to it by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddressPair {
    /// An address or a prefix.
    #[serde(with = "prefix")]
    #[schemars(with = "String")]
    pub address: IpNet,
    /// From this hardware address; absent: the port's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
}

/// A DHCP option for one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DhcpOption {
    /// Name or number.
    pub name: String,
    /// Value as dnsmasq reads it.
    pub value: String,
    /// 4 or 6.
    #[serde(default = "four")]
    pub ip_version: u8,
}

/// What this host has to do with a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Binding {
    /// Which end of a migration this host is, if there is one.
    #[serde(default)]
    pub state: BindingState,
    /// Underlay address of the host at the other end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
}

/// A port's binding to this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BindingState {
    /// The guest runs here.
    #[default]
    Active,
    /// The guest will arrive by live migration: wired, not announced.
    Incoming,
    /// The guest is leaving by live migration.
    Outgoing,
}

/// A port with its subnets, all checks passed: what plans are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedPort {
    /// The port.
    pub port: Arc<Port>,
    /// Its addresses, each with its subnet; no address twice.
    pub addresses: Vec<(IpAddr, Arc<Subnet>)>,
}

impl CheckedPort {
    /// Whether the guest is told what this subnet of its says, by DHCP or
    /// router advertisements.
    #[must_use]
    pub fn dhcp(&self, subnet: &Subnet) -> bool {
        self.port.dhcp && subnet.dhcp
    }
}

impl Port {
    /// Joins the port with its subnets and makes the checks that no single
    /// field can make.
    pub(crate) fn check(
        self: &Arc<Self>,
        subnet: impl Fn(&SubnetId) -> Option<Arc<Subnet>>,
    ) -> Result<CheckedPort, FieldError> {
        if !MTU.contains(&self.mtu) {
            return Err((
                "mtu",
                format!(
                    "{} is not between {} and {}",
                    self.mtu,
                    MTU.start(),
                    MTU.end()
                ),
            ));
        }
        if let Some(peer) = self.binding.peer.filter(|peer| !unicast(*peer)) {
            let reason = format!("the peer {peer} can't be a host's address in the underlay");
            return Err(("binding", reason));
        }
        let mut addresses: Vec<(IpAddr, Arc<Subnet>)> = Vec::with_capacity(self.addresses.len());
        for FixedAddress {
            address,
            subnet: id,
        } in &self.addresses
        {
            let Some(subnet) = subnet(id) else {
                return Err((
                    "addresses",
                    format!("{address} is of subnet {id}, which is not known"),
                ));
            };
            self.check_address(*address, &subnet)?;
            if addresses.iter().any(|(other, _)| other == address) {
                return Err(("addresses", format!("{address} is there twice")));
            }
            addresses.push((*address, subnet));
        }
        Ok(CheckedPort {
            port: Arc::clone(self),
            addresses,
        })
    }

    fn check_address(&self, address: IpAddr, subnet: &Subnet) -> Result<(), FieldError> {
        let field = "addresses";
        if !subnet.cidr.contains(&address) {
            return Err((
                field,
                format!("{address} is outside its subnet {}", subnet.cidr),
            ));
        }
        if subnet.gateway == Some(address) {
            return Err((
                field,
                format!("{address} is the gateway of subnet {}", subnet.id),
            ));
        }
        if !unicast(address) {
            return Err((field, format!("{address} can't be routed to a guest")));
        }
        if address.is_ipv6() && self.mtu < MTU_IPV6 {
            return Err((
                "mtu",
                format!(
                    "{} is too small for IPv6 ({address}), which needs {MTU_IPV6}",
                    self.mtu
                ),
            ));
        }
        Ok(())
    }
}

/// Whether packets can be routed to one holder of the address.
fn unicast(address: IpAddr) -> bool {
    let special = match address {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => is_link_local(v6),
    };
    !(special || address.is_unspecified() || address.is_multicast() || address.is_loopback())
}

/// A virtual machine's network interface.
// The port as it is written: what may be left out gets its default here.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Port")]
pub(crate) struct PortDocument {
    /// Identifier.
    id: PortId,
    /// Grows with each change; 0 where the source has none.
    #[serde(default)]
    revision: u64,
    /// When the port was made (RFC 3339): of two ports that want the same
    /// address or tap the older one has it. Absent: older than every port that
    /// has one.
    #[serde(default)]
    #[schemars(with = "String", extend("format" = "date-time"))]
    created: Timestamp,
    /// The tap's name, which begins with `tap`: so it is dropped as a stranger's
    /// until the port is known. Absent: `tap` and the first 11 characters of the id.
    #[serde(default, deserialize_with = "tap")]
    #[schemars(extend("pattern" = "^tap"))]
    tap: Option<IfName>,
    /// The guest's hardware address.
    mac: Mac,
    /// The guest's addresses, both families.
    #[serde(default)]
    addresses: Vec<FixedAddress>,
    /// MTU of the link in bytes.
    #[serde(default = "mtu")]
    #[schemars(range(min = 68, max = 65535))]
    mtu: u32,
    /// False: nothing passes.
    #[serde(default = "yes")]
    admin_state_up: bool,
    /// Neutron's project (tenant).
    #[serde(default)]
    project: Option<String>,
    /// Nova's instance (Neutron's `device_id`).
    #[serde(default)]
    instance: Option<String>,
    /// The guest's host name.
    #[serde(default)]
    hostname: Option<String>,
    /// False: no anti-spoofing and no groups.
    #[serde(default = "yes")]
    port_security: bool,
    /// What the guest may send from beside its own addresses.
    #[serde(default)]
    allowed_address_pairs: Vec<AddressPair>,
    /// Security groups.
    #[serde(default)]
    groups: Vec<GroupId>,
    /// False: the guest is told nothing by DHCP nor by router advertisements,
    /// whatever its subnets say.
    #[serde(default = "yes")]
    dhcp: bool,
    /// Neutron's `extra_dhcp_opts`.
    #[serde(default)]
    dhcp_options: Vec<DhcpOption>,
    /// What the guest is told of itself where there is no Nova.
    #[serde(default)]
    metadata: Option<Metadata>,
    /// What this host has to do with the port.
    #[serde(default)]
    binding: Binding,
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let d = PortDocument::deserialize(deserializer)?;
        let tap = match d.tap {
            Some(tap) => tap,
            None => tap_name(&d.id).map_err(serde::de::Error::custom)?,
        };
        Ok(Self {
            id: d.id,
            revision: d.revision,
            created: d.created,
            tap,
            mac: d.mac,
            addresses: d.addresses,
            mtu: d.mtu,
            admin_state_up: d.admin_state_up,
            project: d.project,
            instance: d.instance,
            hostname: d.hostname,
            port_security: d.port_security,
            allowed_address_pairs: d.allowed_address_pairs,
            groups: d.groups,
            dhcp: d.dhcp,
            dhcp_options: d.dhcp_options,
            metadata: d.metadata,
            binding: d.binding,
        })
    }
}

fn tap<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IfName>, D::Error> {
    let name = Option::<IfName>::deserialize(deserializer)?;
    let stranger = name.filter(|name| !name.as_str().starts_with(IfName::TAP.as_str()));
    stranger.map_or(Ok(name), |name| {
        Err(serde::de::Error::custom(format!(
            "{name} doesn't begin with `{}`, as the devices do that the firewall \
             guards; call the guest's device so",
            IfName::TAP
        )))
    })
}

/// Nova's name for a port's tap device: `tap` + 11 characters of the port's id
/// (nova.network.model, NIC_NAME_LEN 14).
fn tap_name(id: &PortId) -> Result<IfName, crate::IfNameError> {
    let short: String = id.as_str().chars().take(11).collect();
    format!("tap{short}").parse()
}

pub(crate) fn yes() -> bool {
    true
}

fn mtu() -> u32 {
    1500
}

fn four() -> u8 {
    4
}

/// An address or a prefix, as text; an address alone is its own /32 or /128.
pub(crate) mod prefix {
    use super::{Deserialize, Deserializer, IpAddr, IpNet};

    pub(crate) fn parse(text: &str) -> Result<IpNet, String> {
        text.parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_| format!("{text:?} is neither an address nor a prefix"))
    }

    pub(crate) fn serialize<S: serde::Serializer>(net: &IpNet, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(net)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<IpNet, D::Error> {
        parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// A list of what [`prefix`] reads.
pub(crate) mod prefixes {
    use super::{Deserialize, Deserializer, IpNet, prefix};

    pub(crate) fn serialize<S: serde::Serializer>(
        nets: &[IpNet],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(nets)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let parsed: Result<Vec<_>, _> = texts.iter().map(|t| prefix::parse(t)).collect();
        parsed.map_err(serde::de::Error::custom)
    }
}
