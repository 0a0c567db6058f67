//! `l2isolate show-nft`: the firewall in the words of the program `nft`.

use std::{path::Path, process::ExitCode};

use l2isolate_model::PortId;

use super::print;
use crate::control::{Request, client};

/// Asks the agent.
///
/// # Errors
/// No agent answers, or it has no such port.
pub(crate) fn run(socket: &Path, port: Option<PortId>, json: bool) -> anyhow::Result<ExitCode> {
    let text: String = client::ask(socket, Request::ShowNft { port })?;
    print(&text, json, String::clone)?;
    Ok(ExitCode::SUCCESS)
}
