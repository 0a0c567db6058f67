//! The firewall's plan: what is wrong is left out and named, and a change
//! costs what it touches.

use std::collections::BTreeMap;

use l2isolate_model::{
    document::ObjectId,
    filter::{Key, Objects, SetType, Table, Term, Value, Verdict},
    intent::{Change, Intent},
};
use l2isolate_plan::filter::{FilterConfig, Owner, Plan, Planner, base};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::common::{changes, subnets};

fn rules(rules: &Json) -> (Objects, Vec<String>) {
    let mut intent = Intent::default();
    intent.update(changes(&subnets()));
    let document = json!({"version": 1,
        "ports": [{"id": "p", "tap": "tap0", "mac": "fa:16:3e:00:00:01", "groups": ["g"]}],
        "groups": [{"id": "g", "rules": rules}]});
    let outcome = intent.update(changes(&document));
    let mut planner = Planner::new(FilterConfig::default());
    let planned = planner.update(&intent, &outcome);
    let problems = planner.problems().map(ToString::to_string).collect();
    (
        planned
            .into_iter()
            .flat_map(|(_, plan)| match plan {
                Plan::Whole(objects) => objects,
                Plan::But(_) => Objects::new(),
            })
            .collect(),
        problems,
    )
}

fn chain(objects: &Objects, name: &str) -> Vec<Vec<Term>> {
    match objects.get(&Key::Chain(Table::Inet, name.into())) {
        Some(Value::Chain(chain)) => chain.rules.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

/// Other firewalls opened everything for a rule that they didn't understand:
/// here it is left out, named, and the others hold.
#[test]
fn what_cant_be_expressed_opens_nothing() {
    let bad = [
        json!({"protocol": "warp"}),
        json!({"protocol": "256"}),
        json!({"protocol": "tcp", "port_range_min": 90, "port_range_max": 80}),
        json!({"protocol": "tcp", "port_range_min": 80}),
        json!({"protocol": "tcp", "port_range_min": 80, "port_range_max": 65536}),
        json!({"protocol": "esp", "port_range_min": 1, "port_range_max": 2}),
        json!({"port_range_min": 1, "port_range_max": 2}),
        json!({"protocol": "icmp", "port_range_max": 0}),
        json!({"protocol": "icmp", "port_range_min": 256}),
        json!({"remote_ip_prefix": "10.0.0.0/33"}),
        json!({"remote_ip_prefix": "everybody"}),
        json!({"remote_ip_prefix": "2001:db8::/32"}),
        json!({"remote_ip_prefix": "10.0.0.0/8", "remote_group": "g"}),
    ];
    for rule in bad {
        let mut rule = rule;
        rule["direction"] = "ingress".into();
        rule["ethertype"] = "IPv4".into();
        rule["id"] = "r1".into();
        let good = json!({"direction": "ingress", "ethertype": "IPv4", "protocol": "vrrp"});
        let (objects, problems) = rules(&json!([rule, good]));
        let accepted = chain(&objects, "group-g-in");
        assert_eq!(accepted.len(), 1, "{rule}: {accepted:?}");
        assert!(
            accepted[0].contains(&Term::Protocol(112)),
            "{rule}: {accepted:?}"
        );
        assert_eq!(problems.len(), 1, "{rule}: {problems:?}");
        assert!(
            problems[0].contains("group g") && problems[0].contains("rule r1"),
            "{problems:?}"
        );
    }
}

/// The price of many rules is that of one where they mean the same: ports
/// become one set, peers with equal traffic become one set.
#[test]
fn equivalent_rules_are_one() {
    let many: Vec<Json> = (0..500)
        .map(|n| json!({"direction": "ingress", "ethertype": "IPv4", "protocol": "tcp",
            "port_range_min": 1000 + 2 * n, "port_range_max": 1000 + 2 * n}))
        .chain((0..200).map(|n| json!({"direction": "ingress", "ethertype": "IPv4", "protocol": "udp",
            "port_range_min": 53, "port_range_max": 53, "remote_ip_prefix": format!("10.{n}.0.0/24")})))
        .collect();
    let (objects, problems) = rules(&many.into());
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(chain(&objects, "group-g-in").len(), 2);
    let sets = objects
        .values()
        .filter(|value| matches!(value, Value::Set(SetType::Ports | SetType::Ranges(_))));
    assert_eq!(sets.count(), 2);
    // Anybody may do anything: nothing more to say in that family.
    let (objects, _) = rules(&json!([
        {"direction": "egress", "ethertype": "IPv4"},
        {"direction": "egress", "ethertype": "IPv4", "protocol": "tcp", "remote_group": "g"}]));
    assert_eq!(chain(&objects, "group-g-out").len(), 1);
}

/// One of a few ports and groups that name each other, some of them unknown.
fn change() -> impl Strategy<Value = Vec<(ObjectId, Change)>> {
    let group = || (0..4_u8).prop_map(|n| format!("g{n}"));
    let port = (
        0..4_u8,
        0..4_u8,
        prop::collection::vec(group(), 0..3),
        any::<bool>(),
        any::<bool>(),
        1..4_u8,
    )
        .prop_map(|(id, tap, groups, up, secured, address)| {
            json!({"id": format!("p{id}"), "tap": format!("tap{tap}"), "mac": "fa:16:3e:00:00:01",
                "admin_state_up": up, "port_security": secured, "groups": groups,
                "addresses": [{"address": format!("10.252.0.{address}"), "subnet": "s4"}]})
        });
    let rule = (any::<bool>(), prop::option::of(group()), any::<bool>()).prop_map(|(egress, remote, addresses)| {
        let mut rule = json!({"direction": if egress { "egress" } else { "ingress" }, "ethertype": "IPv4", "protocol": "tcp"});
        match remote {
            Some(remote) => rule["remote_group"] = remote.into(),
            None if addresses => rule["remote_address_group"] = "ag".into(),
            None => {}
        }
        rule
    });
    let member = prop_oneof![Just("10.252.0.9"), Just("10.0.0.0/8"), Just("2001:db8::1")];
    let whole = (
        group(),
        any::<bool>(),
        prop::collection::vec(rule, 0..3),
        prop::collection::vec(member, 0..3),
    )
        .prop_map(|(id, stateful, rules, members)| {
            let members: Vec<Json> = members.iter().map(|m| json!({"address": m})).collect();
            json!({"id": id, "stateful": stateful, "rules": rules, "members": members})
        });
    prop_oneof![
        4 => port.prop_map(|port| changes(&json!({"version": 1, "ports": [port]}))),
        4 => whole.prop_map(|group| changes(&json!({"version": 1, "groups": [group]}))),
        1 => (0..4_u8).prop_map(|n| vec![(ObjectId::Port(format!("p{n}").parse().unwrap()), Change::Gone)]),
        1 => group().prop_map(|id| vec![(ObjectId::Group(id.parse().unwrap()), Change::Gone)]),
        1 => any::<bool>().prop_map(|one| changes(&json!({"version": 1, "address_groups": [
            {"id": "ag", "addresses": if one { vec!["10.1.0.0/16"] } else { Vec::new() }}]}))),
        1 => Just(vec![(ObjectId::AddressGroup("ag".parse().unwrap()), Change::Gone)]),
    ]
}

/// With everything that is there only if somebody wants it.
fn config() -> FilterConfig {
    FilterConfig {
        tunnel: Some(4790),
        strays: Some(32844),
        uplinks: ["eth0", "eth1"].map(|name| name.parse().unwrap()).into(),
        ..FilterConfig::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Changes taken in one by one come to the same as a plan of everything;
    /// no two owners want one object; and what is named is there.
    #[test]
    fn step_by_step_is_the_same_as_at_once(batches in prop::collection::vec(change(), 0..25)) {
        let mut intent = Intent::default();
        intent.update(changes(&subnets()));
        let mut planner = Planner::new(config());
        let mut wanted: BTreeMap<Owner, Objects> = BTreeMap::from([(Owner::Base, base(planner.config()))]);
        for batch in batches {
            let outcome = intent.update(batch);
            for (owner, plan) in planner.update(&intent, &outcome) {
                let objects = match plan {
                    Plan::Whole(objects) => objects,
                    Plan::But(changes) => {
                        let mut objects = wanted.remove(&owner).unwrap_or_default();
                        for (key, value) in changes {
                            match value {
                                Some(value) => objects.insert(key, value),
                                None => objects.remove(&key),
                            };
                        }
                        objects
                    }
                };
                if objects.is_empty() {
                    wanted.remove(&owner);
                } else {
                    wanted.insert(owner, objects);
                }
            }
        }
        prop_assert_eq!(&wanted, &Planner::whole(config(), &intent));
        let mut all = Objects::new();
        for (owner, objects) in wanted {
            for (key, value) in objects {
                prop_assert!(all.insert(key.clone(), value).is_none(), "{} is wanted twice, last by {:?}", key, owner);
            }
        }
        for (key, value) in &all {
            if let Key::Element(table, set, _) = key {
                let set = Key::Set(*table, set.clone());
                prop_assert!(all.contains_key(&set), "{} needs {}", key, set);
            }
            if let Value::Element(Some(Verdict::Jump(name))) = value {
                let chain = Key::Chain(key.table(), name.clone());
                prop_assert!(all.contains_key(&chain), "{} needs {}", key, chain);
            }
            let Value::Chain(chain) = value else { continue };
            for term in chain.rules.iter().flatten() {
                let table = key.table();
                let needs = match term {
                    Term::Jump(name) => Key::Chain(table, name.clone()),
                    Term::Dispatch(_, name) | Term::AddressIn(_, _, name) | Term::PortIn(name)
                    | Term::DeviceIn(_, name) | Term::SourceIn(_, name) | Term::DestinationIn(_, name)
                    | Term::ArpSourceIn(name) | Term::ArpSenderIn(name) => Key::Set(table, name.clone()),
                    Term::Count(name) => Key::Counter(table, name.clone()),
                    _ => continue,
                };
                prop_assert!(all.contains_key(&needs), "{} needs {}", key, needs);
            }
        }
    }
}
