//! Intents small enough that ports collide in every way.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use l2isolate_model::{
    IfName,
    desired::{Key, Objects},
    document::{self, ObjectId},
    intent::{Change, Intent},
    tap::Tap,
};
use l2isolate_plan::{Config, Connections, Desired, TapView};
use proptest::prelude::*;
use serde_json::{Value, json};

pub(crate) fn config() -> Config {
    Config {
        route_metric: 5,
        leaving_steps: 2,
        loopbacks: vec![
            "10.255.0.1/32".parse().unwrap(),
            "2001:db8:ff::1/128".parse().unwrap(),
        ],
        tap_mac: "02:4c:32:49:53:4f".parse().unwrap(),
        gateway_link_local: "fe80::1".parse().unwrap(),
        dhcp: true,
        metadata: true,
        manage_host: true,
        connections: Some(Connections {
            per_port: 20_000,
            most: 1 << 23,
        }),
        tunnel: None,
    }
}

pub(crate) fn changes(document: &Value) -> Vec<(ObjectId, Change)> {
    document::parse(document.to_string().as_bytes(), "test.json".as_ref())
        .unwrap()
        .objects
}

pub(crate) fn subnets() -> Value {
    json!({"version": 1, "subnets": [
        {"id": "s4", "cidr": "10.252.0.0/16", "gateway": "10.252.0.1"},
        {"id": "s6", "cidr": "2001:db8:1::/64", "gateway": "2001:db8:1::1"},
        {"id": "bare", "cidr": "10.9.0.0/24"},
    ]})
}

pub(crate) fn tap(index: u32) -> Tap {
    Tap {
        index,
        mac: None,
        mtu: 1500,
        up: true,
        carrier: true,
    }
}

/// One of six ports, four taps and a few addresses, some of them wrong.
pub(crate) fn port() -> impl Strategy<Value = Value> {
    let address = prop_oneof![
        (1..5u8).prop_map(|n| json!({"address": format!("10.252.0.{n}"), "subnet": "s4"})),
        (1..4u8).prop_map(|n| json!({"address": format!("2001:db8:1::{n}"), "subnet": "s6"})),
        (1..3u8).prop_map(|n| json!({"address": format!("10.9.0.{n}"), "subnet": "bare"})),
        Just(json!({"address": "192.0.2.1", "subnet": "s4"})),
        Just(json!({"address": "10.252.0.9", "subnet": "nowhere"})),
    ];
    let state = prop_oneof![3 => Just("active"), 1 => Just("incoming"), 1 => Just("outgoing")];
    (
        0..6u8,
        0..4u8,
        0..3u8,
        proptest::collection::vec(address, 0..3),
        prop_oneof![4 => Just(true), 1 => Just(false)],
        state,
    )
        .prop_map(|(id, tap, day, addresses, up, state)| {
            json!({
                "id": format!("port{id}"), "tap": format!("tap{tap}"), "mac": "fa:16:3e:00:00:01",
                "created": format!("2026-11-2{day}T00:00:00Z"), "addresses": addresses,
                "admin_state_up": up, "binding": {"state": state},
            })
        })
}

/// A change of one object.
pub(crate) fn change() -> impl Strategy<Value = Vec<(ObjectId, Change)>> {
    prop_oneof![
        6 => port().prop_map(|port| changes(&json!({"version": 1, "ports": [port]}))),
        2 => (0..6u8).prop_map(|id| vec![(ObjectId::Port(format!("port{id}").parse().unwrap()), Change::Gone)]),
        1 => (0..6u8).prop_map(|id| changes(&json!({"version": 1, "ports": [{"id": format!("port{id}"), "mac": "zz"}]}))),
        1 => Just(changes(&subnets())),
        1 => prop_oneof![Just("s4"), Just("s6")].prop_map(|id| vec![(ObjectId::Subnet(id.parse().unwrap()), Change::Gone)]),
    ]
}

pub(crate) fn taps() -> impl Strategy<Value = BTreeMap<IfName, (Tap, bool)>> {
    proptest::collection::btree_map(0..5u32, any::<bool>(), 0..5).prop_map(|taps| {
        taps.into_iter()
            .map(|(n, marked)| (name(n), (tap(n), marked)))
            .collect()
    })
}

pub(crate) fn name(n: u32) -> IfName {
    format!("tap{n}").parse().unwrap()
}

pub(crate) fn views(taps: &BTreeMap<IfName, (Tap, bool)>) -> BTreeMap<IfName, TapView<'_>> {
    taps.iter()
        .map(|(name, (tap, marked))| {
            (
                *name,
                TapView {
                    tap,
                    marked: *marked,
                    seen: false,
                    step: 2,
                    stopped: false,
                },
            )
        })
        .collect()
}

/// All objects of a plan; fails if two owners want the same one.
pub(crate) fn flat(desired: &Desired) -> Objects {
    let mut all = Objects::new();
    for objects in desired.values() {
        for (key, value) in objects {
            assert_eq!(all.insert(*key, *value), None, "{key} is wanted twice");
        }
    }
    all
}

/// Addresses with an announced route.
pub(crate) fn announced(objects: &Objects) -> Vec<IpAddr> {
    objects
        .keys()
        .filter_map(|key| match key {
            Key::Route(prefix, 5..=7) if !config().loopbacks.contains(prefix) => {
                Some(prefix.addr())
            }
            _ => None,
        })
        .collect()
}

pub(crate) fn intent(document: &Value) -> Intent {
    let mut intent = Intent::default();
    intent.update(changes(&subnets()));
    intent.update(changes(document));
    intent
}

pub(crate) fn plan_one(port: Value) -> Objects {
    plan_seen(port, false)
}

/// The same of a tap on which the guest was seen, or wasn't.
pub(crate) fn plan_seen(port: Value, seen: bool) -> Objects {
    let intent = intent(&json!({"version": 1, "ports": [port]}));
    let tap = tap(7);
    let view = TapView {
        tap: &tap,
        marked: false,
        seen,
        step: 2,
        stopped: false,
    };
    let port = intent.on_tap(name(0)).map(Arc::clone);
    l2isolate_plan::tap::plan(name(0), Some(&view), port.as_deref(), &config())
}
