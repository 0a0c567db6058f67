//! Devices come, go, are renamed and replaced, as whoever makes them likes.

use l2isolate_lab::netns;

use crate::harness::{Flow, Host, OUTSIDE4, Port};

/// A port without tap and a tap without port are states, not errors.
#[test]
fn whichever_comes_first_waits_for_the_other() {
    let mut host = Host::new();
    let [one] = host.guests();
    host.start();
    host.wired(&[&one.port]);
    let two = Port::new(2);
    host.write(&two);
    let three = host.guest(3);
    host.until("the port is known", || {
        host.status()["ports"]["no_tap"] == 1
    });
    host.settled();
    assert_eq!(host.status()["in_sync"], true);
    host.wired(&[&one.port]);
    host.tap(two.tap(), &one.namespace, "eth2");
    host.write(&three.port);
    host.wired(&[&one.port, &two, &three.port]);
    assert!(one.reaches(&three.port.v4()));
}

/// Another device under the same name has another index: all of it is wired
/// anew, though the name, and perhaps the order of events, says nothing.
#[test]
fn a_tap_that_is_made_again_is_wired_again() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    host.start();
    host.wired(&[&one.port, &two.port]);
    // In one go, so that the agent sees it afterwards; and step by step.
    let (tap, guest) = (one.port.tap(), &one.namespace);
    let again = format!("link del {tap}\nlink add {tap} type veth peer name eth0 netns {guest}\n");
    netns::batch(Some(&host.hv), &again).unwrap();
    host.wired(&[&one.port, &two.port]);
    netns::batch(Some(&host.hv), &again.repeat(10)).unwrap();
    host.wired(&[&one.port, &two.port]);
    for _ in 0..5 {
        host.ip(&format!("link del {tap}"));
        host.tap(tap, guest, "eth0");
    }
    host.wired(&[&one.port, &two.port]);
    one.set_up();
    assert!(one.reaches(&two.port.v4()));
    assert!(two.reaches(&one.port.v6()));
    host.ip(&format!("link del {}", one.port.tap()));
    host.wired(&[&two.port]);
    assert!(two.misses(&one.port.v4()));
}

/// A tap that is renamed away is nobody's; one that is renamed to a port's
/// name is that port's.
#[test]
fn a_tap_that_is_renamed_changes_its_port() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    let three = Port::new(3);
    host.write(&three);
    host.start();
    host.wired(&[&one.port, &two.port]);
    let flow = Flow::start(&two, &two, 4);
    let rename = |from: &str, to: &str| {
        host.ip(&format!("link set {from} down"));
        host.ip(&format!("link set {from} name {to}"));
    };
    rename(one.port.tap(), three.tap());
    host.wired(&[&three, &two.port]);
    rename(three.tap(), "other0");
    host.until("what was on it is gone", || {
        let left = [
            host.ip("route show proto 76"),
            host.ip("neigh show dev other0"),
            host.ip("addr show dev other0"),
        ];
        !left.iter().any(|text| {
            text.contains("10.252.0.3")
                || text.contains("10.252.1.3")
                || text.contains("10.252.0.1/")
        })
    });
    rename("other0", one.port.tap());
    host.wired(&[&one.port, &two.port]);
    one.forget();
    assert!(one.reaches(&two.port.v4()));
    // A second name isn't the name: it stays the same port's.
    host.ip(&format!(
        "link property add dev {} altname {}",
        one.port.tap(),
        three.tap()
    ));
    host.wired(&[&one.port, &two.port]);
    flow.unharmed();
}

/// A tap that another namespace takes is gone; when it comes back, it is
/// wired anew.
#[test]
fn a_tap_that_moves_to_another_namespace_is_gone() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    host.start();
    host.wired(&[&one.port, &two.port]);
    host.ip(&format!("link set {} netns {}", one.port.tap(), host.world));
    host.wired(&[&two.port]);
    crate::harness::ip(
        &host.world,
        &format!("link set {} netns {}", one.port.tap(), host.hv),
    );
    host.wired(&[&one.port, &two.port]);
    assert!(one.reaches(OUTSIDE4));
}

/// A port takes another tap, and the taps of two ports change places.
#[test]
fn a_port_takes_another_tap() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    host.start();
    host.wired(&[&one.port, &two.port]);
    host.tap("tap-other", &one.namespace, "eth1");
    let moved = one.port.with("tap", "tap-other").with("revision", 2);
    host.write(&moved);
    host.wired(&[&moved, &two.port]);
    let (a, b) = (one.port.with("revision", 3), two.port.with("revision", 3));
    let (a, b) = (a.with("tap", two.port.tap()), b.with("tap", one.port.tap()));
    // Both are the older's while only one has changed: a conflict for a moment.
    host.write(&a);
    host.write(&b);
    host.wired(&[&a, &b]);
    host.until("no conflict is left", || host.status()["in_sync"] == true);
}

/// The name is whatever the port says, and the device of any kind: what no
/// port names is left alone whatever it is called.
#[test]
fn a_tap_may_have_a_dot_in_its_name() {
    let mut host = Host::new();
    let [one] = host.guests();
    let two = Port::new(2).with("tap", "tap.7");
    host.tap("tap.7", &one.namespace, "eth1");
    host.tap("tap.8", &one.namespace, "eth2");
    host.write(&two);
    host.start();
    let here = |host: &Host| host.ip("route show metric 5 dev tap.7").contains(&two.v4());
    host.until("it is wired", || here(&host));
    host.settled();
    // A dot in a name is a slash in sysctl's notation, and must not be here.
    let proxy_arp = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/proxy_arp");
        netns::inside(&host.hv, || std::fs::read_to_string(path).unwrap()).unwrap()
    };
    assert_eq!(proxy_arp("tap.7").trim(), "1");
    assert_eq!(proxy_arp("tap.8").trim(), "0");
    host.remove(&two);
    host.until("it is cleared", || !here(&host));
    host.settled();
    assert_eq!(proxy_arp("tap.7").trim(), "0");
    let left = host.ip("neigh show dev tap.7") + &host.ip("addr show dev tap.7");
    assert!(!left.contains("10.252."), "{left}");
}
