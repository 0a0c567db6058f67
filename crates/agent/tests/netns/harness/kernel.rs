//! What the kernel has, and what it shall have: one line for each object, made
//! from the intent by rules of the tests' own.

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path};

use l2isolate_lab::netns;
use serde_json::Value;

use super::{GATEWAY4, GATEWAY6, LINK_LOCAL, LOOPBACK4, LOOPBACK6, Port, TAP_MAC, ip};

/// Objects as lines.
pub(crate) type Lines = BTreeSet<String>;

/// Our protocol number.
const PROTOCOL: &str = "76";
/// Metric of what is announced, as usual and of who leaves by migration; and of
/// the floor behind it.
const METRIC: u64 = 5;
const LEAVING: u64 = 7;
const FLOOR: u64 = 3_372_220_415;

/// Where guests ask for metadata.
const METADATA: [&str; 2] = ["169.254.169.254/32", "fe80::a9fe:a9fe/128"];

const PROXY_ARP: &str = "ipv4.conf.TAP.proxy_arp";

/// Settings of a tap that is in use: the right value and a wrong one.
pub(crate) const SETTINGS: [(&str, &str, &str); 14] = [
    (PROXY_ARP, "1", "0"),
    ("ipv4.conf.TAP.proxy_arp_pvlan", "0", "1"),
    ("ipv4.conf.TAP.forwarding", "1", "0"),
    ("ipv4.conf.TAP.rp_filter", "0", "1"),
    ("ipv4.conf.TAP.arp_ignore", "1", "0"),
    ("ipv4.conf.TAP.accept_redirects", "0", "1"),
    ("ipv4.conf.TAP.send_redirects", "0", "1"),
    ("ipv6.conf.TAP.accept_ra", "0", "2"),
    ("ipv6.conf.TAP.accept_redirects", "0", "1"),
    ("ipv6.conf.TAP.forwarding", "1", "0"),
    ("ipv4.neigh.TAP.proxy_delay", "0", "80"),
    ("ipv6.neigh.TAP.proxy_delay", "0", "80"),
    ("ipv6.conf.TAP.disable_ipv6", "0", "1"),
    ("ipv6.conf.TAP.addr_gen_mode", "1", "0"),
];

/// The taps behind which something is switched on.
pub(crate) fn with_carrier(hv: &str) -> BTreeSet<String> {
    let up = |device: &Value| {
        let flags = device["flags"].as_array().into_iter().flatten();
        let up = flags.into_iter().any(|flag| flag == "LOWER_UP");
        up.then(|| text(device, "ifname").to_owned())
    };
    array(hv, "-j link show").iter().filter_map(up).collect()
}

/// What shall be there if exactly these ports are wired, the tap of each being
/// there; `carrier`: taps with somebody behind them.
pub(crate) fn expected(ports: &[&Port], carrier: &BTreeSet<String>) -> Lines {
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
        let (here, metric) = match document["binding"]["state"].as_str() {
            Some("incoming") => (port.seen, METRIC),
            Some("outgoing") => (carrier.contains(tap), LEAVING),
            _ => (true, METRIC),
        };
        lines.insert(format!(
            "link {tap} up mtu {} mac {TAP_MAC}",
            document["mtu"]
        ));
        lines.insert(format!("address {LINK_LOCAL}/64 dev {tap}"));
        for address in METADATA {
            lines.insert(format!("address {address} dev {tap}"));
        }
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
                lines.insert(format!("route {address} unicast dev {tap} metric {metric}"));
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
    lines.extend(settings(hv, ports));
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
    let (local, bits) = (text(entry, "local"), &entry["prefixlen"]);
    // The kernel's own, made from the hardware address: nobody wants it, but
    // where a stranger had it made it is harmless, and not ours to remove.
    let line = format!("{local}/{bits}");
    let own =
        local.starts_with("fe80:") && local != LINK_LOCAL && !METADATA.contains(&line.as_str());
    (!own).then(|| format!("address {line} dev {device}"))
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

/// Proxy ARP where it is on, and settings of taps in use that aren't right.
fn settings(hv: &str, ports: &[&Port]) -> Vec<String> {
    let in_use = ports
        .iter()
        .filter(|port| port.document["admin_state_up"] == true);
    let in_use: Vec<&str> = in_use.map(|port| port.tap()).collect();
    let read = |key: &str, tap: &str| {
        let path = key.replace('.', "/").replace("TAP", tap);
        let text = fs::read_to_string(Path::new("/proc/sys/net").join(path));
        text.ok().map(|text| text.trim().to_owned())
    };
    let look = || {
        let devices = fs::read_dir("/proc/sys/net/ipv4/conf").unwrap();
        let mut lines: Vec<String> = devices
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("tap"))
            .filter(|name| read(PROXY_ARP, name).is_some_and(|value| value != "0"))
            .map(|name| format!("proxy_arp {name}"))
            .collect();
        for (key, right, _) in SETTINGS.iter().filter(|(key, ..)| *key != PROXY_ARP) {
            let wrong = in_use
                .iter()
                .filter_map(|tap| Some((tap, read(key, tap).filter(|value| value != right)?)));
            lines.extend(wrong.map(|(tap, value)| format!("setting {key} of {tap}: {value}")));
        }
        lines
    };
    netns::inside(hv, look).unwrap()
}
