//! When to try an object again.

use std::time::{Duration, Instant};

/// First wait after a failure; doubles with each further one.
const FIRST: Duration = Duration::from_millis(50);
/// Longest wait between two tries.
const LONGEST: Duration = Duration::from_secs(30);
/// Longest wait before an object that others keep changing is mended.
const LONGEST_MEND: Duration = Duration::from_secs(1);
/// Changes back by others that are answered at once.
const PATIENCE: u32 = 8;
/// An object left alone for this long is no longer contested.
const PEACE: Duration = Duration::from_secs(10);

/// Why an object is not as desired, and when it will be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the backend said last.
    pub error: String,
    /// Tries since it last was in place.
    pub attempts: u32,
}

/// One object's history of failures and fights.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    failure: Option<Failure>,
    /// How often others undid what we had set, and when last.
    undone: u32,
    undone_at: Option<Instant>,
    /// When a failure, and when a fight, is over for now: each by itself, since
    /// what ends the one says nothing of the other.
    retry_at: Option<Instant>,
    mend_at: Option<Instant>,
}

impl Pace {
    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    pub(crate) fn contested(&self) -> bool {
        self.undone > PATIENCE
    }

    pub(crate) fn not_before(&self) -> Option<Instant> {
        self.retry_at.max(self.mend_at)
    }

    /// A try went wrong.
    pub(crate) fn failed(&mut self, now: Instant, error: String) {
        let attempts = self
            .failure
            .as_ref()
            .map_or(0, |f| f.attempts)
            .saturating_add(1);
        self.failure = Some(Failure { error, attempts });
        self.retry_at = Some(now + doubled(FIRST, attempts - 1, LONGEST));
    }

    /// A try went well.
    pub(crate) fn succeeded(&mut self) {
        self.failure = None;
        self.retry_at = None;
        self.mend_at = None;
    }

    /// Somebody undid what was in place.
    pub(crate) fn undone(&mut self, now: Instant) {
        let fresh = self
            .undone_at
            .is_some_and(|at| now.duration_since(at) < PEACE);
        self.undone = if fresh {
            self.undone.saturating_add(1)
        } else {
            1
        };
        self.undone_at = Some(now);
        if self.contested() {
            let wait = doubled(FIRST, self.undone - PATIENCE - 1, LONGEST_MEND);
            self.mend_at = Some(now + wait);
        }
    }

    /// The world has changed: what failed may go now. A fight goes on at its
    /// own pace.
    pub(crate) fn hurry(&mut self) {
        self.retry_at = None;
    }

    /// Nothing worth remembering.
    pub(crate) fn forgettable(&self, now: Instant) -> bool {
        let quiet = self
            .undone_at
            .is_none_or(|at| now.duration_since(at) >= PEACE);
        self.failure.is_none() && quiet
    }
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(longest)
}
