//! What the agent says of itself: the answers of its socket, as data.
//!
//! The commands print these as they are with `--json`, and as tables without.
//! Fields are only ever added.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use l2isolate_kernel::nft::Count;
use l2isolate_model::{
    IfName, Mac, PortId,
    desired::{Key, Target, Value},
    filter::{Name, Table},
    intent::PortEntry,
    port::BindingState,
    problem::Problem,
};
use l2isolate_plan::{
    KernelRules, Owner,
    filter::{self, FilterRules},
};
use l2isolate_reconcile::Difference;
use l2isolate_source::Contact;
use serde::{Deserialize, Serialize};

use crate::{engine::Engine, firewall::Firewall};

/// What a port has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PortState {
    /// All that it needs is in the kernel.
    Wired,
    /// The tap is there, something isn't in place yet or can't be set.
    Pending,
    /// Its tap isn't there yet, or no longer.
    NoTap,
    /// Administratively down, and so it is.
    Down,
    /// No version of it can be used; see its problems.
    Refused,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortReport {
    pub(crate) id: PortId,
    pub(crate) state: PortState,
    pub(crate) tap: Option<IfName>,
    pub(crate) mac: Option<Mac>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) binding: Option<BindingState>,
    pub(crate) instance: Option<String>,
    pub(crate) hostname: Option<String>,
    pub(crate) project: Option<String>,
    pub(crate) revision: u64,
    /// Something with the guest's end open is on the tap.
    pub(crate) carrier: bool,
    /// What the firewall counted; absent where there is none.
    #[serde(default)]
    pub(crate) counters: Option<PortCounters>,
    /// What isn't as it should be in the kernel.
    pub(crate) differences: Vec<DifferenceReport>,
    /// What is wrong with the intent of it.
    pub(crate) problems: Vec<Problem>,
}

/// What the firewall counted at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortCounters {
    /// What the guest sent.
    pub(crate) egress: Counted,
    /// What was sent to it.
    pub(crate) ingress: Counted,
}

/// Packets one way, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) accepted: Packets,
    /// By rules, or by the lack of one.
    pub(crate) dropped: Packets,
    /// From addresses that aren't the guest's.
    pub(crate) spoofed: Packets,
    /// Over a limit.
    pub(crate) limited: Packets,
}

/// Packets and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Packets {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl From<Count> for Packets {
    fn from(Count { packets, bytes }: Count) -> Self {
        Self { packets, bytes }
    }
}

/// All counters of the firewall.
pub(crate) type Counts = BTreeMap<(Table, Name), Count>;

/// A tap's counters: accepted is what isn't any of the others.
fn counters(tap: IfName, counts: &Counts) -> Option<PortCounters> {
    let names = Firewall::names(tap);
    let one = |table, name: &Name| counts.get(&(table, Name::clone(name))).copied();
    let inet = |name: &Name| one(Table::Inet, name).unwrap_or_default();
    let both = |name: &Name| {
        let arp = one(Table::Arp, name).unwrap_or_default();
        let inet = inet(name);
        Count {
            packets: inet.packets + arp.packets,
            bytes: inet.bytes + arp.bytes,
        }
    };
    let less = |all: Count, part: Count| Count {
        packets: all.packets.saturating_sub(part.packets),
        bytes: all.bytes.saturating_sub(part.bytes),
    };
    let way = |all: &Name, dropped: &Name, limited: &Name| {
        let accepted = less(less(inet(all), inet(dropped)), inet(limited));
        Counted {
            accepted: accepted.into(),
            dropped: inet(dropped).into(),
            spoofed: Packets::default(),
            limited: both(limited).into(),
        }
    };
    one(Table::Inet, &names.from)?;
    Some(PortCounters {
        egress: Counted {
            spoofed: both(&names.spoofed).into(),
            ..way(&names.from, &names.from_dropped, &names.from_limited)
        },
        ingress: way(&names.to, &names.to_dropped, &names.to_limited),
    })
}

/// One object that isn't as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DifferenceReport {
    /// The object, such as `route 10.252.0.5/32 metric 5`.
    pub(crate) object: String,
    /// The port that wants it, or had it.
    pub(crate) port: Option<PortId>,
    /// What it is; absent: not there.
    pub(crate) observed: Option<String>,
    /// What it shall be; absent: not there.
    pub(crate) desired: Option<String>,
    /// What the kernel said to the last try.
    pub(crate) error: Option<String>,
    /// Tries that failed.
    pub(crate) attempts: u32,
    /// Somebody keeps changing it back.
    pub(crate) contested: bool,
}

/// How the source of the intent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceReport {
    /// What it is, such as `directory /etc/l2isolate/intent`.
    pub(crate) name: String,
    /// Why it can't be read now; the agent works from what it has.
    pub(crate) away: Option<String>,
    /// Since when.
    pub(crate) away_since: Option<Timestamp>,
    /// The whole intent is known.
    pub(crate) complete: bool,
    /// When the cache on disk last took something from the source.
    pub(crate) last_update: Option<Timestamp>,
    /// Ports whose deletion is held because too many would go at once.
    pub(crate) held_deletions: usize,
    /// When they will be let go.
    pub(crate) held_until: Option<Timestamp>,
    /// What passed between a server and the agent; absent where the source is
    /// none.
    #[serde(default)]
    pub(crate) contact: Option<Contact>,
}

/// The agent as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    pub(crate) host: String,
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) started: Timestamp,
    /// Everything is as the intent wants it, and the intent is sound.
    pub(crate) in_sync: bool,
    pub(crate) source: SourceReport,
    /// Ports by what they have come to.
    pub(crate) ports: BTreeMap<PortState, usize>,
    /// Devices named like Nova's taps that no port of the intent has.
    pub(crate) stray_taps: Vec<IfName>,
    /// Guests' prefixes that are routed here now, and so announced.
    pub(crate) announced: usize,
    /// The host's own prefixes announced beside them.
    pub(crate) loopbacks: usize,
    pub(crate) differences: usize,
    /// Absent where there is none.
    #[serde(default)]
    pub(crate) firewall: Option<FirewallReport>,
    /// Changes made in the kernel since the start.
    pub(crate) written: u64,
    pub(crate) failed: u64,
    /// Objects in place that somebody else changed or removed.
    pub(crate) undone: u64,
    pub(crate) observations: u64,
    pub(crate) lost_events: u64,
    /// Settings that this kernel, or this namespace, doesn't have.
    pub(crate) unavailable: Vec<String>,
    pub(crate) problems: Vec<Problem>,
}

/// The firewall as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FirewallReport {
    /// Objects in our tables.
    pub(crate) objects: usize,
    /// How often somebody else was seen to change them.
    pub(crate) disturbed: u64,
}

/// All ports.
pub(crate) fn ports(engine: &Engine, counts: &Counts) -> Vec<PortReport> {
    engine
        .intent()
        .ports()
        .map(|(id, entry)| {
            let report = port(engine, id, entry);
            let tap = report.tap.filter(|_| entry.effective().is_some());
            let counters = tap.and_then(|tap| counters(tap, counts));
            PortReport { counters, ..report }
        })
        .collect()
}

fn port(engine: &Engine, id: &PortId, entry: &PortEntry) -> PortReport {
    let known = entry.port();
    let tap = entry
        .effective()
        .and_then(|checked| engine.taps().get(&checked.port.tap));
    let owner = entry
        .effective()
        .map(|checked| Owner::Tap(checked.port.tap));
    let differences = owner
        .iter()
        .flat_map(|owner| engine.reconciler().differences_of(owner));
    let filter_owner = entry
        .effective()
        .map(|checked| filter::Owner::Tap(checked.port.tap));
    let filtered = filter_owner.iter().flat_map(|owner| {
        let firewall = engine.firewall().into_iter();
        firewall.flat_map(move |firewall| firewall.reconciler().differences_of(owner))
    });
    let filtered = filtered.map(|difference| filter_report(Some(id.clone()), &difference));
    let differences: Vec<DifferenceReport> = differences
        .map(|difference| difference_report(engine, &difference))
        .chain(filtered)
        .collect();
    let state = match (entry.effective(), tap) {
        (None, _) => PortState::Refused,
        (Some(_), None) => PortState::NoTap,
        (Some(_), Some(_)) if !differences.is_empty() => PortState::Pending,
        (Some(checked), Some(_)) if !checked.port.admin_state_up => PortState::Down,
        (Some(_), Some(_)) => PortState::Wired,
    };
    PortReport {
        id: id.clone(),
        state,
        tap: known.map(|port| port.tap),
        mac: known.map(|port| port.mac),
        addresses: known
            .into_iter()
            .flat_map(|port| &port.addresses)
            .map(|fixed| fixed.address)
            .collect(),
        binding: known.map(|port| port.binding.state),
        instance: known.and_then(|port| port.instance.clone()),
        hostname: known.and_then(|port| port.hostname.clone()),
        project: known.and_then(|port| port.project.clone()),
        revision: known.map_or(0, |port| port.revision),
        carrier: tap.is_some_and(|tap| tap.carrier),
        counters: None,
        differences,
        problems: entry.problems().cloned().collect(),
    }
}

/// What would be written now.
pub(crate) fn differences(engine: &Engine) -> Vec<DifferenceReport> {
    let firewall = engine.firewall().into_iter();
    let filtered = firewall.flat_map(|firewall| {
        let reconciler = firewall.reconciler();
        reconciler.differences().map(|difference| {
            let port = match reconciler.owner(difference.key) {
                Some(filter::Owner::Tap(tap)) => engine.intent().on_tap(*tap),
                _ => None,
            };
            filter_report(port.map(|checked| checked.port.id.clone()), &difference)
        })
    });
    engine
        .reconciler()
        .differences()
        .map(|difference| difference_report(engine, &difference))
        .chain(filtered)
        .collect()
}

fn filter_report(
    port: Option<PortId>,
    difference: &Difference<'_, FilterRules>,
) -> DifferenceReport {
    DifferenceReport {
        object: difference.key.to_string(),
        port,
        observed: difference.observed.map(ToString::to_string),
        desired: difference.desired.map(ToString::to_string),
        error: difference.failure.map(|failure| failure.error.clone()),
        attempts: difference.failure.map_or(0, |failure| failure.attempts),
        contested: difference.contested,
    }
}

fn difference_report(
    engine: &Engine,
    difference: &Difference<'_, KernelRules>,
) -> DifferenceReport {
    let tap = match engine.owner(difference.key) {
        Owner::Tap(tap) => Some(tap),
        Owner::Host => None,
    };
    DifferenceReport {
        object: difference.key.to_string(),
        port: tap
            .and_then(|tap| engine.intent().on_tap(tap))
            .map(|checked| checked.port.id.clone()),
        observed: difference.observed.map(ToString::to_string),
        desired: difference.desired.map(ToString::to_string),
        error: difference.failure.map(|failure| failure.error.clone()),
        attempts: difference.failure.map_or(0, |failure| failure.attempts),
        contested: difference.contested,
    }
}

/// The agent as a whole; `source` and `problems` of files come from whoever
/// reads them.
pub(crate) fn status(
    engine: &Engine,
    host: &str,
    started: Timestamp,
    source: SourceReport,
    file_problems: &[Problem],
) -> StatusReport {
    let mut by_state: BTreeMap<PortState, usize> = BTreeMap::new();
    for (id, entry) in engine.intent().ports() {
        *by_state.entry(port(engine, id, entry).state).or_default() += 1;
    }
    let metric = engine.config().route_metric;
    let announced = engine.reconciler().observed().iter().filter(|(key, value)| {
        matches!((key, value), (Key::Route(_, m), Value::Route(Target::Device(_))) if *m == metric)
    });
    let loopbacks = engine.config().loopbacks.len();
    let unavailable = engine
        .reconciler()
        .observed()
        .iter()
        .filter(|(_, value)| **value == Value::Unavailable);
    let (observations, lost_events) = engine.observations();
    let problems: Vec<Problem> = file_problems
        .iter()
        .chain(engine.intent().problems())
        .chain(engine.firewall().into_iter().flat_map(Firewall::problems))
        .cloned()
        .collect();
    let mut differences = engine.reconciler().differences().count();
    let mut totals = engine.reconciler().totals();
    let firewall = engine.firewall().map(|firewall| {
        let own = firewall.reconciler().totals();
        let left = firewall.reconciler().differences().count();
        totals.written += own.written;
        totals.failed += own.failed;
        totals.undone += own.undone;
        differences += left;
        FirewallReport {
            objects: firewall.reconciler().observed().len(),
            disturbed: firewall.disturbed(),
        }
    });
    StatusReport {
        host: host.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started,
        in_sync: differences == 0
            && problems.is_empty()
            && source.away.is_none()
            && source.complete,
        source,
        ports: by_state,
        stray_taps: stray_taps(engine),
        announced: announced.count().saturating_sub(loopbacks),
        loopbacks,
        differences,
        firewall,
        written: totals.written,
        failed: totals.failed,
        undone: totals.undone,
        observations,
        lost_events,
        unavailable: unavailable.map(|(key, _)| key.to_string()).collect(),
        problems,
    }
}

fn stray_taps(engine: &Engine) -> Vec<IfName> {
    let stray = |name: &&IfName| named_by_nova(**name) && engine.intent().on_tap(**name).is_none();
    engine.taps().keys().filter(stray).copied().collect()
}

/// Nova's names for taps: `tap` and the first eleven characters of a UUID.
pub(crate) fn named_by_nova(name: IfName) -> bool {
    let Some(id) = name.as_str().strip_prefix("tap") else {
        return false;
    };
    let fits = |(place, c): (usize, char)| {
        if place == 8 {
            c == '-'
        } else {
            c.is_ascii_hexdigit()
        }
    };
    id.len() == 11 && id.chars().enumerate().all(fits)
}
