//! What the firewall is before any port is known: everything from a tap, or to
//! one, is dropped; everything else is left alone. `docs/filter.md` has the
//! whole picture.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use l2isolate_model::filter::{
    Chain, Each, Family, Hook, Item, Key, Name, Objects, Place, Rule, SetType, Side, Table, Term,
    Value, Way,
};

use super::{
    config::FilterConfig,
    names::{self, Sets},
    ranges::Ranges,
};

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
    let mut base = Base {
        config,
        sets: &Sets::new(config),
        objects: Objects::new(),
    };
    for table in Table::ALL {
        let owned = config.owned;
        base.objects
            .insert(Key::Table(table), Value::Table { owned });
        let unknown = Key::Counter(table, names::fixed(names::UNKNOWN));
        base.objects.insert(unknown, Value::Counter);
    }
    base.sets();
    base.hooks();
    base.chains();
    base.objects
}

struct Base<'a> {
    config: &'a FilterConfig,
    sets: &'a Sets,
    objects: Objects,
}

impl Base<'_> {
    fn set(&mut self, table: Table, name: &Name, kind: SetType) {
        let key = Key::Set(table, Name::clone(name));
        self.objects.insert(key, Value::Set(kind));
    }

    fn chain(&mut self, table: Table, name: &str, hook: Option<Hook>, rules: Vec<Rule>) {
        let key = Key::Chain(table, names::fixed(name));
        self.objects
            .insert(key, Value::Chain(Chain { hook, rules }));
    }

    fn sets(&mut self) {
        let sets = self.sets;
        let inet = Table::Inet;
        for (map, counted) in [
            (&sets.others, false),
            (&sets.from, true),
            (&sets.to, true),
            (&sets.prefixes, false),
        ] {
            self.set(inet, map, SetType::Verdicts { counted });
        }
        for (name, each) in sets.devices(self.config) {
            self.set(inet, name, SetType::Devices(each));
        }
        for family in Family::ALL {
            let pairs = [
                (&sets.sources, SetType::Sources(family)),
                (&sets.unspecified, SetType::Sources(family)),
                (&sets.gateways, SetType::DeviceAddresses(family)),
            ];
            for (pair, kind) in pairs {
                self.set(inet, &Sets::of(pair, family), kind);
            }
            let name = names::protected(family);
            self.set(inet, &name, SetType::Ranges(family));
            let nets = self.config.protected.iter().copied();
            let nets = nets.filter(|net| Family::of(net.addr()) == family);
            for (first, last) in Ranges::of_prefixes(nets).addresses(family) {
                let key = Key::Element(inet, Name::clone(&name), Item::Addresses(first, last));
                self.objects.insert(key, Value::Element(None));
            }
        }
        let arp = Table::Arp;
        for map in [&sets.others, &sets.prefixes] {
            self.set(arp, map, SetType::Verdicts { counted: false });
        }
        self.set(arp, &sets.secured, SetType::Devices(Each::Nothing));
        self.set(arp, &sets.senders, SetType::Sources(Family::V4));
        self.set(arp, &sets.spoofed, SetType::Devices(Each::Count));
        let limit = Each::Over(self.config.limits.arp);
        self.set(arp, &sets.arp, SetType::Devices(limit));
    }

    /// Base chains: find the tap; what else is called like one is dropped.
    fn hooks(&mut self) {
        let sets = self.sets;
        let find = |way, set: &Name| Term::DeviceIn(way, Name::clone(set));
        let ask = |way, map: &Name| vec![Term::Dispatch(way, Name::clone(map))];
        let to = |chain| Term::Jump(names::fixed(chain));
        let secured = |chain| vec![find(Way::In, &sets.secured), to(chain)];
        let hook = |place, priority| Hook { place, priority };
        let inet: [(&str, Hook, Way, Vec<Rule>); 5] = [
            (
                "prerouting",
                hook(Place::Prerouting, BEFORE_TRACKING),
                Way::In,
                vec![secured(names::CHECK_SOURCE), ask(Way::In, &sets.others)],
            ),
            (
                "forward-from",
                hook(Place::Forward, BEFORE_FILTER),
                Way::In,
                vec![ask(Way::In, &sets.from)],
            ),
            (
                "forward-to",
                hook(Place::Forward, FILTER),
                Way::Out,
                vec![ask(Way::Out, &sets.to)],
            ),
            (
                "input",
                hook(Place::Input, FILTER),
                Way::In,
                vec![vec![find(Way::In, &sets.host), to(names::HOST)]],
            ),
            (
                "output",
                hook(Place::Output, FILTER),
                Way::Out,
                vec![
                    // What the host itself sends; it could anyhow.
                    vec![find(Way::Out, &sets.served), Term::Accept],
                    vec![find(Way::Out, &sets.shut), Term::Drop],
                ],
            ),
        ];
        let arp = (
            "input",
            hook(Place::Input, FILTER),
            Way::In,
            vec![
                limit(&[], &sets.arp),
                secured(names::CHECK_SENDER),
                ask(Way::In, &sets.others),
            ],
        );
        let all = inet.map(|chain| (Table::Inet, chain));
        for (table, (name, hook, way, mut rules)) in all.into_iter().chain([(Table::Arp, arp)]) {
            rules.push(vec![
                Term::DevicePrefix(way, self.config.tap_prefix),
                Term::Count(names::fixed(names::UNKNOWN)),
                Term::Drop,
            ]);
            self.chain(table, name, Some(hook), rules);
        }
    }

    /// Chains that taps and profiles lead to.
    fn chains(&mut self) {
        let sets = self.sets;
        let (inet, arp) = (Table::Inet, Table::Arp);
        self.chain(inet, names::CHECK_SOURCE, None, check_source(sets));
        self.chain(
            arp,
            names::CHECK_SENDER,
            None,
            vec![
                vec![
                    Term::ArpSourceIn(Name::clone(&sets.senders)),
                    Term::ArpSenderIn(Name::clone(&sets.senders)),
                    Term::Accept,
                ],
                vec![Term::Dispatch(Way::In, Name::clone(&sets.prefixes))],
                counted(Way::In, &sets.spoofed),
                vec![Term::Drop],
            ],
        );
        for (chain, way, counter) in [
            (names::SPOOFED, Way::In, &sets.spoofed),
            (names::REFUSED_FROM, Way::In, &sets.dropped_from),
            (names::REFUSED_TO, Way::Out, &sets.dropped_to),
        ] {
            let log = format!("l2isolate {chain}").into();
            let rules = vec![
                vec![
                    Term::DeviceIn(way, Name::clone(&sets.logged)),
                    Term::Log(self.config.log_group, log),
                ],
                counted(way, counter),
                vec![Term::Drop],
            ];
            self.chain(inet, chain, None, rules);
        }
        let mut from: Vec<Rule> = Family::ALL.map(protected).into();
        from.push(limit(&[Term::New], &sets.new));
        from.push(limit(&[Term::New], &sets.connections_from));
        self.chain(inet, names::FIRST_FROM, None, from);
        let to = vec![vec![
            Term::New,
            Term::DeviceIn(Way::Out, Name::clone(&sets.connections_to)),
            Term::Drop,
        ]];
        self.chain(inet, names::FIRST_TO, None, to);
        for (chain, first) in [
            (names::OPEN_FROM, names::FIRST_FROM),
            (names::OPEN_TO, names::FIRST_TO),
        ] {
            let rules = vec![
                vec![Term::Known, Term::Accept],
                vec![Term::Jump(names::fixed(first))],
                vec![Term::Accept],
            ];
            self.chain(inet, chain, None, rules);
        }
        self.chain(inet, names::HOST, None, host(self.config, sets));
        self.chain(inet, names::SERVICES, None, services(self.config));
    }
}

/// Drops what matches and is over a limit of the tap that it comes from.
fn limit(what: &[Term], set: &Name) -> Rule {
    let over = [Term::DeviceIn(Way::In, Name::clone(set)), Term::Drop];
    what.iter().cloned().chain(over).collect()
}

/// Drops and counts. The tap may have no counter, so a plain drop comes next.
fn counted(way: Way, set: &Name) -> Rule {
    vec![Term::DeviceIn(way, Name::clone(set)), Term::Drop]
}

/// What is for a protected prefix and doesn't answer anybody.
fn protected(family: Family) -> Rule {
    vec![
        Term::Unknown,
        Term::Family(family),
        Term::AddressIn(Side::Destination, family, names::protected(family)),
        Term::Jump(names::fixed(names::REFUSED_FROM)),
    ]
}

/// Whether a packet's source is the guest's.
fn check_source(sets: &Sets) -> Vec<Rule> {
    let accept = |family, set: &[Name; 2], what: Vec<Term>| -> Rule {
        let source = [Term::SourceIn(family, Sets::of(set, family)), Term::Accept];
        let what = [Term::Family(family)].into_iter().chain(what);
        what.chain(source).collect()
    };
    // Never a DHCP server, whichever the source.
    let server = |(source, destination)| {
        vec![
            Term::Protocol(17),
            Term::Ports(source, destination),
            Term::Jump(names::fixed(names::SPOOFED)),
        ]
    };
    let mut rules: Vec<Rule> = [(67, 68), (547, 546)].map(server).into();
    rules.extend(Family::ALL.map(|family| accept(family, &sets.sources, Vec::new())));
    let broadcast = IpNet::from(IpAddr::from(Ipv4Addr::BROADCAST));
    let dhcp = vec![
        Term::Address(Side::Destination, broadcast),
        Term::Protocol(17),
        Term::Ports(68, 67),
    ];
    rules.push(accept(Family::V4, &sets.unspecified, dhcp));
    // Duplicate address detection and what surrounds it: to the host only,
    // which takes no more than it has to; nobody passes it on.
    let icmp = vec![Term::Protocol(58)];
    rules.push(accept(Family::V6, &sets.unspecified, icmp));
    rules.push(vec![Term::Dispatch(Way::In, Name::clone(&sets.prefixes))]);
    rules.push(vec![Term::Jump(names::fixed(names::SPOOFED))]);
    rules
}

/// What guests send to this host.
fn host(config: &FilterConfig, sets: &Sets) -> Vec<Rule> {
    let dhcp = |port| [Term::Protocol(17), Term::Port(port, port)];
    let mut rules = vec![
        limit(&dhcp(67), &sets.dhcp),
        limit(&dhcp(547), &sets.dhcp),
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
