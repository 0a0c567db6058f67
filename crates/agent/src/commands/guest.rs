//! `l2isolate guest-stopped` and `l2isolate guest-resumed`: tell the agent what has
//! become of a guest at the source of its live migration. A hypervisor knows it
//! tens of milliseconds before the tap shows it.

use std::{path::Path, process::ExitCode};

use crate::control::{Event, Followed, Request, Subject, client};

/// Tells the agent at `socket`. Exit code 2: no port of it leaves by live migration
/// here, so nothing follows from it.
///
/// # Errors
/// The agent can't be told.
pub(crate) fn run(
    socket: &Path,
    event: Event,
    subject: Subject,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let ports: Vec<Followed> = client::ask(socket, Request::Guest { event, subject })?;
    super::print(&ports, json, |ports| {
        let line = |port: &Followed| format!("{} {}\n", port.tap, port.migration);
        let lines: String = ports.iter().map(line).collect();
        if lines.is_empty() {
            "no port of it leaves by live migration here; nothing follows from it\n".to_owned()
        } else {
            lines
        }
    })?;
    Ok(super::well(!ports.is_empty()))
}
