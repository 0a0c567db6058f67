//! What the metadata proxy is told of a tap, and when it is told nothing.

use l2isolate_model::{desired::Key, metadata::entry::Entry};
use l2isolate_plan::{Config, TapView, guest::metadata};
use serde_json::{Value, json};

use crate::common::{config, intent, name, plan_one, tap};

fn entry_with(port: &Value, config: &Config, there: bool) -> Option<Entry> {
    let subnets = json!([
        {"id": "s4", "cidr": "10.252.0.0/16", "gateway": "10.252.0.1", "dns": ["10.255.0.53"],
         "host_routes": [{"destination": "10.250.0.0/16", "nexthop": "10.252.0.1"}]},
        {"id": "s6", "cidr": "2001:db8:1::/64", "ipv6_address_mode": "slaac"},
        {"id": "fixed", "cidr": "10.9.0.0/24", "dhcp": false},
    ]);
    let mut port = port.clone();
    let fields = json!({"id": "p", "tap": "tap0", "mac": "fa:16:3e:00:00:05"});
    let given = port.as_object_mut().unwrap();
    given.extend(fields.as_object().unwrap().clone());
    let intent = intent(&json!({"version": 1, "subnets": subnets, "ports": [port]}));
    let tap = tap(7);
    let view = TapView {
        tap: &tap,
        marked: false,
        seen: false,
        step: 1,
        stopped: false,
    };
    let port = intent.on_tap(name(0)).map(AsRef::as_ref);
    metadata::plan(name(0), there.then_some(&view), port, config)
}

fn entry(port: Value) -> Option<Entry> {
    entry_with(&port, &config(), true)
}

/// The file says all that the proxy needs to know who asks and to answer
/// without Nova, and the proxy reads it as it was meant.
#[test]
fn an_entry_has_everything() {
    let entry = entry(json!({
        "mtu": 8950, "project": "p1", "instance": "i1", "hostname": "web-1",
        "addresses": [{"address": "10.252.0.5", "subnet": "s4"}, {"address": "2001:db8:1::5", "subnet": "s6"},
                      {"address": "10.9.0.5", "subnet": "fixed"}],
        "metadata": {"name": "Web 1", "public_keys": {"me": "ssh-ed25519 AAAA"}, "user_data": "#!/bin/sh"},
    }))
    .unwrap();
    let text = entry.to_json().unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap(),
        json!({
            "version": 1, "tap": "tap0", "index": 7, "port": "p", "mac": "fa:16:3e:00:00:05", "mtu": 8950,
            "instance": "i1", "project": "p1", "hostname": "web-1",
            "networks": [
                {"subnet": "s4", "address": "10.252.0.5", "cidr": "10.252.0.0/16", "gateway": "10.252.0.1",
                 "dns": ["10.255.0.53"], "routes": [{"destination": "10.250.0.0/16", "nexthop": "10.252.0.1"}],
                 "method": "dhcp"},
                {"subnet": "s6", "address": "2001:db8:1::5", "cidr": "2001:db8:1::/64", "method": {"ipv6": "slaac"}},
                {"subnet": "fixed", "address": "10.9.0.5", "cidr": "10.9.0.0/24", "method": "static"},
            ],
            "metadata": {"name": "Web 1", "public_keys": {"me": "ssh-ed25519 AAAA"}, "user_data": "#!/bin/sh"},
        })
    );
    assert_eq!(Entry::parse("tap0.json", text.as_bytes()), Ok(entry));
    assert!(Entry::parse("tap1.json", text.as_bytes()).is_err());
}

/// A guest always has a name: its own, its instance's, or one made from its address.
#[test]
fn a_guest_has_a_name() {
    let address = json!([{"address": "10.252.0.5", "subnet": "s4"}]);
    let hostname = |port| entry(port).unwrap().hostname;
    assert_eq!(
        hostname(json!({"addresses": address, "metadata": {"name": "db"}})),
        "db"
    );
    assert_eq!(hostname(json!({"addresses": address})), "host-10-252-0-5");
    assert_eq!(hostname(json!({})), "host");
}

/// Where nobody can ask, or nobody may, there is nothing to tell; then the
/// addresses aren't on the tap either.
#[test]
fn no_entry_without_a_guest() {
    let off = Config {
        metadata: false,
        ..config()
    };
    assert_eq!(entry(json!({"admin_state_up": false})), None);
    assert_eq!(entry_with(&json!({}), &config(), false), None);
    assert_eq!(entry_with(&json!({}), &off, true), None);
    assert!(entry(json!({"binding": {"state": "incoming"}})).is_some());
    let objects = plan_one(json!({"id": "p", "tap": "tap0", "mac": "fa:16:3e:00:00:05"}));
    let here =
        |address: &str| objects.contains_key(&Key::Address(name(0), address.parse().unwrap()));
    assert!(here("169.254.169.254/32") && here("fe80::a9fe:a9fe/128"));
}
