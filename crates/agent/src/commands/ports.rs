//! `l2isolate ports`: what has become of each port?

use std::{fmt::Write, path::Path, process::ExitCode};

use super::{print, status::words, well};
use crate::{
    control::{Request, client},
    report::{PortReport, PortState},
    table::Table,
};

/// Asks the agent.
///
/// # Errors
/// No agent answers.
pub(crate) fn run(socket: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let ports: Vec<PortReport> = client::ask(socket, Request::Ports)?;
    print(&ports, json, |ports| text(ports))?;
    let bad = |port: &PortReport| !port.problems.is_empty() || port.state == PortState::Pending;
    Ok(well(!ports.iter().any(bad)))
}

/// What has become of it, and where it is in a live migration if it is in one.
fn state(port: &PortReport) -> String {
    let state = words(port.state);
    match port.migration.as_deref() {
        None | Some("active" | "gone") => state.to_owned(),
        Some(migration) => format!("{state}, {migration}"),
    }
}

fn text(ports: &[PortReport]) -> String {
    let mut table = Table::new(["PORT", "STATE", "TAP", "MAC", "ADDRESSES", "HOST NAME"]);
    for port in ports {
        let addresses: Vec<String> = port.addresses.iter().map(ToString::to_string).collect();
        table.row([
            port.id.to_string(),
            state(port),
            port.tap.map_or_else(String::new, |tap| tap.to_string()),
            port.mac.map_or_else(String::new, |mac| mac.to_string()),
            addresses.join(" "),
            port.hostname.clone().unwrap_or_default(),
        ]);
    }
    let mut out = table.to_string();
    for port in ports {
        for problem in &port.problems {
            let _ = writeln!(out, "problem: {problem}");
        }
        for difference in &port.differences {
            let _ = writeln!(out, "port {}: {}", port.id, super::diff::line(difference));
        }
    }
    out
}
