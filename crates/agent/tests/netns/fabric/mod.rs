//! Announcing through real routing daemons: what switches learn is what is
//! wired, it is verified again and again, and what is lost comes back.

mod rig;

use l2isolate_advertise::render::{Flavour, Way};
use rig::Rig;

use crate::harness::Port;
use serde_json::Value;

fn advertise(rig: &Rig) -> Value {
    rig.host.status()["advertise"].clone()
}

/// Everything was sent to both switches, and their ways out have come.
fn all_is_exchanged(rig: &Rig) {
    rig.host.until("all is exchanged", || {
        let status = advertise(rig);
        let peers = &status["peers"];
        ["up1", "up2"].iter().all(|name| {
            peers[name]["sent"] == status["wanted"] && peers[name]["received"].as_u64() >= Some(2)
        })
    });
}

/// From a port's document to the switches and back, and what somebody takes
/// away by hand is there again.
fn ports_are_announced_and_kept_announced(flavour: Flavour, by_hand: &[&str]) {
    let mut rig = Rig::new(flavour, Way::Told, "");
    let [one, two] = rig.host.guests();
    rig.host.start();
    rig.announced(&[&one.port, &two.port], false);
    rig.host.settled();
    all_is_exchanged(&rig);
    let status = advertise(&rig);
    assert_eq!(status["wanted"], 6);
    assert_eq!(status["in_rib"], 6);
    for uplink in ["up1", "up2"] {
        let peer = &status["peers"][uplink];
        assert_eq!(peer["established"], true, "{status:#}");
        assert_eq!(peer["sent"], 6, "{status:#}");
        assert_eq!(peer["leaked"], 0, "{status:#}");
        assert!(peer["uplink"]["sent_packets"].as_u64() > Some(0));
    }

    // By hand, behind the agent's back.
    rig.by_hand(by_hand);
    rig.host.until("it is noticed and mended", || {
        let status = advertise(&rig);
        status["undone"].as_u64() > Some(0) && status["in_rib"] == 6
    });
    rig.announced(&[&one.port, &two.port], false);

    // Withdrawn with its port.
    rig.host.remove(&two.port);
    rig.announced(&[&one.port], false);
    let verified = rig.command(&["verify", "--json"]);
    assert!(verified.status.success(), "{verified:?}");
    let report: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(report["advertise"]["differences"], 0);
    assert!(report["daemon_ms"].as_f64() > Some(0.0));
    assert!(report["kernel_ms"].as_f64() > Some(0.0));
    let shown = rig.command(&["status"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("up1: Established"), "{shown}");

    // A port that can't be wired isn't announced, and no verification passes it.
    rig.host
        .ip("link add link up0 name tap-small type macvlan mode bridge");
    let small = Port::new(3).with("tap", "tap-small").with("mtu", 9000);
    rig.host.write(&small);
    rig.host.until("the verification fails", || {
        rig.command(&["verify"]).status.code() == Some(2)
    });
    rig.host.remove(&small);

    // Withdrawn with its tap's carrier, and there again with it.
    one.pause();
    rig.announced(&[], false);
    one.set_up();
    rig.announced(&[&one.port], false);
}

#[test]
fn ports_are_announced_by_frr() {
    let by_hand = [
        "configure terminal",
        "router bgp",
        "address-family ipv4 unicast",
        "no network 10.252.1.1/32",
    ];
    ports_are_announced_and_kept_announced(Flavour::Frr, &by_hand);
}

#[test]
fn ports_are_announced_by_bird() {
    ports_are_announced_and_kept_announced(Flavour::Bird, &["disable l2isolate4"]);
}

/// `gobgp` takes a path of ours away.
const GOBGP_LOSES_ONE: [&str; 8] = [
    "global",
    "rib",
    "del",
    "10.252.1.1/32",
    "identifier",
    "76",
    "-a",
    "ipv4",
];

#[test]
fn ports_are_announced_by_gobgp() {
    ports_are_announced_and_kept_announced(Flavour::Gobgp, &GOBGP_LOSES_ONE);
}

/// GoBGP tells of changes: what is taken from it by hand is there again though
/// nobody looks for the next hour.
#[test]
fn what_gobgp_tells_of_is_mended_at_once() {
    let mut rig = Rig::new(Flavour::Gobgp, Way::Told, "verify_interval = 3600");
    let [one] = rig.host.guests();
    rig.host.start();
    rig.announced(&[&one.port], false);
    rig.by_hand(&GOBGP_LOSES_ONE);
    rig.host.until("it is noticed and mended", || {
        let status = advertise(&rig);
        status["undone"].as_u64() > Some(0) && status["in_rib"] == 4
    });
    rig.announced(&[&one.port], false);
}

/// While the daemon is away, that is named, wiring goes on, and when it is
/// back it has all there is by then.
fn a_dead_daemon_is_named_and_told_again(flavour: Flavour) {
    let mut rig = Rig::new(flavour, Way::Told, "");
    let [one] = rig.host.guests();
    rig.host.start();
    rig.announced(&[&one.port], false);
    rig.kill_daemon();
    rig.host
        .until("it is named", || advertise(&rig)["away"].is_object());
    let status = rig.host.status();
    assert_eq!(status["advertise"]["away"]["kind"], "absent", "{status:#}");
    assert_eq!(status["in_sync"], false);
    let remedy = status["advertise"]["away"]["remedy"].as_str().unwrap();
    assert!(remedy.contains("start"), "{remedy}");
    let two = rig.host.guest(2);
    rig.host.write(&two.port);
    rig.host.wired(&[&one.port, &two.port]);
    rig.start_daemon();
    rig.announced(&[&one.port, &two.port], false);
    rig.host.settled();
    assert!(advertise(&rig)["away"].is_null());
}

#[test]
fn a_dead_frr_is_named_and_told_again() {
    a_dead_daemon_is_named_and_told_again(Flavour::Frr);
}

#[test]
fn a_dead_bird_is_named_and_told_again() {
    a_dead_daemon_is_named_and_told_again(Flavour::Bird);
}

/// A bgpd that is killed and started has nothing of what it was told, and says so
/// to its switches before the agent has told it again: what they keep meanwhile
/// must not be taken back, since there is no other way to the guests.
#[test]
fn a_renewed_frr_takes_nothing_back() {
    let mut rig = Rig::new(Flavour::Frr, Way::Told, "verify_interval = 3");
    let [one] = rig.host.guests();
    rig.host.start();
    rig.announced(&[&one.port], false);
    all_is_exchanged(&rig);
    let kept = rig.learned("tor1");
    rig.kill_daemon();
    rig.start_daemon();
    let keep = || {
        for switch in ["tor1", "tor2"] {
            assert_eq!(rig.learned(switch), kept, "{switch}");
        }
    };
    rig.host.until("it has been told again", || {
        keep();
        let status = advertise(&rig);
        status["undone"].as_u64() > Some(0) && status["in_rib"] == 4
    });
    for _ in 0..20 {
        keep();
    }
    all_is_exchanged(&rig);
    rig.announced(&[&one.port], false);
}

/// A drain marks everything, also what comes later and over a restart of the
/// agent, and ends when it is told to.
fn a_host_is_drained(flavour: Flavour) {
    let mut rig = Rig::new(flavour, Way::Told, "");
    let [one] = rig.host.guests();
    rig.host.start();
    rig.announced(&[&one.port], false);
    let drained = rig.command(&["drain", "--prepend", "2"]);
    assert!(drained.status.success(), "{drained:?}");
    let progress = String::from_utf8(drained.stdout).unwrap();
    assert!(progress.contains("4 of 4"), "{progress}");
    rig.announced(&[&one.port], true);
    rig.host.kill();
    let two = rig.host.guest(2);
    rig.host.write(&two.port);
    rig.host.start();
    rig.announced(&[&one.port, &two.port], true);
    let drain = &advertise(&rig)["drain"];
    assert_eq!(drain["prepend"], 2, "{drain}");
    let undrained = rig.command(&["undrain"]);
    assert!(undrained.status.success(), "{undrained:?}");
    rig.announced(&[&one.port, &two.port], false);
    assert!(advertise(&rig)["drain"].is_null());
}

#[test]
fn a_host_of_frr_is_drained() {
    a_host_is_drained(Flavour::Frr);
}

#[test]
fn a_host_of_bird_is_drained() {
    a_host_is_drained(Flavour::Bird);
}

/// A guest that leaves by migration is the last choice, and nobody else; also after the
/// agent was killed, and no more when the migration is called off. It stays
/// announced all the while, until nobody is behind its tap any more.
fn who_leaves_is_marked(flavour: Flavour, way: Way) {
    let mut rig = Rig::new(flavour, way, "");
    let [one, two] = rig.host.guests();
    rig.host.start();
    rig.announced(&[&one.port, &two.port], false);
    let leaving = one.port.bound("outgoing").with("revision", 2);
    rig.host.write(&leaving);
    rig.announced_with(&[&two.port], &[&one.port]);
    rig.host.kill();
    rig.host.start();
    rig.host.settled();
    rig.announced_with(&[&two.port], &[&one.port]);
    rig.host.write(&one.port.with("revision", 3));
    rig.announced(&[&one.port, &two.port], false);
    rig.host.write(&leaving.with("revision", 4));
    rig.announced_with(&[&two.port], &[&one.port]);
    one.pause();
    rig.announced(&[&two.port], false);
}

#[test]
fn who_leaves_is_marked_by_frr() {
    who_leaves_is_marked(Flavour::Frr, Way::Told);
}

#[test]
fn who_leaves_is_marked_by_bird() {
    who_leaves_is_marked(Flavour::Bird, Way::Told);
}

#[test]
fn who_leaves_is_picked_up_as_such_by_frr() {
    who_leaves_is_marked(Flavour::Frr, Way::Kernel);
}

#[test]
fn who_leaves_is_picked_up_as_such_by_bird() {
    who_leaves_is_marked(Flavour::Bird, Way::Kernel);
}

/// With the kernel's table as the way, the daemon that picks routes up is read
/// back as well; it can't be drained from here, and that is said.
fn what_is_picked_up_is_verified(flavour: Flavour) {
    let mut rig = Rig::new(flavour, Way::Kernel, "");
    let [one, two] = rig.host.guests();
    rig.host.start();
    rig.announced(&[&one.port, &two.port], false);
    rig.host.settled();
    all_is_exchanged(&rig);
    let status = advertise(&rig);
    assert_eq!(
        (&status["wanted"], &status["in_rib"]),
        (&6.into(), &6.into())
    );
    assert_eq!(status["peers"]["up1"]["sent"], 6, "{status:#}");
    rig.host.remove(&two.port);
    rig.announced(&[&one.port], false);
    rig.host.settled();
    let refused = rig.command(&["drain"]);
    assert!(!refused.status.success());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("advertise = kernel"), "{said}");
}

#[test]
fn what_frr_picks_up_is_verified() {
    what_is_picked_up_is_verified(Flavour::Frr);
}

#[test]
fn what_bird_picks_up_is_verified() {
    what_is_picked_up_is_verified(Flavour::Bird);
}

/// A switch that is never there is named with its uplink; the other goes on.
#[test]
fn a_session_that_never_comes_up_is_named() {
    let mut rig = Rig::new(Flavour::Bird, Way::Told, "");
    rig.kill_switch("tor2");
    let [one] = rig.host.guests();
    rig.host.start();
    rig.announced(&[&one.port], false);
    rig.host.until("it is named", || {
        let problems = advertise(&rig)["problems"].clone();
        let problems = problems.as_array().unwrap();
        problems.iter().any(|p| p["object"] == "session up2")
    });
    assert_eq!(advertise(&rig)["peers"]["up1"]["established"], true);
}
