//! What the firewall is before any port is known: everything from a tap, or to
//! one, is dropped; everything else is left alone. `docs/filter.md` has the
//! whole picture.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use l2isolate_model::filter::{
    Chain, Family, Hook, Item, Key, Objects, Place, Rule, SetType, Side, Table, Term, Value, Way,
};

use super::{config::FilterConfig, names, ranges::Ranges};

/// Before connection tracking (-200), after fragments are put together (-400):
/// NF_IP_PRI_RAW.
const BEFORE_TRACKING: i32 = -300;
/// NF_IP_PRI_FILTER, and just before it.
const FILTER: i32 = 0;
const BEFORE_FILTER: i32 = -1;

/// Where guests find metadata (EC2's convention; neutron-lib METADATA_V6_IP).
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
];

/// Plans what all ports share.
#[must_use]
pub fn plan(config: &FilterConfig) -> Objects {
    let mut objects = Objects::new();
    for table in Table::ALL {
        objects.insert(
            Key::Table(table),
            Value::Table {
                owned: config.owned,
            },
        );
        let unknown = Key::Counter(table, names::fixed(names::UNKNOWN));
        objects.insert(unknown, Value::Counter);
    }
    let inet = |name| Key::Set(Table::Inet, names::fixed(name));
    for map in [
        names::CHECK,
        names::FROM,
        names::TO,
        names::HOST,
        names::SERVED,
    ] {
        objects.insert(inet(map), Value::Set(SetType::Verdicts));
    }
    let arp = Key::Set(Table::Arp, names::fixed(names::CHECK));
    objects.insert(arp, Value::Set(SetType::Verdicts));
    for family in Family::ALL {
        let name = names::protected(family);
        let nets = config.protected.iter().copied();
        let nets = nets.filter(|net| Family::of(net.addr()) == family);
        for (first, last) in Ranges::of_prefixes(nets).addresses(family) {
            let item = Item::Addresses(first, last);
            objects.insert(
                Key::Element(Table::Inet, name.clone(), item),
                Value::Element(None),
            );
        }
        objects.insert(
            Key::Set(Table::Inet, name),
            Value::Set(SetType::Ranges(family)),
        );
    }

    let mut chain = |table, name: &str, hook, rules| {
        let key = Key::Chain(table, names::fixed(name));
        objects.insert(key, Value::Chain(Chain { hook, rules }));
    };
    let mut base = |table, name: &str, place, priority, way, map: &str| {
        let rules = vec![
            vec![Term::Dispatch(way, names::fixed(map))],
            vec![
                Term::DevicePrefix(way, config.tap_prefix),
                Term::Count(names::fixed(names::UNKNOWN)),
                Term::Drop,
            ],
        ];
        chain(table, name, Some(Hook { place, priority }), rules);
    };
    let inet = Table::Inet;
    base(
        inet,
        "prerouting",
        Place::Prerouting,
        BEFORE_TRACKING,
        Way::In,
        names::CHECK,
    );
    base(
        inet,
        "forward-from",
        Place::Forward,
        BEFORE_FILTER,
        Way::In,
        names::FROM,
    );
    base(
        inet,
        "forward-to",
        Place::Forward,
        FILTER,
        Way::Out,
        names::TO,
    );
    base(inet, "input", Place::Input, FILTER, Way::In, names::HOST);
    base(
        inet,
        "output",
        Place::Output,
        FILTER,
        Way::Out,
        names::SERVED,
    );
    base(
        Table::Arp,
        "input",
        Place::Input,
        FILTER,
        Way::In,
        names::CHECK,
    );
    chain(inet, names::SERVICES, None, services(config));
    objects
}

/// What guests may have from the host, whatever their groups say.
fn services(config: &FilterConfig) -> Vec<Rule> {
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
        rules.extend(METADATA.map(|address| {
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
