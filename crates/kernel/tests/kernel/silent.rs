//! What the kernel removes without a word. Each of these was seen to leave a
//! stale route in the map of a listener that only believes messages.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use l2isolate_kernel::{
    Event,
    testing::{in_new_netns, ip, set_sysctl, tap},
};
use l2isolate_reconcile::Change;

use crate::common::{Host, address, floor, name, neighbour, route};

const GUEST: &str = "fa:16:3e:00:00:05";

/// A host with one wired tap.
fn wired() -> Host {
    tap("tap0", "vm0");
    tap("tap1", "vm1");
    let mut host = Host::new();
    host.set([
        address("tap0", "10.252.0.1/32"),
        address("tap0", "2001:db8::1/128"),
        address("tap0", "fe80::1/64"),
        neighbour("tap0", "10.252.0.5", GUEST),
        neighbour("tap0", "2001:db8::5", GUEST),
        floor("10.252.0.5/32"),
        floor("2001:db8::5/128"),
        route("10.252.0.5/32", "tap0"),
        route("2001:db8::5/128", "tap0"),
        route("10.252.0.6/32", "tap1"),
    ]);
    host.settle();
    host
}

fn routed(host: &Host) -> (bool, bool) {
    (
        host.has(&route("10.252.0.5/32", "tap0")),
        host.has(&route("2001:db8::5/128", "tap0")),
    )
}

fn floored(host: &Host) -> bool {
    host.has(&floor("10.252.0.5/32")) && host.has(&floor("2001:db8::5/128"))
}

/// A device that goes down takes the routes of both families, IPv6 with and
/// without messages; the floors stay, so that nothing escapes upwards.
#[test]
fn link_down() {
    for silent in ["0", "1"] {
        in_new_netns(|| {
            set_sysctl("ipv6/route/skip_notify_on_dev_down", silent);
            let mut host = wired();
            ip("link set tap0 down");
            host.settle();
            assert_eq!(routed(&host), (false, false));
            assert!(floored(&host) && host.has(&route("10.252.0.6/32", "tap1")));
            // Down and up again between two drains.
            host.set([(
                l2isolate_model::desired::Key::Up(name("tap0")),
                l2isolate_model::desired::Value::Up(true),
            )]);
            host.set([
                route("10.252.0.5/32", "tap0"),
                route("2001:db8::5/128", "tap0"),
            ]);
            host.drain();
            assert_eq!(routed(&host), (true, true));
            ip("link set tap0 down");
            ip("link set tap0 up");
            host.settle();
            assert_eq!(routed(&host), (false, false));
        });
    }
}

/// lo is a device as well: unreachable IPv6 routes hang on it.
#[test]
fn loopback_down() {
    for silent in ["0", "1"] {
        in_new_netns(|| {
            set_sysctl("ipv6/route/skip_notify_on_dev_down", silent);
            let mut host = wired();
            host.set([
                route("10.255.1.1/32", "lo"),
                route("2001:db8:ff::1/128", "lo"),
            ]);
            ip("link set lo down");
            host.settle();
            assert!(!host.has(&route("10.255.1.1/32", "lo")));
        });
    }
}

/// A device's last IPv4 address takes its routes along, whoever's it was.
#[test]
fn last_address() {
    in_new_netns(|| {
        let mut host = wired();
        ip("address add 192.0.2.1/24 dev tap0");
        ip("address del 10.252.0.1/32 dev tap0");
        host.settle();
        assert_eq!(routed(&host), (true, true));
        ip("address del 192.0.2.1/24 dev tap0");
        host.settle();
        assert_eq!(routed(&host), (false, true));
        assert!(floored(&host) && host.has(&route("10.252.0.6/32", "tap1")));
    });
}

/// An MTU too small for a family ends the family on the device.
#[test]
fn tiny_mtu() {
    in_new_netns(|| {
        let mut host = wired();
        ip("link set tap0 mtu 1000");
        host.settle();
        assert_eq!(routed(&host), (true, false));
    });
}

/// Another hardware address on the host's end flushes neighbour entries.
#[test]
fn another_mac() {
    in_new_netns(|| {
        let mut host = wired();
        ip("link set tap0 address 02:00:00:00:00:01");
        host.settle();
    });
}

/// A device that goes, goes with all that was on it; one that comes back under
/// its name has nothing, and another index.
#[test]
fn device_gone_and_back() {
    in_new_netns(|| {
        let mut host = wired();
        let index = host.links[&name("tap0")].index;
        ip("link del tap0");
        host.settle();
        assert_eq!(routed(&host), (false, false));
        assert!(
            !host
                .objects
                .keys()
                .any(|key| key.device() == Some(name("tap0")))
        );
        tap("tap0", "vm0");
        host.settle();
        assert_ne!(host.links[&name("tap0")].index, index);
        // Gone and back between two drains.
        host.set([
            address("tap0", "10.252.0.1/32"),
            route("10.252.0.5/32", "tap0"),
        ]);
        host.drain();
        ip("link del tap0");
        tap("tap0", "vm0");
        host.settle();
        assert_eq!(routed(&host), (false, false));
        // What is set now goes to the new device.
        host.set([route("10.252.0.5/32", "tap0")]);
        host.settle();
        assert!(ip("route show 10.252.0.5").contains("dev tap0"));
    });
}

/// A renamed device keeps all it has, under other keys.
#[test]
fn renamed() {
    in_new_netns(|| {
        let mut host = wired();
        ip("link set tap0 down");
        ip("link set tap0 name old0");
        ip("link set old0 up");
        host.settle();
        assert!(!host.links.contains_key(&name("tap0")));
        assert!(host.has(&address("old0", "10.252.0.1/32")));
        // Two devices change names; routes follow theirs.
        host.set([route("10.252.0.5/32", "old0")]);
        host.drain();
        ip("link set old0 name swap");
        ip("link set tap1 name old0");
        ip("link set swap name tap1");
        host.settle();
        assert!(host.has(&route("10.252.0.5/32", "tap1")));
        assert!(host.has(&route("10.252.0.6/32", "old0")));
    });
}

/// A name that no tap can have takes the device out of sight.
#[test]
fn renamed_out_of_sight() {
    in_new_netns(|| {
        let mut host = wired();
        ip("link set tap0 name täp0");
        host.settle();
        assert_eq!(routed(&host), (false, false));
        assert!(!host.links.contains_key(&name("tap0")));
    });
}

/// A device that moves into another namespace is gone from here.
#[test]
fn moved_away() {
    in_new_netns(|| {
        let mut host = wired();
        let mut sleeper = std::process::Command::new("unshare")
            .args(["-n", "sleep", "20"])
            .spawn()
            .unwrap();
        // Until it has its own namespace, the move is one to here: refused or
        // without effect.
        for _ in 0..200 {
            let args = ["link", "set", "tap0", "netns", &sleeper.id().to_string()];
            drop(std::process::Command::new("ip").args(args).output());
            if !ip("link").contains("tap0@") {
                break;
            }
            sleep(Duration::from_millis(10));
        }
        host.settle();
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert_eq!(routed(&host), (false, false));
        assert!(!host.links.contains_key(&name("tap0")));
    });
}

/// When a device gets its carrier, nothing tells those who follow messages
/// that its routes work now. Setting the same route again then tells them, by
/// removing it first; without a new carrier it is no change.
#[test]
fn carrier() {
    in_new_netns(|| {
        let mut host = wired();
        let routes = || {
            [
                route("10.252.0.5/32", "tap0"),
                route("2001:db8::5/128", "tap0"),
            ]
        };
        let told = |host: &mut Host| {
            host.kernel
                .apply(&routes().map(|(key, value)| Change::Set(key, value)));
            let events = host.drain();
            routes().map(|(key, value)| {
                let gone = events.contains(&Event::Object(key, None));
                gone && events.contains(&Event::Object(key, Some(value)))
            })
        };
        // The kernel's worker sees to it, a moment later.
        let carried = |host: &mut Host, carrier: bool| {
            let end = Instant::now() + Duration::from_secs(5);
            while host.links[&name("tap0")].carrier != carrier {
                assert!(Instant::now() < end, "no change of carrier was heard of");
                sleep(Duration::from_millis(5));
                host.drain();
            }
        };
        assert_eq!(told(&mut host), [false; 2]);
        ip("link set vm0 down");
        carried(&mut host, false);
        ip("link set vm0 up");
        carried(&mut host, true);
        assert_eq!(told(&mut host), [true; 2]);
        assert_eq!(told(&mut host), [false; 2]);
        host.settle();
    });
}
