//! `bench neutron`: a real neutron-server with real agents, and with many that
//! are played.
//!
//! * [`host`]: one hypervisor with its agent: ports, a restart, rules.
//! * [`boot`]: what many agents hear of one machine that boots.
//! * [`storm`]: all agents ask for everything at once, after the broker's end.
//! * [`crowd`]: a rule for all of them, and many ports at once.
//!
//! Server, database, broker and agent share the machine, as in the figures for
//! the linuxbridge agent that these are compared with.

mod boot;
mod crowd;
mod firehose;
mod host;
mod storm;

use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Error, Result,
    lab::{Guard, Plan, progress, unique_name},
    neutron::{Options, Release, Rig},
    process,
    topology::Topology,
};

/// What is measured, and how much of it.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Ports of the one hypervisor.
    pub ports: usize,
    /// Agents that listen while a machine boots.
    pub listeners: usize,
    /// Agents of the storm, with 20 ports each.
    pub agents: usize,
    /// Ports that are made at once then.
    pub more_ports: usize,
}

/// What is printed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// From the last tap's appearance until all ports are wired and their
    /// groups are in the firewall.
    pub wired_s: f64,
    /// From there until all ports are ACTIVE.
    pub all_active_s: f64,
    /// The agent's largest resident size.
    pub agent_rss_mib: f64,
    /// Its processor time from the taps until all ports are ACTIVE.
    pub agent_cpu_s: f64,
    /// From the POST of a rule until the kernel has it.
    pub rule_ms: Median,
    /// From the start of the agent's program until it is in sync.
    pub restart_s: f64,
    /// Ports that left ACTIVE meanwhile.
    pub restart_left_active: usize,
    /// What agents hear of a machine that boots.
    pub messages_per_boot: boot::Messages,
    /// All agents at once.
    pub sync_storm: storm::Storm,
    /// A rule more in a group that they all use.
    pub rule_storm: crowd::Rule,
    /// Many ports at once.
    pub port_storm: crowd::Ports,
}

/// A median in milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Median {
    /// Median.
    pub p50: Option<f64>,
}

/// Measures.
///
/// # Errors
/// A Neutron can't be started, or what is measured doesn't happen at all.
pub fn run(agent: &Path, release: Release, sizes: Sizes) -> Result<Report> {
    let mut report = Report::default();
    host::run(agent, release, sizes.ports, &mut report)?;
    let lab = Guard::up(Plan {
        name: unique_name("bench"),
        topology: Topology {
            nodes: Vec::new(),
            links: Vec::new(),
            options: crate::topology::Options::default(),
        },
        agent: None,
        owned: true,
    })?;
    let rig = Rig::up(&lab, Options::new(release)?)?;
    let cloud = Cloud::make(&rig)?;
    report.messages_per_boot = boot::run(&cloud, sizes.listeners)?;
    progress(&format!("  {:?}", report.messages_per_boot));
    report.port_storm.ports = sizes.more_ports;
    storm::run(&cloud, sizes.agents, &mut report)?;
    rig.down()?;
    lab.down()?;
    Ok(report)
}

/// A Neutron with a network.
struct Cloud<'a> {
    rig: &'a Rig,
    network: String,
    subnet: String,
}

impl<'a> Cloud<'a> {
    fn make(rig: &'a Rig) -> Result<Self> {
        let mut cloud = Self {
            rig,
            network: String::new(),
            subnet: String::new(),
        };
        cloud.network = cloud.create("network", json!({"name": "bench"}))?;
        let subnet = json!({
            "network_id": cloud.network, "ip_version": 4, "cidr": "10.252.0.0/14",
            "gateway_ip": crate::fabric::GATEWAY4,
        });
        cloud.subnet = cloud.create("subnet", subnet)?;
        Ok(cloud)
    }

    /// Asks the API.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = (!body.is_null()).then_some(body);
        let answer = self.rig.ask(method, path, body)?;
        if answer.status < 300 {
            return Ok(answer.body);
        }
        Err(Error::Program(format!("{method} {path}: {answer:?}")))
    }

    /// Makes something; returns its id.
    fn create(&self, kind: &str, fields: Value) -> Result<String> {
        let path = format!("{}s", kind.replace('_', "-"));
        let answer = self.ask("POST", &path, &json!({ kind: fields }))?;
        let id = answer.pointer(&format!("/{kind}/id"));
        let id = id.and_then(Value::as_str);
        id.map(ToOwned::to_owned)
            .ok_or_else(|| Error::Program(format!("POST {path}: no id")))
    }

    /// A group with ten rules beside the two that it is made with.
    fn group(&self) -> Result<String> {
        let group = self.create("security_group", json!({"name": "bench"}))?;
        for port in 8001..=8010 {
            self.rule(&group, port)?;
        }
        Ok(group)
    }

    fn rule(&self, group: &str, port: u16) -> Result<String> {
        self.create(
            "security_group_rule",
            json!({
                "security_group_id": group, "direction": "ingress", "ethertype": "IPv4",
                "protocol": "tcp", "port_range_min": port, "port_range_max": port,
            }),
        )
    }

    /// What the database counts.
    fn count(&self, statement: &str) -> Result<usize> {
        let text = self.rig.sql(statement)?;
        text.trim()
            .parse()
            .map_err(|_| Error::Program(format!("{statement}: {text}")))
    }

    /// Processor time of Neutron's own processes so far, in seconds.
    fn server_cpu(&self) -> Result<f64> {
        let namespace = self.rig.namespace().to_owned();
        let all = process::in_namespaces(&[namespace])?;
        let neutron = all.into_values().flatten().filter(|process| {
            let line = std::fs::read(format!("/proc/{}/cmdline", process.pid));
            String::from_utf8_lossy(&line.unwrap_or_default()).contains("neutron")
                && !comm(process.pid).starts_with("mariadbd")
                && !comm(process.pid).starts_with("beam")
        });
        Ok(neutron.map(|process| cpu(process.pid)).sum())
    }
}

fn comm(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

/// Processor time of all threads of a process, in seconds; 0 if it has ended.
/// Linux counts it in hundredths (`USER_HZ`).
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the name and may hold anything; 14 and 15 are wanted.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times = fields.split_ascii_whitespace().skip(11).take(2);
    times
        .filter_map(|time| time.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}
