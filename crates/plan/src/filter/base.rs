//! What the firewall is before any port is known: everything from a tap, or to
//! one, is dropped; everything else is left alone. `docs/filter.md` has the
//! whole picture.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use l2isolate_model::{
    IfName,
    filter::{
        Chain, Each, Family, Hook, Item, Key, Name, Objects, Place, Rule, SetType, Side, Table,
        Term, Value, Way,
    },
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

/// Ports of DHCP's servers and clients (RFC 2131, RFC 8415).
const SERVERS: [(u16, u16); 2] = [(67, 68), (547, 546)];

/// Where guests find metadata (EC2's convention; neutron-lib METADATA_V6_IP).
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
];

/// Plans what all ports share, while no port is known.
#[must_use]
pub fn base(config: &FilterConfig) -> Objects {
    plan(config, true)
}

/// Plans what all ports share. `tracked`: known flows of all ports pass without
/// asking again; so nobody has to be asked whose they are.
pub(crate) fn plan(config: &FilterConfig, tracked: bool) -> Objects {
    let mut base = Base {
        config,
        tracked,
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
    tracked: bool,
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
        for map in [&sets.groups_from, &sets.groups_to, &sets.prefixes] {
            self.set(inet, map, SetType::Verdicts);
        }
        for (_, map) in &sets.logs {
            self.set(inet, map, SetType::Verdicts);
        }
        for (name, each) in sets.devices(self.config) {
            self.set(inet, name, SetType::Devices(each));
        }
        for family in Family::ALL {
            let pairs = [
                (&sets.sources, SetType::Sources(family, Each::Count)),
                (&sets.unspecified, SetType::Sources(family, Each::Count)),
                (&sets.gateways, SetType::DeviceAddresses(family)),
            ];
            for (pair, kind) in pairs {
                self.set(inet, &Sets::of(pair, family), kind);
            }
            self.set(inet, &names::left(family), SetType::Addresses(family));
            if self.config.tunnel.is_some() {
                self.set(inet, &names::peers(family), SetType::Addresses(family));
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
        self.set(arp, &sets.prefixes, SetType::Verdicts);
        for set in [&sets.open, &sets.shut] {
            self.set(arp, set, SetType::Devices(Each::Nothing));
        }
        let senders = SetType::Sources(Family::V4, Each::Nothing);
        self.set(arp, &sets.senders, senders);
        self.set(arp, &sets.spoofed, SetType::Devices(Each::Count));
        let limit = Each::Over(self.config.limits.arp);
        self.set(arp, &sets.arp, SetType::Devices(limit));
    }

    /// Base chains: what comes from a tap, or goes to one, is told by the device's
    /// name alone, so that nothing else is looked up for.
    fn hooks(&mut self) {
        let sets = self.sets;
        let prefix = self.config.tap_prefix;
        let tap = |way, chain| vec![Term::DevicePrefix(way, prefix), to(chain)];
        let hook = |place, priority| Hook { place, priority };
        let mut from = vec![tap(Way::In, names::JUDGE_FROM)];
        if self.tracked {
            from.insert(0, vec![Term::Known, Term::Accept]);
        }
        let mut input = vec![tap(Way::In, names::HOST)];
        input.extend(self.config.tunnel.into_iter().flat_map(tunnelled));
        let inet = [
            (
                "prerouting",
                hook(Place::Prerouting, BEFORE_TRACKING),
                vec![tap(Way::In, names::CHECK_SOURCE)],
            ),
            ("forward-from", hook(Place::Forward, BEFORE_FILTER), from),
            (
                "forward-to",
                hook(Place::Forward, FILTER),
                vec![tap(Way::Out, names::JUDGE_TO)],
            ),
            ("input", hook(Place::Input, FILTER), input),
            (
                "output",
                hook(Place::Output, FILTER),
                vec![tap(Way::Out, names::DELIVER), reply(68), reply(67)],
            ),
        ];
        let arp = (
            "input",
            hook(Place::Input, FILTER),
            vec![limit(&[], &sets.arp), tap(Way::In, names::CHECK_SENDER)],
        );
        let all = inet.map(|chain| (Table::Inet, chain));
        for (table, (name, hook, rules)) in all.into_iter().chain([(Table::Arp, arp)]) {
            self.chain(table, name, Some(hook), rules);
        }
    }

    /// Chains that taps lead to.
    fn chains(&mut self) {
        let sets = self.sets;
        let (inet, arp) = (Table::Inet, Table::Arp);
        self.chain(inet, names::CHECK_SOURCE, None, check_source(sets));
        self.chain(arp, names::CHECK_SENDER, None, check_sender(sets));
        let counters = [
            (Way::In, &sets.spoofed),
            (Way::In, &sets.dropped_from),
            (Way::Out, &sets.dropped_to),
        ];
        for ((chain, logs), (way, counter)) in sets.logs.iter().zip(counters) {
            let rules = vec![
                vec![
                    device_in(way, &sets.logged),
                    Term::Dispatch(way, Name::clone(logs)),
                ],
                counted(way, counter),
                unknown(),
            ];
            self.chain(inet, chain, None, rules);
        }
        for (chain, rules) in [
            (names::JUDGE_FROM, self.judge_from()),
            (names::JUDGE_TO, self.judge_to()),
        ] {
            self.chain(inet, chain, None, rules);
        }
        self.chain(inet, names::HOST, None, host(self.config, sets));
        self.chain(inet, names::DELIVER, None, deliver(sets));
        self.chain(inet, names::SERVICES, None, services(self.config));
    }

    /// What a guest sends through the host. What is known has passed already, but
    /// while some ports ask for each packet; the rest is of first packets.
    fn judge_from(&self) -> Vec<Rule> {
        let sets = self.sets;
        let mut rules = Vec::new();
        if !self.tracked {
            let whose = device_in(Way::In, &sets.tracked);
            rules.push(vec![Term::Known, whose, Term::Accept]);
        }
        rules.extend(SERVERS.map(|(server, client)| self.server(Way::In, server, client)));
        rules.extend(Family::ALL.map(protected));
        rules.push(limit(&[Term::New], &sets.new));
        rules.push(limit(&[Term::New], &sets.connections_from));
        rules.push(vec![Term::Dispatch(
            Way::In,
            Name::clone(&sets.groups_from),
        )]);
        rules.push(vec![to(names::REFUSED_FROM)]);
        rules
    }

    /// What is sent to a guest: counted first, whatever becomes of it.
    fn judge_to(&self) -> Vec<Rule> {
        let sets = self.sets;
        let whose = device_in(Way::Out, &sets.tracked);
        let received = device_in(Way::Out, &sets.received);
        let known = [received, Term::Known].into_iter();
        let known = known.chain((!self.tracked).then_some(whose));
        let mut rules = vec![known.chain([Term::Accept]).collect()];
        rules.extend(SERVERS.map(|(server, client)| self.server(Way::Out, client, server)));
        rules.push(vec![
            Term::New,
            device_in(Way::Out, &sets.connections_to),
            Term::Drop,
        ]);
        rules.push(vec![Term::Dispatch(Way::Out, Name::clone(&sets.groups_to))]);
        rules.push(vec![to(names::REFUSED_TO)]);
        rules
    }

    /// A secured guest is never a DHCP server. It neither sends as one nor is
    /// asked as one; so there is no flow either, and known ones needn't be
    /// looked at.
    fn server(&self, way: Way, source: u16, destination: u16) -> Rule {
        let chain = match way {
            Way::In => names::SPOOFED,
            Way::Out => names::REFUSED_TO,
        };
        vec![
            Term::Protocol(17),
            Term::Ports(source, destination),
            device_in(way, &self.sets.secured),
            Term::Jump(names::fixed(chain)),
        ]
    }
}

/// The tunnel's port is open to the peers of migrations, and nothing that comes out
/// of the tunnel is for this host itself. Guests have been judged before.
fn tunnelled(port: u16) -> Vec<Rule> {
    let to_port = [Term::Protocol(17), Term::Port(port, port)];
    let mut rules = vec![vec![
        Term::DevicePrefix(Way::In, IfName::TUNNEL),
        Term::Drop,
    ]];
    for family in Family::ALL {
        let from_peer = [
            Term::AddressIn(Side::Source, family, names::peers(family)),
            Term::Accept,
        ];
        let packet = [Term::Family(family)].into_iter().chain(to_port.clone());
        rules.push(packet.chain(from_peer).collect());
    }
    rules.push(to_port.into_iter().chain([Term::Drop]).collect());
    rules
}

/// Drops what matches and is over a limit of the tap that it comes from.
fn limit(what: &[Term], set: &Name) -> Rule {
    let over = [device_in(Way::In, set), Term::Drop];
    what.iter().cloned().chain(over).collect()
}

/// Drops and counts.
fn counted(way: Way, set: &Name) -> Rule {
    vec![device_in(way, set), Term::Drop]
}

/// Drops what is left: a tap without a counter is none that we know.
fn unknown() -> Rule {
    vec![Term::Count(names::fixed(names::UNKNOWN)), Term::Drop]
}

fn device_in(way: Way, set: &Name) -> Term {
    Term::DeviceIn(way, Name::clone(set))
}

fn to(chain: &str) -> Term {
    Term::Jump(names::fixed(chain))
}

/// What the host's DHCP server would send into a protected prefix, since a guest
/// put an address from there into its message: to clients and to relay agents.
fn reply(port: u16) -> Rule {
    vec![
        Term::Family(Family::V4),
        Term::Protocol(17),
        Term::Ports(67, port),
        Term::AddressIn(Side::Destination, Family::V4, names::protected(Family::V4)),
        Term::Drop,
    ]
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

/// Whether a packet's source is the guest's. Nothing but its own addresses is
/// asked for first, since that is what nearly all packets have.
fn check_source(sets: &Sets) -> Vec<Rule> {
    let accept = |family, set: &[Name; 2], what: Vec<Term>| -> Rule {
        let source = [Term::SourceIn(family, Sets::of(set, family)), Term::Accept];
        let what = [Term::Family(family)].into_iter().chain(what);
        what.chain(source).collect()
    };
    let mut rules: Vec<Rule> = Family::ALL
        .map(|family| accept(family, &sets.sources, Vec::new()))
        .into();
    rules.push(vec![device_in(Way::In, &sets.open), Term::Accept]);
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
    rules.push(vec![device_in(Way::In, &sets.secured), to(names::SPOOFED)]);
    rules.push(vec![to(names::REFUSED_FROM)]);
    rules
}

/// Whether an ARP packet's sender is the guest.
fn check_sender(sets: &Sets) -> Vec<Rule> {
    vec![
        vec![
            Term::ArpSourceIn(Name::clone(&sets.senders)),
            Term::ArpSenderIn(Name::clone(&sets.senders)),
            Term::Accept,
        ],
        vec![device_in(Way::In, &sets.open), Term::Accept],
        vec![Term::Dispatch(Way::In, Name::clone(&sets.prefixes))],
        counted(Way::In, &sets.spoofed),
        vec![device_in(Way::In, &sets.shut), Term::Drop],
        unknown(),
    ]
}

/// What the host itself sends to a tap.
fn deliver(sets: &Sets) -> Vec<Rule> {
    vec![
        vec![device_in(Way::Out, &sets.served), Term::Accept],
        vec![device_in(Way::Out, &sets.shut), Term::Drop],
        unknown(),
    ]
}

/// What guests send to this host.
fn host(config: &FilterConfig, sets: &Sets) -> Vec<Rule> {
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
    rules.push(vec![to(names::REFUSED_FROM)]);
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
