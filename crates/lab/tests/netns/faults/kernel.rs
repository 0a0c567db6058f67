//! What a hypervisor's kernel shall have and has, as one line for each object,
//! by rules of the tests' own: the agent's word counts for nothing here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use l2isolate_lab::{
    fabric::{Family, GATEWAY4, GATEWAY6, Node, Vm},
    netns,
};
use serde_json::Value;

/// Objects as lines.
pub(super) type Lines = BTreeSet<String>;

/// The agent's mark, as iproute2 writes it.
const PROTOCOL: &str = "76";
/// Behind every guest's route; zebra takes it as distance 200.
pub(super) const FLOOR: u32 = 3_372_220_415;
const TAP_MAC: &str = "02:4c:32:49:53:4f";
/// Where guests find metadata, and get their leases from; on every tap.
const METADATA: [(&str, u8); 2] = [("169.254.169.254", 32), ("fe80::a9fe:a9fe", 128)];

/// Settings of a tap in use.
const SETTINGS: [(&str, &str); 12] = [
    ("ipv4/conf/TAP/proxy_arp", "1"),
    ("ipv4/conf/TAP/forwarding", "1"),
    ("ipv4/conf/TAP/rp_filter", "0"),
    ("ipv4/conf/TAP/arp_ignore", "1"),
    ("ipv4/conf/TAP/accept_redirects", "0"),
    ("ipv4/conf/TAP/send_redirects", "0"),
    ("ipv4/neigh/TAP/proxy_delay", "0"),
    ("ipv6/conf/TAP/forwarding", "1"),
    ("ipv6/conf/TAP/accept_ra", "0"),
    ("ipv6/conf/TAP/accept_redirects", "0"),
    ("ipv6/conf/TAP/disable_ipv6", "0"),
    ("ipv6/neigh/TAP/proxy_delay", "0"),
];

/// What shall be there if exactly these VMs run on the hypervisor.
pub(super) fn expected<'a>(node: &Node, vms: impl IntoIterator<Item = &'a Vm>) -> Lines {
    let mut lines = Lines::new();
    for family in Family::ALL {
        lines.insert(format!("route {} dev lo metric 5", node.loopback(family)));
    }
    for vm in vms {
        let (tap, mac) = (&vm.tap, &vm.mac);
        lines.insert(format!("link {tap} up mtu 1500 mac {TAP_MAC}"));
        lines.insert(format!("address {GATEWAY4}/32 dev {tap}"));
        lines.insert(format!("address {GATEWAY6}/64 dev {tap}"));
        for (address, length) in METADATA {
            lines.insert(format!("address {address}/{length} dev {tap}"));
        }
        for family in Family::ALL {
            let address = vm.address(family);
            lines.insert(format!("route {address} dev {tap} metric 5"));
            lines.insert(format!("route {address} unreachable metric {FLOOR}"));
            lines.insert(format!("neighbour {address} dev {tap} {mac} PERMANENT"));
        }
        lines.extend(SETTINGS.map(|(path, value)| setting(path, tap, value)));
    }
    lines
}

/// What is there: all that bears the agent's mark, every other route to an
/// address of these VMs, and all of the taps.
pub(super) fn observed<'a>(
    namespace: &str,
    vms: impl IntoIterator<Item = &'a Vm>,
) -> l2isolate_lab::Result<Lines> {
    let taps: BTreeMap<&str, &Vm> = vms.into_iter().map(|vm| (vm.tap.as_str(), vm)).collect();
    let guests: BTreeSet<String> = taps
        .values()
        .flat_map(|vm| Family::ALL.map(|family| vm.address(family).to_string()))
        .collect();
    let mut lines = Lines::new();
    for family in Family::ALL {
        let routes = list(namespace, &[family.flag(), "route", "show", "table", "all"])?;
        lines.extend(routes.iter().filter_map(|entry| route(entry, &guests)));
    }
    let neighbours = list(namespace, &["neigh", "show"])?;
    lines.extend(neighbours.iter().filter_map(neighbour));
    for device in list(namespace, &["addr", "show"])? {
        let name = text(&device, "ifname");
        if !name.starts_with("tap") {
            continue;
        }
        let addresses = device["addr_info"].as_array().into_iter().flatten();
        lines.extend(addresses.filter_map(|entry| address(name, entry)));
        let flags = device["flags"].as_array();
        let up = flags.is_some_and(|all| all.iter().any(|flag| flag == "UP"));
        lines.insert(format!(
            "link {name} {} mtu {} mac {}",
            if up { "up" } else { "down" },
            device["mtu"],
            text(&device, "address")
        ));
    }
    let read = || {
        let mut lines = Vec::new();
        for tap in taps.keys() {
            for (path, _) in SETTINGS {
                let file = Path::new("/proc/sys/net").join(path.replace("TAP", tap));
                if let Ok(value) = fs::read_to_string(file) {
                    lines.push(setting(path, tap, value.trim()));
                }
            }
        }
        lines
    };
    lines.extend(netns::inside(namespace, read)?);
    Ok(lines)
}

fn setting(path: &str, tap: &str, value: &str) -> String {
    format!("setting {} {value}", path.replace("TAP", tap))
}

fn list(namespace: &str, arguments: &[&str]) -> l2isolate_lab::Result<Vec<Value>> {
    let arguments = [&["-j"], arguments].concat();
    let listing = netns::ip(namespace, &arguments)?;
    if listing.trim().is_empty() {
        return Ok(Vec::new());
    }
    Ok(serde_json::from_str(&listing).unwrap())
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn route(route: &Value, guests: &BTreeSet<String>) -> Option<String> {
    let (prefix, ours) = (text(route, "dst"), text(route, "protocol") == PROTOCOL);
    if !ours && !guests.contains(prefix) {
        return None;
    }
    let mut line = format!("route {prefix}");
    match text(route, "type") {
        "" | "unicast" => line += &format!(" dev {}", text(route, "dev")),
        kind => line += &format!(" {kind}"),
    }
    line += &format!(" metric {}", route["metric"]);
    let marks = [
        ("gateway", " via"),
        ("table", " table"),
        ("flags", " flags"),
    ];
    for (field, word) in marks {
        match &route[field] {
            Value::String(value) => line += &format!("{word} {value}"),
            Value::Array(flags) if !flags.is_empty() => line += &format!("{word} {flags:?}"),
            _ => {}
        }
    }
    if !ours {
        line += &format!(" protocol {}", text(route, "protocol"));
    }
    Some(line)
}

fn neighbour(entry: &Value) -> Option<String> {
    let device = text(entry, "dev");
    let permanent = entry["state"][0] == "PERMANENT" && device.starts_with("tap");
    if !permanent && text(entry, "protocol") != PROTOCOL {
        return None;
    }
    Some(format!(
        "neighbour {} dev {device} {} {}",
        text(entry, "dst"),
        text(entry, "lladdr"),
        entry["state"][0].as_str().unwrap_or_default()
    ))
}

fn address(device: &str, entry: &Value) -> Option<String> {
    let local = text(entry, "local");
    // One that the kernel made from the hardware address, where a stranger had
    // it made, is harmless and not the agent's to remove.
    let ours = local == GATEWAY6.to_string() || METADATA.iter().any(|(ip, _)| *ip == local);
    let own = local.starts_with("fe80:") && !ours;
    (!own).then(|| format!("address {local}/{} dev {device}", entry["prefixlen"]))
}
