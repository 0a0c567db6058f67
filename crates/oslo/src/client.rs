//! Calls and casts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};
use tokio::time::timeout_at;

use crate::{
    Backoff, Context, Error, Transport, Version,
    declare::{Exchange, short},
    message::Outgoing,
    publisher::{Destination, Sent},
    unique,
};

/// Whom a client talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The exchange (`control_exchange`); none: the transport's.
    pub exchange: Option<String>,
    /// The topic.
    pub topic: String,
    /// The endpoint's namespace; Neutron's have none.
    pub namespace: Option<String>,
    /// The version that is needed: the lowest that has what is called.
    pub version: Version,
    /// One server of the topic; none: any of them.
    pub server: Option<String>,
}

impl Target {
    /// Any server of a topic, version 1.0.
    #[must_use]
    pub fn new(topic: &str) -> Self {
        Self {
            exchange: None,
            topic: topic.to_owned(),
            namespace: None,
            version: Version::default(),
            server: None,
        }
    }

    /// With another version.
    #[must_use]
    pub fn version(self, major: u32, minor: u32) -> Self {
        let version = Version::new(major, minor);
        Self { version, ..self }
    }

    /// With a namespace.
    #[must_use]
    pub fn namespace(self, namespace: &str) -> Self {
        let namespace = Some(namespace.to_owned());
        Self { namespace, ..self }
    }

    /// One server alone.
    #[must_use]
    pub fn server(self, server: &str) -> Self {
        let server = Some(server.to_owned());
        Self { server, ..self }
    }

    /// On another exchange than the transport's.
    #[must_use]
    pub fn exchange(self, exchange: &str) -> Self {
        let exchange = Some(exchange.to_owned());
        Self { exchange, ..self }
    }
}

/// A client of a topic. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Transport,
    target: Target,
    backoff: Arc<Backoff>,
    timeout: Option<Duration>,
}

/// oslo.messaging's `rpc_response_timeout`.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Neutron's `rpc_response_max_timeout`.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);

impl Client {
    pub(crate) fn new(transport: Transport, target: Target) -> Self {
        Self {
            transport,
            target,
            backoff: Arc::new(Backoff::new(TIMEOUT, MAX_TIMEOUT)),
            timeout: None,
        }
    }

    /// With these time-outs, which several clients may share. A method's next
    /// call waits as [`Backoff`] says after one that timed out.
    #[must_use]
    pub fn backoff(self, backoff: Arc<Backoff>) -> Self {
        Self { backoff, ..self }
    }

    /// With a time-out that stays as it is, and no pauses.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        let timeout = Some(timeout);
        Self { timeout, ..self }
    }

    /// Calls a method and waits for its result.
    ///
    /// Waits for a connection, too, within the same time. Nothing is sent
    /// twice: after [`Error::Timeout`] and [`Error::ConnectionLost`] the server
    /// may have executed the call or not.
    ///
    /// # Errors
    /// See [`Error`]; the exception of a server is [`Error::Remote`].
    pub async fn call(
        &self,
        context: &Context,
        method: &str,
        arguments: Map<String, Value>,
    ) -> Result<Value, Error> {
        let start = Instant::now();
        let Some(timeout) = self.timeout else {
            let (timeout, pause) = self.backoff.next(method, start);
            tokio::time::sleep(pause).await;
            let start = Instant::now();
            let result = self.call_within(context, method, &arguments, timeout).await;
            match &result {
                Err(Error::Timeout { .. }) => {
                    let (next, pause) =
                        self.backoff
                            .timed_out(method, timeout, Instant::now(), fastrand::f64());
                    tracing::warn!(
                        method,
                        topic = self.target.topic,
                        waited_s = timeout.as_secs_f64(),
                        next_s = next.as_secs_f64(),
                        pause_s = pause.as_secs_f64(),
                        "a call wasn't answered; the next one waits longer"
                    );
                }
                Ok(_) | Err(Error::Remote { .. }) => self.backoff.answered(method, start.elapsed()),
                Err(_) => {}
            }
            return result;
        };
        self.call_within(context, method, &arguments, timeout).await
    }

    async fn call_within(
        &self,
        context: &Context,
        method: &str,
        arguments: &Map<String, Value>,
        timeout: Duration,
    ) -> Result<Value, Error> {
        let deadline = tokio::time::Instant::now() + timeout;
        let shared = self.transport.shared();
        let not_connected = |_| Error::NotConnected {
            after: timeout,
            cause: shared.why_not(),
        };
        let (ready, mut waiting) = loop {
            let ready = timeout_at(deadline, shared.ready())
                .await
                .map_err(not_connected)??;
            if let Some(waiting) = shared.wait_on(&ready) {
                break (ready, waiting);
            }
        };
        let unique = unique::hex();
        let body = Outgoing {
            context,
            method,
            arguments,
            version: self.target.version,
            namespace: self.target.namespace.as_deref(),
            unique: &unique,
            reply: Some((&ready.replies, waiting.call())),
        }
        .encode()?;
        let (exchange, key) = self.address();
        short(&key)?;
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let destination = Destination {
            exchange: &exchange,
            key: &key,
            // Without a queue there won't be a reply.
            mandatory: true,
            // What nobody waits for any more needn't be executed.
            expires: u64::try_from(left.as_millis()).ok(),
        };
        let lost = |cause: String| Error::ConnectionLost {
            method: method.to_owned(),
            cause,
        };
        let sent = ready.publisher.send(&destination, &body, &shared.options);
        match timeout_at(deadline, sent).await.map_err(not_connected)? {
            Ok(Sent::Taken) => {}
            Ok(Sent::Returned) => {
                return Err(Error::NoServer {
                    exchange: exchange.name().to_owned(),
                    key,
                });
            }
            Err(error) if !ready.connection.is_up() => return Err(lost(error.to_string())),
            Err(error) => return Err(error),
        }
        match timeout_at(deadline, &mut waiting.outcome).await {
            Err(_) => Err(Error::Timeout {
                topic: key,
                method: method.to_owned(),
                after: timeout,
            }),
            Ok(Ok(Ok(Ok(value)))) => Ok(value),
            Ok(Ok(Ok(Err(error)))) => Err(Error::Remote {
                topic: key,
                method: method.to_owned(),
                error,
            }),
            Ok(Ok(Err(reason))) => Err(lost(reason)),
            Ok(Err(_)) => Err(Error::Closed),
        }
    }

    /// Calls a method of one server of the topic, and waits for nothing but the
    /// broker's confirmation. A cast to a topic that nobody serves is lost.
    ///
    /// # Errors
    /// The broker doesn't take it within the client's time-out.
    pub async fn cast(
        &self,
        context: &Context,
        method: &str,
        arguments: Map<String, Value>,
    ) -> Result<(), Error> {
        let (exchange, key) = self.address();
        self.send(context, method, &arguments, &exchange, &key)
            .await
    }

    /// The same for all servers of the topic.
    ///
    /// # Errors
    /// As [`Self::cast`].
    pub async fn fanout(
        &self,
        context: &Context,
        method: &str,
        arguments: Map<String, Value>,
    ) -> Result<(), Error> {
        let exchange = Exchange::fanout(&self.target.topic);
        self.send(context, method, &arguments, &exchange, "").await
    }

    async fn send(
        &self,
        context: &Context,
        method: &str,
        arguments: &Map<String, Value>,
        exchange: &Exchange,
        key: &str,
    ) -> Result<(), Error> {
        let timeout = self.timeout.unwrap_or(TIMEOUT);
        let deadline = tokio::time::Instant::now() + timeout;
        let shared = self.transport.shared();
        let not_connected = |_| Error::NotConnected {
            after: timeout,
            cause: shared.why_not(),
        };
        short(key)?;
        let unique = unique::hex();
        let body = Outgoing {
            context,
            method,
            arguments,
            version: self.target.version,
            namespace: self.target.namespace.as_deref(),
            unique: &unique,
            reply: None,
        }
        .encode()?;
        let ready = timeout_at(deadline, shared.ready())
            .await
            .map_err(not_connected)??;
        let destination = Destination {
            exchange,
            key,
            mandatory: false,
            expires: None,
        };
        let sent = ready.publisher.send(&destination, &body, &shared.options);
        match timeout_at(deadline, sent).await.map_err(not_connected)? {
            Ok(_) => Ok(()),
            Err(error) if !ready.connection.is_up() => Err(Error::ConnectionLost {
                method: method.to_owned(),
                cause: error.to_string(),
            }),
            Err(error) => Err(error),
        }
    }

    fn address(&self) -> (Exchange, String) {
        let own = &self.transport.shared().options.exchange;
        let exchange = self.target.exchange.as_ref().unwrap_or(own);
        let key = match &self.target.server {
            Some(server) => format!("{}.{server}", self.target.topic),
            None => self.target.topic.clone(),
        };
        (Exchange::Topics(exchange.clone()), key)
    }
}
