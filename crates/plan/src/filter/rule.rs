//! What one rule of a security group means, as Neutron defines it.
//!
//! Source: the security-group API of Neutron (which values it takes, and that
//! `icmp` in an IPv6 rule is ICMPv6) and the IANA protocol numbers behind the
//! names. A rule that can't be expressed is an error here, and is left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use l2isolate_model::{
    AddressGroupId, GroupId,
    filter::Family,
    group::{Ethertype, Rule},
};

use super::ranges::Ranges;

/// Protocol numbers by all names that Neutron takes.
const NAMES: &[(&str, u8)] = &[
    ("hopopt", 0),
    ("icmp", 1),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", 6),
    ("egp", 8),
    ("udp", 17),
    ("dccp", 33),
    ("ipv6-encap", 41),
    ("ipv6-route", 43),
    ("ipv6-frag", 44),
    ("rsvp", 46),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("ospf", 89),
    ("vrrp", 112),
    ("pgm", 113),
    ("sctp", 132),
    ("udplite", 136),
];

/// Protocols whose header begins with two ports.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Remote {
    /// Anybody.
    Any,
    /// Members of a security group.
    Group(GroupId),
    /// Members of an address group.
    AddressGroup(AddressGroupId),
    /// Somebody with an address in the prefix.
    Prefix(IpNet),
}

/// Which packets of one family pass, whoever is at the other end: the union
/// of any number of rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Traffic {
    /// All of it.
    pub(crate) all: bool,
    /// Whole protocols.
    pub(crate) protocols: BTreeSet<u8>,
    /// Destination ports by protocol.
    pub(crate) ports: BTreeMap<u8, Ranges>,
    /// ICMP types, with a code or with any.
    pub(crate) icmp: BTreeSet<(u8, Option<u8>)>,
}

/// A rule that can be expressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meaning {
    pub(crate) family: Family,
    pub(crate) remote: Remote,
    pub(crate) traffic: Match,
}

/// What one rule says of protocol and ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    All,
    Protocol(u8),
    Ports(u8, u16, u16),
    Icmp(u8, Option<u8>),
}

impl Traffic {
    pub(crate) fn add(&mut self, one: Match) {
        match one {
            Match::All => self.all = true,
            Match::Protocol(protocol) => {
                self.protocols.insert(protocol);
            }
            Match::Ports(protocol, first, last) => {
                let ranges = self.ports.entry(protocol).or_default();
                ranges.add(first.into(), last.into());
            }
            Match::Icmp(kind, code) => {
                self.icmp.insert((kind, code));
            }
        }
    }

    /// Leaves out what something wider in it says already, so that equal
    /// traffic has equal form.
    pub(crate) fn simplify(&mut self, family: Family) {
        if self.all {
            *self = Self {
                all: true,
                ..Self::default()
            };
            return;
        }
        let protocols = &self.protocols;
        self.ports
            .retain(|protocol, _| !protocols.contains(protocol));
        if protocols.contains(&family.icmp()) {
            self.icmp.clear();
        }
        let whole: BTreeSet<u8> = self
            .icmp
            .iter()
            .filter_map(|(kind, code)| code.is_none().then_some(*kind))
            .collect();
        self.icmp
            .retain(|(kind, code)| code.is_none() || !whole.contains(kind));
    }
}

/// Reads a rule.
///
/// # Errors
/// The field that can't be expressed, with the reason.
pub(crate) fn read(rule: &Rule) -> Result<Meaning, (&'static str, String)> {
    let family = match rule.ethertype {
        Ethertype::IPv4 => Family::V4,
        Ethertype::IPv6 => Family::V6,
    };
    Ok(Meaning {
        family,
        remote: remote(rule, family)?,
        traffic: traffic(rule, family)?,
    })
}

fn remote(rule: &Rule, family: Family) -> Result<Remote, (&'static str, String)> {
    let prefix = rule.remote_ip_prefix.as_deref();
    match (prefix, &rule.remote_group, &rule.remote_address_group) {
        (None, None, None) => Ok(Remote::Any),
        (Some(text), None, None) => {
            let net = text
                .parse::<IpNet>()
                .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
                .map_err(|_| ("remote_ip_prefix", format!("{text:?} is no prefix")))?
                .trunc();
            if Family::of(net.addr()) != family {
                return Err((
                    "remote_ip_prefix",
                    format!("{net} is of another family than the rule"),
                ));
            }
            Ok(if net.prefix_len() == 0 {
                Remote::Any
            } else {
                Remote::Prefix(net)
            })
        }
        (None, Some(group), None) => Ok(Remote::Group(group.clone())),
        (None, None, Some(group)) => Ok(Remote::AddressGroup(group.clone())),
        _ => Err((
            "remote_group",
            "names peers in more than one way; a rule can have one".to_owned(),
        )),
    }
}

fn traffic(rule: &Rule, family: Family) -> Result<Match, (&'static str, String)> {
    let (min, max) = (rule.port_range_min, rule.port_range_max);
    let Some(protocol) = protocol(rule.protocol.as_deref(), family)? else {
        return match (min, max) {
            (None, None) => Ok(Match::All),
            _ => Err((
                "protocol",
                "ports without a protocol mean nothing".to_owned(),
            )),
        };
    };
    let bad = |what: &str| Err(("port_range_min", what.to_owned()));
    if protocol == family.icmp() {
        let byte = |n: u32| {
            u8::try_from(n).map_err(|_| {
                (
                    "port_range_min",
                    format!("{n} is no ICMP type or code: they end at 255"),
                )
            })
        };
        return match (min, max) {
            (None, None) => Ok(Match::Protocol(protocol)),
            (Some(kind), code) => Ok(Match::Icmp(byte(kind)?, code.map(byte).transpose()?)),
            (None, Some(_)) => bad("an ICMP code needs a type"),
        };
    }
    match (min, max) {
        (None, None) => Ok(Match::Protocol(protocol)),
        _ if !WITH_PORTS.contains(&protocol) => bad(&format!("protocol {protocol} has no ports")),
        (Some(min), Some(max)) => {
            let port = |n: u32| {
                u16::try_from(n).map_err(|_| {
                    (
                        "port_range_max",
                        format!("{n} is no port: they end at 65535"),
                    )
                })
            };
            let (first, last) = (port(min)?, port(max)?);
            if first > last {
                return bad(&format!("the range {first} to {last} is inverted"));
            }
            Ok(Match::Ports(protocol, first, last))
        }
        _ => bad("a range of ports needs both ends"),
    }
}

/// The number of a protocol; `None`: any.
fn protocol(name: Option<&str>, family: Family) -> Result<Option<u8>, (&'static str, String)> {
    let Some(name) = name.map(str::trim).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    if name.eq_ignore_ascii_case("any") {
        return Ok(None);
    }
    let known = NAMES
        .iter()
        .find_map(|(known, number)| known.eq_ignore_ascii_case(name).then_some(*number));
    let number = match known {
        Some(number) => number,
        None if name.bytes().all(|b| b.is_ascii_digit()) => name.parse().map_err(|_| {
            (
                "protocol",
                format!("{name} is no protocol number: they end at 255"),
            )
        })?,
        None => {
            return Err((
                "protocol",
                format!("{name:?} is no protocol that is known here"),
            ));
        }
    };
    // Neutron takes `icmp` in an IPv6 rule for ICMPv6.
    Ok(Some(if family == Family::V6 && number == 1 {
        58
    } else {
        number
    }))
}
