//! Listening sockets in the service manager's keeping (systemd's file
//! descriptor store): they stay open while the proxy is restarted, and guests
//! that connect meanwhile wait instead of being refused.
//!
//! Where there is no service manager that keeps them, nothing happens here.

use std::{collections::BTreeMap, env, net::TcpListener, os::fd::AsFd as _};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tracing::{debug, warn};

/// What the service manager has kept, by name. Before anything else is opened.
pub(super) fn take() -> BTreeMap<String, TcpListener> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut kept = ListenFd::from_env();
    let mut listeners = BTreeMap::new();
    for (place, name) in (0..kept.len()).zip(names.split(':')) {
        match kept.take_tcp_listener(place) {
            Ok(Some(listener)) => drop(listeners.insert(name.to_owned(), listener)),
            Ok(None) => {}
            Err(error) => debug!(name, %error, "not a socket that is kept for this program"),
        }
    }
    listeners
}

/// Gives a copy of a socket into keeping.
pub(super) fn keep(name: &str, listener: &TcpListener) {
    let state = [NotifyState::FdStore, NotifyState::FdName(name)];
    tell(sd_notify::notify_with_fds(&state, &[listener.as_fd()]));
}

/// Has the copy closed that is called so.
pub(super) fn forget(name: &str) {
    tell(sd_notify::notify(&[
        NotifyState::FdStoreRemove,
        NotifyState::FdName(name),
    ]));
}

/// Says that guests are served.
pub(super) fn ready() {
    tell(sd_notify::notify(&[NotifyState::Ready]));
}

/// Says that no further connection is taken.
pub(super) fn stopping() {
    tell(sd_notify::notify(&[NotifyState::Stopping]));
}

fn tell(result: std::io::Result<()>) {
    if let Err(error) = result {
        warn!(%error, "can't tell the service manager");
    }
}
