//! When to sync. Pure: clock and dice are parameters.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use l2isolate_model::IfName;

/// After these pauses a tap without a port is asked for, the first time at
/// once: Neutron has the port before the tap is made, so the first answer has
/// it, unless the database was read through a replica that lags.
const STRAY: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
];
/// After a failure, doubling.
const RETRY: Duration = Duration::from_secs(2);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// Why to sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// There is a connection, the first or another one.
    Connected,
    /// There is a queue for casts, the first or another one.
    Queue,
    /// A cast was lost.
    Gap,
    /// Neutron took the agent for dead.
    Revived,
    /// A tap has no port.
    Stray,
    /// A tap has gone, and so may have its port.
    TapGone,
    /// The last one failed.
    Failed,
    /// It is time.
    Time,
}

/// When to sync next.
#[derive(Debug)]
pub(crate) struct Schedule {
    interval: Duration,
    next: Option<(Instant, Why)>,
    failures: u32,
    /// Taps without a port, by index: how often they were asked for.
    strays: BTreeMap<IfName, (u32, usize)>,
}

impl Schedule {
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            interval,
            next: None,
            failures: 0,
            strays: BTreeMap::new(),
        }
    }

    /// A sync is wanted, at that time or earlier.
    pub(crate) fn want(&mut self, at: Instant, why: Why) {
        if self.next.is_none_or(|(next, _)| at < next) {
            self.next = Some((at, why));
        }
    }

    /// These taps have no port now.
    pub(crate) fn strays(&mut self, now: Instant, taps: impl Iterator<Item = (IfName, u32)>) {
        let mut strays = BTreeMap::new();
        let mut new = false;
        for (name, index) in taps {
            let asked = match self.strays.get(&name) {
                Some((known, asked)) if *known == index => *asked,
                _ => {
                    new = true;
                    0
                }
            };
            strays.insert(name, (index, asked));
        }
        self.strays = strays;
        if new {
            self.want(now, Why::Stray);
        }
    }

    /// When the next is due, and why.
    pub(crate) fn next(&self) -> Option<(Instant, Why)> {
        self.next
    }

    /// One is under way: what is wanted from here on is wanted after it.
    pub(crate) fn started(&mut self) {
        self.next = None;
        for (_, asked) in self.strays.values_mut() {
            *asked += 1;
        }
    }

    /// The one under way has told everything.
    pub(crate) fn succeeded(&mut self, now: Instant, dice: f64) {
        self.failures = 0;
        let pause = self.interval.mul_f64(0.75 + dice.clamp(0.0, 1.0) / 2.0);
        self.want(now + pause, Why::Time);
        let soonest = self
            .strays
            .values()
            .filter_map(|(_, asked)| STRAY.get(*asked));
        if let Some(pause) = soonest.min().copied() {
            self.want(now + pause, Why::Stray);
        }
    }

    /// The one under way has come to nothing.
    pub(crate) fn failed(&mut self, now: Instant, dice: f64) {
        let pause = RETRY.saturating_mul(1 << self.failures.min(8));
        self.failures += 1;
        let pause = pause.min(RETRY_MOST).min(self.interval.max(RETRY));
        let pause = pause.mul_f64(0.5 + dice.clamp(0.0, 1.0));
        // What was wanted sooner must wait as well.
        self.next = Some((now + pause, Why::Failed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn tap(name: &str) -> IfName {
        name.parse().unwrap()
    }

    #[test]
    fn syncs_come_by_interval_and_sooner_where_wanted() {
        let now = Instant::now();
        let mut schedule = Schedule::new(secs(300));
        assert_eq!(schedule.next(), None);
        schedule.want(now + secs(5), Why::Connected);
        schedule.want(now, Why::Stray);
        schedule.want(now + secs(9), Why::Time);
        assert_eq!(schedule.next(), Some((now, Why::Stray)));
        schedule.started();
        schedule.succeeded(now, 0.0);
        assert_eq!(schedule.next().unwrap().0, now + secs(225));
        schedule.started();
        // Something happens while it is under way: then another follows.
        schedule.want(now, Why::Revived);
        schedule.succeeded(now, 1.0);
        assert_eq!(schedule.next(), Some((now, Why::Revived)));
    }

    #[test]
    fn a_stray_is_asked_for_some_times_and_then_left() {
        let now = Instant::now();
        let mut schedule = Schedule::new(secs(300));
        let strays = |schedule: &mut Schedule, index| {
            schedule.strays(now, [(tap("tap1"), index)].into_iter());
        };
        let mut pauses = Vec::new();
        strays(&mut schedule, 7);
        for _ in 0..5 {
            pauses.push((schedule.next().unwrap().0 - now).as_secs());
            schedule.started();
            strays(&mut schedule, 7);
            schedule.succeeded(now, 0.5);
        }
        assert_eq!(pauses, [0, 2, 5, 15, 300]);
        // Another device under its name is a new one.
        strays(&mut schedule, 8);
        assert_eq!(schedule.next().unwrap().0, now);
    }

    #[test]
    fn failures_slow_down() {
        let now = Instant::now();
        let mut schedule = Schedule::new(secs(300));
        let mut pauses = Vec::new();
        for _ in 0..7 {
            schedule.started();
            schedule.want(now, Why::Stray);
            schedule.failed(now, 0.5);
            pauses.push((schedule.next().unwrap().0 - now).as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
        schedule.started();
        schedule.succeeded(now, 0.5);
        schedule.started();
        schedule.failed(now, 0.5);
        assert_eq!(schedule.next().unwrap().0, now + secs(2));
    }
}
