//! The byte stream under a connection: TCP, or TLS on it.
//!
//! lapin takes streams from a reactor, whose stream type says what it can be;
//! its own TLS doesn't know oslo.messaging's rules and brings a PKCS#12 reader
//! with everything in it. So the reactor here is tokio's with a stream type that
//! can be either.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
    time::{Duration, Instant},
};

use async_compat::Compat;
use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use futures_core::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use crate::{
    ConnectError,
    options::{Options, Tls},
    tls,
    url::Host,
};

/// How long TCP and TLS may take together.
const CONNECT: Duration = Duration::from_secs(10);

/// TCP or TLS.
pub(crate) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

pub(crate) type ByteStream = Compat<Box<dyn Bytes>>;

/// The runtime for lapin: tokio's, with [`ByteStream`]s.
pub(crate) fn runtime() -> Runtime<RuntimeParts<Tokio, Streams>> {
    let tokio = Tokio::current();
    Runtime::new(RuntimeParts::new(tokio.clone(), Streams(tokio)))
}

/// tokio's reactor, with [`ByteStream`]s.
#[derive(Debug, Clone)]
pub(crate) struct Streams(Tokio);

impl Reactor for Streams {
    type TcpStream = ByteStream;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin + 'static>
    {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        async move {
            let stream = TcpStream::connect(address).await?;
            Ok(Compat::new(Box::new(stream) as Box<dyn Bytes>))
        }
    }
}

/// A second handle of a connection's socket, to hang up by: lapin's thread of a
/// connection whose other end is silent waits for ever otherwise.
#[derive(Debug)]
pub(crate) struct Plug(std::net::TcpStream);

impl Plug {
    fn of(stream: &TcpStream) -> io::Result<Self> {
        let fd = stream.as_fd().try_clone_to_owned()?;
        Ok(Self(fd.into()))
    }

    /// Which socket, for logs.
    pub(crate) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        // Not connected any more: nothing to hang up.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Connects to a broker's port, with TLS if the options say so.
pub(crate) async fn open(
    host: &Host,
    options: &Options,
) -> Result<(ByteStream, Plug), ConnectError> {
    let tls = options.tls.as_ref();
    match tokio::time::timeout(CONNECT, connect(host, tls)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Unreachable {
            host: host.to_string(),
            cause: format!("no answer within {} s", CONNECT.as_secs()),
        }),
    }
}

async fn connect(host: &Host, tls: Option<&Tls>) -> Result<(ByteStream, Plug), ConnectError> {
    let unreachable = |cause: io::Error| ConnectError::Unreachable {
        host: host.to_string(),
        cause: cause.to_string(),
    };
    let stream = tcp(host).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let plug = Plug::of(&stream).map_err(unreachable)?;
    let Some(options) = tls else {
        return Ok((Compat::new(Box::new(stream)), plug));
    };
    let refused = |cause: String| ConnectError::Tls {
        host: host.to_string(),
        cause,
    };
    let config = tls::config(options).map_err(refused)?;
    let name = ServerName::try_from(host.name.clone())
        .map_err(|error| refused(format!("`{}` is no name for TLS: {error}", host.name)))?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| refused(tls::explain(&error, options)))?;
    Ok((Compat::new(Box::new(stream)), plug))
}

/// The first address of the name that takes a connection.
async fn tcp(host: &Host) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((host.name.as_str(), host.port)).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
