//! One server behind the proxy: its address, its open connections, its health.

use std::{
    io,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{Either, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tracing::debug;

use super::health::Health;
use crate::metadata::body::Guarded;

/// How long a connection may take until it is there.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// How long a connection is kept for further requests. Servers and load
/// balancers close theirs after five seconds or more.
const IDLE_TIME: Duration = Duration::from_secs(4);
/// How many are kept so.
const IDLE: usize = 64;
/// Bytes of a response before its body.
const HEAD: usize = 64 * 1024;
/// Header fields of a response.
const FIELDS: usize = 128;

/// What is sent: a guest's body piece by piece, or one that is there already.
pub(super) type Payload = Either<Guarded, Full<Bytes>>;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Host and port.
    Tcp {
        /// Name or address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// A socket of this host.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Why a server has not answered.
pub(super) struct Failure {
    /// Words for an operator.
    pub(super) reason: String,
    /// It was too slow, rather than wrong or away.
    pub(super) slow: bool,
    /// The request, if nothing of it was sent.
    pub(super) unsent: Option<Box<Request<Payload>>>,
}

/// A server.
pub(super) struct Server {
    pub(super) address: Address,
    /// What it is called in requests.
    pub(super) host: HeaderValue,
    pub(super) health: Mutex<Health>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// It takes one request of each connection.
    once: bool,
    idle: Arc<Mutex<Vec<Idle>>>,
}

struct Idle {
    sender: SendRequest<Payload>,
    since: Instant,
}

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

impl Server {
    /// # Errors
    /// The host's name can't be one.
    pub(super) fn new(address: Address, tls: Option<TlsConnector>) -> Result<Self, String> {
        let bad = || format!("{address} is no address of a server");
        let (host, once) = match &address {
            Address::Tcp { .. } => (address.to_string(), false),
            Address::Unix(_) => ("localhost".to_owned(), true),
        };
        let host = HeaderValue::try_from(host).map_err(|_| bad())?;
        let tls = match (&address, tls) {
            (Address::Tcp { host, .. }, Some(connector)) => {
                let name = ServerName::try_from(host.clone()).map_err(|_| bad())?;
                Some((connector, name))
            }
            _ => None,
        };
        Ok(Self {
            host,
            tls,
            once,
            health: Mutex::default(),
            idle: Arc::default(),
            address,
        })
    }

    /// Sends a request, and waits for the answer's head.
    ///
    /// # Errors
    /// There is no connection, or no answer within `time`.
    pub(super) async fn send(
        &self,
        mut request: Request<Payload>,
        time: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        loop {
            let (mut sender, used) = match self.take_idle() {
                Some(sender) => (sender, true),
                None => match self.connect().await {
                    Ok(sender) => (sender, false),
                    Err(error) => {
                        return Err(Failure {
                            slow: error.kind() == io::ErrorKind::TimedOut,
                            reason: error.to_string(),
                            unsent: Some(Box::new(request)),
                        });
                    }
                },
            };
            match timeout(time, sender.try_send_request(request)).await {
                Ok(Ok(response)) => {
                    self.keep(sender);
                    return Ok(response);
                }
                Ok(Err(mut error)) => {
                    let unsent = error.take_message();
                    let reason = reason(&error.into_error());
                    match unsent {
                        // It was closed meanwhile, as is the server's right.
                        Some(unsent) if used => request = unsent,
                        unsent => {
                            return Err(Failure {
                                reason,
                                slow: false,
                                unsent: unsent.map(Box::new),
                            });
                        }
                    }
                }
                Err(_) => {
                    return Err(Failure {
                        reason: format!("no answer within {} s", time.as_secs_f32()),
                        slow: true,
                        unsent: None,
                    });
                }
            }
        }
    }

    fn take_idle(&self) -> Option<SendRequest<Payload>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|one| !one.sender.is_closed() && one.since.elapsed() < IDLE_TIME);
        idle.pop().map(|one| one.sender)
    }

    /// Keeps a connection for later, once the answer has been read.
    fn keep(&self, mut sender: SendRequest<Payload>) {
        if self.once {
            return;
        }
        let idle = Arc::clone(&self.idle);
        tokio::spawn(async move {
            if sender.ready().await.is_err() {
                return;
            }
            let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE {
                idle.push(Idle {
                    sender,
                    since: Instant::now(),
                });
            }
        });
    }

    async fn connect(&self) -> io::Result<SendRequest<Payload>> {
        let late = || {
            let seconds = CONNECT_TIME.as_secs();
            let text = format!("no connection within {seconds} s");
            io::Error::new(io::ErrorKind::TimedOut, text)
        };
        let stream = timeout(CONNECT_TIME, self.stream())
            .await
            .map_err(|_| late())??;
        let (sender, connection) = http1::Builder::new()
            .max_headers(FIELDS)
            .max_buf_size(HEAD)
            .title_case_headers(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| io::Error::other(reason(&error)))?;
        let server = self.address.to_string();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(server, %error, "connection to a metadata server");
            }
        });
        Ok(sender)
    }

    async fn stream(&self) -> io::Result<Pin<Box<dyn Stream>>> {
        let (host, port) = match &self.address {
            Address::Unix(path) => return Ok(Box::pin(UnixStream::connect(path).await?)),
            Address::Tcp { host, port } => (host.as_str(), *port),
        };
        let mut last = io::Error::other("the name has no address");
        for address in lookup_host((host, port)).await? {
            let stream = match TcpStream::connect(address).await {
                Ok(stream) => stream,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            stream.set_nodelay(true)?;
            return match &self.tls {
                Some((connector, name)) => {
                    let stream = connector.connect(name.clone(), stream).await?;
                    Ok(Box::pin(stream))
                }
                None => Ok(Box::pin(stream)),
            };
        }
        Err(last)
    }
}

/// All that an error has to say: hyper's own words are only half of it.
pub(super) fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
