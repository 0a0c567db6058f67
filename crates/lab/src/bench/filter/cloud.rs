//! The intent of a host full of ports.

use serde_json::{Value, json};

use crate::{agent, fabric::Vm};

/// The large group.
pub(super) const CROWD: &str = "crowd";
/// The group that all ports have beside their own.
const MORE: &str = "more";

/// Which groups ports have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intent {
    /// So many ports share a group.
    sharing: usize,
    /// Its rules; none: ten as tenants write them, one of which names the large
    /// group.
    plain: Option<usize>,
    /// Rules of one more group, which all ports have.
    more: usize,
}

impl Intent {
    /// A group of ten rules for so many ports each, and one of `more` for all.
    pub(super) fn shared(sharing: usize, more: usize) -> Self {
        Self {
            sharing: sharing.max(1),
            plain: None,
            more,
        }
    }

    /// A group of so many rules for each port.
    pub(super) fn plain(rules: usize) -> Self {
        Self {
            sharing: 1,
            plain: Some(rules),
            more: 0,
        }
    }

    /// How many groups there are for so many ports: at least two if there can
    /// be, so that a port can get another's.
    pub(super) fn groups(&self, ports: usize) -> usize {
        ports.div_ceil(self.sharing).max(2.min(ports))
    }

    /// The number of a port's own group.
    pub(super) fn group_of(&self, place: usize, ports: usize) -> usize {
        place * self.groups(ports) / ports
    }

    /// All documents, by name.
    pub(super) fn documents(&self, vms: &[Vm]) -> impl Iterator<Item = (String, Value)> {
        let own_group = |number| {
            let rules = self.plain.map_or_else(|| rules(number), plain_rules);
            (format!("group-{number}"), group(&own(number), rules))
        };
        let port = |(place, vm)| {
            let mut groups = vec![own(self.group_of(place, vms.len()))];
            groups.extend((self.more > 0).then(|| MORE.to_owned()));
            (format!("port-{place}"), port(vm, 1, &groups))
        };
        let more = (self.more > 0).then(|| (MORE.to_owned(), group(MORE, plain_rules(self.more))));
        let groups = (0..self.groups(vms.len())).map(own_group);
        groups.chain(more).chain(vms.iter().enumerate().map(port))
    }
}

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

fn group(id: &str, rules: Vec<Value>) -> Value {
    json!({"version": 1, "groups": [
        {"id": id, "revision": 1, "rules": rules, "members": []},
    ]})
}

fn rule(direction: &str, ethertype: &str, more: Value) -> Value {
    let mut rule = json!({"direction": direction, "ethertype": ethertype});
    if let (Some(rule), Value::Object(more)) = (rule.as_object_mut(), more) {
        rule.extend(more);
    }
    rule
}

fn tcp(from: usize, to: usize, mut more: Value) -> Value {
    if let Some(more) = more.as_object_mut() {
        more.insert("protocol".to_owned(), json!("tcp"));
        more.insert("port_range_min".to_owned(), json!(from));
        more.insert("port_range_max".to_owned(), json!(to));
    }
    rule("ingress", "IPv4", more)
}

/// Ten rules: what Neutron's default group has, and what one adds for a web
/// server with its data base.
fn rules(number: usize) -> Vec<Value> {
    let id = own(number);
    vec![
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
    ]
}

/// So many rules, none like the other: all may go out, some may come in.
pub(super) fn plain_rules(count: usize) -> Vec<Value> {
    let out = ["IPv4", "IPv6"].map(|family| rule("egress", family, json!({})));
    let into = (0..).map(|n| {
        let peer = format!("203.0.{}.{}/32", 113 + n / 250, n % 250);
        tcp(1000 + n, 1000 + n, json!({"remote_ip_prefix": peer}))
    });
    out.into_iter().chain(into).take(count).collect()
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
