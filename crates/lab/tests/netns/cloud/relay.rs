//! Between Neutron and the agents, for casts: it loses, delays and repeats
//! them, and so they overtake each other.
//!
//! Each agent is given an exchange of its own instead of Neutron's
//! (`control_exchange`). What agents ask passes from there to Neutron's exchange,
//! by bindings in the broker; what Neutron casts is heard here and goes on to
//! each agent's exchange as chance has it, for each agent another way. After an
//! end of the broker all of this is made anew, as soon as it is back.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use l2isolate_lab::{netns, neutron::Rig};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind,
    message::Delivery,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ExchangeBindOptions, ExchangeDeclareOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::{FieldTable, ShortString},
};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio_stream::StreamExt as _;

const NEUTRON: &str = "neutron";
/// What agents call.
const TOPICS: [&str; 3] = ["q-plugin", "q-reports-plugin", "l2isolate"];
/// What is cast: any host, any group.
const CASTS: [&str; 3] = [
    "l2isolate-agent.#",
    "l2isolate-group.#",
    "l2isolate-address-group.#",
];
/// The longest delay: longer than an agent waits for what is missing.
const LATE: Duration = Duration::from_millis(1500);
/// Between tries to have a broker.
const AGAIN: Duration = Duration::from_millis(200);

/// What became of casts, each counted once for each agent.
#[derive(Debug, Default)]
pub(super) struct Counts {
    lost: AtomicUsize,
    late: AtomicUsize,
    repeated: AtomicUsize,
    passed: AtomicUsize,
}

impl Counts {
    /// Lost, late, repeated, and passed as they came.
    pub(super) fn all(&self) -> [usize; 4] {
        [&self.lost, &self.late, &self.repeated, &self.passed]
            .map(|count| count.load(Ordering::Relaxed))
    }
}

/// It ends when this is dropped; what is late by then is lost.
pub(super) struct Relay {
    pub(super) counts: Arc<Counts>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts one for these hosts' agents; all is in place when this returns.
    pub(super) fn start(rig: &Rig, hosts: &[String], seed: u64) -> Self {
        let counts = Arc::new(Counts::default());
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let work = Work {
            url: rig.transport_url().replacen("rabbit://", "amqp://", 1),
            exchanges: hosts.iter().map(|host| exchange(host)).collect(),
            dice: fastrand::Rng::with_seed(seed),
            counts: Arc::clone(&counts),
        };
        let namespace = rig.namespace().to_owned();
        let thread = std::thread::spawn(move || {
            let run = || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(work.run(ready, stopped));
            };
            netns::inside(&namespace, run).unwrap();
        });
        is_ready.recv().unwrap();
        Self {
            counts,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It may have ended by itself; then its panic was printed.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The exchange of a host's agent.
pub(super) fn exchange(host: &str) -> String {
    format!("unreliable-{host}")
}

struct Work {
    url: String,
    exchanges: Vec<String>,
    dice: fastrand::Rng,
    counts: Arc<Counts>,
}

impl Work {
    async fn run(mut self, ready: std::sync::mpsc::Sender<()>, mut stopped: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                // The broker has gone, or isn't there yet.
                _ = self.connected(&ready) => {}
                _ = &mut stopped => return,
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Until the broker has gone, which is the error.
    async fn connected(
        &mut self,
        ready: &std::sync::mpsc::Sender<()>,
    ) -> Result<Infallible, lapin::Error> {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(&self.url, properties).await?;
        let channel = connection.create_channel().await?;
        for name in self.exchanges.iter().map(String::as_str).chain([NEUTRON]) {
            declare(&channel, name).await?;
        }
        for (name, topic) in self
            .exchanges
            .iter()
            .flat_map(|name| TOPICS.map(|topic| (name, topic)))
        {
            let options = ExchangeBindOptions::default();
            let bind = channel.exchange_bind(
                NEUTRON.into(),
                name.as_str().into(),
                topic.into(),
                options,
                FieldTable::default(),
            );
            bind.await?;
        }
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = channel.queue_declare("relay".into(), options, FieldTable::default());
        let queue = queue.await?.name().clone();
        for key in CASTS {
            let options = QueueBindOptions::default();
            let bind = channel.queue_bind(
                queue.clone(),
                NEUTRON.into(),
                key.into(),
                options,
                FieldTable::default(),
            );
            bind.await?;
        }
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let consumer = channel.basic_consume(
            queue,
            ShortString::default(),
            options,
            FieldTable::default(),
        );
        let mut consumer = consumer.await?;
        // Nobody waits for it but the first time.
        let _ = ready.send(());
        loop {
            let delivery = consumer.next().await;
            let gone = || lapin::Error::from(std::io::Error::other("its queue has gone"));
            self.pass(&channel, &delivery.ok_or_else(gone)??);
        }
    }

    /// One cast: what becomes of it for each agent.
    fn pass(&mut self, channel: &Channel, delivery: &Delivery) {
        for exchange in &self.exchanges {
            let chance = self.dice.f64();
            let count = |count: &AtomicUsize| {
                count.fetch_add(1, Ordering::Relaxed);
            };
            let mut late = || LATE.mul_f64(self.dice.f64());
            let delays = if chance < 0.25 {
                count(&self.counts.lost);
                vec![]
            } else if chance < 0.50 {
                count(&self.counts.late);
                vec![late()]
            } else if chance < 0.75 {
                count(&self.counts.repeated);
                vec![Duration::ZERO, late()]
            } else {
                count(&self.counts.passed);
                vec![Duration::ZERO]
            };
            for (number, delay) in delays.into_iter().enumerate() {
                // What the broker gives out again has the same id, what a server
                // says again has not.
                let anew = number > 0 && self.dice.bool();
                let body = if anew {
                    renamed(&delivery.data, self.dice.u128(..))
                } else {
                    delivery.data.clone()
                };
                let send = send(
                    channel.clone(),
                    exchange.clone(),
                    delivery.routing_key.clone(),
                    delivery.properties.clone(),
                    body,
                );
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    send.await;
                });
            }
        }
    }
}

async fn declare(channel: &Channel, name: &str) -> Result<(), lapin::Error> {
    let options = ExchangeDeclareOptions::default();
    let declare = channel.exchange_declare(
        name.into(),
        ExchangeKind::Topic,
        options,
        FieldTable::default(),
    );
    declare.await
}

async fn send(
    channel: Channel,
    exchange: String,
    key: ShortString,
    properties: BasicProperties,
    body: Vec<u8>,
) {
    let options = BasicPublishOptions::default();
    let publish = channel.basic_publish(exchange.into(), key, options, &body, properties);
    // With the connection goes what is late.
    let _ = publish.await;
}

/// The same message under another id.
fn renamed(body: &[u8], id: u128) -> Vec<u8> {
    let mut envelope: BTreeMap<String, Value> = serde_json::from_slice(body).unwrap();
    let message = envelope.get_mut("oslo.message").unwrap();
    let mut inner: Value = serde_json::from_str(message.as_str().unwrap()).unwrap();
    inner["_unique_id"] = format!("{id:032x}").into();
    *message = inner.to_string().into();
    serde_json::to_vec(&envelope).unwrap()
}
