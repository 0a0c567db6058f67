//! Exchanges and queues: found as they are, or made.
//!
//! RabbitMQ refuses to declare what is there with other properties (406), and
//! who declared first can't be known: the server's options may be others than
//! ours. So what is there is taken as it is, and only what isn't is made.

use lapin::{
    Channel, ErrorKind, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::{Error, connection::Connection, error::words, options::Options};

/// A name for RabbitMQ, which takes 255 bytes.
pub(crate) fn short(name: &str) -> Result<ShortString, Error> {
    ShortString::try_new(name).map_err(|_| Error::LongName(name.to_owned()))
}

/// An exchange.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Exchange {
    /// RabbitMQ's own, by queue names.
    Default,
    /// The one of topics.
    Topics(String),
    /// The one of a topic's fanouts.
    Fanout(String),
}

impl Exchange {
    /// The exchange of a topic's fanouts.
    pub(crate) fn fanout(topic: &str) -> Self {
        Self::Fanout(format!("{topic}_fanout"))
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Default => "",
            Self::Topics(name) | Self::Fanout(name) => name,
        }
    }
}

pub(crate) fn soft(error: &lapin::Error) -> Option<AMQPSoftError> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(soft) => Some(soft.clone()),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}

fn failed(what: String, error: &lapin::Error, connection: &Connection) -> Error {
    let advice = match soft(error) {
        Some(AMQPSoftError::ACCESSREFUSED) => {
            "; the user lacks a right (`rabbitmqctl list_user_permissions`)"
        }
        Some(AMQPSoftError::PRECONDITIONFAILED) => {
            "; it exists with other properties: delete it while nobody uses it, or see which \
             program makes it (`rabbitmqctl list_exchanges name type durable auto_delete`)"
        }
        Some(AMQPSoftError::RESOURCELOCKED) => {
            "; another connection has it for itself: does another process use the same name?"
        }
        _ => "",
    };
    if soft(error).is_none() && !connection.is_up() {
        return Error::NotConnected {
            after: std::time::Duration::ZERO,
            cause: words(error),
        };
    }
    Error::Declare {
        what,
        cause: format!("{}{advice}", words(error)),
    }
}

async fn channel(connection: &Connection) -> Result<Channel, Error> {
    let channel = connection.amqp.create_channel().await;
    channel.map_err(|error| failed("a channel".to_owned(), &error, connection))
}

/// Sees to it that an exchange is there.
pub(crate) async fn exchange(
    connection: &Connection,
    exchange: &Exchange,
    options: &Options,
) -> Result<(), Error> {
    let (kind, durable, auto_delete) = match exchange {
        Exchange::Default => return Ok(()),
        Exchange::Topics(_) => (ExchangeKind::Topic, options.durable, options.auto_delete),
        Exchange::Fanout(_) => (ExchangeKind::Fanout, options.durable_fanout, true),
    };
    let name = short(exchange.name())?;
    let passive = ExchangeDeclareOptions {
        passive: true,
        ..ExchangeDeclareOptions::default()
    };
    let make = |durable| ExchangeDeclareOptions {
        durable,
        auto_delete,
        ..ExchangeDeclareOptions::default()
    };
    // Each failure takes its channel along.
    let attempts = [passive, make(durable), make(!durable)];
    let mut last = None;
    for attempt in attempts {
        let channel = channel(connection).await?;
        let declared =
            channel.exchange_declare(name.clone(), kind.clone(), attempt, FieldTable::default());
        match declared.await {
            Ok(()) => return Ok(()),
            Err(error) => {
                let again = matches!(
                    soft(&error),
                    Some(AMQPSoftError::NOTFOUND | AMQPSoftError::PRECONDITIONFAILED)
                );
                // Between two attempts somebody else may have made it.
                last = Some(error);
                if !again {
                    break;
                }
            }
        }
    }
    let what = format!("exchange {}", exchange.name());
    Err(last.map_or(Error::Closed, |error| failed(what, &error, connection)))
}

/// A queue to consume from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Queue {
    /// One that all servers of a topic share, named as the topic.
    Shared(String),
    /// One that belongs to this connection and goes with it. RabbitMQ 4.3
    /// refuses queues that are neither durable nor exclusive.
    Own(String),
    /// As [`Self::Own`], but it holds no more than so many messages: the oldest
    /// go first.
    Inbox { name: String, limit: u32 },
}

impl Queue {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Shared(name) | Self::Own(name) | Self::Inbox { name, .. } => name,
        }
    }
}

/// Sees to it that a queue is there, and binds it if it shall be bound.
pub(crate) async fn queue(
    connection: &Connection,
    queue: &Queue,
    binding: Option<(&Exchange, &str)>,
    options: &Options,
) -> Result<(), Error> {
    let name = short(queue.name())?;
    let attempts: Vec<(QueueDeclareOptions, FieldTable)> = match queue {
        Queue::Own(_) | Queue::Inbox { .. } => {
            let own = QueueDeclareOptions {
                exclusive: true,
                auto_delete: true,
                ..QueueDeclareOptions::default()
            };
            let mut arguments = FieldTable::default();
            if let Queue::Inbox { limit, .. } = queue {
                arguments.insert(
                    "x-max-length".into(),
                    AMQPValue::LongLongInt((*limit).into()),
                );
            }
            vec![(own, arguments)]
        }
        Queue::Shared(_) => {
            let passive = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let make = QueueDeclareOptions {
                durable: options.durable,
                auto_delete: options.auto_delete,
                ..QueueDeclareOptions::default()
            };
            let mut arguments = FieldTable::default();
            if options.quorum {
                arguments.insert(
                    "x-queue-type".into(),
                    AMQPValue::LongString("quorum".into()),
                );
            }
            vec![
                (passive, FieldTable::default()),
                (make, arguments),
                (passive, FieldTable::default()),
            ]
        }
    };
    let what = || format!("queue {}", queue.name());
    let mut last = None;
    for (attempt, arguments) in attempts {
        let channel = channel(connection).await?;
        match channel
            .queue_declare(name.clone(), attempt, arguments)
            .await
        {
            Ok(_) => {
                let Some((exchange, key)) = binding else {
                    return Ok(());
                };
                let bound = channel.queue_bind(
                    name,
                    short(exchange.name())?,
                    short(key)?,
                    QueueBindOptions::default(),
                    FieldTable::default(),
                );
                return bound
                    .await
                    .map_err(|error| failed(what(), &error, connection));
            }
            Err(error) => {
                let again = matches!(
                    soft(&error),
                    Some(AMQPSoftError::NOTFOUND | AMQPSoftError::PRECONDITIONFAILED)
                );
                last = Some(error);
                if !again {
                    break;
                }
            }
        }
    }
    Err(last.map_or(Error::Closed, |error| failed(what(), &error, connection)))
}
