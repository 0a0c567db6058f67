//! What the firewall is before any port is known: everything from a tap, or to
//! one, is dropped, and what came from a switch doesn't go back to one; everything
//! else is left alone. `docs/filter.md` has the whole picture.

use std::net::{IpAddr, Ipv4Addr};

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
    services::{host, services},
};

/// Before connection tracking (-200), after fragments are put together (-400):
/// NF_IP_PRI_RAW.
const BEFORE_TRACKING: i32 = -300;
/// NF_IP_PRI_FILTER, and just before it.
const FILTER: i32 = 0;
const BEFORE_FILTER: i32 = -1;
const BEFORE_ALL: i32 = -2;

/// Ports of DHCP's servers and clients (RFC 2131, RFC 8415).
const SERVERS: [(u16, u16); 2] = [(67, 68), (547, 546)];

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
        self.uplinks();
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

    fn uplinks(&mut self) {
        if self.config.uplinks.is_empty() {
            return;
        }
        let (inet, name) = (Table::Inet, names::fixed(names::UPLINKS));
        self.set(inet, &name, SetType::Devices(Each::Nothing));
        for uplink in &self.config.uplinks {
            let key = Key::Element(inet, Name::clone(&name), Item::Device(*uplink));
            self.objects.insert(key, Value::Element(None));
        }
        let counter = Key::Counter(inet, names::fixed(names::TRANSIT));
        self.objects.insert(counter, Value::Counter);
    }

    /// Base chains: what comes from a tap, or goes to one, is told by the device's
    /// name alone. Whether a packet is on its way from switch to switch is asked of those
    /// alone that neither come from a tap nor go to one.
    fn hooks(&mut self) {
        let sets = self.sets;
        let prefix = self.config.tap_prefix;
        let tap = |way, chain| vec![Term::DevicePrefix(way, prefix), to(chain)];
        let hook = |place, priority| Hook { place, priority };
        let mut from = vec![tap(Way::In, names::JUDGE_FROM)];
        if self.tracked {
            from.insert(0, vec![Term::Known, Term::Accept]);
        }
        let mut onward = vec![tap(Way::Out, names::JUDGE_TO)];
        if !self.config.uplinks.is_empty() {
            // What a guest sends needn't be looked at twice.
            let from_tap = Term::DevicePrefix(Way::In, prefix);
            onward.extend([vec![from_tap, Term::Accept], transit()]);
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
            ("forward-to", hook(Place::Forward, FILTER), onward),
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
        let strays = self.config.strays.map(|group| {
            let heard = (
                names::STRAYS,
                hook(Place::Forward, BEFORE_ALL),
                strays(group, prefix),
            );
            (Table::Inet, heard)
        });
        let all = all.into_iter().chain([(Table::Arp, arp)]).chain(strays);
        for (table, (name, hook, rules)) in all {
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

/// A hypervisor is no way from switch to switch. What comes for a guest that isn't here
/// any more would go back by the default route, to a switch that sends it again until it
/// knows better.
fn transit() -> Rule {
    let uplinks = |way| Term::DeviceIn(way, names::fixed(names::UPLINKS));
    let count = Term::Count(names::fixed(names::TRANSIT));
    vec![uplinks(Way::In), uplinks(Way::Out), count, Term::Drop]
}

/// Shows ICMP errors (RFC 792, RFC 4443: unreachable, time exceeded) that come from the
/// fabric and speak of a packet which nobody has sent from here; what becomes of them is
/// asked further on. A chain of its own: where the kernel can't log, nothing else fails.
fn strays(group: u16, tap_prefix: IfName) -> Vec<Rule> {
    let mut rules = vec![
        vec![Term::Known, Term::Accept],
        vec![Term::DevicePrefix(Way::In, tap_prefix), Term::Accept],
    ];
    for (family, kinds) in [(Family::V4, [3, 11]), (Family::V6, [1, 3])] {
        rules.extend(kinds.map(|kind| {
            vec![
                Term::Family(family),
                Term::Protocol(family.icmp()),
                Term::IcmpType(family, kind),
                Term::Log(group, names::fixed(names::STRAY)),
            ]
        }));
    }
    rules
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
pub(super) fn limit(what: &[Term], set: &Name) -> Rule {
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
