//! What there is to say of announcing, as data.

use std::{collections::BTreeMap, time::Duration};

use ipnet::IpNet;
use jiff::Timestamp;
use l2isolate_advertise::driver::FailureKind;
use l2isolate_model::problem::Problem;
use serde::{Deserialize, Serialize};

use super::{Announcer, Asked};
use crate::{config::Advertise, control::Answer};

/// A session that has been down for so many seconds is named as a problem.
const DOWN: i64 = 10;
/// Prefixes that are named of many.
const NAMED: usize = 5;

/// What is announced, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AdvertiseReport {
    /// How prefixes get into BGP: `kernel`, `frr`, `bird` or `gobgp`.
    pub(crate) way: String,
    /// The routing daemon with its version, when it was read back last.
    pub(crate) daemon: Option<String>,
    /// Why it can't be read back now.
    pub(crate) away: Option<AwayReport>,
    /// Prefixes that are to be announced.
    pub(crate) wanted: usize,
    /// Those of them that the daemon has, with the right attributes.
    pub(crate) in_rib: usize,
    /// When everything was compared last; absent: never.
    pub(crate) verified: Option<Timestamp>,
    /// What that took, in milliseconds.
    pub(crate) verify_ms: Option<f64>,
    /// How often it was done.
    pub(crate) verifications: u64,
    /// What isn't as it should be, now.
    pub(crate) differences: usize,
    /// Prefixes that the daemon was told of and that weren't read back since.
    pub(crate) unconfirmed: usize,
    /// What the daemon was told and had lost, or was told otherwise by others.
    pub(crate) undone: u64,
    /// How often a switch was sent everything again.
    pub(crate) resent: u64,
    /// Sessions and uplinks.
    pub(crate) peers: BTreeMap<String, PeerReport>,
    /// Absent: not drained.
    pub(crate) drain: Option<DrainReport>,
    /// What is wrong, and what to do.
    pub(crate) problems: Vec<Problem>,
}

/// Why the daemon can't be read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AwayReport {
    pub(crate) kind: FailureKind,
    pub(crate) what: String,
    pub(crate) remedy: String,
    pub(crate) since: Timestamp,
}

/// A session to a switch, and the uplink that it is on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PeerReport {
    pub(crate) established: bool,
    /// The daemon's word.
    pub(crate) state: String,
    pub(crate) remote_as: Option<u32>,
    /// Seconds in this state, where the daemon tells.
    pub(crate) seconds: Option<u64>,
    /// Routes that came from there: none means that the host's own packets
    /// don't go there.
    pub(crate) received: u64,
    /// Prefixes that it was sent.
    pub(crate) sent: usize,
    /// Prefixes that it should have been sent, and wasn't.
    pub(crate) unsent: usize,
    /// Prefixes of others that it was sent.
    pub(crate) leaked: usize,
    /// What the interface has carried; absent if there is none of that name.
    pub(crate) uplink: Option<UplinkReport>,
}

/// What an interface carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct UplinkReport {
    pub(crate) received_bytes: u64,
    pub(crate) received_packets: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) sent_packets: u64,
    /// Packets in a second, between the last two looks.
    pub(crate) received_per_second: f64,
    pub(crate) sent_per_second: f64,
}

/// How far a drain has got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrainReport {
    pub(crate) since: Timestamp,
    pub(crate) prepend: u8,
    /// Prefixes that were read back with the mark and that all established
    /// sessions were sent, of all.
    pub(crate) done: usize,
    pub(crate) of: usize,
}

/// What one verification found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VerifyReport {
    /// The look at the kernel, in milliseconds.
    pub(crate) kernel_ms: f64,
    /// The look at the daemon and its sessions, at the same time.
    pub(crate) daemon_ms: f64,
    /// All of it, from the question to the answer.
    pub(crate) verify_ms: f64,
    /// What isn't as the intent wants it anywhere: in the kernel, the firewall,
    /// what guests are told, the daemon. As `status` counts them.
    pub(crate) differences: usize,
    /// All there is to say of announcing.
    pub(crate) advertise: AdvertiseReport,
}

impl Asked {
    /// Tells what was found.
    pub(crate) fn answer(self, advertise: AdvertiseReport, differences: usize) {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let report = VerifyReport {
            kernel_ms: ms(self.kernel),
            daemon_ms: advertise.verify_ms.unwrap_or_default(),
            verify_ms: ms(self.since.elapsed()),
            differences,
            advertise,
        };
        let answer = serde_json::to_value(report);
        let answer = answer.map_or_else(|e| Answer::Error(e.to_string()), Answer::Ok);
        // Who has gone needs no answer.
        let _ = self.reply.send(answer);
    }
}

impl Announcer {
    /// All there is to say.
    pub(crate) fn report(&self) -> AdvertiseReport {
        let peers = self.peers();
        let leaked: usize = peers.values().map(|peer| peer.leaked).sum();
        let unsent: usize = peers.values().map(|peer| peer.unsent).sum();
        let pending = self.reconciler.differences();
        let (mut lacking, mut stale) = (0, 0);
        for difference in pending {
            match difference.desired {
                Some(_) => lacking += 1,
                None => stale += 1,
            }
        }
        let wanted = match self.worker {
            Some(_) => self.reconciler.desired().count(),
            None => self.routed.values().map(BTreeMap::len).sum(),
        };
        let last = self.last.as_ref();
        AdvertiseReport {
            way: self.way.word().to_owned(),
            daemon: last.map(|look| look.daemon.clone()),
            away: self.failure.as_ref().map(|(failure, since, _)| AwayReport {
                kind: failure.kind,
                what: failure.what.clone(),
                remedy: failure.remedy.clone(),
                since: *since,
            }),
            wanted,
            in_rib: match self.worker {
                Some(_) => wanted - lacking,
                None => 0,
            },
            verified: last.map(|look| look.at),
            verify_ms: last.map(|look| look.took.as_secs_f64() * 1000.0),
            verifications: self.looks,
            differences: lacking + stale + unsent + leaked,
            unconfirmed: self.unconfirmed.len(),
            undone: self.reconciler.totals().undone,
            resent: self.resent,
            drain: self.drain_report(),
            problems: self.problems(),
            peers,
        }
    }

    fn peers(&self) -> BTreeMap<String, PeerReport> {
        let mut reports: BTreeMap<String, PeerReport> = BTreeMap::new();
        // Where nobody reads a daemon back, nothing is known of sessions.
        let read_back = self.worker.is_some();
        for name in self.uplinks.names().filter(|_| read_back) {
            let state = match self.last {
                Some(_) => "no session",
                None => "not read yet",
            };
            let report = PeerReport {
                state: state.to_owned(),
                ..PeerReport::default()
            };
            reports.insert(name.to_owned(), report);
        }
        if let Some(look) = &self.last {
            for (name, peer) in &look.peers {
                let unsent = look.unsent.get(name).map_or(0, |set| set.len());
                let report = PeerReport {
                    established: peer.established && self.failure.is_none(),
                    state: peer.state.clone(),
                    remote_as: peer.remote_as,
                    seconds: peer.seconds,
                    received: peer.received,
                    sent: peer.sent.len(),
                    unsent,
                    leaked: peer.leaked.len(),
                    uplink: None,
                };
                reports.insert(name.clone(), report);
            }
        }
        for (name, report) in &mut reports {
            report.uplink = self.uplinks.of(name).map(|(count, rate)| UplinkReport {
                received_bytes: count.received_bytes,
                received_packets: count.received_packets,
                sent_bytes: count.sent_bytes,
                sent_packets: count.sent_packets,
                received_per_second: rate.received,
                sent_per_second: rate.sent,
            });
        }
        reports
    }

    fn drain_report(&self) -> Option<DrainReport> {
        let drained = self.drained.as_ref()?;
        let unsent = |prefix: &IpNet| {
            let sets = self.last.iter().flat_map(|look| look.unsent.values());
            sets.into_iter().any(|set| set.contains(prefix))
        };
        let observed = self.reconciler.observed();
        let done = self.reconciler.desired().filter(|(prefix, wanted, _)| {
            observed.get(prefix) == Some(*wanted)
                && !self.unconfirmed.contains(*prefix)
                && !unsent(prefix)
        });
        Some(DrainReport {
            since: drained.since,
            prepend: drained.prepend,
            done: done.count(),
            of: self.reconciler.desired().count(),
        })
    }

    /// What is wrong, and what to do.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut name = |object: String, reason: String| {
            problems.push(Problem {
                origin: String::new(),
                object,
                field: String::new(),
                reason,
            });
        };
        if let Some((failure, ..)) = &self.failure {
            name("routing daemon".to_owned(), failure.to_string());
            return problems;
        }
        let now = Timestamp::now();
        for (peer, since) in &self.down {
            let seconds = now.as_second() - since.as_second();
            if seconds < DOWN {
                continue;
            }
            let known = self.last.as_ref().and_then(|look| look.peers.get(peer));
            let state = known.map_or("there is no session on this uplink", |peer| &peer.state);
            name(
                format!("session {peer}"),
                format!(
                    "not established for {seconds} s ({state}): see whether the link is up, the \
                     switch speaks BGP on it, and its AS and password are those of this host's \
                     configuration"
                ),
            );
        }
        let Some(look) = &self.last else {
            return problems;
        };
        for (peer, prefixes) in &look.unsent {
            if self.lacking.get(peer).is_some_and(|times| *times > 1) {
                name(
                    format!("session {peer}"),
                    format!(
                        "wasn't sent {}: see the daemon's policies towards it",
                        some(prefixes.iter())
                    ),
                );
            }
        }
        for (peer, about) in look.peers.iter().filter(|(_, p)| !p.leaked.is_empty()) {
            name(
                format!("session {peer}"),
                format!(
                    "is sent what others announce, {}: this host becomes a way between its \
                     switches; export only what is local (`l2isolate render-bgp`)",
                    some(about.leaked.iter())
                ),
            );
        }
        let missed: Vec<&IpNet> = self.missed().collect();
        if !missed.is_empty() {
            name(
                format!("announcement of {}", some(missed.into_iter())),
                "the routing daemon hasn't picked the route up, which was set again for its sake: \
                 see whether its filters are those of docs/hand-over.md (`l2isolate render-bgp` \
                 writes them), and have it read the kernel's routes anew (BIRD: `reload in` of its \
                 kernel protocol; FRR: restart zebra and bgpd)"
                    .to_owned(),
            );
        }
        let refused = self
            .reconciler
            .differences()
            .filter_map(|difference| Some((difference.key, difference.failure?.error.clone())));
        let mut by_reason: BTreeMap<String, Vec<&IpNet>> = BTreeMap::new();
        for (prefix, reason) in refused {
            by_reason.entry(reason).or_default().push(prefix);
        }
        for (reason, prefixes) in by_reason {
            name(
                format!("announcement of {}", some(prefixes.into_iter())),
                reason,
            );
        }
        problems
    }
}

/// The first of many, and how many more there are.
fn some<'a>(prefixes: impl ExactSizeIterator<Item = &'a IpNet>) -> String {
    let count = prefixes.len();
    let first: Vec<String> = prefixes.take(NAMED).map(ToString::to_string).collect();
    let more = match count.saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", first.join(", "))
}

impl Advertise {
    /// As it stands in the configuration.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Frr => "frr",
            Self::Bird => "bird",
            Self::Gobgp => "gobgp",
        }
    }
}
