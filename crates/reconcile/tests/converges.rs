//! Any interleaving of wants, strangers' changes, failures and lost events
//! ends with observed = desired, and nothing that wasn't ours to delete, or
//! while deletions were held, is deleted on the way.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use l2isolate_reconcile::{Change, LAST, Reconciler, Rules};
use proptest::prelude::*;

/// Keys below `PROPERTIES` stand for properties, which can't be deleted; the
/// rest for objects. Key 0 opens a gate: it waits for its owner's objects.
const KEYS: u8 = 12;
const PROPERTIES: u8 = 3;
const GATE: u8 = 0;
/// Set when all deletions are done.
const GRAVE: u8 = 2;

#[derive(Debug)]
enum Toy {}

impl Rules for Toy {
    type Key = u8;
    type Value = u8;
    type Owner = u8;

    fn satisfies(desired: &u8, observed: &u8) -> bool {
        desired == observed
    }
    fn deletable(key: &u8) -> bool {
        *key >= PROPERTIES
    }
    fn order(key: &u8, desired: Option<&u8>) -> u8 {
        if *key == GRAVE && desired.is_some() {
            LAST
        } else {
            *key % 4
        }
    }
    fn waits_for(key: &u8, desired: &u8, other: &u8) -> bool {
        *key == GATE && *desired > 0 && *other >= PROPERTIES
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// An owner's wants; keys are its own (`key % 3 == owner`), so no two want the same.
    Want(u8, BTreeMap<u8, u8>),
    /// A stranger sets or removes an object; the event is seen, or lost.
    Stranger(u8, Option<u8>, bool),
    /// Events were lost: look at everything.
    Look,
    /// One batch; writes to these keys fail.
    Apply(Vec<u8>),
    Hold(bool),
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let wants = (
        0..3u8,
        proptest::collection::btree_map(0..KEYS, 0..4u8, 0..6),
    )
        .prop_map(|(owner, objects)| {
            Step::Want(
                owner,
                objects
                    .into_iter()
                    .filter(|(key, _)| key % 3 == owner)
                    .collect(),
            )
        });
    prop_oneof![
        3 => wants,
        3 => (0..KEYS, proptest::option::of(0..4u8), any::<bool>()).prop_map(|(k, v, seen)| {
            // A property always has some value.
            Step::Stranger(k, if k < PROPERTIES { Some(v.unwrap_or(0)) } else { v }, seen)
        }),
        1 => Just(Step::Look),
        4 => proptest::collection::vec(0..KEYS, 0..4).prop_map(Step::Apply),
        1 => any::<bool>().prop_map(Step::Hold),
        1 => (0..2000u16).prop_map(Step::Pass),
    ]
}

struct World {
    engine: Reconciler<Toy>,
    real: BTreeMap<u8, u8>,
    now: Instant,
    holding: bool,
}

impl World {
    fn apply(&mut self, failing: &[u8]) -> usize {
        let changes = self.engine.next(self.now);
        let is_set = |change: &&Change<u8, u8>| matches!(change, Change::Set(..));
        let sets = changes
            .iter()
            .take_while(|change| is_set(change) && *change.key() != GRAVE)
            .count();
        let (sets, rest) = changes.split_at(sets);
        let (deletes, last) = rest.split_at(rest.iter().take_while(|c| !is_set(c)).count());
        assert!(
            last.iter().all(|change| *change.key() == GRAVE),
            "sets come before deletions"
        );
        assert!(sets.is_sorted_by_key(|change| Toy::order(change.key(), Some(&0))));
        assert!(deletes.is_sorted_by_key(|change| 255 - Toy::order(change.key(), None)));
        for change in &changes {
            let result = if failing.contains(change.key()) {
                Err("no".to_owned())
            } else {
                Ok(())
            };
            if result.is_ok() {
                match change {
                    Change::Set(key, value) => drop(self.real.insert(*key, *value)),
                    Change::Delete(key) => {
                        assert!(!self.holding, "{key} deleted while deletions were held");
                        assert!(*key >= PROPERTIES, "{key} is a property");
                        self.real.remove(key);
                    }
                }
            }
            self.engine.done(self.now, change, result);
        }
        changes.len()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Want(owner, objects) => self.engine.want(&owner, objects),
            Step::Stranger(key, value, seen) => {
                match value {
                    Some(value) => drop(self.real.insert(key, value)),
                    None => drop(self.real.remove(&key)),
                }
                if seen {
                    self.engine.observe(self.now, key, value);
                }
            }
            Step::Look => self.engine.observe_all(self.now, self.real.clone()),
            Step::Apply(failing) => drop(self.apply(&failing)),
            Step::Hold(hold) => {
                self.holding = hold;
                self.engine.hold_deletions(hold);
            }
            Step::Pass(ms) => self.now += Duration::from_millis(ms.into()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_interleaving_converges(steps in proptest::collection::vec(step(), 0..60)) {
        let real: BTreeMap<u8, u8> = (0..PROPERTIES).map(|key| (key, 0)).collect();
        let mut world = World { engine: Reconciler::default(), real, now: Instant::now(), holding: true };
        for step in steps {
            world.step(step);
        }
        // Peace: everything works, everything is seen, time passes.
        world.step(Step::Hold(false));
        world.step(Step::Look);
        for _ in 0..3 {
            world.step(Step::Pass(60_000));
            while world.apply(&[]) > 0 {}
        }
        let desired: BTreeMap<u8, u8> = world.engine.desired().map(|(k, v, _)| (*k, *v)).collect();
        for key in 0..KEYS {
            let kept = (key < PROPERTIES).then(|| world.real.get(&key)).flatten();
            prop_assert_eq!(world.real.get(&key), desired.get(&key).or(kept), "key {}", key);
        }
        prop_assert_eq!(world.engine.differences().count(), 0);
        prop_assert!(world.engine.due(world.now).is_none());
    }

    /// What is in place is not written again, however often it is looked at.
    #[test]
    fn writes_only_differences(objects in proptest::collection::btree_map(0..KEYS, 0..4u8, 0..10)) {
        let mut world = World { engine: Reconciler::default(), real: objects.clone(), now: Instant::now(), holding: false };
        world.engine.hold_deletions(false);
        world.engine.want(&0, objects);
        world.step(Step::Look);
        prop_assert_eq!(world.apply(&[]), 0);
        world.step(Step::Look);
        prop_assert_eq!(world.apply(&[]), 0);
        prop_assert_eq!(world.engine.totals().written, 0);
    }
}

/// One object that fails doesn't hold up the others, and is tried less and
/// less often.
#[test]
fn a_failure_is_alone_and_backs_off() {
    let mut engine: Reconciler<Toy> = Reconciler::default();
    let start = Instant::now();
    engine.want(&0, [(3, 1), (6, 1)]);
    let mut tries = 0;
    for ms in 0..10_000u64 {
        let now = start + Duration::from_millis(ms);
        for change in engine.next(now) {
            let fails = *change.key() == 3;
            tries += u32::from(fails);
            engine.done(
                now,
                &change,
                if fails { Err("no".to_owned()) } else { Ok(()) },
            );
        }
    }
    assert_eq!(engine.observed().get(&6), Some(&1));
    assert!((5..=9).contains(&tries), "{tries} tries in 10 s");
    let failing: Vec<_> = engine.differences().collect();
    assert_eq!(failing.len(), 1);
    assert_eq!(failing[0].failure.map(|f| f.attempts), Some(tries));
}

/// A route whose guest has just opened its tap is set again; when the guest is
/// said to leave in the same moment, the route has to go all the same.
#[test]
fn what_is_set_again_isnt_forgotten() {
    let mut engine: Reconciler<Toy> = Reconciler::default();
    let now = Instant::now();
    engine.hold_deletions(false);
    engine.want(&0, [(3, 1)]);
    engine.done(now, &Change::Set(3, 1), Ok(()));
    assert_eq!(engine.next(now), []);
    // It is set once more, and then in place.
    engine.redo(&3);
    assert_eq!(engine.next(now), [Change::Set(3, 1)]);
    engine.done(now, &Change::Set(3, 1), Ok(()));
    assert_eq!(engine.next(now), []);
    // Wanted no more before it was: it is there all the same, and goes.
    engine.redo(&3);
    engine.want(&0, []);
    assert_eq!(engine.next(now), [Change::Delete(3)]);
}

/// What failed for want of something beside it, like a route while IPv6 is
/// switched off, is tried when that is mended, however often it failed before
/// and whoever fought over it: not half a minute later.
#[test]
fn a_failure_ends_with_its_reason() {
    let mut engine: Reconciler<Toy> = Reconciler::default();
    let mut now = Instant::now();
    engine.want(&0, [(3, 1), (6, 1)]);
    for key in [3, 6] {
        engine.observe(now, key, Some(1));
    }
    for _ in 0..20 {
        engine.observe(now, 3, None);
        engine.observe(now, 3, Some(1));
    }
    engine.observe(now, 3, None);
    for _ in 0..20 {
        now += Duration::from_secs(40);
        let all = engine.next(now);
        assert_eq!(all, [Change::Set(3, 1)]);
        engine.done(now, &all[0], Err("6 is missing".to_owned()));
    }
    assert!(engine.next(now).is_empty());
    engine.observe(now, 6, None);
    let all = engine.next(now);
    assert_eq!(all, [Change::Set(6, 1)]);
    engine.done(now, &all[0], Ok(()));
    assert_eq!(engine.next(now), [Change::Set(3, 1)]);
}

/// The gate opens only after what it waits for is in place, in a later batch,
/// and at once when that was set by somebody else.
#[test]
fn what_waits_comes_after() {
    let mut engine: Reconciler<Toy> = Reconciler::default();
    let now = Instant::now();
    engine.want(&0, [(GATE, 1), (3, 1)]);
    let first = engine.next(now);
    assert_eq!(first, [Change::Set(3, 1)]);
    engine.done(now, &first[0], Err("no".to_owned()));
    assert!(engine.next(now).is_empty());
    engine.observe(now, 3, Some(1));
    assert_eq!(engine.next(now), [Change::Set(GATE, 1)]);
}

/// Somebody who undoes our work at once each time gets slower and slower
/// answers, and the object is said to be contested.
#[test]
fn a_fight_slows_down() {
    let mut engine: Reconciler<Toy> = Reconciler::default();
    let start = Instant::now();
    engine.want(&0, [(3, 1)]);
    let mut writes = 0;
    for ms in 0..10_000u64 {
        let now = start + Duration::from_millis(ms);
        for change in engine.next(now) {
            writes += 1;
            engine.done(now, &change, Ok(()));
            engine.observe(now, 3, None);
        }
    }
    assert!((15..=30).contains(&writes), "{writes} writes in 10 s");
    assert!(engine.differences().all(|difference| difference.contested));
}
