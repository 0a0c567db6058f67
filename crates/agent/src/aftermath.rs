//! Guests that were followed when their ports went: what still comes for them is
//! sent on for a while, since a control plane may say that a migration is over before
//! the fabric has heard all of it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use l2isolate_model::{IfName, desired::Objects};

/// How long: ten hops of 50 ms, with which FRR passes an update on, six times over.
const WHILE: Duration = Duration::from_secs(3);

/// The routes of such guests by their taps, and until when. Nothing of it outlives
/// the agent: the next one takes the routes for what nobody wants.
#[derive(Default)]
pub(crate) struct Aftermath(BTreeMap<IfName, (Objects, Instant)>);

impl Aftermath {
    /// The port that was followed on this tap has gone; it had these routes.
    pub(crate) fn begin(&mut self, tap: IfName, routes: Objects, now: Instant) {
        self.0.insert(tap, (routes, now + WHILE));
    }

    /// What is still wanted of a tap whose port has gone; with a port there, or when
    /// its time is over, nothing.
    pub(crate) fn plan(&mut self, tap: IfName, port: bool, now: Instant) -> Objects {
        match self.0.get(&tap) {
            Some((routes, end)) if !port && *end > now => routes.clone(),
            _ => {
                self.0.remove(&tap);
                Objects::new()
            }
        }
    }

    /// Whether what comes for the last guest of a tap is still sent on.
    pub(crate) fn is_of(&self, tap: IfName) -> bool {
        self.0.contains_key(&tap)
    }

    /// Taps whose time is over.
    pub(crate) fn ripe(&self, now: Instant) -> impl Iterator<Item = IfName> {
        let over = self.0.iter().filter(move |(_, (_, end))| *end <= now);
        over.map(|(tap, _)| *tap)
    }

    /// When the next one's is.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.0.values().map(|(_, end)| *end).min()
    }
}

#[cfg(test)]
mod tests {
    use l2isolate_model::desired::{Key, Target, Value};

    use super::*;

    // For its time and no longer, and not beside a port that comes back.
    #[test]
    fn what_is_sent_on_ends() {
        let tap: IfName = "tap1".parse().unwrap();
        let key = Key::Route("10.252.0.5/32".parse().unwrap(), 7);
        let routes = Objects::from([(key, Value::Route(Target::Unreachable))]);
        let now = Instant::now();
        let mut aftermath = Aftermath::default();
        assert_eq!(aftermath.due(), None);
        aftermath.begin(tap, routes.clone(), now);
        assert_eq!(aftermath.due(), Some(now + WHILE));
        assert_eq!(aftermath.plan(tap, false, now + WHILE / 2), routes);
        assert!(aftermath.is_of(tap) && aftermath.ripe(now + WHILE / 2).next().is_none());
        assert_eq!(aftermath.ripe(now + WHILE).collect::<Vec<_>>(), [tap]);
        assert!(aftermath.plan(tap, false, now + WHILE).is_empty());
        assert!(!aftermath.is_of(tap));
        aftermath.begin(tap, routes, now);
        assert!(aftermath.plan(tap, true, now).is_empty());
        assert!(aftermath.plan(tap, false, now).is_empty());
    }
}
