//! How long to wait for a reply, and between tries: neutron's rules for clients
//! of an overloaded server (`neutron_lib/rpc.py`, `BackingOffClient`).
//!
//! Each time-out of a method doubles the next time-out of that method up to a
//! maximum, and the next try waits a random time before it, so that a thousand
//! agents don't come back at once. Pure: clock and dice are parameters.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The time-outs of a client's methods.
#[derive(Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    methods: Mutex<HashMap<String, Method>>,
}

#[derive(Debug, Clone, Copy)]
struct Method {
    timeout: Duration,
    /// No try before this.
    not_before: Option<Instant>,
}

impl Backoff {
    /// `base` is what a method has that never timed out (oslo's
    /// `rpc_response_timeout`, 60 s), `max` the most it can come to (neutron's
    /// `rpc_response_max_timeout`, 600 s).
    #[must_use]
    pub fn new(base: Duration, max: Duration) -> Self {
        Self {
            base,
            max: max.max(base),
            methods: Mutex::default(),
        }
    }

    /// The time-out for the next call of a method, and how long to wait before it.
    #[must_use]
    pub fn next(&self, method: &str, now: Instant) -> (Duration, Duration) {
        let methods = self.methods.lock().unwrap_or_else(PoisonError::into_inner);
        methods
            .get(method)
            .map_or((self.base, Duration::ZERO), |known| {
                let at = known.not_before.unwrap_or(now);
                (known.timeout, at.saturating_duration_since(now))
            })
    }

    /// A call has timed out after `waited`, which [`next`](Self::next) gave it;
    /// of several that were under way together one counts. `dice` is from 0 to
    /// 1. Returns the next time-out, and how long the next call will wait.
    pub fn timed_out(
        &self,
        method: &str,
        waited: Duration,
        now: Instant,
        dice: f64,
    ) -> (Duration, Duration) {
        let mut methods = self.methods.lock().unwrap_or_else(PoisonError::into_inner);
        let known = methods.entry(method.to_owned()).or_insert(Method {
            timeout: self.base,
            not_before: None,
        });
        if waited >= known.timeout {
            let pause = known.timeout.min(self.base).mul_f64(dice.clamp(0.0, 1.0));
            known.timeout = known.timeout.saturating_mul(2).min(self.max);
            known.not_before = Some(now + pause);
        }
        let pause = known.not_before.map(|at| at.saturating_duration_since(now));
        (known.timeout, pause.unwrap_or_default())
    }

    /// A call was answered after `took`. Neutron's own agents keep a raised
    /// time-out until they are restarted; here it falls again, by halves, where
    /// the server answers in less than half of it.
    pub fn answered(&self, method: &str, took: Duration) {
        let mut methods = self.methods.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = methods.get_mut(method) {
            known.not_before = None;
            if took < known.timeout / 2 {
                known.timeout = (known.timeout / 2).max(self.base);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn time_outs_double_by_method_and_fall_again() {
        let backoff = Backoff::new(secs(60), secs(600));
        let now = Instant::now();
        assert_eq!(backoff.next("sync", now), (secs(60), secs(0)));
        let mut timeouts = Vec::new();
        for _ in 0..5 {
            let (waited, _) = backoff.next("sync", now);
            let (next, _) = backoff.timed_out("sync", waited, now, 0.5);
            timeouts.push(next.as_secs());
            // Another one that was sent together with it.
            let (same, _) = backoff.timed_out("sync", waited.min(secs(599)), now, 0.9);
            assert_eq!(same, next);
        }
        assert_eq!(timeouts, [120, 240, 480, 600, 600]);
        // The pause is never longer than the base, and it passes.
        assert_eq!(backoff.next("sync", now), (secs(600), secs(30)));
        assert_eq!(backoff.next("sync", now + secs(31)), (secs(600), secs(0)));
        assert_eq!(backoff.next("report_state", now), (secs(60), secs(0)));
        // A slow answer keeps it, a quick one halves it.
        backoff.answered("sync", secs(400));
        assert_eq!(backoff.next("sync", now), (secs(600), secs(0)));
        for expected in [300, 150, 75, 60, 60] {
            backoff.answered("sync", secs(1));
            assert_eq!(backoff.next("sync", now).0, secs(expected));
        }
    }
}
