//! What operators see of the agent in Neutron: `configurations` of
//! `openstack network agent show`.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Map, Value, json};

use crate::{config::Config, report::StatusReport};

/// Programs that take routes up from the kernel and announce them.
const DAEMONS: [&str; 4] = ["bird", "bgpd", "zebra", "gobgpd"];

/// The figures; Neutron's driver reads `underlay_address`, the rest is for people.
pub(crate) fn of(config: &Config, status: &StatusReport) -> Map<String, Value> {
    let ports: usize = status.ports.values().sum();
    let daemons = routing_daemons();
    let figures = json!({
        "version": status.version,
        "started": status.started,
        "in_sync": status.in_sync,
        "ports": ports,
        "ports_by_state": status.ports,
        "prefixes_announced": status.announced,
        "differences": status.differences,
        "problems": status.problems.len(),
        "taps_without_intent": status.stray_taps.len(),
        "firewall": status.firewall.is_some(),
        "routing_daemons": daemons,
        "underlay_address": config.underlay(),
    });
    match figures {
        Value::Object(mut figures) => {
            figures.retain(|_, value| !value.is_null());
            figures
        }
        _ => Map::new(),
    }
}

/// The routing daemons that run in this network namespace.
fn routing_daemons() -> BTreeSet<&'static str> {
    let namespace = |process: &Path| fs::read_link(process.join("ns/net")).ok();
    let ours = namespace(Path::new("/proc/self"));
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = processes.filter_map(|process| {
        let path = process.path();
        let name = fs::read_to_string(path.join("comm")).ok()?;
        let daemon = DAEMONS
            .into_iter()
            .find(|daemon| name.trim_end() == *daemon)?;
        (namespace(&path) == ours).then_some(daemon)
    });
    found.collect()
}
