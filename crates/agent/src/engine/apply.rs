//! Writing differences, and saying of each owner what came of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use l2isolate_kernel::ApplyError;
use l2isolate_model::{
    IfName,
    desired::{Key, Target, Value},
    port::CheckedPort,
};
use l2isolate_plan::Owner;
use tracing::{debug, info, warn};

use super::Engine;

impl Engine {
    pub(super) fn apply(
        &mut self,
        changes: &[l2isolate_reconcile::Change<Key, Value>],
        work: &mut BTreeMap<Owner, Work>,
    ) {
        let started = Instant::now();
        let owners: Vec<Owner> = changes
            .iter()
            .map(|change| self.owner(change.key()))
            .collect();
        let results = self.kernel.apply(changes);
        let now = Instant::now();
        let mut failed = BTreeSet::new();
        let share = (now - started) / u32::try_from(changes.len()).unwrap_or(u32::MAX).max(1);
        for ((change, result), owner) in changes.iter().zip(results).zip(owners) {
            let work = work.entry(owner).or_default();
            work.time += share;
            match result {
                Ok(()) => {
                    work.written += 1;
                    self.reconciler.done(now, change, Ok(()));
                }
                // This kernel, or this namespace, doesn't have the setting.
                Err(ApplyError::Absent(_)) if matches!(change.key(), Key::Sysctl(_, None)) => {
                    self.reconciler
                        .observe(now, *change.key(), Some(Value::Unavailable));
                }
                Err(failure) => {
                    self.log_failure(owner, &failure);
                    self.reconciler.done(now, change, Err(failure.to_string()));
                    if let Owner::Tap(tap) = owner {
                        failed.insert(tap);
                    }
                }
            }
        }
        // A setting that somebody changed without a word of the kernel's may be
        // why: IPv6 that is switched off refuses addresses and routes.
        for tap in failed {
            if self.reconciler.wants_anything(&Owner::Tap(tap)) {
                self.read_settings(tap);
            }
        }
    }

    /// Who wants the object, or had it. A floor is whose route it is behind.
    pub(crate) fn owner(&self, key: &Key) -> Owner {
        let observed = self.reconciler.observed();
        let device = |key: &Key| match observed.get(key) {
            Some(Value::Route(Target::Device(tap))) => Some(*tap),
            _ => None,
        };
        let routed = || match key {
            Key::Route(prefix, _) => {
                let metrics = self.config.announced_metrics();
                let mut above = metrics.map(|metric| Key::Route(*prefix, metric));
                device(key).or_else(|| above.find_map(|route| device(&route)))
            }
            _ => None,
        };
        self.reconciler
            .owner(key)
            .copied()
            .or_else(|| key.device().or_else(routed).map(Owner::Tap))
            .unwrap_or(Owner::Host)
    }

    pub(super) fn log_failure(&self, owner: Owner, failure: &ApplyError) {
        match owner {
            Owner::Host => warn!(%failure, "can't set"),
            // Whoever made it is taking it away; its own event says the rest.
            Owner::Tap(tap) if matches!(failure, ApplyError::Absent(_)) => {
                debug!(port = self.port_name(tap), %tap, %failure, "the tap went");
            }
            Owner::Tap(tap) => {
                let port = self.port_name(tap);
                warn!(port, %tap, %failure, "can't set; will try again");
            }
        }
    }

    pub(super) fn report(&self, owner: Owner, work: &Work) {
        let us = u64::try_from(work.time.as_micros()).unwrap_or(u64::MAX);
        let written = work.written;
        let Owner::Tap(tap) = owner else {
            info!(written, us, "wrote what is of no tap");
            return;
        };
        let left = self.reconciler.differences_of(&owner).count();
        let port = self.port_name(tap);
        match self.intent.on_tap(tap) {
            _ if left > 0 => warn!(port, %tap, written, left, us, "not all in place yet"),
            Some(checked) if checked.port.admin_state_up => info!(port, %tap, written, us, "wired"),
            Some(_) => info!(port, %tap, written, us, "switched off: administratively down"),
            None => info!(%tap, written, us, "cleared"),
        }
    }

    pub(super) fn port_name(&self, tap: IfName) -> &str {
        self.intent
            .on_tap(tap)
            .map_or("", |checked: &std::sync::Arc<CheckedPort>| {
                checked.port.id.as_str()
            })
    }
}

/// What was done for one owner in one go, for its log line.
#[derive(Default)]
pub(super) struct Work {
    written: usize,
    time: Duration,
}
