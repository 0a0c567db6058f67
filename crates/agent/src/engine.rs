//! Intent, plan, reconcile, apply: the one way, put together.
//!
//! Owns what is known of the intent and of the taps, and the connection to the
//! kernel. Everything that happens (a change of the intent, a kernel event, a
//! lost event, the periodic look at everything) ends in the same two steps:
//! plan the taps concerned anew, and let the reconciler's differences go.

mod announce;
mod apply;
mod migrations;
mod plan;
mod tunnel;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use l2isolate_kernel::{Event, Kernel};
use l2isolate_model::{
    IfName,
    desired::{Key, Target, Value},
    document::ObjectId,
    intent::{Change, Intent, Outcome},
    tap::Tap,
};
use l2isolate_plan::{Config, KernelRules, Owner};
use l2isolate_reconcile::Reconciler;
use l2isolate_source::neutron::TapState;
use tracing::{debug, error, info, warn};

use apply::Work;

use crate::{
    aftermath::Aftermath,
    announcer::Announcer,
    arrivals::Arrivals,
    departures::Departures,
    firewall::{Firewall, Stage},
    guests::{self, Guests},
    peers::Peers,
    report::named_by_nova,
    rivals::Rivals,
};

/// Rounds of plan and apply in one go. Two are the rule (what waits comes
/// second); more means that somebody fights us, and events get their turn.
const ROUNDS: usize = 8;

/// The engine of a host.
pub(crate) struct Engine {
    kernel: Kernel,
    /// Absent where the operator doesn't want one.
    firewall: Option<Firewall>,
    /// Absent in whoever only says what would be written.
    guests: Option<Guests>,
    /// Absent in whoever only says what would be written.
    announcer: Option<Announcer>,
    /// Taps of whose routes others may be in place than was told.
    rerouted: BTreeSet<IfName>,
    arrivals: Arrivals,
    departures: Departures,
    aftermath: Aftermath,
    migrations: migrations::Migrations,
    peers: Peers,
    /// Names of the interfaces to switches.
    uplinks: Vec<IfName>,
    /// Absent where nobody looks for them.
    rivals: Option<Rivals>,
    config: Config,
    intent: Intent,
    /// The whole intent is known: what it doesn't name may be cleared.
    complete: bool,
    taps: BTreeMap<IfName, Tap>,
    /// Taps whose plan may have changed.
    dirty: BTreeSet<IfName>,
    /// Taps of which something else may be so than was told.
    touched: BTreeSet<IfName>,
    /// What the source was told of taps.
    told: BTreeMap<IfName, TapState>,
    reconciler: Reconciler<KernelRules>,
    /// Full observations since the start, and those forced by lost events.
    observations: u64,
    overruns: u64,
    /// The last rounds ended before all was done that can be done.
    unfinished: bool,
}

impl Engine {
    /// Subscribes to the kernel's events and looks at everything once. `pause`: how
    /// long switches have between two steps of a guest that leaves.
    ///
    /// # Errors
    /// The kernel can't be observed: without that nothing can be done.
    pub(crate) fn start(
        mut kernel: Kernel,
        config: Config,
        pause: Duration,
    ) -> anyhow::Result<Self> {
        let observed = kernel.observe()?;
        let objects = observed.objects.iter();
        let departures = Departures::start(objects.clone(), &config, pause);
        let arrivals = Arrivals::start(objects, &observed.links, config.route_metric)?;
        let mut engine = Self {
            kernel,
            firewall: None,
            guests: None,
            announcer: None,
            rerouted: BTreeSet::new(),
            arrivals,
            departures,
            aftermath: Aftermath::default(),
            migrations: BTreeMap::new(),
            peers: Peers::default(),
            uplinks: Vec::new(),
            rivals: None,
            intent: Intent::default(),
            complete: false,
            touched: observed.links.keys().copied().collect(),
            taps: observed.links,
            dirty: BTreeSet::new(),
            told: BTreeMap::new(),
            reconciler: Reconciler::default(),
            observations: 1,
            overruns: 0,
            unfinished: false,
            config,
        };
        engine
            .reconciler
            .observe_all(Instant::now(), observed.objects);
        engine.plan_host();
        Ok(engine)
    }

    /// Plans what is of no port, of which some depends on how many there are.
    fn plan_host(&mut self) {
        let host = l2isolate_plan::host::plan(self.intent.ports().len(), &self.config);
        self.reconciler.want(&Owner::Host, host);
    }

    /// Has the engine drive a firewall as well. Before anything is absorbed.
    pub(crate) fn with_firewall(mut self, firewall: Firewall) -> Self {
        self.firewall = Some(firewall);
        self
    }

    /// Has the engine see to what guests are told. Before anything is absorbed.
    pub(crate) fn with_guests(mut self, mut guests: Guests) -> Self {
        guests.taps(&self.taps);
        self.guests = Some(guests);
        self
    }

    /// Has the engine see to what is announced. Before anything is absorbed.
    pub(crate) fn with_announcer(mut self, announcer: Announcer) -> Self {
        self.announcer = Some(announcer);
        self
    }

    /// Has the engine look for others that announce the same. Before anything is
    /// absorbed.
    pub(crate) fn with_rivals(mut self, rivals: Option<Rivals>) -> Self {
        self.rivals = rivals;
        self
    }

    /// Others that announce the same, to wait on.
    pub(crate) fn rivals(&self) -> Option<&Rivals> {
        self.rivals.as_ref()
    }

    pub(crate) fn announcer(&self) -> Option<&Announcer> {
        self.announcer.as_ref()
    }

    pub(crate) fn announcer_mut(&mut self) -> Option<&mut Announcer> {
        self.announcer.as_mut()
    }

    pub(crate) fn guests(&self) -> Option<&Guests> {
        self.guests.as_ref()
    }

    pub(crate) fn firewall(&self) -> Option<&Firewall> {
        self.firewall.as_ref()
    }

    pub(crate) fn firewall_mut(&mut self) -> Option<&mut Firewall> {
        self.firewall.as_mut()
    }

    /// The kernel's monitor, to wait on.
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Guests that are expected, to wait on.
    pub(crate) fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    pub(crate) fn intent(&self) -> &Intent {
        &self.intent
    }

    pub(crate) fn taps(&self) -> &BTreeMap<IfName, Tap> {
        &self.taps
    }

    pub(crate) fn reconciler(&self) -> &Reconciler<KernelRules> {
        &self.reconciler
    }

    pub(crate) fn complete(&self) -> bool {
        self.complete
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Full observations, and how many of them because events were lost.
    pub(crate) fn observations(&self) -> (u64, u64) {
        (self.observations, self.overruns)
    }

    /// Takes changes of the intent in. `complete`: what wasn't named until now
    /// is not there.
    pub(crate) fn absorb(&mut self, changes: Vec<(ObjectId, Change)>, complete: bool) -> Outcome {
        let ports = self.intent.ports().len();
        let outcome = self.intent.update(changes);
        if self.intent.ports().len() != ports {
            self.plan_host();
        }
        self.dirty.extend(outcome.taps.iter().copied());
        if let Some(firewall) = &mut self.firewall {
            firewall.absorb(&self.intent, &outcome);
            if complete {
                firewall.complete();
            }
        }
        if let Some(guests) = &mut self.guests {
            guests.absorb(&self.intent, &outcome);
            if complete {
                guests.complete();
            }
        }
        if let Some(announcer) = self.announcer.as_mut().filter(|_| complete) {
            announcer.complete();
        }
        if complete && !self.complete {
            self.complete = true;
            self.reconciler.hold_deletions(false);
            // Taps that no port has were left alone until now.
            self.dirty.extend(self.taps.keys().copied());
            info!(
                ports = self.intent.ports().count(),
                "the intent is complete"
            );
        }
        outcome
    }

    /// Takes the kernel's events in.
    pub(crate) fn listen(&mut self) {
        if let Some(firewall) = &mut self.firewall {
            firewall.listen();
        }
        self.dirty.extend(self.arrivals.listen());
        if let Some(rivals) = &mut self.rivals {
            rivals.listen();
        }
        match self.kernel.drain() {
            Ok(events) => {
                for event in events {
                    self.hear(event);
                }
            }
            Err(lost) => {
                self.overruns += 1;
                warn!(%lost, "kernel events were lost; looking at everything");
                self.observe();
            }
        }
    }

    /// Looks at everything.
    pub(crate) fn observe(&mut self) {
        if let Some(firewall) = &mut self.firewall {
            firewall.suspect();
        }
        if let Some(guests) = &mut self.guests {
            guests.suspect();
        }
        self.dirty.extend(self.taps.keys().copied());
        self.observe_wiring();
    }

    /// Reads the kernel's wiring anew, and of it plans anew what has changed.
    pub(crate) fn observe_wiring(&mut self) {
        let started = Instant::now();
        match self.kernel.observe() {
            Ok(observed) => {
                self.observations += 1;
                let named = self.taps.keys().chain(observed.links.keys());
                let changed = named.filter(|name| self.taps.get(name) != observed.links.get(name));
                self.dirty.extend(changed.copied());
                let carrier = |name| self.taps.get(name).map(|known| known.carrier);
                let changed = observed.links.iter().filter_map(|(name, tap)| {
                    let before = carrier(name)?;
                    (before != tap.carrier).then_some((*name, tap.carrier))
                });
                let (risen, fallen): (Vec<_>, Vec<_>) = changed.partition(|(_, up)| *up);
                self.taps = observed.links;
                if let Some(guests) = &mut self.guests {
                    guests.taps(&self.taps);
                }
                self.reconciler.observe_all(started, observed.objects);
                risen.into_iter().for_each(|(tap, _)| self.retell(tap));
                fallen
                    .into_iter()
                    .for_each(|(tap, _)| self.arrivals.left(tap));
                debug!(ms = started.elapsed().as_millis(), "observed everything");
            }
            Err(problem) => error!(%problem, "the kernel can't be observed; will try again"),
        }
    }

    fn hear(&mut self, event: Event) {
        let now = Instant::now();
        if let Some(guests) = &mut self.guests {
            match &event {
                Event::Link(name, tap) => guests.tap(*name, tap.as_ref()),
                Event::Object(Key::Address(..), Some(_)) => guests.way_opened(),
                _ => {}
            }
        }
        match event {
            Event::Link(name, Some(tap)) => {
                // Of a new device's settings an event of their own tells.
                let carrier = tap.carrier;
                let known = self.taps.insert(name, tap);
                self.measure_underlay(name);
                match known.map(|known| known.carrier) {
                    Some(false) if carrier => self.retell(name),
                    Some(true) if !carrier => self.arrivals.left(name),
                    _ => {}
                }
                self.reconciler.hurry(&Owner::Tap(name));
                self.dirty.insert(name);
            }
            Event::Link(name, None) => {
                self.taps.remove(&name);
                self.measure_underlay(name);
                self.dirty.insert(name);
            }
            Event::Object(key, value) => {
                let routed = match value.or_else(|| self.reconciler.observed().get(&key).copied()) {
                    Some(Value::Route(Target::Device(tap))) => Some(tap),
                    Some(Value::Route(Target::Tunnel { .. })) => {
                        match self.reconciler.owner(&key) {
                            Some(Owner::Tap(tap)) => Some(*tap),
                            _ => None,
                        }
                    }
                    _ => None,
                };
                let device = key.device().or(routed);
                self.rerouted.extend(routed);
                self.reconciler.observe(now, key, value);
                self.dirty
                    .extend(device.filter(|tap| self.intent.on_tap(*tap).is_none()));
            }
            Event::SysctlsDirty(name) => {
                if self.reconciler.wants_anything(&Owner::Tap(name)) || name == IfName::TUNNEL {
                    self.read_settings(name);
                }
            }
            Event::HostSysctlsDirty => {
                for (key, value) in self.kernel.read_host() {
                    self.reconciler.observe(now, key, Some(value));
                }
            }
        }
    }

    fn read_settings(&mut self, tap: IfName) {
        let now = Instant::now();
        for (key, value) in self.kernel.read_device(tap) {
            self.reconciler.observe(now, key, Some(value));
        }
    }

    /// Plans what is dirty and applies what differs, until nothing is left
    /// that can be done now.
    pub(crate) fn converge(&mut self) {
        let mut work: BTreeMap<Owner, Work> = BTreeMap::new();
        self.unfinished = true;
        self.converge_firewall(Stage::BeforeWiring);
        for _ in 0..ROUNDS {
            self.plan_dirty();
            let changes = self.reconciler.next(Instant::now());
            if changes.is_empty() {
                self.unfinished = false;
                break;
            }
            self.apply(&changes, &mut work);
            // What the writes caused is heard before anything else is planned.
            self.listen();
        }
        self.converge_firewall(Stage::AfterWiring);
        self.converge_guests();
        for (owner, work) in work {
            if let Owner::Tap(tap) = owner {
                self.touched.insert(tap);
                self.rerouted.insert(tap);
            }
            self.report(owner, &work);
        }
        self.announce();
        self.peers.ask(Instant::now());
        if let Some(rivals) = &mut self.rivals {
            rivals.look(Instant::now());
        }
    }

    /// Ends flows that the firewall would refuse today, if it is time to.
    pub(crate) fn end_flows(&mut self) {
        if let Some(firewall) = &mut self.firewall {
            firewall.end_flows();
        }
    }

    fn converge_guests(&mut self) {
        let Self {
            guests,
            taps,
            reconciler,
            ..
        } = self;
        let Some(guests) = guests else { return };
        let addresses = |tap: IfName| {
            let objects = reconciler.observed().range(Key::first_address(tap)..);
            objects.map_while(move |(key, _)| match key {
                Key::Address(name, net) if *name == tap => Some(net.addr()),
                _ => None,
            })
        };
        let up = || taps.iter().filter(|(_, tap)| tap.up).map(|(name, _)| *name);
        guests.converge(|| up().find_map(|tap| guests::way(tap, addresses(tap))));
    }

    /// What has become of taps since this was asked last: of those that a port
    /// has, and of those that are named as if one had. The first time, of all.
    pub(crate) fn tap_news(&mut self) -> Vec<(IfName, Option<TapState>)> {
        // What isn't wired may have become so by the firewall's turn alone.
        let unwired = self.told.iter().filter(|(_, told)| !told.wired);
        let mut touched: BTreeSet<IfName> = unwired.map(|(name, _)| *name).collect();
        touched.append(&mut self.touched);
        let mut news = Vec::new();
        for name in touched {
            let state = self.tap_state(name);
            if self.told.get(&name) == state.as_ref() {
                continue;
            }
            match &state {
                Some(state) => self.told.insert(name, state.clone()),
                None => self.told.remove(&name),
            };
            news.push((name, state));
        }
        news
    }

    fn tap_state(&self, name: IfName) -> Option<TapState> {
        let tap = self.taps.get(&name)?;
        let port = self.intent.on_tap(name);
        if port.is_none() && !named_by_nova(name) {
            return None;
        }
        let wiring = self.reconciler.differences_of(&Owner::Tap(name)).next();
        let filtered = self
            .firewall
            .as_ref()
            .is_none_or(|firewall| firewall.is_in_place(name));
        Some(TapState {
            index: tap.index,
            port: port.map(|checked| checked.port.id.clone()),
            wired: port.is_some() && wiring.is_none() && filtered,
        })
    }

    fn converge_firewall(&mut self, stage: Stage) {
        if let Some(firewall) = &mut self.firewall {
            firewall.converge(stage);
        }
    }

    /// When the next thing that has to wait is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        if self.unfinished || !self.dirty.is_empty() {
            return Some(now);
        }
        let firewall = self.firewall.as_ref().and_then(Firewall::due);
        let guests = self.guests.as_ref().and_then(Guests::due);
        let announcer = self.announcer.as_ref().and_then(Announcer::due);
        let (departures, peers) = (self.departures.due(), self.peers.due());
        let rivals = self.rivals.as_ref().and_then(Rivals::due);
        let all = [
            self.reconciler.due(now),
            firewall,
            guests,
            announcer,
            departures,
            self.aftermath.due(),
            peers,
            rivals,
        ];
        all.into_iter().flatten().min()
    }
}
