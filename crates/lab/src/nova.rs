//! Nova's metadata API as a stub: a small real HTTP server that asks of a proxy
//! what Nova asks of it, and can be told to misbehave.
//!
//! It answers every path with what it was sent, as JSON, so that tests see what
//! has passed; `/bytes/N` gives N bytes. Owns a thread, which ends when the
//! stub is dropped.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use ring::hmac;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::oneshot,
    time::sleep,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use crate::{Error, Result, netns};

/// Longest body that it takes.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// How it behaves.
#[derive(Debug, Clone, Default)]
pub enum Manner {
    /// As Nova does.
    #[default]
    Good,
    /// It answers after this time.
    Slow(Duration),
    /// It takes connections and says nothing.
    Silent,
    /// It says something that isn't HTTP.
    Garbage,
    /// It promises more than it sends.
    Torn,
}

/// What it is told.
#[derive(Clone, Default)]
pub struct Options {
    /// What it shares with the proxy.
    pub secret: String,
    /// How it behaves.
    pub manner: Manner,
    /// It speaks TLS.
    pub tls: Option<Arc<ServerConfig>>,
}

/// A running stub.
#[derive(Debug)]
pub struct Nova {
    /// Where it listens.
    pub address: SocketAddr,
    requests: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    options: Options,
    key: hmac::Key,
    requests: Arc<AtomicU64>,
}

impl Nova {
    /// Listens in a namespace and serves.
    ///
    /// # Errors
    /// The address can't be listened on.
    pub fn start(namespace: &str, address: SocketAddr, options: Options) -> Result<Self> {
        let what = format!("listening on {address} in namespace {namespace}");
        let listener = netns::inside(namespace, || TcpListener::bind(address))?;
        let listener = listener.map_err(Error::io(what))?;
        let serving = || Error::io("starting a stub of Nova");
        listener.set_nonblocking(true).map_err(serving())?;
        let address = listener.local_addr().map_err(serving())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(serving())?;
        let requests = Arc::<AtomicU64>::default();
        let shared = Arc::new(Shared {
            key: hmac::Key::new(hmac::HMAC_SHA256, options.secret.as_bytes()),
            options,
            requests: Arc::clone(&requests),
        });
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("nova".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        _ = accept(listener, shared) => {}
                    }
                });
                // Connections that say nothing shall not hold it up.
                runtime.shutdown_background();
            })
            .map_err(serving())?;
        Ok(Self {
            address,
            requests,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// How many requests have come.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Nova {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It fails if the thread has ended.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            match shared.options.tls.clone() {
                Some(config) => {
                    if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                        talk(stream, shared).await;
                    }
                }
                None => talk(stream, shared).await,
            }
        });
    }
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    shared: Arc<Shared>,
) {
    let words: &[u8] = match shared.options.manner {
        Manner::Silent => return std::future::pending().await,
        Manner::Garbage => b"220 mail.example ESMTP\r\n\r\n",
        Manner::Torn => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        Manner::Good | Manner::Slow(_) => {
            let service = service_fn(|request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.answer(request).await) }
            });
            // A proxy that goes away is part of tests.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
            return;
        }
    };
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let _ = stream.read(&mut [0; 4096]).await;
    let _ = stream.write_all(words).await;
    let _ = stream.shutdown().await;
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if let Manner::Slow(time) = self.options.manner {
            sleep(time).await;
        }
        let (head, body) = request.into_parts();
        if let Err((status, words)) = self.admit(&head.headers) {
            return answer(status, words);
        }
        let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
            return answer(StatusCode::BAD_REQUEST, "the body is torn");
        };
        let body = body.to_bytes();
        let path = head.uri.path();
        if let Some(count) = path.strip_prefix("/bytes/") {
            let count: usize = count.parse().unwrap_or_default();
            return answer(StatusCode::OK, "x".repeat(count.min(MAX_BODY)));
        }
        let mut headers = Map::new();
        for (name, value) in &head.headers {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers.insert(name.as_str().to_owned(), value.into());
        }
        let said: Value = json!({
            "method": head.method.as_str(),
            "path": head.uri.path_and_query().map(http::uri::PathAndQuery::as_str),
            "headers": headers,
            "body": String::from_utf8_lossy(&body),
        });
        answer(StatusCode::OK, said.to_string())
    }

    /// What Nova does with `service_metadata_proxy` (nova/api/metadata/handler.py).
    fn admit(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        let field = |name| headers.get(name).map(http::HeaderValue::as_bytes);
        let missing = |words| (StatusCode::BAD_REQUEST, words);
        let instance = field("x-instance-id").ok_or_else(|| missing("X-Instance-ID is missing"))?;
        field("x-tenant-id").ok_or_else(|| missing("X-Tenant-ID is missing"))?;
        field("x-forwarded-for").ok_or_else(|| missing("X-Forwarded-For is missing"))?;
        let signature = field("x-instance-id-signature").unwrap_or_default();
        let signature = bytes_of(signature).unwrap_or_default();
        let forged = |_| (StatusCode::FORBIDDEN, "the signature is wrong");
        hmac::verify(&self.key, instance, &signature).map_err(forged)
    }
}

fn answer(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

/// What hexadecimal digits say.
fn bytes_of(digits: &[u8]) -> Option<Vec<u8>> {
    let pairs = std::str::from_utf8(digits).ok()?.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map(byte).collect()
}
