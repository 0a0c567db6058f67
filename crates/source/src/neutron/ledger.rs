//! What is known of Neutron's objects, and how an answer differs from it. Pure.
//!
//! Order: what was known when a call was sent is older than its answer, whatever
//! the clocks say. What came by another way since then is only replaced by what
//! the server has read later.
//!
//! Many ports that end at once are held (`guard`), but not those whose taps have
//! gone as well: their machines are gone, and somebody may want their addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use l2isolate_model::{PortId, document::ObjectId, intent::Change};

use super::wire::Reply;
use crate::{Stamp, guard::Guard};

/// What is known.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Each object with the stamp of its newest version; none: that is known to
    /// nobody, so the server sends it.
    known: BTreeMap<ObjectId, Option<Stamp>>,
    /// What casts said is gone, and when that was read: an answer that was read
    /// before brings it not back.
    ended: BTreeMap<ObjectId, Timestamp>,
    /// When the last whole answer was read: what a cast read before, and that
    /// answer doesn't have, may be gone.
    floor: Timestamp,
    /// How many of them are ports.
    ports: usize,
    pub(crate) guard: Guard,
}

/// What was known when a call was sent.
pub(crate) type Named = BTreeMap<ObjectId, Option<Stamp>>;

/// What an answer changes.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) changes: Vec<(ObjectId, Change)>,
    pub(crate) stamps: Vec<(ObjectId, Stamp)>,
}

impl Ledger {
    pub(crate) fn new(
        known: BTreeMap<ObjectId, Option<Stamp>>,
        grace: Duration,
        window: Duration,
    ) -> Self {
        Self {
            ports: known.keys().filter(|id| is_port(id)).count(),
            known,
            ended: BTreeMap::new(),
            floor: Timestamp::MIN,
            guard: Guard::new(grace, window),
        }
    }

    /// All that is known now, to be named in a call.
    pub(crate) fn named(&self) -> Named {
        self.known.clone()
    }

    /// The digests to send.
    pub(crate) fn digests(named: &Named) -> impl Iterator<Item = (&ObjectId, &str)> {
        named
            .iter()
            .map(|(id, stamp)| (id, stamp.as_ref().map_or("", |stamp| &stamp.digest)))
    }

    /// Takes an answer in; `named` is what the call named, `in_use` says whether
    /// a port's machine may still be here.
    pub(crate) fn apply(
        &mut self,
        now: Instant,
        named: &Named,
        reply: &mut Reply,
        in_use: impl Fn(&PortId) -> bool,
    ) -> Changes {
        let mut told = Changes::default();
        for (id, change, stamp) in std::mem::take(&mut reply.objects) {
            self.guard.present(&id);
            let known = self.known.get(&id);
            let since = known.is_some() && known != named.get(&id);
            let newer = known.and_then(Option::as_ref).is_none_or(|known| {
                stamp
                    .as_ref()
                    .is_some_and(|stamp| stamp.read_at > known.read_at)
            });
            let ended = self.ended.get(&id).is_some_and(|ended| {
                let later = |stamp: &Stamp| stamp.read_at > *ended;
                !stamp.as_ref().is_some_and(later)
            });
            if (since && !newer) || (known.is_none() && ended) {
                continue;
            }
            self.set(id, change, stamp, &mut told);
        }
        if !reply.more {
            let mut gone = Vec::new();
            let mut unused = Vec::new();
            for (id, stamp) in named {
                if !reply.gone.contains(id) {
                    self.guard.present(id);
                } else if self.known.get(id) == Some(stamp) {
                    match id {
                        ObjectId::Port(port) if !in_use(port) => unused.push(id.clone()),
                        _ => gone.push(id.clone()),
                    }
                }
            }
            self.end(now, unused, gone, &mut told);
            self.ended.retain(|_, ended| *ended >= reply.read_at);
            self.floor = self.floor.max(reply.read_at);
        }
        told
    }

    /// Whether what is known of an object was read later than that.
    pub(crate) fn was_read_after(&self, id: &ObjectId, at: Timestamp) -> bool {
        let known = self.known.get(id).and_then(Option::as_ref);
        known.is_some_and(|known| known.read_at > at)
    }

    /// Takes in what was cast; returns beside what it changes what is to be
    /// asked for: nothing can be said of what is older than what is known.
    pub(crate) fn hear(
        &mut self,
        now: Instant,
        objects: Vec<(ObjectId, Change, Option<Stamp>)>,
        gone: Vec<(ObjectId, Timestamp)>,
        in_use: impl Fn(&PortId) -> bool,
    ) -> (Changes, BTreeSet<ObjectId>) {
        let mut told = Changes::default();
        let mut doubts = BTreeSet::new();
        for (id, change, stamp) in objects {
            let Some(new) = &stamp else {
                doubts.insert(id);
                continue;
            };
            let known = self.known.get_mut(&id);
            let newer = match &known {
                Some(Some(known)) => new.read_at > known.read_at,
                Some(None) => false,
                None => {
                    let ended = self.ended.get(&id).copied();
                    new.read_at > ended.map_or(self.floor, |at| at.max(self.floor))
                }
            };
            match known {
                Some(Some(known)) if known.digest == new.digest => {
                    known.read_at = known.read_at.max(new.read_at);
                    self.guard.present(&id);
                }
                _ if newer => {
                    self.guard.present(&id);
                    self.set(id, change, stamp, &mut told);
                }
                _ => {
                    doubts.insert(id);
                }
            }
        }
        let mut unused = Vec::new();
        let mut held = Vec::new();
        for (id, read_at) in gone {
            let ended = self.ended.entry(id.clone()).or_insert(read_at);
            *ended = read_at.max(*ended);
            match self.known.get(&id) {
                Some(Some(known)) if known.read_at >= read_at => {
                    doubts.insert(id);
                }
                Some(_) => match &id {
                    ObjectId::Port(port) if !in_use(port) => unused.push(id),
                    _ => held.push(id),
                },
                None => {}
            }
        }
        self.end(now, unused, held, &mut told);
        (told, doubts)
    }

    /// Whether anything is known of an object.
    pub(crate) fn knows(&self, id: &ObjectId) -> bool {
        self.known.contains_key(id)
    }

    /// All groups and address groups that are known.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &ObjectId> {
        let group = |id: &&ObjectId| matches!(id, ObjectId::Group(_) | ObjectId::AddressGroup(_));
        self.known.keys().filter(group)
    }

    /// It can't be told how an object differs: the server is to send it whole.
    pub(crate) fn doubt(&mut self, id: &ObjectId) {
        if let Some(stamp) = self.known.get_mut(id) {
            *stamp = None;
        }
    }

    /// An object is this now, whatever was known of it.
    pub(crate) fn put(&mut self, id: ObjectId, change: Change, stamp: Stamp) -> Changes {
        let mut told = Changes::default();
        self.set(id, change, Some(stamp), &mut told);
        told
    }

    fn set(&mut self, id: ObjectId, change: Change, stamp: Option<Stamp>, told: &mut Changes) {
        if self.known.insert(id.clone(), stamp.clone()).is_none() {
            self.ports += usize::from(is_port(&id));
        }
        // The stamp of one that can't be used is remembered, so that it isn't
        // sent again and again, but not kept: after a restart it is.
        if let (Change::Set { .. }, Some(stamp)) = (&change, stamp) {
            told.stamps.push((id.clone(), stamp));
        }
        told.changes.push((id, change));
    }

    /// What has gone: at once, or under the guard.
    fn end(
        &mut self,
        now: Instant,
        unused: Vec<ObjectId>,
        gone: Vec<ObjectId>,
        told: &mut Changes,
    ) {
        for id in unused {
            self.guard.present(&id);
            self.remove(id, told);
        }
        self.forget(now, gone, told);
    }

    /// Lets go what was held long enough, or was released.
    pub(crate) fn settle(&mut self, now: Instant) -> Changes {
        let mut told = Changes::default();
        self.forget(now, Vec::new(), &mut told);
        told
    }

    fn forget(&mut self, now: Instant, gone: Vec<ObjectId>, told: &mut Changes) {
        for id in self.guard.judge(now, self.ports, gone) {
            self.remove(id, told);
        }
    }

    fn remove(&mut self, id: ObjectId, told: &mut Changes) {
        if self.known.remove(&id).is_some() {
            self.ports = self.ports.saturating_sub(usize::from(is_port(&id)));
            told.changes.push((id, Change::Gone));
        }
    }
}

fn is_port(id: &ObjectId) -> bool {
    matches!(id, ObjectId::Port(_))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::wire, *};

    fn port(number: u32) -> ObjectId {
        ObjectId::Port(format!("p{number}").parse().unwrap())
    }

    /// An answer with ports by number and digest, read at a second.
    fn answer(second: u32, ports: &[(u32, &str)], gone: &[u32]) -> Reply {
        let read_at = format!("2026-11-24T16:37:{second:02}Z");
        let ports: Vec<_> = ports
            .iter()
            .map(|(number, digest)| {
                json!({"id": format!("p{number}"), "mac": "fa:16:3e:00:00:01",
                       "digest": digest, "read_at": read_at})
            })
            .collect();
        let gone: Vec<_> = gone
            .iter()
            .map(|n| json!({"id": format!("p{n}")}))
            .collect();
        wire::reply(json!({
            "version": 1, "read_at": read_at, "ports": ports, "gone": {"ports": gone},
        }))
        .unwrap()
    }

    fn ledger() -> Ledger {
        Ledger::new(
            BTreeMap::new(),
            Duration::from_secs(300),
            Duration::from_secs(10),
        )
    }

    fn ids(changes: &Changes) -> Vec<(String, bool)> {
        let one = |(id, change): &(ObjectId, Change)| (id.to_string(), *change != Change::Gone);
        changes.changes.iter().map(one).collect()
    }

    #[test]
    fn an_answer_sets_and_ends() {
        let mut ledger = ledger();
        let now = Instant::now();
        let named = ledger.named();
        let told = ledger.apply(
            now,
            &named,
            &mut answer(1, &[(1, "a"), (2, "b")], &[]),
            |_| true,
        );
        assert_eq!(
            ids(&told),
            [("port p1".to_owned(), true), ("port p2".to_owned(), true)]
        );
        assert_eq!(told.stamps.len(), 2);
        let named = ledger.named();
        let digests: Vec<_> = Ledger::digests(&named).map(|(_, digest)| digest).collect();
        assert_eq!(digests, ["a", "b"]);
        // A clock that went back changes nothing: the answer is newer than the call.
        let told = ledger.apply(now, &named, &mut answer(0, &[(1, "c")], &[2]), |_| true);
        assert_eq!(
            ids(&told),
            [("port p1".to_owned(), true), ("port p2".to_owned(), false)]
        );
        assert!(!ledger.known.contains_key(&port(2)));
    }

    /// What came while the call was under way stays, unless the answer was read
    /// later; so does what came to be.
    #[test]
    fn what_came_meanwhile_is_not_overwritten_by_what_is_older() {
        let mut ledger = ledger();
        let now = Instant::now();
        let named = ledger.named();
        ledger.apply(
            now,
            &named,
            &mut answer(1, &[(1, "a"), (2, "a"), (3, "a")], &[]),
            |_| true,
        );
        let named = ledger.named();
        let stamp = |second: u32| Stamp {
            digest: format!("cast at {second}"),
            read_at: format!("2026-11-24T16:37:{second:02}Z").parse().unwrap(),
        };
        for (number, second) in [(1, 20), (2, 5), (3, 20), (4, 20)] {
            ledger.known.insert(port(number), Some(stamp(second)));
        }
        let mut reply = answer(10, &[(1, "b"), (2, "b"), (4, "b")], &[3]);
        let told = ledger.apply(now, &named, &mut reply, |_| true);
        assert_eq!(ids(&told), [("port p2".to_owned(), true)]);
        assert_eq!(ledger.known[&port(1)], Some(stamp(20)));
        assert!(ledger.known.contains_key(&port(3)));
    }

    /// What an answer and a cast say in any order, the later read wins; what
    /// can't be judged is asked for.
    #[test]
    fn casts_are_taken_by_the_time_of_their_reading() {
        let mut ledger = ledger();
        let now = Instant::now();
        let hear = |ledger: &mut Ledger, second, ports: &[(u32, &str)], gone: &[u32]| {
            let cast = answer(second, ports, gone);
            let gone = cast.gone.into_iter().map(|id| (id, cast.read_at)).collect();
            let (told, doubts) = ledger.hear(now, cast.objects, gone, |_| false);
            (ids(&told), doubts.into_iter().collect::<Vec<_>>())
        };
        let set = |number| vec![(format!("port p{number}"), true)];
        let named = ledger.named();
        assert_eq!(hear(&mut ledger, 5, &[(1, "a")], &[]), (set(1), vec![]));
        // Again, and older with the same content: nothing.
        for second in [5, 4] {
            let none = (vec![], vec![]);
            assert_eq!(hear(&mut ledger, second, &[(1, "a")], &[]), none);
        }
        assert_eq!(hear(&mut ledger, 6, &[(1, "b")], &[]), (set(1), vec![]));
        // Other content at the same time or before: who knows.
        for second in [6, 3] {
            let doubt = (vec![], vec![port(1)]);
            assert_eq!(hear(&mut ledger, second, &[(1, "c")], &[]), doubt);
            assert_eq!(hear(&mut ledger, second, &[], &[1]), doubt);
        }
        // The end overtook the beginning, here and in an answer.
        assert_eq!(hear(&mut ledger, 9, &[], &[2]), (vec![], vec![]));
        let doubt = (vec![], vec![port(2)]);
        assert_eq!(hear(&mut ledger, 8, &[(2, "a")], &[]), doubt);
        let mut reply = answer(8, &[(2, "a")], &[]);
        assert_eq!(ids(&ledger.apply(now, &named, &mut reply, |_| true)), []);
        assert_eq!(hear(&mut ledger, 10, &[(2, "a")], &[]), (set(2), vec![]));
        let gone = (vec![("port p1".to_owned(), false)], vec![]);
        assert_eq!(hear(&mut ledger, 11, &[], &[1]), gone);
        // What was doubted is named without digest, and taken.
        ledger.doubt(&port(2));
        let named = ledger.named();
        assert_eq!(Ledger::digests(&named).next().unwrap().1, "");
        let mut reply = answer(9, &[(2, "a")], &[]);
        let told = ledger.apply(now, &named, &mut reply, |_| true);
        assert_eq!(ids(&told), set(2));
    }

    /// A part of an answer says nothing of what is gone.
    #[test]
    fn a_cut_answer_ends_nothing() {
        let mut ledger = ledger();
        let now = Instant::now();
        let named = ledger.named();
        ledger.apply(now, &named, &mut answer(1, &[(1, "a")], &[]), |_| true);
        let named = ledger.named();
        let mut reply = Reply {
            more: true,
            gone: BTreeSet::from([port(1)]),
            ..answer(2, &[(2, "a")], &[])
        };
        let told = ledger.apply(now, &named, &mut reply, |_| true);
        assert_eq!(ids(&told), [("port p2".to_owned(), true)]);
        assert!(ledger.known.contains_key(&port(1)));
    }

    /// Machines that are deleted with their taps are no accident, be they all:
    /// the next ones may have their addresses.
    #[test]
    fn what_has_no_tap_goes_at_once() {
        let mut ledger = ledger();
        let now = Instant::now();
        let all: Vec<_> = (1..=6).map(|number| (number, "a")).collect();
        let named = ledger.named();
        ledger.apply(now, &named, &mut answer(1, &all, &[]), |_| true);
        let named = ledger.named();
        let mut reply = answer(2, &[], &[1, 2, 3, 4, 5, 6]);
        let told = ledger.apply(now, &named, &mut reply, |id| id.as_str() == "p1");
        assert_eq!(told.changes.len(), 5);
        assert!(ledger.known.contains_key(&port(1)));
    }

    /// A server that suddenly has lost most ports is more often wrong than
    /// right: their end is held, and they come back if it has them again.
    #[test]
    fn sudden_ends_are_held() {
        let mut ledger = ledger();
        let now = Instant::now();
        let all: Vec<_> = (1..=6).map(|number| (number, "a")).collect();
        let named = ledger.named();
        ledger.apply(now, &named, &mut answer(1, &all, &[]), |_| true);
        let named = ledger.named();
        let told = ledger.apply(now, &named, &mut answer(2, &[], &[1, 2, 3, 4, 5]), |_| true);
        assert_eq!(ids(&told), []);
        assert_eq!(ledger.guard.held().0, 5);
        // They are named again, and the server has them.
        let named = ledger.named();
        assert_eq!(named.len(), 6);
        ledger.apply(now, &named, &mut answer(3, &[], &[]), |_| true);
        assert_eq!(ledger.guard.held().0, 0);
        // Or it stays like that: then they go after the grace.
        let named = ledger.named();
        ledger.apply(now, &named, &mut answer(4, &[], &[1, 2, 3, 4, 5]), |_| true);
        let told = ledger.settle(now + Duration::from_secs(301));
        assert_eq!(told.changes.len(), 5);
    }
}
