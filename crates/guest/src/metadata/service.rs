//! The proxy as a whole: taps come and go, and at last it ends.

use std::{collections::BTreeMap, net::TcpListener, sync::Arc, time::Duration};

use l2isolate_model::{
    IfName,
    metadata::{ADDRESSES, entry::Entry},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc, watch},
    task::AbortHandle,
    time::timeout,
};
use tracing::{debug, info};

use super::{
    Error, Options,
    connection::{End, Shared, listen},
    directory::{Directory, News},
    keeping,
    limits::Places,
    map::Map,
    proxy::{Answers, Proxy, Tap},
    socket,
    throttle::Throttle,
};

/// How long requests that are under way may take when the proxy ends.
const DRAIN: Duration = Duration::from_secs(10);

/// The taps that are served.
struct Service {
    shared: Arc<Shared>,
    common: Arc<Semaphore>,
    taps: BTreeMap<IfName, Served>,
    /// Sockets of an earlier run that nobody has taken yet.
    kept: BTreeMap<String, TcpListener>,
    end: End,
}

struct Served {
    index: u32,
    listeners: Vec<AbortHandle>,
}

/// Serves guests until SIGTERM or SIGINT.
///
/// # Errors
/// The system refuses what every process needs.
pub(super) async fn run(
    options: &Options,
    answers: Answers,
    kept: BTreeMap<String, TcpListener>,
) -> Result<(), Error> {
    let signals = Error::system("waiting for signals");
    let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
    let signals = Error::system("waiting for signals");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
    let opened = Directory::open(&options.directory);
    let mut directory = opened.map_err(Error::system("following the port map by inotify"))?;
    let (stop, stopped) = watch::channel(false);
    let (alive, mut none_left) = mpsc::channel(1);
    let mut service = Service {
        shared: Arc::new(Shared {
            proxy: Proxy {
                answers,
                map: Map::default(),
            },
            limits: options.limits.clone(),
            log: Throttle::default(),
        }),
        common: Arc::new(Semaphore::new(options.limits.common)),
        taps: BTreeMap::new(),
        kept,
        end: End {
            stop: stopped,
            _alive: alive,
        },
    };
    let adopted = service.kept.len();
    service.hear(directory.look());
    let adopted = adopted - service.kept.len();
    service.forget_kept();
    info!(taps = service.taps.len(), adopted, "serving metadata");
    keeping::ready();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            news = directory.news() => service.hear(news),
        }
    }
    info!("ending; requests that are under way are finished");
    keeping::stopping();
    // It fails if nobody listens: then there is nothing to end.
    let _ = stop.send(true);
    drop(service);
    // Nothing is ever sent: it ends with the last connection.
    if timeout(DRAIN, none_left.recv()).await.is_err() {
        info!("some requests took too long");
    }
    Ok(())
}

impl Service {
    fn hear(&mut self, news: Vec<News>) {
        for one in news {
            match one {
                News::Entry(entry) => self.serve(entry),
                News::Gone(entry) => {
                    debug!(port = entry.port.as_str(), tap = %entry.tap, "no metadata any more");
                    self.shared.proxy.map.set(entry.tap, None);
                    self.end_tap(entry.tap);
                }
            }
        }
    }

    fn serve(&mut self, entry: Arc<Entry>) {
        let (name, index) = (entry.tap, entry.index);
        self.shared.proxy.map.set(name, Some(entry));
        if self.taps.get(&name).is_some_and(|tap| tap.index == index) {
            return;
        }
        self.end_tap(name);
        let tap = Arc::new(Tap {
            name,
            index,
            log: Throttle::default(),
        });
        let places = Arc::new(Places::new(&self.shared.limits, &self.common));
        let listeners = ADDRESSES.map(|address| {
            let kept = self.kept.remove(&socket::name(name, address));
            let kept = kept.filter(|listener| socket::is_for(listener, name, index));
            let (shared, end) = (Arc::clone(&self.shared), self.end.clone());
            let (tap, places) = (Arc::clone(&tap), Arc::clone(&places));
            let task = tokio::spawn(listen(shared, tap, address, places, kept, end));
            task.abort_handle()
        });
        let listeners = listeners.into();
        self.taps.insert(name, Served { index, listeners });
    }

    fn end_tap(&mut self, name: IfName) {
        let Some(tap) = self.taps.remove(&name) else {
            return;
        };
        for listener in tap.listeners {
            listener.abort();
        }
        for address in ADDRESSES {
            keeping::forget(&socket::name(name, address));
        }
    }

    /// Closes sockets whose taps are gone.
    fn forget_kept(&mut self) {
        for name in std::mem::take(&mut self.kept).into_keys() {
            keeping::forget(&name);
        }
    }
}
