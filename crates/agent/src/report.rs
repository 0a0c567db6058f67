//! What the agent says of itself: the answers of its socket, as data.
//!
//! The commands print these as they are with `--json`, and as tables without.
//! Fields are only ever added.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use l2isolate_model::{
    IfName, Mac, PortId,
    desired::{Key, Knob, Target, Value},
    intent::PortEntry,
    port::BindingState,
    problem::Problem,
};
use l2isolate_plan::{KernelRules, Owner, filter, guest};
use l2isolate_reconcile::{Difference, Rules};
use l2isolate_source::Contact;
use serde::{Deserialize, Serialize};

use crate::{
    announcer::{Announcer, report::AdvertiseReport},
    counts::{Counts, PortCounters},
    engine::Engine,
    firewall::Firewall,
    guests::Guests,
};

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
    /// Where it is in a live migration, as docs/migration.md names it.
    #[serde(default)]
    pub(crate) migration: Option<String>,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// What is announced, and what came of it.
    #[serde(default)]
    pub(crate) advertise: Option<AdvertiseReport>,
    /// Absent where there is none.
    #[serde(default)]
    pub(crate) firewall: Option<FirewallReport>,
    /// Absent where none is served.
    #[serde(default)]
    pub(crate) dhcp: Option<DhcpReport>,
    /// Absent where the agent answers none.
    #[serde(default)]
    pub(crate) solicitations: Option<SolicitationsReport>,
    /// Changes made in the kernel since the start.
    pub(crate) written: u64,
    pub(crate) failed: u64,
    /// Objects in place that somebody else changed or removed.
    pub(crate) undone: u64,
    pub(crate) observations: u64,
    pub(crate) lost_events: u64,
    /// Settings that this kernel, or this namespace, doesn't have or doesn't
    /// let us change.
    pub(crate) unavailable: Vec<String>,
    /// Absent where there is no firewall.
    #[serde(default)]
    pub(crate) connections: Option<ConnectionsReport>,
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

/// The table of connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectionsReport {
    /// How many it holds; absent if nobody tracks any.
    pub(crate) room: Option<i64>,
    /// How many the ports may have open all together.
    pub(crate) allowed: i64,
}

impl ConnectionsReport {
    /// Whether some machines can take others' room.
    pub(crate) fn is_short(&self) -> bool {
        self.room.is_some_and(|room| room < self.allowed)
    }
}

/// The DHCP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DhcpReport {
    /// Its process; absent: it doesn't run.
    pub(crate) pid: Option<i32>,
    /// Ports that it serves.
    pub(crate) ports: usize,
    /// Leases that it has given.
    pub(crate) leases: usize,
    /// How often it was found dead or hung, and started anew.
    pub(crate) restarts: u64,
    /// How often it was told to read its files anew.
    pub(crate) rereads: u64,
}

/// IPv6 solicitations and DHCPv6 of all guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SolicitationsReport {
    pub(crate) answered: u64,
    /// Malformed, or not for us to answer.
    pub(crate) refused: u64,
    /// How often a guest that asked too often wasn't heard for a moment.
    pub(crate) limited: u64,
}

/// All ports.
pub(crate) fn ports(engine: &Engine, counts: Option<&Counts>) -> Vec<PortReport> {
    engine
        .intent()
        .ports()
        .map(|(id, entry)| {
            let report = port(engine, id, entry);
            let tap = report.tap.filter(|_| entry.effective().is_some());
            let counters = tap.zip(counts).and_then(|(tap, counts)| counts.of(tap));
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
    let filtered = filtered.map(|difference| plain_report(Some(id.clone()), &difference));
    let guest_owners = entry.effective().map(|checked| {
        let tap = checked.port.tap;
        [guest::Owner::Tap(tap), guest::Owner::Metadata(tap)]
    });
    let told = guest_owners.iter().flatten().flat_map(|owner| {
        let guests = engine.guests().into_iter();
        guests.flat_map(move |guests| guests.reconciler().differences_of(owner))
    });
    let told = told.map(|difference| plain_report(Some(id.clone()), &difference));
    let differences: Vec<DifferenceReport> = differences
        .map(|difference| difference_report(engine, &difference))
        .chain(filtered)
        .chain(told)
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
        migration: entry.effective().map(|checked| {
            let state = engine.migration(checked.port.tap);
            state.word().to_owned()
        }),
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

/// How much isn't as the intent wants it: in the kernel, the firewall, what
/// guests are told, and as `advertise` says.
pub(crate) fn left(engine: &Engine, advertise: Option<&AdvertiseReport>) -> usize {
    let wiring = engine.reconciler().differences().count();
    let firewall = engine.firewall().into_iter();
    let firewall = firewall.map(|firewall| firewall.reconciler().differences().count());
    let guests = engine.guests().into_iter();
    let guests = guests.map(|guests| guests.reconciler().differences().count());
    let announced = advertise.map_or(0, |report| report.differences);
    wiring + announced + firewall.chain(guests).sum::<usize>()
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
            plain_report(port.map(|checked| checked.port.id.clone()), &difference)
        })
    });
    let guests = engine.guests().into_iter();
    let told = guests.flat_map(|guests| {
        let reconciler = guests.reconciler();
        reconciler.differences().map(|difference| {
            let port = match reconciler.owner(difference.key) {
                Some(guest::Owner::Tap(tap) | guest::Owner::Metadata(tap)) => {
                    engine.intent().on_tap(*tap)
                }
                _ => None,
            };
            plain_report(port.map(|checked| checked.port.id.clone()), &difference)
        })
    });
    let announcer = engine.announcer().into_iter();
    let announced = announcer.flat_map(|announcer| {
        let reconciler = announcer.reconciler();
        reconciler.differences().map(|difference| {
            let port = match reconciler.owner(difference.key) {
                Some(Owner::Tap(tap)) => engine.intent().on_tap(*tap),
                _ => None,
            };
            let id = port.map(|checked| checked.port.id.clone());
            let report = plain_report(id, &difference);
            let object = format!("announcement {}", report.object);
            DifferenceReport { object, ..report }
        })
    });
    engine
        .reconciler()
        .differences()
        .map(|difference| difference_report(engine, &difference))
        .chain(filtered)
        .chain(told)
        .chain(announced)
        .collect()
}

fn plain_report<R: Rules>(port: Option<PortId>, difference: &Difference<'_, R>) -> DifferenceReport
where
    R::Key: std::fmt::Display,
    R::Value: std::fmt::Display,
{
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
    let standing = |metric| engine.config().standing(metric);
    let announced = engine
        .reconciler()
        .observed()
        .iter()
        .filter(|(key, value)| {
            matches!((key, value), (Key::Route(_, m), Value::Route(Target::Device(_) | Target::Tunnel { .. }))
            if standing(*m).is_some())
        });
    let loopbacks = engine.config().loopbacks.len();
    let observed = engine.reconciler().observed();
    let unavailable = observed.iter().filter_map(|(key, value)| {
        let wanted = engine.reconciler().wanted(key);
        match (value, wanted) {
            (Value::Unavailable, _) => Some(key.to_string()),
            (Value::Fixed(is), Some(Value::AtLeast(least))) if is < least => {
                Some(format!("{key} ({value})"))
            }
            _ => None,
        }
    });
    let (observations, lost_events) = engine.observations();
    let problems: Vec<Problem> = file_problems
        .iter()
        .chain(engine.intent().problems())
        .chain(engine.firewall().into_iter().flat_map(Firewall::problems))
        .chain(engine.guests().into_iter().flat_map(Guests::problems))
        .cloned()
        .chain(engine.migration_problems())
        .collect();
    let mut totals = engine.reconciler().totals();
    let firewall = engine.firewall().map(|firewall| {
        let own = firewall.reconciler().totals();
        totals.written += own.written;
        totals.failed += own.failed;
        totals.undone += own.undone;
        FirewallReport {
            objects: firewall.reconciler().observed().len(),
            disturbed: firewall.disturbed(),
        }
    });
    let figures = engine.guests().map(|guests| {
        let own = guests.reconciler().totals();
        totals.written += own.written;
        totals.failed += own.failed;
        totals.undone += own.undone;
        (guests.figures(), guests.serves_dhcp())
    });
    let advertise = engine.announcer().map(Announcer::report);
    let announced_well = advertise
        .as_ref()
        .is_none_or(|report| report.away.is_none());
    let differences = left(engine, advertise.as_ref());
    let dhcp = figures
        .as_ref()
        .filter(|(_, served)| *served)
        .map(|(figures, _)| DhcpReport {
            pid: figures.pid,
            ports: figures.hosts,
            leases: figures.leases,
            restarts: figures.restarts,
            rereads: figures.rereads,
        });
    let answers = figures.and_then(|(figures, _)| figures.answers);
    let solicitations = answers.map(|figures| SolicitationsReport {
        answered: figures.answered,
        refused: figures.refused,
        limited: figures.limited,
    });
    let flows_looked_at = (engine.firewall()).is_none_or(|f| f.flows_due().is_none());
    StatusReport {
        host: host.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started,
        in_sync: differences == 0
            && announced_well
            && flows_looked_at
            && problems.is_empty()
            && source.away.is_none()
            && source.complete,
        source,
        ports: by_state,
        stray_taps: stray_taps(engine),
        announced: announced.count().saturating_sub(loopbacks),
        loopbacks,
        differences,
        advertise,
        firewall,
        dhcp,
        solicitations,
        written: totals.written,
        failed: totals.failed,
        undone: totals.undone,
        observations,
        lost_events,
        unavailable: unavailable.collect(),
        connections: connections(engine),
        problems,
    }
}

fn connections(engine: &Engine) -> Option<ConnectionsReport> {
    let per_port = engine.config().connections?.per_port;
    let ports = i64::try_from(engine.intent().ports().len()).unwrap_or(i64::MAX);
    let observed = engine.reconciler().observed();
    let room = match observed.get(&Key::Sysctl(Knob::ConnectionsMax, None)) {
        Some(Value::Number(room) | Value::Fixed(room)) => Some(*room),
        _ => None,
    };
    let allowed = ports.saturating_mul(per_port.into());
    Some(ConnectionsReport { room, allowed })
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
