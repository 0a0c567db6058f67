//! Single objects that are to be asked for, and when. Pure.

use std::{collections::BTreeMap, time::Instant};

use l2isolate_model::document::ObjectId;

/// What is doubted, each with the time from which on it is to be asked for.
#[derive(Debug, Default)]
pub(crate) struct Doubts(BTreeMap<ObjectId, Instant>);

impl Doubts {
    /// It is to be asked for at that time; sooner if that was so.
    pub(crate) fn want(&mut self, id: ObjectId, at: Instant) {
        let when = self.0.entry(id).or_insert(at);
        *when = at.min(*when);
    }

    /// There is none of it any more.
    pub(crate) fn settle(&mut self, id: &ObjectId) {
        self.0.remove(id);
    }

    /// Whatever is answered to a question for everything is none any more.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// What is doubted.
    pub(crate) fn all(&self) -> impl Iterator<Item = &ObjectId> {
        self.0.keys()
    }

    /// When the first is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }

    /// Takes out what is due.
    pub(crate) fn take(&mut self, now: Instant) -> Vec<ObjectId> {
        let due = self.0.extract_if(.., |_, at| *at <= now);
        due.map(|(id, _)| id).collect()
    }
}
