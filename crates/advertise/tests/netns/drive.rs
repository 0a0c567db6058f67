//! What a driver says is what switches learn, and what it reads back is so.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use l2isolate_advertise::{
    driver::{Change, Driver, Peer},
    render::Flavour,
};
use l2isolate_model::announce::{Announcements, Attributes};

use crate::harness::{Fabric, Learned, apply, drained, learned, prefix, prefix6};

fn expected(wanted: &Announcements) -> BTreeMap<IpNet, Learned> {
    let each = wanted.iter();
    each.map(|(prefix, attributes)| (*prefix, learned(attributes)))
        .collect()
}

/// The daemon has exactly this, and says that both switches were sent it.
fn reads_back(fabric: &Fabric, driver: &mut dyn Driver, wanted: &Announcements) {
    let sent: BTreeSet<IpNet> = wanted.keys().copied().collect();
    fabric.until("what was told is read back", || {
        let observed = driver.observe().unwrap();
        let peers = observed.peers.values().filter(|peer| peer.established);
        let peers: Vec<_> = peers.collect();
        // The default routes are let in, too, and only they.
        let whole = |peer: &&Peer| peer.sent == sent && peer.received > 0;
        observed.rib == *wanted && peers.len() == 2 && peers.iter().all(whole)
    });
    let observed = driver.observe().unwrap();
    for (name, peer) in &observed.peers {
        assert!(peer.leaked.is_empty(), "{name}: {:?}", peer.leaked);
        assert!(peer.remote_as.is_some(), "{name}: {peer:?}");
    }
}

fn announces_exactly_what_it_is_told(flavour: Flavour) {
    let fabric = Fabric::new(flavour);
    let mut driver = fabric.daemon().open();
    let observed = fabric.up(driver.as_mut());
    assert!(observed.rib.is_empty());
    let mut wanted: Announcements = (1..=3)
        .flat_map(|n| [prefix(n), prefix6(n)])
        .map(|prefix| (prefix, Attributes::default()))
        .collect();
    let set =
        |(prefix, attributes): (&IpNet, &Attributes)| Change::Set(*prefix, attributes.clone());
    apply(driver.as_mut(), &wanted.iter().map(set).collect::<Vec<_>>());
    fabric.both_learned(&expected(&wanted));
    reads_back(&fabric, driver.as_mut(), &wanted);

    // One prefix gets other attributes while it stays announced.
    let before = fabric.withdrawals();
    for attributes in [drained(0), drained(2), Attributes::default(), drained(3)] {
        for prefix in [prefix(1), prefix6(2)] {
            wanted.insert(prefix, attributes.clone());
            apply(driver.as_mut(), &[Change::Set(prefix, attributes.clone())]);
        }
        fabric.both_learned(&expected(&wanted));
        reads_back(&fabric, driver.as_mut(), &wanted);
    }
    assert_eq!(fabric.withdrawals(), before);

    // Withdrawn is withdrawn, also what isn't there; the rest stays.
    let gone = [prefix(2), prefix6(2), prefix(99)];
    apply(driver.as_mut(), &gone.map(Change::Delete));
    wanted.retain(|prefix, _| !gone.contains(prefix));
    fabric.both_learned(&expected(&wanted));
    reads_back(&fabric, driver.as_mut(), &wanted);
    driver.resend("t1").unwrap();
    driver.resend("t2").unwrap();
    fabric.both_learned(&expected(&wanted));
}

/// A daemon that was killed and is there again gets everything, whatever it
/// still knows.
fn a_restarted_daemon_is_told_again(flavour: Flavour) {
    let mut fabric = Fabric::new(flavour);
    let mut driver = fabric.daemon().open();
    fabric.up(driver.as_mut());
    let wanted: Announcements = (1..=20)
        .map(|n| (prefix(n), drained(u8::from(n % 2 == 0))))
        .collect();
    let set =
        |(prefix, attributes): (&IpNet, &Attributes)| Change::Set(*prefix, attributes.clone());
    let changes: Vec<Change> = wanted.iter().map(set).collect();
    apply(driver.as_mut(), &changes);
    fabric.both_learned(&expected(&wanted));
    fabric.kill();
    let failure = driver.observe().unwrap_err();
    assert!(!failure.remedy.is_empty(), "{failure}");
    assert!(driver.apply(&changes).iter().all(Result::is_err));
    fabric.start();
    fabric.up(driver.as_mut());
    apply(driver.as_mut(), &changes);
    fabric.both_learned(&expected(&wanted));
    reads_back(&fabric, driver.as_mut(), &wanted);
}

/// What is rendered asks switches to keep the routes of a daemon that is away,
/// as they are and then as the last choice (RFC 4724, RFC 9494).
fn switches_are_asked_to_keep_routes(flavour: Flavour) {
    let fabric = Fabric::new(flavour);
    fabric.up(fabric.daemon().open().as_mut());
    let shown = fabric.birdc("t2", "show protocols all");
    let (_, asked) = shown.split_once("Neighbor capabilities").unwrap();
    let (asked, _) = asked.split_once("Session:").unwrap();
    for (capability, value) in [
        ("Graceful restart", "Restart time: 30"),
        ("Long-lived graceful restart", "LL stale time: 600"),
    ] {
        assert!(asked.contains(capability), "{asked}");
        assert!(asked.contains(value), "{asked}");
    }
}

#[test]
fn switches_are_asked_by_frr() {
    switches_are_asked_to_keep_routes(Flavour::Frr);
}

#[test]
fn switches_are_asked_by_bird() {
    switches_are_asked_to_keep_routes(Flavour::Bird);
}

#[test]
fn switches_are_asked_by_gobgp() {
    switches_are_asked_to_keep_routes(Flavour::Gobgp);
}

#[test]
fn frr_announces_exactly_what_it_is_told() {
    announces_exactly_what_it_is_told(Flavour::Frr);
}

#[test]
fn bird_announces_exactly_what_it_is_told() {
    announces_exactly_what_it_is_told(Flavour::Bird);
}

#[test]
fn gobgp_announces_exactly_what_it_is_told() {
    announces_exactly_what_it_is_told(Flavour::Gobgp);
}

#[test]
fn a_restarted_gobgp_is_told_again() {
    a_restarted_daemon_is_told_again(Flavour::Gobgp);
}

#[test]
fn a_restarted_frr_is_told_again() {
    a_restarted_daemon_is_told_again(Flavour::Frr);
}

#[test]
fn a_restarted_bird_is_told_again() {
    a_restarted_daemon_is_told_again(Flavour::Bird);
}

/// What somebody takes away by hand is seen, and is there again when it is told
/// once more: also a route-map, or a protocol that was disabled.
#[test]
fn what_is_taken_from_frr_by_hand_comes_back() {
    let fabric = Fabric::new(Flavour::Frr);
    let mut driver = fabric.daemon().open();
    fabric.up(driver.as_mut());
    let mut wanted: Announcements = [(prefix(1), drained(1)), (prefix6(1), drained(0))].into();
    let changes: Vec<Change> = wanted
        .iter()
        .map(|(prefix, attributes)| Change::Set(*prefix, attributes.clone()))
        .collect();
    apply(driver.as_mut(), &changes);
    reads_back(&fabric, driver.as_mut(), &wanted);
    let commands = [
        "configure terminal",
        "router bgp",
        "address-family ipv4 unicast",
        "no network 10.252.0.1/32",
    ];
    fabric.vtysh("hv", &commands);
    fabric.until("it is seen", || driver.observe().unwrap().rib != wanted);
    apply(driver.as_mut(), &changes);
    fabric.both_learned(&expected(&wanted));
    reads_back(&fabric, driver.as_mut(), &wanted);
    // A prefix whose route-map isn't there any more is announced with it at
    // the second try, when it is seen to be missing.
    let commands = ["configure terminal", "no route-map L2ISOLATE-igp-1-65535.0"];
    fabric.vtysh("hv", &commands);
    wanted.insert(prefix(2), drained(1));
    let change = [Change::Set(prefix(2), drained(1))];
    for _ in 0..2 {
        apply(driver.as_mut(), &change);
    }
    fabric.both_learned(&expected(&wanted));
    reads_back(&fabric, driver.as_mut(), &wanted);
}

#[test]
fn what_is_taken_from_bird_by_hand_comes_back() {
    let fabric = Fabric::new(Flavour::Bird);
    let mut driver = fabric.daemon().open();
    fabric.up(driver.as_mut());
    let wanted: Announcements = [(prefix(1), drained(1)), (prefix6(1), drained(0))].into();
    let changes: Vec<Change> = wanted
        .iter()
        .map(|(prefix, attributes)| Change::Set(*prefix, attributes.clone()))
        .collect();
    apply(driver.as_mut(), &changes);
    reads_back(&fabric, driver.as_mut(), &wanted);
    fabric.birdc("hv", "disable l2isolate4");
    fabric.until("it is seen", || driver.observe().unwrap().rib != wanted);
    apply(driver.as_mut(), &changes);
    reads_back(&fabric, driver.as_mut(), &wanted);
    std::fs::write(fabric.path("hv/l2isolate.conf"), "").unwrap();
    fabric.birdc("hv", "configure");
    fabric.until("it is seen", || driver.observe().unwrap().rib.is_empty());
    apply(driver.as_mut(), &changes);
    fabric.both_learned(&expected(&wanted));
    reads_back(&fabric, driver.as_mut(), &wanted);
}

/// As many prefixes as a large hypervisor has, in one go: none is lost on the
/// way there or back.
fn thousands_are_announced_and_read_back(flavour: Flavour) {
    let fabric = Fabric::new(flavour);
    let mut driver = fabric.daemon().open();
    fabric.up(driver.as_mut());
    let wanted: Announcements = (0..1000)
        .flat_map(|n| [prefix(n), prefix6(n)])
        .map(|prefix| (prefix, Attributes::default()))
        .collect();
    let set =
        |(prefix, attributes): (&IpNet, &Attributes)| Change::Set(*prefix, attributes.clone());
    apply(driver.as_mut(), &wanted.iter().map(set).collect::<Vec<_>>());
    fabric.both_learned(&expected(&wanted));
    reads_back(&fabric, driver.as_mut(), &wanted);
    let started = std::time::Instant::now();
    let observed = driver.observe().unwrap();
    let took = started.elapsed();
    eprintln!(
        "{}: {} prefixes read back in {took:?}",
        observed.daemon,
        wanted.len()
    );
    apply(
        driver.as_mut(),
        &wanted
            .keys()
            .copied()
            .map(Change::Delete)
            .collect::<Vec<_>>(),
    );
    fabric.both_learned(&BTreeMap::new());
}

#[test]
fn thousands_are_announced_by_frr() {
    thousands_are_announced_and_read_back(Flavour::Frr);
}

#[test]
fn thousands_are_announced_by_bird() {
    thousands_are_announced_and_read_back(Flavour::Bird);
}

#[test]
fn thousands_are_announced_by_gobgp() {
    thousands_are_announced_and_read_back(Flavour::Gobgp);
}
