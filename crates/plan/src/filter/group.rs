//! A security group's part of the firewall: a chain for each direction, which
//! all its ports share, with its rules brought together where they mean the
//! same; and sets of addresses, which all rules that name them share.

use std::collections::BTreeMap;

use ipnet::IpNet;
use l2isolate_model::{
    AddressGroupId, GroupId,
    document::ObjectId,
    filter::{Chain, Family, Item, Key, Name, Objects, Rule, SetType, Side, Table, Term, Value},
    group::{AddressGroup, Direction, Group, Member},
    problem::Problem,
};

use super::{
    names,
    ranges::Ranges,
    rule::{self, Meaning, Remote, Traffic},
};

/// Members that come and go at once and are told one by one.
const LITTLE: usize = 64;
/// A port range that needs no set: the kernel compares.
const FEW: usize = 1;

/// Plans a group's chains. `ranges` says of a security group, by family, whether
/// members of it are prefixes rather than addresses. An unknown group has no rules.
pub(crate) fn plan(
    id: &GroupId,
    group: Option<&Group>,
    ranges: impl Fn(&GroupId) -> [bool; 2],
) -> (Objects, Vec<Problem>) {
    let (meanings, problems) = meanings(id, group);
    let mut objects = Objects::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        let chain = names::group(id, direction);
        let mut writer = Writer {
            side: match direction {
                Direction::Ingress => Side::Source,
                Direction::Egress => Side::Destination,
            },
            ranges: &ranges,
            chain,
            rules: Vec::new(),
            sets: 0,
            objects: &mut objects,
        };
        for family in Family::ALL {
            let of = meanings
                .iter()
                .filter(|(d, m)| *d == direction && m.family == family)
                .map(|(_, meaning)| meaning);
            writer.family(family, merge(family, of));
        }
        let Writer { chain, rules, .. } = writer;
        let value = Value::Chain(Chain { hook: None, rules });
        objects.insert(Key::Chain(Table::Inet, chain), value);
    }
    (objects, problems)
}

/// The sets of peers that a group's rules name.
#[must_use]
pub(crate) fn named(group: Option<&Group>) -> (Vec<GroupId>, Vec<AddressGroupId>) {
    let rules = group.into_iter().flat_map(|group| &group.rules);
    let mut groups = Vec::new();
    let mut address_groups = Vec::new();
    for meaning in rules.filter_map(|rule| rule::read(rule).ok()) {
        match meaning.remote {
            Remote::Group(id) if !groups.contains(&id) => groups.push(id),
            Remote::AddressGroup(id) if !address_groups.contains(&id) => address_groups.push(id),
            _ => {}
        }
    }
    (groups, address_groups)
}

/// Whether members are prefixes, by family.
#[must_use]
pub(crate) fn ranges(group: Option<&Group>) -> [bool; 2] {
    let members = group.into_iter().flat_map(|group| &group.members);
    let wide =
        members.filter(|member| member.address.prefix_len() < member.address.max_prefix_len());
    let mut found = [false; 2];
    let [v4, v6] = &mut found;
    for member in wide {
        match Family::of(member.address.addr()) {
            Family::V4 => *v4 = true,
            Family::V6 => *v6 = true,
        }
    }
    found
}

/// Plans the sets with a group's members.
#[must_use]
pub(crate) fn members(id: &GroupId, group: Option<&Group>) -> Objects {
    let mut objects = Objects::new();
    for family in Family::ALL {
        let nets = || {
            let members = group.into_iter().flat_map(|group| &group.members);
            members
                .map(|m| m.address)
                .filter(move |net| Family::of(net.addr()) == family)
        };
        let single = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
        let name = names::members(id, family, false);
        for net in nets().filter(single) {
            objects.insert(
                element(&name, Item::Address(net.addr())),
                Value::Element(None),
            );
        }
        objects.insert(
            Key::Set(Table::Inet, name),
            Value::Set(SetType::Addresses(family)),
        );
        let wide = Ranges::of_prefixes(nets().filter(|net| !single(net)));
        if wide.len() > 0 {
            ranges_set(
                names::members(id, family, true),
                family,
                &wide,
                &mut objects,
            );
        }
    }
    objects
}

/// How the sets of members differ, if little has changed and it is all single
/// addresses; `None`: they are better planned as a whole.
pub(crate) fn members_changed(
    id: &GroupId,
    before: &Group,
    now: &Group,
) -> Option<Vec<(Key, Option<Value>)>> {
    let (old, new) = (before.members.as_slice(), now.members.as_slice());
    let same = |pairs: &mut dyn Iterator<Item = (&Member, &Member)>| {
        pairs
            .take_while(|(one, other)| one.address == other.address)
            .count()
    };
    let head = same(&mut old.iter().zip(new));
    let (old, new) = (old.get(head..)?, new.get(head..)?);
    let tail = same(&mut old.iter().rev().zip(new.iter().rev()));
    let old = old.get(..old.len() - tail)?;
    let new = new.get(..new.len() - tail)?;
    let single = |member: &Member| member.address.prefix_len() == member.address.max_prefix_len();
    if old.len() + new.len() > LITTLE || !old.iter().chain(new).all(single) {
        return None;
    }
    let change = |member: &Member| {
        let address = member.address.addr();
        let name = names::members(id, Family::of(address), false);
        // It may be named by more than one port.
        let there = now
            .members
            .iter()
            .any(|other| other.address == member.address);
        (
            element(&name, Item::Address(address)),
            there.then_some(Value::Element(None)),
        )
    };
    Some(old.iter().chain(new).map(change).collect())
}

/// Plans the sets with an address group's members.
#[must_use]
pub(crate) fn addresses(id: &AddressGroupId, group: Option<&AddressGroup>) -> Objects {
    let mut objects = Objects::new();
    for family in Family::ALL {
        let nets = group
            .into_iter()
            .flat_map(|group| &group.addresses)
            .copied();
        let ranges = Ranges::of_prefixes(nets.filter(|net| Family::of(net.addr()) == family));
        ranges_set(
            names::address_group(id, family),
            family,
            &ranges,
            &mut objects,
        );
    }
    objects
}

fn element(set: &Name, item: Item) -> Key {
    Key::Element(Table::Inet, Name::clone(set), item)
}

fn ranges_set(name: Name, family: Family, ranges: &Ranges, objects: &mut Objects) {
    for (first, last) in ranges.addresses(family) {
        objects.insert(
            element(&name, Item::Addresses(first, last)),
            Value::Element(None),
        );
    }
    objects.insert(
        Key::Set(Table::Inet, name),
        Value::Set(SetType::Ranges(family)),
    );
}

/// The rules that can be expressed, and what is wrong with the others.
fn meanings(id: &GroupId, group: Option<&Group>) -> (Vec<(Direction, Meaning)>, Vec<Problem>) {
    let rules = group.into_iter().flat_map(|group| &group.rules);
    let mut good = Vec::new();
    let mut problems = Vec::new();
    for (place, one) in rules.enumerate() {
        match rule::read(one) {
            Ok(meaning) => good.push((one.direction, meaning)),
            Err((field, reason)) => {
                let rule = match &one.id {
                    Some(id) => format!("rule {id}"),
                    None => format!("rules[{place}]"),
                };
                problems.push(Problem {
                    origin: String::new(),
                    object: ObjectId::Group(id.clone()).to_string(),
                    field: format!("{rule}.{field}"),
                    reason: format!("{reason}; the rule is left out"),
                });
            }
        }
    }
    (good, problems)
}

/// What passes from or to whom: first all that one peer may, then all peers
/// that may the same.
#[derive(Default)]
struct Merged {
    /// What anybody may.
    any: Traffic,
    groups: BTreeMap<Remote, Traffic>,
    prefixes: BTreeMap<Traffic, Vec<IpNet>>,
}

fn merge<'a>(family: Family, meanings: impl Iterator<Item = &'a Meaning>) -> Merged {
    let mut by_remote: BTreeMap<Remote, Traffic> = BTreeMap::new();
    for meaning in meanings {
        let traffic = by_remote.entry(meaning.remote.clone()).or_default();
        traffic.add(meaning.traffic);
    }
    let mut merged = Merged::default();
    for (remote, mut traffic) in by_remote {
        traffic.simplify(family);
        match remote {
            Remote::Any => merged.any = traffic,
            Remote::Prefix(net) => merged.prefixes.entry(traffic).or_default().push(net),
            Remote::Group(_) | Remote::AddressGroup(_) => {
                merged.groups.insert(remote, traffic);
            }
        }
    }
    merged
}

/// Writes the rules of one chain.
struct Writer<'a, F> {
    side: Side,
    ranges: &'a F,
    chain: Name,
    rules: Vec<Rule>,
    sets: usize,
    objects: &'a mut Objects,
}

impl<F: Fn(&GroupId) -> [bool; 2]> Writer<'_, F> {
    fn family(&mut self, family: Family, merged: Merged) {
        self.traffic(family, None, &merged.any);
        if merged.any.all {
            return;
        }
        for (traffic, nets) in merged.prefixes {
            let peers = match nets.as_slice() {
                [net] => Term::Address(self.side, *net),
                _ => {
                    let name = self.next_set("peers");
                    ranges_set(
                        Name::clone(&name),
                        family,
                        &Ranges::of_prefixes(nets),
                        self.objects,
                    );
                    Term::AddressIn(self.side, family, name)
                }
            };
            self.traffic(family, Some(peers), &traffic);
        }
        for (remote, traffic) in merged.groups {
            let mut sets = Vec::new();
            match remote {
                Remote::Group(id) => {
                    sets.push(names::members(&id, family, false));
                    let [v4, v6] = (self.ranges)(&id);
                    let wide = match family {
                        Family::V4 => v4,
                        Family::V6 => v6,
                    };
                    if wide {
                        sets.push(names::members(&id, family, true));
                    }
                }
                Remote::AddressGroup(id) => sets.push(names::address_group(&id, family)),
                Remote::Any | Remote::Prefix(_) => {}
            }
            for set in sets {
                let peers = Term::AddressIn(self.side, family, set);
                self.traffic(family, Some(peers), &traffic);
            }
        }
    }

    /// Rules that let `traffic` pass with `peers`.
    fn traffic(&mut self, family: Family, peers: Option<Term>, traffic: &Traffic) {
        let mut rule = |what: &[Term]| {
            let who = [Term::Family(family)].into_iter().chain(peers.clone());
            self.rules.push(
                who.chain(what.iter().cloned())
                    .chain([Term::Accept])
                    .collect(),
            );
        };
        if traffic.all {
            rule(&[]);
        }
        for protocol in &traffic.protocols {
            rule(&[Term::Protocol(*protocol)]);
        }
        for (kind, code) in &traffic.icmp {
            let what = match code {
                None => Term::IcmpType(family, *kind),
                Some(code) => Term::IcmpCode(family, *kind, *code),
            };
            rule(&[Term::Protocol(family.icmp()), what]);
        }
        for (protocol, ports) in &traffic.ports {
            let number = |n: u128| u16::try_from(n).unwrap_or(u16::MAX);
            let mut ranges = ports
                .iter()
                .map(|(first, last)| (number(first), number(last)));
            let ports = match ranges.next() {
                Some((first, last)) if ports.len() <= FEW => Term::Port(first, last),
                first => {
                    let name = self.next_set("ports");
                    for (first, last) in first.into_iter().chain(ranges) {
                        self.objects.insert(
                            element(&name, Item::Ports(first, last)),
                            Value::Element(None),
                        );
                    }
                    self.objects.insert(
                        Key::Set(Table::Inet, Name::clone(&name)),
                        Value::Set(SetType::Ports),
                    );
                    Term::PortIn(name)
                }
            };
            let who = [Term::Family(family)].into_iter().chain(peers.clone());
            self.rules.push(
                who.chain([Term::Protocol(*protocol), ports, Term::Accept])
                    .collect(),
            );
        }
    }

    fn next_set(&mut self, kind: &str) -> Name {
        let name = names::numbered(&self.chain, kind, self.sets);
        self.sets += 1;
        name
    }
}
