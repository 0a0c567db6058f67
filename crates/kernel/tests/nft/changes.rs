//! One change after another, errors among them, and strangers.

use std::{process::Command, time::Instant};

use l2isolate_kernel::{conntrack::Conntrack, nft::Nft, testing::in_new_netns};
use l2isolate_model::filter::{Chain, Item, Key, SetType, Table, Term, Value, Verdict};
use l2isolate_plan::filter::{FilterRules, Owner};
use l2isolate_reconcile::{Change, Reconciler};
use serde_json::json;

use crate::common::{absorb, apply, compare, everything, intent, nft, plan, put, subnets};

/// Somebody else's.
const STRANGE: &str = "table ip strange {\nset s {\ntype ipv4_addr\n}\n}";

/// From nothing to everything, from one intent to the next and back to
/// nothing: each step is one transaction that the kernel takes whole, and what
/// is there afterwards is what was wanted.
#[test]
fn any_intent_to_any_other() {
    in_new_netns(|| {
        let mut kernel = Nft::open().unwrap();
        let mut intent = intent(&everything());
        let whole = plan(&intent);
        put(&mut kernel, whole.clone());
        absorb(
            &mut intent,
            &json!({"version": 1,
                "ports": [
                    // Down becomes up, open becomes secured, and one loses its groups.
                    {"id": "aaaaaaaa-04", "mac": "fa:16:3e:00:00:04", "groups": ["g-two"],
                     "addresses": [{"address": "10.252.0.8", "subnet": "s4"}]},
                    {"id": "aaaaaaaa-03", "mac": "fa:16:3e:00:00:03", "groups": ["g-one"],
                     "addresses": [{"address": "10.252.0.7", "subnet": "s4"}]},
                    {"id": "aaaaaaaa-01", "mac": "fa:16:3e:00:00:01",
                     "addresses": [{"address": "10.252.0.5", "subnet": "s4"}]},
                ],
                "groups": [
                    // Ranges that overlap the former ones, and members of another kind.
                    {"id": "g-one", "rules": [
                        {"direction": "ingress", "ethertype": "IPv4", "protocol": "tcp", "port_range_min": 20, "port_range_max": 30},
                        {"direction": "ingress", "ethertype": "IPv4", "protocol": "tcp", "port_range_min": 7000, "port_range_max": 9000},
                        {"direction": "ingress", "ethertype": "IPv4", "protocol": "udp", "remote_ip_prefix": "203.0.112.0/22"},
                        {"direction": "ingress", "ethertype": "IPv4", "protocol": "udp", "remote_ip_prefix": "1.2.3.4"}],
                     "members": [{"address": "10.0.0.0/8"}, {"address": "11.0.0.1"}]},
                ],
                "address_groups": [{"id": "ag", "addresses": ["192.0.2.64/26"]}],
            }),
        );
        let next = plan(&intent);
        assert_ne!(next, whole);
        put(&mut kernel, next.clone());
        compare(&kernel.observe().unwrap(), &next);
        put(&mut kernel, whole.clone());
        compare(&kernel.observe().unwrap(), &whole);
        put(
            &mut kernel,
            plan(&crate::common::intent(
                &json!({"version": 1, "subnets": subnets()}),
            )),
        );
        put(&mut kernel, l2isolate_model::filter::Objects::new());
        assert_eq!(nft(&["list", "ruleset"], ""), "");
    });
}

/// One object that the kernel doesn't take must not hold up the others, and
/// the error names it.
#[test]
fn what_is_refused_is_left_out() {
    in_new_netns(|| {
        let mut kernel = Nft::open().unwrap();
        let base = plan(&intent(&json!({"version": 1})));
        put(&mut kernel, base.clone());
        let chain = |term| {
            Value::Chain(Chain {
                hook: None,
                rules: vec![vec![term]],
            })
        };
        let to = |name: &str| Verdict::Jump(name.into());
        let element = |name: &str, chain: &str| {
            let key = Key::Element(
                Table::Inet,
                "groups-from".into(),
                Item::Device(name.parse().unwrap()),
            );
            (key, Value::Element(Some(to(chain))))
        };
        let objects = [
            (Key::Chain(Table::Inet, "good".into()), chain(Term::Accept)),
            (
                Key::Chain(Table::Inet, "bad".into()),
                chain(Term::Jump("nowhere".into())),
            ),
            (
                Key::Set(Table::Inet, "numbers".into()),
                Value::Set(SetType::Ports),
            ),
            element("tap1", "good"),
            element("tap2", "nowhere"),
            element("tap3", "good"),
        ];
        let mut reconciler: Reconciler<FilterRules> = Reconciler::default();
        reconciler.observe_all(Instant::now(), kernel.observe().unwrap());
        reconciler.want(&Owner::Base, base.into_iter().chain(objects));
        let changes = reconciler.next(Instant::now());
        let results = kernel.apply(&changes, reconciler.observed());
        let refused: Vec<String> = results
            .iter()
            .filter_map(|r| Some(r.as_ref().err()?.to_string()))
            .collect();
        assert_eq!(refused.len(), 2, "{refused:?}");
        assert!(refused[0].starts_with("chain inet bad: "), "{refused:?}");
        assert!(
            refused[1].starts_with("element inet groups-from tap2: "),
            "{refused:?}"
        );
        let listed = nft(&["list", "ruleset"], "");
        assert!(listed.contains("\"tap3\" : jump good"), "{listed}");
    });
}

/// A port whose groups change gets other entries in its maps; what was counted
/// goes on.
#[test]
fn counts_outlive_a_change_of_groups() {
    in_new_netns(|| {
        let mut kernel = Nft::open().unwrap();
        let mut intent = intent(&everything());
        put(&mut kernel, plan(&intent));
        let port = |groups: &[&str]| {
            json!({"version": 1, "ports": [{"id": "aaaaaaaa-02", "mac": "fa:16:3e:00:00:02",
                "groups": groups, "addresses": [{"address": "10.252.0.6", "subnet": "s4"}]}]})
        };
        let tap = "tapaaaaaaaa-02";
        nft(
            &[
                "delete",
                "element",
                "inet",
                "l2isolate",
                "received",
                &format!("{{ {tap} }}"),
            ],
            "",
        );
        let counted = format!("{{ {tap} counter packets 42 bytes 4200 }}");
        nft(
            &["add", "element", "inet", "l2isolate", "received", &counted],
            "",
        );
        absorb(&mut intent, &port(&["g-one"]));
        put(&mut kernel, plan(&intent));
        compare(&kernel.observe().unwrap(), &plan(&intent));
        let received = (Table::Inet, "received".into(), Some(tap.parse().unwrap()));
        let count = kernel.counters().unwrap()[&received];
        assert_eq!((count.packets, count.bytes), (42, 4200));
    });
}

/// Elements that count connections come and go with every port. The kernel
/// forgets to take the reference to connection tracking that it gives up for
/// each; without tracking nothing but first packets would pass.
#[test]
fn tracking_outlives_ports() {
    in_new_netns(|| {
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let mut kernel = Nft::open().unwrap();
        let ports = plan(&intent(&everything()));
        let none = plan(&intent(&json!({"version": 1})));
        for _ in 0..20 {
            put(&mut kernel, ports.clone());
            put(&mut kernel, none.clone());
        }
        // The kernel takes elements apart behind its answer.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"tracked?", "127.0.0.1:9").unwrap();
        let flows = Conntrack::open().unwrap().flows(|_| true).unwrap();
        assert!(!flows.is_empty(), "nothing is tracked any more");
    });
}

/// Ours are ours: with the owner flag a stranger can neither flush nor change
/// them, also when the owner is gone they stay; and we take them over again.
#[test]
fn owned_tables_survive_strangers_and_their_owner() {
    if !Nft::can_own() {
        return;
    }
    in_new_netns(|| {
        nft(&["-f", "-"], STRANGE);
        let mut objects = plan(&intent(&everything()));
        for table in Table::ALL {
            objects.insert(Key::Table(table), Value::Table { owned: true });
        }
        let mut kernel = Nft::open().unwrap();
        put(&mut kernel, objects.clone());
        compare(&kernel.observe().unwrap(), &objects);
        nft(&["flush", "ruleset"], "");
        compare(&kernel.observe().unwrap(), &objects);
        drop(kernel);
        // What the flush took of the stranger is the stranger's own affair.
        nft(&["-f", "-"], STRANGE);
        let mut next = Nft::open().unwrap();
        let found = next.observe().unwrap();
        assert_eq!(found.len(), objects.len());
        put(&mut next, objects.clone());
        compare(&next.observe().unwrap(), &objects);
        nft(&["flush", "ruleset"], "");
        compare(&next.observe().unwrap(), &objects);
    });
}

/// Without that flag we hear of it at once and can put it back; what strangers
/// do in their own tables is no news.
#[test]
fn strangers_are_heard() {
    in_new_netns(|| {
        let objects = plan(&intent(&everything()));
        let mut kernel = Nft::open().unwrap();
        put(&mut kernel, objects.clone());
        assert!(!kernel.heard(), "our own change is no news");
        nft(
            &["-f", "-"],
            "table inet strange {\nchain input {\ntype filter hook input priority 0\n}\n}",
        );
        assert!(!kernel.heard(), "another table is no news");
        nft(
            &[
                "add",
                "rule",
                "inet",
                "l2isolate",
                "forward-from",
                "counter",
                "accept",
            ],
            "",
        );
        assert!(kernel.heard());
        nft(
            &[
                "delete",
                "element",
                "inet",
                "l2isolate",
                "secured",
                "{",
                "tapaaaaaaaa-01",
                "}",
            ],
            "",
        );
        nft(
            &[
                "add",
                "set",
                "inet",
                "l2isolate",
                "odd",
                "{",
                "type",
                "mark;",
                "}",
            ],
            "",
        );
        put(&mut kernel, objects.clone());
        compare(&kernel.observe().unwrap(), &objects);
        nft(&["flush", "ruleset"], "");
        assert!(kernel.heard());
        put(&mut kernel, objects.clone());
        compare(&kernel.observe().unwrap(), &objects);
    });
}

/// A change of one element must not need the rest: it works with thousands of
/// others, in a batch as large as it gets.
#[test]
fn large_sets() {
    in_new_netns(|| {
        let mut kernel = Nft::open().unwrap();
        let mut document = everything();
        let members: Vec<_> = (0..20_000_u32)
            .map(|n| json!({"address": format!("10.{}.{}.{}", n >> 14, n >> 7 & 127, n & 127)}))
            .collect();
        document["groups"][0]["members"] = members.into();
        let objects = plan(&intent(&document));
        put(&mut kernel, objects.clone());
        compare(&kernel.observe().unwrap(), &objects);
        let one = Key::Element(
            Table::Inet,
            "members-g-one-4".into(),
            Item::Address("10.200.0.1".parse().unwrap()),
        );
        apply(
            &mut kernel,
            &[Change::Set(one, Value::Element(None))],
            &objects,
        );
    });
}
