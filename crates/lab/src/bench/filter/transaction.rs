//! The same changes without the agent around them: no file, no inotify, no
//! thread to wake. What remains is what every source of intent pays: taking the
//! change in, planning, comparing, one transaction until it is acknowledged.
//!
//! It is the agent's own libraries that are called here, in its order. The
//! difference to what is seen from outside is what a directory of documents
//! costs; a source that says what changed doesn't pay it.

use std::time::{Duration, Instant};

use l2isolate_kernel::nft::Nft;
use l2isolate_model::{document, document::ObjectId, filter, intent};
use l2isolate_plan::filter::{FilterConfig, FilterRules, Owner, Plan, Planner, base};
use l2isolate_reconcile::Reconciler;
use serde_json::Value;

use crate::{Error, Result, netns};

/// A host's firewall, driven from here.
pub(super) struct Engine {
    intent: intent::Intent,
    planner: Planner,
    reconciler: Reconciler<FilterRules>,
    nft: Nft,
}

/// What a document says, read beforehand.
pub(super) type Changes = Vec<(ObjectId, intent::Change)>;

/// Reads a document.
pub(super) fn read(document: &Value) -> Result<Changes> {
    let text = document.to_string();
    let parsed = document::parse(text.as_bytes(), "bench.json".as_ref());
    let refused = |problem: &dyn std::fmt::Display| Error::Program(format!("{problem}"));
    Ok(parsed.map_err(|problem| refused(&problem))?.objects)
}

impl Engine {
    /// One in this namespace, with the base in the kernel.
    pub(super) fn open(namespace: &str) -> Result<Self> {
        let nft = netns::inside(namespace, Nft::open)?
            .map_err(|error| Error::Program(error.to_string()))?;
        let config = FilterConfig {
            owned: Nft::can_own(),
            ..FilterConfig::default()
        };
        let mut reconciler = Reconciler::default();
        reconciler.want(&Owner::Base, base(&config));
        reconciler.hold_deletions(false);
        let mut engine = Self {
            intent: intent::Intent::default(),
            planner: Planner::new(config),
            reconciler,
            nft,
        };
        engine.apply()?;
        Ok(engine)
    }

    /// Takes changes in, up to the kernel's acknowledgement; how long it took.
    pub(super) fn take(&mut self, changes: Changes) -> Result<Duration> {
        let started = Instant::now();
        let outcome = self.intent.update(changes);
        for (owner, plan) in self.planner.update(&self.intent, &outcome) {
            match plan {
                Plan::Whole(objects) => self.reconciler.want(&owner, objects),
                Plan::But(changes) => {
                    for (key, value) in changes {
                        self.reconciler.amend(&owner, key, value);
                    }
                }
            }
        }
        if self.apply()? == 0 {
            return Err(Error::Program(
                "a change of the intent changed no rule, so its time says nothing".to_owned(),
            ));
        }
        Ok(started.elapsed())
    }

    /// Lets the differences go; how many there were.
    fn apply(&mut self) -> Result<usize> {
        let mut count = 0;
        loop {
            let changes: Vec<l2isolate_reconcile::Change<filter::Key, filter::Value>> =
                self.reconciler.next(Instant::now());
            if changes.is_empty() {
                return Ok(count);
            }
            count += changes.len();
            let results = self.nft.apply(&changes, self.reconciler.observed());
            let now = Instant::now();
            for (change, result) in changes.iter().zip(results) {
                result.map_err(|error| Error::Program(error.to_string()))?;
                self.reconciler.done(now, change, Ok(()));
            }
        }
    }
}
