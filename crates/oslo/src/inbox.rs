//! One queue of one's own for casts by routing key, where the keys change.
//!
//! Unlike a [`Server`](crate::Server), which listens to topics that are known
//! from the start and works on many requests at once, this hands casts on in the
//! order in which they came, and says to which keys it is bound: what is sent to
//! these from then on isn't missed, so whoever then looks at the state of things
//! has everything.
//!
//! What can break it: a connection that is lost takes the queue along; the next
//! one has another [`Bound::queue`], and what was sent in between is lost. A
//! queue that is full loses its oldest messages.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use lapin::{
    Channel,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions},
    types::{FieldTable, ShortString},
};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;

use crate::{
    Error, Transport, Version,
    connection::Connection,
    declare::{self, Exchange, Queue},
    error::words,
    message::Incoming,
    server::check,
    unique::{self, Seen},
};

/// Before a queue is made anew that was deleted, or that can't be had.
const REDECLARE: Duration = Duration::from_secs(1);
/// So many casts are on their way at most; the broker keeps the others.
const PREFETCH: u16 = 200;

/// What a queue is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Which queue, counted from 1: with another one, casts may be lost.
    pub queue: u64,
    /// The routing keys.
    pub keys: Arc<BTreeSet<String>>,
}

/// A message to which nobody expects an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Cast {
    /// The routing key by which it came.
    pub key: String,
    /// The method.
    pub method: String,
    /// Its arguments, all by name.
    pub arguments: Map<String, Value>,
    /// The version that the sender needs.
    pub version: Version,
    /// How large the message was.
    pub bytes: usize,
}

/// A queue; it ends when this is dropped.
#[derive(Debug)]
pub struct Inbox {
    keys: watch::Sender<Arc<BTreeSet<String>>>,
    bound: watch::Receiver<Option<Bound>>,
}

impl Inbox {
    /// Binds the queue to these keys and no others, soon.
    pub fn set_keys(&self, keys: Arc<BTreeSet<String>>) {
        self.keys.send_if_modified(|now| {
            let other = *now != keys;
            *now = keys;
            other
        });
    }

    /// What it is bound to, and whenever that changes; none: there is no queue.
    #[must_use]
    pub fn bound(&self) -> watch::Receiver<Option<Bound>> {
        self.bound.clone()
    }

    /// Starts one, in a task of the current tokio runtime.
    pub(crate) fn start(
        transport: Transport,
        name: &str,
        limit: u32,
        keys: BTreeSet<String>,
    ) -> (Self, mpsc::Receiver<Cast>) {
        let (keys, wanted) = watch::channel(Arc::new(keys));
        let (sender, bound) = watch::channel(None);
        let (casts, receiver) = mpsc::channel(usize::from(PREFETCH));
        let worker = Worker {
            transport,
            name: name.to_owned(),
            limit,
            wanted,
            bound: sender,
            casts,
            queues: 0,
            seen: Seen::default(),
        };
        tokio::spawn(worker.run());
        (Self { keys, bound }, receiver)
    }
}

struct Worker {
    transport: Transport,
    name: String,
    limit: u32,
    wanted: watch::Receiver<Arc<BTreeSet<String>>>,
    bound: watch::Sender<Option<Bound>>,
    casts: mpsc::Sender<Cast>,
    queues: u64,
    seen: Seen,
}

impl Worker {
    async fn run(mut self) {
        let mut said = String::new();
        let gone = self.bound.clone();
        loop {
            let shared = Arc::clone(self.transport.shared());
            let ready = tokio::select! {
                ready = shared.ready() => ready,
                () = gone.closed() => return,
            };
            let Ok(ready) = ready else { return };
            let result = tokio::select! {
                result = self.listen(&ready.connection) => result,
                () = gone.closed() => return,
            };
            self.bound.send_replace(None);
            let reason = match result {
                // Nobody is there any more.
                Ok(()) => return,
                Err(error) => error.to_string(),
            };
            if !ready.connection.is_up() {
                tokio::select! {
                    () = shared.gone(&ready) => {}
                    () = gone.closed() => return,
                }
                said.clear();
                continue;
            }
            if reason != said {
                tracing::warn!(
                    queue = self.name,
                    "no casts can be had: {reason}; trying again"
                );
                said = reason;
            }
            tokio::time::sleep(REDECLARE).await;
        }
    }

    /// Listens on a connection until that ends, or nobody wants to hear.
    async fn listen(&mut self, connection: &Connection) -> Result<(), Error> {
        let options = &self.transport.shared().options;
        let exchange = Exchange::Topics(options.exchange.clone());
        declare::exchange(connection, &exchange, options).await?;
        let queue = Queue::Inbox {
            name: format!("{}_{}", self.name, unique::hex()),
            limit: self.limit,
        };
        declare::queue(connection, &queue, None, options).await?;
        let name = declare::short(queue.name())?;
        let failed = |error: lapin::Error| Error::Declare {
            what: format!("queue {name}"),
            cause: words(&error),
        };
        let channel = connection.amqp.create_channel().await.map_err(failed)?;
        let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
        qos.await.map_err(failed)?;
        let consumer = channel.basic_consume(
            name.clone(),
            ShortString::default(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let mut consumer = consumer.await.map_err(failed)?;
        self.queues += 1;
        let mut bound = Arc::default();
        loop {
            let wanted = Arc::clone(&self.wanted.borrow_and_update());
            bind(&channel, &name, &exchange, &bound, &wanted).await?;
            bound = Arc::clone(&wanted);
            self.bound.send_replace(Some(Bound {
                queue: self.queues,
                keys: wanted,
            }));
            loop {
                tokio::select! {
                    changed = self.wanted.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return Ok(()),
                    },
                    delivery = consumer.next() => match delivery {
                        Some(Ok(delivery)) => if !self.take(delivery).await.map_err(failed)? {
                            return Ok(());
                        },
                        Some(Err(error)) => return Err(failed(error)),
                        None => return Err(Error::Declare {
                            what: format!("queue {name}"),
                            cause: "it was deleted".to_owned(),
                        }),
                    },
                }
            }
        }
    }

    /// Hands a cast on; returns whether anybody wants to hear more.
    async fn take(&mut self, delivery: Delivery) -> Result<bool, lapin::Error> {
        delivery.ack(BasicAckOptions::default()).await?;
        let key = delivery.routing_key.to_string();
        let incoming = match check(&delivery).and_then(|()| Incoming::decode(&delivery.data)) {
            Ok(incoming) => incoming,
            Err(error) => {
                tracing::warn!(key, "a message {error}; it is dropped");
                return Ok(true);
            }
        };
        let unique = incoming.unique.as_deref();
        if unique.is_some_and(|id| self.seen.again(id)) {
            tracing::debug!(key, method = incoming.method, "a message came twice");
            return Ok(true);
        }
        let cast = Cast {
            key,
            method: incoming.method,
            arguments: incoming.arguments,
            version: incoming.version,
            bytes: delivery.data.len(),
        };
        Ok(self.casts.send(cast).await.is_ok())
    }
}

/// Makes the bindings those that are wanted.
async fn bind(
    channel: &Channel,
    queue: &ShortString,
    exchange: &Exchange,
    bound: &BTreeSet<String>,
    wanted: &BTreeSet<String>,
) -> Result<(), Error> {
    let exchange = declare::short(exchange.name())?;
    let failed = |key: &str, error: &lapin::Error| Error::Declare {
        what: format!("queue {queue} at {key}"),
        cause: words(error),
    };
    for key in wanted.difference(bound) {
        let options = QueueBindOptions::default();
        let (queue, exchange) = (queue.clone(), exchange.clone());
        let bind = channel.queue_bind(
            queue,
            exchange,
            declare::short(key)?,
            options,
            FieldTable::default(),
        );
        bind.await.map_err(|error| failed(key, &error))?;
    }
    for key in bound.difference(wanted) {
        let (queue, exchange) = (queue.clone(), exchange.clone());
        let unbind =
            channel.queue_unbind(queue, exchange, declare::short(key)?, FieldTable::default());
        unbind.await.map_err(|error| failed(key, &error))?;
    }
    Ok(())
}
