//! Each kind of object, by its effect as `ip` shows it, there and back.

use l2isolate_kernel::{
    ApplyError,
    testing::{in_new_netns, ip, tap},
};
use l2isolate_model::{
    IfName,
    desired::{Key, Knob, Target, Value},
    filter::Family,
};
use l2isolate_reconcile::Change;

use crate::common::{FLOOR, Host, METRIC, address, floor, name, neighbour, route};

const MAC: &str = "02:4c:32:49:53:4f";

/// The properties that the agent gives a tap, and that nothing but the named
/// tap gets them.
#[test]
fn link_properties() {
    in_new_netns(|| {
        ip("link add tap0 type veth peer name vm0");
        let mut host = Host::new();
        let up = (Key::Up(name("tap0")), Value::Up(true));
        let mac = (Key::Mac(name("tap0")), Value::Mac(MAC.parse().unwrap()));
        let mtu = (Key::Mtu(name("tap0")), Value::Mtu(1450));
        assert!(!host.has(&up) && !host.has(&mac) && !host.has(&mtu));
        host.set([mac, mtu, up]);
        host.drain();
        assert!(host.has(&up) && host.has(&mac) && host.has(&mtu));
        let shown = ip("link show tap0");
        assert!(shown.contains(MAC) && shown.contains("mtu 1450") && shown.contains(",UP"));
        assert!(!ip("link show vm0").contains("mtu 1450"));
        host.set([(Key::Up(name("tap0")), Value::Up(false))]);
        assert!(!ip("link show tap0").contains(",UP"));
        host.settle();
        assert!(!host.links[&name("tap0")].up);
    });
}

/// Gateways on the tap, usable at once (no duplicate detection), without
/// prefix routes, except that a link-local one brings its own.
#[test]
fn addresses() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        let mut host = Host::new();
        let ours = [
            address("tap0", "10.252.0.1/32"),
            address("tap0", "10.253.0.1/16"),
            address("tap0", "2001:db8::1/128"),
            address("tap0", "2001:db8:1::1/64"),
            address("tap0", "fe80::1/64"),
        ];
        host.set(ours);
        let events = host.drain();
        for object in &ours {
            assert!(host.has(object), "{}: {events:?}", object.0);
        }
        let shown = ip("address show dev tap0");
        assert!(shown.contains("inet 10.252.0.1/32 scope global"), "{shown}");
        assert!(shown.contains("inet6 fe80::1/64 scope link"), "{shown}");
        assert!(
            shown.contains("inet6 2001:db8::1/128 scope global"),
            "{shown}"
        );
        for line in shown.lines().filter(|line| line.contains("2001:db8")) {
            assert!(
                line.contains("nodad") && line.contains("noprefixroute"),
                "{line}"
            );
        }
        assert_eq!(ip("-4 route show dev tap0"), "");
        let routes = ip("-6 route show dev tap0");
        assert!(
            routes.contains("fe80::/64") && !routes.contains("2001:db8"),
            "{routes}"
        );
        host.settle();
        host.delete(ours.map(|(key, _)| key));
        host.settle();
        let shown = ip("address show dev tap0");
        assert!(
            !shown.contains("10.25") && !shown.contains("2001:db8"),
            "{shown}"
        );
        assert!(!shown.contains("fe80::1/"), "{shown}");
    });
}

/// A guest's hardware address is known for good, and can be changed.
#[test]
fn neighbours() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        let mut host = Host::new();
        for guest in ["10.252.0.5", "2001:db8::5"] {
            let entry = neighbour("tap0", guest, "fa:16:3e:00:00:05");
            host.set([entry]);
            host.drain();
            assert!(host.has(&entry));
            let shown = ip(&format!("neighbour show {guest} dev tap0"));
            assert!(
                shown.contains("fa:16:3e:00:00:05") && shown.contains("PERMANENT"),
                "{shown}"
            );
            let other = neighbour("tap0", guest, "fa:16:3e:00:00:06");
            host.set([other]);
            host.settle();
            assert!(host.has(&other));
            host.delete([entry.0]);
            host.settle();
            assert!(!ip("neighbour show dev tap0").contains(guest));
        }
    });
}

/// A guest's route and the floor behind it, in both families; where the guest
/// moves to another tap the route is replaced, never doubled.
#[test]
fn routes() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        tap("tap1", "vm1");
        let mut host = Host::new();
        for (option, prefix) in [("-4", "10.252.0.5/32"), ("-6", "2001:db8::5/128")] {
            let show = || ip(&format!("{option} route show {prefix}"));
            host.set([floor(prefix), route(prefix, "tap0")]);
            host.drain();
            assert!(host.has(&floor(prefix)) && host.has(&route(prefix, "tap0")));
            let shown = show();
            assert_eq!(shown.lines().count(), 2, "{shown}");
            assert!(shown.contains("dev tap0 proto 76"), "{shown}");
            assert!(shown.contains(&format!("metric {METRIC}")), "{shown}");
            assert!(shown.contains("unreachable"), "{shown}");
            assert!(shown.contains(&FLOOR.to_string()), "{shown}");

            host.set([route(prefix, "tap1")]);
            host.drain();
            assert!(host.has(&route(prefix, "tap1")));
            let shown = show();
            assert_eq!(shown.lines().count(), 2, "{shown}");
            assert!(
                shown.contains("dev tap1") && !shown.contains("dev tap0"),
                "{shown}"
            );

            // Into nothing and back: another type in the same place.
            let nowhere = (route(prefix, "tap0").0, Value::Route(Target::Unreachable));
            for object in [nowhere, route(prefix, "tap0")] {
                host.set([object]);
                host.settle();
                assert!(host.has(&object));
                assert_eq!(show().lines().count(), 2, "{}", show());
            }
            // What is as it shall be can be set again.
            host.set([route(prefix, "tap0"), floor(prefix)]);
            assert_eq!(show().lines().count(), 2, "{}", show());
            host.delete([floor(prefix).0, route(prefix, "tap0").0]);
            host.settle();
            assert_eq!(show(), "");
        }
        // A default route of ours: the prefix that the kernel leaves out.
        let (key, _) = floor("0.0.0.0/0");
        host.set([floor("0.0.0.0/0"), floor("::/0")]);
        host.settle();
        assert_eq!(
            host.objects.get(&key),
            Some(&Value::Route(Target::Unreachable))
        );
        // A loopback to be announced.
        host.set([
            route("10.255.1.1/32", "lo"),
            route("2001:db8:ff::1/128", "lo"),
        ]);
        host.settle();
        assert!(host.has(&route("2001:db8:ff::1/128", "lo")));
    });
}

/// The tunnel with its rules, and routes into it and out of it, by peers of both
/// families; what another agent finds of it, and what is left when all is deleted.
#[test]
fn tunnel() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        let mut host = Host::new();
        let device = |port| (Key::Tunnel, Value::Tunnel { port });
        host.set([device(4790)]);
        host.drain();
        // The kernel would choose another one itself, without a word.
        let no_address = Key::Sysctl(Knob::TapAddrGenMode, Some(IfName::TUNNEL));
        host.set([(no_address, Value::Number(1))]);
        host.objects.insert(no_address, Value::Number(1));
        let up = (Key::Up(IfName::TUNNEL), Value::Up(true));
        let mtu = (Key::Mtu(IfName::TUNNEL), Value::Mtu(1464));
        let mut objects = vec![device(4790), mtu, up];
        objects.extend(Family::ALL.map(|family| (Key::TunnelRule(family), Value::Rule)));
        let out = |prefix: &str, target| {
            let key = Key::Delivery(prefix.parse().unwrap());
            (key, Value::Route(target))
        };
        for nowhere in ["0.0.0.0/0", "::/0"] {
            objects.push(out(nowhere, Target::Unreachable));
        }
        for (prefix, from, to) in [
            ("10.252.0.5/32", "10.255.0.1", "10.255.0.2"),
            ("2001:db8:1::5/128", "10.255.0.1", "10.255.0.3"),
            ("10.252.0.6/32", "2001:db8:ff::1", "2001:db8:ff::2"),
            ("2001:db8:1::6/128", "2001:db8:ff::1", "2001:db8:ff::3"),
        ] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let (key, _) = route(prefix, "tap0");
            objects.push((key, Value::Route(Target::Tunnel { from, to })));
            objects.push(out(prefix, Target::Device(name("tap0"))));
        }
        host.set(objects[1..].iter().copied());
        host.settle();
        for object in &objects {
            assert!(host.has(object), "{}", object.0);
        }
        let shown = ip("-d link show l2isolate0");
        assert!(
            shown.contains("external") && shown.contains("gpe"),
            "{shown}"
        );
        let shown = ip("route show 10.252.0.6/32");
        assert!(
            shown.contains("encap ip6 ") && shown.contains("dst 2001:db8:ff::2"),
            "{shown}"
        );
        assert!(ip("-6 rule show").contains("from all iif l2isolate0 lookup 76"));

        // To the tap and back, in the same place.
        let (key, by_tunnel) = objects[7];
        for value in [route("10.252.0.5/32", "tap0").1, by_tunnel] {
            host.set([(key, value)]);
            host.settle();
            assert!(host.has(&(key, value)));
            assert_eq!(ip("route show 10.252.0.5/32").lines().count(), 1);
        }
        // Another port is another device; what led through it went with it.
        host.set([device(4791)]);
        host.settle();
        assert!(host.has(&device(4791)) && !host.objects.contains_key(&key));
        assert!(host.has(&objects[8]), "{}", objects[8].0);

        host.delete(
            objects
                .iter()
                .rev()
                .map(|(key, _)| *key)
                .filter(|key| !matches!(key, Key::Mtu(_) | Key::Up(_))),
        );
        host.settle();
        assert!(
            !objects
                .iter()
                .any(|(key, _)| host.objects.contains_key(key))
        );
        assert!(!ip("rule show").contains("l2isolate0"));
    });
}

/// A device of the tunnel's name that is none is left alone, and named.
#[test]
fn a_strangers_tunnel() {
    in_new_netns(|| {
        tap("l2isolate0", "vm0");
        let mut host = Host::new();
        assert!(!host.objects.contains_key(&Key::Tunnel));
        let set = Change::Set(Key::Tunnel, Value::Tunnel { port: 4790 });
        let outcome = host.kernel.apply(&[set, Change::Delete(Key::Tunnel)]);
        let failure = outcome[0].as_ref().unwrap_err().to_string();
        assert!(failure.contains("tunnel device l2isolate0") && failure.contains("exists"));
        outcome[1].as_ref().unwrap();
        assert!(ip("link show l2isolate0").contains("vm0"));
    });
}

/// A change that fails names its object, says why, and stops no other; what is
/// gone already is deleted.
#[test]
fn failures() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        ip("link set tap0 down");
        let mut host = Host::new();
        let set = |(key, value)| Change::Set(key, value);
        let outcomes = host.kernel.apply(&[
            set(route("10.0.0.5/32", "tap9")),
            set(route("10.0.0.5/32", "tap0")),
            set((Key::Mtu(name("tap0")), Value::Mtu(70_000))),
            set((Key::Mtu(name("tap0")), Value::Up(true))),
            Change::Delete(Key::Mtu(name("tap0"))),
            set((Key::Mtu(name("tap0")), Value::Mtu(1400))),
            Change::Delete(route("10.0.0.5/32", "tap0").0),
            Change::Delete(route("2001:db8::5/128", "tap0").0),
            Change::Delete(address("tap0", "10.0.0.1/32").0),
            Change::Delete(address("tap0", "2001:db8::1/128").0),
            Change::Delete(address("tap9", "10.0.0.1/32").0),
            Change::Delete(neighbour("tap0", "10.0.0.5", MAC).0),
            Change::Delete(neighbour("tap0", "2001:db8::5", MAC).0),
        ]);
        let texts: Vec<String> = outcomes
            .iter()
            .map(|outcome| {
                outcome
                    .as_ref()
                    .map_or_else(ToString::to_string, |()| String::new())
            })
            .collect();
        assert!(
            matches!(outcomes[0], Err(ApplyError::Absent(_))),
            "{}",
            texts[0]
        );
        assert!(
            texts[0].contains("route 10.0.0.5/32 metric 5 dev tap9"),
            "{}",
            texts[0]
        );
        assert!(
            texts[1].contains("route 10.0.0.5/32 metric 5 dev tap0"),
            "{}",
            texts[1]
        );
        assert!(texts[1].contains("(ENETDOWN)"), "{}", texts[1]);
        // The kernel's own words.
        assert!(
            texts[2].contains("(EINVAL): mtu greater than device maximum"),
            "{}",
            texts[2]
        );
        assert!(outcomes[3].is_err() && outcomes[4].is_err());
        assert!(texts[5..].iter().all(String::is_empty), "{texts:?}");
        assert!(ip("link show tap0").contains("mtu 1400"));
    });
}

/// More changes than go into one datagram, with a failure among them: each
/// result belongs to its change.
#[test]
fn long_batches() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        let mut host = Host::new();
        let changes: Vec<_> = (0..1000)
            .map(|n| {
                let device = if n % 100 == 99 { "tap9" } else { "tap0" };
                let (key, value) = route(&format!("10.1.{}.{}/32", n / 250, n % 250), device);
                Change::Set(key, value)
            })
            .collect();
        for (n, outcome) in host.kernel.apply(&changes).iter().enumerate() {
            assert_eq!(outcome.is_err(), n % 100 == 99, "{n}: {outcome:?}");
        }
        assert_eq!(ip("route show proto 76").lines().count(), 990);
        host.settle();
    });
}
