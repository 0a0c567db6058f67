//! What is ours is told by its protocol number alone; strangers' objects stay
//! as they are, and ours come back to their place.

use l2isolate_kernel::testing::{in_new_netns, ip, tap};
use l2isolate_model::desired::Value;
use l2isolate_reconcile::Change;

use crate::common::{Host, address, neighbour, route};

const GUEST: &str = "fa:16:3e:00:00:05";

/// Nothing of others is observed, and nothing of others can be deleted, even
/// where it has the place of something of ours.
#[test]
fn strangers_stay() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        ip("address add 10.252.0.1/32 dev tap0");
        ip("address add 2001:db8::1/128 dev tap0 nodad");
        ip("neighbour add 10.252.0.5 dev tap0 lladdr fa:16:3e:00:00:05 nud permanent");
        ip("neighbour add 2001:db8::5 dev tap0 lladdr fa:16:3e:00:00:05 nud permanent protocol 77");
        ip("route add 10.252.0.5/32 dev tap0 metric 5");
        ip("-6 route add 2001:db8::5/128 dev tap0 metric 5");
        ip("route add 10.252.0.6/32 dev tap0 metric 5 proto 76 table 100");
        let mut host = Host::new();
        let theirs = [
            address("tap0", "10.252.0.1/32"),
            address("tap0", "2001:db8::1/128"),
            neighbour("tap0", "10.252.0.5", GUEST),
            neighbour("tap0", "2001:db8::5", GUEST),
            route("10.252.0.5/32", "tap0"),
            route("2001:db8::5/128", "tap0"),
            route("10.252.0.6/32", "tap0"),
        ];
        let shown = || {
            [
                "address show dev tap0",
                "neighbour show",
                "route show table all",
                "-6 route show",
            ]
            .map(ip)
        };
        let before = shown();
        for object in &theirs {
            assert!(!host.objects.contains_key(&object.0), "{}", object.0);
        }
        host.delete(theirs.map(|(key, _)| key));
        assert_eq!(shown(), before);
        host.settle();
    });
}

/// What somebody has made already becomes ours when we want it, so that it is
/// observed from then on, and only one of it is there.
#[test]
fn taken_over() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        ip("address add 10.252.0.1/32 dev tap0");
        ip("address add 2001:db8::1/128 dev tap0 nodad");
        ip("address add fe80::1/64 dev tap0 nodad");
        ip("neighbour add 10.252.0.5 dev tap0 lladdr 02:00:00:00:00:01 nud reachable");
        ip("neighbour add 2001:db8::5 dev tap0 lladdr fa:16:3e:00:00:05 nud permanent");
        ip("route add 10.252.0.5/32 via 10.252.0.5 dev tap0 onlink metric 5");
        ip("-6 route add 2001:db8::5/128 via fe80::5 dev tap0 metric 5");
        let mut host = Host::new();
        let ours = [
            address("tap0", "10.252.0.1/32"),
            address("tap0", "2001:db8::1/128"),
            address("tap0", "fe80::1/64"),
            neighbour("tap0", "10.252.0.5", GUEST),
            neighbour("tap0", "2001:db8::5", GUEST),
            route("10.252.0.5/32", "tap0"),
            route("2001:db8::5/128", "tap0"),
        ];
        host.set(ours);
        host.drain();
        for object in &ours {
            assert!(host.has(object), "{}", object.0);
        }
        host.settle();
        for show in ["route show 10.252.0.5", "-6 route show 2001:db8::5"] {
            let routes = ip(show);
            assert_eq!(routes.lines().count(), 1, "{routes}");
            assert!(
                routes.contains("proto 76") && !routes.contains("via"),
                "{routes}"
            );
        }
    });
}

/// Each way in which a stranger can change or delete ours is told, and set
/// anew it is ours and alone.
#[test]
fn strangers_change_ours() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        tap("tap1", "vm1");
        let mut host = Host::new();
        let ours = [
            address("tap0", "10.252.0.1/32"),
            address("tap0", "2001:db8::1/128"),
            neighbour("tap0", "10.252.0.5", GUEST),
            neighbour("tap0", "2001:db8::5", GUEST),
            route("10.252.0.5/32", "tap0"),
            route("2001:db8::5/128", "tap0"),
        ];
        host.set(ours);
        host.settle();
        for (number, deed) in [
            (0, "address del 10.252.0.1/32 dev tap0"),
            (0, "address change 10.252.0.1/32 dev tap0"),
            (1, "address del 2001:db8::1/128 dev tap0"),
            (1, "address change 2001:db8::1/128 dev tap0"),
            (2, "neighbour del 10.252.0.5 dev tap0"),
            (
                2,
                "neighbour change 10.252.0.5 dev tap0 lladdr 02:00:00:00:00:02 nud permanent",
            ),
            (
                2,
                "neighbour change 10.252.0.5 dev tap0 lladdr fa:16:3e:00:00:05 nud stale",
            ),
            (3, "neighbour del 2001:db8::5 dev tap0"),
            (
                3,
                "neighbour change 2001:db8::5 dev tap0 lladdr 02:00:00:00:00:02 nud permanent",
            ),
            (3, "neighbour flush dev tap0 nud permanent"),
            (4, "route del 10.252.0.5/32 metric 5"),
            (4, "route flush dev tap0"),
            (4, "route replace 10.252.0.5/32 dev tap1 metric 5"),
            (4, "route replace unreachable 10.252.0.5/32 metric 5"),
            (4, "route replace 10.252.0.5/32 dev tap1 metric 5 proto 76"),
            (4, "route prepend 10.252.0.5/32 dev tap1 metric 5"),
            (5, "-6 route del 2001:db8::5/128 metric 5"),
            (5, "-6 route replace 2001:db8::5/128 dev tap1 metric 5"),
            (
                5,
                "-6 route replace 2001:db8::5/128 dev tap1 metric 5 proto 76",
            ),
            (
                5,
                "-6 route replace 2001:db8::5/128 via fe80::5 dev tap1 metric 5",
            ),
            (5, "-6 route replace unreachable 2001:db8::5/128 metric 5"),
            (5, "-6 route flush dev tap0 proto 76"),
        ] {
            ip(deed);
            let events = host.drain();
            assert!(!host.has(&ours[number]), "{deed}: {events:?}");
            host.set(
                ours.into_iter()
                    .filter(|object| host.objects.get(&object.0) != Some(&object.1))
                    .collect::<Vec<_>>(),
            );
            host.settle();
            for object in &ours {
                assert!(host.has(object), "{deed}: {}", object.0);
            }
            for show in [
                "route show 10.252.0.5 metric 5",
                "-6 route show 2001:db8::5 metric 5",
            ] {
                let routes = ip(show);
                assert_eq!(routes.lines().count(), 1, "{deed}: {routes}");
                assert!(routes.contains("dev tap0 proto 76"), "{deed}: {routes}");
            }
        }
    });
}

/// Behind ours a stranger's route does no harm, and when ours is set anew it
/// gives way, since the place is ours.
#[test]
fn a_route_beside_ours() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        tap("tap1", "vm1");
        let mut host = Host::new();
        for (option, prefix) in [("-4", "10.252.0.5/32"), ("-6", "2001:db8::5/128")] {
            let ours = route(prefix, "tap0");
            host.set([ours]);
            ip(&format!("{option} route append {prefix} dev tap1 metric 5"));
            host.drain();
            assert!(host.has(&ours));
            host.set([ours]);
            host.settle();
            let routes = ip(&format!("{option} route show {prefix}"));
            assert_eq!(routes.lines().count(), 1, "{routes}");
            assert!(routes.contains("dev tap0 proto 76"), "{routes}");
        }
    });
}

/// One that was there before ours was observed, and before it in the table,
/// is found out when ours is set: the second try replaces it.
#[test]
fn an_unseen_route_before_ours() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        tap("tap1", "vm1");
        ip("route add 10.252.0.5/32 dev tap0 metric 5 proto 76");
        ip("route prepend 10.252.0.5/32 dev tap1 metric 5");
        let mut host = Host::new();
        let (key, value) = route("10.252.0.5/32", "tap0");
        let first = host.kernel.apply(&[Change::Set(key, value)]).remove(0);
        assert!(first.unwrap_err().to_string().contains("EEXIST"));
        host.set([(key, value)]);
        let routes = ip("route show 10.252.0.5");
        assert_eq!(routes.lines().count(), 1, "{routes}");
        assert!(routes.contains("dev tap0 proto 76"), "{routes}");
        host.settle();
    });
}

/// Two of ours in one place, which takes a stranger with our number: one is
/// known, and set anew there is one.
#[test]
fn two_of_ours() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        tap("tap1", "vm1");
        let mut host = Host::new();
        for (option, prefix) in [("-4", "10.252.0.5/32"), ("-6", "2001:db8::5/128")] {
            let ours = route(prefix, "tap0");
            let show = || ip(&format!("{option} route show {prefix}"));
            let double = || {
                ip(&format!(
                    "{option} route append {prefix} dev tap1 metric 5 proto 76"
                ))
            };
            host.set([ours]);
            double();
            host.settle();
            // The one that goes isn't the one that is known.
            ip(&format!("{option} route del {prefix} dev tap0 metric 5"));
            host.settle();
            for observed_anew in [false, true] {
                host.set([ours]);
                host.settle();
                assert!(host.has(&ours));
                double();
                if observed_anew {
                    host = Host::new();
                }
                host.drain();
                assert!(!host.has(&ours));
                host.set([ours]);
                host.settle();
                assert!(host.has(&ours));
                assert_eq!(show().lines().count(), 1, "{}", show());
            }
        }
    });
}

/// A route with our number that leads otherwise than we ever make one is ours
/// all the same: seen, and gone when it's deleted.
#[test]
fn ours_by_a_gateway_is_ours() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        ip("address add 10.0.0.1/24 dev tap0");
        let mut host = Host::new();
        for when in ["event", "observation"] {
            ip("route add 10.9.0.5/32 via 10.0.0.2 proto 76 metric 5");
            if when == "event" {
                host.settle();
            } else {
                host = Host::new();
            }
            let (key, _) = route("10.9.0.5/32", "tap0");
            assert!(host.has(&(key, Value::Other)), "{when}");
            let results = host.kernel.apply(&[Change::Delete(key)]);
            assert!(results.iter().all(Result::is_ok));
            host.settle();
            assert!(!host.has(&(key, Value::Other)));
            assert!(!ip("route show 10.9.0.5").contains("10.9.0.5"));
        }
    });
}
