//! A topology with everything decided: numbers, addresses, interfaces.
//!
//! Pure and deterministic: the same topology gives the same fabric, so that a
//! figure measured yesterday can be compared. The plan of numbers:
//!
//! | what | numbers |
//! |---|---|
//! | ASN of all spines | 4200000000 |
//! | ASN of the `n`th ToR, hypervisor (from 1) | 4200100000 + n, 4200200000 + n |
//! | loopbacks of spines, ToRs, hypervisors | 10.255.0.n, 10.255.1.n, 10.255.16.0 + n; 2001:db8:255:{0,1,2}::n |
//! | VMs, `n` from 1 | 10.252.1.0 + n in 10.252.0.0/16; 2001:db8:252::n |
//!
//! The ASNs are 4-byte private ones (RFC 6996), one for all spines and one for
//! each other node (RFC 7938, 5.2.1), so that a path through a rack back up to
//! a spine is a loop and is refused. IPv6 is the documentation prefix
//! (RFC 3849). Links have no addresses but the interfaces' link-local ones,
//! known beforehand since they follow from the MACs (RFC 4291, appendix A).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    topology::{Flavour, Options, Role, Topology},
};

/// Prefix from which VMs take their IPv4 addresses; guests see it as on-link.
pub const VM_PREFIX4: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 252, 0, 0), 16);
/// The VMs' IPv4 gateway, held by every hypervisor.
pub const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 252, 0, 1);
/// Prefix from which VMs take their IPv6 addresses; never on-link.
pub const VM_PREFIX6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2001, 0xdb8, 0x252, 0, 0, 0, 0, 0), 64);
/// The VMs' IPv6 gateway, equal on every hypervisor.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Prefix of all loopbacks.
pub const LOOPBACK_PREFIX4: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 255, 0, 0), 16);
/// Prefix of all loopbacks.
pub const LOOPBACK_PREFIX6: (Ipv6Addr, u8) =
    (Ipv6Addr::new(0x2001, 0xdb8, 0x255, 0, 0, 0, 0, 0), 48);

const ASN_SPINES: u32 = 4_200_000_000;
const ASN_TORS: u32 = 4_200_100_000;
const ASN_HYPERVISORS: u32 = 4_200_200_000;

/// Everything that the lab builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fabric {
    /// What all of it does.
    #[serde(default)]
    pub options: Options,
    /// Routers: spines, ToRs, hypervisors.
    pub nodes: Vec<Node>,
    /// Links between routers.
    pub links: Vec<Link>,
    /// VMs of all hypervisors.
    pub vms: Vec<Vm>,
}

/// A router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its routing daemon.
    pub flavour: Flavour,
    /// Autonomous system.
    pub asn: u32,
    /// Loopback, also the BGP identifier.
    pub loopback4: Ipv4Addr,
    /// Loopback.
    pub loopback6: Ipv6Addr,
    /// Its ends of links.
    pub interfaces: Vec<Interface>,
}

/// A router's end of a link. Its name is the far node's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name of the interface and of the node at the far end.
    pub peer: String,
    /// What the far node is for.
    pub peer_role: Role,
    /// Link-local address of the far end.
    pub peer_address: Ipv6Addr,
    /// Link-local address of this end.
    pub own_address: Ipv6Addr,
}

/// A link between two routers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The ends, the one nearer to the spines first.
    pub ends: [End; 2],
}

/// One end of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The node.
    pub node: String,
    /// The interface's hardware address.
    pub mac: String,
}

/// A VM: a namespace with one interface, the hypervisor's end named as a tap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Name: the hypervisor's with `vm` for `hv` where it has that form.
    pub name: String,
    /// The hypervisor that runs it.
    pub host: String,
    /// The port's UUID.
    pub port: String,
    /// The tap's name.
    pub tap: String,
    /// The guest's hardware address.
    pub mac: String,
    /// The guest's address.
    pub address4: Ipv4Addr,
    /// The guest's address.
    pub address6: Ipv6Addr,
}

impl Vm {
    /// The VM's address of one family.
    #[must_use]
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.address4.into(),
            Family::V6 => self.address6.into(),
        }
    }

    /// Its hardware address, as in frames.
    ///
    /// # Errors
    /// It isn't one.
    pub fn hardware_address(&self) -> Result<[u8; 6]> {
        let parsed = self.mac.parse::<l2isolate_model::Mac>();
        let mac = parsed.map_err(|error| Error::Program(format!("{}: {error}", self.name)))?;
        Ok(mac.bytes())
    }
}

impl Node {
    /// The node's loopback of one family.
    #[must_use]
    pub fn loopback(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.loopback4.into(),
            Family::V6 => self.loopback6.into(),
        }
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "ipv4")]
    V4,
    /// IPv6.
    #[serde(rename = "ipv6")]
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of `address`.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// The option of ip(8) that selects it.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl Fabric {
    /// Decides everything for `topology`.
    #[must_use]
    pub fn new(topology: &Topology) -> Self {
        let mut counts = [0u16; 3];
        let mut nodes: Vec<Node> = Vec::with_capacity(topology.nodes.len());
        let mut vms: Vec<Vm> = Vec::new();
        for spec in &topology.nodes {
            let [spines, tors, hypervisors] = &mut counts;
            let (count, asn, base4, base6) = match spec.role {
                Role::Spine => (spines, ASN_SPINES, 0x0000, 0),
                Role::Tor => (tors, ASN_TORS, 0x0100, 1),
                Role::Hypervisor => (hypervisors, ASN_HYPERVISORS, 0x1000, 2),
            };
            *count += 1;
            let own = if spec.role == Role::Spine { 0 } else { *count };
            nodes.push(Node {
                name: spec.name.clone(),
                role: spec.role,
                flavour: spec.flavour,
                asn: asn + u32::from(own),
                loopback4: offset4(LOOPBACK_PREFIX4.0, base4 + u32::from(*count)),
                loopback6: Ipv6Addr::new(
                    0x2001,
                    0xdb8,
                    0x255,
                    base6,
                    0,
                    0,
                    0,
                    decimal_looks(*count),
                ),
                interfaces: Vec::new(),
            });
            for n in 1..=spec.vms {
                vms.push(vm(&spec.name, n, vms.len() + 1));
            }
        }
        let mut links = Vec::with_capacity(topology.links.len());
        for (index, (a, b)) in topology.links.iter().enumerate() {
            let macs = [link_mac(index, 0), link_mac(index, 1)];
            connect(&mut nodes, [a, b], macs);
            connect(&mut nodes, [b, a], [macs[1], macs[0]]);
            links.push(Link {
                ends: [
                    End {
                        node: a.clone(),
                        mac: mac_text(macs[0]),
                    },
                    End {
                        node: b.clone(),
                        mac: mac_text(macs[1]),
                    },
                ],
            });
        }
        Self {
            options: topology.options.clone(),
            nodes,
            links,
            vms,
        }
    }

    /// The router of that name.
    ///
    /// # Errors
    /// There is none; the error lists those that exist.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|n| n.name == name)
            .ok_or_else(|| Error::UnknownNode {
                name: name.to_owned(),
                wanted: "a router",
                known: join(self.nodes.iter().map(|n| &n.name)),
            })
    }

    /// The VM of that name.
    ///
    /// # Errors
    /// There is none; the error lists those that exist.
    pub fn vm(&self, name: &str) -> Result<&Vm> {
        self.vms
            .iter()
            .find(|v| v.name == name)
            .ok_or_else(|| Error::UnknownNode {
                name: name.to_owned(),
                wanted: "a VM",
                known: join(self.vms.iter().map(|v| &v.name)),
            })
    }

    /// Names of everything that has a namespace.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let nodes = self.nodes.iter().map(|n| n.name.as_str());
        nodes.chain(self.vms.iter().map(|v| v.name.as_str()))
    }

    /// The routers of one role.
    pub fn role(&self, role: Role) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |n| n.role == role)
    }

    /// The VMs on a hypervisor.
    pub fn vms_on<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Vm> {
        self.vms.iter().filter(move |v| v.host == host)
    }
}

/// At most so many names in a message.
const NAMES_SHOWN: usize = 40;

fn join<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    let mut text = names
        .iter()
        .take(NAMES_SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > NAMES_SHOWN {
        text.push_str(", …");
    }
    text
}

fn vm(host: &str, n: usize, index: usize) -> Vm {
    // Node names start with a letter, so that `hv1` and `1` can't collide.
    let short = host
        .strip_prefix("hv")
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        .unwrap_or(host);
    let port = format!("{index:08x}-0000-4000-8000-{index:012x}");
    let tap: String = port.chars().take(11).collect();
    let number = u32::try_from(index).unwrap_or(u32::MAX);
    let [_, _, high, low] = number.to_be_bytes();
    Vm {
        name: format!("vm{short}-{n}"),
        host: host.to_owned(),
        tap: format!("tap{tap}"),
        port,
        mac: mac_text([0xfa, 0x16, 0x3e, 0, high, low]),
        address4: offset4(VM_PREFIX4.0, 0x100 + number),
        address6: offset6(VM_PREFIX6.0, number),
    }
}

/// Writes the end of a link at `ends[0]` into the node there.
fn connect(nodes: &mut [Node], ends: [&String; 2], macs: [[u8; 6]; 2]) {
    let Some(peer_role) = nodes.iter().find(|n| n.name == *ends[1]).map(|n| n.role) else {
        return;
    };
    if let Some(node) = nodes.iter_mut().find(|n| n.name == *ends[0]) {
        node.interfaces.push(Interface {
            peer: ends[1].clone(),
            peer_role,
            peer_address: link_local(macs[1]),
            own_address: link_local(macs[0]),
        });
    }
}

/// A locally administered MAC of its own for each end of each link.
fn link_mac(link: usize, end: u8) -> [u8; 6] {
    let [.., high, low] = link.to_be_bytes();
    [0x02, 0x4c, 0, high, low, end + 1]
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// The link-local address that the kernel makes from a MAC (modified EUI-64).
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        u16::from_be_bytes([a ^ 0x02, b]),
        u16::from_be_bytes([c, 0xff]),
        u16::from_be_bytes([0xfe, d]),
        u16::from_be_bytes([e, f]),
    )
}

fn offset4(base: Ipv4Addr, by: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(base).wrapping_add(by))
}

fn offset6(base: Ipv6Addr, by: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(base).wrapping_add(u128::from(by)))
}

/// The number whose hexadecimal digits are `n`'s decimal ones, so that people
/// find node 12 at …::12. Falls back to `n` where five digits would be needed.
fn decimal_looks(n: u16) -> u16 {
    u16::from_str_radix(&n.to_string(), 16).unwrap_or(n)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::topology::{Mix, Shape};

    fn large() -> Fabric {
        let shape = Shape {
            spines: 4,
            racks: 40,
            tors: 2,
            hypervisors: 10,
            vms: 10,
        };
        Fabric::new(&Topology::regular(shape, Mix::Mixed))
    }

    // Any number used twice would make two nodes one.
    #[test]
    fn nothing_is_given_twice() {
        let fabric = large();
        let mut seen = HashSet::new();
        for node in &fabric.nodes {
            assert!(seen.insert(node.loopback4.to_string()), "{}", node.name);
            assert!(seen.insert(node.loopback6.to_string()), "{}", node.name);
            assert!(node.role == Role::Spine || seen.insert(node.asn.to_string()));
        }
        for vm in &fabric.vms {
            for key in [
                vm.name.clone(),
                vm.tap.clone(),
                vm.mac.clone(),
                vm.address4.to_string(),
                vm.address6.to_string(),
            ] {
                assert!(seen.insert(key.clone()), "{key}");
            }
            assert_eq!(vm.tap.len(), 14);
        }
        for link in &fabric.links {
            assert!(link.ends.iter().all(|e| seen.insert(e.mac.clone())));
        }
    }

    // BIRD is configured with the address that the kernel will choose.
    #[test]
    fn link_local_is_modified_eui64() {
        let address = link_local([0x02, 0x4c, 0x00, 0x01, 0x02, 0x01]);
        assert_eq!(address.to_string(), "fe80::4c:ff:fe01:201");
    }
}
