//! One port's part of the firewall: who it may be, what it may use, and which
//! groups decide about the rest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use l2isolate_model::{
    GroupId, IfName, Mac,
    filter::{
        Chain, Family, Item, Key, Limit, Name, Objects, Rule, Side, Table, Term, Value, Verdict,
    },
    group::{Direction, Group},
    port::CheckedPort,
};

use super::{config::FilterConfig, names};

/// What the counters of a tap are called, by table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// All that the guest sent from its own addresses, accepted or not.
    pub from: Name,
    /// Of that, what groups or host refused.
    pub from_dropped: Name,
    /// Of that, what went over a limit.
    pub from_limited: Name,
    /// What came from addresses that aren't the guest's.
    pub spoofed: Name,
    /// All that was sent to the guest.
    pub to: Name,
    /// Of that, what groups refused.
    pub to_dropped: Name,
    /// Of that, what went over a limit.
    pub to_limited: Name,
}

impl Counters {
    /// The counters of a tap. In the table `arp` there are `spoofed` and
    /// `from_limited`.
    #[must_use]
    pub fn of(tap: IfName) -> Self {
        let name = |what| names::of_tap(what, tap);
        Self {
            from: name("from"),
            from_dropped: name("from-dropped"),
            from_limited: name("from-limited"),
            spoofed: name("spoofed"),
            to: name("to"),
            to_dropped: name("to-dropped"),
            to_limited: name("to-limited"),
        }
    }
}

/// Which sources are the guest's: hardware address and prefix, its own
/// addresses first.
pub fn sources(port: &CheckedPort) -> impl Iterator<Item = (Mac, IpNet)> {
    let own = port
        .addresses
        .iter()
        .map(|(address, _)| (port.port.mac, IpNet::from(*address)));
    let pairs = port.port.allowed_address_pairs.iter();
    own.chain(pairs.map(|pair| (pair.mac.unwrap_or(port.port.mac), pair.address.trunc())))
}

/// Plans a tap: `port` is the port that has it, `group` finds security groups.
/// What isn't planned is dropped, see [`super::base`].
pub(crate) fn plan<'a>(
    tap: IfName,
    port: Option<&CheckedPort>,
    group: impl Fn(&GroupId) -> Option<&'a Group>,
    config: &FilterConfig,
) -> Objects {
    let Some(port) = port else {
        return Objects::new();
    };
    if !port.port.admin_state_up {
        return shut(tap);
    }
    // An open port has no groups that could be anything.
    let mut groups = port.port.groups.iter().filter_map(group);
    let stateful = !port.port.port_security || groups.all(|group| group.stateful);
    let tap = TapPlan {
        tap,
        port,
        stateful,
        config,
        counters: Counters::of(tap),
    };
    tap.plan()
}

/// An entry for each map, with the verdict that the map gives.
fn entries<'a>(
    tap: IfName,
    maps: &'a [(Table, &str, Verdict)],
) -> impl Iterator<Item = (Key, Value)> + 'a {
    maps.iter().map(move |(table, map, verdict)| {
        let key = Key::Element(*table, names::fixed(map), Item::Device(tap));
        (key, Value::Element(Some(verdict.clone())))
    })
}

/// Administratively down. Taps that are called otherwise than taps are called
/// aren't dropped as unknown, so all are named.
fn shut(tap: IfName) -> Objects {
    let maps = [
        (Table::Inet, names::CHECK, Verdict::Drop),
        (Table::Inet, names::FROM, Verdict::Drop),
        (Table::Inet, names::TO, Verdict::Drop),
        (Table::Inet, names::HOST, Verdict::Drop),
        (Table::Inet, names::SERVED, Verdict::Drop),
        (Table::Arp, names::CHECK, Verdict::Drop),
    ];
    entries(tap, &maps).collect()
}

struct TapPlan<'a> {
    tap: IfName,
    port: &'a CheckedPort,
    /// No group of it is stateless.
    stateful: bool,
    config: &'a FilterConfig,
    counters: Counters,
}

impl TapPlan<'_> {
    fn plan(&self) -> Objects {
        let secured = self.port.port.port_security;
        let jump = |what| Verdict::Jump(names::of_tap(what, self.tap));
        let check = if secured {
            jump(names::CHECK)
        } else {
            Verdict::Accept
        };
        let maps = [
            (Table::Inet, names::CHECK, check),
            (Table::Inet, names::FROM, jump(names::FROM)),
            (Table::Inet, names::TO, jump(names::TO)),
            (Table::Inet, names::HOST, jump(names::HOST)),
            // What the host itself sends; it could anyhow.
            (Table::Inet, names::SERVED, Verdict::Accept),
            (Table::Arp, names::CHECK, jump(names::CHECK)),
        ];
        let mut objects: Objects = entries(self.tap, &maps).collect();
        let c = &self.counters;
        let inet = [
            &c.from,
            &c.from_dropped,
            &c.from_limited,
            &c.spoofed,
            &c.to,
            &c.to_dropped,
            &c.to_limited,
        ];
        let arp = [&c.from_limited, &c.spoofed];
        let inet = inet.map(|name| Key::Counter(Table::Inet, name.clone()));
        let arp = arp.map(|name| Key::Counter(Table::Arp, name.clone()));
        objects.extend(inet.into_iter().chain(arp).map(|key| (key, Value::Counter)));
        let mut chain = |table, what, rules| {
            let key = Key::Chain(table, names::of_tap(what, self.tap));
            objects.insert(key, Value::Chain(Chain { hook: None, rules }));
        };
        if secured {
            chain(Table::Inet, names::CHECK, self.check());
        }
        chain(Table::Inet, names::FROM, self.from());
        chain(Table::Inet, names::TO, self.to());
        chain(Table::Inet, names::HOST, self.host());
        chain(Table::Arp, names::CHECK, self.arp());
        objects
    }

    /// The hardware addresses among them.
    fn macs(&self, family: Family) -> Vec<Mac> {
        let mut macs: Vec<Mac> = Vec::new();
        for (mac, net) in sources(self.port) {
            if Family::of(net.addr()) == family && !macs.contains(&mac) {
                macs.push(mac);
            }
        }
        macs
    }

    fn check(&self) -> Vec<Rule> {
        let refuse = || [Term::Count(self.counters.spoofed.clone()), Term::Drop];
        let rule = |terms: &[Term]| terms.iter().cloned().chain(refuse()).collect::<Rule>();
        let accept = |family, mac, net: IpNet, rest: &[Term]| -> Rule {
            let who = [Term::Family(family), Term::EtherSource(mac)].into_iter();
            let from = (net.prefix_len() > 0).then_some(Term::Address(Side::Source, net));
            who.chain(from)
                .chain(rest.iter().cloned())
                .chain([Term::Accept])
                .collect()
        };
        let of_family =
            |family| sources(self.port).filter(move |(_, net)| Family::of(net.addr()) == family);

        // Never a DHCP server, whichever the source.
        let mut rules = vec![
            rule(&[Term::Protocol(17), Term::Ports(67, 68)]),
            rule(&[Term::Protocol(17), Term::Ports(547, 546)]),
        ];
        rules.extend(of_family(Family::V4).map(|(mac, net)| accept(Family::V4, mac, net, &[])));
        let client = [
            Term::Address(
                Side::Destination,
                IpNet::from(IpAddr::from(Ipv4Addr::BROADCAST)),
            ),
            Term::Protocol(17),
            Term::Ports(68, 67),
        ];
        let nobody = IpNet::from(IpAddr::from(Ipv4Addr::UNSPECIFIED));
        // A guest without IPv4 address may ask for one: it gets no answer.
        let mut macs = self.macs(Family::V4);
        if macs.is_empty() {
            macs.push(self.port.port.mac);
        }
        rules.extend(
            macs.into_iter()
                .map(|mac| accept(Family::V4, mac, nobody, &client)),
        );

        rules.extend(of_family(Family::V6).map(|(mac, net)| accept(Family::V6, mac, net, &[])));
        let nobody = IpNet::from(IpAddr::from(Ipv6Addr::UNSPECIFIED));
        for mac in self.macs(Family::V6) {
            rules.push(accept(
                Family::V6,
                mac,
                IpNet::from(IpAddr::from(link_local(mac))),
                &[],
            ));
            // Duplicate address detection and what surrounds it: to the host
            // only, which takes no more than it has to; nobody passes it on.
            rules.push(accept(Family::V6, mac, nobody, &[Term::Protocol(58)]));
        }
        rules.extend(self.log());
        rules.push(rule(&[]));
        rules
    }

    /// What the guest sends through this host.
    fn from(&self) -> Vec<Rule> {
        let c = &self.counters;
        let mut rules = vec![vec![Term::Count(c.from.clone())]];
        if self.stateful {
            rules.push(vec![Term::Known, Term::Accept]);
        }
        rules.extend(Family::ALL.map(|family| {
            vec![
                Term::Unknown,
                Term::Family(family),
                Term::AddressIn(Side::Destination, family, names::protected(family)),
                Term::Count(c.from_dropped.clone()),
                Term::Drop,
            ]
        }));
        let limits = self.config.limits;
        rules.push(over(&[Term::New], limits.new, &c.from_limited));
        rules.push(too_many(limits.connections, &c.from_limited));
        self.judge(Direction::Egress, &c.from_dropped, rules)
    }

    /// What is sent to the guest.
    fn to(&self) -> Vec<Rule> {
        let c = &self.counters;
        let mut rules = vec![vec![Term::Count(c.to.clone())]];
        if self.stateful {
            rules.push(vec![Term::Known, Term::Accept]);
        }
        rules.push(too_many(self.config.limits.connections, &c.to_limited));
        self.judge(Direction::Ingress, &c.to_dropped, rules)
    }

    /// The groups' say, and the end.
    fn judge(&self, direction: Direction, dropped: &Name, mut rules: Vec<Rule>) -> Vec<Rule> {
        let port = &self.port.port;
        if !port.port_security {
            rules.push(vec![Term::Accept]);
            return rules;
        }
        for (place, group) in port.groups.iter().enumerate() {
            if !port
                .groups
                .iter()
                .take(place)
                .any(|earlier| earlier == group)
            {
                rules.push(vec![Term::Jump(names::group(group, direction))]);
            }
        }
        rules.extend(self.log());
        rules.push(vec![Term::Count(dropped.clone()), Term::Drop]);
        rules
    }

    /// What the guest sends to this host.
    fn host(&self) -> Vec<Rule> {
        let c = &self.counters;
        let limits = self.config.limits;
        let dhcp = |port| [Term::Protocol(17), Term::Port(port, port)];
        let mut rules = vec![
            vec![Term::Count(c.from.clone())],
            over(&dhcp(67), limits.dhcp, &c.from_limited),
            over(&[Term::New], limits.new, &c.from_limited),
            too_many(limits.host_connections, &c.from_limited),
        ];
        // Without an address in it, nothing of IPv6 gets here.
        if !self.port.port.port_security || !self.macs(Family::V6).is_empty() {
            rules.push(over(&dhcp(547), limits.dhcp, &c.from_limited));
            rules.push(over(&[Term::Protocol(58)], limits.nd, &c.from_limited));
        }
        rules.push(vec![Term::Jump(names::fixed(names::SERVICES))]);
        let mut gateways: Vec<IpAddr> = Vec::new();
        let subnets = self.port.addresses.iter().map(|(_, subnet)| subnet);
        let link_local = self.config.gateway_link_local.map(IpAddr::from);
        for gateway in subnets
            .filter_map(|subnet| subnet.gateway)
            .chain(link_local)
        {
            if !gateways.contains(&gateway) {
                gateways.push(gateway);
            }
        }
        for gateway in gateways {
            let family = Family::of(gateway);
            let echo = match family {
                Family::V4 => 8,
                Family::V6 => 128,
            };
            let to = [
                Term::Family(family),
                Term::Address(Side::Destination, IpNet::from(gateway)),
            ];
            let mut serve = |what: [Term; 2]| {
                rules.push(
                    to.iter()
                        .cloned()
                        .chain(what)
                        .chain([Term::Accept])
                        .collect(),
                );
            };
            serve([Term::Protocol(family.icmp()), Term::IcmpType(family, echo)]);
            if self.config.dns {
                serve([Term::Protocol(17), Term::Port(53, 53)]);
                serve([Term::Protocol(6), Term::Port(53, 53)]);
            }
        }
        rules.extend(self.log());
        rules.push(vec![Term::Count(c.from_dropped.clone()), Term::Drop]);
        rules
    }

    fn arp(&self) -> Vec<Rule> {
        let c = &self.counters;
        let mut rules = vec![over(&[], self.config.limits.arp, &c.from_limited)];
        if !self.port.port.port_security {
            rules.push(vec![Term::Accept]);
            return rules;
        }
        let accept = |mac, net: IpNet| -> Rule {
            let who = [Term::EtherSource(mac), Term::ArpMac(mac)].into_iter();
            let from = (net.prefix_len() > 0).then_some(Term::ArpAddress(net));
            who.chain(from).chain([Term::Accept]).collect()
        };
        let ours = sources(self.port).filter(|(_, net)| Family::of(net.addr()) == Family::V4);
        rules.extend(ours.map(|(mac, net)| accept(mac, net)));
        // Whether an address is free is asked without having one (RFC 5227).
        let nobody = IpNet::from(IpAddr::from(Ipv4Addr::UNSPECIFIED));
        rules.extend(
            self.macs(Family::V4)
                .into_iter()
                .map(|mac| accept(mac, nobody)),
        );
        rules.push(vec![Term::Count(c.spoofed.clone()), Term::Drop]);
        rules
    }

    /// Shows what is about to be dropped, if somebody asked.
    fn log(&self) -> Option<Rule> {
        let port = &self.port.port;
        let asked = |id: &str| self.config.log.contains(id);
        let wanted =
            asked(port.id.as_str()) || port.groups.iter().any(|group| asked(group.as_str()));
        wanted.then(|| {
            let prefix = format!("l2isolate {}", self.tap).into();
            vec![
                Term::Within(LOGGED),
                Term::Log(self.config.log_group, prefix),
            ]
        })
    }
}

/// Dropped packets of one chain that are shown, at most.
const LOGGED: Limit = Limit {
    rate: 10,
    burst: 20,
};

fn over(what: &[Term], limit: Limit, count: &Name) -> Rule {
    let refuse = [Term::Over(limit), Term::Count(count.clone()), Term::Drop];
    what.iter().cloned().chain(refuse).collect()
}

fn too_many(connections: u32, count: &Name) -> Rule {
    vec![
        Term::New,
        Term::Connections(connections),
        Term::Count(count.clone()),
        Term::Drop,
    ]
}

/// The link-local address that a host makes from its hardware address
/// (RFC 4291, appendix A), the only one that Neutron's firewall lets a guest
/// use as well: one guest, one neighbour entry.
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.bytes().map(u16::from);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        (a ^ 2) << 8 | b,
        c << 8 | 0xff,
        0xfe00 | d,
        e << 8 | f,
    )
}
