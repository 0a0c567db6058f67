//! The intent of a host full of ports: groups of ten rules, as tenants
//! write them, for each of them or shared by some, and one large group that all
//! of them name.

use serde_json::{Value, json};

use crate::{agent, fabric::Vm};

/// The large group.
pub(super) const CROWD: &str = "crowd";

/// The group with this number.
pub(super) fn own(number: usize) -> String {
    format!("own-{number}")
}

/// A port's document.
pub(super) fn port(vm: &Vm, revision: u64, groups: &[String]) -> Value {
    json!({"version": 1, "ports": [agent::port(vm, revision, groups)]})
}

/// An address that only the rules of this group name, for looking whether they
/// are there.
pub(super) fn mark(number: usize) -> String {
    format!("172.20.{}.{}", number / 250, number % 250)
}

/// A group of ten rules: what Neutron's default
/// group has, and what one adds for a web server with its data base.
pub(super) fn group(number: usize) -> Value {
    let id = own(number);
    let rule = |direction: &str, ethertype: &str, more: Value| {
        let mut rule = json!({"direction": direction, "ethertype": ethertype});
        if let (Some(rule), Value::Object(more)) = (rule.as_object_mut(), more) {
            rule.extend(more);
        }
        rule
    };
    let tcp = |from: u16, to: u16, mut more: Value| {
        if let Some(more) = more.as_object_mut() {
            more.insert("protocol".to_owned(), json!("tcp"));
            more.insert("port_range_min".to_owned(), json!(from));
            more.insert("port_range_max".to_owned(), json!(to));
        }
        rule("ingress", "IPv4", more)
    };
    let rules = [
        rule("egress", "IPv4", json!({})),
        rule("egress", "IPv6", json!({})),
        rule("ingress", "IPv4", json!({"remote_group": id})),
        rule("ingress", "IPv6", json!({"remote_group": id})),
        rule("ingress", "IPv4", json!({"protocol": "icmp"})),
        tcp(22, 22, json!({"remote_ip_prefix": mark(number)})),
        tcp(80, 80, json!({})),
        tcp(443, 443, json!({})),
        tcp(5000, 5100, json!({"remote_ip_prefix": "198.51.100.0/24"})),
        tcp(5432, 5432, json!({"remote_group": CROWD})),
    ];
    json!({"version": 1, "groups": [
        {"id": id, "revision": 1, "rules": rules, "members": []},
    ]})
}

/// The large group with so many members, and the last one there or not.
pub(super) fn crowd(revision: u64, members: usize, last: bool) -> Value {
    let count = members - usize::from(!last);
    let members: Vec<Value> = (0..count)
        .map(
            |n| json!({"address": format!("10.{}.{}.{}", 64 + n / 62_500, n / 250 % 250, n % 250)}),
        )
        .collect();
    json!({"version": 1, "groups": [
        {"id": CROWD, "revision": revision, "rules": [], "members": members},
    ]})
}
