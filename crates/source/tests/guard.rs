//! The guard's rules, with a clock of the test's own.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use l2isolate_model::document::ObjectId;
use l2isolate_source::guard::{AT_LEAST, Guard, QUIET};
use proptest::prelude::*;

const GRACE: Duration = Duration::from_secs(300);
const WINDOW: Duration = Duration::from_secs(10);

fn port(n: usize) -> ObjectId {
    ObjectId::Port(format!("p{n}").parse().unwrap())
}

fn subnet(n: usize) -> ObjectId {
    ObjectId::Subnet(format!("s{n}").parse().unwrap())
}

/// A guard, its clock, and what is in force downstream.
struct Host {
    guard: Guard,
    now: Instant,
    there: BTreeSet<ObjectId>,
}

impl Host {
    fn new(ports: usize) -> Self {
        Self {
            guard: Guard::new(GRACE, WINDOW),
            now: Instant::now(),
            there: (0..ports).map(port).collect(),
        }
    }

    fn ports(&self) -> usize {
        let is_port = |id: &&ObjectId| matches!(id, ObjectId::Port(_));
        self.there.iter().filter(is_port).count()
    }

    fn lose(&mut self, gone: impl IntoIterator<Item = ObjectId>) -> usize {
        let ports = self.ports();
        let go = self
            .guard
            .judge(self.now, ports, gone.into_iter().collect());
        for id in &go {
            assert!(self.there.remove(id), "{id} went twice");
        }
        go.len()
    }

    fn wait(&mut self, seconds: u64) -> usize {
        self.now += Duration::from_secs(seconds);
        self.lose([])
    }
}

#[test]
fn half_may_go_and_more_is_held_for_the_grace() {
    let mut host = Host::new(10);
    assert_eq!(host.lose((0..5).map(port)), 5);
    let mut host = Host::new(10);
    assert_eq!(host.lose((0..6).map(port)), 0);
    assert_eq!(host.guard.held(), (6, 6));
    assert_eq!(host.guard.until(), Some(host.now + GRACE));
    assert_eq!(host.wait(299), 0);
    assert_eq!(host.wait(1), 6);
    // The next one is ordinary again.
    assert_eq!(host.lose([port(6)]), 1);
}

#[test]
fn few_ports_may_all_go() {
    assert_eq!(Host::new(3).lose((0..3).map(port)), 3);
    assert_eq!(Host::new(4).lose((0..4).map(port)), 0);
}

#[test]
fn a_slow_removal_is_no_way_around() {
    let mut host = Host::new(100);
    for n in 0..100 {
        host.now += Duration::from_millis(150);
        host.lose([port(n)]);
    }
    assert_eq!(host.ports(), 50);
    assert_eq!(host.guard.held().0, 50);
    host.now += GRACE;
    host.lose([]);
    assert_eq!(host.ports(), 0);
}

/// A host on which machines are made and ended all the time, and one that is
/// emptied over an hour.
#[test]
fn ordinary_life_is_not_held() {
    let mut host = Host::new(5);
    for n in 5..500 {
        host.there.insert(port(n));
        assert_eq!(host.lose([port(n)]), 1);
    }
    let mut host = Host::new(100);
    for n in 0..100 {
        host.now += Duration::from_secs(36);
        assert_eq!(host.lose([port(n)]), 1);
    }
}

#[test]
fn other_ports_in_their_place_are_an_accident_too() {
    let mut host = Host::new(10);
    host.there.extend((10..15).map(port));
    assert_eq!(host.lose((0..10).map(port)), 0);
}

/// Held ports keep their subnets, and all that is left goes together, once
/// enough of them are back.
#[test]
fn other_kinds_are_held_with_ports() {
    let mut host = Host::new(10);
    host.there.extend([subnet(1), subnet(2)]);
    assert_eq!(host.lose([subnet(1)]), 1);
    assert_eq!(host.lose((0..10).map(port)), 0);
    assert_eq!(host.lose([subnet(2)]), 0);
    assert_eq!(host.guard.held(), (10, 11));
    for n in 0..4 {
        host.guard.present(&port(n));
        assert_eq!(host.lose([]), 0);
    }
    host.guard.present(&port(4));
    assert_eq!(host.lose([]), 0, "others may follow");
    assert_eq!(host.guard.due(), Some(host.now + QUIET));
    assert_eq!(host.wait(5), 6);
    assert_eq!(host.guard.held(), (0, 0));
}

/// Files are put back one by one: those that come last mustn't be given up
/// since most are back already.
#[test]
fn nothing_goes_while_ports_come_back() {
    let mut host = Host::new(10);
    assert_eq!(host.lose((0..10).map(port)), 0);
    for n in 0..10 {
        host.now += Duration::from_secs(3);
        host.guard.present(&port(n));
        assert_eq!(host.lose([]), 0);
    }
    assert_eq!(host.ports(), 10);
    assert_eq!((host.guard.held(), host.guard.due()), ((0, 0), None));
}

#[test]
fn an_operator_releases_what_is_held_now() {
    let mut host = Host::new(20);
    assert_eq!(host.lose((0..15).map(port)), 0);
    host.guard.release(host.now);
    assert_eq!(host.lose([]), 15);
    assert_eq!(host.lose((15..20).map(port)), 0, "later ones are held anew");
}

#[test]
fn without_a_grace_nothing_is_held() {
    let mut host = Host::new(10);
    host.guard = Guard::new(Duration::ZERO, WINDOW);
    assert_eq!(host.lose((0..10).map(port)), 10);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes and goes: no port goes before its grace so that fewer
    /// than half are left of what there was; and in the end all that is gone at
    /// the source is gone.
    #[test]
    fn never_lets_most_go_and_converges(
        steps in proptest::collection::vec(
            (0..8_000_u64, proptest::collection::btree_set(0..24_usize, 0..12)),
            1..60,
        ),
    ) {
        let mut host = Host::new(24);
        // When each port that is there was missed.
        let mut missed: BTreeMap<ObjectId, Instant> = BTreeMap::new();
        for (millis, toggled) in steps {
            host.now += Duration::from_millis(millis);
            let mut gone = Vec::new();
            for id in toggled.into_iter().map(port) {
                if missed.remove(&id).is_some() || host.there.insert(id.clone()) {
                    host.guard.present(&id);
                } else {
                    missed.insert(id.clone(), host.now);
                    gone.push(id);
                }
            }
            let before = host.there.clone();
            host.lose(gone);
            let is_early = |id: &&ObjectId| missed.get(*id).is_some_and(|at| host.now < *at + GRACE);
            let early = before.difference(&host.there).filter(is_early).count();
            let late = before.len() - host.there.len() - early;
            prop_assert!(early < AT_LEAST || early * 2 <= before.len() - late);
            missed.retain(|id, _| host.there.contains(id));
            prop_assert_eq!(host.guard.held().0, missed.len());
        }
        host.now += GRACE;
        host.lose([]);
        prop_assert!(missed.keys().all(|id| !host.there.contains(id)));
        prop_assert_eq!(host.guard.until(), None);
    }
}
