//! Serves a topic: queues, requests, replies.
//!
//! As in Python, a request is acknowledged before it is dispatched: it is
//! executed at most once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lapin::{
    Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::StreamExt as _;

use crate::{
    Dispatcher, Error, MessageError, RemoteError, Request, Transport,
    declare::{self, Exchange, Queue},
    error::words,
    message::{Incoming, Reply, ReplyTo},
    publisher::{Destination, Sent},
    transport::{Ready, consume},
    unique::{self, Seen},
};

/// Before queues are made anew that were deleted, or that can't be had.
const REDECLARE: Duration = Duration::from_secs(1);
/// Between tries to send a reply whose queue isn't there.
const REPLY_PAUSE: Duration = Duration::from_millis(250);
/// How long a reply queue that stayed away counts as gone.
const REPLY_GONE: Duration = Duration::from_secs(60);

/// What a server listens to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The exchange (`control_exchange`); none: the transport's.
    pub exchange: Option<String>,
    /// The topic.
    pub topic: String,
    /// The name under which it is addressed alone (`TOPIC.NAME`); none: it
    /// isn't. No two servers of a topic have one name.
    pub server: Option<String>,
    /// Whether it takes its share of what is for any server.
    pub shared: bool,
    /// Whether it takes what is for all servers.
    pub fanout: bool,
}

impl Listen {
    /// Everything, as servers in Python do.
    #[must_use]
    pub fn new(topic: &str, server: &str) -> Self {
        Self {
            exchange: None,
            topic: topic.to_owned(),
            server: Some(server.to_owned()),
            shared: true,
            fanout: true,
        }
    }

    /// Only what is for this server alone.
    #[must_use]
    pub fn directed(topic: &str, server: &str) -> Self {
        Self {
            shared: false,
            fanout: false,
            ..Self::new(topic, server)
        }
    }

    /// Only what is for all.
    #[must_use]
    pub fn fanout(topic: &str) -> Self {
        Self {
            exchange: None,
            topic: topic.to_owned(),
            server: None,
            shared: false,
            fanout: true,
        }
    }
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    listening: watch::Receiver<bool>,
    permits: Arc<Semaphore>,
    workers: u32,
}

impl Server {
    pub(crate) fn start(transport: Transport, listen: Listen, dispatcher: Dispatcher) -> Self {
        let stop = watch::Sender::new(false);
        let (listening_sender, listening) = watch::channel(false);
        let workers = transport.shared().options.workers.clamp(1, 10_000);
        let permits = Arc::new(Semaphore::new(workers));
        let worker = Worker {
            transport,
            listen,
            dispatcher: Arc::new(dispatcher),
            permits: Arc::clone(&permits),
            seen: Seen::default(),
            gone: Arc::default(),
        };
        tokio::spawn(worker.run(stop.subscribe(), listening_sender));
        Self {
            stop,
            listening,
            permits,
            workers: u32::try_from(workers).unwrap_or(u32::MAX),
        }
    }

    /// Waits until its queues are there and messages for it can't be lost.
    pub async fn listening(&self) {
        // Its sender goes only with the server.
        let _ = self
            .listening
            .clone()
            .wait_for(|listening| *listening)
            .await;
    }

    /// Takes no more requests, and waits for those at hand.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let mut listening = self.listening.clone();
        let _ = listening.wait_for(|listening| !*listening).await;
        // Only fails if somebody closed it, and nobody does.
        let _ = self.permits.acquire_many(self.workers).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

struct Worker {
    transport: Transport,
    listen: Listen,
    dispatcher: Arc<Dispatcher>,
    permits: Arc<Semaphore>,
    seen: Seen,
    /// Reply queues that stayed away, and since when.
    gone: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Worker {
    async fn run(mut self, mut stop: watch::Receiver<bool>, listening: watch::Sender<bool>) {
        let mut said = String::new();
        loop {
            let shared = Arc::clone(self.transport.shared());
            let ready = tokio::select! {
                ready = shared.ready() => ready,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let Ok(ready) = ready else { break };
            let result = tokio::select! {
                result = self.serve(&ready, &listening) => result,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            listening.send_replace(false);
            if !ready.connection.is_up() {
                shared.gone(&ready).await;
                said.clear();
                continue;
            }
            let topic = &self.listen.topic;
            let reason = match result {
                Ok(()) => "a queue was deleted".to_owned(),
                Err(error) => error.to_string(),
            };
            if reason != said {
                tracing::warn!(topic, "listening ended: {reason}; trying again");
                said = reason;
            }
            tokio::time::sleep(REDECLARE).await;
        }
        listening.send_replace(false);
    }

    /// Listens on a connection until something ends that.
    async fn serve(
        &mut self,
        ready: &Arc<Ready>,
        listening: &watch::Sender<bool>,
    ) -> Result<(), Error> {
        let connection = &ready.connection;
        let (sender, mut deliveries) = mpsc::channel(1);
        let consumers = self.consumers(ready).await?;
        let mut tasks = tokio::task::JoinSet::new();
        for (consumer, acknowledge) in consumers {
            tasks.spawn(forward(consumer, acknowledge, sender.clone()));
        }
        drop(sender);
        listening.send_replace(true);
        tracing::debug!(
            topic = self.listen.topic,
            broker = connection.host,
            "listening"
        );
        while let Some(delivery) = deliveries.recv().await {
            match delivery {
                Some(Ok((delivery, acknowledge))) => self.take(delivery, acknowledge).await,
                Some(Err(error)) => {
                    return Err(Error::Declare {
                        what: "a queue".to_owned(),
                        cause: words(&error),
                    });
                }
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Consumers, and whether what they deliver is to be acknowledged.
    async fn consumers(&self, ready: &Ready) -> Result<Vec<(Consumer, bool)>, Error> {
        let connection = &ready.connection;
        let options = &self.transport.shared().options;
        let Listen {
            exchange,
            topic,
            server,
            shared,
            fanout,
        } = &self.listen;
        let exchange = exchange.as_ref().unwrap_or(&options.exchange);
        let topics = Exchange::Topics(exchange.clone());
        let mut consumers = Vec::new();
        if *shared || server.is_some() {
            declare::exchange(connection, &topics, options).await?;
        }
        // What is for everybody comes last: once it is there, all is.
        if let Some(server) = server {
            let name = format!("{topic}.{server}");
            let queue = Queue::Own(name.clone());
            declare::queue(connection, &queue, Some((&topics, &name)), options).await?;
            consumers.push((consume(connection, &name).await?, false));
        }
        if *fanout {
            let exchange = Exchange::fanout(topic);
            declare::exchange(connection, &exchange, options).await?;
            let name = format!("{topic}_fanout_{}", unique::hex());
            let queue = Queue::Own(name.clone());
            declare::queue(connection, &queue, Some((&exchange, topic)), options).await?;
            consumers.push((consume(connection, &name).await?, false));
        }
        if *shared {
            let queue = Queue::Shared(topic.clone());
            declare::queue(connection, &queue, Some((&topics, topic)), options).await?;
            consumers.push((self.consume_share(ready).await?, true));
        }
        Ok(consumers)
    }

    /// Consumes from the queue that is for any server, no more at once than can
    /// be worked on: the rest is for the others.
    async fn consume_share(&self, ready: &Ready) -> Result<Consumer, Error> {
        let failed = |error: lapin::Error| Error::Declare {
            what: format!("consuming from {}", self.listen.topic),
            cause: words(&error),
        };
        let workers = self.transport.shared().options.workers;
        let channel = ready
            .connection
            .amqp
            .create_channel()
            .await
            .map_err(failed)?;
        let prefetch = u16::try_from(workers).unwrap_or(u16::MAX);
        channel
            .basic_qos(prefetch, BasicQosOptions::default())
            .await
            .map_err(failed)?;
        channel
            .basic_consume(
                declare::short(&self.listen.topic)?,
                ShortString::default(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(failed)
    }

    /// Takes a request on; waits while all workers are busy.
    async fn take(&mut self, delivery: Delivery, acknowledge: bool) {
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return;
        };
        if acknowledge && let Err(error) = delivery.ack(BasicAckOptions::default()).await {
            // It comes again, here or elsewhere.
            tracing::debug!(%error, "a request can't be acknowledged");
            return;
        }
        let topic = &self.listen.topic;
        let incoming = match check(&delivery).and_then(|()| Incoming::decode(&delivery.data)) {
            Ok(incoming) => incoming,
            Err(error) => {
                let start = delivery.data.get(..120).unwrap_or(&delivery.data);
                let start = String::from_utf8_lossy(start);
                tracing::warn!(topic, %start, "a message {error}; it is dropped");
                return;
            }
        };
        if incoming
            .unique
            .as_deref()
            .is_some_and(|id| self.seen.again(id))
        {
            tracing::debug!(topic, method = incoming.method, "a message came twice");
            return;
        }
        tokio::spawn(work(
            self.transport.clone(),
            Arc::clone(&self.dispatcher),
            Arc::clone(&self.gone),
            topic.clone(),
            incoming,
            permit,
        ));
    }
}

/// A request and whether it is to be acknowledged, or why there won't be any more.
type Forwarded = Option<Result<(Delivery, bool), lapin::Error>>;

async fn forward(mut consumer: Consumer, acknowledge: bool, sender: mpsc::Sender<Forwarded>) {
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery.map(|delivery| (delivery, acknowledge));
        if sender.send(Some(delivery)).await.is_err() {
            return;
        }
    }
    // Cancelled by the broker. Nobody hears it who doesn't listen any more.
    let _ = sender.send(None).await;
}

/// What of a message's properties makes it unreadable.
pub(crate) fn check(delivery: &Delivery) -> Result<(), MessageError> {
    let headers = delivery.properties.headers().as_ref();
    let compression = headers.and_then(|headers| headers.inner().get("compression"));
    compression.map_or(Ok(()), |kind| {
        Err(MessageError::Compressed(
            kind.as_long_string()
                .map_or_else(String::new, ToString::to_string),
        ))
    })
}

async fn work(
    transport: Transport,
    dispatcher: Arc<Dispatcher>,
    gone: Arc<Mutex<HashMap<String, Instant>>>,
    topic: String,
    incoming: Incoming,
    permit: OwnedSemaphorePermit,
) {
    let Incoming {
        context,
        method,
        arguments,
        version,
        namespace,
        reply,
        ..
    } = incoming;
    let request = Request {
        context,
        method: method.clone(),
        arguments,
        version,
        call: reply.is_some(),
    };
    let result = match dispatcher.find(namespace.as_deref(), version, &method) {
        Ok(handler) => {
            // In a task of its own, so that a panic is an answer as well.
            let answer = tokio::spawn(handler(request));
            let answer = keep_alive(&transport, reply.as_ref(), answer).await;
            answer.unwrap_or_else(|_| {
                Err(RemoteError::new(
                    "builtins",
                    "RuntimeError",
                    "the method panicked",
                ))
            })
        }
        Err(error) => Err(error),
    };
    if let Err(error) = &result {
        tracing::info!(topic, method, %error, "a request failed");
    }
    // The next request needn't wait until a reply queue is back.
    drop(permit);
    if let Some(to) = reply {
        let reply = Reply {
            call: to.call,
            unique: None,
            ending: true,
            result,
        };
        if let Err(error) = answer(&transport, &gone, &to.queue, &reply).await {
            tracing::warn!(topic, method, queue = to.queue, "a reply is lost: {error}");
        }
    }
}

/// Tells the caller now and then that its call is being worked on, if it wants
/// to know.
async fn keep_alive<T>(
    transport: &Transport,
    reply: Option<&ReplyTo>,
    mut answer: tokio::task::JoinHandle<T>,
) -> Result<T, tokio::task::JoinError> {
    let monitored = reply.and_then(|to| Some((to, to.monitor?)));
    let Some((to, seconds)) = monitored else {
        return answer.await;
    };
    let half = Duration::try_from_secs_f64(seconds / 2.0).unwrap_or(Duration::MAX);
    loop {
        tokio::select! {
            result = &mut answer => return result,
            () = tokio::time::sleep(half.max(Duration::from_millis(100))) => {
                let reply = Reply {
                    call: to.call.clone(),
                    unique: None,
                    ending: false,
                    result: Ok(serde_json::Value::Null),
                };
                // Only a sign of life: the next one may get through.
                let _ = send(transport, &to.queue, &reply).await;
            }
        }
    }
}

/// Sends a reply; tries again for a while if its queue is away, since clients
/// make theirs anew when they have lost the broker.
async fn answer(
    transport: &Transport,
    gone: &Mutex<HashMap<String, Instant>>,
    queue: &str,
    reply: &Reply,
) -> Result<(), Error> {
    let limit = transport.shared().options.reply_retry;
    let known = {
        let mut gone = gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.retain(|_, since| since.elapsed() < REPLY_GONE);
        gone.contains_key(queue)
    };
    let start = Instant::now();
    loop {
        let no_queue = Error::NoServer {
            exchange: "(default)".to_owned(),
            key: queue.to_owned(),
        };
        let error = match send(transport, queue, reply).await {
            Ok(Sent::Taken) => return Ok(()),
            Ok(Sent::Returned) if known => return Err(no_queue),
            Ok(Sent::Returned) => no_queue,
            Err(error) if !error.is_transient() => return Err(error),
            Err(error) => error,
        };
        if start.elapsed() >= limit {
            let mut gone = gone.lock().unwrap_or_else(PoisonError::into_inner);
            gone.insert(queue.to_owned(), Instant::now());
            return Err(error);
        }
        tokio::time::sleep(REPLY_PAUSE).await;
    }
}

async fn send(transport: &Transport, queue: &str, reply: &Reply) -> Result<Sent, Error> {
    let shared = transport.shared();
    let ready = shared.ready().await?;
    let destination = Destination {
        exchange: &Exchange::Default,
        key: queue,
        mandatory: true,
        expires: None,
    };
    declare::short(queue)?;
    let body = reply.encode(&unique::hex())?;
    ready
        .publisher
        .send(&destination, &body, &shared.options)
        .await
}
