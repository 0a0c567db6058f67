//! `bench neutron`: a real neutron-server with real agents, and with many that
//! are played.
//!
//! * [`host`]: one hypervisor with its agent: ports, a restart, rules.
//! * [`baseline`]: the same hypervisor with Neutron's linuxbridge agent.
//! * [`boot`]: what many agents hear of one machine that boots.
//! * [`storm`]: all agents ask for everything at once, after the broker's end.
//! * [`restart`]: the servers end, and come back.
//! * [`crowd`]: a rule for all of them, and many ports at once.
//!
//! Server, database, broker and agent share the machine, as in the figures for
//! the linuxbridge agent that these are compared with.

mod baseline;
mod boot;
mod crowd;
mod firehose;
mod host;
mod ports;
mod restart;
mod storm;

use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Error, Result,
    fabric::Fabric,
    lab::{Guard, Plan, progress, unique_name},
    neutron::{Options, Release, Rig},
    process,
    topology::{Mix, Shape, Topology},
};

/// One of the things that can be measured by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// One hypervisor: all figures up to `restart_left_active`.
    Host,
    /// What agents hear: `messages_per_boot`.
    Boot,
    /// Many agents at once: the storms.
    Storm,
}

/// What is measured, and how much of it.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// Which parts; none: all.
    pub parts: Vec<Part>,
    /// Ports of the one hypervisor.
    pub ports: usize,
    /// Neutron's linuxbridge agent as well, with as many.
    pub baseline: bool,
    /// Agents that listen while a machine boots.
    pub listeners: usize,
    /// Agents of the storm, with 20 ports each.
    pub agents: usize,
    /// Ports that are made at once then.
    pub more_ports: usize,
}

impl Sizes {
    fn has(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }
}

/// What is printed; what wasn't measured is absent.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// One hypervisor.
    #[serde(flatten)]
    pub host: Option<host::Figures>,
    /// Neutron's linuxbridge agent in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<baseline::Baseline>,
    /// What agents hear of a machine that boots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_boot: Option<boot::Messages>,
    /// Many agents.
    #[serde(flatten)]
    pub storms: Option<storm::Storms>,
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
pub fn run(agent: &Path, release: Release, sizes: &Sizes) -> Result<Report> {
    let mut report = Report::default();
    if sizes.has(Part::Host) {
        let (topology, planned) = one_hypervisor(sizes.ports);
        report.host = Some(host::run(agent, release, topology, &planned)?);
    }
    if sizes.baseline {
        let (_, planned) = one_hypervisor(sizes.ports);
        report.baseline = Some(baseline::run(&planned)?);
    }
    if !sizes.has(Part::Boot) && !sizes.has(Part::Storm) {
        return Ok(report);
    }
    let lab = without_agents(nothing())?;
    let rig = Rig::up(&lab, Options::new(release)?)?;
    let cloud = Cloud::make(&rig)?;
    if sizes.has(Part::Boot) {
        let messages = boot::run(&cloud, sizes.listeners)?;
        progress(&format!("  {messages:?}"));
        report.messages_per_boot = Some(messages);
    }
    if sizes.has(Part::Storm) {
        report.storms = Some(storm::run(&cloud, sizes.agents, sizes.more_ports)?);
    }
    rig.down()?;
    lab.down()?;
    Ok(report)
}

/// A lab of that topology for Neutron to be run in; agents are started by hand.
fn without_agents(topology: Topology) -> Result<Guard> {
    Guard::up(Plan {
        name: unique_name("bench"),
        topology,
        agent: None,
        owned: true,
    })
}

/// A small fabric, and the same with so many VMs on the last of its hypervisors:
/// these are Neutron's to make.
fn one_hypervisor(vms: usize) -> (Topology, Fabric) {
    let shape = Shape {
        spines: 1,
        racks: 2,
        tors: 2,
        hypervisors: 1,
        vms: 0,
    };
    let topology = Topology::regular(shape, Mix::Bird);
    let mut full = topology.clone();
    if let Some(last) = full.nodes.last_mut() {
        last.vms = vms;
    }
    (topology, Fabric::new(&full))
}

/// No fabric: a lab for the rest.
fn nothing() -> Topology {
    Topology {
        nodes: Vec::new(),
        links: Vec::new(),
        options: crate::topology::Options::default(),
    }
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
    times(pid, 2)
}

/// The same with that of its children that have ended.
fn cpu_with_children(pid: u32) -> f64 {
    times(pid, 4)
}

fn times(pid: u32, count: usize) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the name and may hold anything; 14 to
    // 17 are user and system time, its own and its children's.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times = fields.split_ascii_whitespace().skip(11).take(count);
    times
        .filter_map(|time| time.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}
