//! What Neutron's semantics say of a packet, written down once more: no sets,
//! no merging, rule by rule. It knows the cloud as it was drawn, not as it was
//! written into documents.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cloud::{
    Cloud, PORTS, PROTOCOLS, Packet, Remote, Rule, Source, UPLINK, address, in_pair, mac, pair,
    prefix,
};

/// A packet as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wire {
    pub(crate) from: usize,
    pub(crate) mac: String,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// ICMP's type and code.
    pub(crate) icmp: (u8, u8),
    /// It answers a packet that has arrived.
    pub(crate) known: bool,
}

impl Wire {
    /// The packet that was drawn; `number` keeps its flow apart from others.
    pub(crate) fn new(packet: &Packet, number: u16) -> Self {
        let from = u8::try_from(packet.from).unwrap();
        let own = if packet.from == UPLINK {
            3 + packet.port.1
        } else {
            from
        };
        let source = match packet.source {
            Source::Pair if packet.from != UPLINK => in_pair(packet.six).to_owned(),
            Source::OtherAddress if packet.from != UPLINK => address(packet.six, 6),
            _ => address(packet.six, own),
        };
        let mac = match packet.source {
            Source::OtherMac if packet.from != UPLINK => "fa:16:3e:99:99:99".to_owned(),
            _ => mac(packet.from),
        };
        let (protocol, _) = PROTOCOLS[usize::from(packet.protocol)];
        // Each family has its own ICMP.
        let protocol = match (protocol, packet.six) {
            (1, true) => 58,
            (58, false) => 1,
            (other, _) => other,
        };
        Self {
            from: packet.from,
            mac,
            source: source.parse().unwrap(),
            destination: address(packet.six, packet.to).parse().unwrap(),
            protocol,
            source_port: 1024 + number,
            destination_port: packet.port.0,
            icmp: (u8::try_from(packet.port.0 % 256).unwrap(), packet.port.1),
            known: false,
        }
    }

    /// Where it goes to, if it gets through.
    pub(crate) fn target(&self) -> usize {
        (0..PORTS)
            .find(|n| {
                let place = u8::try_from(*n).unwrap();
                [false, true]
                    .iter()
                    .any(|six| address(*six, place).parse() == Ok(self.destination))
            })
            .unwrap_or(UPLINK)
    }

    pub(crate) fn has_ports(&self) -> bool {
        matches!(self.protocol, 6 | 17 | 33 | 132 | 136)
    }

    pub(crate) fn is_icmp(&self) -> bool {
        matches!(self.protocol, 1 | 58)
    }
}

/// Whether the packet arrives.
pub(crate) fn arrives(cloud: &Cloud, packet: &Wire) -> bool {
    leaves(cloud, packet) && enters(cloud, packet)
}

fn leaves(cloud: &Cloud, packet: &Wire) -> bool {
    if packet.from == UPLINK {
        return true;
    }
    let port = &cloud.ports[packet.from];
    if !port.up {
        return false;
    }
    if !port.secured {
        return true;
    }
    let six = packet.source.is_ipv6();
    let own = address(six, u8::try_from(packet.from).unwrap()).parse() == Ok(packet.source);
    let in_pair = port.pair && inside(pair(six), packet.source);
    if packet.mac != mac(packet.from) || !(own || in_pair) {
        return false;
    }
    judged(cloud, packet.from, packet, false)
}

fn enters(cloud: &Cloud, packet: &Wire) -> bool {
    let target = packet.target();
    if target == UPLINK {
        return true;
    }
    let port = &cloud.ports[target];
    port.up && (!port.secured || judged(cloud, target, packet, true))
}

fn judged(cloud: &Cloud, place: usize, packet: &Wire, ingress: bool) -> bool {
    let groups = || {
        cloud.ports[place]
            .groups
            .iter()
            .map(|g| &cloud.groups[usize::from(*g)])
    };
    if packet.known && groups().all(|group| group.stateful) {
        return true;
    }
    groups().any(|group| {
        group
            .rules
            .iter()
            .any(|rule| rule.ingress == ingress && allows(cloud, rule, packet))
    })
}

fn allows(cloud: &Cloud, rule: &Rule, packet: &Wire) -> bool {
    rule.six == packet.source.is_ipv6() && traffic(rule, packet) && peer(cloud, rule, packet)
}

fn traffic(rule: &Rule, packet: &Wire) -> bool {
    let Some((protocol, name)) = rule.protocol else {
        // Ports without a protocol can't be expressed.
        return rule.range.is_none();
    };
    let (number, names) = PROTOCOLS[usize::from(protocol) % PROTOCOLS.len()];
    let name = names[usize::from(name) % names.len()];
    let number = match (name, rule.six) {
        ("icmp" | "1", true) => 58,
        ("icmp", false) => 1,
        _ => number,
    };
    let icmp = number == if rule.six { 58 } else { 1 };
    let ports = [6, 17, 33, 132, 136].contains(&number);
    let last = rule.range.map(|(_, last)| last).filter(|_| !rule.no_code);
    match rule.range {
        None => packet.protocol == number,
        Some((kind, _)) if icmp => {
            let sound = kind <= 255 && last.is_none_or(|code| code <= 255);
            let (packet_kind, packet_code) = packet.icmp;
            sound
                && packet.protocol == number
                && kind == u16::from(packet_kind)
                && last.is_none_or(|code| code == u16::from(packet_code))
        }
        Some((first, _)) if ports => {
            let range = first..=last.unwrap_or(0);
            packet.protocol == number && last.is_some() && range.contains(&packet.destination_port)
        }
        // Other protocols have no ports: the rule can't be expressed.
        Some(_) => false,
    }
}

fn peer(cloud: &Cloud, rule: &Rule, packet: &Wire) -> bool {
    let peer = if rule.ingress {
        packet.source
    } else {
        packet.destination
    };
    match rule.remote {
        Remote::Any => true,
        Remote::Prefix(which, bits) => inside(prefix(rule.six, which, bits), peer),
        Remote::Group(n) if usize::from(n) < cloud.groups.len() => cloud
            .members(n.into())
            .iter()
            .any(|member| inside(member, peer)),
        Remote::Group(_) => false,
        Remote::Addresses => cloud
            .addresses
            .iter()
            .any(|(six, n)| inside(prefix(*six, *n, false), peer)),
    }
}

/// Whether an address is in what is written as a prefix or as an address.
fn inside(written: &str, address: IpAddr) -> bool {
    match written.parse::<IpNet>() {
        Ok(net) => net.contains(&address),
        Err(_) => written.parse() == Ok(address),
    }
}
