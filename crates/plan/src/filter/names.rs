//! What our chains, sets and counters are called. Names tell their owner: a
//! tap, a group, or the groups that some ports have together. nftables reads
//! identifiers of letters, digits and `/-_.`; a device's name may hold other
//! characters, which are written `/hh`.

use std::{fmt::Write, sync::Arc};

use l2isolate_model::{
    AddressGroupId, GroupId, IfName,
    filter::{Each, Family, Limit, Name},
    group::Direction,
};

use super::{FilterConfig, Profile};

/// Sets that are asked by more than the chains: taps of ports that are up, and
/// those of them whose sources are checked.
pub(crate) const SERVED: &str = "served";
pub(crate) const SECURED: &str = "secured";

/// Packets of taps that nobody knows.
pub(crate) const UNKNOWN: &str = "unknown";

/// Interfaces to switches, and packets that came by one and would leave by one.
pub(crate) const UPLINKS: &str = "uplinks";
pub(crate) const TRANSIT: &str = "transit";

/// What may be of another host's doing: the chain that shows it, and its prefix.
pub(crate) const STRAYS: &str = "strays";
pub(crate) const STRAY: &str = "l2isolate stray";

/// Chains that all ports share.
pub(crate) const JUDGE_FROM: &str = "judge-from";
pub(crate) const JUDGE_TO: &str = "judge-to";
pub(crate) const HOST: &str = "host";
pub(crate) const DELIVER: &str = "deliver";
pub(crate) const CHECK_SOURCE: &str = "check-source";
pub(crate) const CHECK_SENDER: &str = "check-sender";
pub(crate) const SPOOFED: &str = "spoofed";
pub(crate) const REFUSED_FROM: &str = "refused-from";
pub(crate) const REFUSED_TO: &str = "refused-to";
pub(crate) const SERVICES: &str = "services";

/// Maps and sets in which every tap has its elements: made once, since each
/// element's key carries its set's name.
#[derive(Debug, Clone)]
pub(crate) struct Sets {
    /// Taps whose sources are checked.
    pub(crate) secured: Name,
    /// Taps whose sources aren't, which it counts; in both tables.
    pub(crate) open: Name,
    /// Taps of ports that are administratively down; in both tables.
    pub(crate) shut: Name,
    /// Taps of ports that are up: the host may send there. The second one counts
    /// what is passed on to them, refused or not.
    pub(crate) served: Name,
    pub(crate) received: Name,
    /// Of these, those whose known flows pass without asking again.
    pub(crate) tracked: Name,
    /// Who judges what a tap sends through the host, and what is sent to it.
    pub(crate) groups_from: Name,
    pub(crate) groups_to: Name,
    /// Chains with the prefixes that a tap may send from, in both tables; and a
    /// counter of what it sent from there.
    pub(crate) prefixes: Name,
    pub(crate) passed: Name,
    /// Sources that are the guest's, by family, which it counts.
    pub(crate) sources: [Name; 2],
    /// Hardware addresses that may send from no address, by family.
    pub(crate) unspecified: [Name; 2],
    /// Senders of ARP that are the guest's.
    pub(crate) senders: Name,
    /// The router's addresses at each tap, by family.
    pub(crate) gateways: [Name; 2],
    /// Counters.
    pub(crate) spoofed: Name,
    pub(crate) dropped_from: Name,
    pub(crate) dropped_to: Name,
    /// Taps whose dropped packets are shown, as long as they aren't too many; and
    /// the chains that show them, by the chain that drops them.
    pub(crate) logged: Name,
    pub(crate) logs: [(&'static str, Name); 3],
    /// Limits. What they allow is a part of the name: a set that rules name
    /// can't become another one.
    pub(crate) new: Name,
    pub(crate) connections_from: Name,
    pub(crate) connections_to: Name,
    pub(crate) connections_host: Name,
    pub(crate) dhcp: Name,
    pub(crate) nd: Name,
    pub(crate) arp: Name,
}

impl Sets {
    pub(crate) fn new(config: &FilterConfig) -> Self {
        let limits = &config.limits;
        let by_family = |what: &str| Family::ALL.map(|family| of_family(what, family));
        let rate = |what: &str, Limit { rate, burst }: Limit| -> Name {
            format!("limit-{what}-{rate}-{burst}").into()
        };
        let count = |what: &str, most: u32| -> Name { format!("limit-{what}-{most}").into() };
        Self {
            secured: fixed(SECURED),
            open: fixed("open"),
            shut: fixed("shut"),
            served: fixed(SERVED),
            received: fixed("received"),
            tracked: fixed("tracked"),
            groups_from: fixed("groups-from"),
            groups_to: fixed("groups-to"),
            prefixes: fixed("prefixes"),
            passed: fixed("passed"),
            sources: by_family("sources"),
            unspecified: by_family("unspecified"),
            senders: fixed("senders"),
            gateways: by_family("gateways"),
            spoofed: fixed("spoofed"),
            dropped_from: fixed("dropped-from"),
            dropped_to: fixed("dropped-to"),
            logged: fixed("logged"),
            logs: [SPOOFED, REFUSED_FROM, REFUSED_TO]
                .map(|chain| (chain, format!("log-{chain}").into())),
            new: rate("new", limits.new),
            connections_from: count("connections-from", limits.connections),
            connections_to: count("connections-to", limits.connections),
            connections_host: count("connections-host", limits.host_connections),
            dhcp: rate("dhcp", limits.dhcp),
            nd: rate("nd", limits.nd),
            arp: rate("arp", limits.arp),
        }
    }

    /// The sets of devices in the table `inet`, with what they do for each.
    pub(crate) fn devices(&self, config: &FilterConfig) -> [(&Name, Each); 17] {
        let limits = &config.limits;
        [
            (&self.secured, Each::Nothing),
            (&self.open, Each::Count),
            (&self.shut, Each::Nothing),
            (&self.served, Each::Nothing),
            (&self.received, Each::Count),
            (&self.tracked, Each::Nothing),
            (&self.passed, Each::Count),
            (&self.spoofed, Each::Count),
            (&self.dropped_from, Each::Count),
            (&self.dropped_to, Each::Count),
            (&self.logged, Each::Within(LOGGED)),
            (&self.new, Each::Over(limits.new)),
            (
                &self.connections_from,
                Each::Connections(limits.connections),
            ),
            (&self.connections_to, Each::Connections(limits.connections)),
            (
                &self.connections_host,
                Each::Connections(limits.host_connections),
            ),
            (&self.dhcp, Each::Over(limits.dhcp)),
            (&self.nd, Each::Over(limits.nd)),
        ]
    }

    /// One of a pair by family.
    pub(crate) fn of(pair: &[Name; 2], family: Family) -> Name {
        let [v4, v6] = pair;
        Name::clone(match family {
            Family::V4 => v4,
            Family::V6 => v6,
        })
    }
}

/// Dropped packets of one tap that are shown, at most.
const LOGGED: Limit = Limit {
    rate: 10,
    burst: 20,
};

/// A name that is the same for every host.
pub(crate) fn fixed(name: &str) -> Name {
    Arc::from(name)
}

/// A chain of a tap.
pub(crate) fn of_tap(what: &str, tap: IfName) -> Name {
    let mut name = format!("{what}-");
    for byte in tap.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            name.push(char::from(byte));
        } else {
            let _ = write!(name, "/{byte:02x}");
        }
    }
    name.into()
}

pub(crate) fn group(id: &GroupId, direction: Direction) -> Name {
    let direction = match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    format!("group-{id}-{direction}").into()
}

/// The chain of ports that have these groups, which are several. Group ids are too long to stand
/// in one name, so it holds a digest of them; the chain itself names them.
pub(crate) fn profile(groups: &Profile, direction: Direction) -> Name {
    let direction = match direction {
        Direction::Ingress => "to",
        Direction::Egress => "from",
    };
    // FNV-1a of 128 bits: as short as it can be without two profiles ever
    // having one name.
    let mut digest: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for id in groups.iter() {
        // No id holds a zero byte, so it separates them.
        for byte in id.as_str().bytes().chain([0]) {
            digest = (digest ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
        }
    }
    format!("{direction}-{digest:032x}").into()
}

/// The members of a security group: single addresses, or ranges.
pub(crate) fn members(id: &GroupId, family: Family, ranges: bool) -> Name {
    let suffix = if ranges { "-ranges" } else { "" };
    format!("members-{id}-{}{suffix}", digit(family)).into()
}

pub(crate) fn address_group(id: &AddressGroupId, family: Family) -> Name {
    format!("addresses-{id}-{}", digit(family)).into()
}

pub(crate) fn protected(family: Family) -> Name {
    of_family("protected", family)
}

/// Addresses that have left this host.
pub(crate) fn left(family: Family) -> Name {
    of_family("left", family)
}

/// Underlay addresses of other hosts that take part in a migration with this one.
pub(crate) fn peers(family: Family) -> Name {
    of_family("peers", family)
}

fn of_family(what: &str, family: Family) -> Name {
    format!("{what}-{}", digit(family)).into()
}

/// A set that rules of one chain need, by its place among them.
pub(crate) fn numbered(chain: &Name, kind: &str, number: usize) -> Name {
    format!("{chain}-{kind}{number}").into()
}

/// 4 or 6.
fn digit(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}
