//! One connection to one broker.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lapin::{
    AsyncTcpStream, ConnectionProperties, ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError},
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism},
};

use crate::{
    ConnectError,
    error::words,
    options::{Login, Options},
    stream::{self, Plug},
    url::Host,
};

/// How long RabbitMQ may take to greet, once TCP and TLS are there.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// How long a connection may take to be closed in order.
const CLOSE: Duration = Duration::from_secs(2);

/// A connection that is up. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) amqp: lapin::Connection,
    pub(crate) host: String,
    /// Dropped last.
    _plug: Plug,
}

impl Connection {
    /// Connects and logs in.
    pub(crate) async fn open(host: &Host, options: &Options) -> Result<Self, ConnectError> {
        // What the connector did is told by the side: lapin hands on only an
        // I/O error.
        let opened: Arc<Mutex<Option<Result<Plug, ConnectError>>>> = Arc::default();
        let connector = {
            let (host, options, opened) = (host.clone(), options.clone(), Arc::clone(&opened));
            async move |_uri: AMQPUri, _runtime| {
                let (stream, result) = match stream::open(&host, &options).await {
                    Ok((stream, plug)) => (Ok(AsyncTcpStream::Plain(stream)), Ok(plug)),
                    Err(error) => {
                        let io = std::io::Error::other(error.to_string());
                        (Err(lapin::Error::from(io)), Err(error))
                    }
                };
                *opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                stream
            }
        };
        let name = options.connection_name.as_str().into();
        let properties = ConnectionProperties::default().with_connection_name(name);
        let amqp = lapin::Connection::connector(
            uri(host, options),
            stream::runtime(),
            connector,
            properties,
        );
        let amqp = tokio::time::timeout(HANDSHAKE, amqp).await;
        let opened = opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        let plug = match opened {
            Some(Ok(plug)) => plug,
            Some(Err(error)) => return Err(error),
            None => {
                return Err(ConnectError::Unreachable {
                    host: host.to_string(),
                    cause: format!("no answer within {} s", HANDSHAKE.as_secs()),
                });
            }
        };
        match amqp {
            Ok(Ok(amqp)) => {
                tracing::debug!(%host, socket = plug.number(), "connected");
                Ok(Self {
                    amqp,
                    host: host.to_string(),
                    _plug: plug,
                })
            }
            Ok(Err(error)) => Err(explain(&error, host, options)),
            Err(_) => Err(ConnectError::Silent {
                host: host.to_string(),
                cause: format!("nothing came within {} s", HANDSHAKE.as_secs()),
                advice: "is it a RabbitMQ that is up, and its port for AMQP?",
            }),
        }
    }

    /// Whether it is up.
    pub(crate) fn is_up(&self) -> bool {
        self.amqp.status().connected()
    }

    /// Ends it in order, as far as the broker takes part.
    pub(crate) async fn close(&self) {
        let close = self.amqp.close(200, "OK".into());
        // It is dropped anyhow.
        let _ = tokio::time::timeout(CLOSE, close).await;
    }
}

fn uri(host: &Host, options: &Options) -> AMQPUri {
    let heartbeat = options.heartbeat.as_secs().min(u64::from(u16::MAX));
    AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: host.user.clone(),
                password: host.password.clone(),
            },
            host: host.name.clone(),
            port: host.port,
        },
        vhost: options.url.vhost.clone(),
        query: AMQPQueryString {
            heartbeat: u16::try_from(heartbeat).ok(),
            auth_mechanism: Some(match options.login {
                Login::AmqPlain => SASLMechanism::AMQPlain,
                Login::Plain => SASLMechanism::Plain,
                Login::External => SASLMechanism::External,
            }),
            ..AMQPQueryString::default()
        },
    }
}

/// What an operator may do about a failed login.
fn explain(error: &lapin::Error, host: &Host, options: &Options) -> ConnectError {
    let cause = words(error);
    let (user, vhost) = (host.user.clone(), options.url.vhost.clone());
    let host = host.to_string();
    match error.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(lapin::protocol::AMQPSoftError::ACCESSREFUSED) => {
                ConnectError::Credentials { host, user, cause }
            }
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::INVALIDPATH) => {
                ConnectError::VirtualHost {
                    host,
                    user,
                    vhost,
                    cause,
                }
            }
            _ => ConnectError::Refused { host, cause },
        },
        ErrorKind::IOError(_) if options.tls.is_none() => ConnectError::Silent {
            host,
            cause,
            advice: "if this is a port for TLS, ssl = true belongs into [oslo_messaging_rabbit]",
        },
        ErrorKind::IOError(_) => ConnectError::Silent {
            host,
            cause,
            advice: "if the broker wants clients' certificates, see ssl_cert_file; \
                     else see the broker's log",
        },
        ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => ConnectError::Silent {
            host,
            cause,
            advice: "is this RabbitMQ's port for AMQP? If it is one for TLS, ssl = true belongs \
                     into [oslo_messaging_rabbit]",
        },
        _ => ConnectError::Refused { host, cause },
    }
}
