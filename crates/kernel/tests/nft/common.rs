//! An intent in which every kind of object and term occurs, and its plan.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::Instant,
};

use l2isolate_kernel::nft::Nft;
use l2isolate_model::{
    document,
    filter::{Key, Objects, Value},
    intent::Intent,
};
use l2isolate_plan::filter::{FilterConfig, FilterRules, Owner, Planner};
use l2isolate_reconcile::{Change, Reconciler};
use serde_json::{Value as Json, json};

pub(crate) fn intent(document: &Json) -> Intent {
    let mut intent = Intent::default();
    absorb(&mut intent, document);
    intent
}

pub(crate) fn absorb(intent: &mut Intent, document: &Json) -> l2isolate_model::intent::Outcome {
    let read = document::parse(document.to_string().as_bytes(), "test.json".as_ref()).unwrap();
    assert!(read.unidentified.is_empty(), "{:?}", read.unidentified);
    let outcome = intent.update(read.objects);
    let problems: Vec<_> = intent.problems().collect();
    assert!(problems.is_empty(), "{problems:?}");
    outcome
}

pub(crate) fn config() -> FilterConfig {
    FilterConfig {
        owned: false,
        dns: true,
        tunnel: Some(4790),
        strays: Some(32844),
        uplinks: ["eth0", "eth1"].map(|name| name.parse().unwrap()).into(),
        gateway_link_local: Some("fe80::1".parse().unwrap()),
        log: ["g-one".to_owned()].into(),
        ..FilterConfig::default()
    }
}

pub(crate) fn plan(intent: &Intent) -> Objects {
    let whole = Planner::whole(config(), intent);
    whole.into_values().flatten().collect()
}

/// Puts the difference into the kernel; all of it must be taken.
pub(crate) fn put(nft: &mut Nft, objects: Objects) {
    let now = Instant::now();
    let mut reconciler: Reconciler<FilterRules> = Reconciler::default();
    reconciler.hold_deletions(false);
    reconciler.observe_all(now, nft.observe().unwrap());
    reconciler.want(&Owner::Base, objects);
    let changes = reconciler.next(now);
    apply(nft, &changes, reconciler.observed());
}

pub(crate) fn apply(nft: &mut Nft, changes: &[Change<Key, Value>], observed: &Objects) {
    for (change, result) in changes.iter().zip(nft.apply(changes, observed)) {
        if let Err(error) = result {
            panic!("{change:?}: {error}");
        }
    }
}

pub(crate) fn nft(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    if !input.is_empty() {
        stdin.write_all(format!("{input}\n").as_bytes()).unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn subnets() -> Json {
    json!([
        {"id": "s4", "cidr": "10.252.0.0/16", "gateway": "10.252.0.1"},
        {"id": "s6", "cidr": "2001:db8:1::/64", "gateway": "2001:db8:1::1"},
    ])
}

/// Ports and groups of every kind.
pub(crate) fn everything() -> Json {
    json!({
        "version": 1,
        "subnets": subnets(),
        "ports": [
            {"id": "aaaaaaaa-01", "mac": "fa:16:3e:00:00:01", "groups": ["g-one", "g-two"],
             "addresses": [{"address": "10.252.0.5", "subnet": "s4"}, {"address": "2001:db8:1::5", "subnet": "s6"}],
             "allowed_address_pairs": [
                {"address": "10.99.0.0/20"}, {"address": "10.98.0.0/16"}, {"address": "0.0.0.0/0", "mac": "fa:16:3e:00:00:99"},
                {"address": "2001:db8:9::/61"}, {"address": "10.97.0.1", "mac": "fa:16:3e:00:00:98"}]},
            {"id": "aaaaaaaa-02", "mac": "fa:16:3e:00:00:02", "groups": ["g-none"],
             "addresses": [{"address": "10.252.0.6", "subnet": "s4"}]},
            {"id": "aaaaaaaa-03", "mac": "fa:16:3e:00:00:03", "port_security": false,
             "addresses": [{"address": "10.252.0.7", "subnet": "s4"}]},
            {"id": "aaaaaaaa-04", "mac": "fa:16:3e:00:00:04", "admin_state_up": false,
             "addresses": [{"address": "10.252.0.8", "subnet": "s4"}]},
            {"id": "aaaaaaaa-05", "mac": "fa:16:3e:00:00:05", "groups": ["g-less"]},
        ],
        "groups": [
            {"id": "g-one", "rules": [
                {"direction": "egress", "ethertype": "IPv4"},
                {"direction": "egress", "ethertype": "IPv6"},
                {"direction": "ingress", "ethertype": "IPv4", "protocol": "tcp", "port_range_min": 22, "port_range_max": 22},
                {"direction": "ingress", "ethertype": "IPv4", "protocol": "tcp", "port_range_min": 8000, "port_range_max": 65535},
                {"direction": "ingress", "ethertype": "IPv4", "protocol": "udp", "port_range_min": 1, "port_range_max": 65535},
                {"direction": "ingress", "ethertype": "IPv4", "protocol": "icmp", "port_range_min": 8, "port_range_max": 0},
                {"direction": "ingress", "ethertype": "IPv6", "protocol": "icmp", "port_range_min": 128},
                {"direction": "ingress", "ethertype": "IPv4", "protocol": "50", "remote_ip_prefix": "203.0.113.77/24"},
                {"direction": "ingress", "ethertype": "IPv4", "protocol": "50", "remote_ip_prefix": "198.51.100.1"},
                {"direction": "ingress", "ethertype": "IPv6", "protocol": "sctp", "port_range_min": 5, "port_range_max": 6,
                 "remote_ip_prefix": "2001:db8:7::/52"},
            ], "members": [{"address": "10.252.0.5"}, {"address": "2001:db8:1::5"}]},
            {"id": "g-two", "rules": [
                {"direction": "ingress", "ethertype": "IPv4", "remote_group": "g-one"},
                {"direction": "ingress", "ethertype": "IPv6", "remote_group": "g-two", "protocol": "vrrp"},
                {"direction": "ingress", "ethertype": "IPv4", "remote_group": "g-absent"},
                {"direction": "egress", "ethertype": "IPv4", "remote_address_group": "ag"},
            ], "members": [{"address": "10.252.0.5"}, {"address": "2001:db8:2::/64"}, {"address": "ffff::/16"}]},
            {"id": "g-none"},
            {"id": "g-less", "stateful": false, "rules": [{"direction": "ingress", "ethertype": "IPv4"}]},
        ],
        "address_groups": [{"id": "ag", "addresses": ["192.0.2.0/25", "192.0.2.128/25", "198.51.100.7", "255.0.0.0/8"]}],
    })
}

/// Fails with the first object that differs, not with all there are.
pub(crate) fn compare(observed: &Objects, wanted: &Objects) {
    for (key, value) in wanted {
        assert_eq!(observed.get(key), Some(value), "{key}");
    }
    for key in observed.keys() {
        assert!(wanted.contains_key(key), "{key} is there and shouldn't be");
    }
}
