//! Tables and drawings for people.

use std::fmt::Write as _;

use crate::{
    fabric::{Fabric, Node},
    lab::{AgentStatus, NodeStatus},
    topology::Role,
};

/// Rows in columns, as wide as their widest cell; two spaces between.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(column) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// The table of `l2isolate-lab status`.
#[must_use]
pub fn status(nodes: &[NodeStatus]) -> String {
    let head = ["NODE", "ROLE", "ASN", "DAEMON", "SESSIONS", "AGENT", ""];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for node in nodes {
        let mut notes = Vec::new();
        if !node.stopped.is_empty() {
            notes.push(format!("stopped: {}", node.stopped.join(", ")));
        } else if let Some(problem) = &node.problem {
            notes.push(problem.clone());
        } else if !node.down.is_empty() {
            notes.push(format!("no session with {}", node.down.join(", ")));
        }
        let agent = match &node.agent {
            None => "",
            Some(AgentStatus::Stopped) => "stopped",
            Some(agent @ AgentStatus::Answers(_)) if agent.in_sync() => "in sync",
            Some(AgentStatus::Answers(_)) => "differs",
            Some(AgentStatus::Silent(reason)) => {
                notes.push(reason.clone());
                "silent"
            }
        };
        rows.push(vec![
            node.name.clone(),
            node.role.to_string(),
            node.asn.to_string(),
            node.daemon.clone(),
            format!("{}/{}", node.established, node.expected),
            agent.to_owned(),
            notes.join("; "),
        ]);
    }
    table(&rows)
}

/// A drawing of the fabric: spines, and below them each rack with its
/// hypervisors and VMs. A rack is what hangs on the same ToRs.
#[must_use]
pub fn fabric(fabric: &Fabric) -> String {
    let title = |node: &Node| format!("{} ({}, AS {})", node.name, node.flavour, node.asn);
    let mut out = String::new();
    let spines: Vec<String> = fabric.role(Role::Spine).map(title).collect();
    let _ = writeln!(out, "  {}", spines.join("   "));
    let full = fabric.role(Role::Tor).all(|tor| {
        let up = tor.interfaces.iter().filter(|i| i.peer_role == Role::Spine);
        up.count() == spines.len()
    });
    if full {
        out.push_str("   │  every spine is linked to every ToR\n");
    }
    let mut racks: Vec<(Vec<&str>, Vec<&Node>)> = Vec::new();
    for hypervisor in fabric.role(Role::Hypervisor) {
        let tors: Vec<&str> = hypervisor
            .interfaces
            .iter()
            .map(|i| i.peer.as_str())
            .collect();
        match racks.iter_mut().find(|(known, _)| *known == tors) {
            Some((_, hypervisors)) => hypervisors.push(hypervisor),
            None => racks.push((tors, vec![hypervisor])),
        }
    }
    for (tors, hypervisors) in racks {
        let titles: Vec<String> = tors
            .iter()
            .filter_map(|name| fabric.node(name).ok())
            .map(title)
            .collect();
        let _ = writeln!(out, "   ├─ {}", titles.join("   "));
        for (index, hypervisor) in hypervisors.iter().enumerate() {
            let last = index + 1 == hypervisors.len();
            let _ = writeln!(
                out,
                "   │    {} {}, linked to {}",
                if last { "└─" } else { "├─" },
                title(hypervisor),
                tors.join(" and "),
            );
            for vm in fabric.vms_on(&hypervisor.name) {
                let _ = writeln!(
                    out,
                    "   │    {}     {}  {}  {}",
                    if last { " " } else { "│" },
                    vm.name,
                    vm.address4,
                    vm.address6,
                );
            }
        }
    }
    out
}
