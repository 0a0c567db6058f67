//! Sends messages over a connection, each confirmed by the broker.

use std::{collections::HashSet, sync::Arc};

use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    protocol::AMQPSoftError,
    types::FieldTable,
};
use tokio::sync::Mutex;

use crate::{
    Error,
    connection::Connection,
    declare::{self, Exchange, short},
    error::words,
    options::Options,
};

/// Where a message goes, and how.
#[derive(Debug)]
pub(crate) struct Destination<'a> {
    pub(crate) exchange: &'a Exchange,
    pub(crate) key: &'a str,
    /// The broker gives it back if no queue takes it.
    pub(crate) mandatory: bool,
    /// After so many milliseconds a queue drops it; none: never.
    pub(crate) expires: Option<u64>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The broker has it.
    Taken,
    /// No queue takes it.
    Returned,
}

/// The sending end of a connection.
#[derive(Debug)]
pub(crate) struct Publisher {
    connection: Arc<Connection>,
    /// One message at a time is on its way: what the broker gives back, it
    /// gives back before its confirmation, and only so is it clear whose it is.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    channel: Option<Channel>,
    /// Exchanges that were there.
    exchanges: HashSet<Exchange>,
}

impl Publisher {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self {
            connection,
            state: Mutex::default(),
        }
    }

    /// Sends a message and waits until the broker has it. If this is dropped
    /// before, the message may or may not have been sent.
    pub(crate) async fn send(
        &self,
        to: &Destination<'_>,
        body: &[u8],
        options: &Options,
    ) -> Result<Sent, Error> {
        let mut state = self.state.lock().await;
        let mut again = true;
        loop {
            if !state.exchanges.contains(to.exchange) {
                declare::exchange(&self.connection, to.exchange, options).await?;
                state.exchanges.insert(to.exchange.clone());
            }
            // Out of the state while it is in use: one that was left with a
            // message on its way isn't used again.
            let channel = match state.channel.take() {
                Some(channel) if channel.status().connected() => channel,
                _ => self.channel().await?,
            };
            match publish(&channel, to, body).await {
                Ok(sent) => {
                    state.channel = Some(channel);
                    return Ok(sent);
                }
                // An exchange that goes with its last queue, as those of
                // fanouts, may have gone since.
                Err(error) if again && declare::soft(&error) == Some(AMQPSoftError::NOTFOUND) => {
                    state.exchanges.remove(to.exchange);
                    again = false;
                }
                Err(error) => return Err(self.failed(to, &error)),
            }
        }
    }

    async fn channel(&self) -> Result<Channel, Error> {
        let open = async {
            let channel = self.connection.amqp.create_channel().await?;
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            Ok(channel)
        };
        open.await.map_err(|error: lapin::Error| Error::Declare {
            what: "a channel".to_owned(),
            cause: words(&error),
        })
    }

    fn failed(&self, to: &Destination<'_>, error: &lapin::Error) -> Error {
        Error::Publish {
            exchange: to.exchange.name().to_owned(),
            cause: words(error),
        }
    }
}

async fn publish(
    channel: &Channel,
    to: &Destination<'_>,
    body: &[u8],
) -> Result<Sent, lapin::Error> {
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        // Durable queues keep it over the broker's restart.
        .with_delivery_mode(2)
        .with_priority(0)
        .with_headers(FieldTable::default());
    if let Some(milliseconds) = to.expires {
        properties = properties.with_expiration(milliseconds.to_string().into());
    }
    let options = BasicPublishOptions {
        mandatory: to.mandatory,
        ..BasicPublishOptions::default()
    };
    // Both were short when the exchange was declared or the topic was taken.
    let name = |name: &str| short(name).map_err(|e| lapin::Error::from(std::io::Error::other(e)));
    let confirmation = channel
        .basic_publish(
            name(to.exchange.name())?,
            name(to.key)?,
            options,
            body,
            properties,
        )
        .await?
        .await?;
    match confirmation {
        Confirmation::Ack(None) | Confirmation::NotRequested => Ok(Sent::Taken),
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Ok(Sent::Returned),
        Confirmation::Nack(None) => Err(std::io::Error::other(
            "RabbitMQ couldn't store it (a queue's limit, or its disk)",
        )
        .into()),
    }
}
