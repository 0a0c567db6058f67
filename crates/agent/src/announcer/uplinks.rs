//! What uplinks carry, by the kernel's counters. Only they are looked at, so a
//! look costs the same however many taps there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use l2isolate_kernel::traffic::{Carried, Traffic};
use l2isolate_model::IfName;
use tracing::warn;

/// Packets in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Rate {
    pub(crate) received: f64,
    pub(crate) sent: f64,
}

/// Interfaces, and what they carried when this was looked at last.
pub(crate) struct Uplinks {
    /// Those that are named by the operator.
    names: Vec<String>,
    traffic: Option<Traffic>,
    last: Option<(Instant, BTreeMap<String, Carried>)>,
    rates: BTreeMap<String, Rate>,
}

impl Uplinks {
    /// In the calling thread's network namespace.
    pub(crate) fn new(names: &[IfName]) -> Self {
        let traffic = Traffic::open();
        let traffic = traffic.inspect_err(|error| warn!(%error, "what uplinks carry isn't known"));
        Self {
            names: names.iter().map(ToString::to_string).collect(),
            traffic: traffic.ok(),
            last: None,
            rates: BTreeMap::new(),
        }
    }

    /// Those that are named by the operator.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Looks now, also at `others`.
    pub(crate) fn sample(&mut self, now: Instant, others: &[&String]) {
        let Some(traffic) = &mut self.traffic else {
            return;
        };
        let names: BTreeSet<&str> = self
            .names
            .iter()
            .chain(others.iter().copied())
            .map(String::as_str)
            .collect();
        let carried = names
            .into_iter()
            // A peer may be named by its address.
            .filter_map(|name| Some((name.to_owned(), traffic.of(name.parse().ok()?)?)));
        let carried: BTreeMap<String, Carried> = carried.collect();
        if let Some((at, before)) = &self.last {
            let seconds = now.duration_since(*at).as_secs_f64().max(0.001);
            #[expect(clippy::cast_precision_loss, reason = "counts of seconds are small")]
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            let rates = carried.iter().filter_map(|(name, carried)| {
                let before = before.get(name)?;
                let rate = Rate {
                    received: rate(carried.received_packets, before.received_packets),
                    sent: rate(carried.sent_packets, before.sent_packets),
                };
                Some((name.clone(), rate))
            });
            self.rates = rates.collect();
        }
        self.last = Some((now, carried));
    }

    /// What an interface has carried and carries.
    pub(crate) fn of(&self, name: &str) -> Option<(Carried, Rate)> {
        let (_, carried) = self.last.as_ref()?;
        let rate = self.rates.get(name).copied().unwrap_or_default();
        Some((*carried.get(name)?, rate))
    }
}
