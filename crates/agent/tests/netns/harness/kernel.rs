//! What the kernel has, and what it shall have: one line for each object, made
//! from the intent by rules of the tests' own.

use std::{collections::BTreeSet, fs, net::IpAddr};

use l2isolate_lab::netns;
use serde_json::Value;

use super::{GATEWAY4, GATEWAY6, LINK_LOCAL, LOOPBACK4, LOOPBACK6, Port, TAP_MAC, ip};

/// Objects as lines.
pub(crate) type Lines = BTreeSet<String>;

/// Our protocol number.
const PROTOCOL: &str = "76";
/// Metric of what is announced, and of the floor behind it.
const METRIC: u64 = 5;
const FLOOR: u64 = 3_372_220_415;

/// What shall be there if exactly these ports are wired, the tap of each being
/// there.
pub(crate) fn expected(ports: &[&Port]) -> Lines {
    let mut lines = Lines::new();
    for loopback in [LOOPBACK4, LOOPBACK6] {
        lines.insert(format!("route {loopback} unicast dev lo metric {METRIC}"));
    }
    for port in ports {
        let (tap, mac, document) = (port.tap(), port.mac(), &port.document);
        if document["admin_state_up"] == false {
            lines.insert(format!("link {tap} down"));
            continue;
        }
        let here = document["binding"]["state"] != "incoming";
        lines.insert(format!(
            "link {tap} up mtu {} mac {TAP_MAC}",
            document["mtu"]
        ));
        lines.insert(format!("address {LINK_LOCAL}/64 dev {tap}"));
        if here {
            lines.insert(format!("proxy_arp {tap}"));
        }
        for address in port.addresses() {
            let (gateway, bits) = match address {
                IpAddr::V4(_) => (GATEWAY4, 32),
                IpAddr::V6(_) => (GATEWAY6, 128),
            };
            lines.insert(format!("address {gateway}/{bits} dev {tap}"));
            lines.insert(format!("neighbour {address} dev {tap} {mac} PERMANENT"));
            if here {
                lines.insert(format!("route {address} unicast dev {tap} metric {METRIC}"));
                lines.insert(format!("route {address} unreachable metric {FLOOR}"));
            }
        }
    }
    lines
}

/// What is there: everything that is marked as the agent's, every address on a
/// tap, and the links of these ports.
pub(crate) fn observed(hv: &str, ports: &[&Port]) -> Lines {
    let mut lines = Lines::new();
    for family in ["-4", "-6"] {
        lines.extend(
            array(hv, &format!("{family} -j route show table all"))
                .iter()
                .filter_map(route),
        );
    }
    lines.extend(array(hv, "-j neigh show").iter().filter_map(neighbour));
    let taps: BTreeSet<&str> = ports.iter().map(|port| port.tap()).collect();
    for device in array(hv, "-j addr show") {
        let name = text(&device, "ifname").to_owned();
        if name.starts_with("tap") {
            let addresses = device["addr_info"].as_array().into_iter().flatten();
            lines.extend(addresses.filter_map(|entry| address(&name, entry)));
        }
        if taps.contains(name.as_str()) {
            lines.insert(link(&name, &device));
        }
    }
    lines.extend(proxies(hv));
    lines
}

/// The JSON list that a command of `ip` prints.
pub(crate) fn array(namespace: &str, arguments: &str) -> Vec<Value> {
    let listing = ip(namespace, arguments);
    if listing.trim().is_empty() {
        return Vec::new();
    }
    serde_json::from_str(&listing).unwrap()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn route(route: &Value) -> Option<String> {
    if text(route, "protocol") != PROTOCOL {
        return None;
    }
    let (prefix, metric) = (text(route, "dst"), &route["metric"]);
    let table = match text(route, "table") {
        "" => String::new(),
        other => format!(" table {other}"),
    };
    Some(match text(route, "type") {
        "" | "unicast" => format!(
            "route {prefix} unicast dev {} metric {metric}{table}",
            text(route, "dev")
        ),
        kind => format!("route {prefix} {kind} metric {metric}{table}"),
    })
}

fn neighbour(entry: &Value) -> Option<String> {
    let (address, device) = (text(entry, "dst"), text(entry, "dev"));
    let permanent = entry["state"][0] == "PERMANENT" && device.starts_with("tap");
    if !permanent && text(entry, "protocol") != PROTOCOL {
        return None;
    }
    let (mac, state) = (
        text(entry, "lladdr"),
        entry["state"][0].as_str().unwrap_or_default(),
    );
    Some(format!("neighbour {address} dev {device} {mac} {state}"))
}

fn address(device: &str, entry: &Value) -> Option<String> {
    let local = text(entry, "local");
    // The kernel's own, made from the hardware address.
    let own = local.starts_with("fe80:") && local != LINK_LOCAL;
    (!own).then(|| format!("address {local}/{} dev {device}", entry["prefixlen"]))
}

fn link(name: &str, device: &Value) -> String {
    let up = device["flags"]
        .as_array()
        .is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
    if up {
        format!(
            "link {name} up mtu {} mac {}",
            device["mtu"],
            text(device, "address")
        )
    } else {
        format!("link {name} down")
    }
}

fn proxies(hv: &str) -> Vec<String> {
    netns::inside(hv, || {
        let devices = fs::read_dir("/proc/sys/net/ipv4/conf").unwrap();
        let names = devices.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names
            .filter(|name| name.starts_with("tap"))
            .filter(|name| {
                let path = format!("/proc/sys/net/ipv4/conf/{name}/proxy_arp");
                fs::read_to_string(path).is_ok_and(|value| value.trim() != "0")
            })
            .map(|name| format!("proxy_arp {name}"))
            .collect()
    })
    .unwrap()
}
