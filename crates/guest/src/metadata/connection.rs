//! A tap's listening socket, and the connections that come in by it.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use l2isolate_model::metadata;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    keeping,
    limits::{Limits, Place, Places},
    proxy::{Proxy, Tap},
    socket,
    throttle::Throttle,
};

/// Between two attempts to listen: first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// From then on it is somebody else who has the port.
const PATIENCE: Duration = Duration::from_millis(400);
/// After an error that another attempt at once won't mend.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a guest that has connected may take to ask when the proxy ends.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Header fields of a request.
const FIELDS: usize = 64;

/// What all connections share.
pub(super) struct Shared {
    pub(super) proxy: Proxy,
    pub(super) limits: Limits,
    /// Lines in the log about what is nobody's fault in particular.
    pub(super) log: Throttle,
}

/// How to end.
#[derive(Clone)]
pub(super) struct End {
    /// True: take no further connection, and finish those that are there.
    pub(super) stop: watch::Receiver<bool>,
    /// Dropped by the last one.
    pub(super) _alive: mpsc::Sender<()>,
}

impl End {
    async fn come(&mut self) {
        // If the other end is gone, the end has come as well.
        let _ = self.stop.wait_for(|stop| *stop).await;
    }
}

/// Listens at one address of a tap, and serves whoever connects, until the end.
/// `kept` is the socket that an earlier run has listened on.
pub(super) async fn listen(
    shared: Arc<Shared>,
    tap: Arc<Tap>,
    address: IpAddr,
    places: Arc<Places>,
    kept: Option<StdListener>,
    mut end: End,
) {
    let opening = open(&shared, &tap, address, kept);
    let listener = tokio::select! {
        () = end.come() => return,
        listener = opening => listener,
    };
    loop {
        // First a place, then a guest to have it: until there is one, guests
        // wait in the kernel, in their own queue.
        let next = async { (places.take().await, listener.accept().await) };
        let (place, accepted) = tokio::select! {
            () = end.come() => return,
            next = next => next,
        };
        match (place, accepted) {
            (Some(_), Ok((_, peer))) if socket::is_local(peer) => {
                debug!(tap = %tap.name, %peer, "the host itself has no metadata here");
            }
            (Some(place), Ok((stream, peer))) => {
                let (shared, tap, end) = (Arc::clone(&shared), Arc::clone(&tap), end.clone());
                tokio::spawn(serve(shared, tap, stream, peer, place, end));
            }
            (None, _) => return,
            (_, Err(error)) => {
                if let Some(held) = shared.log.pass(Instant::now()) {
                    warn!(tap = %tap.name, %error, held, "can't accept a connection");
                }
                sleep(PAUSE).await;
            }
        }
    }
}

async fn open(
    shared: &Shared,
    tap: &Tap,
    address: IpAddr,
    mut kept: Option<StdListener>,
) -> TcpListener {
    let name = socket::name(tap.name, address);
    let mut wait = RETRY.0;
    loop {
        let opened = match kept.take() {
            Some(listener) => Ok(listener),
            None => socket::open(tap.name, tap.index, address, metadata::PORT)
                .inspect(|listener| keeping::keep(&name, listener)),
        };
        let listener = opened.and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(TcpListener::from_std(listener)?)
        });
        match listener {
            Ok(listener) => {
                debug!(tap = %tap.name, %address, "listening");
                return listener;
            }
            // The agent will say when it is there, or gone.
            Err(error @ socket::Error::NoDevice) => debug!(tap = %tap.name, %error, "can't listen"),
            // The service manager may be about to close what it has kept.
            Err(error @ socket::Error::Taken { .. }) if wait < PATIENCE => {
                debug!(tap = %tap.name, %error, "can't listen");
            }
            Err(error) => {
                if let Some(held) = shared.log.pass(Instant::now()) {
                    warn!(tap = %tap.name, %address, %error, held, "can't listen; will try again");
                }
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

/// Waits for a guest's first byte. At the end it is given a moment: it has
/// connected, so it is about to ask, and nobody else would answer.
async fn has_spoken(stream: &TcpStream, time: Duration, end: &mut End) -> bool {
    // A look at the byte itself: a new stream counts as readable until it was tried.
    let (mut one, mut other) = ([0], [0]);
    let spoken = tokio::select! {
        biased;
        spoken = timeout(time, stream.peek(&mut one)) => spoken,
        () = end.come() => timeout(time.min(LAST_WORDS), stream.peek(&mut other)).await,
    };
    matches!(spoken, Ok(Ok(1..)))
}

async fn serve(
    shared: Arc<Shared>,
    tap: Arc<Tap>,
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    mut end: End,
) {
    // Answers are written whole; nothing is won by waiting for more.
    let _ = stream.set_nodelay(true);
    if has_spoken(&stream, shared.limits.header_time, &mut end).await {
        converse(&shared, &tap, stream, peer, end).await;
    } else {
        debug!(tap = %tap.name, %peer, "nothing was asked");
    }
    drop(place);
}

/// Answers what is asked on a connection, until one of the two ends it.
pub(super) async fn converse(
    shared: &Shared,
    tap: &Tap,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: SocketAddr,
    mut end: End,
) {
    let limits = &shared.limits;
    let service = service_fn(|request| async {
        Ok::<_, Infallible>(shared.proxy.answer(tap, peer.ip(), request).await)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_headers(FIELDS)
        .max_buf_size(limits.header)
        // Some clients close their side when they have asked.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        // In this order: what is there already is read before the end is looked
        // at, and a connection on which something was read gets its answer.
        biased;
        result = connection.as_mut() => Some(result),
        () = end.come() => None,
        () = sleep(limits.connection_time) => None,
    };
    let result = match ended {
        Some(result) => result,
        None => {
            connection.as_mut().graceful_shutdown();
            match timeout(limits.connection_time, connection).await {
                Ok(result) => result,
                Err(_) => {
                    debug!(tap = %tap.name, %peer, "the connection takes too long");
                    Ok(())
                }
            }
        }
    };
    if let Err(error) = result {
        debug!(tap = %tap.name, %peer, %error, "connection of a guest");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream as Client,
        thread,
    };

    use tokio::sync::Semaphore;

    use super::*;
    use crate::metadata::{map::Map, proxy::Answers, testing};

    /// A proxy of one tap whose guest is on the loopback.
    fn shared() -> (Arc<Shared>, Arc<Tap>) {
        let entry = Arc::new(testing::entry("tap1", &["127.0.0.1"]));
        let tap = Arc::new(Tap {
            name: entry.tap,
            index: entry.index,
            log: Throttle::default(),
        });
        let map = Map::default();
        map.set(entry.tap, Some(entry));
        let proxy = Proxy {
            answers: Answers::Intent,
            map,
        };
        let shared = Shared {
            proxy,
            limits: Limits::default(),
            log: Throttle::default(),
        };
        (Arc::new(shared), tap)
    }

    /// A guest: it connects, asks after a while, and tells what it got.
    fn guest(address: SocketAddr, wait: Duration) -> String {
        let mut stream = Client::connect(address).unwrap();
        thread::sleep(wait);
        stream
            .write_all(b"GET /latest/meta-data/mac HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        match stream.read_to_string(&mut answer) {
            Ok(_) => answer,
            Err(error) => format!("{error} after {answer:?}"),
        }
    }

    /// Whoever was accepted is answered, whenever the end comes: before the
    /// request, with it, or after it.
    #[test]
    fn the_end_fails_nobody() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        for round in 0..300_u64 {
            let (shared, tap) = shared();
            let places = Places::new(&shared.limits, &Arc::new(Semaphore::new(8)));
            let answer = runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                let wait = Duration::from_micros(round * 7 % 900);
                let guest = thread::spawn(move || guest(address, wait));
                let (stream, peer) = listener.accept().await.unwrap();
                let (stop, stopped) = watch::channel(false);
                let (alive, mut none_left) = mpsc::channel(1);
                let end = End {
                    stop: stopped,
                    _alive: alive,
                };
                let place = places.take().await.unwrap();
                tokio::spawn(serve(shared, tap, stream, peer, place, end));
                sleep(Duration::from_micros(round * 13 % 700)).await;
                stop.send(true).unwrap();
                assert!(none_left.recv().await.is_none());
                guest.join().unwrap()
            });
            assert!(answer.contains("200 OK"), "round {round}: {answer:?}");
        }
    }
}
