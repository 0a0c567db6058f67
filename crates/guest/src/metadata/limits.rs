//! What one guest may use of the proxy, and all of them together.
//!
//! A tap has places for so many connections. The first few are its own; the
//! others are also taken from a common store, so that memory is bounded
//! whatever the number of guests, and a guest finds its own places free however
//! much others use. A connection is accepted only when there is a place for it:
//! until then it waits in the kernel, in the queue of its own tap.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Limits of a tap, and of all together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections of one tap at once, and so requests.
    pub connections: usize,
    /// Connections of all taps at once beyond the first few of each.
    pub common: usize,
    /// Bytes of a request before its body.
    pub header: usize,
    /// How long a request may take until it is there, and a connection may be
    /// idle between two.
    pub header_time: Duration,
    /// Bytes of a request's body.
    pub body: u64,
    /// How long a body may take until it is there.
    pub body_time: Duration,
    /// How long a connection is used for further requests. After twice that it
    /// is cut, whatever it is about.
    pub connection_time: Duration,
    /// How long the server behind may take to answer.
    pub answer_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16,
            common: 512,
            header: 16 * 1024,
            header_time: Duration::from_secs(10),
            body: 1024 * 1024,
            body_time: Duration::from_secs(20),
            connection_time: Duration::from_secs(60),
            answer_time: Duration::from_secs(30),
        }
    }
}

/// Connections that each tap may have however much others use. Both address
/// families hold one while they wait for a connection.
const OWN: usize = 4;

/// The places of one tap.
#[derive(Debug)]
pub(super) struct Places {
    own: Arc<Semaphore>,
    further: Arc<Semaphore>,
    common: Arc<Semaphore>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _own: OwnedSemaphorePermit,
    _common: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// Places of a tap; `common` is the store that all taps share.
    pub(super) fn new(limits: &Limits, common: &Arc<Semaphore>) -> Self {
        let connections = limits.connections.max(2);
        let own = connections.min(OWN);
        Self {
            own: Arc::new(Semaphore::new(own)),
            further: Arc::new(Semaphore::new(connections - own)),
            common: Arc::clone(common),
        }
    }

    /// Waits for a place; none if the proxy ends.
    pub(super) async fn take(&self) -> Option<Place> {
        let own = async {
            Some(Place {
                _own: Arc::clone(&self.own).acquire_owned().await.ok()?,
                _common: None,
            })
        };
        let further = async {
            let further = Arc::clone(&self.further).acquire_owned().await.ok()?;
            let common = Arc::clone(&self.common).acquire_owned().await.ok()?;
            Some(Place {
                _own: further,
                _common: Some(common),
            })
        };
        tokio::select! {
            biased;
            place = own => place,
            place = further => place,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Context};

    use super::*;

    fn now(places: &Places) -> Option<Place> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match pin!(places.take()).poll(&mut context) {
            std::task::Poll::Ready(place) => place,
            std::task::Poll::Pending => None,
        }
    }

    /// A guest with a thousand connections gets its share; then it waits, while
    /// others find their own places free even where the common store is empty.
    #[test]
    fn a_greedy_guest_takes_nothing_from_others() {
        let limits = Limits {
            connections: 16,
            ..Limits::default()
        };
        let common = Arc::new(Semaphore::new(20));
        let guests: Vec<Places> = (0..3).map(|_| Places::new(&limits, &common)).collect();
        let mut taken: Vec<Vec<Place>> = guests
            .iter()
            .map(|guest| std::iter::from_fn(|| now(guest)).take(1000).collect())
            .collect();
        let counts: Vec<usize> = taken.iter().map(Vec::len).collect();
        assert_eq!(counts, [16, 4 + 8, 4]);
        assert!(now(&guests[0]).is_none());
        // What one gives back is for all.
        taken[0].clear();
        assert!(now(&guests[0]).is_some() && now(&guests[2]).is_some());
    }
}
