//! Tables and drawings for people.

use std::fmt::Write as _;

use crate::lab::{AgentStatus, NodeStatus};

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
            Some(AgentStatus::Answers(_)) => "answers",
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
