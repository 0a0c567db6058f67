//! A guest that arrives by live migration: from when on it is announced.

use crate::harness::{Guest, Host, Port};

/// A host with a guest that is expected and hasn't said anything, and its port.
fn expecting() -> (Host, Guest, Port) {
    let mut host = Host::new();
    let one = host.paused_guest(1);
    let incoming = one.port.bound("incoming");
    host.write(&incoming);
    host.start();
    host.wired(&[&incoming]);
    (host, one, incoming)
}

/// The guest's first frame makes it live, before the control plane knows: its
/// routes come, and it is reached. What it was is not forgotten by an agent that
/// is killed, and the control plane's word then changes nothing.
#[test]
fn a_guest_is_live_from_its_first_frame() {
    let (mut host, one, incoming) = expecting();
    let two = host.guest(2);
    host.write(&two.port);
    host.wired(&[&incoming, &two.port]);
    assert!(two.misses(&one.port.v4()), "attracted before it is here");

    one.set_up();
    host.wired(&[&incoming.seen(), &two.port]);
    assert!(two.reaches(&one.port.v4()));
    assert!(one.reaches(&two.port.v6()));

    host.kill();
    host.start();
    host.settled();
    assert_eq!(host.status()["written"], 0);
    host.wired(&[&incoming.seen(), &two.port]);
    host.write(&one.port.with("revision", 2));
    host.settled();
    assert_eq!(host.status()["written"], 0);
    assert!(two.reaches(&one.port.v6()));
}

/// Somebody else's frame on the tap moves nothing, and is named in the log; the
/// guest's own still does.
#[test]
fn a_stranger_on_the_tap_is_no_arrival() {
    let (host, one, incoming) = expecting();
    one.ip("link set eth0 address 02:00:00:00:99:99");
    one.ip("link set eth0 up");
    host.until("the stranger is named", || {
        host.log().contains("02:00:00:00:99:99")
    });
    host.wired(&[&incoming]);
    one.pause();
    one.set_up();
    host.wired(&[&incoming.seen()]);
}

/// A tap that is made anew is another one: who was seen on the old one, as in a
/// migration that failed and is tried again, is expected anew.
#[test]
fn a_new_tap_expects_its_guest_anew() {
    let (host, one, incoming) = expecting();
    one.set_up();
    host.wired(&[&incoming.seen()]);
    host.ip(&format!("link del {}", one.port.tap()));
    host.tap(one.port.tap(), &one.namespace, "eth0");
    host.wired(&[&incoming]);
    one.set_up();
    host.wired(&[&incoming.seen()]);
}

/// A migration that is called off takes everything of the port along, and with
/// it what was seen.
#[test]
fn what_is_called_off_leaves_nothing() {
    let (mut host, one, incoming) = expecting();
    let two = host.guest(2);
    host.write(&two.port);
    one.set_up();
    host.wired(&[&incoming.seen(), &two.port]);
    host.remove(&one.port);
    host.wired(&[&two.port]);
    one.pause();
    host.write(&incoming.with("revision", 3));
    host.wired(&[&incoming, &two.port]);
}

/// Operators see where a guest is in its migration; every row of the table of
/// states that one host can come to, in the order of a migration here and away
/// again.
#[test]
fn where_a_migration_is_can_be_seen() {
    let (mut host, one, incoming) = expecting();
    let is = |host: &Host, state: &str| {
        host.until(&format!("it is {state}"), || {
            host.migration(&one.port) == state
        });
    };
    is(&host, "incoming");
    one.set_up();
    is(&host, "live");
    host.kill();
    host.start();
    is(&host, "live");
    host.write(&one.port.with("revision", 2));
    is(&host, "active");
    let leaving = one.port.bound("outgoing").with("revision", 3);
    host.write(&leaving);
    is(&host, "outgoing");
    host.kill();
    host.start();
    is(&host, "outgoing");
    one.pause();
    is(&host, "left");
    one.set_up();
    is(&host, "outgoing");
    // Back at once, on the same tap: that it was here says nothing.
    one.pause();
    is(&host, "left");
    host.write(&incoming.with("revision", 4));
    is(&host, "incoming");
    one.set_up();
    is(&host, "live");
    host.remove(&one.port);
    is(&host, "gone");
}
