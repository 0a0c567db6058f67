//! `l2isolate release`: let go the deletions that are held.

use std::{path::Path, process::ExitCode};

use super::print;
use crate::control::{Request, client};

/// Tells the agent.
///
/// # Errors
/// No agent answers.
pub(crate) fn run(socket: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let ports: usize = client::ask(socket, Request::Release)?;
    print(&ports, json, |ports| match ports {
        0 => "no deletions are held\n".to_owned(),
        n => format!("the deletions of {n} ports are let go\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}
