//! Small random clouds: few addresses, few ports, few groups, so that rules
//! and packets meet often.

use proptest::prelude::*;
use serde_json::{Value, json};

/// Guests with taps; the fourth place is the world behind the uplink.
pub(crate) const PORTS: usize = 3;
pub(crate) const UPLINK: usize = PORTS;
pub(crate) const GROUPS: usize = 4;

/// The names under which a protocol may be written, the number among them.
pub(crate) const PROTOCOLS: &[(u8, &[&str])] = &[
    (6, &["tcp", "6", "TCP"]),
    (17, &["udp", "17"]),
    (132, &["sctp", "132"]),
    (136, &["udplite"]),
    (33, &["dccp", "33"]),
    (50, &["esp", "50"]),
    (47, &["gre", "47"]),
    (112, &["vrrp"]),
    (1, &["icmp", "1"]),
    (58, &["icmpv6", "ipv6-icmp", "58", "icmp"]),
];

#[derive(Debug, Clone)]
pub(crate) struct Cloud {
    pub(crate) ports: Vec<Port>,
    pub(crate) groups: Vec<Group>,
    /// Prefixes of the address group, as numbers of [`prefix`].
    pub(crate) addresses: Vec<(bool, u8)>,
    pub(crate) packets: Vec<Packet>,
}

#[derive(Debug, Clone)]
pub(crate) struct Port {
    pub(crate) up: bool,
    pub(crate) secured: bool,
    pub(crate) groups: Vec<u8>,
    /// It may also send from [`pair`].
    pub(crate) pair: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) stateful: bool,
    pub(crate) rules: Vec<Rule>,
    /// Members beside the ports that are in it.
    pub(crate) members: Vec<(bool, u8)>,
}

#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) ingress: bool,
    pub(crate) six: bool,
    /// Of [`PROTOCOLS`], and which name of it.
    pub(crate) protocol: Option<(u8, u8)>,
    /// First and last port; or ICMP's type and code.
    pub(crate) range: Option<(u16, u16)>,
    pub(crate) no_code: bool,
    pub(crate) remote: Remote,
}

#[derive(Debug, Clone)]
pub(crate) enum Remote {
    Any,
    /// A prefix of [`prefix`], with host bits set or not.
    Prefix(u8, bool),
    Group(u8),
    Addresses,
}

#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) from: usize,
    pub(crate) to: u8,
    pub(crate) six: bool,
    pub(crate) protocol: u8,
    /// Destination port, or ICMP's type and code.
    pub(crate) port: (u16, u8),
    pub(crate) source: Source,
    /// Send an answer if it arrives.
    pub(crate) answer: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Own,
    Pair,
    OtherAddress,
    OtherMac,
}

/// A guest's address; beyond the guests, addresses in the world.
pub(crate) fn address(six: bool, place: u8) -> String {
    match (six, usize::from(place) < PORTS) {
        (false, true) => format!("10.252.0.{}", place + 2),
        (false, false) => format!("198.51.100.{}", place * 8),
        (true, true) => format!("2001:db8:1::{}", place + 2),
        (true, false) => format!("2001:db8:f::{:x}", u16::from(place) * 8),
    }
}

pub(crate) fn pair(six: bool) -> &'static str {
    if six {
        "2001:db8:7::/61"
    } else {
        "10.7.0.0/20"
    }
}

/// An address in the pair's prefix.
pub(crate) fn in_pair(six: bool) -> &'static str {
    if six { "2001:db8:7:3::9" } else { "10.7.9.9" }
}

/// Prefixes as somebody might write them, with and without host bits.
pub(crate) fn prefix(six: bool, which: u8, host_bits: bool) -> &'static str {
    const V4: [[&str; 2]; 6] = [
        ["0.0.0.0/0", "9.9.9.9/0"],
        ["10.252.0.0/16", "10.252.7.7/16"],
        ["10.252.0.2/31", "10.252.0.3/31"],
        ["198.51.100.24/29", "198.51.100.31/29"],
        ["198.51.100.0/25", "198.51.100.77/25"],
        ["10.7.8.0/21", "10.7.15.1/21"],
    ];
    const V6: [[&str; 2]; 6] = [
        ["::/0", "2001::/0"],
        ["2001:db8:1::/64", "2001:db8:1::77/64"],
        ["2001:db8:1::2/127", "2001:db8:1::3/127"],
        ["2001:db8:f::18/125", "2001:db8:f::1f/125"],
        ["2001:db8:c::/46", "2001:db8:e::5/46"],
        ["2001:db8:7:2::/63", "2001:db8:7:3::1/63"],
    ];
    let table = if six { V6 } else { V4 };
    table[usize::from(which) % 6][usize::from(host_bits)]
}

pub(crate) fn mac(place: usize) -> String {
    format!("fa:16:3e:00:00:{:02x}", place + 1)
}

impl Cloud {
    /// The intent that a source would bring.
    pub(crate) fn document(&self) -> Value {
        let ports: Vec<Value> = (0..PORTS).map(|n| self.port(n)).collect();
        let groups: Vec<Value> = (0..GROUPS).map(|n| self.group(n)).collect();
        let addresses: Vec<&str> = self
            .addresses
            .iter()
            .map(|(six, n)| prefix(*six, *n, false))
            .collect();
        json!({
            "version": 1,
            "subnets": [
                {"id": "s4", "cidr": "10.252.0.0/16", "gateway": "10.252.0.1"},
                {"id": "s6", "cidr": "2001:db8:1::/64", "gateway": "2001:db8:1::1"}],
            "ports": ports, "groups": groups,
            "address_groups": [{"id": "ag", "addresses": addresses}],
        })
    }

    fn port(&self, n: usize) -> Value {
        let port = &self.ports[n];
        let place = u8::try_from(n).unwrap();
        let groups: Vec<String> = port.groups.iter().map(|g| format!("g{g}")).collect();
        let pairs: &[&str] = if port.pair {
            &[pair(false), pair(true)]
        } else {
            &[]
        };
        let pairs: Vec<Value> = pairs.iter().map(|p| json!({"address": p})).collect();
        json!({
            "id": format!("port{n}"), "tap": format!("tap{n}"), "mac": mac(n),
            "addresses": [{"address": address(false, place), "subnet": "s4"}, {"address": address(true, place), "subnet": "s6"}],
            "admin_state_up": port.up, "port_security": port.secured, "groups": groups,
            "allowed_address_pairs": pairs,
        })
    }

    fn group(&self, n: usize) -> Value {
        let group = &self.groups[n];
        let rules: Vec<Value> = group.rules.iter().map(Rule::document).collect();
        let members: Vec<Value> = self
            .members(n)
            .iter()
            .map(|m| json!({"address": m}))
            .collect();
        json!({"id": format!("g{n}"), "stateful": group.stateful, "rules": rules, "members": members})
    }

    /// Who is in a group: ports, with what they may use, and others elsewhere.
    pub(crate) fn members(&self, n: usize) -> Vec<String> {
        let mut members = Vec::new();
        for (place, port) in self.ports.iter().enumerate() {
            if port.groups.iter().any(|g| usize::from(*g) == n) {
                for six in [false, true] {
                    members.push(address(six, u8::try_from(place).unwrap()));
                    if port.pair {
                        members.push(pair(six).to_owned());
                    }
                }
            }
        }
        members.extend(
            self.groups[n]
                .members
                .iter()
                .map(|(six, n)| address(*six, 3 + n % 4)),
        );
        members.sort();
        members.dedup();
        members
    }
}

impl Rule {
    fn document(&self) -> Value {
        let mut rule = json!({
            "direction": if self.ingress { "ingress" } else { "egress" },
            "ethertype": if self.six { "IPv6" } else { "IPv4" },
        });
        if let Some((protocol, name)) = self.protocol {
            let (_, names) = PROTOCOLS[usize::from(protocol) % PROTOCOLS.len()];
            rule["protocol"] = names[usize::from(name) % names.len()].into();
        }
        if let Some((first, last)) = self.range {
            rule["port_range_min"] = first.into();
            if !self.no_code {
                rule["port_range_max"] = last.into();
            }
        }
        match self.remote {
            Remote::Any => {}
            Remote::Prefix(which, bits) => {
                rule["remote_ip_prefix"] = prefix(self.six, which, bits).into()
            }
            Remote::Group(n) => rule["remote_group"] = format!("g{n}").into(),
            Remote::Addresses => rule["remote_address_group"] = "ag".into(),
        }
        rule
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let remote = prop_oneof![
        3 => Just(Remote::Any),
        3 => (0..6_u8, any::<bool>()).prop_map(|(n, bits)| Remote::Prefix(n, bits)),
        // One more than there are: a group that isn't known.
        3 => (0..=u8::try_from(GROUPS).unwrap()).prop_map(Remote::Group),
        1 => Just(Remote::Addresses),
    ];
    // Types, codes and ports are drawn from the same few numbers.
    let number = prop_oneof![
        Just(0_u16),
        Just(8),
        Just(20),
        Just(22),
        Just(80),
        Just(128),
        Just(443),
        Just(65535)
    ];
    let range = proptest::option::weighted(0.5, (number.clone(), number));
    let protocol = proptest::option::weighted(0.7, (0..10_u8, 0..4_u8));
    (
        any::<bool>(),
        any::<bool>(),
        protocol,
        range,
        any::<bool>(),
        remote,
    )
        .prop_map(|(ingress, six, protocol, range, no_code, remote)| Rule {
            ingress,
            six,
            protocol,
            range,
            no_code,
            remote,
        })
}

fn packet() -> impl Strategy<Value = Packet> {
    let number = prop_oneof![
        Just(0_u16),
        Just(8),
        Just(13),
        Just(21),
        Just(22),
        Just(80),
        Just(128),
        Just(129),
        Just(300),
        Just(443),
        Just(65535)
    ];
    let source = prop_oneof![8 => Just(Source::Own), 1 => Just(Source::Pair), 1 => Just(Source::OtherAddress), 1 => Just(Source::OtherMac)];
    (
        0..=PORTS,
        0..7_u8,
        any::<bool>(),
        0..10_u8,
        (number, 0..2_u8),
        source,
        any::<bool>(),
    )
        .prop_map(|(from, to, six, protocol, port, source, answer)| Packet {
            from,
            to,
            six,
            protocol,
            port,
            source,
            answer,
        })
}

pub(crate) fn cloud() -> impl Strategy<Value = Cloud> {
    let port = (
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.85),
        prop::collection::vec(0..u8::try_from(GROUPS).unwrap(), 0..4),
        any::<bool>(),
    )
        .prop_map(|(up, secured, groups, pair)| Port {
            up,
            secured,
            groups,
            pair,
        });
    let group = (
        prop::bool::weighted(0.8),
        prop::collection::vec(rule(), 0..12),
        prop::collection::vec((any::<bool>(), any::<u8>()), 0..3),
    )
        .prop_map(|(stateful, rules, members)| Group {
            stateful,
            rules,
            members,
        });
    (
        prop::collection::vec(port, PORTS),
        prop::collection::vec(group, GROUPS),
        prop::collection::vec((any::<bool>(), 1..6_u8), 0..3),
        prop::collection::vec(packet(), 60),
    )
        .prop_map(|(ports, groups, addresses, packets)| Cloud {
            ports,
            groups,
            addresses,
            packets,
        })
}
