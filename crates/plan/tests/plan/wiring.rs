//! One port's wiring, state by state, as the table in `tap.rs` has it.

use crate::common::{announced, name, plan_one, plan_seen};
use l2isolate_model::{
    desired::{Key, Knob, Objects, Value},
    port::BindingState,
};
use l2isolate_plan::migration::State;
use serde_json::{Value as Json, json};

fn port(extra: Json) -> Json {
    let mut port = json!({
        "id": "p", "tap": "tap0", "mac": "fa:16:3e:00:00:05", "mtu": 8950,
        "addresses": [{"address": "10.252.0.5", "subnet": "s4"}, {"address": "2001:db8:1::5", "subnet": "s6"}],
    });
    port.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    port
}

/// A tap's addresses where no subnet names a gateway of its own.
const NO_GATEWAY: [&str; 3] = [
    "address 169.254.169.254/32 dev tap0 = present",
    "address fe80::1/64 dev tap0 = present",
    "address fe80::a9fe:a9fe/128 dev tap0 = present",
];

fn keys(objects: &Objects, pick: impl Fn(&Key) -> bool) -> Vec<String> {
    objects
        .iter()
        .filter(|(key, _)| pick(key))
        .map(|(key, value)| format!("{key} = {value}"))
        .collect()
}

/// Both families come from the same lines: what IPv4 has, IPv6 has.
#[test]
fn an_active_port_has_everything() {
    let objects = plan_one(port(json!({})));
    assert_eq!(
        keys(&objects, |key| !matches!(key, Key::Sysctl(..))),
        [
            "mac of tap0 = 02:4c:32:49:53:4f",
            "mtu of tap0 = 8950",
            "state of tap0 = up",
            "address 10.252.0.1/32 dev tap0 = present",
            "address 169.254.169.254/32 dev tap0 = present",
            "address 2001:db8:1::1/128 dev tap0 = present",
            "address fe80::1/64 dev tap0 = present",
            "address fe80::a9fe:a9fe/128 dev tap0 = present",
            "neighbour 10.252.0.5 dev tap0 = fa:16:3e:00:00:05",
            "neighbour 2001:db8:1::5 dev tap0 = fa:16:3e:00:00:05",
            "route 10.252.0.5/32 metric 5 = dev tap0",
            "route 10.252.0.5/32 metric 3372220415 = unreachable",
            "route 2001:db8:1::5/128 metric 5 = dev tap0",
            "route 2001:db8:1::5/128 metric 3372220415 = unreachable",
        ]
    );
    assert_eq!(
        objects[&Key::Sysctl(Knob::TapProxyArp, Some(name(0)))],
        Value::Number(1)
    );
}

/// The guest still runs at the other host: all is ready, nothing attracts its traffic.
#[test]
fn an_incoming_port_is_wired_but_not_announced() {
    let objects = plan_one(port(json!({"binding": {"state": "incoming"}})));
    assert!(announced(&objects).is_empty());
    assert_eq!(keys(&objects, |key| matches!(key, Key::Route(..))), [""; 0]);
    assert_eq!(
        keys(&objects, |key| matches!(key, Key::Neighbour(..))).len(),
        2
    );
    assert_eq!(
        objects[&Key::Sysctl(Knob::TapProxyArp, Some(name(0)))],
        Value::Number(0)
    );
}

/// The guest was seen here: it is wired as if the control plane had said so.
#[test]
fn an_incoming_port_whose_guest_was_seen_is_an_active_one() {
    let incoming = port(json!({"binding": {"state": "incoming"}}));
    assert_eq!(plan_seen(incoming, true), plan_one(port(json!({}))));
}

/// Every state and what was seen: a state follows from what is known now, and
/// only a guest that is here, or that nobody else has yet, is announced.
#[test]
fn what_is_known_has_one_state() {
    use BindingState::{Active, Incoming, Outgoing};
    let config = crate::common::config();
    let usual = Some(config.route_metric);
    // Binding, seen, carrier; `None`: either.
    let table = [
        (None, None, None, State::Gone, None),
        (Some(Incoming), Some(false), None, State::Incoming, None),
        (Some(Incoming), Some(true), None, State::Live, usual),
        (Some(Active), None, None, State::Active, usual),
        (
            Some(Outgoing),
            None,
            Some(true),
            State::Outgoing,
            usual.map(|m| m + 1),
        ),
        (Some(Outgoing), None, Some(false), State::Left, None),
    ];
    let either = |given: Option<bool>| given.map_or(vec![false, true], |only| vec![only]);
    for (binding, seen, carrier, expected, metric) in table {
        for seen in either(seen) {
            for carrier in either(carrier) {
                let state = State::of(binding, seen, carrier);
                assert_eq!((state, state.announced(1, &config)), (expected, metric));
            }
        }
    }
    // One that leaves by steps; never by more than there are, nor as if it stayed.
    for (step, above) in [(0, 1), (1, 1), (2, 2), (3, 2)] {
        let metric = Some(config.route_metric + above);
        assert_eq!(State::Outgoing.announced(step, &config), metric);
    }
}

/// Nothing passes: the link is off.
#[test]
fn a_port_that_is_down_has_its_link_off() {
    let objects = plan_one(port(json!({"admin_state_up": false})));
    assert_eq!(
        keys(&objects, |_| true),
        [
            "sysctl net.ipv4.conf.tap0.proxy_arp = 0",
            "state of tap0 = down"
        ]
    );
}

/// A subnet without gateway is no error; the link-local router is there all the same.
#[test]
fn no_gateway_no_address() {
    let objects = plan_one(port(
        json!({"addresses": [{"address": "10.9.0.7", "subnet": "bare"}]}),
    ));
    assert_eq!(
        keys(&objects, |key| matches!(key, Key::Address(..))),
        NO_GATEWAY
    );
    assert_eq!(announced(&objects).len(), 1);
}

/// Ports of two subnets with the same link-local gateway share one address on the tap.
#[test]
fn a_link_local_gateway_is_not_doubled() {
    let intent = crate::common::intent(&json!({"version": 1,
        "subnets": [{"id": "ll", "cidr": "2001:db8:2::/64", "gateway": "fe80::1"}],
        "ports": [port(json!({"addresses": [{"address": "2001:db8:2::5", "subnet": "ll"}]}))]}));
    let tap = crate::common::tap(7);
    let view = l2isolate_plan::TapView {
        tap: &tap,
        marked: false,
        seen: false,
        step: 1,
    };
    let objects = l2isolate_plan::tap::plan(
        name(0),
        Some(&view),
        intent.on_tap(name(0)).map(AsRef::as_ref),
        &crate::common::config(),
    );
    assert_eq!(
        keys(&objects, |key| matches!(key, Key::Address(..))),
        NO_GATEWAY
    );
}
