//! What the planned firewall says of a flow's first packet, without a kernel.
//!
//! For flows that connection tracking knows already, and that the rules are
//! therefore not asked about any more: those that today's rules would refuse
//! are to be ended. Limits count as not reached, and who a packet is from is
//! settled by its address, since a flow doesn't tell the hardware address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;
use l2isolate_model::{
    IfName,
    filter::{Family, Item, Key, Name, Objects, Side, Table, Term, Value, Verdict, Way},
    port::CheckedPort,
};
use l2isolate_reconcile::Reconciler;

use super::{FilterRules, names};

/// Chains that chains jump to; the kernel's limit is 16.
const DEPTH: usize = 16;

/// A flow's first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Who sends it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// Transport protocol.
    pub protocol: u8,
    /// Source and destination port, where the protocol has ports.
    pub ports: Option<(u16, u16)>,
    /// Type and code, if it is ICMP.
    pub icmp: Option<(u8, u8)>,
}

/// A firewall that can be looked things up in.
pub trait View {
    /// An object.
    fn object(&self, key: &Key) -> Option<&Value>;
    /// The last object up to `key`, in the order of keys.
    fn last_up_to(&self, key: &Key) -> Option<&Key>;
}

impl View for Objects {
    fn object(&self, key: &Key) -> Option<&Value> {
        self.get(key)
    }

    fn last_up_to(&self, key: &Key) -> Option<&Key> {
        self.range(..=key).next_back().map(|(key, _)| key)
    }
}

impl View for Reconciler<FilterRules> {
    fn object(&self, key: &Key) -> Option<&Value> {
        self.wanted(key)
    }

    fn last_up_to(&self, key: &Key) -> Option<&Key> {
        self.last_wanted_up_to(key)
    }
}

/// Which taps have which addresses, and which they may send from beside.
#[derive(Debug, Clone, Default)]
pub struct Taps {
    own: Holders,
    pairs: Holders,
}

/// Taps by address.
#[derive(Debug, Clone, Default)]
struct Holders {
    addresses: BTreeMap<IpAddr, BTreeSet<IfName>>,
    prefixes: BTreeSet<(IpNet, IfName)>,
}

impl Holders {
    fn set(&mut self, tap: IfName, net: IpNet, present: bool) {
        if net.prefix_len() < net.max_prefix_len() {
            match present {
                true => self.prefixes.insert((net, tap)),
                false => self.prefixes.remove(&(net, tap)),
            };
        } else if present {
            self.addresses.entry(net.addr()).or_default().insert(tap);
        } else if let Some(taps) = self.addresses.get_mut(&net.addr()) {
            taps.remove(&tap);
            if taps.is_empty() {
                self.addresses.remove(&net.addr());
            }
        }
    }

    fn of(&self, address: IpAddr) -> Vec<IfName> {
        let exact = self.addresses.get(&address).into_iter().flatten();
        let wide = self
            .prefixes
            .iter()
            .filter(|(net, _)| net.contains(&address));
        exact.chain(wide.map(|(_, tap)| tap)).copied().collect()
    }
}

impl Taps {
    /// Adds all that a port's guest may send from, or takes it away.
    pub fn set(&mut self, port: &CheckedPort, present: bool) {
        let tap = port.port.tap;
        for (address, _) in &port.addresses {
            self.own.set(tap, IpNet::from(*address), present);
        }
        for pair in &port.port.allowed_address_pairs {
            self.pairs.set(tap, pair.address.trunc(), present);
        }
    }

    /// Whether an address is some tap's, by itself and not as one of a prefix.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let exact = |holders: &Holders| holders.addresses.contains_key(&address);
        exact(&self.own) || exact(&self.pairs)
    }

    /// Whether any tap may send from an address.
    #[must_use]
    pub fn knows(&self, address: IpAddr) -> bool {
        !self.own.of(address).is_empty() || !self.pairs.of(address).is_empty()
    }
}

/// Whether today's firewall would let the flow begin. A flow that no tap here
/// takes part in is `false`: nobody needs it.
///
/// An address of an address pair may be in use elsewhere: if the other end of
/// the flow is a guest here, that guest's rules alone decide.
pub fn would_begin(view: &impl View, taps: &Taps, packet: &Packet) -> bool {
    let (mut from, mut to) = (taps.own.of(packet.source), taps.own.of(packet.destination));
    if from.is_empty() && to.is_empty() {
        from = taps.pairs.of(packet.source);
        to = taps.pairs.of(packet.destination);
        if from.is_empty() && to.is_empty() {
            return false;
        }
    }
    let asked = |way, chain, tap: &IfName| {
        let asked = Asked {
            view,
            packet,
            tap: *tap,
            way,
        };
        asked.judged(chain)
    };
    // What isn't for a tap is for elsewhere, or for the host itself.
    let leaves = from.is_empty()
        || from.iter().any(|tap| {
            asked(Way::In, names::JUDGE_FROM, tap)
                || (to.is_empty() && asked(Way::In, names::HOST, tap))
        });
    // What isn't from a tap is taken for something from elsewhere. A flow of the
    // host's own begins again by itself.
    let arrives = to.is_empty() || to.iter().any(|tap| asked(Way::Out, names::JUDGE_TO, tap));
    leaves && arrives
}

struct Asked<'a, V> {
    view: &'a V,
    packet: &'a Packet,
    /// The guest's end, whose chains are asked.
    tap: IfName,
    /// Whether the guest sends or receives.
    way: Way,
}

impl<V: View> Asked<'_, V> {
    /// Whether the port is up and a chain lets the packet pass.
    fn judged(&self, chain: &str) -> bool {
        self.device_in(&names::fixed(names::SERVED))
            && self.chain(&names::fixed(chain), DEPTH) == Some(true)
    }

    fn device(&self, set: &Name) -> Option<&Value> {
        let item = Item::Device(self.tap);
        let key = Key::Element(Table::Inet, Name::clone(set), item);
        self.view.object(&key)
    }

    fn device_in(&self, set: &Name) -> bool {
        self.device(set).is_some()
    }

    /// A chain's verdict; `None`: it has none.
    fn chain(&self, name: &Name, depth: usize) -> Option<bool> {
        let key = Key::Chain(Table::Inet, Name::clone(name));
        let Some(Value::Chain(chain)) = self.view.object(&key) else {
            return Some(false);
        };
        let Some(depth) = depth.checked_sub(1) else {
            return Some(false);
        };
        chain.rules.iter().find_map(|rule| self.rule(rule, depth))
    }

    fn rule(&self, rule: &[Term], depth: usize) -> Option<bool> {
        for term in rule {
            match term {
                Term::Accept => return Some(true),
                Term::Drop => return Some(false),
                Term::Jump(chain) => return self.chain(chain, depth),
                Term::Dispatch(way, map) if *way == self.way => {
                    return match self.device(map)? {
                        Value::Element(Some(Verdict::Accept)) => Some(true),
                        Value::Element(Some(Verdict::Jump(chain))) => self.chain(chain, depth),
                        _ => Some(false),
                    };
                }
                _ if self.matches(term) => {}
                _ => return None,
            }
        }
        None
    }

    fn matches(&self, term: &Term) -> bool {
        let packet = self.packet;
        let side = |side| match side {
            Side::Source => packet.source,
            Side::Destination => packet.destination,
        };
        let port = packet.ports.map(|(_, port)| port);
        match term {
            Term::Family(family) => *family == Family::of(packet.source),
            Term::Protocol(protocol) => *protocol == packet.protocol,
            Term::Address(s, net) => net.contains(&side(*s)),
            Term::AddressIn(s, _, set) => self.contains(set, side(*s)),
            Term::Ports(source, destination) => packet.ports == Some((*source, *destination)),
            Term::Port(first, last) => port.is_some_and(|p| (*first..=*last).contains(&p)),
            Term::PortIn(set) => port.is_some_and(|p| {
                let end = Key::Element(Table::Inet, Name::clone(set), Item::Ports(p, u16::MAX));
                match self.view.last_up_to(&end) {
                    Some(Key::Element(Table::Inet, name, Item::Ports(_, last))) => {
                        name == set && p <= *last
                    }
                    _ => false,
                }
            }),
            Term::IcmpType(_, kind) => packet.icmp.is_some_and(|(k, _)| k == *kind),
            Term::IcmpTypes(_, first, last) => packet
                .icmp
                .is_some_and(|(k, _)| (*first..=*last).contains(&k)),
            Term::IcmpCode(_, kind, code) => packet.icmp == Some((*kind, *code)),
            Term::DestinationIn(_, set) => {
                let item = Item::DeviceAddress(self.tap, packet.destination);
                let key = Key::Element(Table::Inet, Name::clone(set), item);
                self.view.object(&key).is_some()
            }
            Term::Unknown | Term::New | Term::Count(_) | Term::Log(..) => true,
            // Whose sources are checked; the other sets of devices are limits, or
            // only count what is dropped anyway.
            Term::DeviceIn(way, set) if *way == self.way && **set == *names::SECURED => {
                self.device_in(set)
            }
            Term::Known | Term::DeviceIn(..) => false,
            // Asked elsewhere, or of other packets.
            Term::Relayed
            | Term::DevicePrefix(..)
            | Term::Dispatch(..)
            | Term::EtherSource(_)
            | Term::SourceIn(..)
            | Term::ArpSourceIn(_)
            | Term::ArpSenderIn(_)
            | Term::ArpMac(_)
            | Term::ArpAddress(_) => false,
            // Verdicts, which aren't matched.
            Term::Accept | Term::Drop | Term::Jump(_) => false,
        }
    }

    fn contains(&self, set: &Name, address: IpAddr) -> bool {
        let element = |item| Key::Element(Table::Inet, Name::clone(set), item);
        if self.view.object(&element(Item::Address(address))).is_some() {
            return true;
        }
        // Ranges don't overlap: the last that begins before is the only one.
        let greatest = IpAddr::V6(Ipv6Addr::from_bits(u128::MAX));
        match self
            .view
            .last_up_to(&element(Item::Addresses(address, greatest)))
        {
            Some(Key::Element(Table::Inet, name, Item::Addresses(first, last))) => {
                name == set && *first <= address && address <= *last
            }
            _ => false,
        }
    }
}
