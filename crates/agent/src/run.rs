//! The agent's one thread of decisions.
//!
//! ```text
//!   kernel's events ─┐
//!   source's updates ┼─▶ wait ─▶ absorb ─▶ Engine::converge ─▶ cache ─▶ wait …
//!   questions, clock ┘
//! ```
//!
//! Whatever woke it, it does the same. Reading files and talking to clients
//! happens in threads of their own; this one only takes what they have.

use std::{
    collections::BTreeMap,
    io::Read,
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{
        Arc,
        mpsc::{Receiver, Sender},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use jiff::Timestamp;
use l2isolate_kernel::{Kernel, nft};
use l2isolate_model::{
    IfName, PortId,
    document::ObjectId,
    intent::{Change, Outcome},
};
use l2isolate_source::{Availability, Stamp, State, Update, cache::Cache, directory, neutron};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tracing::{error, info, warn};

use crate::{
    announcer::Announcer,
    config::Config,
    control::{Answer, Request, Subject, server},
    engine::Engine,
    figures,
    firewall::Firewall,
    guests::Guests,
    report::{self, SourceReport},
    rivals::Rivals,
};

/// How often the source learns what operators see of the agent in Neutron.
const FIGURES: Duration = Duration::from_secs(10);

/// The source in use.
enum Source {
    Directory(directory::Handle),
    Neutron(neutron::Handle),
}

/// The agent, wired up.
pub(crate) struct Agent {
    config: Config,
    engine: Engine,
    cache: Cache,
    source: Source,
    updates: Receiver<Update>,
    state: State,
    synced: Option<Timestamp>,
    /// By what the source knows the versions of what is in force.
    stamps: BTreeMap<ObjectId, Stamp>,
    /// Whether the source was told of taps, and when of figures.
    told_taps: bool,
    told_figures: Option<Instant>,
    /// What is in force, but not on disk yet.
    uncached: Vec<Outcome>,
    questions: Receiver<server::Pending>,
    _server: server::Server,
    wake: Arc<EventFd>,
    stop: UnixStream,
    resync: UnixStream,
    started: Timestamp,
}

impl Agent {
    /// Takes up where the last agent ended: its last intent from disk, its
    /// objects from the kernel.
    ///
    /// # Errors
    /// What an agent can't be without: its kernel, its state directory, its
    /// socket. That the source is away is no error.
    pub(crate) fn start(config: Config) -> anyhow::Result<Self> {
        let wake = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?);
        let (stop, resync) = (signals(&[SIGTERM, SIGINT])?, signals(&[SIGHUP])?);
        let waker = || {
            let wake = Arc::clone(&wake);
            // A full counter means that it is awake anyway.
            move || {
                let _ = wake.write(1);
            }
        };
        let (server, questions) = server::listen(&config.socket, waker())?;
        let kernel = Kernel::open(l2isolate_kernel::Config::new(config.route_protocol)).context(
            "the kernel's network configuration can't be opened; the agent needs CAP_NET_ADMIN",
        )?;
        let engine = Engine::start(kernel, config.plan(), config.migration_pause)?;
        let mut engine = engine.with_uplinks(&config.uplinks.0);
        if config.firewall {
            engine = engine.with_firewall(Firewall::start(config.filter())?.with_flows()?);
        }
        engine = engine.with_guests(Guests::start(&config)?);
        engine = engine.with_announcer(Announcer::start(&config, waker())?);
        engine = engine.with_rivals(Rivals::start(&config));
        let (cache, cached) = Cache::open(&config.state_directory)?;
        for problem in &cached.problems {
            warn!(%problem, "last intent on disk");
        }
        info!(
            objects = cached.changes.len(),
            "read the last intent from disk"
        );
        engine.absorb(cached.changes.clone(), false);
        let stamps: BTreeMap<_, _> = cached.stamps.iter().cloned().collect();
        let (source, updates) = match &config.messaging {
            None => {
                let options = directory::Options {
                    known: engine.intent().ids().collect(),
                    grace: config.shrink_grace,
                    ..directory::Options::new(&config.intent_directory)
                };
                let (handle, updates) = directory::spawn(options, Box::new(waker()))?;
                (Source::Directory(handle), updates)
            }
            Some(messaging) => {
                let options = neutron::Options {
                    known: cached.changes,
                    stamps: cached.stamps,
                    grace: config.shrink_grace,
                    report_interval: config.report_interval,
                    sync_interval: config.sync_interval,
                    timeout: config.rpc_response_timeout,
                    max_timeout: config.rpc_response_max_timeout,
                    ..neutron::Options::new(messaging.clone(), &config.host)
                };
                let (handle, updates) = neutron::spawn(options, Box::new(waker()))?;
                (Source::Neutron(handle), updates)
            }
        };
        Ok(Self {
            engine,
            cache,
            source,
            updates,
            state: State::default(),
            synced: cached.synced,
            stamps,
            told_taps: false,
            told_figures: None,
            uncached: Vec::new(),
            questions,
            _server: server,
            wake,
            stop,
            resync,
            started: Timestamp::now(),
            config,
        })
    }

    /// Works until it is told to end. What is wired stays wired.
    ///
    /// # Errors
    /// Waiting itself failed.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        info!(host = %self.config.host, "started");
        let mut look = Instant::now() + self.config.resync_interval;
        loop {
            self.engine.converge();
            self.answer_verifications();
            self.tell_source();
            self.engine.end_flows();
            self.write_cache();
            let due = self.engine.due().map_or(look, |due| due.min(look));
            let woken = self.wait(due.saturating_duration_since(Instant::now()))?;
            if woken.stop {
                info!("ending; what is wired stays wired");
                return Ok(());
            }
            if woken.resync || Instant::now() >= look {
                self.engine.observe();
                look = Instant::now() + self.config.resync_interval;
            }
            self.engine.listen();
            while let Ok(update) = self.updates.try_recv() {
                self.absorb(update);
            }
            while let Ok(pending) = self.questions.try_recv() {
                if pending.request == Request::Verify {
                    self.verify(pending.reply);
                    continue;
                }
                let answer = self.answer(pending.request);
                // A client that has gone needs no answer.
                let _ = pending.reply.send(answer);
            }
        }
    }

    /// Waits for whatever comes first, at most for `longest`.
    fn wait(&self, longest: Duration) -> anyhow::Result<Woken> {
        let mut fds = vec![
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.resync.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.engine.kernel().as_fd(), PollFlags::POLLIN),
            PollFd::new(self.engine.arrivals().as_fd(), PollFlags::POLLIN),
        ];
        if let Some(strays) = self.engine.rivals().and_then(Rivals::as_fd) {
            fds.push(PollFd::new(strays, PollFlags::POLLIN));
        }
        if let Some(firewall) = self.engine.firewall() {
            fds.push(PollFd::new(firewall.events().as_fd(), PollFlags::POLLIN));
        }
        // Rounded up: waking a moment early would only mean waiting again.
        let ms = longest.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for events"),
        }
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
        let mut next = || ready.next().unwrap_or(false);
        let (wake, stop, resync) = (next(), next(), next());
        if wake {
            // Its only content is that somebody has something.
            let _ = self.wake.read();
        }
        if resync {
            let _ = (&self.resync).read(&mut [0; 64]);
        }
        Ok(Woken { stop, resync })
    }

    fn absorb(&mut self, update: Update) {
        let Update {
            changes,
            stamps,
            complete,
            state,
        } = update;
        log_source(&self.config, &self.state, &state);
        self.state = state;
        self.stamps.extend(stamps);
        for (_, change) in &changes {
            if let Change::Bad(problem) = change {
                warn!(%problem, "refused; what was known of it stays");
            }
        }
        let outcome = self.engine.absorb(changes, complete);
        for problem in &outcome.problems {
            warn!(%problem, "refused; what was known of it stays");
        }
        self.uncached.push(outcome);
    }

    /// Tells the source, where it wants to know, what has become of taps. It is
    /// data: what follows from it is the source's affair.
    fn tell_source(&mut self) {
        let news = self.engine.tap_news();
        let Source::Neutron(source) = &self.source else {
            return;
        };
        if !news.is_empty() || !self.told_taps {
            source.tell_taps(news);
            self.told_taps = true;
        }
        let now = Instant::now();
        if self.told_figures.is_none_or(|at| now >= at + FIGURES) {
            source.tell_figures(figures::of(&self.config, &self.status()));
            self.told_figures = Some(now);
        }
    }

    /// Writes what the last updates changed to disk; after the kernel, which
    /// guests wait for.
    fn write_cache(&mut self) {
        let contact = self.state.contact.as_ref();
        // A server may have been heard without anything being different.
        let heard = contact.and_then(|contact| contact.last_sync);
        let heard = heard.filter(|at| Some(*at) != self.synced);
        if self.uncached.is_empty() && heard.is_none() {
            return;
        }
        let mut failures = Vec::new();
        for outcome in self.uncached.drain(..) {
            failures.extend(self.cache.store(&outcome.accepted, &self.stamps));
            failures.extend(self.cache.remove(&outcome.gone));
            for id in &outcome.gone {
                self.stamps.remove(id);
            }
        }
        let now = contact.map_or_else(|| Some(Timestamp::now()), |contact| contact.last_sync);
        if let Some(now) = now.filter(|now| Some(*now) != self.synced) {
            failures.extend(self.cache.set_synced(now).err());
            self.synced = Some(now);
        }
        for failure in failures {
            error!(%failure, "the last intent can't be kept on disk; after a restart without its source the agent would know an older one");
        }
    }

    fn answer(&mut self, request: Request) -> Answer {
        let value = match request {
            Request::Status => serde_json::to_value(self.status()),
            Request::Ports => {
                let counts = self.engine.firewall_mut().map(Firewall::counters);
                serde_json::to_value(report::ports(&self.engine, counts.as_ref()))
            }
            Request::ShowNft { port } => match self.show_nft(port.as_ref()) {
                Ok(text) => serde_json::to_value(text),
                Err(error) => return Answer::Error(error),
            },
            Request::Guest { event, subject } => {
                let taps = self.taps_of(&subject);
                serde_json::to_value(self.engine.told_of_guests(&taps, event))
            }
            Request::Diff => serde_json::to_value(report::differences(&self.engine)),
            // Answered when the daemon has.
            Request::Verify => return Answer::Error("not answered here".to_owned()),
            Request::Drain { prepend } => return self.drain(Some(prepend)),
            Request::Undrain => return self.drain(None),
            Request::Release => {
                let held = self.state.held.as_ref().map_or(0, |held| held.ports);
                warn!(
                    ports = held,
                    "deletions that were held are let go on request"
                );
                match &self.source {
                    Source::Directory(source) => source.release(),
                    Source::Neutron(source) => source.release(),
                }
                serde_json::to_value(held)
            }
        };
        value.map_or_else(|error| Answer::Error(error.to_string()), Answer::Ok)
    }

    /// The taps of the ports in force here that are spoken of.
    fn taps_of(&self, subject: &Subject) -> Vec<IfName> {
        let ports = self.engine.intent().ports();
        let ports = ports.filter_map(|(_, entry)| Some(&entry.effective()?.port));
        let meant = ports.filter(|port| match subject {
            Subject::Tap(tap) => port.tap == *tap,
            Subject::Port(id) => port.id == *id,
            Subject::Instance(instance) => port.instance.as_ref() == Some(instance),
        });
        meant.map(|port| port.tap).collect()
    }

    /// Looks at the kernel while the routing daemon is read back.
    fn verify(&mut self, reply: Sender<Answer>) {
        if let Some(announcer) = self.engine.announcer_mut() {
            announcer.verify(reply);
        }
        let started = Instant::now();
        self.engine.observe_wiring();
        if let Some(announcer) = self.engine.announcer_mut() {
            announcer.looked_at_kernel(started.elapsed());
        }
    }

    /// Tells who had everything compared what was found.
    fn answer_verifications(&mut self) {
        let announcer = self.engine.announcer_mut();
        for asked in announcer.map(Announcer::answered).unwrap_or_default() {
            if let Some(announcer) = self.engine.announcer() {
                let found = announcer.report();
                let differences = report::left(&self.engine, Some(&found));
                asked.answer(found, differences);
            }
        }
    }

    fn drain(&mut self, prepend: Option<u8>) -> Answer {
        let Some(announcer) = self.engine.announcer_mut() else {
            return Answer::Error("this agent announces nothing".to_owned());
        };
        match announcer.drain(prepend) {
            Ok(()) => Answer::Ok(serde_json::Value::Null),
            Err(reason) => Answer::Error(reason),
        }
    }

    /// The firewall that is wanted, in the words of `nft`; of one port, or whole.
    fn show_nft(&self, port: Option<&PortId>) -> Result<String, String> {
        let firewall = self.engine.firewall();
        let firewall = firewall.ok_or("this agent has no firewall (firewall = false)")?;
        let Some(id) = port else {
            return Ok(nft::text::render(&firewall.wanted(None)));
        };
        let known = self
            .engine
            .intent()
            .port(id)
            .and_then(|entry| entry.effective());
        let port = &known
            .ok_or_else(|| format!("no port {id} is in force here"))?
            .port;
        Ok(nft::text::render(
            &firewall.wanted(Some((port.tap, &port.groups))),
        ))
    }

    fn status(&self) -> report::StatusReport {
        report::status(
            &self.engine,
            &self.config.host,
            self.started,
            self.source_report(),
            &self.state.problems,
        )
    }

    fn source_report(&self) -> SourceReport {
        let (away, away_since) = match &self.state.availability {
            Availability::Starting => (Some("not read yet".to_owned()), Some(self.started)),
            Availability::Available { .. } => (None, None),
            Availability::Away { since, reason } => (Some(reason.clone()), Some(*since)),
        };
        SourceReport {
            name: source_name(&self.config),
            away,
            away_since,
            complete: self.engine.complete(),
            last_update: self.synced,
            held_deletions: self.state.held.as_ref().map_or(0, |held| held.ports),
            held_until: self.state.held.as_ref().map(|held| held.until),
            contact: self.state.contact.clone(),
        }
    }
}

/// Why waiting ended, beside events that are looked at anyway.
struct Woken {
    stop: bool,
    resync: bool,
}

fn source_name(config: &Config) -> String {
    match &config.messaging {
        None => format!("directory {}", config.intent_directory.display()),
        Some(messaging) => {
            let hosts = messaging.url.hosts.iter().map(ToString::to_string);
            format!("neutron by {}", hosts.collect::<Vec<_>>().join(", "))
        }
    }
}

fn log_source(config: &Config, before: &State, now: &State) {
    let source = source_name(config);
    match (&before.availability, &now.availability) {
        (Availability::Away { .. }, Availability::Away { .. }) => {}
        (_, Availability::Away { reason, .. }) => {
            warn!(
                source,
                reason, "the source is away; working from the last intent"
            );
        }
        (Availability::Away { .. }, Availability::Available { .. }) => {
            info!(source, "the source is back")
        }
        _ => {}
    }
    for problem in now
        .problems
        .iter()
        .filter(|problem| !before.problems.contains(problem))
    {
        warn!(%problem, "refused; what was known stays");
    }
}

/// A stream that becomes readable when one of the signals comes.
fn signals(signals: &[i32]) -> anyhow::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, write.try_clone()?)?;
    }
    Ok(read)
}
