//! What can go wrong, and what to do about it.

use std::time::Duration;

use crate::{MessageError, RemoteError};

/// Why a broker can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No connection comes about.
    #[error(
        "{host} can't be reached: {cause}; see that RabbitMQ runs there and that \
         transport_url has its address and port"
    )]
    Unreachable {
        /// Name and port.
        host: String,
        /// The system's words.
        cause: String,
    },
    /// Somebody is there, but doesn't speak as expected.
    #[error("{host} doesn't answer as RabbitMQ does: {cause}; {advice}")]
    Silent {
        /// Name and port.
        host: String,
        /// What happened instead.
        cause: String,
        /// What may be the reason.
        advice: &'static str,
    },
    /// TLS isn't agreed on.
    #[error("{host}: TLS: {cause}")]
    Tls {
        /// Name and port.
        host: String,
        /// Why, with what to look at.
        cause: String,
    },
    /// User or password.
    #[error(
        "{host} refuses user `{user}`: wrong user or password in transport_url \
         (RabbitMQ says: {cause})"
    )]
    Credentials {
        /// Name and port.
        host: String,
        /// Who.
        user: String,
        /// RabbitMQ's words.
        cause: String,
    },
    /// The virtual host isn't there, or isn't for this user.
    #[error(
        "{host}: user `{user}` can't use virtual host `{vhost}`; see the end of transport_url, \
         `rabbitmqctl list_vhosts` and `rabbitmqctl list_permissions -p {vhost}` \
         (RabbitMQ says: {cause})"
    )]
    VirtualHost {
        /// Name and port.
        host: String,
        /// Who.
        user: String,
        /// The virtual host.
        vhost: String,
        /// RabbitMQ's words.
        cause: String,
    },
    /// RabbitMQ refuses something else.
    #[error("{host} refuses: {cause}")]
    Refused {
        /// Name and port.
        host: String,
        /// RabbitMQ's words.
        cause: String,
    },
}

/// Why a call, a cast or a server came to nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The other side raised an exception.
    #[error("{method} on topic {topic} failed there: {error}")]
    Remote {
        /// The topic.
        topic: String,
        /// The method.
        method: String,
        /// The exception.
        error: RemoteError,
    },
    /// The call was sent, and no reply came in time. Whether it was executed
    /// isn't known.
    #[error(
        "no reply to {method} on topic {topic} within {seconds:.1} s; the server may be \
         overloaded or its reply lost",
        seconds = after.as_secs_f64()
    )]
    Timeout {
        /// The topic.
        topic: String,
        /// The method.
        method: String,
        /// How long was waited.
        after: Duration,
    },
    /// There was no broker to send it to.
    #[error(
        "not connected to RabbitMQ within {seconds:.1} s: {cause}",
        seconds = after.as_secs_f64()
    )]
    NotConnected {
        /// How long was waited.
        after: Duration,
        /// Why the last try failed, or what is under way.
        cause: String,
    },
    /// The connection went while a reply was awaited. Whether the call was
    /// executed isn't known.
    #[error("the connection to RabbitMQ was lost before {method} was answered: {cause}")]
    ConnectionLost {
        /// The method.
        method: String,
        /// Why.
        cause: String,
    },
    /// No queue takes messages of this topic.
    #[error(
        "nobody serves topic {key} on exchange {exchange}: no queue is bound; see that the \
         server runs with this RabbitMQ and virtual host, and that its control_exchange is \
         {exchange}"
    )]
    NoServer {
        /// The exchange.
        exchange: String,
        /// The routing key.
        key: String,
    },
    /// RabbitMQ doesn't take a message.
    #[error("RabbitMQ doesn't take a message for exchange {exchange}: {cause}")]
    Publish {
        /// The exchange.
        exchange: String,
        /// RabbitMQ's words.
        cause: String,
    },
    /// An exchange or queue can't be had.
    #[error("{what}: {cause}")]
    Declare {
        /// Which.
        what: String,
        /// RabbitMQ's words, and what to do.
        cause: String,
    },
    /// The message to send has no form.
    #[error("a message {0}")]
    Message(#[from] MessageError),
    /// A name for RabbitMQ has more than 255 bytes.
    #[error("a name of more than 255 bytes: {0:.80}…")]
    LongName(String),
    /// The transport was closed by its owner.
    #[error("the transport is closed")]
    Closed,
}

impl Error {
    /// Whether trying again later may help, without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Timeout { .. }
                | Self::NotConnected { .. }
                | Self::ConnectionLost { .. }
                | Self::NoServer { .. }
                | Self::Publish { .. }
        )
    }
}

/// The words of an error of lapin's, without its own frame.
pub(crate) fn words(error: &lapin::Error) -> String {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        lapin::ErrorKind::IOError(error) => error.to_string(),
        _ => error.to_string(),
    }
}
