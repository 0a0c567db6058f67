//! What was told downstream, and how what the directory says now differs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use l2isolate_model::{document::ObjectId, intent::Change};

use super::{Options, file::Named, tree::Tree};
use crate::guard::Guard;

/// What was told.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Each object in force, as it was told; empty for those of the cache.
    told: BTreeMap<ObjectId, Named>,
    /// How many of them are ports.
    ports: usize,
    /// What the cache had and no file names so far.
    orphans: BTreeSet<ObjectId>,
    pub(crate) guard: Guard,
}

impl Ledger {
    pub(crate) fn new(options: &Options) -> Self {
        let known = &options.known;
        Self {
            told: known
                .iter()
                .map(|id| (id.clone(), Named::default()))
                .collect(),
            ports: known.iter().filter(|id| is_port(id)).count(),
            orphans: known.clone(),
            guard: Guard::new(options.grace, options.window),
        }
    }

    /// What is to be told now.
    pub(crate) fn settle(&mut self, now: Instant, tree: &mut Tree) -> Vec<(ObjectId, Change)> {
        let mut dirty = tree.take_dirty();
        // What only the cache knows may be in a file that can't be understood.
        self.orphans.retain(|id| !tree.names(id));
        if tree.is_understood() {
            dirty.append(&mut self.orphans);
        }
        let mut changes = Vec::new();
        let mut gone = Vec::new();
        for id in dirty {
            if let Some(named) = tree.say(&id) {
                self.guard.present(&id);
                self.tell(id, named, &mut changes);
            } else if self.told.contains_key(&id) {
                gone.push(id);
            }
        }
        for id in self.guard.judge(now, self.ports, gone) {
            if self.told.remove(&id).is_some() {
                self.ports = self.ports.saturating_sub(usize::from(is_port(&id)));
                changes.push((id, Change::Gone));
            }
        }
        changes
    }

    fn tell(&mut self, id: ObjectId, named: Named, changes: &mut Vec<(ObjectId, Change)>) {
        let is_port = is_port(&id);
        let told = self.told.entry(id.clone()).or_insert_with(|| {
            self.ports += usize::from(is_port);
            Named::default()
        });
        let mended = told.bad.is_some() && named.bad.is_none();
        let mut spoilt = told.bad != named.bad;
        if let Some((object, origin)) = named.good
            && (mended || told.good.as_ref() != Some(&(object.clone(), origin.clone())))
        {
            told.good = Some((object.clone(), origin.clone()));
            changes.push((id.clone(), Change::Set { object, origin }));
            // A good version takes back what was said against it.
            spoilt = true;
        }
        told.bad = named.bad;
        if let Some(problem) = told.bad.clone().filter(|_| spoilt) {
            changes.push((id, Change::Bad(problem)));
        }
    }
}

fn is_port(id: &ObjectId) -> bool {
    matches!(id, ObjectId::Port(_))
}
