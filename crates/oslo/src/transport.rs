//! The connection that is always there again: connects, listens for replies,
//! notices that it has lost the broker, and starts over.
//!
//! ```text
//!   Client::call ─▶ Ready::publisher ─▶ broker ─▶ server
//!        ▲                                          │
//!        └── waiting ◀── reply queue ◀── broker ◀───┘
//! ```
//!
//! Owns the one connection, its reply queue and the calls that wait. The reply
//! queue belongs to the connection and goes with it, so a call whose connection
//! is lost fails at once instead of waiting for what can't come any more.
//!
//! What can break it: nothing that the broker does; each failure ends in the
//! next round of tries, and in [`Status`].

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use lapin::{
    Consumer, Event,
    message::Delivery,
    options::BasicConsumeOptions,
    types::{FieldTable, ShortString},
};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::{Stream, StreamExt as _};

use crate::{
    Cast, Client, ConnectError, Dispatcher, Error, Inbox, Listen, RemoteError, Server, Target,
    connection::Connection,
    declare::{self, Queue},
    error::words,
    message::Reply,
    options::Options,
    publisher::Publisher,
    unique::{self, Seen},
};

/// Before a reply queue that was deleted is made anew
/// (`kombu_reconnect_delay`).
const REDECLARE: Duration = Duration::from_secs(1);

/// How the connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// Since when.
    pub since: SystemTime,
    /// How often it came about since the start. With each, what others sent
    /// meanwhile to queues of the last one is lost: whoever relies on that looks
    /// again.
    pub connections: u64,
}

/// What the connection is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Trying; with what came of the last try, or what ended the last connection.
    Connecting(Option<String>),
    /// Up.
    Connected {
        /// The broker: name and port.
        host: String,
        /// Why the broker takes no messages for now (it is short of memory or
        /// disk).
        blocked: Option<String>,
    },
    /// Closed by its owner.
    Closed,
}

impl State {
    /// Whether it is up.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

/// What a connection has once everything on it is there.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) connection: Arc<Connection>,
    pub(crate) publisher: Arc<Publisher>,
    /// The queue for replies.
    pub(crate) replies: String,
}

/// A call's outcome, or why there will be none.
pub(crate) type Outcome = Result<Result<Value, RemoteError>, String>;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    ready: watch::Sender<Option<Arc<Ready>>>,
    status: watch::Sender<Status>,
    stop: watch::Sender<bool>,
    waiting: Mutex<HashMap<String, oneshot::Sender<Outcome>>>,
}

/// A connection to RabbitMQ that is made anew whenever it is lost. Cheap to
/// clone; it ends with the last clone, client or server of it.
#[derive(Debug, Clone)]
pub struct Transport {
    shared: Arc<Shared>,
    _end: Arc<End>,
}

/// Ends the task when nobody is left.
#[derive(Debug)]
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.stop.send_replace(true);
    }
}

impl Transport {
    /// Starts to connect, in a task of the current tokio runtime. Never fails:
    /// what doesn't work is in [`Self::status`] and in the log, and is tried
    /// again.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(options: Options) -> Self {
        if options
            .tls
            .as_ref()
            .is_some_and(|tls| tls.ca_file.is_none())
        {
            tracing::warn!("TLS without ssl_ca_file: whoever answers is taken for the broker");
        }
        let status = Status {
            state: State::Connecting(None),
            since: SystemTime::now(),
            connections: 0,
        };
        let shared = Arc::new(Shared {
            options,
            ready: watch::Sender::new(None),
            status: watch::Sender::new(status),
            stop: watch::Sender::new(false),
            waiting: Mutex::default(),
        });
        tokio::spawn(run(Arc::clone(&shared)));
        let end = Arc::new(End(Arc::clone(&shared)));
        Self { shared, _end: end }
    }

    /// How the connection is, and whenever that changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// A client of a topic.
    #[must_use]
    pub fn client(&self, target: Target) -> Client {
        Client::new(self.clone(), target)
    }

    /// Serves a topic until the returned handle is dropped.
    #[must_use]
    pub fn serve(&self, listen: Listen, dispatcher: Dispatcher) -> Server {
        Server::start(self.clone(), listen, dispatcher)
    }

    /// Takes casts by their routing keys on the exchange of topics, in the order
    /// in which they come, from one queue named `NAME_` and something unique that
    /// holds at most `limit` messages; the returned handle can bind it to others.
    #[must_use]
    pub fn inbox(
        &self,
        name: &str,
        limit: u32,
        keys: BTreeSet<String>,
    ) -> (Inbox, mpsc::Receiver<Cast>) {
        Inbox::start(self.clone(), name, limit, keys)
    }

    /// Closes the connection in order; nothing can be done with it afterwards.
    pub async fn close(&self) {
        self.shared.stop.send_replace(true);
        let mut status = self.shared.status.subscribe();
        // The sender lives as long as this does.
        let _ = status
            .wait_for(|status| status.state == State::Closed)
            .await;
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// A call that waits; forgets itself.
pub(crate) struct Waiting<'a> {
    shared: &'a Shared,
    call: String,
    pub(crate) outcome: oneshot::Receiver<Outcome>,
}

impl Waiting<'_> {
    /// Which call (`_msg_id`).
    pub(crate) fn call(&self) -> &str {
        &self.call
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.waiting().remove(&self.call);
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Outcome>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, once there is one.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub(crate) async fn ready(&self) -> Result<Arc<Ready>, Error> {
        let mut ready = self.ready.subscribe();
        let mut stop = self.stop.subscribe();
        tokio::select! {
            ready = ready.wait_for(Option::is_some) => {
                ready.ok().and_then(|ready| ready.clone()).ok_or(Error::Closed)
            }
            _ = stop.wait_for(|stop| *stop) => Err(Error::Closed),
        }
    }

    /// Waits until that connection isn't the one in use any more.
    pub(crate) async fn gone(&self, ready: &Arc<Ready>) {
        let mut now = self.ready.subscribe();
        let other = |now: &Option<Arc<Ready>>| !now.as_ref().is_some_and(|n| Arc::ptr_eq(n, ready));
        let _ = now.wait_for(other).await;
    }

    fn is_current(&self, ready: &Arc<Ready>) -> bool {
        let now = self.ready.borrow();
        now.as_ref().is_some_and(|now| Arc::ptr_eq(now, ready))
    }

    /// Registers a call that is to be answered to this connection's queue; none
    /// if that has gone meanwhile.
    pub(crate) fn wait_on(&self, ready: &Arc<Ready>) -> Option<Waiting<'_>> {
        let (sender, outcome) = oneshot::channel();
        let call = unique::hex();
        self.waiting().insert(call.clone(), sender);
        let waiting = Waiting {
            shared: self,
            call,
            outcome,
        };
        // After the insertion: whoever ends a connection first takes it away
        // and then fails what waits.
        self.is_current(ready).then_some(waiting)
    }

    /// Why there is no connection, for whoever waited in vain.
    pub(crate) fn why_not(&self) -> String {
        match &self.status.borrow().state {
            State::Connecting(None) => "connecting".to_owned(),
            State::Connecting(Some(reason)) => reason.clone(),
            State::Connected { host, blocked } => match blocked {
                Some(reason) => format!("{host} takes no messages: {reason}"),
                None => format!("{host} doesn't confirm the message"),
            },
            State::Closed => "closed".to_owned(),
        }
    }

    fn set_state(&self, state: State) {
        self.status.send_if_modified(|status| {
            if status.state == state {
                return false;
            }
            let up = |state: &State| state.is_connected();
            if up(&status.state) != up(&state) {
                status.since = SystemTime::now();
                status.connections += u64::from(up(&state));
            }
            status.state = state;
            true
        });
    }

    fn lose(&self, reason: &str) {
        self.ready.send_replace(None);
        for (_, waiting) in self.waiting().drain() {
            // Whoever waited may have given up.
            let _ = waiting.send(Err(reason.to_owned()));
        }
    }

    fn take_reply(&self, delivery: &Delivery, seen: &mut Seen) {
        let queue = &delivery.routing_key;
        let reply =
            match crate::server::check(delivery).and_then(|()| Reply::decode(&delivery.data)) {
                Ok(reply) => reply,
                Err(error) => {
                    tracing::warn!(%queue, "a reply {error}; it is dropped");
                    return;
                }
            };
        if reply.unique.as_deref().is_some_and(|id| seen.again(id)) {
            tracing::debug!(call = reply.call, "a reply came twice");
            return;
        }
        // A sign of life of a server that is still at it.
        if !reply.ending {
            return;
        }
        match self.waiting().remove(&reply.call) {
            Some(waiting) => {
                let _ = waiting.send(Ok(reply.result));
            }
            None => tracing::debug!(call = reply.call, "a reply to a call that was given up"),
        }
    }
}

/// What ended a session.
enum Ended {
    Stopped,
    /// Why, and whether the connection was of use.
    Lost(String, bool),
}

async fn run(shared: Arc<Shared>) {
    let options = &shared.options;
    let mut stop = shared.stop.subscribe();
    let mut hosts = options.url.hosts.clone();
    fastrand::shuffle(&mut hosts);
    let mut rounds: u32 = 0;
    let mut said = String::new();
    let work = async {
        loop {
            if options.shuffle {
                fastrand::shuffle(&mut hosts);
            }
            let mut used = false;
            for _ in 0..hosts.len() {
                let Some(host) = hosts.first().cloned() else {
                    break;
                };
                // Whatever comes of it, the next try is the next one's.
                hosts.rotate_left(1);
                let reason = match Connection::open(&host, options).await {
                    Ok(connection) => match session(&shared, connection).await {
                        Ended::Stopped => return,
                        Ended::Lost(reason, of_use) => {
                            used = of_use;
                            format!("the connection to {host} is lost: {reason}")
                        }
                    },
                    Err(error) => error.to_string(),
                };
                shared.set_state(State::Connecting(Some(reason.clone())));
                if reason == said {
                    tracing::debug!("RabbitMQ: {reason}");
                } else {
                    tracing::warn!("RabbitMQ: {reason}");
                    said = reason;
                }
                if used {
                    break;
                }
            }
            // All clients of a broker that went lose it at the same moment.
            let pause = if used {
                said.clear();
                rounds = 0;
                options.retry.first.mul_f64(fastrand::f64())
            } else {
                let pause = options.retry.first + options.retry.step.saturating_mul(rounds);
                rounds = rounds.saturating_add(1);
                pause.min(options.retry.most).mul_f64(0.5 + fastrand::f64())
            };
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = work => {}
        // Between connections; a session looks for itself.
        () = stopped_while_idle(&shared, &mut stop) => {}
    }
    shared.lose("closed");
    shared.set_state(State::Closed);
}

async fn stopped_while_idle(shared: &Shared, stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
    let mut status = shared.status.subscribe();
    let _ = status.wait_for(|s| !s.state.is_connected()).await;
}

/// Uses a connection until it ends.
async fn session(shared: &Arc<Shared>, connection: Connection) -> Ended {
    let connection = Arc::new(connection);
    let publisher = Arc::new(Publisher::new(Arc::clone(&connection)));
    let mut events = Box::pin(connection.amqp.events_listener());
    let mut of_use = false;
    loop {
        let (replies, consumer) = match open_replies(&connection, &shared.options).await {
            Ok(opened) => opened,
            Err(error) => return Ended::Lost(error.to_string(), of_use),
        };
        shared.ready.send_replace(Some(Arc::new(Ready {
            connection: Arc::clone(&connection),
            publisher: Arc::clone(&publisher),
            replies,
        })));
        if !of_use {
            of_use = true;
            tracing::info!(broker = connection.host, "connected to RabbitMQ");
        }
        shared.set_state(State::Connected {
            host: connection.host.clone(),
            blocked: None,
        });
        let reason = listen(shared, &connection, consumer, &mut events).await;
        shared.lose(reason.as_deref().unwrap_or("closed"));
        let Some(reason) = reason else {
            connection.close().await;
            shared.set_state(State::Connecting(None));
            return Ended::Stopped;
        };
        if !connection.is_up() {
            return Ended::Lost(reason, of_use);
        }
        tracing::warn!("RabbitMQ: {reason}; making a new reply queue");
        tokio::time::sleep(REDECLARE).await;
    }
}

async fn open_replies(
    connection: &Connection,
    options: &Options,
) -> Result<(String, Consumer), Error> {
    let name = format!("reply_{}", unique::hex());
    let queue = Queue::Own(name.clone());
    declare::queue(connection, &queue, None, options).await?;
    let consumer = consume(connection, &name).await?;
    Ok((name, consumer))
}

/// Consumes from a queue of our own; what is delivered counts as taken.
pub(crate) async fn consume(connection: &Connection, queue: &str) -> Result<Consumer, Error> {
    let failed = |error: lapin::Error| Error::Declare {
        what: format!("consuming from {queue}"),
        cause: words(&error),
    };
    let channel = connection.amqp.create_channel().await.map_err(failed)?;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    channel
        .basic_consume(
            declare::short(queue)?,
            ShortString::default(),
            options,
            FieldTable::default(),
        )
        .await
        .map_err(failed)
}

/// Takes replies; returns why that ended, or nothing if it was told to.
async fn listen(
    shared: &Shared,
    connection: &Connection,
    mut consumer: Consumer,
    events: &mut (impl Stream<Item = Event> + Unpin),
) -> Option<String> {
    let mut stop = shared.stop.subscribe();
    let mut seen = Seen::default();
    let connected = |blocked| State::Connected {
        host: connection.host.clone(),
        blocked,
    };
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return None,
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(broker = connection.host, "RabbitMQ takes no messages: {reason}");
                    shared.set_state(connected(Some(reason)));
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::info!(broker = connection.host, "RabbitMQ takes messages again");
                    shared.set_state(connected(None));
                }
                Some(Event::Error(error)) if !connection.is_up() => return Some(words(&error)),
                Some(_) => {}
                None => return Some("it has ended".to_owned()),
            },
            delivery = consumer.next() => match delivery {
                Some(Ok(delivery)) => shared.take_reply(&delivery, &mut seen),
                Some(Err(error)) => return Some(words(&error)),
                None => return Some("the reply queue was deleted".to_owned()),
            },
        }
    }
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        Self::NotConnected {
            after: Duration::ZERO,
            cause: error.to_string(),
        }
    }
}
