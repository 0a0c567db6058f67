//! States of a port, and the changes between them.

use crate::harness::{Flow, Host, OUTSIDE4, OUTSIDE6};

/// Administratively down: nothing passes, and nobody else notices.
#[test]
fn a_port_that_is_switched_off_passes_nothing() {
    let mut host = Host::new();
    let [one, two, three] = host.guests();
    host.start();
    host.wired(&[&one.port, &two.port, &three.port]);
    let (v4, v6) = (Flow::start(&two, &three, 4), Flow::start(&three, &two, 6));
    let off = one.port.with("admin_state_up", false).with("revision", 2);
    host.write(&off);
    host.wired(&[&off, &two.port, &three.port]);
    for address in [&two.port.v4(), &two.port.v6(), OUTSIDE4, OUTSIDE6] {
        assert!(one.misses(address), "{address}");
    }
    assert!(two.misses(&one.port.v4()));
    // Somebody switches the link on: it stays off.
    host.ip(&format!("link set {} up", one.port.tap()));
    host.wired(&[&off, &two.port, &three.port]);
    host.write(&one.port.with("revision", 3));
    host.wired(&[&one.port, &two.port, &three.port]);
    assert!(one.reaches(&two.port.v4()));
    assert!(two.reaches(&one.port.v6()));
    v4.unharmed();
    v6.unharmed();
}

/// A guest that will arrive by migration still runs elsewhere: its tap is
/// ready, and nothing attracts its packets. When it has arrived, its routes
/// come; while it leaves, they stay, as the last choice, as long as it is there.
#[test]
fn a_guest_is_announced_from_when_it_has_arrived() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    one.pause();
    let incoming = one.port.bound("incoming");
    host.write(&incoming);
    host.start();
    host.wired(&[&incoming, &two.port]);
    assert!(
        two.misses(&one.port.v4()),
        "attracted before it has arrived"
    );
    // Whoever leaves and isn't there any more isn't routed here either.
    for state in ["active", "outgoing", "incoming", "active"] {
        let port = one.port.bound(state);
        host.write(&port);
        host.wired(&[&port, &two.port]);
    }
    one.set_up();
    let leaving = one.port.bound("outgoing");
    host.write(&leaving);
    host.wired(&[&leaving, &two.port]);
    assert!(two.reaches(&one.port.v4()));
    one.pause();
    host.wired(&[&leaving, &two.port]);
    one.set_up();
    host.wired(&[&leaving, &two.port]);
    host.write(&one.port);
    host.wired(&[&one.port, &two.port]);
    assert!(two.reaches(&one.port.v4()));
    assert!(one.reaches(&two.port.v6()));
}

/// Another address, another MAC, one family less: what was is gone, and the
/// rest isn't touched.
#[test]
fn a_port_that_changes_takes_its_old_objects_along() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    host.start();
    host.wired(&[&one.port, &two.port]);
    let flow = Flow::start(&one, &two, 6);
    let (v4, v6) = (two.port.v4(), two.port.v6());
    let old = one.port.v4();
    let moved = one
        .port
        .with_addresses(&[("10.252.99.9", "net4"), (&one.port.v6(), "net6")])
        .with("revision", 2);
    host.write(&moved);
    host.wired(&[&moved, &two.port]);
    assert!(two.misses(&old));
    one.ip("addr add 10.252.99.9/16 dev eth0");
    assert!(two.reaches("10.252.99.9"));
    flow.unharmed();
    let six_only = moved
        .with_addresses(&[(&one.port.v6(), "net6")])
        .with("revision", 3);
    host.write(&six_only);
    host.wired(&[&six_only, &two.port]);
    let other_mac = six_only
        .with("mac", "02:00:00:00:77:77")
        .with("revision", 4);
    host.write(&other_mac);
    host.wired(&[&other_mac, &two.port]);
    let none = other_mac.with_addresses(&[]).with("revision", 5);
    host.write(&none);
    host.wired(&[&none, &two.port]);
    // Addresses change owner in one go.
    let swapped = none
        .with_addresses(&[(&v4, "net4"), (&v6, "net6")])
        .with("revision", 6);
    let without = two.port.with_addresses(&[]).with("revision", 2);
    host.write(&without);
    host.write(&swapped);
    host.wired(&[&swapped, &without]);
}
