//! What the agent answers on a tap: by the modes of the port's subnets.
//!
//! | mode | router advertisement | prefix | DHCPv6 |
//! |---|---|---|---|
//! | `slaac` | yes | guest makes its address | no |
//! | `dhcpv6-stateless` | yes, O | guest makes its address | all but addresses |
//! | `dhcpv6-stateful` | yes, M and O | no more than named | addresses |
//! | none | no | | addresses |
//!
//! The mode is `ipv6_ra_mode`, or else `ipv6_address_mode`: there is no other
//! router on the link that could do what only the second one asks for. Prefixes
//! are never on-link: the neighbours in them are behind the router.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv6Net};
use l2isolate_model::{
    guest::ipv6::{Answers, Dhcp, Router},
    port::CheckedPort,
    subnet::{Ipv6Mode, Subnet},
};

use super::{GuestConfig, Hostname, Problems, dns, name, option6};
use crate::filter::sources;

/// For how long to be a default router, in seconds: three periods of ten
/// minutes between advertisements (RFC 4861, 6.2.1).
const ROUTER_LIFETIME: u16 = 1800;

pub(super) fn plan(
    port: &CheckedPort,
    hostname: Option<Hostname<'_>>,
    config: &GuestConfig,
    problems: &mut Problems,
) -> Option<Answers> {
    let subnets: Vec<(Ipv6Addr, Ipv6Net, &Subnet)> = port
        .addresses
        .iter()
        .filter_map(|(address, subnet)| match (address, subnet.cidr) {
            (IpAddr::V6(address), IpNet::V6(net)) => Some((*address, net, subnet.as_ref())),
            _ => None,
        })
        .collect();
    if subnets.is_empty() {
        return None;
    }
    let gateways = subnets
        .iter()
        .filter_map(|(_, _, subnet)| match subnet.gateway {
            Some(IpAddr::V6(gateway)) => Some(gateway),
            _ => None,
        });
    let own = subnets.iter().map(|(address, ..)| *address);
    let macs = sources(port).filter(|(_, net)| net.addr().is_ipv6());
    Some(Answers {
        mac: port.port.mac,
        macs: if port.port.port_security {
            macs.map(|(mac, _)| mac).collect()
        } else {
            BTreeSet::new()
        },
        silent: own.chain(gateways).collect(),
        router: router(port, &subnets, config),
        dhcp: dhcp(port, &subnets, hostname, config, problems),
    })
}

fn mode(subnet: &Subnet) -> Option<Ipv6Mode> {
    subnet.ipv6_ra_mode.or(subnet.ipv6_address_mode)
}

/// Name servers of all subnets in order, none twice.
fn servers<'a>(subnets: impl Iterator<Item = &'a Subnet>, config: &GuestConfig) -> Vec<Ipv6Addr> {
    let mut all = Vec::new();
    for subnet in subnets {
        for server in dns(&subnet.dns, &config.dns, false) {
            if let IpAddr::V6(server) = server
                && !all.contains(&server)
            {
                all.push(server);
            }
        }
    }
    all
}

fn router(
    port: &CheckedPort,
    subnets: &[(Ipv6Addr, Ipv6Net, &Subnet)],
    config: &GuestConfig,
) -> Option<Router> {
    let announced = || {
        let served = subnets.iter().filter(|(_, _, subnet)| port.dhcp(subnet));
        served.filter_map(|(_, net, subnet)| Some((*net, *subnet, mode(subnet)?)))
    };
    announced().next()?;
    let any = |what: fn(Ipv6Mode) -> bool| announced().any(|(_, _, mode)| what(mode));
    let mut prefixes: BTreeMap<Ipv6Net, bool> = BTreeMap::new();
    for (net, _, mode) in announced() {
        // A guest makes itself addresses of 64 bits (RFC 4862, 5.5.3 d).
        let makes = mode != Ipv6Mode::Dhcpv6Stateful && net.prefix_len() == 64;
        *prefixes.entry(net).or_default() |= makes;
    }
    let gateway = announced().any(|(_, subnet, _)| subnet.gateway.is_some());
    Some(Router {
        managed: any(|mode| mode == Ipv6Mode::Dhcpv6Stateful),
        other: any(|mode| mode != Ipv6Mode::Slaac),
        lifetime: if gateway { ROUTER_LIFETIME } else { 0 },
        prefixes: prefixes.into_iter().collect(),
        valid: config.lifetime,
        mtu: port.port.mtu,
        dns: servers(announced().map(|(_, subnet, _)| subnet), config),
        domain: config
            .domain
            .as_deref()
            .map(|domain| name::wire(domain).into()),
    })
}

fn dhcp(
    port: &CheckedPort,
    subnets: &[(Ipv6Addr, Ipv6Net, &Subnet)],
    hostname: Option<Hostname<'_>>,
    config: &GuestConfig,
    problems: &mut Problems,
) -> Option<Dhcp> {
    let served = || {
        let served = subnets.iter().filter(|(_, _, subnet)| port.dhcp(subnet));
        served.filter(|(_, _, subnet)| mode(subnet) != Some(Ipv6Mode::Slaac))
    };
    let (first, ..) = served().next()?;
    let addresses = served()
        .filter(|(_, _, subnet)| matches!(mode(subnet), None | Some(Ipv6Mode::Dhcpv6Stateful)));
    let addresses: Vec<Ipv6Addr> = addresses.map(|(address, ..)| *address).collect();
    let mut options: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
    let servers = servers(served().map(|(_, _, subnet)| *subnet), config);
    if !servers.is_empty() {
        let octets: Vec<[u8; 16]> = servers.iter().map(Ipv6Addr::octets).collect();
        options.insert(23, octets.concat());
    }
    if let Some(domain) = &config.domain {
        options.insert(24, name::wire(domain));
    }
    for (place, option) in port.port.dhcp_options.iter().enumerate() {
        if option.ip_version != 6 {
            continue;
        }
        match option6::encode(option) {
            Ok((code, value)) => drop(options.insert(code, value)),
            Err(reason) => problems.add(&format!("dhcp_options[{place}]"), reason),
        }
    }
    let full = |name: String| match &config.domain {
        Some(domain) if !name.contains('.') => format!("{name}.{domain}"),
        _ => name,
    };
    let name = hostname.map(|name| full(name.text((*first).into())));
    Some(Dhcp {
        addresses,
        lifetime: config.lifetime,
        options: options
            .into_iter()
            .map(|(code, value)| (code, value.into()))
            .collect(),
        name: name.map(|name| name::wire(&name).into()),
    })
}
