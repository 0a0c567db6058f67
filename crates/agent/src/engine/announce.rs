//! What the engine tells the announcer, and what it tells the kernel again for a
//! routing daemon's sake.

use std::collections::BTreeMap;

use ipnet::IpNet;
use l2isolate_model::{IfName, desired::Key};
use l2isolate_plan::{Owner, Standing, migration::State};
use tracing::warn;

use super::Engine;

impl Engine {
    /// The tap has got its carrier: a guest is there. Routing daemons were told
    /// of its routes as of routes without carrier, which BIRD doesn't learn, and
    /// the kernel tells nobody that this has changed. So the routes count as
    /// not in place, and are told again by being set again.
    pub(super) fn retell(&mut self, tap: IfName) {
        let owner = Owner::Tap(tap);
        let wanted = self.reconciler.wanted_by(&owner);
        let announced =
            |key: &&Key| matches!(key, Key::Route(_, m) if self.config.standing(*m).is_some());
        let routes: Vec<Key> = wanted.filter(announced).copied().collect();
        for key in routes {
            self.reconciler.redo(&key);
        }
    }

    /// Has announced what is routed now, and tells routes again that a routing
    /// daemon missed.
    pub(super) fn announce(&mut self) {
        let Some(mut announcer) = self.announcer.take() else {
            return;
        };
        let host = self.routed(&Owner::Host);
        announcer.routed(Owner::Host, host);
        for tap in std::mem::take(&mut self.rerouted) {
            // A route to a tap without carrier leads to nobody.
            let open = self.taps.get(&tap).is_some_and(|tap| tap.carrier);
            let routed = match open || self.migration(tap) == State::Followed {
                true => self.routed(&Owner::Tap(tap)),
                false => BTreeMap::new(),
            };
            announcer.routed(Owner::Tap(tap), routed);
        }
        let metrics = self.config.announced_metrics();
        let observed = self.reconciler.observed();
        let missed = announcer.converge(|prefix| {
            let mut routes = metrics.clone().map(|metric| Key::Route(prefix, metric));
            routes.any(|route| observed.contains_key(&route))
        });
        if !missed.is_empty() {
            warn!(
                prefixes = missed.len(),
                "the routing daemon missed routes; they are set again"
            );
            for prefix in missed {
                for metric in metrics.clone() {
                    self.reconciler.redo(&Key::Route(prefix, metric));
                }
            }
            self.unfinished = true;
        }
        self.announcer = Some(announcer);
    }

    /// The prefixes of an owner that are routed as it wants them.
    pub(super) fn routed(&self, owner: &Owner) -> BTreeMap<IpNet, Standing> {
        let wanted = self.reconciler.wanted_by(owner);
        let in_place = wanted.filter_map(|key| match key {
            Key::Route(prefix, metric) => {
                let standing = self.config.standing(*metric)?;
                let is = self.reconciler.observed().get(key);
                let in_place = is.is_some() && is == self.reconciler.wanted(key);
                in_place.then_some((*prefix, standing))
            }
            _ => None,
        });
        in_place.collect()
    }
}
