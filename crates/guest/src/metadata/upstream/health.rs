//! Which of several servers to ask first: those whose last answer was one.
//!
//! Nothing is asked only to see whether it answers: guests' requests tell. A
//! server that fails is passed over for a while, longer each time, and asked
//! all the same where no other is left.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// What is known of a server.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Health {
    failures: u32,
    until: Option<Instant>,
}

impl Health {
    /// It has answered. True if before it had not.
    pub(super) fn worked(&mut self) -> bool {
        std::mem::take(self).failures > 0
    }

    /// It has not answered. True if before it had.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        let doubled = FIRST.saturating_mul(1 << self.failures.min(10));
        self.until = Some(now + doubled.min(LONGEST));
        self.failures = self.failures.saturating_add(1);
        self.failures == 1
    }

    fn passed_over(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
}

/// The order in which to ask servers, by their places: beginning at `first`,
/// and those that are passed over last, the one that is due soonest first.
pub(super) fn order(servers: &[Health], first: usize, now: Instant) -> Vec<usize> {
    let count = servers.len();
    let mut places: Vec<usize> = (0..count).map(|n| (first % count + n) % count).collect();
    places.sort_by_key(|place| servers.get(*place).and_then(|one| one.passed_over(now)));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_fail_come_last() {
        let now = Instant::now();
        let mut servers = [Health::default(); 3];
        assert_eq!(order(&servers, 1, now), [1, 2, 0]);
        assert!(servers[1].failed(now));
        assert!(!servers[1].failed(now));
        assert!(servers[2].failed(now));
        // The first one has failed twice and is due later.
        assert_eq!(order(&servers, 1, now), [0, 2, 1]);
        assert_eq!(order(&servers, 1, now + FIRST), [2, 0, 1]);
        assert!(servers[1].worked());
        assert!(!servers[1].worked());
        assert_eq!(order(&servers, 1, now), [1, 0, 2]);
        assert_eq!(order(&[], 0, now), [0; 0]);
    }

    /// It doubles, and ends somewhere.
    #[test]
    fn a_server_is_asked_again_at_last() {
        let now = Instant::now();
        let mut server = Health::default();
        for _ in 0..100 {
            server.failed(now);
        }
        assert_eq!(server.passed_over(now + LONGEST), None);
        assert!(server.passed_over(now + LONGEST / 2).is_some());
    }
}
