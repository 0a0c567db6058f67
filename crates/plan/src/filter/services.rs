//! What guests send to the host itself: its services, under a limit each; all else is
//! refused.

use ipnet::IpNet;
use l2isolate_model::{
    filter::{Family, Name, Rule, Side, Term},
    metadata,
};

use super::{
    FilterConfig,
    base::limit,
    names::{self, Sets},
};

/// What guests send to this host.
pub(super) fn host(config: &FilterConfig, sets: &Sets) -> Vec<Rule> {
    let dhcp = |port| [Term::Protocol(17), Term::Port(port, port)];
    let mut rules = vec![
        limit(&dhcp(67), &sets.dhcp),
        limit(&dhcp(547), &sets.dhcp),
        // Guests aren't relay agents: the answer would go wherever they like.
        vec![
            Term::Family(Family::V4),
            Term::Protocol(17),
            Term::Port(67, 67),
            Term::Relayed,
            Term::Jump(names::fixed(names::REFUSED_FROM)),
        ],
        limit(&[Term::Protocol(58)], &sets.nd),
        limit(&[Term::New], &sets.new),
        limit(&[Term::New], &sets.connections_host),
        vec![Term::Jump(names::fixed(names::SERVICES))],
    ];
    for family in Family::ALL {
        let echo = match family {
            Family::V4 => 8,
            Family::V6 => 128,
        };
        let mut served = vec![[Term::Protocol(family.icmp()), Term::IcmpType(family, echo)]];
        if config.dns {
            served.extend([17, 6].map(|protocol| [Term::Protocol(protocol), Term::Port(53, 53)]));
        }
        let gateways = Sets::of(&sets.gateways, family);
        for what in served {
            let to = [
                Term::DestinationIn(family, Name::clone(&gateways)),
                Term::Accept,
            ];
            let what = [Term::Family(family)].into_iter().chain(what);
            rules.push(what.chain(to).collect());
        }
    }
    rules.push(vec![Term::Jump(names::fixed(names::REFUSED_FROM))]);
    rules
}

/// What guests may have from the host, whatever their groups say.
pub(super) fn services(config: &FilterConfig) -> Vec<Rule> {
    let mut rules = vec![
        vec![Term::Known, Term::Accept],
        vec![
            Term::Family(Family::V4),
            Term::Protocol(17),
            Term::Ports(68, 67),
            Term::Accept,
        ],
        vec![
            Term::Family(Family::V6),
            Term::Protocol(17),
            Term::Ports(546, 547),
            Term::Accept,
        ],
    ];
    // Router and neighbour solicitation, neighbour advertisement; multicast
    // listener reports (RFC 4861, RFC 3810).
    rules.extend([(131, 133), (135, 136), (143, 143)].map(icmpv6));
    if config.metadata {
        rules.extend(metadata::ADDRESSES.map(|address| {
            vec![
                Term::Family(Family::of(address)),
                Term::Address(Side::Destination, IpNet::from(address)),
                Term::Protocol(6),
                Term::Port(80, 80),
                Term::Accept,
            ]
        }));
    }
    rules
}

fn icmpv6((first, last): (u8, u8)) -> Rule {
    vec![
        Term::Family(Family::V6),
        Term::Protocol(58),
        if first == last {
            Term::IcmpType(Family::V6, first)
        } else {
            Term::IcmpTypes(Family::V6, first, last)
        },
        Term::Accept,
    ]
}
