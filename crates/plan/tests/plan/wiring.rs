//! One port's wiring, state by state, as the table in `tap.rs` has it.

use crate::common::{announced, name, plan_one, plan_seen};
use l2isolate_model::{
    desired::{Key, Knob, Objects, Value},
    port::BindingState,
    tap::Tap,
};
use l2isolate_plan::{
    Config, TapView, Tunnel,
    migration::{Sight, State, follow},
};
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
    let (usual, first, last) = (Some(5), Some(6), Some(7));
    let (yes, no) = (Some(true), Some(false));
    // Binding; seen, carrier, stopped, a way to follow; `None`: either.
    let table = [
        (None, [None; 4], State::Gone, None),
        (
            Some(Incoming),
            [no, None, None, None],
            State::Incoming,
            None,
        ),
        (Some(Incoming), [yes, None, None, None], State::Live, usual),
        (Some(Active), [None; 4], State::Active, usual),
        (
            Some(Outgoing),
            [None, yes, no, None],
            State::Outgoing,
            first,
        ),
        (Some(Outgoing), [None, yes, yes, no], State::Outgoing, first),
        (Some(Outgoing), [None, yes, yes, yes], State::Followed, last),
        (Some(Outgoing), [None, no, None, yes], State::Followed, last),
        (Some(Outgoing), [None, no, None, no], State::Left, None),
    ];
    let mut cases = 0;
    for (binding, known, expected, metric) in table {
        for case in 0..16 {
            let bits = [0, 1, 2, 3].map(|bit| case >> bit & 1 == 1);
            if (known.iter().zip(bits)).any(|(known, bit)| known.is_some_and(|it| it != bit)) {
                continue;
            }
            let [seen, carrier, stopped, way] = bits;
            let sight = Sight {
                seen,
                carrier,
                stopped,
                way,
            };
            let state = State::of(binding, sight);
            assert_eq!(
                (state, state.announced(1, &config)),
                (expected, metric),
                "{sight:?}"
            );
            cases += 1;
        }
    }
    // Each binding, and none, with all that can be known: in one row each.
    assert_eq!(cases, 4 * 16);
    // One that leaves by steps; never by more than there are, nor as if it stayed.
    for (step, above) in [(0, 1), (1, 1), (2, 2), (3, 2)] {
        let metric = Some(config.route_metric + above);
        assert_eq!(State::Outgoing.announced(step, &config), metric);
    }
}

fn with_tunnel(address: &str, underlay: u32) -> Config {
    Config {
        tunnel: Some(Tunnel {
            address: address.parse().unwrap(),
            port: 4790,
            underlay,
        }),
        ..crate::common::config()
    }
}

/// Where a port's packets go: what is announced, and what comes by the tunnel.
fn ways(port: &Json, view: Option<&TapView<'_>>, config: &Config) -> Vec<String> {
    let intent = crate::common::intent(&json!({"version": 1, "ports": [port]}));
    let port = intent.on_tap(name(0)).map(AsRef::as_ref);
    let objects = l2isolate_plan::tap::plan(name(0), view, port, config);
    let proxy = Key::Sysctl(Knob::TapProxyArp, Some(name(0)));
    keys(&objects, |key| {
        *key == proxy
            || matches!(key, Key::Delivery(p) | Key::Route(p, 5..=7) if p.addr().is_ipv4())
    })
}

/// A guest that has stopped, or whose tap is closed or gone, is sent what comes for
/// it; and what comes for one that is here or will be is put before its tap, of
/// which nothing else knows. The address is announced as the last choice all the
/// while: a packet that has come here is never sent back.
#[test]
fn what_comes_for_a_guest_that_has_left_follows_it() {
    let config = with_tunnel("10.255.0.1", 9000);
    let leaving = port(json!({"binding": {"state": "outgoing", "peer": "10.255.0.2"}}));
    let tap = crate::common::tap(7);
    let view = |stopped| TapView {
        tap: &tap,
        seen: false,
        stopped,
        step: 2,
        marked: false,
    };
    let closed = Tap {
        carrier: false,
        ..tap.clone()
    };
    let closed = TapView {
        tap: &closed,
        ..view(false)
    };
    let route = "route 10.252.0.5/32 metric 7 = dev";
    let followed = format!("{route} l2isolate0 from 10.255.0.1 to 10.255.0.2");
    let silent = "sysctl net.ipv4.conf.tap0.proxy_arp = 0";
    let here = "route 10.252.0.5/32 table 76 = dev tap0";
    assert_eq!(
        ways(&leaving, Some(&view(false)), &config),
        [
            "sysctl net.ipv4.conf.tap0.proxy_arp = 1",
            &format!("{route} tap0"),
            here
        ]
    );
    for view in [view(true), closed] {
        assert_eq!(ways(&leaving, Some(&view), &config), [silent, &followed]);
    }
    assert_eq!(ways(&leaving, None, &config), [followed]);
    let incoming = port(json!({"binding": {"state": "incoming", "peer": "10.255.0.2"}}));
    assert_eq!(ways(&incoming, Some(&view(false)), &config), [silent, here]);
}

/// Whatever speaks against the tunnel is named, and the guest is handled as if there
/// was none.
#[test]
fn a_tunnel_that_cannot_be_is_named() {
    let to = |peer: &str| json!({"binding": {"state": "outgoing", "peer": peer}});
    let unknown = json!({"binding": {"state": "outgoing"}});
    let cases = [
        (unknown, "10.255.0.1", 9000, Some("isn't known")),
        (
            to("10.255.0.1"),
            "10.255.0.1",
            9000,
            Some("no other host's"),
        ),
        (to("2001:db8:ff::2"), "10.255.0.1", 9000, Some("one family")),
        (
            to("10.255.0.2"),
            "10.255.0.1",
            8985,
            Some("(MTU 8950) don't fit into the tunnel (8949)"),
        ),
        (to("10.255.0.2"), "10.255.0.1", 0, Some("don't fit")),
        (to("10.255.0.2"), "10.255.0.1", 8986, None),
        (
            to("2001:db8:ff::2"),
            "2001:db8:ff::1",
            9005,
            Some("don't fit"),
        ),
        (to("2001:db8:ff::2"), "2001:db8:ff::1", 9006, None),
    ];
    for (binding, address, underlay, problem) in cases {
        let config = with_tunnel(address, underlay);
        let document = json!({"version": 1, "ports": [port(binding.clone())]});
        let intent = crate::common::intent(&document);
        let found = follow(&intent.on_tap(name(0)).unwrap().port, &config);
        match problem {
            None => assert!(matches!(found, Ok(Some(_))), "{binding}: {found:?}"),
            Some(word) => {
                let reason = found.unwrap_err();
                assert!(reason.contains(word), "{binding}: {reason}");
                assert!(ways(&port(binding), None, &config).is_empty());
            }
        }
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
    let view = TapView {
        tap: &tap,
        marked: false,
        seen: false,
        stopped: false,
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
