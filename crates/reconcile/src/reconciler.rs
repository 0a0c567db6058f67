//! The two maps, what differs between them, and what to do next.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use crate::{
    LAST, Rules,
    pace::{Failure, Pace},
};

/// One thing for the backend to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<K, V> {
    /// Make the object so, whether it is there or not.
    Set(K, V),
    /// Remove the object.
    Delete(K),
}

impl<K, V> Change<K, V> {
    /// The object that it is about.
    pub fn key(&self) -> &K {
        match self {
            Self::Set(key, _) | Self::Delete(key) => key,
        }
    }
}

/// An object that is not as desired.
#[derive(Debug)]
pub struct Difference<'a, R: Rules> {
    /// Which.
    pub key: &'a R::Key,
    /// What it shall be; `None`: not there.
    pub desired: Option<&'a R::Value>,
    /// What it is; `None`: not there.
    pub observed: Option<&'a R::Value>,
    /// The last try's failure, if one failed.
    pub failure: Option<&'a Failure>,
    /// Others keep undoing it.
    pub contested: bool,
}

/// What was done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Changes that the backend carried out.
    pub written: u64,
    /// Changes that it refused.
    pub failed: u64,
    /// Objects in place that somebody else changed or removed.
    pub undone: u64,
}

#[derive(Debug)]
struct Wanted<R: Rules> {
    value: R::Value,
    owner: R::Owner,
}

/// The engine; see the crate's head.
#[derive(Debug)]
pub struct Reconciler<R: Rules> {
    desired: BTreeMap<R::Key, Wanted<R>>,
    owners: BTreeMap<R::Owner, BTreeSet<R::Key>>,
    observed: BTreeMap<R::Key, R::Value>,
    /// The keys in which the two differ; nothing else is looked at by `next`.
    pending: BTreeSet<R::Key>,
    /// Keys that count as different until they have been set once more.
    again: BTreeSet<R::Key>,
    paces: BTreeMap<R::Key, Pace>,
    holding: bool,
    totals: Totals,
}

impl<R: Rules> Default for Reconciler<R> {
    /// Empty, and holding deletions until told otherwise.
    fn default() -> Self {
        Self {
            desired: BTreeMap::new(),
            owners: BTreeMap::new(),
            observed: BTreeMap::new(),
            pending: BTreeSet::new(),
            again: BTreeSet::new(),
            paces: BTreeMap::new(),
            holding: true,
            totals: Totals::default(),
        }
    }
}

impl<R: Rules> Reconciler<R> {
    /// Replaces all that `owner` wants. An object that moves from one owner to
    /// another belongs to whoever wanted it last.
    pub fn want(
        &mut self,
        owner: &R::Owner,
        objects: impl IntoIterator<Item = (R::Key, R::Value)>,
    ) {
        let mut left = self.owners.remove(owner).unwrap_or_default();
        let mut keys = BTreeSet::new();
        for (key, value) in objects {
            left.remove(&key);
            keys.insert(key.clone());
            let wanted = Wanted {
                value,
                owner: owner.clone(),
            };
            let old = self.desired.insert(key.clone(), wanted);
            let same = old.is_some_and(|old| {
                self.desired
                    .get(&key)
                    .is_some_and(|new| old.value == new.value)
            });
            if !same {
                self.hurry_key(&key);
            }
            self.compare(&key);
        }
        for key in left {
            self.unwant(owner, &key);
        }
        if !keys.is_empty() {
            self.owners.insert(owner.clone(), keys);
        }
    }

    /// Changes one object of all that `owner` wants; `None`: it wants it no
    /// more. For owners of so many objects that naming all of them costs.
    pub fn amend(&mut self, owner: &R::Owner, key: R::Key, value: Option<R::Value>) {
        let keys = self.owners.entry(owner.clone()).or_default();
        if let Some(value) = value {
            keys.insert(key.clone());
            let owner = owner.clone();
            self.desired.insert(key.clone(), Wanted { value, owner });
            self.hurry_key(&key);
            self.compare(&key);
        } else {
            keys.remove(&key);
            if keys.is_empty() {
                self.owners.remove(owner);
            }
            self.unwant(owner, &key);
        }
    }

    /// The owner wants an object no more; another one may want it by now.
    fn unwant(&mut self, owner: &R::Owner, key: &R::Key) {
        let wanted = self.desired.get(key);
        if wanted.is_some_and(|wanted| wanted.owner == *owner) {
            self.desired.remove(key);
            self.again.remove(key);
            self.hurry_key(key);
            self.compare(key);
        }
    }

    /// Takes in what an object is now; `None`: it isn't there.
    pub fn observe(&mut self, now: Instant, key: R::Key, value: Option<R::Value>) {
        let was_in_place = self.desired.contains_key(&key) && !self.pending.contains(&key);
        match value {
            Some(value) => self.observed.insert(key.clone(), value),
            None => self.observed.remove(&key),
        };
        self.compare(&key);
        if was_in_place && self.pending.contains(&key) {
            self.totals.undone += 1;
            self.paces.entry(key).or_default().undone(now);
        }
    }

    /// Has an object set again, although it is there, if it is wanted. Nobody has
    /// undone it; and if it is wanted no more by then, it is deleted as ever.
    pub fn redo(&mut self, key: &R::Key) {
        if self.desired.contains_key(key) {
            self.again.insert(key.clone());
            self.compare(key);
        }
    }

    /// Takes in all that there is: what isn't in `objects` isn't there.
    pub fn observe_all(&mut self, now: Instant, objects: BTreeMap<R::Key, R::Value>) {
        let absent: Vec<R::Key> = self
            .observed
            .keys()
            .filter(|key| !objects.contains_key(key))
            .cloned()
            .collect();
        for key in absent {
            self.observe(now, key, None);
        }
        for (key, value) in objects {
            self.observe(now, key, Some(value));
        }
        self.paces.retain(|_, pace| !pace.forgettable(now));
    }

    /// What is observed.
    #[must_use]
    pub fn observed(&self) -> &BTreeMap<R::Key, R::Value> {
        &self.observed
    }

    /// What is desired, with who wants it.
    pub fn desired(&self) -> impl Iterator<Item = (&R::Key, &R::Value, &R::Owner)> {
        self.desired
            .iter()
            .map(|(key, wanted)| (key, &wanted.value, &wanted.owner))
    }

    /// What an object shall be.
    #[must_use]
    pub fn wanted(&self, key: &R::Key) -> Option<&R::Value> {
        self.desired.get(key).map(|wanted| &wanted.value)
    }

    /// The last object up to `key`, in the order of keys, that somebody wants.
    #[must_use]
    pub fn last_wanted_up_to(&self, key: &R::Key) -> Option<&R::Key> {
        self.desired.range(..=key).next_back().map(|(key, _)| key)
    }

    /// Whether the owner wants any object.
    #[must_use]
    pub fn wants_anything(&self, owner: &R::Owner) -> bool {
        self.owners.contains_key(owner)
    }

    /// The objects that an owner wants.
    pub fn wanted_by(&self, owner: &R::Owner) -> impl Iterator<Item = &R::Key> {
        self.owners.get(owner).into_iter().flatten()
    }

    /// Who wants the object.
    #[must_use]
    pub fn owner(&self, key: &R::Key) -> Option<&R::Owner> {
        self.desired.get(key).map(|wanted| &wanted.owner)
    }

    /// Holds deletions back, or lets them go.
    pub fn hold_deletions(&mut self, hold: bool) {
        self.holding = hold;
    }

    /// The changes that can be made now, in order. The caller applies them in
    /// that order and says of each what came of it with [`Self::done`]; what
    /// waits for one of them comes with the next call.
    #[must_use]
    pub fn next(&self, now: Instant) -> Vec<Change<R::Key, R::Value>> {
        let ready = |key: &&R::Key| {
            self.pace(key)
                .and_then(Pace::not_before)
                .is_none_or(|at| at <= now)
        };
        let mut sets = Vec::new();
        let mut deletes = Vec::new();
        for key in self.pending.iter().filter(ready) {
            match self.desired.get(key) {
                Some(wanted) if self.waits(key, wanted) => {}
                Some(wanted) => sets.push((R::order(key, Some(&wanted.value)), key, &wanted.value)),
                None if self.holding => {}
                None => deletes.push((R::order(key, None), key)),
            }
        }
        // Both sorts are stable, so equal ranks stay in the order of their keys.
        sets.sort_by_key(|(rank, ..)| *rank);
        deletes.sort_by_key(|(rank, _)| Reverse(*rank));
        let last = sets.split_off(sets.partition_point(|(rank, ..)| *rank < LAST));
        let set =
            |(_, key, value): (u8, &R::Key, &R::Value)| Change::Set(key.clone(), value.clone());
        let deletes = deletes
            .into_iter()
            .map(|(_, key)| Change::Delete(key.clone()));
        sets.into_iter()
            .map(set)
            .chain(deletes)
            .chain(last.into_iter().map(set))
            .collect()
    }

    /// Says what came of a change.
    pub fn done(
        &mut self,
        now: Instant,
        change: &Change<R::Key, R::Value>,
        result: Result<(), String>,
    ) {
        let key = change.key();
        if let Err(error) = result {
            self.totals.failed += 1;
            self.paces
                .entry(key.clone())
                .or_default()
                .failed(now, error);
            return;
        }
        self.totals.written += 1;
        self.again.remove(key);
        if let Some(pace) = self.paces.get_mut(key) {
            pace.succeeded();
            if pace.forgettable(now) {
                self.paces.remove(key);
            }
        }
        match change {
            Change::Set(key, value) => self.observed.insert(key.clone(), value.clone()),
            Change::Delete(key) => self.observed.remove(key),
        };
        self.compare(key);
        // What failed beside it may have failed for want of it.
        if !self.paces.is_empty()
            && let Some(owner) = self.owner(key).cloned()
        {
            self.hurry(&owner);
        }
    }

    /// When the next change that has to wait after `now` is due.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let waits = self
            .pending
            .iter()
            .filter_map(|key| self.pace(key)?.not_before());
        waits.filter(|at| *at > now).min()
    }

    /// Something about the owner has changed: what failed for it is tried
    /// again at once.
    pub fn hurry(&mut self, owner: &R::Owner) {
        let keys = self.owners.get(owner).into_iter().flatten();
        for key in keys {
            if let Some(pace) = self.paces.get_mut(key) {
                pace.hurry();
            }
        }
    }

    /// All objects that are not as desired. Deletions that are held count.
    pub fn differences(&self) -> impl Iterator<Item = Difference<'_, R>> {
        self.pending.iter().map(|key| self.difference(key))
    }

    /// What is not yet as `owner` wants it.
    pub fn differences_of(&self, owner: &R::Owner) -> impl Iterator<Item = Difference<'_, R>> {
        let keys = self.owners.get(owner).into_iter().flatten();
        keys.filter(|key| self.pending.contains(key))
            .map(|key| self.difference(key))
    }

    /// What was done since the start.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    fn difference<'a>(&'a self, key: &'a R::Key) -> Difference<'a, R> {
        let pace = self.pace(key);
        Difference {
            key,
            desired: self.desired.get(key).map(|wanted| &wanted.value),
            observed: self.observed.get(key),
            failure: pace.and_then(Pace::failure),
            contested: pace.is_some_and(Pace::contested),
        }
    }

    fn pace(&self, key: &R::Key) -> Option<&Pace> {
        self.paces.get(key)
    }

    fn hurry_key(&mut self, key: &R::Key) {
        if let Some(pace) = self.paces.get_mut(key) {
            pace.hurry();
        }
    }

    fn waits(&self, key: &R::Key, wanted: &Wanted<R>) -> bool {
        if !R::may_wait(key, &wanted.value) {
            return false;
        }
        let siblings = self.owners.get(&wanted.owner).into_iter().flatten();
        siblings
            .filter(|other| self.pending.contains(other))
            .any(|other| R::waits_for(key, &wanted.value, other))
    }

    /// Keeps `pending` true for one key.
    fn compare(&mut self, key: &R::Key) {
        let differs = match (self.desired.get(key), self.observed.get(key)) {
            (Some(wanted), Some(observed)) => {
                self.again.contains(key) || !R::satisfies(&wanted.value, observed)
            }
            (Some(_), None) => true,
            (None, Some(_)) => R::deletable(key),
            (None, None) => false,
        };
        if differs {
            if !self.pending.contains(key) {
                self.pending.insert(key.clone());
            }
        } else if self.pending.remove(key)
            && let Some(pace) = self.paces.get_mut(key)
        {
            pace.succeeded();
        }
    }
}
