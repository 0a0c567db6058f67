//! What casts bring, and what they leave in doubt.
//!
//! A cast is taken by the time of its reading, differences by the digest at
//! which they end (`ledger`, `groups`). Whatever can't be told from what came is
//! asked for, object by object, a moment later: others may be about to do the
//! same, and the rest may be on its way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use l2isolate_model::{
    document::{Object, ObjectId},
    intent::Change,
};
use l2isolate_oslo::{Cast, Version};
use serde_json::{Map, Value};

use super::{
    groups::Outcome,
    ledger::Changes,
    schedule::Why,
    wire::{self, News},
    worker::Worker,
};

/// Before what is in doubt is asked for: what is missing may be on its way.
const PATIENCE: Duration = Duration::from_millis(200);
/// And so much more at most, by chance, so that not all hosts ask at once;
const SPREAD: Duration = Duration::from_millis(800);
/// of large groups more, since these take the server's time.
const SPREAD_OF_MEMBER: Duration = Duration::from_millis(1);
/// What casts say of a port's status may be older than a report of this age.
const REPORTED: Duration = Duration::from_secs(2);
/// So many senders are remembered.
const SENDERS: usize = 20_000;
/// Version of the method that servers call.
const METHOD: Version = Version::new(1, 0);

/// How many messages each sender has sent to this host. (What is told of groups
/// says by its digest whether something was left out.)
#[derive(Debug, Default)]
pub(super) struct Numbers(BTreeMap<String, u64>);

impl Numbers {
    /// Whether one was left out before this.
    fn gap(&mut self, sender: &str, number: u64) -> bool {
        let Some(last) = self.0.get_mut(sender) else {
            if self.0.len() >= SENDERS {
                self.0.clear();
            }
            self.0.insert(sender.to_owned(), number);
            return false;
        };
        let gap = number > last.saturating_add(1);
        *last = number.max(*last);
        gap
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// The routing key of what is told of a group.
fn key(id: &ObjectId) -> Option<String> {
    match id {
        ObjectId::Group(id) => Some(format!("l2isolate-group.{id}")),
        ObjectId::AddressGroup(id) => Some(format!("l2isolate-address-group.{id}")),
        ObjectId::Port(_) | ObjectId::Subnet(_) => None,
    }
}

/// The routing key of what is told to a host.
pub(super) fn host_key(host: &str) -> String {
    format!("l2isolate-agent.{host}")
}

fn soon(elements: usize) -> Duration {
    let members = u32::try_from(elements).unwrap_or(u32::MAX);
    let spread = SPREAD + SPREAD_OF_MEMBER.saturating_mul(members);
    PATIENCE + spread.mul_f64(fastrand::f64())
}

impl Worker {
    /// There is another queue, or it is bound to other keys, or there is none.
    pub(super) fn look_at_queue(&mut self) {
        let bound = self.bound.borrow_and_update().clone();
        if let Some(bound) = &bound
            && bound.queue != self.queue
        {
            self.queue = bound.queue;
            self.numbers.clear();
            self.schedule.want(Instant::now(), Why::Queue);
        }
    }

    /// The queue's keys follow what is known, and what is asked for.
    pub(super) fn follow(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let used = self.devices.groups().cloned().map(ObjectId::Group);
        let named = self.groups.named(&used.collect());
        let groups = self.ledger.groups().chain(self.doubts.all()).chain(&named);
        let mut keys: BTreeSet<String> = groups.filter_map(key).collect();
        for id in &named {
            // A rule is known that names it: what is it?
            if !self.ledger.knows(id) {
                self.doubts.want(id.clone(), Instant::now());
            }
        }
        keys.insert(host_key(&self.host));
        if self.syncing {
            // What is being asked for is to be heard until it is there.
            keys.extend(self.keys.iter().cloned());
            self.stale = true;
        }
        if *self.keys != keys {
            self.keys = Arc::new(keys);
            self.inbox.set_keys(Arc::clone(&self.keys));
        }
    }

    /// Whether nothing of what is known can change unheard.
    pub(super) fn hears_all(&self) -> bool {
        let bound = self.bound.borrow();
        bound.as_ref().is_some_and(|bound| bound.keys == self.keys)
    }

    /// Of groups whose keys weren't bound when something was read, something may
    /// have been missed.
    pub(super) fn doubt_unheard(&mut self, heard: &BTreeSet<String>) {
        let unheard = |id: &&ObjectId| key(id).is_some_and(|key| !heard.contains(&key));
        let unheard: Vec<_> = self.ledger.groups().filter(unheard).cloned().collect();
        for id in unheard {
            self.doubts.want(id, Instant::now());
            self.stale = true;
        }
    }

    /// Takes a cast in.
    pub(super) fn take_cast(&mut self, mut cast: Cast) {
        if cast.method != "changed" || !METHOD.serves(cast.version) {
            tracing::debug!(cast.method, version = %cast.version, "a cast that this agent doesn't know");
            return;
        }
        let news = cast.arguments.remove("news").unwrap_or_default();
        match wire::news(news) {
            Ok(news) => self.take_news(&cast.key, news),
            Err(reason) => tracing::warn!("Neutron: a cast can't be used: {reason}"),
        }
    }

    fn take_news(&mut self, key: &str, mut news: News) {
        let now = Instant::now();
        tracing::debug!(key, news.number, "told by Neutron");
        self.contact.casts += 1;
        let own = key == host_key(&self.host);
        if own && self.numbers.gap(&news.sender, news.number) {
            tracing::info!("a cast was lost; asking Neutron for what differs");
            self.schedule.want(now + soon(0), Why::Gap);
        }
        news.objects
            .retain(|(id, change, _)| !self.must_wait(now, id, change));
        // A status comes with its port, and isn't newer than that.
        for (id, _, stamp) in &news.objects {
            if let (ObjectId::Port(port), Some(stamp)) = (id, stamp)
                && self.ledger.was_read_after(id, stamp.read_at)
            {
                news.statuses.remove(port);
            }
        }
        let in_use = |id: &_| self.devices.in_use(id);
        let (changes, doubts) = self.ledger.hear(now, news.objects, news.gone, in_use);
        self.take_changes(changes, &BTreeMap::new());
        for id in doubts {
            self.doubt(id, now + soon(0));
        }
        for (id, status) in news.statuses {
            if !self.devices.hear_status(now, REPORTED, &id, status) {
                self.doubt(ObjectId::Port(id), now + REPORTED);
            }
        }
        for difference in news.differences {
            let id = difference.id.clone();
            match self.groups.apply(difference) {
                Outcome::Same => self.doubts.settle(&id),
                Outcome::Now(fields, stamp) => {
                    self.doubts.settle(&id);
                    if let Some(change) = wire::object_of(&id, fields) {
                        let changes = self.ledger.put(id, change, stamp);
                        self.pending.changes.extend(changes.changes);
                        self.pending.stamps.extend(changes.stamps);
                        self.stale = true;
                    }
                }
                Outcome::Doubtful(elements) if self.ledger.knows(&id) => {
                    self.ledger.doubt(&id);
                    self.doubt(id, now + soon(elements));
                }
                // Of no use here any more, or asked for anyway.
                Outcome::Doubtful(_) => {}
            }
        }
    }

    /// A port whose groups aren't known comes with these.
    fn must_wait(&mut self, now: Instant, id: &ObjectId, change: &Change) -> bool {
        let Change::Set {
            object: Object::Port(port),
            ..
        } = change
        else {
            return false;
        };
        let groups = port.groups.iter().cloned().map(ObjectId::Group);
        let unknown: Vec<_> = groups.filter(|id| !self.ledger.knows(id)).collect();
        let waits = !unknown.is_empty();
        if waits {
            self.doubt(id.clone(), now);
        }
        for group in unknown {
            self.doubt(group, now);
        }
        waits
    }

    fn doubt(&mut self, id: ObjectId, at: Instant) {
        self.doubts.want(id, at);
        self.stale = true;
    }

    /// Changes that the ledger let pass, and groups among them as they came.
    pub(super) fn take_changes(
        &mut self,
        told: Changes,
        groups: &BTreeMap<ObjectId, Map<String, Value>>,
    ) {
        let Changes { changes, stamps } = told;
        for (id, change) in &changes {
            match (id, change) {
                (
                    ObjectId::Port(id),
                    Change::Set {
                        object: Object::Port(port),
                        ..
                    },
                ) => self.devices.set_port(id, Some(port)),
                (ObjectId::Port(id), Change::Gone) => self.devices.set_port(id, None),
                (_, Change::Gone) => self.groups.remove(id),
                _ => {}
            }
        }
        for (id, stamp) in &stamps {
            if let Some(fields) = groups.get(id) {
                self.groups.set(id, stamp, fields.clone());
            }
        }
        self.stale |= !changes.is_empty();
        self.pending.changes.extend(changes);
        self.pending.stamps.extend(stamps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_left_out_is_noticed() {
        let mut numbers = Numbers::default();
        // Whoever was there before may have sent any number.
        for (sender, number, gap) in [
            ("a", 7, false),
            ("b", 1, false),
            ("a", 8, false),
            ("a", 8, false),
            ("a", 10, true),
            ("a", 9, false),
            ("a", 11, false),
            ("b", 3, true),
        ] {
            assert_eq!(numbers.gap(sender, number), gap, "{sender} {number}");
        }
        numbers.clear();
        assert!(!numbers.gap("a", 20));
    }
}
