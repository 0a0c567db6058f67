//! One port's part of the firewall: who it may be, what it may use, and which
//! groups decide about the rest. All of it are elements of maps and sets that
//! every port shares; only prefixes that a guest may send from need a chain.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use l2isolate_model::{
    GroupId, IfName, Mac,
    filter::{
        Chain, Family, Item, Key, Name, Objects, Rule, Side, Table, Term, Value, Verdict, Way,
    },
    group::Direction,
    port::CheckedPort,
};

use super::{
    config::FilterConfig,
    names::{self, Sets},
    profile,
};

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

/// Plans a tap: `port` is the port that has it; `tracked` says whether its known
/// flows pass without asking again. What isn't planned is dropped, see
/// [`super::base`].
pub(crate) fn plan(
    tap: IfName,
    port: Option<&CheckedPort>,
    tracked: bool,
    config: &FilterConfig,
    sets: &Sets,
) -> Objects {
    let Some(port) = port else {
        return Objects::new();
    };
    let mut plan = TapPlan {
        tap,
        port,
        sets,
        objects: Objects::new(),
    };
    match profile::of(port) {
        Some(profile) => plan.secured(&profile, config),
        None if port.port.admin_state_up => plan.open(config),
        None => plan.shut(),
    }
    if tracked && port.port.admin_state_up {
        plan.devices(Table::Inet, &[&sets.tracked]);
    }
    plan.objects
}

struct TapPlan<'a> {
    tap: IfName,
    port: &'a CheckedPort,
    sets: &'a Sets,
    objects: Objects,
}

/// A single address, which sets take; a prefix needs a rule.
fn single(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

impl TapPlan<'_> {
    fn element(&mut self, table: Table, set: &Name, item: Item, verdict: Option<Verdict>) {
        let key = Key::Element(table, Name::clone(set), item);
        self.objects.insert(key, Value::Element(verdict));
    }

    fn devices(&mut self, table: Table, sets: &[&Name]) {
        for set in sets {
            self.element(table, set, Item::Device(self.tap), None);
        }
    }

    fn entry(&mut self, table: Table, map: &Name, verdict: Verdict) {
        self.element(table, map, Item::Device(self.tap), Some(verdict));
    }

    /// Administratively down: nobody judges it, so all is refused, and counted.
    fn shut(&mut self) {
        let sets = self.sets;
        let counters = [&sets.shut, &sets.dropped_from, &sets.dropped_to];
        self.devices(Table::Inet, &counters);
        self.devices(Table::Arp, &[&sets.shut]);
    }

    /// Without port security: no groups, and anybody's addresses.
    fn open(&mut self, config: &FilterConfig) {
        let (sets, inet) = (self.sets, Table::Inet);
        for table in Table::ALL {
            self.devices(table, &[&sets.open]);
        }
        for map in [&sets.groups_from, &sets.groups_to] {
            self.entry(inet, map, Verdict::Accept);
        }
        self.limits(config);
    }

    fn secured(&mut self, profile: &profile::Profile, config: &FilterConfig) {
        let sets = self.sets;
        self.devices(Table::Inet, &[&sets.secured]);
        for table in Table::ALL {
            self.devices(table, &[&sets.spoofed]);
        }
        for (map, direction) in [
            (&sets.groups_from, Direction::Egress),
            (&sets.groups_to, Direction::Ingress),
        ] {
            if let Some(judge) = profile::judge(profile, direction) {
                self.entry(Table::Inet, map, Verdict::Jump(judge));
            }
        }
        self.limits(config);
        self.addresses();
        let prefixes = self.source_prefixes();
        if !prefixes.is_empty() {
            self.devices(Table::Inet, &[&sets.passed]);
        }
        self.prefixes(Table::Inet, "sources", prefixes);
        self.prefixes(Table::Arp, "senders", self.sender_prefixes());
    }

    /// A chain of the tap's own, if it needs one.
    fn prefixes(&mut self, table: Table, what: &str, rules: Vec<Rule>) {
        if rules.is_empty() {
            return;
        }
        let name = names::of_tap(what, self.tap);
        let chain = Value::Chain(Chain { hook: None, rules });
        self.objects
            .insert(Key::Chain(table, Name::clone(&name)), chain);
        self.entry(table, &self.sets.prefixes, Verdict::Jump(name));
    }

    /// What the guest may use, and what counts it.
    fn limits(&mut self, config: &FilterConfig) {
        let sets = self.sets;
        let inet = [
            &sets.served,
            &sets.received,
            &sets.dropped_from,
            &sets.dropped_to,
            &sets.new,
            &sets.connections_from,
            &sets.connections_to,
            &sets.connections_host,
            &sets.dhcp,
            &sets.nd,
        ];
        self.devices(Table::Inet, &inet);
        self.devices(Table::Arp, &[&sets.arp]);
        self.log(config);
        let subnets = self.port.addresses.iter().map(|(_, subnet)| subnet);
        let link_local = config.gateway_link_local.map(IpAddr::from);
        for gateway in subnets
            .filter_map(|subnet| subnet.gateway)
            .chain(link_local)
        {
            let set = Sets::of(&sets.gateways, Family::of(gateway));
            let item = Item::DeviceAddress(self.tap, gateway);
            self.element(Table::Inet, &set, item, None);
        }
    }

    /// Shows what is dropped, if that is asked for: with the port's id, and with
    /// the group's if it is for the group that it is asked for.
    fn log(&mut self, config: &FilterConfig) {
        let (sets, port) = (self.sets, &self.port.port);
        let mut groups = port.groups.iter().map(GroupId::as_str);
        let who = if config.log.contains(port.id.as_str()) {
            format!("port {}", port.id)
        } else if let Some(group) = groups.find(|group| config.log.contains(*group)) {
            format!("port {} of group {group}", port.id)
        } else {
            return;
        };
        self.devices(Table::Inet, &[&sets.logged]);
        for (what, map) in &sets.logs {
            // The kernel takes 127 bytes (NF_LOG_PREFIXLEN).
            let prefix: String = format!("l2isolate {what} {who}")
                .chars()
                .take(127)
                .collect();
            let rules = vec![vec![Term::Log(config.log_group, prefix.into())]];
            let name = names::of_tap(map, self.tap);
            let key = Key::Chain(Table::Inet, Name::clone(&name));
            let chain = Value::Chain(Chain { hook: None, rules });
            self.objects.insert(key, chain);
            self.entry(Table::Inet, map, Verdict::Jump(name));
        }
    }

    fn of_family(&self, family: Family) -> impl Iterator<Item = (Mac, IpNet)> {
        sources(self.port).filter(move |(_, net)| Family::of(net.addr()) == family)
    }

    /// The hardware addresses among them.
    fn macs(&self, family: Family) -> Vec<Mac> {
        let mut macs: Vec<Mac> = Vec::new();
        for (mac, _) in self.of_family(family) {
            if !macs.contains(&mac) {
                macs.push(mac);
            }
        }
        // A guest without IPv4 address may ask for one: it gets no answer.
        if macs.is_empty() && family == Family::V4 {
            macs.push(self.port.port.mac);
        }
        macs
    }

    /// Single addresses that are the guest's.
    fn addresses(&mut self) {
        let (sets, tap) = (self.sets, self.tap);
        let source = |mac, address| Item::Source(tap, mac, address);
        for family in Family::ALL {
            let known = Sets::of(&sets.sources, family);
            let own: Vec<_> = self.of_family(family).filter(|(_, n)| single(n)).collect();
            for (mac, net) in own {
                self.element(Table::Inet, &known, source(mac, net.addr()), None);
                if family == Family::V4 {
                    let sender = source(mac, net.addr());
                    self.element(Table::Arp, &sets.senders, sender, None);
                }
            }
            let unspecified = Sets::of(&sets.unspecified, family);
            for mac in self.macs(family) {
                let nobody = match family {
                    Family::V4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                    Family::V6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
                };
                self.element(Table::Inet, &unspecified, source(mac, nobody), None);
                match family {
                    // Whether an address is free is asked without having one
                    // (RFC 5227).
                    Family::V4 => {
                        self.element(Table::Arp, &sets.senders, source(mac, nobody), None);
                    }
                    Family::V6 => {
                        let address = source(mac, IpAddr::from(link_local(mac)));
                        self.element(Table::Inet, &known, address, None);
                    }
                }
            }
        }
    }

    /// Rules for prefixes that the guest may send from.
    fn source_prefixes(&self) -> Vec<Rule> {
        let accept = |(mac, net): (Mac, IpNet)| -> Rule {
            let family = Family::of(net.addr());
            let who = [Term::Family(family), Term::EtherSource(mac)].into_iter();
            let from = (net.prefix_len() > 0).then_some(Term::Address(Side::Source, net));
            let count = Term::DeviceIn(Way::In, Name::clone(&self.sets.passed));
            let then = [count, Term::Accept];
            who.chain(from).chain(then).collect()
        };
        let prefixes = sources(self.port).filter(|(_, net)| !single(net));
        prefixes.map(accept).collect()
    }

    fn sender_prefixes(&self) -> Vec<Rule> {
        let prefixes = self.of_family(Family::V4).filter(|(_, net)| !single(net));
        let accept = |(mac, net): (Mac, IpNet)| -> Rule {
            let who = [Term::EtherSource(mac), Term::ArpMac(mac)].into_iter();
            let from = (net.prefix_len() > 0).then_some(Term::ArpAddress(net));
            who.chain(from).chain([Term::Accept]).collect()
        };
        prefixes.map(accept).collect()
    }
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
