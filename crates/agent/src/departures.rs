//! Guests that leave by live migration: how far their announcement has come on its
//! way to be the last choice. [`l2isolate_plan::migration`] says why it takes steps;
//! here is the time between two.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use l2isolate_model::{
    IfName,
    desired::{Key, Target, Value},
};
use l2isolate_plan::{Config, Standing};

/// Who leaves.
pub(crate) struct Departures {
    last: u8,
    pause: Duration,
    /// Steps that an earlier agent had come to: the installed route is the memory.
    found: BTreeMap<IfName, u8>,
    /// The step, and since when.
    steps: BTreeMap<IfName, (u8, Instant)>,
}

impl Departures {
    /// Nobody leaves. Whose routes are those of a step has come to it.
    pub(crate) fn start<'a>(
        objects: impl Iterator<Item = (&'a Key, &'a Value)>,
        config: &Config,
        pause: Duration,
    ) -> Self {
        let mut found = BTreeMap::new();
        for (key, value) in objects {
            if let (Key::Route(_, metric), Value::Route(Target::Device(tap))) = (key, value)
                && let Some(Standing::Leaving(step)) = config.standing(*metric)
            {
                let known = found.entry(*tap).or_default();
                *known = step.max(*known);
            }
        }
        Self {
            last: config.leaving_steps,
            pause,
            found,
            steps: BTreeMap::new(),
        }
    }

    /// The step of a tap's guest, the next one if it is time. `leaves`: it does, or
    /// has left; a step is forgotten once it doesn't.
    pub(crate) fn plan(&mut self, tap: IfName, leaves: bool, now: Instant) -> u8 {
        let found = self.found.remove(&tap);
        if !leaves {
            self.steps.remove(&tap);
            return 1;
        }
        let (step, since) = self.steps.entry(tap).or_insert((found.unwrap_or(1), now));
        if *step < self.last && now >= *since + self.pause {
            (*step, *since) = (*step + 1, now);
        }
        *step
    }

    /// Taps whose next step it is time for.
    pub(crate) fn ripe(&self, now: Instant) -> impl Iterator<Item = IfName> {
        self.waiting()
            .filter(move |(_, due)| *due <= now)
            .map(|(tap, _)| tap)
    }

    /// When the next step is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.waiting().map(|(_, due)| due).min()
    }

    fn waiting(&self) -> impl Iterator<Item = (IfName, Instant)> {
        let steps = self.steps.iter();
        steps
            .filter(|(_, (step, _))| *step < self.last)
            .map(|(tap, (_, since))| (*tap, *since + self.pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Whoever leaves takes each step no sooner than the pause after the one
    // before; an agent that was killed goes on from the step that the routes
    // show, and has the switches the pause once more.
    #[test]
    fn steps_are_taken_one_by_one() {
        let tap: IfName = "tap1".parse().unwrap();
        let config = config();
        let pause = Duration::from_secs(1);
        let now = Instant::now();
        let mut fresh = Departures::start(std::iter::empty(), &config, pause);
        assert_eq!((fresh.plan(tap, false, now), fresh.due()), (1, None));
        assert_eq!(fresh.plan(tap, true, now), 1);
        assert_eq!(fresh.due(), Some(now + pause));
        assert_eq!(fresh.plan(tap, true, now + pause / 2), 1);
        assert_eq!(fresh.ripe(now + pause).collect::<Vec<_>>(), [tap]);
        for (late, step) in [(5, 2), (5, 2), (6, 3), (9, 3)] {
            assert_eq!(fresh.plan(tap, true, now + late * pause), step);
        }
        assert_eq!(fresh.due(), None);

        let route = |metric| {
            let key = Key::Route("10.252.0.5/32".parse().unwrap(), metric);
            (key, Value::Route(Target::Device(tap)))
        };
        let (key, value) = route(config.leaving_metric(2));
        let mut next = Departures::start([(&key, &value)].into_iter(), &config, pause);
        assert_eq!(next.plan(tap, true, now), 2);
        assert_eq!(next.plan(tap, true, now + pause), 3);
        // Called off, and begun once more.
        assert_eq!(next.plan(tap, false, now), 1);
        assert_eq!(next.plan(tap, true, now), 1);
    }

    fn config() -> Config {
        Config {
            route_metric: 5,
            leaving_steps: 3,
            loopbacks: Vec::new(),
            tap_mac: "02:00:00:00:00:01".parse().unwrap(),
            gateway_link_local: "fe80::1".parse().unwrap(),
            dhcp: false,
            metadata: false,
            manage_host: false,
            connections: None,
            tunnel: None,
        }
    }
}
