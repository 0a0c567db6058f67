//! What guests are told, on the one way: planned, reconciled and applied beside
//! the wiring and the firewall.
//!
//! A port's files are in place as soon as its intent is known, whether or not
//! its tap is there. IPv6's solicitations are answered by a thread of its own,
//! which is told of a tap when it appears and when its answers change.
//!
//! Owns the files below `guest_directory`, the dnsmasq that serves from them,
//! and the responder.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use l2isolate_guest::{
    Backend, Directory, Way,
    dnsmasq::{Noticed, Settings, TICK, known_options},
    responder::{Local, Responder},
};
use l2isolate_model::{
    IfName,
    guest::{Key, Service, Value, ipv6::Answers},
    intent::{Intent, Outcome},
    metadata::entry::Entry,
    problem::Problem,
    tap::Tap,
};
use l2isolate_plan::guest::{
    DHCP_ADDRESS, GuestConfig, GuestRules, Known, Owner, dnsmasq::Server, plan,
};
use l2isolate_reconcile::{Change, Reconciler};
use nix::unistd::User;
use tracing::{debug, error, info, warn};

use crate::config::Config;

/// Rounds of apply in one go.
const ROUNDS: usize = 4;
/// From a lease's release to the first look whether it worked; the next ones
/// double up to the second.
const RELEASED: Duration = Duration::from_millis(10);
const RELEASED_LONGEST: Duration = Duration::from_secs(5);
/// From a look that found no lease in the way to the one that makes sure of it: dnsmasq
/// has read its files anew by then.
const RELEASED_TWICE: Duration = Duration::from_secs(2);

/// What a host's guests are told.
pub(crate) struct Guests {
    config: GuestConfig,
    /// Absent where neither files nor a server are wanted.
    backend: Option<Backend>,
    reconciler: Reconciler<GuestRules>,
    responder: Option<Responder>,
    answers: BTreeMap<IfName, Arc<Answers>>,
    /// The devices that are there.
    indexes: BTreeMap<IfName, u32>,
    problems: BTreeMap<IfName, Vec<Problem>>,
    /// When the server is looked at next.
    look: Instant,
    /// When leases are, and how long to wait if one is still in the way.
    leases: Option<Instant>,
    /// The last look found none in the way. dnsmasq writes its file in place, so one look
    /// may fall into that and see a part.
    clear: bool,
    patience: Duration,
    stale: bool,
    /// How often the server was found dead or hung, and started again.
    restarts: u64,
}

/// What there is to say of it.
pub(crate) struct Figures {
    /// The server's process, if it runs.
    pub(crate) pid: Option<i32>,
    pub(crate) hosts: usize,
    pub(crate) leases: usize,
    pub(crate) rereads: u64,
    pub(crate) restarts: u64,
    /// What the responder has answered; absent where there is none.
    pub(crate) answers: Option<l2isolate_guest::responder::Figures>,
}

impl Guests {
    /// Looks at what is there, and wants the server.
    ///
    /// # Errors
    /// Its directory can't be made, or a thread not be started.
    pub(crate) fn start(config: &Config) -> anyhow::Result<Self> {
        let directory = &config.guest_directory;
        let server = Server {
            directory,
            user: &config.dnsmasq_user,
        };
        let mut directories = Vec::new();
        // What an agent with other settings has left behind is cleared.
        let dhcp = config.dhcp || directory.exists();
        if dhcp {
            directories.extend([Service::Hosts, Service::Options].map(|service| Directory {
                service,
                path: directory.join(service.directory()),
                group: None,
            }));
        }
        if config.allow_metadata || config.metadata_directory.exists() {
            directories.push(Directory {
                service: Service::Metadata,
                path: config.metadata_directory.clone(),
                group: Some(group_of(&config.metadata_user)),
            });
        }
        let backend = (!directories.is_empty()).then(|| {
            let settings = Settings {
                program: config.dnsmasq_program.clone(),
                directory: directory.clone(),
                leases: server.leases(),
            };
            Backend::open(directories, dhcp.then_some(settings))
        });
        let local = Local {
            mac: config.tap_mac,
            link_local: config.gateway_link_local,
        };
        let responder = config
            .ipv6_services
            .then(|| Responder::start(local, config.limit_nd))
            .transpose()
            .context("the thread that answers solicitations can't be started")?;
        let known = if config.dhcp {
            known(config)
        } else {
            Known::default()
        };
        let guest = config.guest(known);
        let mut reconciler = Reconciler::default();
        if config.dhcp {
            let arguments = Value::Arguments(server.arguments(&guest));
            reconciler.want(&Owner::Host, [(Key::Server, arguments)]);
        }
        let mut guests = Self {
            config: guest,
            backend: backend.transpose().context(
                "set guest_directory and metadata_directory to places where the agent can write",
            )?,
            reconciler,
            responder,
            answers: BTreeMap::new(),
            indexes: BTreeMap::new(),
            problems: BTreeMap::new(),
            look: Instant::now(),
            leases: None,
            clear: false,
            patience: RELEASED,
            stale: false,
            restarts: 0,
        };
        guests.observe();
        Ok(guests)
    }

    pub(crate) fn reconciler(&self) -> &Reconciler<GuestRules> {
        &self.reconciler
    }

    /// What was left out of what guests are told.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    /// Plans what an update of the intent concerns.
    pub(crate) fn absorb(&mut self, intent: &Intent, outcome: &Outcome) {
        for tap in &outcome.taps {
            let port = intent.on_tap(*tap).map(AsRef::as_ref);
            let plan = plan(*tap, port, &self.config);
            self.reconciler.want(&Owner::Tap(*tap), plan.objects);
            let before = self.problems.remove(tap).unwrap_or_default();
            for problem in plan.problems.iter().filter(|p| !before.contains(p)) {
                warn!(%problem, "left out of what the guest is told");
            }
            if !plan.problems.is_empty() {
                self.problems.insert(*tap, plan.problems);
            }
            let answers = plan.ipv6.map(Arc::new);
            if self.answers.get(tap) != answers.as_ref() {
                match answers {
                    Some(answers) => drop(self.answers.insert(*tap, answers)),
                    None => drop(self.answers.remove(tap)),
                }
                self.tell(*tap);
            }
        }
    }

    /// What the metadata proxy shall know of a tap; `None`: nothing.
    pub(crate) fn metadata(&mut self, tap: IfName, entry: Option<&Entry>) {
        let file = entry.and_then(|entry| {
            // Every field has a JSON form.
            let content = Value::Content(entry.to_json().ok()?.into());
            let name = Entry::file_name(tap).into();
            Some((Key::File(Service::Metadata, name), content))
        });
        self.reconciler.want(&Owner::Metadata(tap), file);
    }

    /// What the intent doesn't name may go.
    pub(crate) fn complete(&mut self) {
        self.reconciler.hold_deletions(false);
    }

    /// A device is there, or is another one now, or has gone.
    pub(crate) fn tap(&mut self, name: IfName, tap: Option<&Tap>) {
        let index = tap.map(|tap| tap.index);
        if self.indexes.get(&name).copied() == index {
            return;
        }
        match index {
            Some(index) => drop(self.indexes.insert(name, index)),
            None => drop(self.indexes.remove(&name)),
        }
        self.tell(name);
    }

    /// All devices that are there.
    pub(crate) fn taps(&mut self, taps: &BTreeMap<IfName, Tap>) {
        let gone: Vec<IfName> = self
            .indexes
            .keys()
            .copied()
            .filter(|name| !taps.contains_key(name))
            .collect();
        for name in gone {
            self.tap(name, None);
        }
        for (name, tap) in taps {
            self.tap(*name, Some(tap));
        }
    }

    /// Tells the responder what a tap has come to.
    fn tell(&self, name: IfName) {
        if let Some(responder) = &self.responder {
            let index = self.indexes.get(&name).copied();
            let answers = self.answers.get(&name).cloned();
            // Devices without a port are none of its business, nor of ours.
            responder.set(name, index.zip(answers));
        }
    }

    /// Looks at everything with the next convergence.
    pub(crate) fn suspect(&mut self) {
        self.stale = true;
    }

    fn observe(&mut self) {
        let Some(backend) = &mut self.backend else {
            return;
        };
        match backend.observe() {
            Ok(objects) => {
                self.stale = false;
                self.reconciler.observe_all(Instant::now(), objects);
                self.suspect_leases();
            }
            Err(problem) => {
                error!(%problem, "what guests are told can't be observed; will try again")
            }
        }
    }

    /// Applies what differs. `way`: a tap by which the DHCP server can be told.
    pub(crate) fn converge(&mut self, way: impl Fn() -> Option<Way>) {
        let started = Instant::now();
        self.watch(started);
        if self.stale {
            self.observe();
        }
        let mut written = 0;
        for _ in 0..ROUNDS {
            self.look_at_leases(&way);
            let changes = self.reconciler.next(Instant::now());
            if changes.is_empty() {
                break;
            }
            written += self.apply(&changes, &way);
        }
        let hosts = self.hosts();
        if let Some(backend) = &mut self.backend {
            backend.settle(Instant::now(), hosts);
        }
        if written > 0 {
            let us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            info!(written, us, "told guests");
        }
    }

    /// Looks after the server.
    fn watch(&mut self, now: Instant) {
        if now < self.look {
            return;
        }
        self.look = now + TICK;
        let Some(noticed) = self.backend.as_mut().and_then(|backend| backend.look(now)) else {
            return;
        };
        self.restarts += 1;
        match noticed {
            Noticed::Dead => warn!("dnsmasq has ended; starting it again, its leases are kept"),
            Noticed::Hung(why) => warn!(why, "dnsmasq hangs; started anew, its leases are kept"),
        }
        self.reconciler.observe(now, Key::Server, None);
    }

    /// Takes in which leases are in the way.
    fn look_at_leases(&mut self, way: &impl Fn() -> Option<Way>) {
        let now = Instant::now();
        if self.leases.is_none_or(|at| at > now) {
            return;
        }
        let Some(backend) = &self.backend else { return };
        let found = match backend.stale_leases(self.reconciler.observed()) {
            Ok(found) => found,
            Err(problem) => {
                warn!(%problem, "will try again");
                self.leases = Some(now + RELEASED_LONGEST);
                return;
            }
        };
        // Such keys are behind all others.
        let behind = (Bound::Excluded(Key::Server), Bound::Unbounded);
        let known = self.reconciler.observed().range(behind);
        let known: Vec<Key> = known.map(|(key, _)| key.clone()).collect();
        for key in known.into_iter().filter(|key| !found.contains(key)) {
            self.reconciler.observe(now, key, None);
        }
        let clear = found.is_empty();
        if clear && !self.clear {
            self.clear = true;
            self.leases = Some(now + RELEASED_TWICE);
            return;
        }
        if clear || way().is_none() {
            // Without a tap nobody asks either; the next one has us look again.
            self.leases = None;
            self.patience = RELEASED;
            return;
        }
        self.clear = false;
        for key in found {
            debug!(%key, "is in the way");
            self.reconciler.observe(now, key, Some(Value::Present));
        }
        self.leases = Some(now + self.patience);
        self.patience = (self.patience * 2).min(RELEASED_LONGEST);
    }

    /// Leases may be in the way that weren't.
    fn suspect_leases(&mut self) {
        self.leases = Some(Instant::now());
        self.clear = false;
        self.patience = RELEASED;
    }

    /// A tap has got the address by which the server can be told.
    pub(crate) fn way_opened(&mut self) {
        self.leases.get_or_insert_with(Instant::now);
        self.clear = false;
    }

    fn apply(&mut self, changes: &[Change<Key, Value>], way: &impl Fn() -> Option<Way>) -> usize {
        let Some(backend) = &mut self.backend else {
            return 0;
        };
        let releases = changes
            .iter()
            .any(|change| matches!(change.key(), Key::StaleLease(..)));
        let way = if releases { way() } else { None };
        let results = backend.apply(changes, self.reconciler.observed(), way.as_ref());
        let now = Instant::now();
        let mut written = 0;
        for (change, result) in changes.iter().zip(results) {
            match result {
                Ok(()) => {
                    written += 1;
                    if matches!(change, Change::Set(Key::File(Service::Hosts, _), _)) {
                        self.suspect_leases();
                    }
                    if let Key::StaleLease(address, mac) = change.key() {
                        info!(%address, %mac, "released an old lease: the address is another's now");
                    }
                    self.reconciler.done(now, change, Ok(()));
                }
                Err(failure) => {
                    warn!(%failure, "guests can't be told; will try again");
                    self.reconciler.done(now, change, Err(failure.to_string()));
                }
            }
        }
        written
    }

    /// How many ports DHCP is served to.
    fn hosts(&self) -> usize {
        let files = self.reconciler.observed().keys();
        files
            .filter(|key| matches!(key, Key::File(Service::Hosts, _)))
            .count()
    }

    /// When the next thing that has to wait is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let backend = self.backend.as_ref()?;
        let reread = backend.due(self.hosts());
        let all = [
            Some(self.look),
            reread,
            self.leases,
            self.reconciler.due(now),
        ];
        all.into_iter().flatten().min()
    }

    /// What there is to say of it.
    pub(crate) fn figures(&self) -> Figures {
        let backend = self.backend.as_ref();
        let (leases, rereads) = backend.map_or((0, 0), Backend::figures);
        Figures {
            pid: backend.and_then(Backend::pid),
            hosts: self.hosts(),
            leases,
            rereads,
            restarts: self.restarts,
            answers: self.responder.as_ref().map(Responder::figures),
        }
    }

    /// Whether DHCP is served at all.
    pub(crate) fn serves_dhcp(&self) -> bool {
        self.config.dhcp
    }
}

/// The group of the metadata proxy's user, or root's if there is no such user.
fn group_of(user: &str) -> u32 {
    match User::from_name(user) {
        Ok(Some(user)) => user.gid.as_raw(),
        _ => 0,
    }
}

/// The server's addresses on a tap, of those that are there.
pub(crate) fn way(tap: IfName, addresses: impl Iterator<Item = IpAddr>) -> Option<Way> {
    let v4 = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    };
    let servers: Vec<Ipv4Addr> = addresses.filter_map(v4).collect();
    servers.contains(&DHCP_ADDRESS).then_some((tap, servers))
}

/// What dnsmasq knows of options.
fn known(config: &Config) -> Known {
    let program = &config.dnsmasq_program;
    match known_options(program) {
        Ok(listing) => {
            let known = Known::read(&listing);
            if known.is_empty() {
                Known::default()
            } else {
                known
            }
        }
        Err(problem) => {
            let program = program.display();
            error!(%program, %problem, "dnsmasq can't be asked what it knows; install dnsmasq-base, name it with dnsmasq_program, or set dhcp = false");
            Known::default()
        }
    }
}
