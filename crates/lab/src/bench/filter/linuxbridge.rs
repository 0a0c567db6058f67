//! The same host as Neutron's linuxbridge agent makes it: taps and uplink in
//! one bridge, whose packets iptables sees.
//!
//! What can break it: `linuxbridge.py`, which drives the agent's own code, and
//! the Debian packages that it needs.

use std::{fmt::Write as _, path::PathBuf, process::Stdio};

use serde_json::{Value, json};

use super::{cloud, host::Host};
use crate::{Error, Result, netns};

/// As the agent names it, after the network.
const BRIDGE: &str = "brq44444444-00";
const SCRIPT: &str = include_str!("linuxbridge.py");
/// Debian's modules are for Debian's interpreter.
const PYTHON: &str = "/usr/bin/python3";

/// Puts taps and uplink into a bridge, and lets the agent's code write rules
/// for all ports.
pub(super) fn set_up(host: &Host, rules: usize) -> Result<()> {
    let mut lines = format!("link add name {BRIDGE} type bridge\nlink set dev {BRIDGE} up\n");
    for vm in &host.vms {
        let _ = writeln!(lines, "link set dev {} master {BRIDGE}", vm.tap);
    }
    let _ = writeln!(lines, "link set dev uplink master {BRIDGE}");
    netns::batch(Some(&host.namespace), &lines)?;
    let seen =
        ["iptables", "ip6tables", "arptables"].map(|what| format!("bridge.bridge-nf-call-{what}"));
    netns::inside(&host.namespace, || {
        seen.iter().try_for_each(|name| {
            let path = PathBuf::from("/proc/sys/net").join(name.replacen('.', "/", 1));
            std::fs::write(&path, "1").map_err(Error::file(&path))
        })
    })??;
    write_rules(host, &document(host, rules))
}

/// What the agent's code asks the server for.
fn document(host: &Host, rules: usize) -> Value {
    let ports: Vec<Value> = host
        .vms
        .iter()
        .map(|vm| json!({"device": vm.tap, "mac": vm.mac, "addresses": [vm.address4, vm.address6]}))
        .collect();
    let rules: Vec<Value> = cloud::plain_rules(rules)
        .into_iter()
        .map(|mut rule| {
            // As the agent gets it from the server.
            if let Some(fields) = rule.as_object_mut()
                && let Some(prefix) = fields.remove("remote_ip_prefix")
            {
                fields.insert("source_ip_prefix".to_owned(), prefix);
            }
            rule
        })
        .collect();
    json!({"ports": ports, "rules": rules})
}

fn write_rules(host: &Host, document: &Value) -> Result<()> {
    let file = host.files.intent().with_file_name("linuxbridge.json");
    std::fs::write(&file, document.to_string()).map_err(Error::file(&file))?;
    let input = std::fs::File::open(&file).map_err(Error::file(&file))?;
    let output = netns::command(&host.namespace, PYTHON)
        .args(["-c", SCRIPT])
        .stdin(input)
        .stdout(Stdio::null())
        .output()
        .map_err(Error::io("starting linuxbridge.py"))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    let last = reason.trim().lines().last().unwrap_or_default();
    Err(Error::Command {
        command: "linuxbridge.py".to_owned(),
        reason: format!("{last} (it needs what scripts/packages-bench lists)"),
    })
}
