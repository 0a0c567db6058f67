//! Everything that is published at a broker, as its own trace shows it
//! (<https://www.rabbitmq.com/docs/firehose>).
//!
//! So what stock Neutron says is counted without an agent that listens: to a
//! fanout exchange each agent of the cloud would have its own queue bound.

use std::time::Duration;

use lapin::{
    Connection, ConnectionProperties, Consumer,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use tokio_stream::StreamExt as _;

use super::Cloud;
use crate::{Error, Result};

const TRACE: &str = "amq.rabbitmq.trace";
/// After this without a message all have come.
const QUIET: Duration = Duration::from_millis(100);

/// A message.
pub(super) struct Published {
    /// Where it was published.
    pub(super) exchange: String,
    /// Of its body.
    pub(super) bytes: usize,
}

/// It ends with its connection.
pub(super) struct Firehose {
    _connection: Connection,
    consumer: Consumer,
}

impl Firehose {
    /// From now on.
    pub(super) async fn open(cloud: &Cloud<'_>) -> Result<Self> {
        cloud.rig.broker().control(&["trace_on"])?;
        let url = cloud.rig.transport_url();
        Self::listen(&url.replacen("rabbit://", "amqp://", 1))
            .await
            .map_err(|e| Error::Program(format!("the broker's trace: {e}")))
    }

    async fn listen(url: &str) -> std::result::Result<Self, lapin::Error> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = channel.queue_declare("trace".into(), options, FieldTable::default());
        let queue = queue.await?.name().clone();
        let bind = channel.queue_bind(
            queue.clone(),
            TRACE.into(),
            "publish.#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bind.await?;
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
        Ok(Self {
            consumer: consumer.await?,
            _connection: connection,
        })
    }

    /// What was published since it was last asked.
    pub(super) async fn drain(&mut self) -> Result<Vec<Published>> {
        let mut all = Vec::new();
        while let Ok(next) = tokio::time::timeout(QUIET, self.consumer.next()).await {
            let delivery = next
                .ok_or_else(|| Error::Program("the broker's trace has ended".to_owned()))?
                .map_err(|e| Error::Program(format!("the broker's trace: {e}")))?;
            let key = delivery.routing_key.as_str();
            all.push(Published {
                exchange: key.strip_prefix("publish.").unwrap_or(key).to_owned(),
                bytes: delivery.data.len(),
            });
        }
        Ok(all)
    }
}
