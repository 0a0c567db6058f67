//! What is announced, on the one way: planned, reconciled and applied beside
//! the wiring, and read back from the routing daemon again and again.
//!
//! ```text
//!   routes in place ─▶ plan ─▶ want ─┐
//!                                    ├─▶ differences ─▶ Worker ─▶ daemon
//!   RIB, sent to each switch ────────┘                    │
//!          ▲──────────────── read back ◀──────────────────┘
//! ```
//!
//! The daemon is spoken with by threads of [`Worker`], so this never waits for
//! it. With `advertise = kernel` nothing is told to a daemon; if one is named,
//! it is read back all the same, and a route that it missed is set again.
//!
//! Owns the connection to the daemon and whether the host is drained.

mod drain;
pub(crate) mod report;
mod uplinks;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::Sender,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use jiff::Timestamp;
use l2isolate_advertise::{
    Report, Worker,
    driver::{Daemon, Failure, Kernel, Observed, Peer},
};
use l2isolate_model::announce::Community;
use l2isolate_plan::{
    Owner, Standing,
    announce::{AnnounceRules, Drain, plan},
};
use l2isolate_reconcile::{Change, Reconciler};
use tracing::{debug, error, info, warn};

use crate::{
    config::{Advertise, Config},
    control::Answer,
};
use drain::{DrainFile, Drained};
use uplinks::Uplinks;

/// After a failure the daemon is asked this often, for as long as a restart
/// takes.
const HASTE: Duration = Duration::from_millis(200);
const HASTE_FOR: Duration = Duration::from_secs(30);
/// From a change in the kernel to the look whether the daemon has seen it.
const SOON: Duration = Duration::from_millis(100);
/// Looks that find the same prefix unsent before the switch is sent all again.
const PATIENCE: u32 = 3;
/// Looks that find the same route not picked up, the third after it was set
/// again, before that is a problem.
const MISSED: u32 = 4;

/// What a host announces.
pub(crate) struct Announcer {
    way: Advertise,
    /// Absent where no daemon is named.
    worker: Option<Worker>,
    reconciler: Reconciler<AnnounceRules>,
    communities: Vec<Community>,
    /// Steps of guests that leave by live migration.
    leaving_steps: u8,
    guests: Vec<IpNet>,
    interval: Duration,
    /// Prefixes whose routes are in place.
    routed: BTreeMap<Owner, BTreeMap<IpNet, Standing>>,
    drain_file: DrainFile,
    drained: Option<Drained>,
    /// The whole intent is known, and what the daemon has was read once.
    complete: bool,
    ready: bool,
    /// Prefixes of changes that are on their way.
    writing: Option<BTreeSet<IpNet>>,
    /// Prefixes that were changed since the look began that is on its way.
    reading: Option<BTreeSet<IpNet>>,
    /// Prefixes that the daemon was told of and that no look has found since.
    unconfirmed: BTreeSet<IpNet>,
    /// Until then somebody may wait for what he asked for to be confirmed.
    hurry: Instant,
    /// When to look next.
    look: Instant,
    uplinks: Uplinks,
    last: Option<Look>,
    looks: u64,
    failure: Option<(Failure, Timestamp, Instant)>,
    /// How often in a row a switch was found to lack something.
    lacking: BTreeMap<String, u32>,
    resent: u64,
    /// Since when a session is down.
    down: BTreeMap<String, Timestamp>,
    /// Prefixes that a daemon hasn't picked up, and how many looks in a row
    /// have found so.
    missing: BTreeMap<IpNet, u32>,
    /// Who waits for the next look that begins, for the one on its way, and for
    /// the answer to one that has ended.
    asking: Vec<Asked>,
    asked: Vec<Asked>,
    answered: Vec<Asked>,
}

/// Somebody who has everything compared.
pub(crate) struct Asked {
    reply: Sender<Answer>,
    since: Instant,
    /// What the look at the kernel took.
    kernel: Duration,
}

/// What the last look found, without the RIB, which the reconciler has.
struct Look {
    at: Timestamp,
    took: Duration,
    daemon: String,
    peers: BTreeMap<String, Peer>,
    /// What each established session wasn't sent.
    unsent: BTreeMap<String, BTreeSet<IpNet>>,
}

impl Announcer {
    /// Begins with a look at what the daemon has; `wake` is called whenever
    /// there is something to converge.
    ///
    /// # Errors
    /// A thread can't be started.
    pub(crate) fn start(
        config: &Config,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let daemon = |way| -> Option<Daemon> { config.daemon(way) };
        let worker = match (daemon(config.advertise), daemon(config.verify_daemon.0)) {
            (Some(daemon), _) => Some(Worker::start(Some(daemon.open()), daemon.open(), wake)?),
            (None, Some(daemon)) => {
                Some(Worker::start(None, Box::new(Kernel::new(&daemon)), wake)?)
            }
            (None, None) => None,
        };
        let drain_file = DrainFile::below(&config.state_directory);
        // With the kernel as the way nothing can be marked; the file is kept for
        // when it is another again.
        let kept = match config.advertise {
            Advertise::Kernel => Ok(None),
            _ => drain_file.read(),
        };
        let drained = kept.unwrap_or_else(|problem| {
            // Nothing is lost by a drain, and somebody has asked for one.
            error!(%problem, "how this host is drained isn't known; taken for drained, `l2isolate undrain` ends it");
            Some(Drained {
                prepend: 0,
                since: Timestamp::now(),
            })
        });
        Ok(Self {
            way: config.advertise,
            worker,
            reconciler: Reconciler::default(),
            communities: config.advertise_communities.0.clone(),
            leaving_steps: config.migration_prepend,
            guests: config.guest_prefixes.0.clone(),
            interval: config.verify_interval,
            routed: BTreeMap::new(),
            drain_file,
            drained,
            complete: false,
            ready: false,
            writing: None,
            reading: None,
            unconfirmed: BTreeSet::new(),
            hurry: Instant::now(),
            look: Instant::now(),
            uplinks: Uplinks::new(&config.uplinks.0),
            last: None,
            looks: 0,
            failure: None,
            lacking: BTreeMap::new(),
            resent: 0,
            down: BTreeMap::new(),
            missing: BTreeMap::new(),
            asking: Vec::new(),
            asked: Vec::new(),
            answered: Vec::new(),
        })
    }

    pub(crate) fn reconciler(&self) -> &Reconciler<AnnounceRules> {
        &self.reconciler
    }

    /// What the intent doesn't name may be withdrawn.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }

    /// The prefixes of an owner whose routes are in place now.
    pub(crate) fn routed(&mut self, owner: Owner, prefixes: BTreeMap<IpNet, Standing>) {
        let known = self.routed.get(&owner);
        if known.map_or(prefixes.is_empty(), |known| *known == prefixes) {
            return;
        }
        if prefixes.is_empty() {
            self.routed.remove(&owner);
        } else {
            self.routed.insert(owner, prefixes);
        }
        self.plan(owner);
        if self.way == Advertise::Kernel {
            self.look = self.look.min(Instant::now() + SOON);
        }
    }

    fn plan(&mut self, owner: Owner) {
        let prefixes = self.routed.get(&owner).into_iter().flatten();
        let prefixes = prefixes.map(|(prefix, standing)| (*prefix, *standing));
        let drain = self.drained.as_ref().map(|drained| Drain {
            prepend: drained.prepend,
        });
        let announced = plan(prefixes, &self.communities, drain, self.leaving_steps);
        if self.worker.is_some() {
            self.reconciler.want(&owner, announced);
        }
    }

    /// Marks all that is announced, so that others prefer any other way, or
    /// takes that back; kept over restarts.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(crate) fn drain(&mut self, drain: Option<u8>) -> Result<(), String> {
        if self.way == Advertise::Kernel {
            return Err(
                "with advertise = kernel the routing daemon isn't told attributes: drain it by its \
                 own means (FRR: `bgp graceful-shutdown` under `router bgp`), or set advertise to \
                 frr, bird or gobgp"
                    .to_owned(),
            );
        }
        let drained = drain.map(|prepend| Drained {
            prepend,
            since: Timestamp::now(),
        });
        self.drain_file
            .write(drained.as_ref())
            .map_err(|problem| format!("it can't be kept over a restart: {problem}"))?;
        match &drained {
            Some(drained) => warn!(prepend = drained.prepend, "drained on request"),
            None => warn!("no longer drained, on request"),
        }
        self.drained = drained;
        self.hurry = Instant::now() + HASTE_FOR;
        let owners: Vec<Owner> = self.routed.keys().copied().collect();
        for owner in owners {
            self.plan(owner);
        }
        Ok(())
    }

    /// Has everything read back from now on, while the caller looks at the kernel;
    /// `reply` is told what came of it.
    pub(crate) fn verify(&mut self, reply: Sender<Answer>) {
        if self.worker.is_none() {
            let _ = reply.send(Answer::Error(
                "no routing daemon is named to ask: set verify_daemon, or advertise to another \
                 than kernel"
                    .to_owned(),
            ));
            return;
        }
        self.asking.push(Asked {
            reply,
            since: Instant::now(),
            kernel: Duration::ZERO,
        });
        self.look = Instant::now();
        self.read();
    }

    /// The kernel was looked at for whoever asked last.
    pub(crate) fn looked_at_kernel(&mut self, took: Duration) {
        if let Some(asked) = self.asking.last_mut().or(self.asked.last_mut()) {
            asked.kernel = took;
        }
    }

    /// Who is to be answered now.
    pub(crate) fn answered(&mut self) -> Vec<Asked> {
        std::mem::take(&mut self.answered)
    }

    /// Begins to read everything back, if that is due.
    fn read(&mut self) {
        if let Some(worker) = &self.worker
            && self.reading.is_none()
            && Instant::now() >= self.look
        {
            self.reading = Some(self.writing.clone().unwrap_or_default());
            self.asked.append(&mut self.asking);
            worker.observe();
        }
    }

    /// Takes in what the daemon said and applies what differs. `in_kernel`:
    /// whether the kernel has our route to a prefix. Gives prefixes whose
    /// routes are to be told again.
    pub(crate) fn converge(&mut self, in_kernel: impl Fn(IpNet) -> bool) -> Vec<IpNet> {
        let mut retell = Vec::new();
        while let Some(report) = self.worker.as_ref().and_then(Worker::report) {
            match report {
                Report::Applied { results, took } => self.applied(results, took),
                Report::Observed { result, took } => {
                    retell.extend(self.observed(result, took, &in_kernel));
                }
                Report::Changed => self.look = self.look.min(Instant::now() + SOON),
                Report::Resent { peer, result } => match result {
                    Ok(()) => self.resent += 1,
                    Err(failure) => warn!(peer, %failure, "can't be sent everything again"),
                },
            }
        }
        let now = Instant::now();
        self.reconciler
            .hold_deletions(!(self.complete && self.ready));
        let Some(worker) = &self.worker else {
            return retell;
        };
        if self.writing.is_none() && self.ready && self.way != Advertise::Kernel {
            let changes = self.reconciler.next(now);
            if !changes.is_empty() {
                let keys: BTreeSet<IpNet> = changes.iter().map(|c| *c.key()).collect();
                if let Some(touched) = &mut self.reading {
                    touched.extend(&keys);
                }
                self.writing = Some(keys);
                worker.apply(changes);
            }
        }
        self.read();
        retell
    }

    fn applied(
        &mut self,
        results: Vec<(
            Change<IpNet, l2isolate_model::announce::Attributes>,
            Result<(), Failure>,
        )>,
        took: Duration,
    ) {
        let now = Instant::now();
        self.writing = None;
        let (mut written, mut failed) = (0, BTreeSet::new());
        for (change, result) in results {
            if let Err(failure) = &result {
                failed.insert(failure.to_string());
            } else {
                written += 1;
                self.unconfirmed.insert(*change.key());
            }
            let result = result.map_err(|failure| failure.to_string());
            self.reconciler.done(now, &change, result);
        }
        if now < self.hurry {
            self.look = self.look.min(now + SOON);
        }
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        info!(written, us, "told the routing daemon");
        for failure in failed {
            warn!(failure, "the routing daemon can't be told; will try again");
        }
    }

    fn observed(
        &mut self,
        result: Result<Observed, Failure>,
        took: Duration,
        in_kernel: &impl Fn(IpNet) -> bool,
    ) -> Vec<IpNet> {
        let now = Instant::now();
        let touched = self.reading.take().unwrap_or_default();
        self.looks += 1;
        let peers = self.last.iter().flat_map(|look| look.peers.keys());
        let peers: Vec<&String> = peers.collect();
        self.uplinks.sample(now, &peers);
        let retell = match result {
            Ok(observed) => self.take_in(observed, took, &touched, in_kernel),
            Err(failure) => {
                let known = self.failure.as_ref().map(|(known, ..)| known);
                if known != Some(&failure) {
                    warn!(%failure, "the routing daemon can't be read back; what is wired stays");
                    self.failure = Some((failure, Timestamp::now(), now));
                }
                // A daemon that comes back may have lost everything.
                self.ready = false;
                Vec::new()
            }
        };
        let hasty = self
            .failure
            .as_ref()
            .is_some_and(|(.., at)| now < *at + HASTE_FOR);
        let pause = if hasty {
            HASTE
        } else if now < self.hurry && !self.unconfirmed.is_empty() {
            SOON
        } else {
            self.interval
        };
        self.look = now + pause.min(self.interval);
        if !self.asking.is_empty() {
            self.look = now;
        }
        self.answered.append(&mut self.asked);
        retell
    }

    fn take_in(
        &mut self,
        mut observed: Observed,
        took: Duration,
        touched: &BTreeSet<IpNet>,
        in_kernel: &impl Fn(IpNet) -> bool,
    ) -> Vec<IpNet> {
        let now = Instant::now();
        if self.failure.take().is_some() || !self.ready {
            info!(daemon = observed.daemon, "the routing daemon is read back");
        }
        self.ready = true;
        let mut rib = std::mem::take(&mut observed.rib);
        if self.way == Advertise::Kernel {
            self.judge_by_kernel(&mut rib, in_kernel);
        }
        self.unconfirmed.retain(|prefix| touched.contains(prefix));
        // Of what was changed meanwhile the look may tell an older state.
        for prefix in touched {
            match self.reconciler.observed().get(prefix) {
                Some(known) => rib.insert(*prefix, known.clone()),
                None => rib.remove(prefix),
            };
        }
        let undone = self.reconciler.totals().undone;
        self.reconciler.observe_all(now, rib);
        let undone = self.reconciler.totals().undone - undone;
        if undone > 0 {
            warn!(
                prefixes = undone,
                "the routing daemon lost what it was told, or was told otherwise"
            );
        }
        let unsent = self.unsent(&observed, touched);
        self.watch(&observed.peers, &unsent);
        debug!(ms = took.as_millis(), "read the routing daemon back");
        self.last = Some(Look {
            at: Timestamp::now(),
            took,
            daemon: observed.daemon,
            peers: observed.peers,
            unsent,
        });
        if self.way != Advertise::Kernel {
            return Vec::new();
        }
        let differences = self.reconciler.differences();
        let lacking = differences.filter(|difference| difference.desired.is_some());
        let missing: BTreeMap<IpNet, u32> = lacking
            .map(|difference| {
                let looks = self.missing.get(difference.key).copied();
                (*difference.key, looks.unwrap_or_default().saturating_add(1))
            })
            .collect();
        // Less and less often: filters that refuse it would refuse it again.
        let again = |looks: u32| looks > 1 && looks.is_power_of_two();
        let retell = missing.iter().filter(|(_, looks)| again(**looks));
        let retell = retell.map(|(prefix, _)| *prefix).collect();
        self.missing = missing;
        retell
    }

    /// What a daemon picks up has its own attributes, and may be a route
    /// without carrier: that is its affair. What it has kept and the kernel
    /// hasn't is not, as far as it is known to be ours.
    fn judge_by_kernel(
        &self,
        rib: &mut l2isolate_model::announce::Announcements,
        in_kernel: &impl Fn(IpNet) -> bool,
    ) {
        rib.retain(|prefix, _| {
            let wanted = self.reconciler.wanted(prefix).is_some();
            let ours = self.guests.iter().any(|net| net.contains(prefix));
            wanted || ours && !in_kernel(*prefix)
        });
        for (prefix, attributes) in rib.iter_mut() {
            if let Some(wanted) = self.reconciler.wanted(prefix) {
                attributes.clone_from(wanted);
            }
        }
    }

    /// Prefixes whose routes were set again and weren't picked up all the same.
    fn missed(&self) -> impl Iterator<Item = &IpNet> {
        let missed = |looks: u32| looks > MISSED;
        self.missing
            .iter()
            .filter(move |(_, looks)| missed(**looks))
            .map(|(prefix, _)| prefix)
    }

    /// What established sessions lack of what is in place.
    fn unsent(
        &self,
        observed: &Observed,
        touched: &BTreeSet<IpNet>,
    ) -> BTreeMap<String, BTreeSet<IpNet>> {
        let in_place: BTreeSet<IpNet> = self
            .reconciler
            .desired()
            .map(|(prefix, ..)| *prefix)
            .filter(|prefix| !touched.contains(prefix))
            .filter(|prefix| self.reconciler.observed().contains_key(prefix))
            .collect();
        let established = observed.peers.iter().filter(|(_, peer)| peer.established);
        established
            .map(|(name, peer)| (name.clone(), &in_place - &peer.sent))
            .filter(|(_, unsent)| !unsent.is_empty())
            .collect()
    }

    /// Takes note of sessions that are down, and mends what wasn't sent.
    fn watch(
        &mut self,
        peers: &BTreeMap<String, Peer>,
        unsent: &BTreeMap<String, BTreeSet<IpNet>>,
    ) {
        self.down.retain(|name, _| {
            let up = peers.get(name).is_some_and(|peer| peer.established);
            if up {
                info!(peer = name, "the session is up");
            }
            !up
        });
        let without = self
            .uplinks
            .names()
            .filter(|name| !peers.contains_key(*name));
        let down = peers.iter().filter(|(_, peer)| !peer.established);
        let down = down.map(|(name, _)| name.as_str()).chain(without);
        for name in down {
            if !self.down.contains_key(name) {
                debug!(peer = name, "the session is down");
                self.down.insert(name.to_owned(), Timestamp::now());
            }
        }
        self.lacking.retain(|name, _| unsent.contains_key(name));
        for (name, prefixes) in unsent {
            let times = self.lacking.entry(name.clone()).or_default();
            *times += 1;
            if times.is_multiple_of(PATIENCE)
                && let Some(worker) = &self.worker
            {
                let prefixes = prefixes.len();
                warn!(
                    peer = name,
                    prefixes, "a switch wasn't sent all; it is sent everything again"
                );
                worker.resend(name);
            }
        }
    }

    /// When the next thing is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.worker.as_ref()?;
        let look = self.reading.is_none().then_some(self.look);
        let writes = self.way != Advertise::Kernel && self.ready && self.writing.is_none();
        let retry = writes
            .then(|| self.reconciler.due(Instant::now()))
            .flatten();
        [look, retry].into_iter().flatten().min()
    }
}
