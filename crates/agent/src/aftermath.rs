//! Ports that go while their guests are followed: they are planned for a while as if
//! they were still bound here, since a control plane may say that a migration is over
//! before the fabric has heard all of it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use l2isolate_model::{IfName, port::CheckedPort};

/// How long: ten hops of 50 ms, with which FRR passes an update on, six times over.
const WHILE: Duration = Duration::from_secs(3);

/// The ports of guests that are followed, by their taps, and until when, if they are
/// bound here no more. Nothing of it outlives the agent: the next one takes the routes
/// for what nobody wants.
#[derive(Default)]
pub(crate) struct Aftermath(BTreeMap<IfName, (Arc<CheckedPort>, Option<Instant>)>);

impl Aftermath {
    /// What is bound here on a tap: a port whose guest is followed, or another one.
    pub(crate) fn know(&mut self, tap: IfName, followed: Option<Arc<CheckedPort>>) {
        match followed {
            Some(port) => drop(self.0.insert(tap, (port, None))),
            None => drop(self.0.remove(&tap)),
        }
    }

    /// The port to plan a tap for on which none is bound here: the last one, for its
    /// time.
    pub(crate) fn port(&mut self, tap: IfName, now: Instant) -> Option<Arc<CheckedPort>> {
        let (port, end) = self.0.get_mut(&tap)?;
        if *end.get_or_insert(now + WHILE) > now {
            return Some(Arc::clone(port));
        }
        self.0.remove(&tap);
        None
    }

    /// Taps whose time is over.
    pub(crate) fn ripe(&self, now: Instant) -> impl Iterator<Item = IfName> {
        let over = self.ends().filter(move |(_, end)| *end <= now);
        over.map(|(tap, _)| tap)
    }

    /// When the next one's is.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.ends().map(|(_, end)| end).min()
    }

    fn ends(&self) -> impl Iterator<Item = (IfName, Instant)> {
        self.0
            .iter()
            .filter_map(|(tap, (_, end))| Some((*tap, (*end)?)))
    }
}

#[cfg(test)]
mod tests {
    use l2isolate_model::{document, intent::Intent};

    use super::*;

    fn port(tap: IfName) -> Arc<CheckedPort> {
        let text = r#"{"version": 1,
            "subnets": [{"id": "44444444-0000-4000-8000-000000000004", "cidr": "10.252.0.0/24"}],
            "ports": [{"id": "00000001-0000-4000-8000-000000000001", "tap": "tap1",
                "mac": "fa:16:3e:00:00:01", "addresses": [{"address": "10.252.0.5",
                "subnet": "44444444-0000-4000-8000-000000000004"}]}]}"#;
        let mut intent = Intent::default();
        let parsed = document::parse(text.as_bytes(), "test.json".as_ref()).unwrap();
        intent.update(parsed.objects);
        Arc::clone(intent.on_tap(tap).unwrap())
    }

    // For its time and no longer, however often it is asked for; and only of a guest
    // that was followed to the end.
    #[test]
    fn a_port_that_was_followed_stays_for_a_while() {
        let tap: IfName = "tap1".parse().unwrap();
        let now = Instant::now();
        let mut aftermath = Aftermath::default();
        assert!(aftermath.port(tap, now).is_none());
        aftermath.know(tap, Some(port(tap)));
        assert_eq!(aftermath.due(), None, "it is bound here");
        for late in [Duration::ZERO, WHILE / 2] {
            assert!(aftermath.port(tap, now + late).is_some());
            assert_eq!(aftermath.due(), Some(now + WHILE));
        }
        assert_eq!(aftermath.ripe(now + WHILE / 2).count(), 0);
        assert_eq!(aftermath.ripe(now + WHILE).collect::<Vec<_>>(), [tap]);
        assert!(aftermath.port(tap, now + WHILE).is_none());
        assert_eq!(aftermath.due(), None);
        aftermath.know(tap, Some(port(tap)));
        aftermath.know(tap, None);
        assert!(aftermath.port(tap, now).is_none());
    }
}
