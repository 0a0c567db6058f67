//! The thread that talks to Neutron.
//!
//! One task owns all state; calls are made by tasks of their own, each kind one
//! at a time (a few of `update_device_list`), which hand over what came of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc::Sender},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use l2isolate_model::{
    document::{Object, ObjectId},
    intent::Change,
    problem::Problem,
};
use l2isolate_oslo::{
    Backoff, Bound, Cast, Client, Context, Error as RpcError, Inbox, State as Link, Target,
    Transport,
};
use serde_json::{Map, Value};
use tokio::sync::{
    mpsc::{Receiver, UnboundedReceiver, UnboundedSender, unbounded_channel},
    watch,
};

use super::{
    Options,
    casts::{Numbers, host_key},
    devices::{Devices, Report},
    doubts::Doubts,
    groups::Groups,
    handle::Word,
    ledger::{Changes, Ledger, Named},
    schedule::{Schedule, Why},
    wire,
};
use crate::{
    Stamp,
    update::{Availability, Contact, State, Update},
};

/// All agents lose the broker at the same moment, and come back within this.
const SPREAD: Duration = Duration::from_secs(5);
/// The first sync doesn't wait longer for the first report.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many casts wait at the broker, if this doesn't listen.
const QUEUE: u32 = 20_000;
/// Several taps that come or go within this lead to one sync.
const SETTLE: Duration = Duration::from_millis(20);
/// After a tap has gone, so long until its port may have.
const AFTER_TAP: Duration = Duration::from_secs(2);

/// What came of a call.
pub(super) enum Done {
    Report(Result<Value, RpcError>),
    Sync {
        named: Named,
        asked: Asked,
        result: Result<Value, RpcError>,
    },
    Devices(Report, Result<Value, RpcError>),
}

/// How things were when a sync was sent.
pub(super) struct Asked {
    /// It was for single objects.
    pub(super) only: bool,
    /// How many reports of ports had been made.
    pub(super) reports: u64,
    /// To which keys the queue was bound.
    pub(super) heard: Arc<BTreeSet<String>>,
}

/// What is wrong beside the objects.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Wrong {
    pub(super) sync: Option<String>,
    pub(super) report: Option<String>,
    pub(super) devices: Option<String>,
    pub(super) other_agent: Option<String>,
    pub(super) clock: Option<String>,
    pub(super) unidentified: Vec<Problem>,
}

pub(super) struct Worker {
    pub(super) host: String,
    /// Another one for each start, so that two agents of one name are noticed.
    pub(super) process: String,
    pub(super) report_interval: Duration,
    pub(super) transport: Transport,
    pub(super) reports: Client,
    pub(super) plugin: Client,
    pub(super) intent: Client,
    pub(super) objects: Client,
    pub(super) words: UnboundedReceiver<Word>,
    pub(super) done: UnboundedReceiver<Done>,
    pub(super) done_sender: UnboundedSender<Done>,
    pub(super) ledger: Ledger,
    pub(super) devices: Devices,
    pub(super) schedule: Schedule,
    pub(super) groups: Groups,
    pub(super) doubts: Doubts,
    pub(super) inbox: Inbox,
    pub(super) casts: Receiver<Cast>,
    pub(super) bound: watch::Receiver<Option<Bound>>,
    /// The queue in use.
    pub(super) queue: u64,
    pub(super) numbers: Numbers,
    /// The keys that the queue is to be bound to, and whether they may be
    /// others by now.
    pub(super) keys: Arc<BTreeSet<String>>,
    pub(super) stale: bool,
    /// No sync before this, unless casts are heard sooner: what changes after
    /// the sync would be missed.
    pub(super) queue_first: Option<Instant>,
    pub(super) figures: Map<String, Value>,
    /// Connections so far: with another one, what was missed is asked for.
    pub(super) connections: u64,
    pub(super) connected: bool,
    /// When to report that we live; none: a report is under way.
    pub(super) report_at: Option<Instant>,
    pub(super) reporting: bool,
    /// No sync before this, unless the report that it waits for is answered
    /// sooner: Neutron binds anew only for an agent that it knows as alive.
    pub(super) report_first: Option<Instant>,
    pub(super) syncing: bool,
    pub(super) complete: bool,
    pub(super) availability: Availability,
    pub(super) contact: Contact,
    pub(super) wrong: Wrong,
    pub(super) pending: Changes,
    pub(super) last: Option<(State, bool)>,
    pub(super) epoch: (Instant, Timestamp),
    pub(super) sender: Sender<Update>,
    pub(super) wake: Box<dyn Fn() + Send>,
}

impl Worker {
    pub(super) fn new(
        options: Options,
        words: UnboundedReceiver<Word>,
        sender: Sender<Update>,
        wake: Box<dyn Fn() + Send>,
    ) -> Self {
        let mut messaging = options.messaging;
        messaging.connection_name = format!("l2isolate:{}:{}", std::process::id(), options.host);
        let transport = Transport::start(messaging);
        let backoff = Arc::new(Backoff::new(options.timeout, options.max_timeout));
        let client = |topic: &str, minor| {
            let target = Target::new(topic).version(1, minor);
            transport.client(target).backoff(backoff.clone())
        };
        let stamps: BTreeMap<_, _> = options.stamps.into_iter().collect();
        let mut devices = Devices::default();
        let mut known = BTreeMap::new();
        let mut groups = Groups::default();
        for (id, change) in options.known {
            // What can't be read is asked for as a whole.
            let stamp = match &change {
                Change::Set { object, .. } => {
                    if let (ObjectId::Port(id), Object::Port(port)) = (&id, object) {
                        devices.set_port(id, Some(port));
                    }
                    let stamp = stamps.get(&id).cloned();
                    if let Some(stamp) = &stamp {
                        hold(&mut groups, &id, object, stamp);
                    }
                    stamp
                }
                _ => None,
            };
            known.insert(id, stamp);
        }
        let (done_sender, done) = unbounded_channel();
        let keys = BTreeSet::from([host_key(&options.host)]);
        let (inbox, casts) = transport.inbox("l2isolate-agent", QUEUE, keys.clone());
        Self {
            groups,
            doubts: Doubts::default(),
            bound: inbox.bound(),
            inbox,
            casts,
            queue: 0,
            numbers: Numbers::default(),
            keys: Arc::new(keys),
            stale: true,
            queue_first: None,
            process: format!("{:032x}", fastrand::u128(..)),
            report_interval: options.report_interval,
            reports: client("q-reports-plugin", 2),
            plugin: client("q-plugin", 5),
            intent: client("l2isolate", 0),
            objects: client("l2isolate", 1),
            host: options.host,
            transport,
            words,
            done,
            done_sender,
            ledger: Ledger::new(known, options.grace, options.window),
            devices,
            schedule: Schedule::new(options.sync_interval),
            figures: Map::new(),
            connections: 0,
            connected: false,
            report_at: None,
            reporting: false,
            report_first: None,
            syncing: false,
            complete: false,
            availability: Availability::Starting,
            contact: Contact::default(),
            wrong: Wrong::default(),
            pending: Changes::default(),
            last: None,
            epoch: (Instant::now(), Timestamp::now()),
            sender,
            wake,
        }
    }

    pub(super) async fn run(mut self) {
        let mut link = self.transport.status();
        loop {
            let status = link.borrow_and_update().clone();
            self.look_at(&status);
            self.look_at_queue();
            self.follow();
            self.start_calls();
            if !self.publish() {
                break;
            }
            let deadline = self.due();
            tokio::select! {
                changed = link.changed() => if changed.is_err() { break },
                word = self.words.recv() => match word {
                    Some(Word::Stop) | None => break,
                    Some(word) => self.hear(word),
                },
                Some(done) = self.done.recv() => self.finish(done),
                Some(cast) = self.casts.recv() => self.take_cast(cast),
                Ok(()) = self.bound.changed() => {}
                () = sleep_until(deadline) => {}
            }
        }
        self.transport.close().await;
    }

    fn hear(&mut self, word: Word) {
        let now = Instant::now();
        match word {
            Word::Taps(news) => {
                tracing::debug!(?news, "taps");
                let gone = news.iter().any(|(_, state)| state.is_none());
                self.devices.tell(news);
                self.schedule.strays(now + SETTLE, self.devices.strays());
                if gone && self.complete {
                    let spread = AFTER_TAP.mul_f64(0.5 + fastrand::f64());
                    self.schedule.want(now + spread, Why::TapGone);
                }
            }
            Word::Figures(figures) => self.figures = figures,
            Word::Release => {
                let (ports, objects) = self.ledger.guard.held();
                tracing::warn!(ports, objects, "held deletions are released");
                self.ledger.guard.release(now);
            }
            Word::Stop => {}
        }
    }

    /// The connection has come, or gone.
    fn look_at(&mut self, status: &l2isolate_oslo::Status) {
        let now = Instant::now();
        self.connected = status.state.is_connected();
        match &status.state {
            Link::Connected { host, .. } => {
                self.contact.connected = Some(host.clone());
                if status.connections != self.connections {
                    let again = self.connections > 0;
                    self.connections = status.connections;
                    let spread = if again {
                        SPREAD.mul_f64(fastrand::f64())
                    } else {
                        Duration::ZERO
                    };
                    self.report_at = Some(now + spread);
                    self.devices.reconnected();
                    if let Availability::Away { reason, .. } = &mut self.availability {
                        *reason = format!("connected to {host} again, not synced yet");
                    }
                    self.report_first = Some(now + spread + PATIENCE);
                    self.queue_first = self.report_first;
                    self.schedule.want(now, Why::Connected);
                }
            }
            Link::Connecting(Some(reason)) => {
                self.contact.connected = None;
                self.set_away(reason.clone());
            }
            Link::Connecting(None) | Link::Closed => self.contact.connected = None,
        }
    }

    pub(super) fn set_away(&mut self, now_reason: String) {
        match &mut self.availability {
            Availability::Away { reason, .. } => *reason = now_reason,
            other => {
                *other = Availability::Away {
                    since: Timestamp::now(),
                    reason: now_reason,
                }
            }
        }
    }

    /// Starts the calls that are due.
    fn start_calls(&mut self) {
        if !self.connected {
            return;
        }
        let now = Instant::now();
        if !self.reporting && self.report_at.is_some_and(|at| at <= now) {
            self.reporting = true;
            self.report_at = Some(now + self.report_interval);
            let start = !self.complete;
            let configurations = self.configurations();
            let arguments =
                wire::report_state(&self.host, start, &configurations, Timestamp::now());
            self.call(&self.reports, "report_state", arguments, Done::Report);
        }
        self.report_first = self.report_first.filter(|at| *at > now);
        self.queue_first = self.queue_first.filter(|at| *at > now && !self.hears_all());
        if let Some((at, why)) = self.schedule.next()
            && !self.syncing
            && self.report_first.is_none()
            && self.queue_first.is_none()
            && at <= now
        {
            tracing::debug!(?why, "asking Neutron for what differs");
            self.schedule.started();
            self.sync();
        }
        if !self.syncing && self.complete && self.hears_all() {
            self.sync_doubts(now);
        }
        while let Some(report) = self.devices.next(now) {
            let arguments =
                wire::update_device_list(&self.host, report.up.keys(), report.down.iter());
            self.call(&self.plugin, "update_device_list", arguments, |result| {
                Done::Devices(report, result)
            });
        }
    }

    pub(super) fn sync(&mut self) {
        // All of them are answered.
        self.doubts.clear();
        self.ask(self.ledger.named(), false);
    }

    /// Asks for single objects, if any are due.
    fn sync_doubts(&mut self, now: Instant) {
        let doubts = self.doubts.take(now);
        if doubts.is_empty() {
            return;
        }
        tracing::debug!(?doubts, "asking Neutron");
        let known = self.ledger.named();
        let named = doubts.into_iter().map(|id| {
            let stamp = known.get(&id).cloned().flatten();
            (id, stamp)
        });
        self.ask(named.collect(), true);
    }

    fn ask(&mut self, named: Named, only: bool) {
        self.syncing = true;
        let heard = self.bound.borrow().as_ref().map(|b| Arc::clone(&b.keys));
        let asked = Asked {
            only,
            reports: self.devices.reports(),
            heard: heard.unwrap_or_default(),
        };
        let arguments = wire::sync(&self.host, &self.process, Ledger::digests(&named), only);
        let client = if only { &self.objects } else { &self.intent };
        self.call(client, "sync", arguments, move |result| Done::Sync {
            named,
            asked,
            result,
        });
    }

    fn call(
        &self,
        client: &Client,
        method: &'static str,
        arguments: Map<String, Value>,
        done: impl FnOnce(Result<Value, RpcError>) -> Done + Send + 'static,
    ) {
        let (client, sender) = (client.clone(), self.done_sender.clone());
        tokio::spawn(async move {
            let result = client.call(&Context::admin(), method, arguments).await;
            // Nobody is there any more at the end.
            let _ = sender.send(done(result));
        });
    }

    fn configurations(&self) -> Map<String, Value> {
        let mut all = self.figures.clone();
        let age = self
            .contact
            .last_sync
            .map(|at| Timestamp::now().duration_since(at));
        all.insert("hears_casts".to_owned(), self.hears_all().into());
        all.insert("process".to_owned(), self.process.clone().into());
        all.insert("sync_age".to_owned(), age.map(|age| age.as_secs()).into());
        all.insert(
            "taps_without_port".to_owned(),
            self.devices.strays().count().into(),
        );
        all.insert(
            "ports_unreported".to_owned(),
            self.devices.unreported().into(),
        );
        all
    }

    /// When there is something to do by itself.
    fn due(&self) -> Option<Instant> {
        let guard = self.ledger.guard.due();
        if !self.connected {
            return guard;
        }
        let report = self.report_at.filter(|_| !self.reporting);
        let sync = self.schedule.next().filter(|_| !self.syncing);
        let first = self.report_first.max(self.queue_first);
        let sync = sync.map(|(at, _)| first.map_or(at, |first| first.max(at)));
        let doubts = self.doubts.due();
        let doubts = doubts.filter(|_| !self.syncing && self.complete && self.hears_all());
        let devices = self.devices.due_at();
        [guard, report, sync, doubts, devices]
            .into_iter()
            .flatten()
            .min()
    }
}

/// A group of the cache, for differences.
fn hold(groups: &mut Groups, id: &ObjectId, object: &Object, stamp: &Stamp) {
    let fields = match object {
        Object::Group(group) => serde_json::to_value(group.as_ref()),
        Object::AddressGroup(group) => serde_json::to_value(group.as_ref()),
        Object::Port(_) | Object::Subnet(_) => return,
    };
    // One that can't be followed is asked for.
    if let Ok(Value::Object(fields)) = fields {
        groups.set(id, stamp, fields);
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
