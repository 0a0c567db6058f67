//! The firewall's turn of the one way: planned, reconciled and applied beside
//! the wiring, as one transaction at a time.
//!
//! Before a tap is wired its firewall is in the kernel, and it goes after the
//! wiring: [`Firewall::converge`] is called on both sides. Between the two a
//! tap that isn't known is dropped, so a mistake in the order can only close.
//!
//! Owns the tables `inet l2isolate` and `arp l2isolate`. Somebody else's change
//! of them is a hint to look at them again, no more.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::Context;
use l2isolate_kernel::nft::Nft;
use l2isolate_model::{
    IfName,
    filter::{Item, Key, Objects, Value},
    intent::{Intent, Outcome},
    problem::Problem,
};
use l2isolate_plan::filter::{
    Counters, FilterConfig, FilterRules, Owner, Plan, Planner, address_of, base, left, peers,
};
use l2isolate_reconcile::{Change, Reconciler};
use tracing::{debug, error, info, warn};

use crate::{counts::Counts, flows::Flows};

/// Transactions in one go; more are due to errors, or to somebody who fights us.
const ROUNDS: usize = 4;

/// The firewall of a host.
pub(crate) struct Firewall {
    nft: Nft,
    planner: Planner,
    reconciler: Reconciler<FilterRules>,
    /// Absent in whoever only installs the base.
    flows: Option<Flows>,
    /// The other end of each tap's last migration, which may still have something
    /// for a guest that it knows to be here by now.
    peers: BTreeMap<IfName, IpAddr>,
    complete: bool,
    /// What is observed may not be what is there.
    stale: bool,
    /// Changes by others that were noticed.
    disturbed: u64,
}

/// Which changes to make now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// All but what taps that go leave behind.
    BeforeWiring,
    /// The rest.
    AfterWiring,
}

impl Firewall {
    /// Looks at what is there, and wants the base.
    ///
    /// # Errors
    /// The kernel has no nftables, or we aren't allowed to use them.
    pub(crate) fn start(config: FilterConfig) -> anyhow::Result<Self> {
        let owned = config.owned && Nft::can_own();
        let config = FilterConfig { owned, ..config };
        let mut nft = Nft::open().context("nftables can't be opened; the firewall needs it")?;
        let observed = claim(&mut nft, owned)?;
        let mut reconciler = Reconciler::default();
        reconciler.observe_all(Instant::now(), observed);
        reconciler.want(&Owner::Base, base(&config));
        Ok(Self {
            nft,
            planner: Planner::new(config),
            reconciler,
            flows: None,
            peers: BTreeMap::new(),
            complete: false,
            stale: false,
            disturbed: 0,
        })
    }

    /// Has it end flows that its rules would refuse.
    ///
    /// # Errors
    /// The kernel has no connection tracking.
    pub(crate) fn with_flows(mut self) -> anyhow::Result<Self> {
        self.flows = Some(Flows::start()?);
        Ok(self)
    }

    /// Its events, to wait on.
    pub(crate) fn events(&self) -> &Nft {
        &self.nft
    }

    pub(crate) fn reconciler(&self) -> &Reconciler<FilterRules> {
        &self.reconciler
    }

    /// Whether a tap's part of it is in the kernel as it should be.
    pub(crate) fn is_in_place(&self, tap: IfName) -> bool {
        let owner = Owner::Tap(tap);
        self.reconciler.differences_of(&owner).next().is_none()
    }

    /// Rules that can't be expressed.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.planner.problems()
    }

    /// How often others have changed our tables.
    pub(crate) fn disturbed(&self) -> u64 {
        self.disturbed
    }

    /// Plans what an update of the intent concerns.
    pub(crate) fn absorb(&mut self, intent: &Intent, outcome: &Outcome) {
        let before: Vec<Problem> = self.planner.problems().cloned().collect();
        for (owner, plan) in self.planner.update(intent, outcome) {
            if let Some(flows) = &mut self.flows {
                match (&owner, &plan) {
                    (Owner::Tap(tap), _) => flows.port(*tap, intent.on_tap(*tap)),
                    (Owner::Members(_), Plan::But(changes)) => {
                        flows.members_changed(changes);
                    }
                    // Only which known flows pass at once; what may begin is as
                    // it was.
                    (Owner::Base, _) => {}
                    _ => {
                        for tap in self.planner.taps_judged_by(&owner) {
                            flows.judged_anew(tap);
                        }
                    }
                }
            }
            match plan {
                Plan::Whole(objects) => self.reconciler.want(&owner, objects),
                Plan::But(changes) => {
                    for (key, value) in changes {
                        self.reconciler.amend(&owner, key, value);
                    }
                }
            }
        }
        self.remember_left();
        self.meet_peers(intent, outcome);
        for problem in self.planner.problems().filter(|p| !before.contains(p)) {
            warn!(%problem, "a rule can't be expressed");
        }
    }

    /// What the intent doesn't name may go.
    pub(crate) fn complete(&mut self) {
        self.reconciler.hold_deletions(false);
        if !self.complete
            && let Some(flows) = &mut self.flows
        {
            // What has left while nobody was here to see it.
            for address in self.reconciler.observed().keys().filter_map(address_of) {
                flows.has_left(address);
            }
            self.remember_left();
        }
        self.complete = true;
    }

    /// Keeps in the kernel whose flows are still to be ended.
    fn remember_left(&mut self) {
        if let Some(flows) = &self.flows {
            self.reconciler.want(&Owner::Left, left(flows.left()));
        }
    }

    /// Opens the tunnel to the hosts at the other ends of migrations.
    fn meet_peers(&mut self, intent: &Intent, outcome: &Outcome) {
        if self.planner.config().tunnel.is_none() {
            return;
        }
        let mut changed = false;
        for tap in &outcome.taps {
            let binding = intent.on_tap(*tap).map(|checked| checked.port.binding);
            match binding.map(|binding| binding.peer) {
                Some(Some(peer)) => changed |= self.peers.insert(*tap, peer) != Some(peer),
                // The migration is over, and what it has sent on may still come.
                Some(None) => {}
                None => changed |= self.peers.remove(tap).is_some(),
            }
        }
        if !changed {
            return;
        }
        let all = self.peers.values().copied();
        self.reconciler.want(&Owner::Peers, peers(all));
    }

    /// Takes events in.
    pub(crate) fn listen(&mut self) {
        if self.nft.heard() {
            self.disturbed += 1;
            self.stale = true;
            debug!("somebody else changed our tables");
        }
    }

    /// Looks at everything with the next convergence.
    pub(crate) fn suspect(&mut self) {
        self.stale = true;
    }

    fn observe(&mut self) {
        match self.nft.observe() {
            Ok(objects) => {
                self.stale = false;
                self.reconciler.observe_all(Instant::now(), objects);
            }
            Err(problem) => error!(%problem, "the firewall can't be observed; will try again"),
        }
    }

    /// Applies what differs, as far as the stage goes.
    pub(crate) fn converge(&mut self, stage: Stage) {
        let started = Instant::now();
        let written = self.write(stage);
        if written > 0 {
            let us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            info!(written, us, "firewall");
        }
    }

    /// When flows are to be looked at; `None`: there are none that may have to
    /// end, or it isn't known yet.
    pub(crate) fn flows_due(&self) -> Option<Instant> {
        let flows = self.flows.as_ref().filter(|_| self.complete);
        flows.and_then(Flows::due)
    }

    /// Ends the flows that today's rules would refuse and those of addresses that
    /// have left, once they are due. After all else: nobody waits for it.
    pub(crate) fn end_flows(&mut self) {
        let due = self.flows_due().is_some_and(|due| due <= Instant::now());
        let Some(flows) = self.flows.as_mut().filter(|_| due) else {
            return;
        };
        let left = !flows.left().is_empty();
        flows.sweep(&self.reconciler);
        if left {
            self.remember_left();
            self.write(Stage::AfterWiring);
        }
    }

    fn write(&mut self, stage: Stage) -> usize {
        let mut written = 0;
        for _ in 0..ROUNDS {
            self.listen();
            if self.stale {
                self.observe();
            }
            let mut changes = self.reconciler.next(Instant::now());
            if stage == Stage::BeforeWiring {
                changes.retain(|change| !of_leaving_tap(change));
            }
            if changes.is_empty() {
                break;
            }
            written += self.apply(&changes);
        }
        written
    }

    fn apply(&mut self, changes: &[Change<Key, Value>]) -> usize {
        let results = self.nft.apply(changes, self.reconciler.observed());
        let now = Instant::now();
        let mut written = 0;
        for (change, result) in changes.iter().zip(results) {
            match result {
                Ok(()) => {
                    written += 1;
                    self.reconciler.done(now, change, Ok(()));
                }
                Err(failure) => {
                    warn!(%failure, "the firewall can't be changed so; will try again");
                    self.reconciler.done(now, change, Err(failure.to_string()));
                    // Perhaps what we believe to be there isn't.
                    self.stale = true;
                }
            }
        }
        written
    }

    /// When the next thing that has to wait is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        if self.stale {
            // Not at once: whoever disturbs us may not be done yet.
            return Some(now + Duration::from_millis(20));
        }
        let all = [self.reconciler.due(now), self.flows_due()];
        all.into_iter().flatten().min()
    }

    /// What was counted.
    pub(crate) fn counters(&mut self) -> Counts {
        let counted = self.nft.counters().unwrap_or_else(|problem| {
            warn!(%problem, "the firewall's counters can't be read");
            BTreeMap::new()
        });
        Counts {
            names: Counters::of(self.planner.config()),
            counted,
        }
    }

    /// What is wanted, or of it what one tap and its groups want.
    pub(crate) fn wanted(&self, of: Option<(IfName, &[l2isolate_model::GroupId])>) -> Objects {
        let concerns = |owner: &Owner| match (of, owner) {
            (None, _) => true,
            (Some((tap, _)), Owner::Tap(name)) => *name == tap,
            (Some((_, groups)), Owner::Group(id) | Owner::Members(id)) => groups.contains(id),
            (Some((tap, _)), Owner::Profile(_)) => {
                self.planner.taps_judged_by(owner).contains(&tap)
            }
            (Some(_), Owner::Base | Owner::Addresses(_) | Owner::Left | Owner::Peers) => false,
        };
        let wanted = self
            .reconciler
            .desired()
            .filter(|(_, _, owner)| concerns(owner));
        wanted
            .map(|(key, value, _)| (key.clone(), value.clone()))
            .collect()
    }
}

/// What is there; tables that a predecessor left behind are ours again.
fn claim(nft: &mut Nft, owned: bool) -> anyhow::Result<Objects> {
    let observed = nft.observe()?;
    let orphan = |(key, value): (&Key, &Value)| {
        let found = owned && *value == Value::Table { owned: false };
        found.then(|| Change::Set(key.clone(), Value::Table { owned }))
    };
    let orphans: Vec<_> = observed.iter().filter_map(orphan).collect();
    if orphans.is_empty() {
        return Ok(observed);
    }
    for failure in nft
        .apply(&orphans, &observed)
        .into_iter()
        .filter_map(Result::err)
    {
        warn!(%failure, "a table that is there can't be owned");
    }
    Ok(nft.observe()?)
}

/// What goes only when the tap's wiring has gone: its entries in the maps, and
/// whatever they lead to. Revoked members and ranges aren't among it.
fn of_leaving_tap(change: &Change<Key, Value>) -> bool {
    match change {
        Change::Set(..) => false,
        Change::Delete(Key::Element(_, _, item)) => matches!(item, Item::Device(_)),
        Change::Delete(_) => true,
    }
}
